//! A row: one thing measured, beside what it is compared with and what was aimed at.
//!
//! Every part of the benchmark makes rows; table, JSON and plot show nothing else. Invariant: a row that could not be measured says
//! why and has no number; it is never met.

use super::statistics::{self, Summary};

/// What was aimed at, and at which of the row's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The ratio to the reference.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// The value itself, in the row's unit.
    ValueAtMost(f64),
    ValueAtLeast(f64),
}

impl Target {
    /// The number aimed at.
    pub fn bound(self) -> f64 {
        match self {
            Target::RatioAtMost(bound)
            | Target::RatioAtLeast(bound)
            | Target::ValueAtMost(bound)
            | Target::ValueAtLeast(bound) => bound,
        }
    }

    /// The ratio is judged, not the value.
    pub fn is_of_ratio(self) -> bool {
        matches!(self, Target::RatioAtMost(_) | Target::RatioAtLeast(_))
    }

    /// Less is better.
    pub fn is_at_most(self) -> bool {
        matches!(self, Target::RatioAtMost(_) | Target::ValueAtMost(_))
    }
}

/// What a target says of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The median holds the target.
    pub met: bool,
    /// The whole interval is on the median's side of it: another run would most likely say the same.
    pub sure: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured; the same in every run, for comparisons.
    pub name: String,
    /// Unit of value and reference.
    pub unit: &'static str,
    pub value: Option<Summary>,
    /// What the value is compared with, and its readings.
    pub reference: Option<(String, Summary)>,
    /// Value by reference, pair by pair.
    pub ratio: Option<Summary>,
    pub target: Option<Target>,
    /// Why there is no number, or what one must know to read it.
    pub note: Option<String>,
}

impl Row {
    /// Readings (value, reference) that were taken in turns.
    pub fn pairs(name: impl Into<String>, unit: &'static str, against: &str, pairs: &[(f64, f64)]) -> Row {
        let value: Vec<f64> = pairs.iter().map(|(value, _)| *value).collect();
        let reference: Vec<f64> = pairs.iter().map(|(_, reference)| *reference).collect();
        Row {
            reference: Summary::of(&reference).map(|summary| (against.to_owned(), summary)),
            ratio: statistics::ratio(pairs),
            ..Row::alone(name, unit, &value)
        }
    }

    /// Readings beside nothing.
    pub fn alone(name: impl Into<String>, unit: &'static str, readings: &[f64]) -> Row {
        Row {
            name: name.into(),
            unit,
            value: Summary::of(readings),
            reference: None,
            ratio: None,
            target: None,
            note: None,
        }
    }

    /// What can't be measured here or yet.
    pub fn missing(name: impl Into<String>, unit: &'static str, why: impl Into<String>) -> Row {
        Row::alone(name, unit, &[]).note(why)
    }

    pub fn target(self, target: impl Into<Option<Target>>) -> Row {
        Row { target: target.into(), ..self }
    }

    pub fn note(self, note: impl Into<String>) -> Row {
        Row { note: Some(note.into()), ..self }
    }

    /// The numbers that the target is about: of the ratio, or of the value.
    pub fn judged(&self) -> Option<Summary> {
        match self.target {
            Some(target) if !target.is_of_ratio() => self.value,
            _ => self.ratio,
        }
    }

    /// None where nothing was aimed at, or nothing measured to judge.
    pub fn judgement(&self) -> Option<Judgement> {
        let (target, judged) = (self.target?, self.judged()?);
        let holds = |number: f64| if target.is_at_most() { number <= target.bound() } else { number >= target.bound() };
        let met = holds(judged.median);
        let sure = judged.interval.is_some_and(|(low, high)| holds(low) == met && holds(high) == met);
        Some(Judgement { met, sure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(middle: f64) -> Vec<(f64, f64)> {
        (0..11).map(|n| (middle + f64::from(n - 5), 100.0)).collect()
    }

    #[test]
    fn a_target_is_judged_by_the_median_and_sure_by_the_interval() {
        let judge = |middle, target| Row::pairs("x", "ns", "bare", &around(middle)).target(target).judgement().unwrap();
        assert_eq!(judge(110.0, Target::RatioAtMost(1.25)), Judgement { met: true, sure: true });
        assert_eq!(judge(124.0, Target::RatioAtMost(1.25)), Judgement { met: true, sure: false });
        assert_eq!(judge(140.0, Target::RatioAtMost(1.25)), Judgement { met: false, sure: true });
        assert_eq!(judge(120.0, Target::RatioAtLeast(1.15)), Judgement { met: true, sure: true });
        assert_eq!(judge(90.0, Target::ValueAtMost(92.0)), Judgement { met: true, sure: false });
        assert_eq!(judge(90.0, Target::ValueAtLeast(96.0)), Judgement { met: false, sure: true });
    }

    #[test]
    fn what_was_not_measured_is_never_met() {
        let row = Row::missing("x", "ns", "no program").target(Target::RatioAtMost(2.0));
        assert_eq!(row.judgement(), None);
        // Against a reference of nothing there is no ratio to judge, though there is a value.
        let row = Row::pairs("x", "ns", "bare", &[(5.0, 0.0)]).target(Target::RatioAtMost(2.0));
        assert!(row.value.is_some());
        assert_eq!(row.judgement(), None);
        assert_eq!(Row::pairs("x", "ns", "bare", &around(100.0)).judgement(), None);
    }
}
