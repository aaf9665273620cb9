//! The clock of flow entries: what it is on this kernel, and what it shows now.

use mesh_common::clock::Clock;
use nix::time::{ClockId, clock_getres, clock_gettime};

/// The coarse clock moves by ticks: its resolution is how long one is.
pub fn of_this_kernel() -> Clock {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
    Clock::of_tick(tick.map_or(0, |tick| tick.tv_nsec() as u64))
}

/// Nanoseconds of the monotonic clock.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Seconds, as the programs stamp flows with them.
pub fn now_s() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| of_this_kernel().seconds_at(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64))
}
