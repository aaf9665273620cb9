//! Ports for tasks' way to the outside: which range, and in which order to try.

/// First source port of translated flows: above Linux's default ephemeral range (32768–60999, ip-sysctl.rst).
pub const FIRST_PORT: u16 = 61_000;
/// Number of ports in the range: up to 65535.
pub const PORT_COUNT: u16 = (u16::MAX - FIRST_PORT) + 1;
/// How many ports are tried for one new flow before it is refused.
pub const TRIES: u32 = 16;

/// The port to try at the given attempt; attempts of one flow are far apart.
#[inline(always)]
pub const fn candidate(hash: u32, attempt: u32) -> u16 {
    let step = hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b1));
    FIRST_PORT + (((step as u64) * PORT_COUNT as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_stay_in_the_range_and_differ() {
        for hash in (0..u32::MAX).step_by(0x00ff_fff1) {
            let mut seen: Vec<u16> = (0..TRIES).map(|attempt| candidate(hash, attempt)).collect();
            assert!(seen.iter().all(|port| *port >= FIRST_PORT));
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), TRIES as usize);
        }
    }
}
