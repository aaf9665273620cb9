//! What a task sends: `hook/from_task.rs` and `stage/outside.rs` of the programs.

use mesh_common::family::Family;
use mesh_common::flow::note;
use mesh_common::parse::{Form, protocol};
use mesh_common::schema::{
    Config, Endpoint, Flow, FlowKey, address_flag, deliver, endpoint, endpoint_flag, flow_flag, frontend_flag, origin,
    rewrite,
};
use mesh_common::snat;
use mesh_common::verdict::DropReason;

use super::Way;
use super::choose::{Call, Entry, WayBack, blank};
use super::fields::{same_network, uplink_addr};
use super::tables::Tables;
use super::walk::{End, Going, Walk};

impl<F: Family, T: Tables<F>> Walk<'_, F, T> {
    pub fn from_task(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<Going<F::Addr>, End> {
        let Some(config) = self.config() else { return Err(End::Drop(DropReason::NotConfigured)) };
        let packet = self.packet();
        if let Some(flow) = self.lookup(ifindex)? {
            let mut going = Going { flow, reply: None, gateway: packet.src, sender: 0, is_new: false };
            if flow.flags & (flow_flag::HAIRPIN | flow_flag::FROM_CLIENT) != 0 {
                let source = self.sender(ifindex, mac)?;
                (going.gateway, going.sender) = (source.gateway, source.number);
            }
            return Ok(going);
        }
        let source = self.sender(ifindex, mac)?;
        self.decide(&config, &source)
    }

    /// The sending task, if the packet's source is really its own.
    fn sender(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<Endpoint<F::Addr>, End> {
        match self.endpoint(self.packet().src) {
            Some(source) if source.kind == endpoint::TASK && source.ifindex == ifindex => {
                if source.mac == mac {
                    Ok(source)
                } else {
                    Err(End::Drop(DropReason::SpoofedMac))
                }
            }
            _ => Err(End::Drop(DropReason::SpoofedSource)),
        }
    }

    fn decide(&mut self, config: &Config, source: &Endpoint<F::Addr>) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        if F::is_multicast(packet.dst) {
            return Err(End::Drop(DropReason::Multicast));
        }
        if let Some(target) = self.endpoint(packet.dst) {
            return self.to_endpoint(config, source, &target);
        }
        if packet.form == Form::Fragment && packet.may_have_flow() {
            return Err(End::Wait);
        }
        if let Some(frontend) = self.vip(packet.dst) {
            if frontend.vni != source.vni {
                return Err(End::Refuse(DropReason::OtherNetwork));
            }
            if packet.form == Form::EchoRequest && frontend.turns_len != 0 {
                return Err(End::Sent(Way::Answer));
            }
            return self.vip_flow(source, &frontend);
        }
        if let Some(address) = self.address(packet.dst) {
            if packet.protocol == protocol::UDP && packet.dport == config.data_port {
                return Err(End::Drop(DropReason::DataPort));
            }
            let is_own = address.flags & address_flag::OWN != 0;
            if packet.form == Form::Ports && source.flags & endpoint_flag::INTERNAL == 0 {
                let published = self.published(packet.dst, packet.dport, packet.protocol);
                if let Some(frontend) = published.filter(|it| !is_own || it.flags & frontend_flag::NOT_TAKEN == 0) {
                    let back = WayBack::to_task(source);
                    let call = Call {
                        entry: Entry::Client,
                        from: source.ifindex,
                        target_port: frontend.target_port,
                        node: config.node,
                        back,
                        gateway: source.gateway,
                        sender: source.number,
                    };
                    return self.enter(&frontend, &call);
                }
            }
            if is_own && source.flags & endpoint_flag::INTERNAL == 0 {
                return Err(End::Sent(Way::Host));
            }
        }
        if same_network::<F>(source.gateway, packet.dst, source.prefix_len) {
            self.trace.note("the caller's own network", "nobody has this address in it");
            return Err(End::Refuse(DropReason::NoEndpoint));
        }
        if source.flags & endpoint_flag::INTERNAL != 0 {
            return Err(End::Drop(DropReason::Internal));
        }
        self.leave(config, source)
    }

    /// To another task or the gateway of the same network.
    fn to_endpoint(
        &mut self,
        config: &Config,
        source: &Endpoint<F::Addr>,
        target: &Endpoint<F::Addr>,
    ) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        if target.vni != source.vni {
            return Err(End::Refuse(DropReason::OtherNetwork));
        }
        if target.kind == endpoint::GATEWAY {
            return Err(match packet.form {
                Form::EchoRequest => End::Sent(Way::Answer),
                Form::Ports if packet.dport == 53 => End::Sent(Way::Host),
                Form::Ports => End::Refuse(DropReason::ClosedPort),
                _ => End::Drop(DropReason::Unsupported),
            });
        }
        let back = WayBack::to_task(source);
        if let Some(going) = self.direct_flow(target, source.ifindex, &back, source.gateway, source.number)? {
            return Ok(going);
        }
        if target.node == config.node {
            return Err(End::Sent(Way::Task { ifindex: target.ifindex }));
        }
        let peer = self.target(target.node)?;
        Err(End::Sent(self.to_peer(&peer, target.node, target.vni)))
    }

    /// To the outside: source address and port become the node's.
    fn leave(&mut self, config: &Config, source: &Endpoint<F::Addr>) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        match packet.form {
            Form::Ports | Form::EchoRequest => {}
            Form::Fragment => return Err(End::Drop(DropReason::Fragment)),
            Form::IcmpError => return Err(End::Drop(DropReason::IcmpError)),
            _ => return Err(End::Drop(DropReason::Unsupported)),
        }
        if packet.protocol == protocol::UDP && packet.dport == config.data_port {
            return Err(End::Drop(DropReason::DataPort));
        }
        if F::is_link_local(packet.dst) {
            self.trace.note("the destination", "is of the link that it is on, and of no other");
            return Err(End::Refuse(DropReason::NoRoute));
        }
        let Some(ifindex) = self.question.route else {
            self.trace.note("the kernel's routes", "none");
            return Err(End::Refuse(DropReason::NoRoute));
        };
        let link = self.names.link(ifindex);
        self.trace.note("the kernel's routes", format!("by {link}"));
        let Some(uplink) = self.tables.uplink(ifindex) else {
            self.trace.note(format!("UPLINKS[{ifindex}]"), "no uplink of ours");
            return Err(End::Refuse(DropReason::NoRoute));
        };
        let addr = uplink_addr::<F>(&uplink);
        if addr == F::Addr::default() {
            self.trace.note(
                format!("UPLINKS[{ifindex}]"),
                format!("{} has no address of this family", self.names.link(ifindex)),
            );
            return Err(End::Refuse(DropReason::NoRoute));
        }
        self.hop()?;
        let hash = packet.hash();
        let dport = if packet.form == Form::EchoRequest { 0 } else { packet.dport };
        let key = |port| FlowKey::new(packet.dst, addr, dport, port, packet.protocol);
        let free = (0..snat::TRIES).map(|attempt| snat::candidate(hash, attempt));
        let Some(port) = free.into_iter().find(|port| self.flow(key(*port)).is_none()) else {
            self.trace.note("source ports", format!("{} tried, all taken", snat::TRIES));
            return Err(End::Drop(DropReason::NoSnatPort));
        };
        let reverse = Flow {
            addr: packet.src,
            from: origin::WIRE,
            port: packet.sport,
            rewrite: rewrite::DESTINATION,
            deliver: deliver::TASK,
            flags: flow_flag::REVERSE,
            ifindex: source.ifindex,
            mac: source.mac,
            backend: source.number,
            ..blank()
        };
        let flow = Flow {
            addr,
            from: source.ifindex,
            port,
            rewrite: rewrite::SOURCE,
            deliver: deliver::OUTSIDE,
            ifindex,
            backend: source.number,
            packets: 1,
            seen: note(0, packet.tcp_flags),
            ..blank()
        };
        Ok(Going {
            flow,
            reply: Some((key(port), reverse)),
            gateway: source.gateway,
            sender: source.number,
            is_new: true,
        })
    }
}
