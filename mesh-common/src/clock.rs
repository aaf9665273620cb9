//! The time of flow entries: seconds, from the kernel's tick counter.
//!
//! A program reads that counter in one instruction, where every clock it could ask is a call that costs an established packet a tenth of
//! all it costs. The kernel counts ticks by its monotonic clock, so user space, which can't read them, knows them from that.

/// Turns ticks into seconds; a constant of the programs, set when they are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What the counter showed at boot.
    pub first: u64,
    /// A tick in units of 2⁻³² s.
    pub fraction: u64,
    /// A tick in nanoseconds.
    pub tick_ns: u64,
}

impl Clock {
    /// Of a kernel whose ticks are so many nanoseconds long: the resolution of its `CLOCK_MONOTONIC_COARSE` (clock_getres(2)). 0 is taken
    /// for the usual four milliseconds.
    pub const fn of_tick(tick_ns: u64) -> Clock {
        let tick_ns = if tick_ns == 0 { 4_000_000 } else { tick_ns };
        // The kernel starts its counter five minutes before 32 bits of it run over (INITIAL_JIFFIES, include/linux/jiffies.h).
        let five_minutes = 300 * 1_000_000_000 / tick_ns;
        let first = 0u32.wrapping_sub(five_minutes as u32) as u64;
        Clock { first, fraction: ((1u128 << 32) * tick_ns as u128 / 1_000_000_000) as u64, tick_ns }
    }

    /// Seconds since boot at this reading of the counter; goes round after 136 years.
    #[inline(always)]
    pub const fn seconds(&self, ticks: u64) -> u32 {
        (ticks.wrapping_sub(self.first).wrapping_mul(self.fraction) >> 32) as u32
    }

    /// What a program that runs at this time of the monotonic clock calls it: the fractions that are lost are the same.
    pub const fn seconds_at(&self, monotonic_ns: u64) -> u32 {
        self.seconds(self.first.wrapping_add(monotonic_ns / self.tick_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_seconds() {
        const MONTH: u64 = 30 * 86_400;
        for hz in [100, 250, 1_000] {
            let clock = Clock::of_tick(1_000_000_000 / hz);
            assert_eq!(clock.first, u64::from(0u32.wrapping_sub(300 * hz as u32)), "INITIAL_JIFFIES");
            for s in [0, 1, 60, 86_400, MONTH] {
                let told = u64::from(clock.seconds(clock.first + s * hz + hz / 2));
                assert!(told.abs_diff(s) <= 1, "{s} s with {hz} ticks a second: {told}");
                assert_eq!(u64::from(clock.seconds_at(s * 1_000_000_000 + 500_000_000)), told);
            }
        }
    }
}
