//! The other nodes: who answers on which port, whose clock differs, how large a packet gets through, whether names resolve.
//!
//! A firewall shows here, by what stays silent; its rules are never read.

use super::{Api, Finding, PathMtu, Peer, Peers};

/// More than this apart: records and logs of the nodes contradict each other.
const APART_MS: u64 = 1_000;
/// More than this apart: certificates are taken for not yet valid.
const FAR_APART_MS: u64 = 60_000;

pub(super) fn judge(peers: &Peers) -> Vec<Finding> {
    let mut findings = of_each(&peers.peers, "peers", "no other nodes yet", |peer| answers(peer, peers.data_port));
    findings.extend(clock(&peers.peers));
    findings.extend(mtu(peers));
    if let Some((task, said)) = &peers.names {
        findings.push(match said {
            Ok(()) => Finding::ok("names", format!("task {task} is answered by its name server")),
            Err(why) => Finding::failed(
                "names",
                format!("task {task} gets no answer from its name server: {why}"),
                "let the host's firewall accept 53/udp and 53/tcp on mesh0 (INPUT chain); `mesh status` tells if the \
                 resolver itself is in trouble",
            ),
        });
    }
    findings
}

/// A finding for each that has one; else one that says so of all.
fn of_each(peers: &[Peer], check: &str, nobody: &str, judge: impl Fn(&Peer) -> Option<Finding>) -> Vec<Finding> {
    let found: Vec<Finding> = peers.iter().filter_map(judge).collect();
    match (found.is_empty(), peers) {
        (false, _) => found,
        (true, []) => vec![Finding::ok(check, nobody)],
        (true, all) => {
            vec![Finding::ok(check, format!("{} answer on {} and the data path", names(all), ports(all)))]
        }
    }
}

/// `2377/tcp, 7946/udp`, or in words where nodes have different ones.
fn ports(peers: &[Peer]) -> String {
    let of = |peer: &Peer| format!("{}/tcp, {}/udp", peer.api_addr.port(), peer.gossip_addr.port());
    match peers.split_first() {
        Some((first, others)) if others.iter().all(|other| of(other) == of(first)) => of(first),
        _ => "the ports of their API and gossip".into(),
    }
}

fn names(peers: &[Peer]) -> String {
    peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn answers(peer: &Peer, data_port: u16) -> Option<Finding> {
    let name = &peer.name;
    let mut silent = Vec::new();
    // A narrow path swallows certificates too; it has a finding of its own.
    let is_narrow = matches!(peer.path, PathMtu::Only(_));
    if let (Api::Failed(why), false) = (&peer.api, is_narrow) {
        silent.push(format!("{}/tcp of {} ({why})", peer.api_addr.port(), peer.api_addr.ip()));
    }
    if peer.is_alive != Some(true) {
        silent.push(format!("{}/udp of {}", peer.gossip_addr.port(), peer.gossip_addr.ip()));
    }
    if !peer.is_reached {
        silent.push(format!("{data_port}/udp of {}", peer.data_path_addr));
    }
    if silent.is_empty() {
        return None;
    }
    let is_gone = silent.len() == 3;
    let found = format!("{name} does not answer: {}", silent.join(", "));
    let remedy = if is_gone {
        format!("see that {name} is on, its network plugged in and its agent started (systemctl start mesh there)")
    } else {
        format!(
            "what else it has answers, so look at firewalls on {name}, here and between: let them accept {api}/tcp, \
             {gossip}/tcp, {gossip}/udp and {data_port}/udp between nodes (INPUT chain)",
            api = peer.api_addr.port(),
            gossip = peer.gossip_addr.port()
        )
    };
    Some(Finding::warning("peers", found, remedy))
}

fn clock(peers: &[Peer]) -> Vec<Finding> {
    let offset = |peer: &Peer| match peer.api {
        // Half the time it took is the most that the measurement may be wrong by.
        Api::Answered { ahead_ms, took_ms } => Some((ahead_ms, ahead_ms.unsigned_abs().saturating_sub(took_ms / 2))),
        Api::Failed(_) => None,
    };
    let judge = |peer: &Peer| {
        let (ahead_ms, apart_ms) = offset(peer)?;
        if apart_ms <= APART_MS {
            return None;
        }
        let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let found = format!("the clock of {} is {:.1} s {direction} ours", peer.name, apart_ms as f64 / 1000.0);
        let remedy = "let NTP set both clocks (systemctl enable --now systemd-timesyncd, or chrony)";
        let make = if apart_ms > FAR_APART_MS { Finding::failed } else { Finding::warning };
        Some(make("clock", found, remedy.to_string()))
    };
    let found: Vec<Finding> = peers.iter().filter_map(judge).collect();
    if !found.is_empty() {
        return found;
    }
    let worst = peers.iter().filter_map(offset).map(|(_, apart_ms)| apart_ms).max();
    worst.map(|worst| Finding::ok("clock", format!("within {worst} ms of the other nodes'"))).into_iter().collect()
}

fn mtu(peers: &Peers) -> Vec<Finding> {
    let (Some(overlay), Some(outer)) = (peers.overlay_mtu, peers.outer_mtu) else { return Vec::new() };
    let added = outer.saturating_sub(overlay);
    let judge = |peer: &Peer| {
        let name = &peer.name;
        match peer.path {
            PathMtu::NotTried => None,
            PathMtu::Whole => {
                let said = format!("to {name} packets of {outer} bytes pass and come back: {overlay} for tasks");
                Some(Finding::ok("mtu", said))
            }
            PathMtu::Only(passed) => {
                let path = passed + added;
                Some(Finding::failed(
                    "mtu",
                    format!(
                        "to {name} packets of {outer} bytes are lost, the largest that pass have {path}: connections to its \
                     tasks hang on large answers"
                    ),
                    format!(
                        "set the MTU of the links between to {outer}, or tell this host of the narrow path: ip link set mtu \
                     {path} dev … on both nodes (tasks then get {passed})"
                    ),
                ))
            }
        }
    };
    let found: Vec<Finding> = peers.peers.iter().filter_map(judge).collect();
    if !found.is_empty() {
        return found;
    }
    vec![Finding::ok("mtu", format!("{overlay} for tasks, {outer} on the wire"))]
}
