//! Floods in a rig: what the programs have counted of new flows, read and written, so that a test need not send a thousand packets in a second.

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use mesh_common::schema::Flood;
use mesh_userspace::kernel::bpf::clock;

use super::Rig;

/// New flows a second that are a flood in a rig, unless a test says otherwise; far more than one sends.
const THRESHOLD: u32 = 1_000;

impl Rig {
    /// A flood is on, on every CPU, until a second after the next packet.
    pub fn flood_is_on(&mut self) {
        self.configure(|config| config.flood_threshold = THRESHOLD);
        self.count(2 * THRESHOLD);
    }

    /// The flood is over: no flow began in this second or the one before.
    pub fn flood_is_over(&mut self) {
        self.configure(|config| config.flood_threshold = THRESHOLD);
        self.count(0);
    }

    /// Says so now, and again when a program comes in later.
    pub(super) fn count(&mut self, flows: u32) {
        self.flood = Some(flows);
        let second = clock::of_this_kernel().seconds(ticks());
        let counted =
            |old: &Flood| Flood { second, count: flows, before: flows, is_on: (flows > THRESHOLD) as u32, ..*old };
        let map = self.ebpf.map_mut("FLOODS").expect("the object has this map");
        let mut map = PerCpuArray::<&mut MapData, Flood>::try_from(map).expect("its value fits");
        let cpus: Vec<Flood> = map.get(&0, 0).expect("it can be read").iter().map(counted).collect();
        map.set(0, PerCpuValues::try_from(cpus).expect("one a CPU"), 0).expect("it can be written");
    }

    /// Entries written beside the table in floods, and those proven since.
    pub fn spilled_and_promoted(&self) -> (u64, u64) {
        let map = PerCpuArray::<&MapData, Flood>::try_from(self.ebpf.map("FLOODS").expect("a map")).expect("its type");
        let cpus = map.get(&0, 0).expect("it can be read");
        cpus.iter().fold((0, 0), |(spilled, promoted), cpu| (spilled + cpu.spilled, promoted + cpu.promoted))
    }
}

/// The kernel's tick counter, as it tells it to people (kernel/time/timer_list.c). Not made of the monotonic clock, for that began before it.
fn ticks() -> u64 {
    let list = std::fs::read_to_string("/proc/timer_list").expect("the kernel lists its timers");
    let line = list.lines().find_map(|line| line.strip_prefix("jiffies: ")).expect("and the tick it is at");
    line.trim().parse().expect("a number")
}
