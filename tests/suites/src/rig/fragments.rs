//! Fragments in a rig: how old what is known of them is, who waits, and the program that hooks go on in for them.

use std::os::fd::AsFd;

use mesh_common::schema::{Early, EarlyKey, FragmentKey, Fragmented};
use mesh_common::verdict::Hook;

use super::{Outcome, Packet, Rig, RunOptions, Task, kernel};

impl Rig {
    /// Of no datagram a fragment waits for the first one.
    pub fn nobody_waits(&mut self) {
        self.wipe(&["EARLY"]);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.all::<EarlyKey, Early>("EARLY").len()
    }

    /// All fragments that came, those that wait and those whose ports are known, came so many seconds earlier.
    pub fn fragments_came_earlier(&mut self, seconds: u32) {
        for (key, early) in self.all::<EarlyKey, Early>("EARLY") {
            self.put("EARLY", key, Early { came_s: early.came_s - seconds, ..early });
        }
        for (key, known) in self.all::<FragmentKey<[u8; 4]>, Fragmented>("FRAGMENTS4") {
            self.put("FRAGMENTS4", key, Fragmented { came_s: known.came_s - seconds, ..known });
        }
        for (key, known) in self.all::<FragmentKey<[u8; 16]>, Fragmented>("FRAGMENTS6") {
            self.put("FRAGMENTS6", key, Fragmented { came_s: known.came_s - seconds, ..known });
        }
    }

    /// What becomes of a fragment of a task that its hook found to be out of its order.
    #[track_caller]
    pub fn out_of_order(&mut self, task: &Task, packet: impl Packet) -> Outcome {
        self.load(Hook::FromTask.name());
        let program = self.program("fragments").fd().expect("it is loaded").try_clone().expect("a spare descriptor");
        // As the hook leaves it (`Arrival` of mesh-ebpf).
        let left = [Hook::FromTask as u32, task.ifindex, 0];
        let options = RunOptions { ifindex: task.ifindex, left, ..RunOptions::default() };
        self.judge(Hook::FromTask, &packet.bytes(), || kernel::test_run(program.as_fd(), &packet.bytes(), options))
    }
}
