//! From probes to a verdict, as the Docker Engine has it: a pass is healthy at once, `retries` failures in a row are unhealthy, and
//! before the first pass failures inside the start period don't count (moby, daemon/health.go: handleProbeResult, getInterval).
//!
//! Pure: times come in. Must not: run anything.

use serde::{Deserialize, Serialize};

use crate::model::{HealthCheck, TaskHealth, UnixMs};

/// What is known of a task's health; `health.json`, so that the next agent goes on from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    pub health: TaskHealth,
    /// Failures in a row that counted.
    pub failing_streak: u32,
    /// What the last failed probe came to, in one line; empty after a pass.
    pub last_failure: String,
}

impl Default for HealthRecord {
    fn default() -> Self {
        HealthRecord { health: TaskHealth::Starting, failing_streak: 0, last_failure: String::new() }
    }
}

/// One run of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub began_at: UnixMs,
    /// None: it passed; else why not, in one line.
    pub failure: Option<String>,
}

/// Judges one task.
#[derive(Clone, Debug)]
pub struct Judge {
    check: HealthCheck,
    started_at: UnixMs,
    record: HealthRecord,
}

impl Judge {
    pub fn new(check: &HealthCheck, started_at: UnixMs, record: HealthRecord) -> Self {
        Judge { check: check.with_defaults(), started_at, record }
    }

    /// With defaults for what is 0.
    pub fn check(&self) -> &HealthCheck {
        &self.check
    }

    pub fn record(&self) -> &HealthRecord {
        &self.record
    }

    /// From now to the next probe, where none runs.
    pub fn pause_ms(&self, now: UnixMs) -> u64 {
        if self.is_starting(now) { self.check.start_interval_ms } else { self.check.interval_ms }
    }

    /// Takes a probe into account; Some: the verdict has changed to this.
    pub fn hear(&mut self, probe: Probe) -> Option<TaskHealth> {
        let before = self.record.health;
        match probe.failure {
            None => self.record = HealthRecord { health: TaskHealth::Healthy, ..HealthRecord::default() },
            Some(failure) => {
                if !self.is_starting(probe.began_at) {
                    self.record.failing_streak = self.record.failing_streak.saturating_add(1);
                }
                if self.record.failing_streak >= self.check.retries {
                    self.record.health = TaskHealth::Unhealthy;
                }
                self.record.last_failure = failure;
            }
        }
        (self.record.health != before).then_some(self.record.health)
    }

    /// In the start period, which the first pass ends.
    fn is_starting(&self, at: UnixMs) -> bool {
        self.record.health == TaskHealth::Starting && at.saturating_sub(self.started_at) < self.check.start_period_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: UnixMs = 1_000_000;

    fn judge(retries: u32, start_period_ms: u64) -> Judge {
        let check = HealthCheck {
            command: vec!["check".into()],
            interval_ms: 30_000,
            timeout_ms: 1_000,
            retries,
            start_period_ms,
            start_interval_ms: 2_000,
        };
        Judge::new(&check, STARTED, HealthRecord::default())
    }

    fn probe(after_ms: u64, passed: bool) -> Probe {
        Probe { began_at: STARTED + after_ms, failure: (!passed).then(|| "exit 1".to_owned()) }
    }

    /// Plays `p`asses and `f`ailures a second apart; the verdicts that were told.
    fn play(judge: &mut Judge, probes: &str) -> Vec<TaskHealth> {
        let probes = probes.chars().zip(1..);
        probes.filter_map(|(outcome, second)| judge.hear(probe(second * 1_000, outcome == 'p'))).collect()
    }

    #[test]
    fn the_first_pass_is_healthy_and_so_many_failures_in_a_row_are_not() {
        use TaskHealth::{Healthy, Unhealthy};
        for (probes, verdicts) in [
            ("", &[][..]),
            ("p", &[Healthy]),
            ("ff", &[]),
            ("fff", &[Unhealthy]),
            ("ffpff", &[Healthy]),
            ("pffpffp", &[Healthy]),
            ("pfffff", &[Healthy, Unhealthy]),
            ("fffp", &[Unhealthy, Healthy]),
        ] {
            assert_eq!(play(&mut judge(3, 0), probes), verdicts, "{probes}");
        }
        assert_eq!(play(&mut judge(1, 0), "f"), [Unhealthy]);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_the_first_pass() {
        use TaskHealth::{Healthy, Unhealthy};
        // Five seconds: failures at 1 to 4 s are free, those at 5 and 6 s are not.
        assert_eq!(play(&mut judge(2, 5_000), "fffff"), []);
        assert_eq!(play(&mut judge(2, 5_000), "ffffff"), [Unhealthy]);
        // A pass ends the period.
        assert_eq!(play(&mut judge(2, 60_000), "pff"), [Healthy, Unhealthy]);
        assert_eq!(play(&mut judge(2, 60_000), "fffffffff"), []);
    }

    #[test]
    fn probes_are_closer_together_while_a_task_starts() {
        let mut judge = judge(3, 10_000);
        assert_eq!(judge.pause_ms(STARTED), 2_000);
        assert_eq!(judge.pause_ms(STARTED + 9_999), 2_000);
        assert_eq!(judge.pause_ms(STARTED + 10_000), 30_000);
        judge.hear(probe(100, true));
        assert_eq!(judge.pause_ms(STARTED + 200), 30_000);
    }

    #[test]
    fn what_is_zero_is_dockers_default() {
        let check = HealthCheck { command: vec!["check".into()], ..HealthCheck::default() };
        let mut judge = Judge::new(&check, STARTED, HealthRecord::default());
        assert_eq!((judge.pause_ms(STARTED), judge.check().timeout_ms), (30_000, 30_000));
        assert_eq!(play(&mut judge, "ff"), []);
        assert_eq!(play(&mut judge, "f"), [TaskHealth::Unhealthy]);
    }

    #[test]
    fn another_agent_goes_on_with_the_streak() {
        let mut first = judge(3, 0);
        assert_eq!(play(&mut first, "pff"), [TaskHealth::Healthy]);
        let kept = serde_json::to_string(first.record()).expect("JSON");
        let mut next = Judge::new(first.check(), STARTED, serde_json::from_str(&kept).expect("read"));
        assert_eq!(next.record().health, TaskHealth::Healthy);
        assert_eq!(next.hear(probe(9_000, false)), Some(TaskHealth::Unhealthy));
        assert_eq!(next.record().last_failure, "exit 1");
    }
}
