//! A rig: the compiled packet programs over fresh maps, filled by sentences, run one packet at a time.
//!
//! ```no_run
//! # use mesh_tests::rig::Rig;
//! let Some(mut rig) = Rig::new() else { return };
//! let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
//! rig.service("10.0.16.2", &[&backend]);
//! let syn = client.to("10.0.16.2").tcp(40000, 8000).syn();
//! rig.from_task(&client, &syn).sent(&backend.gets("10.0.16.3").tcp(40000, 8000).syn());
//! ```
//! The world that every rig begins with: this node is 1 (192.0.2.1 on `up0`), peers are 2 (192.0.2.2) and 3 (192.0.2.3), networks are
//! 4097 (10.0.16.0/20, gateway .1) and 4098 (10.0.32.0/20, gateway 10.0.32.1). Between nodes packets go one [`Way`] or the other, and they are of one
//! [`Family`] or the other.
//! Nothing is pinned or attached; devices are in a network namespace of the calling thread, so a rig stays on its thread.

pub mod batch;
pub mod beside;
mod devices;
mod dual;
pub mod errors;
mod family;
mod flood;
mod fragments;
pub mod kernel;
mod loaded;
pub mod mirror;
mod outcome;
mod way;
mod world;
mod xdp;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::{Program, ProgramInfo, SchedClassifier};
use mesh_common::flow::order;
use mesh_common::schema::{Flow, FlowKey, program};
use mesh_common::verdict::{DropReason, Hook, STRIDE};

pub use devices::{Devices, HERE, ROUTER_MAC, index};
pub use dual::{Dual, GATEWAY6, HERE6, ip6};
pub use family::{
    Family, address, address_16, clamped_mss, client_hash, cut, flow_hash, header_len, of_ipv4_alone, spoken,
};
pub use kernel::RunOptions;
pub use loaded::built;
use loaded::{FLOW_ENTRIES, Loaded};
pub use outcome::{Action, FlowEntry, Outcome, Packet};
pub use way::{MESH0_MAC, UPLINK_MAC, Way};
use world::mapped;
pub use world::{PEER_2, PEER_3, Service, Task, ip, next_hop_mac};

/// Counters of drops, zeros left out.
pub type Drops = BTreeMap<(u8, u8), u64>;
/// The flow table.
pub type Flows = BTreeMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>>;

/// See the module.
pub struct Rig {
    devices: Devices,
    tunnelled: Option<kernel::Tunnelled>,
    /// Endpoint numbers and pools given out so far.
    numbers: u32,
    way: Way,
    family: Family,
    /// First free slot of `RINGS`.
    slots: u32,
    /// Tasks here so far: each has the next of the devices.
    links: usize,
    /// The uplink has the driver's hook.
    xdp_first: bool,
    /// And while this is open, its program on it.
    xdp: Option<OwnedFd>,
    /// After the link, which must be gone when the next test has the maps.
    ebpf: Loaded,
    /// New flows that each CPU is told to have counted, if a test asked for a flood or its end.
    flood: Option<u32>,
    /// The namespace is this thread's.
    stays: PhantomData<*const ()>,
}

impl Rig {
    /// A rig with the usual world; None, with a word why, where it can't be.
    pub fn new() -> Option<Rig> {
        Rig::with_flow_table(FLOW_ENTRIES)
    }

    /// As [`Rig::new`], with room for so many flow entries.
    pub fn with_flow_table(entries: u32) -> Option<Rig> {
        if let Some(reason) = mesh_lab::cannot_run() {
            mesh_lab::skip("the loaded packet programs", reason);
            return None;
        }
        Some(Rig::build(entries).unwrap_or_else(|error| panic!("the rig can't be built: {error:#}")))
    }

    fn build(flow_entries: u32) -> Result<Rig> {
        let devices = devices::build()?;
        let ebpf = Loaded::new(flow_entries)?;
        let mut rig = Rig {
            ebpf,
            devices,
            tunnelled: None,
            numbers: 0,
            way: Way::of_this_test(),
            family: Family::of_this_test(),
            slots: 1,
            links: 0,
            xdp_first: false,
            xdp: None,
            flood: None,
            stays: PhantomData,
        };
        rig.furnish();
        Ok(rig)
    }

    /// The devices that packets arrive at.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// What a task sends.
    #[track_caller]
    pub fn from_task(&mut self, task: &Task, packet: impl Packet) -> Outcome {
        self.run(Hook::FromTask, packet, RunOptions { ifindex: task.ifindex, ..RunOptions::default() })
    }

    /// What arrives at the uplink.
    #[track_caller]
    pub fn from_uplink(&mut self, packet: impl Packet) -> Outcome {
        if self.xdp_first {
            let left = self.xdp_uplink(&packet.bytes()).left_alone();
            return self.after_xdp(left);
        }
        self.by_tc(packet)
    }

    /// The same, past the driver.
    #[track_caller]
    fn by_tc(&mut self, packet: impl Packet) -> Outcome {
        self.run(Hook::FromUplink, packet, RunOptions { ifindex: self.devices.uplink, ..RunOptions::default() })
    }

    /// What comes in by another uplink.
    #[track_caller]
    pub fn from_other_uplink(&mut self, ifindex: u32, packet: impl Packet) -> Outcome {
        self.run(Hook::FromUplink, packet, RunOptions { ifindex, ..RunOptions::default() })
    }

    /// What the host's stack sends into mesh0.
    #[track_caller]
    pub fn from_host(&mut self, packet: impl Packet) -> Outcome {
        self.run(Hook::FromHost, packet, RunOptions { ifindex: self.devices.mesh0, ..RunOptions::default() })
    }

    /// What comes out of the tunnel from the node with this address: the fast way if that takes it, else out of mesh0.
    #[track_caller]
    pub fn from_overlay(&mut self, peer: [u8; 4], vni: u32, packet: impl Packet) -> Outcome {
        if self.way == Way::Fast
            && let Some(outcome) = self.from_wire(peer, vni, &packet.bytes())
        {
            return outcome;
        }
        let options = RunOptions { ifindex: self.devices.mesh0, ..RunOptions::default() };
        self.run_tunnelled(peer, vni, packet, options)
    }

    /// As [`Rig::from_overlay`], with options.
    #[track_caller]
    pub fn run_tunnelled(&mut self, peer: [u8; 4], vni: u32, packet: impl Packet, options: RunOptions) -> Outcome {
        if self.tunnelled.is_none() {
            self.load(Hook::FromOverlay.name());
            let wrapper = kernel::Tunnelled::new(self.program(Hook::FromOverlay.name()).fd().unwrap().as_fd(), 0);
            self.tunnelled = Some(wrapper.expect("the tunnel wrapper loads"));
        }
        let wrapper = self.tunnelled.take().expect("just made");
        let program = wrapper.from(peer, vni).expect("the tunnel key is written");
        let outcome =
            self.judge(Hook::FromOverlay, &packet.bytes(), || kernel::test_run(program, &packet.bytes(), options));
        self.tunnelled = Some(wrapper);
        outcome
    }

    /// What comes out of mesh0 from the node with this address, in outer packets of IPv6.
    #[track_caller]
    pub fn from_overlay_over_ipv6(&mut self, peer: &str, vni: u32, packet: impl Packet) -> Outcome {
        self.load(Hook::FromOverlay.name());
        let hook = self.program(Hook::FromOverlay.name()).fd().expect("it is loaded").as_fd();
        let wrapper = kernel::Tunnelled::new(hook, kernel::TUNNEL_IPV6).expect("the tunnel wrapper loads");
        let program = wrapper.from6(ip6(peer), vni).expect("the tunnel key is written");
        let options = RunOptions { ifindex: self.devices.mesh0, ..RunOptions::default() };
        self.judge(Hook::FromOverlay, &packet.bytes(), || kernel::test_run(program, &packet.bytes(), options))
    }

    /// What arrives at mesh0 through no tunnel.
    #[track_caller]
    pub fn from_overlay_without_tunnel(&mut self, packet: impl Packet) -> Outcome {
        self.run(Hook::FromOverlay, packet, RunOptions { ifindex: self.devices.mesh0, ..RunOptions::default() })
    }

    /// Runs a packet through a hook.
    #[track_caller]
    pub fn run(&mut self, hook: Hook, packet: impl Packet, options: RunOptions) -> Outcome {
        self.load(hook.name());
        let program = self.program(hook.name()).fd().expect("it is loaded").try_clone().expect("a spare descriptor");
        self.judge(hook, &packet.bytes(), || kernel::test_run(program.as_fd(), &packet.bytes(), options))
    }

    #[track_caller]
    fn judge(&self, hook: Hook, sent: &[u8], run: impl FnOnce() -> std::io::Result<kernel::Ran>) -> Outcome {
        let (drops, flows) = (self.drops(), self.flows());
        let ran = run().unwrap_or_else(|error| panic!("{}: the test run failed: {error}", hook.name()));
        Outcome::new(hook, sent, ran, (&drops, &self.drops()), (&flows, &self.flows()))
    }

    /// Asks the program `sweep` to look at a flow; how many entries it removed or marked.
    pub fn sweep(&mut self, key: &FlowKey<[u8; 4]>, order: u8, second: u32) -> i32 {
        self.sweep_all(&[(*key, order, second)])
    }

    /// The same with many orders (`flow::order`) in one run.
    pub fn sweep_all(&mut self, orders: &[(FlowKey<[u8; 4]>, u8, u32)]) -> i32 {
        let mut packet = vec![0; order::FIRST_AT - 2];
        let is_ipv6 = self.family == Family::V6;
        packet.extend_from_slice(&if is_ipv6 { 0x86ddu16 } else { 0x0800 }.to_be_bytes());
        for (key, order, second) in orders {
            let key = if is_ipv6 { family::key_over_ipv6(*key) } else { key.with(mapped) };
            packet.extend_from_slice(&key.src);
            packet.extend_from_slice(&key.dst);
            packet.extend_from_slice(&key.sport.to_ne_bytes());
            packet.extend_from_slice(&key.dport.to_ne_bytes());
            packet.extend_from_slice(&[key.protocol, 0, 0, 0, *order, 0, 0, 0]);
            packet.extend_from_slice(&second.to_ne_bytes());
        }
        self.load("sweep");
        let program = self.program("sweep").fd().expect("it is loaded");
        kernel::test_run(program.as_fd(), &packet, RunOptions::default()).expect("sweep runs").code
    }

    /// Loads a program, once; only what a test needs is verified.
    pub fn load(&mut self, name: &str) {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name).expect("the object has this program").try_into().expect("it is a classifier");
        if program.fd().is_err() {
            program.load().unwrap_or_else(|error| panic!("{name} does not load: {error}"));
            self.load_behind(name);
            // Loading may take longer than the second that a flood is counted in.
            if let Some(flows) = self.flood {
                self.count(flows);
            }
        }
    }

    /// Loads what a hook goes on in, and puts it where the hook finds it, as the agent does.
    fn load_behind(&mut self, name: &str) {
        let is_hook = |name: &str| Hook::ALL.iter().any(|hook| hook.name() == name);
        if !is_hook(name) {
            return;
        }
        for (index, part) in program::ALL {
            // Another hook's half for IPv6.
            if part.strip_suffix('6').is_some_and(|whole| is_hook(whole) && whole != name) {
                continue;
            }
            self.load(part);
            let fd = self.program(part).fd().expect("it is loaded").try_clone().expect("a spare descriptor");
            let map = self.ebpf.map_mut("PROGRAMS").expect("the object has this map");
            let mut map = ProgramArray::<&mut MapData>::try_from(map).expect("its type");
            map.set(index, &fd, 0).unwrap_or_else(|error| panic!("PROGRAMS[{index}]: {error}"));
        }
    }

    /// A program of the object, loaded or not.
    pub fn program(&self, name: &str) -> &SchedClassifier {
        self.ebpf.program(name).expect("the object has this program").try_into().expect("it is a classifier")
    }

    /// A packet program of either kind, loaded; None where the object has none of this name.
    pub fn descriptor(&mut self, name: &str) -> Result<Option<OwnedFd>> {
        let Some(program) = self.ebpf.program_mut(name) else { return Ok(None) };
        let was_loaded = is_loaded(program);
        let fd = loaded(program).with_context(|| format!("loading {name}"))?;
        if !was_loaded {
            self.load_behind(name);
        }
        // Loading may take longer than the second that a flood is counted in.
        if !was_loaded && let Some(flows) = self.flood {
            self.count(flows);
        }
        Ok(Some(fd))
    }

    /// What the kernel made of a packet program of either kind; None where the object has none of this name.
    pub fn info(&mut self, name: &str) -> Result<Option<ProgramInfo>> {
        if self.descriptor(name)?.is_none() {
            return Ok(None);
        }
        let program = self.ebpf.program(name).context("it was there just now")?;
        program.info().with_context(|| format!("asking the kernel about {name}")).map(Some)
    }

    /// A map's descriptor, for what is done to many entries at once.
    pub fn map(&self, name: &str) -> BorrowedFd<'_> {
        batch::descriptor(self.ebpf.map(name).expect("the object has this map"))
    }

    /// What the object calls its maps.
    pub fn maps(&self) -> Vec<String> {
        self.ebpf.maps().map(|(name, _)| name.to_owned()).collect()
    }

    /// A map by itself, for who asks it as user space does.
    pub fn map_data(&self, name: &str) -> Result<MapData, aya::maps::MapError> {
        let map = self.ebpf.map(name).expect("the object has this map");
        MapData::from_id(batch::data(map).info().expect("the kernel knows its maps").id())
    }

    /// The drop counters now.
    pub fn drops(&self) -> Drops {
        let map = PerCpuArray::<&MapData, u64>::try_from(self.ebpf.map("DROPS").expect("a map")).expect("its type");
        let mut counters = Drops::new();
        for hook in Hook::ALL {
            for reason in DropReason::ALL {
                let index = hook as u32 * STRIDE + *reason as u32;
                let sum: u64 = map.get(&index, 0).expect("a counter can be read").iter().sum();
                if sum != 0 {
                    counters.insert((hook as u8, *reason as u8), sum);
                }
            }
        }
        counters
    }

    /// One of them by its index.
    pub fn drops_of(&self, index: u32) -> u64 {
        let map = PerCpuArray::<&MapData, u64>::try_from(self.ebpf.map("DROPS").expect("a map")).expect("its type");
        map.get(&index, 0).expect("a counter can be read").iter().sum()
    }

    /// A hash map, to read.
    pub fn read<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> HashMap<&MapData, K, V> {
        HashMap::try_from(self.ebpf.map(name).expect("the object has this map")).expect("its key and value fit")
    }

    /// Writes an entry of a hash map, by the hand of user space.
    pub fn put<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K, value: V) {
        let map = self.ebpf.map_mut(name).expect("the object has this map");
        let mut map = HashMap::<&mut MapData, K, V>::try_from(map).expect("its key and value fit");
        map.insert(key, value, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Takes an entry away.
    pub fn delete<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K) {
        let map = self.ebpf.map_mut(name).expect("the object has this map");
        let mut map = HashMap::<&mut MapData, K, V>::try_from(map).expect("its key and value fit");
        map.remove(&key).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Reads a slot of an array.
    pub fn get<V: aya::Pod>(&self, name: &str, index: u32) -> V {
        let map = Array::<&MapData, V>::try_from(self.ebpf.map(name).expect("the object has this map"))
            .expect("its value fits");
        map.get(&index, 0).unwrap_or_else(|error| panic!("{name}[{index}]: {error}"))
    }

    /// Writes a slot of an array.
    pub fn set<V: aya::Pod>(&mut self, name: &str, index: u32, value: V) {
        let map = self.ebpf.map_mut(name).expect("the object has this map");
        let mut map = Array::<&mut MapData, V>::try_from(map).expect("its value fits");
        map.set(index, value, 0).unwrap_or_else(|error| panic!("{name}[{index}]: {error}"));
    }
}

fn is_loaded(program: &Program) -> bool {
    match program {
        Program::SchedClassifier(program) => program.fd().is_ok(),
        Program::Xdp(program) => program.fd().is_ok(),
        _ => false,
    }
}

/// Loads a classifier or an XDP program, if it is not loaded yet.
pub fn loaded(program: &mut Program) -> Result<OwnedFd> {
    let fd = match program {
        Program::SchedClassifier(program) => {
            if program.fd().is_err() {
                program.load()?;
            }
            program.fd()?
        }
        Program::Xdp(program) => {
            if program.fd().is_err() {
                program.load()?;
            }
            program.fd()?
        }
        _ => bail!("it is no packet program"),
    };
    Ok(fd.as_fd().try_clone_to_owned()?)
}
