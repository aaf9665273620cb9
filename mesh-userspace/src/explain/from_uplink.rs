//! What the world sends: `hook/from_uplink.rs` of the programs.

use mesh_common::family::Family;
use mesh_common::parse::{Form, protocol};
use mesh_common::schema::{address_flag, deliver, frontend_flag, origin};
use mesh_common::verdict::DropReason;

use super::choose::{Call, Entry, WayBack};
use super::tables::Tables;
use super::walk::{End, Going, Walk};

impl<F: Family, T: Tables<F>> Walk<'_, F, T> {
    pub fn from_uplink(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<Going<F::Addr>, End> {
        let Some(config) = self.config() else { return Err(End::Pass) };
        let packet = self.packet();
        if let Some(flow) = self.lookup(origin::WIRE)? {
            return Ok(Going { flow, reply: None, gateway: packet.src, sender: 0, is_new: false });
        }
        let is_for_tunnel = packet.protocol == protocol::UDP && packet.dport == config.data_port;
        match self.address(packet.dst) {
            Some(address) if address.flags & address_flag::OWN != 0 => {}
            _ if self.endpoint(packet.dst).is_some() || self.vip(packet.dst).is_some() => {
                return Err(End::Drop(DropReason::FromOutside));
            }
            Some(address) if address.flags & address_flag::TUNNEL != 0 && is_for_tunnel => {
                let is_peer = self.address(packet.src).is_some_and(|it| it.flags & address_flag::TUNNEL != 0);
                return Err(if is_peer { End::Pass } else { End::Drop(DropReason::DataPort) });
            }
            _ => return Err(End::Pass),
        }
        if packet.form == Form::Fragment && packet.may_have_flow() {
            return Err(End::Wait);
        }
        if is_for_tunnel {
            self.trace.note("the data port", "frames of peers are mesh0's");
            return Err(End::Pass);
        }
        if packet.form != Form::Ports {
            return Err(End::Pass);
        }
        let Some(frontend) = self.published(packet.dst, packet.dport, packet.protocol) else { return Err(End::Pass) };
        if frontend.flags & frontend_flag::NOT_TAKEN != 0 {
            return Err(End::Pass);
        }
        let call = Call {
            entry: Entry::Wire,
            from: origin::WIRE,
            target_port: frontend.target_port,
            node: config.node,
            back: WayBack { deliver: deliver::UPLINK, ifindex, node: 0, vni: 0, mac },
            gateway: F::Addr::default(),
            sender: 0,
        };
        let mut going = self.enter(&frontend, &call)?;
        going.gateway = packet.src;
        Ok(going)
    }
}
