//! What this node's stack sends into the overlay: `hook/from_host.rs` of the programs.

use mesh_common::family::Family;
use mesh_common::parse::Form;
use mesh_common::schema::{address_flag, endpoint, origin};
use mesh_common::verdict::DropReason;

use super::Way;
use super::choose::{Call, Entry, WayBack};
use super::tables::Tables;
use super::walk::{End, Going, Walk};

impl<F: Family, T: Tables<F>> Walk<'_, F, T> {
    pub fn from_host(&mut self) -> Result<Going<F::Addr>, End> {
        let Some(config) = self.config() else { return Err(End::Ignore) };
        let packet = self.packet();
        if F::is_multicast(packet.dst) {
            return Err(End::Ignore);
        }
        let is_own = self.address(packet.src).is_some_and(|it| it.flags & address_flag::OWN != 0)
            || self.endpoint(packet.src).is_some_and(|source| source.kind == endpoint::GATEWAY);
        if !is_own {
            return Err(End::Drop(DropReason::FromOutside));
        }
        let going = |flow, is_new| Going { flow, reply: None, gateway: packet.src, sender: 0, is_new };
        if let Some(flow) = self.lookup(origin::HOST)? {
            return Ok(going(flow, false));
        }
        if let Some(target) = self.endpoint(packet.dst) {
            if target.kind != endpoint::TASK {
                return Err(End::Drop(DropReason::NoEndpoint));
            }
            if target.ifindex != 0 {
                if let Some(going) =
                    self.direct_flow(&target, origin::HOST, &WayBack::to_host(&config), packet.src, 0)?
                {
                    return Ok(going);
                }
                return Err(End::Sent(Way::Task { ifindex: target.ifindex }));
            }
            let flow = self.to_owner(target.number, target.node, Entry::Host, origin::HOST, 0);
            return Ok(going(flow, true));
        }
        let Some(frontend) = self.vip(packet.dst) else { return Err(End::Refuse(DropReason::NoEndpoint)) };
        if packet.form == Form::EchoRequest && frontend.turns_len != 0 {
            return Err(End::Sent(Way::Answer));
        }
        match packet.form {
            Form::Fragment => return Err(End::Drop(DropReason::Fragment)),
            Form::EchoReply => return Err(End::Drop(DropReason::IcmpError)),
            _ => {}
        }
        let call = Call {
            entry: Entry::Host,
            from: origin::HOST,
            target_port: 0,
            node: config.node,
            back: WayBack::to_host(&config),
            gateway: F::Addr::default(),
            sender: 0,
        };
        let mut going = self.enter(&frontend, &call)?;
        going.gateway = packet.src;
        Ok(going)
    }
}
