//! What `mesh monitor` sees: events of the ring buffer, and who listens.

/// A drop, or the verdict on a sampled packet: a record of the ring buffer `EVENTS`, written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Monotonic clock.
    pub at_ns: u64,
    /// Source of the packet as it came, IPv4 as ::ffff:a.b.c.d; zero where it could not be read.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
    /// Bytes of the frame.
    pub len: u32,
    /// Interface that the packet came in by.
    pub ifindex: u32,
    /// Verdicts: endpoint number of the task at the other end, 0 without.
    pub backend: u32,
    /// Verdicts: peer to tunnel to.
    pub node: u16,
    /// Source port, or the identifier of an echo request.
    pub sport: u16,
    /// Destination port, or the identifier of an echo reply.
    pub dport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A `Hook`, as its number.
    pub hook: u8,
    /// A `DropReason` as its number; 0: this is a verdict.
    pub reason: u8,
    /// Verdicts: one of `deliver::*`.
    pub deliver: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Zero.
    pub pad: u8,
}

/// What a CPU has told and not told: `WATCHED`, written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// The second that `told` counts in.
    pub second: u32,
    /// Events in it.
    pub told: u32,
    /// Packets until the next one is sampled.
    pub countdown: u32,
    /// 1: a packet that the driver's program left to TC is to be told of.
    pub owed: u32,
    /// Events that were not told, for there were too many in a second or no room, ever.
    pub lost: u64,
}

const _: () = assert!(size_of::<Event>() == 64 && size_of::<Watched>() == 24);

/// Bytes of `EVENTS`: a power of two and a multiple of the page size.
pub const EVENT_BYTES: usize = 1 << 18;
/// Events a second that a CPU tells at most; what exceeds them is counted as lost.
pub const EVENTS_A_SECOND: u32 = 2_000;

impl Watched {
    /// Whether this CPU may tell another event at `now_s`; counts it told or lost.
    #[inline(always)]
    pub fn may_tell(&mut self, now_s: u32) -> bool {
        if self.second != now_s {
            (self.second, self.told) = (now_s, 0);
        }
        if self.told >= EVENTS_A_SECOND {
            self.lost += 1;
            return false;
        }
        self.told += 1;
        true
    }

    /// Whether this packet is the `sample`th since the last one that was sampled.
    #[inline(always)]
    pub fn is_sampled(&mut self, sample: u32) -> bool {
        if self.owed != 0 {
            self.owed = 0;
            return true;
        }
        if !self.is_due(sample) {
            self.pass();
            return false;
        }
        self.countdown = sample;
        true
    }

    /// Whether the driver's program leaves this packet to TC, since it is the next one that is sampled. This one alone, even if TC comes to it on
    /// another CPU or only after more of them: those go on.
    #[inline(always)]
    pub fn is_left(&mut self, sample: u32) -> bool {
        if !self.is_due(sample) {
            return false;
        }
        (self.countdown, self.owed) = (sample, 1);
        true
    }

    #[inline(always)]
    fn is_due(&self, sample: u32) -> bool {
        self.countdown <= 1 || self.countdown > sample
    }

    /// A packet went that is not sampled.
    #[inline(always)]
    pub fn pass(&mut self) {
        self.countdown = self.countdown.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_tells_so_many_events_a_second_and_counts_the_rest() {
        let mut watched = Watched::default();
        let told = |watched: &mut Watched, now_s, events| (0..events).filter(|_| watched.may_tell(now_s)).count();
        assert_eq!(told(&mut watched, 7, EVENTS_A_SECOND + 50), EVENTS_A_SECOND as usize);
        assert_eq!(watched.lost, 50);
        assert_eq!(told(&mut watched, 8, 10), 10, "another second");
    }

    #[test]
    fn each_nth_packet_is_sampled() {
        let mut watched = Watched::default();
        let sampled =
            |watched: &mut Watched, sample, packets| (0..packets).filter(|_| watched.is_sampled(sample)).count();
        assert_eq!(sampled(&mut watched, 10, 1_000), 100);
        assert_eq!(sampled(&mut watched, 1, 7), 7, "a smaller number holds at once");
        assert_eq!(sampled(&mut watched, 5, 1), 1);
        (0..4).for_each(|_| watched.pass());
        assert!(watched.is_sampled(5), "those that go by another way count");
    }

    #[test]
    fn the_driver_leaves_one_packet_alone_each_time() {
        let mut watched = Watched::default();
        let mut left = 0;
        // TC comes to none of them meanwhile, as where packets are handed up many at a time.
        for _ in 0..100 {
            if watched.is_left(10) {
                left += 1;
            } else {
                watched.pass();
            }
        }
        assert_eq!(left, 10);
        assert_eq!((watched.owed, watched.is_sampled(10), watched.owed), (1, true, 0), "and TC tells of one");
    }
}
