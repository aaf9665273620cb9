//! What the programs have counted of floods (`FLOODS`), over all CPUs, and what the user is told of one.

use mesh_common::flood;
use mesh_common::schema::Flood;

/// What the programs have counted of new flows, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloodSeen {
    /// CPUs on which a flood is on.
    pub cpus: usize,
    /// New flows a second on those.
    pub rate: u64,
    /// Entries written beside the table in floods, ever.
    pub spilled: u64,
    /// Entries that proved themselves and came into the table, ever.
    pub promoted: u64,
}

impl FloodSeen {
    pub(super) fn of(cpus: &[Flood], now_s: u32) -> Self {
        let mut sum = FloodSeen::default();
        for flood in cpus {
            if flood::is_on(flood, now_s) {
                sum.cpus += 1;
                sum.rate += u64::from(flood::rate(flood, now_s));
            }
            sum.spilled += flood.spilled;
            sum.promoted += flood.promoted;
        }
        sum
    }

    /// What the user is told while it is on.
    pub fn warning(&self, threshold: u32) -> Option<String> {
        let FloodSeen { cpus, rate, spilled, promoted } = self;
        let on = if *cpus == 1 { "1 CPU" } else { &format!("{cpus} CPUs") };
        (*cpus != 0).then(|| {
            format!(
                "a flood of new flows: {rate} a second on {on}, more than --flood-threshold {threshold} each. Connections that stand go on; \
                 new ones are kept apart until they prove themselves ({spilled} entries apart so far, {promoted} proven)"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_with_its_rate_while_it_is_on_and_no_longer() {
        let on = |second, count| Flood { second, count, before: 200, is_on: 1, spilled: 40, promoted: 10 };
        let cpus = [on(7, 500), on(6, 300), Flood { spilled: 1, ..Flood::default() }];
        let seen = FloodSeen::of(&cpus, 7);
        assert_eq!(seen, FloodSeen { cpus: 2, rate: 800, spilled: 81, promoted: 20 });
        let told = seen.warning(100).expect("it is on");
        assert!(told.contains("800 a second on 2 CPUs") && told.contains("--flood-threshold 100"), "{told}");
        let later = FloodSeen::of(&cpus, 9);
        assert_eq!((later.cpus, later.spilled, later.warning(100)), (0, 81, None));
    }
}
