//! What peers send: `hook/from_overlay.rs` of the programs, but for what was turned back, which names a decision that is over.

use mesh_common::ageing;
use mesh_common::family::Family;
use mesh_common::parse::Form;
use mesh_common::schema::{Address, Backend, Config, Flow, address_flag, deliver, endpoint, origin};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};

use super::choose::WayBack;
use super::fields::backend_addr;
use super::tables::Tables;
use super::walk::{End, Going, Walk};
use super::{Frame, Way};

impl<F: Family, T: Tables<F>> Walk<'_, F, T> {
    /// `peer` is what the outer source's address says.
    pub fn from_overlay(&mut self, peer: Option<Address>, id: u32, frame: Frame) -> Result<Going<F::Addr>, End> {
        let Some(config) = self.config() else { return Err(End::Drop(DropReason::NotConfigured)) };
        let Some(peer) = peer.filter(|peer| peer.flags & address_flag::TUNNEL != 0) else {
            self.trace.note("ADDRESSES[outer source]", "no member's data path address");
            return Err(End::Drop(DropReason::UnknownPeer));
        };
        match id {
            vni::REQUEST_WIRE | vni::REQUEST_NODE | vni::SECOND_CHANCE_WIRE | vni::SECOND_CHANCE_NODE => {
                self.request(&config, &peer, id, frame)
            }
            vni::REPLY_WIRE => Err(self.reply_to_wire()),
            vni::REPLY_NODE => Err(self.reply_to_node(frame)),
            vni::INGRESS..=vni::LAST_NETWORK => self.network(&peer, id, frame),
            _ => Err(End::Drop(DropReason::UnknownVni)),
        }
    }

    /// Between tasks of a network.
    fn network(&mut self, peer: &Address, id: u32, frame: Frame) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        if let Some(flow) = self.lookup(origin::peer(peer.node))? {
            return Ok(Going { flow, reply: None, gateway: packet.src, sender: 0, is_new: false });
        }
        let source = match self.endpoint(packet.src) {
            Some(source) if source.node == peer.node && source.vni == id && source.kind == endpoint::TASK => source,
            _ => return Err(End::Drop(DropReason::WrongPeer)),
        };
        Err(match self.endpoint(packet.dst) {
            Some(target) if target.vni == id && target.ifindex != 0 => {
                let back = WayBack::to_peer(peer.node, id, source.mac);
                if let Some(going) = self.direct_flow(&target, origin::peer(peer.node), &back, packet.src, 0)? {
                    return Ok(going);
                }
                End::Sent(Way::Task { ifindex: target.ifindex })
            }
            None if frame.src == mac::GATEWAY => self.turn_back(peer, vni::TURNED_BACK_TASK, DropReason::NoEndpoint),
            _ => End::Drop(DropReason::NoEndpoint),
        })
    }

    /// Back to the peer, if it can choose again.
    fn turn_back(&mut self, peer: &Address, id: u32, reason: DropReason) -> End {
        let packet = self.packet();
        let may_return = packet.may_open() && matches!(packet.form, Form::Ports | Form::EchoRequest);
        if !may_return || self.tables.peer(peer.node).is_none_or(|peer| peer.mtu == 0) {
            return End::Drop(reason);
        }
        self.trace.note("the task", format!("not here: {} chooses again", self.names.node(peer.node)));
        End::Sent(Way::Tunnel { node: peer.node, vni: id, is_fast: false })
    }

    /// A call that entered at the peer, for a task of this node.
    fn request(&mut self, config: &Config, peer: &Address, id: u32, frame: Frame) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        let from_wire = id == vni::REQUEST_WIRE || id == vni::SECOND_CHANCE_WIRE;
        let Some((mac::KIND_ENDPOINT, number)) = mac::split(frame.dst) else {
            return Err(End::Drop(DropReason::WireFormat));
        };
        if !from_wire && !matches!(mac::split(frame.src), Some((mac::KIND_HOST | mac::KIND_CLIENT, _))) {
            return Err(End::Drop(DropReason::WireFormat));
        }
        match self.lookup(origin::peer(peer.node))? {
            Some(flow) if flow.backend == number || !ageing::has_no_state(packet.protocol) => {
                return Ok(Going { flow, reply: None, gateway: packet.src, sender: 0, is_new: false });
            }
            _ => {}
        }
        if packet.form == Form::Fragment {
            return Err(End::Drop(DropReason::Fragment));
        }
        let node = self.endpoint(packet.src).map(|endpoint| endpoint.node);
        let is_third = |it: &Address| it.node != peer.node && it.flags & address_flag::OWN == 0;
        let belongs = match node {
            Some(node) => !from_wire && node == peer.node,
            None => from_wire || !self.address(packet.src).is_some_and(|it| is_third(&it)),
        };
        if !belongs {
            return Err(End::Drop(DropReason::WrongPeer));
        }
        let by_host = !from_wire && node.is_none();
        let backend = match self.backend(number) {
            Some(backend) if backend.node == config.node => backend,
            _ if id == vni::REQUEST_WIRE || id == vni::REQUEST_NODE => {
                let back = if from_wire { vni::TURNED_BACK_WIRE } else { vni::TURNED_BACK_NODE };
                return Err(self.turn_back(peer, back, DropReason::EndpointGone));
            }
            _ => return Err(End::Drop(DropReason::EndpointGone)),
        };
        let target_port = self.called_port(&backend, by_host)?;
        let reply_vni = if from_wire { vni::REPLY_WIRE } else { vni::REPLY_NODE };
        let back = WayBack::to_peer(peer.node, reply_vni, frame.src);
        let from = origin::peer(peer.node);
        let mut going = self.accept(number, &backend, target_port, from, &back, F::Addr::default(), 0)?;
        going.gateway = packet.src;
        Ok(going)
    }

    /// The port a call means at this backend (0: unchanged), if its service has that frontend. Only a host calls VIPs and tasks this way.
    fn called_port(&mut self, backend: &Backend, by_host: bool) -> Result<u16, End> {
        const NO: End = End::Drop(DropReason::NotPublished);
        let packet = self.packet();
        if let Some(frontend) = self.vip(packet.dst) {
            return if by_host && frontend.pool == backend.pool { Ok(0) } else { Err(NO) };
        }
        if self.endpoint(packet.dst).is_some() {
            let is_named = by_host && packet.dst == backend_addr::<F>(backend);
            return if is_named { Ok(0) } else { Err(NO) };
        }
        match self.published(packet.dst, packet.dport, packet.protocol) {
            Some(frontend) if frontend.pool == backend.pool => Ok(frontend.target_port),
            _ => Err(NO),
        }
    }

    /// A reply that leaves here for the neighbour its MAC names.
    fn reply_to_wire(&mut self) -> End {
        let packet = self.packet();
        let Some(own) = self.address(packet.src).filter(|own| own.flags & address_flag::OWN != 0) else {
            return End::Drop(DropReason::ForgedReply);
        };
        let is_call = |flow: &Flow<F::Addr>| {
            flow.deliver == deliver::TUNNEL && flow.vni == vni::REQUEST_WIRE && flow.ifindex != 0
        };
        let ifindex = match self.flow(packet.tuple.turned()).filter(is_call) {
            Some(call) => call.ifindex,
            None if self.published(packet.src, packet.sport, packet.protocol).is_none() => {
                return End::Drop(DropReason::ForgedReply);
            }
            None => own.ifindex,
        };
        match self.to_uplink(ifindex) {
            Ok(way) => End::Sent(way),
            Err(end) => end,
        }
    }

    /// A reply for this node's own host or one of its tasks.
    fn reply_to_node(&mut self, frame: Frame) -> End {
        let packet = self.packet();
        let is_frontend = (self.published(packet.src, packet.sport, packet.protocol).is_some()
            && self.address(packet.src).is_some())
            || self.vip(packet.src).is_some()
            || self.endpoint(packet.src).is_some();
        if !is_frontend {
            return End::Drop(DropReason::ForgedReply);
        }
        match mac::split(frame.dst) {
            Some((mac::KIND_HOST, _)) => match self.address(packet.dst) {
                Some(address) if address.flags & address_flag::OWN != 0 => End::Sent(Way::Host),
                _ => End::Drop(DropReason::ForgedReply),
            },
            Some((mac::KIND_CLIENT, number)) => match self.backend(number) {
                Some(client) if client.ifindex != 0 && backend_addr::<F>(&client) == packet.dst => {
                    End::Sent(Way::Task { ifindex: client.ifindex })
                }
                _ => End::Drop(DropReason::EndpointGone),
            },
            _ => End::Drop(DropReason::WireFormat),
        }
    }
}
