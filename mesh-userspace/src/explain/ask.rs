//! From addresses to a question: by which hook such a packet would come, and what it looks like.

use mesh_common::family::Family;
use mesh_common::parse::{ETHERNET_LEN, Form, Packet, protocol, tcp_flag};
use mesh_common::schema::{FlowKey, FrontendKey, address_flag, endpoint, frontend_flag};
use mesh_common::wire::mac;

use super::tables::Tables;
use super::trace::{Names, Step, ip, socket};
use super::walk::published;
use super::{Entrance, Frame, Question};

/// A caller's source port where none was said: the first of IANA's dynamic ones (RFC 6335).
const SOME_PORT: u16 = 49_152;
/// Bytes of a SYN behind the IP header, as Linux sends it: with its usual options.
const SYN_LEN: u16 = 40;
/// What stacks send with.
const TTL: u8 = 64;

/// A packet that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<A> {
    /// None: this host.
    pub src: Option<A>,
    /// What this host's own calls into the overlay come from; None: it has no address of this family.
    pub own: Option<A>,
    /// 0: any that no flow has.
    pub sport: u16,
    pub dst: A,
    pub dport: u16,
    pub protocol: u8,
    /// Not the first packet of a connection.
    pub is_later: bool,
}

/// A question, with what happened before the packet was one.
pub type Prepared<F> = (Question<F>, Vec<Step>);

/// Finds the hook; in words where this node's programs have no part in it.
pub fn prepare<F: Family>(
    asked: &Asked<F::Addr>,
    route: Option<u32>,
    tables: &impl Tables<F>,
    names: &Names,
) -> Result<Prepared<F>, String> {
    if tables.config().is_none_or(|config| config.mesh0 == 0) {
        return Err(
            "the programs have not been told about this node yet: 'mesh status' shows what its agent waits for".into(),
        );
    }
    let src = asked.src.filter(|src| !F::is_loopback(*src));
    let is_host = src.is_none_or(|src| {
        tables.address(src).is_some_and(|address| address.flags & address_flag::OWN != 0)
            || tables.endpoint(src).is_some_and(|source| source.kind == endpoint::GATEWAY)
    });
    let mut before = Vec::new();
    let (mut dst, mut dport) = (asked.dst, asked.dport);
    let src = src.or(asked.own).ok_or_else(|| {
        format!("this host has no address of its own to call {} from: it is of another family", ip::<F>(dst))
    })?;
    let entrance = if is_host {
        let is_own =
            F::is_loopback(dst) || tables.address(dst).is_some_and(|address| address.flags & address_flag::OWN != 0);
        if is_own {
            (dst, dport) = pointed(asked, tables, names, &mut before)?;
        }
        if tables.endpoint(dst).is_none() && tables.frontend(FrontendKey::vip(dst)).is_none() {
            return Err(format!(
                "{} is no task and no VIP: this host's own packets to it are its stack's, and no program of mesh sees them",
                ip::<F>(dst)
            ));
        }
        Entrance::Host
    } else {
        match tables.endpoint(src) {
            Some(source) if source.ifindex != 0 => Entrance::Task { ifindex: source.ifindex, mac: source.mac },
            Some(source) => from_peer(asked, &source, tables, names)?,
            None => {
                // By the link that has the address called, or the way to the caller.
                let link = tables.address(dst).map_or(0, |address| address.ifindex);
                let ifindex = if link != 0 { link } else { route.unwrap_or(0) };
                Entrance::Uplink { ifindex, mac: [0; 6] }
            }
        }
    };
    let form = match asked.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => Form::Ports,
        icmp if icmp == F::ICMP => Form::EchoRequest,
        _ => Form::Other,
    };
    let dport = if form == Form::Ports { dport } else { 0 };
    let key = |sport| FlowKey::<F::Addr>::new(src, dst, sport, dport, asked.protocol);
    let sport = match (form, asked.sport) {
        (Form::Other, _) => 0,
        (_, 0) => (SOME_PORT..=u16::MAX).find(|port| tables.flow(key(*port)).is_none()).unwrap_or(SOME_PORT),
        (_, port) => port,
    };
    let tcp_flags = match (asked.protocol, asked.is_later) {
        (protocol::TCP, false) => tcp_flag::SYN,
        (protocol::TCP, true) => tcp_flag::ACK,
        _ => 0,
    };
    let l4 = ETHERNET_LEN + F::HEADER_LEN;
    let packet = Packet { tuple: key(sport), tcp_flags, form, l4: l4 as u8, is_piece: false, l4_len: SYN_LEN };
    let len = l4 as u32 + u32::from(SYN_LEN);
    Ok((Question { entrance, packet, len, is_whole: true, ttl: TTL, chance: 0, route }, before))
}

/// Where a host process's socket is pointed when it calls an address of its own node: `hook/host_socket.rs` of the programs.
fn pointed<F: Family>(
    asked: &Asked<F::Addr>,
    tables: &impl Tables<F>,
    names: &Names,
    before: &mut Vec<Step>,
) -> Result<(F::Addr, u16), String> {
    let (frontend, at) = published(tables, asked.dst, asked.dport, asked.protocol);
    let frontend = frontend.filter(|_| asked.dport != 0);
    let mut note = |found: String| {
        before.push(Step { hook: "host_connect".into(), asked: format!("FRONTENDS[{at}]"), found });
    };
    match frontend {
        Some(it) if it.flags & frontend_flag::NOT_TAKEN != 0 => Err(format!(
            "a program of this host uses port {} itself: it is called, not service {}; 'mesh node inspect self' lists such ports",
            asked.dport,
            names.service(it.pool)
        )),
        Some(it) if it.vip == F::Addr::default() => Err(format!(
            "service {} has no VIP (endpoint mode dnsrr): this host's own calls to its published port are the host's",
            names.service(it.pool)
        )),
        Some(it) if it.allow != 0 && !tables.is_allowed(it.pool, it.allow, asked.dst) => Err(format!(
            "port {} of service {} has a list of callers, and a process of this host, which counts as the address that it calls ({}), is not on it: connect(2) fails with EPERM",
            asked.dport,
            names.service(it.pool),
            super::trace::ip::<F>(asked.dst)
        )),
        Some(it) => {
            let target = socket::<F>(it.vip, it.target_port);
            note(format!("service {}: the socket is pointed at {target}", names.service(it.pool)));
            Ok((it.vip, it.target_port))
        }
        None => Err(format!(
            "{at} is not published: this host's own calls to itself are its stack's; 'mesh service ls' lists published ports"
        )),
    }
}

/// A task of another node: only what it sends to a task here comes this way.
fn from_peer<F: Family>(
    asked: &Asked<F::Addr>,
    source: &mesh_common::schema::Endpoint<F::Addr>,
    tables: &impl Tables<F>,
    names: &Names,
) -> Result<Entrance, String> {
    let node = names.node(source.node);
    match tables.endpoint(asked.dst) {
        Some(target) if target.ifindex != 0 => {
            let peer = mesh_common::schema::Address {
                node: source.node,
                ifindex: 0,
                flags: address_flag::TUNNEL,
                pad: [0; 3],
            };
            let frame = Frame { dst: target.mac, src: mac::GATEWAY };
            Ok(Entrance::Overlay { peer: Some(peer), vni: source.vni, frame })
        }
        _ => Err(format!("{} runs on {node}, whose programs decide this: ask there", names.task(source.number))),
    }
}
