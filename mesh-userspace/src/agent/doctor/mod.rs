//! The check-up of this node: facts gathered from the edges, judged by the pure room `doctor`.
//!
//! Once at the agent's start, hourly from then on, every half minute while something is wrong, when the cluster gets or loses a node, and
//! whenever `mesh doctor` asks. What is not ok goes to the log when it is new, and to the warnings of `mesh status` until it is mended.
//! Must not: change anything on this machine (a trial load of the programs is gone when it is over).

mod machine;
mod network;
mod path;
mod peers;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use network::ports;

use super::member::Member;
use super::{Agent, Settings};
use crate::doctor::{Facts, Finding, Programs, judge};
use crate::kernel::net::HostNet;
use crate::model::Id;

/// Whether a check-up is due is asked so often.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_secs(3600);
/// While something is wrong: mended things leave `mesh status` within this time.
const WHILE_WRONG: Duration = Duration::from_secs(30);
/// A new peer is given so long to be heard of before it is judged.
const SETTLE: Duration = Duration::from_secs(10);
/// Told by `mesh status` itself, from fresher facts.
const TOLD_ELSEWHERE: [&str; 3] = ["published", "peers", "xdp"];

/// What the last check-up found.
#[derive(Default)]
pub struct Checkup {
    last: Mutex<Vec<Finding>>,
    /// What the last trial load of the programs came to, and when.
    trial: Mutex<Option<(Instant, Programs)>>,
    /// One at a time: echoes of two would be taken for each other's.
    turn: tokio::sync::Mutex<()>,
}

impl Checkup {
    /// For `mesh status`.
    pub fn complaints(&self) -> Vec<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = |finding: &&Finding| !TOLD_ELSEWHERE.contains(&finding.check.as_str());
        last.iter().filter(is_news).filter_map(Finding::complaint).collect()
    }

    /// A trial load costs the verifier's time and all maps' memory, and its outcome hardly changes: it is good for as long as a check-up
    /// that found nothing wrong.
    fn last_trial(&self, now: Instant) -> Option<Programs> {
        let trial = self.trial.lock().unwrap_or_else(PoisonError::into_inner);
        trial.as_ref().filter(|(at, _)| now - *at < EVERY).map(|(_, programs)| programs.clone())
    }

    fn keep_trial(&self, now: Instant, programs: &Programs) {
        if let Programs::Tried(_) = programs {
            *self.trial.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, programs.clone()));
        }
    }

    /// Keeps what was found; what was not wrong before is said.
    fn keep(&self, findings: Vec<Finding>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for finding in findings.iter().filter(|finding| !last.contains(finding)) {
            if let Some(complaint) = finding.complaint() {
                log::warn!("{complaint}");
            }
        }
        *last = findings;
    }
}

/// A check-up now; its findings are kept. Where it was `asked` for, everything is tried anew.
pub async fn examine(agent: &Arc<Agent>, asked: bool) -> Vec<Finding> {
    let _turn = agent.checkup.turn.lock().await;
    let member = agent.member.read().await.clone();
    // A netlink socket of its own: the kernel refuses a second listing on one that is listing already, and rounds go on meanwhile.
    let net = match HostNet::open(&agent.args.state_dir) {
        Ok(net) => net,
        Err(error) => {
            let remedy = "look whether this process may open more files (LimitNOFILE), and restart the agent";
            return vec![Finding::failed("check-up", error.to_string(), remedy)];
        }
    };
    let trial = if asked { None } else { agent.checkup.last_trial(Instant::now()) };
    let is_new = trial.is_none();
    let facts = gather(&agent.args, &net, Some(&agent.cgroup), member.as_ref(), trial).await;
    if is_new {
        agent.checkup.keep_trial(Instant::now(), &facts.machine.programs);
    }
    let findings = judge(&facts);
    agent.checkup.keep(findings.clone());
    if let Some(member) = &member {
        member.kernel.set_notes(agent.checkup.complaints());
    }
    findings
}

/// Check-ups for ever.
pub async fn watch(agent: Arc<Agent>) {
    let mut members: Option<BTreeSet<Id>> = None;
    let mut last = Instant::now();
    let mut is_first = true;
    loop {
        let now = match agent.member.read().await.as_ref() {
            Some(member) => member.desired.get().nodes.keys().cloned().collect(),
            None => BTreeSet::new(),
        };
        let is_wrong = !agent.checkup.complaints().is_empty();
        let is_changed = members.as_ref() != Some(&now);
        if is_first || is_changed || last.elapsed() >= if is_wrong { WHILE_WRONG } else { EVERY } {
            if is_changed && !now.is_empty() {
                sleep(SETTLE).await;
            }
            examine(&agent, false).await;
            (members, last, is_first) = (Some(now), Instant::now(), false);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// `mesh doctor` where no agent answers: the machine alone.
pub fn doctor(args: Settings) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(async {
        let net = HostNet::open(&args.state_dir)?;
        Ok(judge(&gather(&args, &net, None, None, None).await))
    });
    runtime.shutdown_background();
    findings
}

/// `cgroup` is known where an agent runs; `trial` is the outcome of a trial load that is still good.
async fn gather(
    args: &Settings,
    net: &HostNet,
    cgroup: Option<&std::path::Path>,
    member: Option<&Arc<Member>>,
    trial: Option<Programs>,
) -> Facts {
    let machine = machine::gather(args, cgroup, member.is_some(), trial).await;
    let cgroup = machine.cgroup.as_ref().ok().filter(|_| machine.is_root).cloned();
    Facts {
        network: network::gather(args, net, cgroup.as_deref(), member).await,
        peers: match member {
            Some(member) => peers::gather(member).await,
            None => None,
        },
        machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_loaded_for_trial_once_an_hour_whatever_else_is_wrong() {
        let (checkup, at) = (Checkup::default(), Instant::now());
        assert!(checkup.last_trial(at).is_none());
        checkup.keep_trial(at, &Programs::Tried(Err("refused".into())));
        let kept = checkup.last_trial(at + WHILE_WRONG);
        assert!(matches!(kept, Some(Programs::Tried(Err(why))) if why == "refused"));
        checkup.keep_trial(at, &Programs::Loaded);
        assert!(checkup.last_trial(at + WHILE_WRONG).is_some(), "what an agent has loaded is no trial");
        assert!(checkup.last_trial(at + EVERY).is_none());
    }
}
