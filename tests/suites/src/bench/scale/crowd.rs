//! Connections of one task to a service, by the product's own programs on pinned maps: opened, kept in use, closed, counted.
//!
//! Every packet is a test run of `from_task`, so that entries are what the programs write, and are kept or lost as they would be. Caller and
//! backend share the loopback device as their link: nothing is sent, since a test run ends where the packet would be handed on. Connection
//! `n` is the same tuple in every run, of the family that the test binary is of (`rig::Family`).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Result, ensure};
use mesh_common::maglev;
use mesh_common::schema::{Backend, Config, Endpoint, FlowKey, Frontend, RingSlot, algorithm, backend_state, endpoint};
use mesh_common::wire::mac;
use mesh_packet::eth;
use mesh_userspace::kernel::bpf::{FlowSizes, FlowTable};
use mesh_userspace::plan::maps::{Entry, MapOp, vip_key};

use super::stage::Stage;
use crate::rig::kernel::{RunOptions, test_run};
use crate::rig::{address, address_16, header_len, spoken};

/// Who calls.
pub const CALLER: [u8; 4] = [10, 0, 16, 3];
const VIP: [u8; 4] = [10, 0, 16, 2];
const BACKEND: [u8; 4] = [10, 0, 16, 4];
const GATEWAY: [u8; 4] = [10, 0, 16, 1];
const CALLER_NUMBER: u32 = 1;
/// Endpoint number of the task that serves.
pub const BACKEND_NUMBER: u32 = 2;
const VNI: u32 = 4_097;
/// The loopback device is in every namespace.
pub const LINK: u32 = 1;
/// Source ports of the caller, from `FIRST_PORT` on; the next so many connections go to the next port of the service.
const PORTS: usize = 60_000;
const FIRST_PORT: usize = 2_000;
/// `TC_ACT_REDIRECT` (linux/pkt_cls.h).
const REDIRECT: i32 = 7;

/// Flags of TCP (RFC 9293, 3.1).
mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const ACK: u8 = 0x10;
}

/// See the module.
pub struct Crowd {
    stage: Stage,
    program: OwnedFd,
    /// A frame of the caller and one of the backend, whose ports and flags are written anew for each packet.
    frames: [Vec<u8>; 2],
    /// The same of datagrams.
    datagrams: [Vec<u8>; 2],
    /// Packets that did not go where they should.
    pub astray: usize,
}

#[derive(Clone, Copy)]
enum Side {
    Caller,
    Backend,
}

impl Crowd {
    /// A service with one task, and flow tables of this size.
    pub fn new(sizes: FlowSizes) -> Result<Crowd> {
        let mut stage = Stage::with_flows(sizes)?;
        stage.open()?;
        for op in world() {
            stage.dataplane().apply(&op)?;
        }
        let program = stage.program("from_task")?;
        let frame = |number, from: [u8; 4], to: [u8; 4]| {
            let head = eth(mac::of(mac::KIND_TASK, number), mac::GATEWAY).ipv4(from, to);
            spoken(&head.tcp(1, 1).ack(1).seq(1)).bytes()
        };
        let frames = [frame(CALLER_NUMBER, CALLER, VIP), frame(BACKEND_NUMBER, BACKEND, CALLER)];
        let datagram = |number, from: [u8; 4], to: [u8; 4]| {
            let head = eth(mac::of(mac::KIND_TASK, number), mac::GATEWAY).ipv4(from, to);
            spoken(&head.udp(1, 1).payload(b"?")).bytes()
        };
        let datagrams = [datagram(CALLER_NUMBER, CALLER, VIP), datagram(BACKEND_NUMBER, BACKEND, CALLER)];
        Ok(Crowd { stage, program, frames, datagrams, astray: 0 })
    }

    /// The sweeper's hold, as the agent takes it.
    pub fn table(&mut self) -> Result<FlowTable> {
        Ok(self.stage.dataplane().flow_table()?)
    }

    /// The handshake of connection `n`.
    pub fn open(&mut self, n: usize) -> Result<()> {
        self.send(Side::Caller, n, tcp::SYN)?;
        self.send(Side::Backend, n, tcp::SYN | tcp::ACK)?;
        self.send(Side::Caller, n, tcp::ACK)
    }

    /// Data of both sides.
    pub fn use_it(&mut self, n: usize) -> Result<()> {
        self.send(Side::Caller, n, tcp::ACK)?;
        self.send(Side::Backend, n, tcp::ACK)
    }

    /// Both sides' end.
    pub fn close(&mut self, n: usize) -> Result<()> {
        self.send(Side::Caller, n, tcp::FIN | tcp::ACK)?;
        self.send(Side::Backend, n, tcp::FIN | tcp::ACK)
    }

    /// A datagram with the ports of connection `n`.
    pub fn ask(&mut self, n: usize) -> Result<()> {
        self.send(Side::Caller, n, None)
    }

    /// One back.
    pub fn answer(&mut self, n: usize) -> Result<()> {
        self.send(Side::Backend, n, None)
    }

    /// A segment with these flags, or a datagram.
    fn send(&mut self, side: Side, n: usize, flags: impl Into<Option<u8>>) -> Result<()> {
        let flags = flags.into();
        let frames = if flags.is_some() { &mut self.frames } else { &mut self.datagrams };
        let (frame, [source, target]) = match (side, ports(n)) {
            (Side::Caller, ports) => (&mut frames[0], ports),
            (Side::Backend, [caller, service]) => (&mut frames[1], [service, caller]),
        };
        // Checksums are not the programs' to judge.
        let l4 = &mut frame[14 + header_len()..];
        l4[..2].copy_from_slice(&source.to_be_bytes());
        l4[2..4].copy_from_slice(&target.to_be_bytes());
        if let Some(flags) = flags {
            l4[13] = flags;
        }
        let ran = test_run(self.program.as_fd(), frame, RunOptions { ifindex: LINK, ..RunOptions::default() })?;
        self.astray += usize::from(ran.code != REDIRECT);
        Ok(())
    }

    /// Of the first `count` connections those without one of their two entries.
    pub fn lost(&self, table: &FlowTable, count: usize) -> Result<usize> {
        let mut found = vec![0u8; count];
        table.walk(|seen, _| {
            for seen in seen {
                if let Some((n, side)) = number(&seen.key)
                    && let Some(found) = found.get_mut(n)
                {
                    *found |= side;
                }
            }
            true
        })?;
        Ok(found.iter().filter(|sides| **sides != 3).count())
    }

    pub fn remove(self) -> Result<()> {
        self.stage.remove()
    }
}

/// Ports of caller and service.
fn ports(n: usize) -> [u16; 2] {
    [(FIRST_PORT + n % PORTS) as u16, (1 + n / PORTS) as u16]
}

/// The connection that an entry belongs to, and a bit for its direction.
fn number(key: &FlowKey<[u8; 16]>) -> Option<(usize, u8)> {
    let is_between = |src, dst| (key.src, key.dst) == (address_16(src), address_16(dst));
    let (caller, service, side) = match () {
        _ if is_between(CALLER, VIP) => (key.sport, key.dport, 1),
        _ if is_between(BACKEND, CALLER) => (key.dport, key.sport, 2),
        _ => return None,
    };
    let port = usize::from(caller).checked_sub(FIRST_PORT)?;
    Some((port + usize::from(service).checked_sub(1)? * PORTS, side))
}

/// What `plan` writes for a service with one task beside its caller.
fn world() -> Vec<MapOp> {
    let config = Config {
        netns_cookie: 1,
        node: 1,
        mesh0: LINK,
        tunnel_addr4: [192, 0, 2, 1],
        mesh0_mac: mac::of(mac::KIND_MESH0, 1),
        data_port: 4_789,
        mss4: 1_410,
        ..Config::NONE
    };
    let is_ipv6 = address(VIP).is_ipv6();
    let task = |number| Endpoint {
        vni: VNI,
        number,
        node: 1,
        ifindex: LINK,
        gateway: address(GATEWAY),
        mac: mac::of(mac::KIND_TASK, number),
        kind: endpoint::TASK,
        flags: 0,
        prefix_len: if is_ipv6 { 116 } else { 20 },
        pad: [0; 3],
    };
    let backend = Backend {
        addr6: if is_ipv6 { address_16(BACKEND) } else { [0; 16] },
        addr4: if is_ipv6 { [0; 4] } else { BACKEND },
        vni: VNI,
        pool: 1,
        node: 1,
        ifindex: LINK,
        mac: mac::of(mac::KIND_TASK, BACKEND_NUMBER),
        state: backend_state::READY,
        pad: 0,
    };
    let ring = maglev::length_for(1, maglev::COARSE);
    let frontend = Frontend {
        pool: 1,
        vni: VNI,
        turns_at: 1,
        turns_len: 1,
        ring_at: 2,
        ring_len: ring,
        vip: address(VIP),
        target_port: 0,
        algorithm: algorithm::ROUND_ROBIN,
        flags: 0,
        affinity_s: 0,
        generation: 1,
        allow: 0,
    };
    let put = [
        Entry::Endpoint(address(CALLER), task(CALLER_NUMBER)),
        Entry::Endpoint(address(BACKEND), task(BACKEND_NUMBER)),
        Entry::Backend(BACKEND_NUMBER, backend),
        Entry::Ring(1, Arc::new(vec![RingSlot { backend: BACKEND_NUMBER, node: 1 }; 1 + ring as usize])),
        Entry::Frontend(vip_key(address(VIP)), frontend),
    ];
    put.into_iter().map(MapOp::Put).chain([MapOp::Config(Some(config))]).collect()
}

/// That so many connections have tuples of their own.
pub fn check_count(count: usize) -> Result<()> {
    let most = PORTS * 65_000;
    ensure!(count <= most, "{count} connections of one caller: there are tuples for {most}");
    Ok(())
}
