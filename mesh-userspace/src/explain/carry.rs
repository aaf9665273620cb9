//! The last steps: the peer is asked for, the packet rewritten, and sent: `stage/nat.rs` and `stage/deliver.rs` of the programs.

use mesh_common::family::Family;
use mesh_common::parse::{ETHERNET_LEN, Form};
use mesh_common::schema::{Flow, FlowKey, Peer, deliver, flow_flag, rewrite};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::outer;

use super::Way;
use super::tables::Tables;
use super::walk::{End, Going, Walk};

/// Every IPv6 link takes as much (RFC 8200, section 5): nobody is told less.
const IPV6_LEAST: u32 = 1_280;

impl<F: Family, T: Tables<F>> Walk<'_, F, T> {
    /// Carries a packet by its entry: how it goes, and the tuple that it has then.
    pub fn carry(&mut self, going: &Going<F::Addr>) -> Result<(Way, FlowKey<F::Addr>), End> {
        let flow = &going.flow;
        if flow.deliver == deliver::OUTSIDE {
            self.hop()?;
        }
        let peer = if flow.deliver == deliver::TUNNEL { Some(self.target(u32::from(flow.node))?) } else { None };
        let tuple = self.rewritten(flow, going.gateway);
        let way = match (flow.deliver, peer) {
            (deliver::TASK, _) => Way::Task { ifindex: flow.ifindex },
            (deliver::TUNNEL, Some(peer)) => self.to_peer(&peer, u32::from(flow.node), flow.vni),
            (deliver::UPLINK, _) => self.to_uplink(flow.ifindex)?,
            (deliver::HOST, _) => Way::Host,
            (deliver::OUTSIDE, _) => Way::Outside { ifindex: flow.ifindex },
            _ => return Err(End::Drop(DropReason::NotConfigured)),
        };
        Ok((way, tuple))
    }

    /// The way out is a hop, which a packet outlives or not.
    pub fn hop(&mut self) -> Result<(), End> {
        if self.question.ttl > 1 {
            return Ok(());
        }
        self.trace.note("the time to live", "ends at this node, the first router on the way out");
        Err(End::Refuse(DropReason::HopLimit))
    }

    /// The peer with this number as the target of the packet: it answers, and takes one of this size. Of what came out of the tunnel nobody is told.
    pub fn target(&mut self, node: u32) -> Result<Peer, End> {
        let peer = self.reachable(node)?;
        let most = u32::from(peer.mtu).saturating_sub(outer::LEN as u32);
        let most = if F::ADDR_LEN == 4 { most } else { most.max(IPV6_LEAST) };
        let len = self.question.len.saturating_sub(ETHERNET_LEN as u32);
        // Over IPv6 the kernel's tunnel cuts nothing (docs/decisions/0035).
        let stays_whole = self.question.is_whole || peer.is_over_ipv6() != 0;
        if len > most && stays_whole && self.trace.hook != Hook::FromOverlay {
            self.trace.note("the packet's size", format!("{len} bytes, not to be fragmented; {most} fit the path"));
            return Err(End::Refuse(DropReason::TooBig));
        }
        Ok(peer)
    }

    /// Through the tunnel, by the way that the frame's length allows; fragments all by one.
    pub fn to_peer(&self, peer: &Peer, node: u32, vni: u32) -> Way {
        let fits = self.question.len + outer::LEN as u32 <= u32::from(peer.mtu) + ETHERNET_LEN as u32;
        Way::Tunnel { node, vni, is_fast: peer.link() != 0 && fits && !self.packet().is_piece }
    }

    pub fn to_uplink(&mut self, ifindex: u32) -> Result<Way, End> {
        let link = self.names.link(ifindex);
        match self.tables.uplink(ifindex) {
            Some(_) => {
                self.trace.note(format!("UPLINKS[{ifindex}]"), link);
                Ok(Way::Uplink { ifindex })
            }
            None => {
                self.trace.note(format!("UPLINKS[{ifindex}]"), "no uplink of ours");
                Err(End::Drop(DropReason::NotConfigured))
            }
        }
    }

    /// The packet's tuple after its entry was applied.
    fn rewritten(&self, flow: &Flow<F::Addr>, gateway: F::Addr) -> FlowKey<F::Addr> {
        let packet = self.packet();
        let is_hairpin = flow.flags & flow_flag::HAIRPIN != 0;
        let or = |new: u16, old: u16| if new == 0 { old } else { new };
        let (src, dst, sport, dport, is_id) = match flow.rewrite {
            rewrite::DESTINATION => {
                let src = if is_hairpin { gateway } else { packet.src };
                let ports = (or(flow.other_port, packet.sport), or(flow.port, packet.dport));
                (src, flow.addr, ports.0, ports.1, packet.form == Form::EchoReply)
            }
            rewrite::SOURCE => {
                let dst = if is_hairpin { packet.src } else { packet.dst };
                let ports = (or(flow.port, packet.sport), or(flow.other_port, packet.dport));
                (flow.addr, dst, ports.0, ports.1, packet.form == Form::EchoRequest)
            }
            _ => return packet.tuple,
        };
        let (sport, dport) = match packet.form {
            Form::Ports => (sport, dport),
            // An echo's identifier stands where a port would.
            Form::EchoReply if is_id => (0, flow.port),
            Form::EchoRequest if is_id => (flow.port, 0),
            _ => (packet.sport, packet.dport),
        };
        FlowKey::new(src, dst, sport, dport, packet.protocol)
    }
}
