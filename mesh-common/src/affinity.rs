//! Whether a client still keeps the backend that it got: for the stage that chooses, on the first packets of services with affinity.
//!
//! Pure: the clock and the service's time come in from outside. That the backend is still there to be kept is not judged here.

use crate::schema::Affinity;

/// Such a packet still goes to the backend that its client was given. `opens`: it may be a flow's first one. Any other belongs to a flow whose entry was
/// lost, and the last choice that is known, however old, is the likeliest to have been that flow's.
#[inline(always)]
pub const fn holds(kept: &Affinity, now_s: u32, timeout_s: u32, opens: bool) -> bool {
    // Another processor may be a tick ahead.
    !opens || now_s.saturating_sub(kept.last_new_s) < timeout_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_backend_for_the_seconds_after_its_last_new_flow() {
        let kept = Affinity { backend: 7, last_new_s: 100 };
        for (now_s, opens, expected) in
            [(100, true, true), (99, true, true), (159, true, true), (160, true, false), (160, false, true)]
        {
            assert_eq!(holds(&kept, now_s, 60, opens), expected, "at {now_s}, opens {opens}");
        }
    }
}
