//! What this machine lacks or has wrong, each with its remedy: facts in, findings out.
//!
//! The agent gathers [`Facts`] from the edges (at its start, hourly, and when `mesh doctor` asks); [`judge`] says what they mean.
//! Invariant: a finding that is not ok has a remedy, in words or as a command that can be typed; a check that could not be made is no
//! finding, unless that itself is the trouble.
//! Must not: read anything, or know which edge a fact came from.

mod facts;
mod machine;
mod network;
mod peers;
mod ports;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use facts::{
    Api, Clock, Engine, Facts, Ipsec, Machine, Network, Occasion, OtherProgram, PathMtu, Peer, Peers, PortFact,
    PortUser, Programs, Purpose, StateDir, Xdp,
};
pub use machine::{OLDEST_KERNEL, kernel_version};
pub use ports::clash;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works, but not everything, or not for ever.
    Warning,
    /// The node can't do its work.
    Failed,
}

/// One row of `mesh doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two: `kernel`, `ports`.
    pub check: String,
    pub state: State,
    pub found: String,
    /// None where the state is ok.
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Finding { check: check.into(), state: State::Ok, found: found.into(), remedy: None }
    }

    pub fn warning(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { check: check.into(), state: State::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub fn failed(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { check: check.into(), state: State::Failed, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// For the log and for `mesh status`; None where there is nothing to say.
    pub fn complaint(&self) -> Option<String> {
        let remedy = self.remedy.as_ref()?;
        (self.state != State::Ok).then(|| format!("{}: {}: {remedy}", self.check, self.found))
    }
}

/// Every check, in the order of the table: the machine, its network, the other nodes.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = machine::judge(&facts.machine, &facts.network.ports);
    findings
        .extend(machine::clock(facts.machine.clock, facts.peers.as_ref().is_some_and(|peers| !peers.peers.is_empty())));
    findings.extend(network::judge(&facts.network));
    if let Some(peers) = &facts.peers {
        findings.extend(peers::judge(peers));
    }
    findings
}
