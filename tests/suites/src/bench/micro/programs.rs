//! The benchmark's own packet programs, loaded: wrappers to run a program behind, and bare programs with filled tables.
//!
//! Invariant: a run behind a wrapper goes through the frames in turn; the table of the bare programs has the flows of those frames.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::maps::PerCpuArray;
use aya::{Ebpf, EbpfLoader};
use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, FlowKey, Frontend, FrontendKey};

use super::frames::{Bytes, Tuple};
use super::walks::{BY_ADDRESS, BY_PORT};
use crate::rig::kernel::{self, Ran, RunOptions, tunnel_key};
use crate::rig::{PEER_2, batch};

/// Slots of `BARE_RING` (tests/bench-ebpf/src/maps.rs).
const RING_SLOTS: u32 = 65_537;

/// The tables of the bare programs: plain, and one that forgets.
pub const FLOWS: &str = "BARE_FLOWS";
pub const LRU: &str = "BARE_LRU";

/// What kind of program is run, and how its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Xdp,
    Tc,
    /// Out of the tunnel from this peer, with this VNI.
    Tunnel([u8; 4], u32),
}

impl Kind {
    fn wrapper(self) -> &'static str {
        match self {
            Kind::Xdp => "turn_xdp",
            Kind::Tc => "turn_tc",
            Kind::Tunnel(..) => "turn_tc_tunnel",
        }
    }

    /// The program that only ends.
    pub fn empty(self) -> &'static str {
        if self == Kind::Xdp { "xdp_empty" } else { "tc_empty" }
    }
}

/// See the module.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// With room for so many frames, and flow entries in each table.
    pub fn load(frames: u32, entries: u32) -> Result<Programs> {
        let path = crate::rig::built("mesh-bench-ebpf").context("run `cargo xtask build-ebpf`")?;
        let ebpf = EbpfLoader::new()
            .map_max_entries("FRAMES", frames)
            .map_max_entries("BARE_FLOWS", entries)
            .map_max_entries("BARE_LRU", entries)
            .load_file(&path)
            .with_context(|| format!("loading {}", path.display()))?;
        let programs = Programs { ebpf };
        batch::fill(programs.map("BARE_RING"), (0..RING_SLOTS).map(|slot| (slot, PEER_2)))?;
        let mut frontend: Frontend<[u8; 4]> = zeroed();
        (frontend.pool, frontend.vni) = (1, 4_097);
        let ports = BY_PORT.map(|port| FrontendKey::published(port, protocol::TCP));
        let addresses = BY_ADDRESS.map(FrontendKey::vip);
        let frontends = ports.into_iter().chain(addresses).map(|key| (key, frontend));
        batch::fill(programs.map("BARE_FRONTENDS"), frontends).context("filling the bare programs' services")?;
        Ok(programs)
    }

    fn map(&self, name: &str) -> BorrowedFd<'_> {
        let map = self.ebpf.map(name).unwrap_or_else(|| panic!("the benchmark's object has no map {name}"));
        batch::descriptor(map)
    }

    /// A program, loaded.
    pub fn program(&mut self, name: &str) -> Result<OwnedFd> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the benchmark's object has no {name}"))?;
        crate::rig::loaded(program).with_context(|| format!("loading {name}"))
    }

    /// The frames to go through from now on, beginning with the first.
    pub fn frames(&self, frames: &[Bytes]) -> Result<()> {
        batch::fill(self.map("FRAMES"), (0u32..).zip(frames.iter().copied())).context("writing frames")?;
        self.start_at(0, frames.len() as u32)
    }

    /// Goes on at this frame of so many.
    pub fn start_at(&self, number: u32, count: u32) -> Result<()> {
        let mut value = [0u8; 8];
        value[..4].copy_from_slice(&number.to_ne_bytes());
        value[4..].copy_from_slice(&count.to_ne_bytes());
        kernel::set(self.map("NEXT"), 0, &value).context("choosing the next frame")
    }

    /// Runs a program behind the wrapper of its kind; packets arrive at this device.
    pub fn run(
        &mut self,
        kind: Kind,
        target: BorrowedFd<'_>,
        ifindex: u32,
        first: &Bytes,
        repeats: u32,
    ) -> Result<Ran> {
        let wrapper = self.program(kind.wrapper())?;
        let targets = self.map(if kind == Kind::Xdp { "TARGET_XDP" } else { "TARGET_TC" });
        kernel::set(targets, 0, &(target.as_raw_fd() as u32).to_ne_bytes())
            .context("choosing the program under test")?;
        if let Kind::Tunnel(peer, vni) = kind {
            kernel::set(self.map("TUNNEL"), 0, &tunnel_key(peer, vni)).context("writing the tunnel key")?;
        }
        let ran = match kind {
            Kind::Xdp => kernel::test_run_xdp(wrapper.as_fd(), first, repeats),
            _ => {
                let options = RunOptions { ifindex, repeat: repeats, ..RunOptions::default() };
                kernel::test_run(wrapper.as_fd(), first, options)
            }
        };
        ran.with_context(|| format!("running {} {repeats} times", kind.wrapper()))
    }

    /// A table of the bare programs gets entries for these flows, and where `replies` for those of their replies; nothing else is in it.
    pub fn know(&self, table: &str, flows: &[Tuple], replies: bool, ifindex: u32) -> Result<()> {
        self.forget(table)?;
        let mut value: Flow<[u8; 4]> = zeroed();
        value.addr = PEER_2;
        // Where a flow of ours names an endpoint, a bare one names the peer.
        value.backend = u32::from_be_bytes(PEER_2);
        value.vni = 4_097;
        value.ifindex = ifindex;
        value.mac = [2, 0, 0, 0, 0, 2];
        let keys = flows.iter().flat_map(|tuple| [Some(*tuple), replies.then(|| tuple.turned())]).flatten().map(key);
        batch::fill(self.map(table), keys.map(|key| (key, value))).with_context(|| format!("filling {table}"))
    }

    /// A table of the bare programs knows no flow.
    pub fn forget(&self, table: &str) -> Result<()> {
        clear(self.map(table)).map(drop).with_context(|| format!("emptying {table}"))
    }

    /// Packets that bare programs have counted so far.
    pub fn counted(&self) -> Result<u64> {
        let map = self.ebpf.map("BARE_COUNT").context("the benchmark's object has no BARE_COUNT")?;
        let map = PerCpuArray::<_, [u64; 2]>::try_from(map).context("reading BARE_COUNT")?;
        Ok(map.get(&0, 0)?.iter().map(|[packets, _]| packets).sum())
    }

    /// Entries in the bare programs' table.
    pub fn known(&self) -> Result<usize> {
        count(self.map(FLOWS)).context("counting the bare programs' flows")
    }
}

/// Empties a table of flows.
pub fn clear(table: BorrowedFd<'_>) -> std::io::Result<usize> {
    batch::clear(table, size_of::<FlowKey<[u8; 4]>>(), size_of::<Flow<[u8; 4]>>())
}

/// Entries of a table of flows.
pub fn count(table: BorrowedFd<'_>) -> std::io::Result<usize> {
    batch::count(table, size_of::<FlowKey<[u8; 4]>>(), size_of::<Flow<[u8; 4]>>())
}

fn key(tuple: Tuple) -> FlowKey<[u8; 4]> {
    let Tuple { src, dst, sport, dport } = tuple;
    FlowKey::new(src, dst, sport, dport, protocol::TCP)
}

/// A value of a map whose other fields the bare programs don't read: layouts change, and this follows.
fn zeroed<T: aya::Pod>() -> T {
    // SAFETY: map values are integers and byte arrays: zero is a value of them.
    unsafe { std::mem::zeroed() }
}
