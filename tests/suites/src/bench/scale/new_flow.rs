//! What a new flow costs beside many services: the same number of SYNs to a node that knows one service and to one that knows ten thousand,
//! whose tables the funnel has filled, in turns.
//!
//! Packets are the SYNs of a task of this node to VIPs whose tasks are elsewhere, behind the wrapper that rotates frames (`bench::micro`). Two
//! questions: do more services make each lookup dearer (all calls go to one of them), and what does it cost that calls find another service each
//! time, whose entries are not in the caches (they go to all in turn). Invariant: each reading begins with an empty flow table and leaves two entries
//! a SYN, or the run stops.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use mesh_common::schema::{Endpoint, endpoint};
use mesh_common::wire::mac;
use mesh_packet::eth;
use mesh_userspace::kernel::bpf::FlowSizes;
use mesh_userspace::plan::maps::{Entry, MapOp};

use super::stage::Stage;
use super::world::{GATEWAY, VNI, World};
use super::{Agent, SIZES};
use crate::bench::micro::{Bytes, Kind, Programs, Template, Tuple, clear_flows, count_flows, shuffled};
use crate::bench::{PAIRS, Row, Target, Wish, stay_on_last_cpu};

/// SYNs of a reading.
const FLOWS: u32 = 50_000;
/// Twice the entries that they leave.
const ENTRIES: u32 = 1 << 18;
/// The calling task: an address that the world gives to nobody.
const CALLER: [u8; 4] = [10, 200, 0, 1];
const CALLER_NUMBER: u32 = 1 << 20;
/// The loopback device is in every namespace; a test run sends nothing.
const LINK: u32 = 1;
/// `TC_ACT_REDIRECT` and `TC_ACT_OK` (linux/pkt_cls.h).
const REDIRECT: i32 = 7;
const OK: i32 = 0;

/// Which services are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Called {
    One,
    All,
}

/// What every row is beside.
const BESIDE: (u32, u32) = (1, 10);
/// Services, backends of each, and which are called; those of the most services are judged.
const ROWS: [(u32, u32, Called); 3] = [(10_000, 10, Called::One), (1_000, 10, Called::All), (10_000, 10, Called::All)];

pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    let name = |services, backends, called| {
        let which = if called == Called::One { "always the same of" } else { "each time another of" };
        format!("new flow to {which} {services} services × {backends}, beside one service")
    };
    let named = ROWS.map(|(services, backends, called)| (services, backends, called, name(services, backends, called)));
    let wanted: Vec<_> = named.into_iter().filter(|(.., name)| wish.wants(name)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let pairs = if wish.quick { 3 } else { PAIRS };
    // A thread of its own: what comes after must not inherit its one CPU.
    let measuring = std::thread::spawn(move || -> Result<Vec<Row>> {
        stay_on_last_cpu()?;
        let mut few = Node::new(BESIDE)?;
        let mut rows = Vec::new();
        for (services, backends, called, name) in wanted {
            let mut many = Node::new((services, backends))?;
            let mut readings = Vec::new();
            // The first pair fills caches and is thrown away.
            for pair in 0..=pairs {
                let value = many.reading(called).context("with many services")?;
                let reference = few.reading(called).context("with one service")?;
                if pair > 0 {
                    readings.push((value, reference));
                }
            }
            many.stage.remove()?;
            let target = (services == SIZES[SIZES.len() - 1].0).then_some(Target::RatioAtMost(1.1));
            rows.push(Row::pairs(name, "ns", "one service", &readings).target(target));
        }
        few.stage.remove()?;
        Ok(rows)
    });
    measuring.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
}

/// A node's programs and tables, and the frames that come to it.
struct Node {
    stage: Stage,
    from_task: OwnedFd,
    table: MapData,
    wrapper: Programs,
    vips: Vec<[u8; 4]>,
}

impl Node {
    fn new((services, backends): (u32, u32)) -> Result<Node> {
        let mut stage = Stage::with_flows(FlowSizes::of_table(ENTRIES))?;
        stage.open()?;
        let world = World::new(services, backends);
        Agent::begin(&mut stage)?.round(&world, &world.facts())?;
        stage.dataplane().apply(&MapOp::Put(Entry::Endpoint(CALLER.into(), caller())))?;
        let (from_task, table) = (stage.program("from_task")?, stage.map("FLOWS4")?);
        let vips = world.vips().map(|vip: Ipv4Addr| vip.octets()).collect();
        Ok(Node { stage, from_task, table, wrapper: Programs::load(FLOWS, 1)?, vips })
    }

    /// Nanoseconds a SYN, the wrapper's own subtracted.
    fn reading(&mut self, called: Called) -> Result<f64> {
        let frames = self.frames(called);
        self.wrapper.frames(&frames)?;
        clear_flows(self.table.fd().as_fd()).context("emptying FLOWS4")?;
        let empty = self.wrapper.program(Kind::Tc.empty())?;
        let below = self.run(&empty, OK, &frames[0])?;
        let from_task = self.from_task.try_clone()?;
        let above = self.run(&from_task, REDIRECT, &frames[0])?;
        let (entries, written) = (count_flows(self.table.fd().as_fd())?, 2 * FLOWS as usize);
        ensure!(entries == written, "{FLOWS} SYNs left {entries} flow entries, not {written}");
        Ok(above - below)
    }

    fn run(&mut self, program: &OwnedFd, verdict: i32, first: &Bytes) -> Result<f64> {
        self.wrapper.start_at(0, FLOWS)?;
        let ran = self.wrapper.run(Kind::Tc, program.as_fd(), LINK, first, FLOWS)?;
        ensure!(ran.code == verdict, "the last SYN ended in {}, not in {verdict}", ran.code);
        Ok(f64::from(ran.duration_ns))
    }

    /// A SYN of each flow, in an order that no table was filled in.
    fn frames(&self, called: Called) -> Vec<Bytes> {
        let head = eth(mac::of(mac::KIND_TASK, CALLER_NUMBER), mac::GATEWAY).ipv4([0; 4], [0; 4]);
        let template = Template::new(&head.tcp(0, 0).syn().payload_of(10));
        let frame = |n: u32| {
            let service = if called == Called::All { n as usize % self.vips.len() } else { 0 };
            template.of(Tuple { src: CALLER, dst: self.vips[service], sport: 10_000 + n as u16, dport: 8_000 })
        };
        shuffled(FLOWS).into_iter().map(frame).collect()
    }
}

/// What plan writes for a task of this node.
fn caller() -> Endpoint<IpAddr> {
    Endpoint {
        vni: VNI,
        number: CALLER_NUMBER,
        node: 1,
        ifindex: LINK,
        gateway: GATEWAY.into(),
        mac: mac::of(mac::KIND_TASK, CALLER_NUMBER),
        kind: endpoint::TASK,
        flags: 0,
        prefix_len: 8,
        pad: [0; 3],
    }
}
