//! Readings to numbers: the middle, and how sure it is.
//!
//! The interval of a median is that of order statistics: of `n` independent readings the one at rank `r` from below and the one at rank
//! `r` from above enclose the true median with probability 1 − 2·P(B ≤ r − 1), B binomial (n, ½). No shape of the distribution is
//! assumed, which suits times: they have a long tail on one side (W. J. Conover, Practical Nonparametric Statistics, 3rd ed., 1999, §3.2;
//! J.-Y. Le Boudec, Performance Evaluation of Computer and Communication Systems, 2010, §2.2). Invariant: never narrower than it may be.

/// Pairs that a ratio is judged by, at least.
pub const PAIRS: usize = 11;
/// How often the interval may miss the true median.
const ERROR: f64 = 0.05;

/// What a series of readings shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub min: f64,
    pub median: f64,
    pub max: f64,
    /// The median's interval of 95 % or more; none of fewer than six readings.
    pub interval: Option<(f64, f64)>,
    /// How many readings.
    pub count: usize,
}

impl Summary {
    /// None of no readings, or of one that is no number.
    pub fn of(readings: &[f64]) -> Option<Summary> {
        if readings.is_empty() || readings.iter().any(|reading| !reading.is_finite()) {
            return None;
        }
        let mut sorted = readings.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (count, middle) = (sorted.len(), sorted.len() / 2);
        let median = if count % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        let interval = rank(count).map(|rank| (sorted[rank - 1], sorted[count - rank]));
        Some(Summary { min: sorted[0], median, max: sorted[count - 1], interval, count })
    }
}

/// The ratio of each pair (value, reference). None where a reference is zero or below it: nothing can be said relative to that.
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Summary> {
    if pairs.iter().any(|(_, reference)| *reference <= 0.0) {
        return None;
    }
    Summary::of(&pairs.iter().map(|(value, reference)| value / reference).collect::<Vec<_>>())
}

/// The greatest rank, counted from 1, whose readings from both ends still enclose the median surely enough.
fn rank(count: usize) -> Option<usize> {
    // P(B = k) one after the other; 2^-n is a normal number for every count that anyone waits for.
    let mut term = 0.5f64.powi(i32::try_from(count).ok()?);
    let mut below = 0.0;
    let mut rank = None;
    for k in 0..count / 2 {
        below += term;
        if 2.0 * below > ERROR {
            break;
        }
        rank = Some(k + 1);
        term *= (count - k) as f64 / (k + 1) as f64;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_published_table() {
        // Le Boudec, table A.1 (95 %): none below 6; (1, 6), (1, 8), (2, 9), (2, 10), (3, 10), (4, 12), (6, 15), (10, 21).
        for (count, expected) in [(5, None), (6, Some(1)), (8, Some(1)), (9, Some(2)), (11, Some(2)), (12, Some(3))] {
            assert_eq!(rank(count), expected, "{count} readings");
        }
        for (count, expected) in [(15, 4), (20, 6), (30, 10)] {
            assert_eq!(rank(count), Some(expected), "{count} readings");
        }
    }

    #[test]
    fn the_order_of_readings_does_not_matter() {
        let readings = [7.0, 1.0, 3.0, 11.0, 5.0, 2.0, 10.0, 4.0, 9.0, 6.0, 8.0];
        let summary = Summary::of(&readings).unwrap();
        assert_eq!((summary.min, summary.median, summary.max), (1.0, 6.0, 11.0));
        assert_eq!((summary.interval, summary.count), (Some((2.0, 10.0)), 11));
    }

    #[test]
    fn an_even_count_has_its_median_between_two_readings() {
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() {
        // A machine that slows to a third in the last pair harms both alike.
        let ratio = ratio(&[(20.0, 10.0), (22.0, 10.0), (60.0, 30.0)]).unwrap();
        assert_eq!((ratio.median, ratio.max), (2.0, 2.2));
        assert_eq!(super::ratio(&[(1.0, 0.0)]), None);
        assert_eq!(super::ratio(&[]), None);
    }

    #[test]
    fn the_interval_encloses_the_median_as_often_as_it_says() {
        // A fixed generator (Knuth's MMIX constants): uniform readings in [0, 1), whose true median is one half.
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let rounds = 4_000;
        let enclosed = (0..rounds).filter(|_| {
            let readings: Vec<f64> = (0..PAIRS).map(|_| draw()).collect();
            let (low, high) = Summary::of(&readings).unwrap().interval.unwrap();
            low <= 0.5 && 0.5 <= high
        });
        // 98.8 % by the binomial; three standard deviations of 4,000 rounds are half a percent.
        let share = enclosed.count() as f64 / f64::from(rounds);
        assert!((0.983..=0.993).contains(&share), "{share}");
    }
}
