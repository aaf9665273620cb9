//! The ports that nodes talk on: who else has one, and by which flags mesh takes others.

use super::{Finding, Occasion, PortFact, PortUser, Purpose};

/// What an Engine that is in a Swarm listens on, sooner or later.
pub(super) const PORTS_OF_SWARM: [&str; 4] = ["2377/tcp", "7946/tcp", "7946/udp", "4789/udp"];

pub(super) fn judge(ports: &[PortFact], occasion: Occasion) -> Vec<Finding> {
    let taken = |fact: &PortFact| match &fact.user {
        PortUser::Other(user) => Some(Finding::failed(
            "ports",
            format!("{}, which mesh needs for {}, is in use by {user}", fact.port, fact.purpose),
            remedy(ports, occasion),
        )),
        _ => None,
    };
    let found: Vec<Finding> = ports.iter().filter_map(taken).collect();
    if !found.is_empty() || ports.is_empty() {
        return found;
    }
    let list = |user: PortUser| -> Vec<&str> {
        ports.iter().filter(|fact| fact.user == user).map(|fact| fact.port.as_str()).collect()
    };
    let said: Vec<String> = [(list(PortUser::Ours), "held by this agent"), (list(PortUser::Free), "free")]
        .into_iter()
        .filter(|(ports, _)| !ports.is_empty())
        .map(|(ports, what)| format!("{} {what}", ports.join(", ")))
        .collect();
    vec![Finding::ok("ports", said.join("; "))]
}

/// Every port of ours that somebody else has, by whom, and what to do, in one line; None where none is.
pub fn clash(ports: &[PortFact], occasion: Occasion) -> Option<String> {
    let name = |fact: &PortFact| {
        // A joiner does not know the cluster's data port yet: it looks at the usual one.
        let unless = match (occasion, fact.purpose) {
            (Occasion::Join, Purpose::Tunnel) => " unless the cluster has another --data-path-port",
            _ => "",
        };
        let user = other(fact)?;
        Some(format!("{} ({}{unless}) by {user}", fact.port, fact.purpose))
    };
    let taken: Vec<String> = ports.iter().filter_map(name).collect();
    (!taken.is_empty()).then(|| format!("ports of mesh are in use: {}: {}", taken.join(", "), remedy(ports, occasion)))
}

fn other(fact: &PortFact) -> Option<&str> {
    match &fact.user {
        PortUser::Other(user) => Some(user),
        PortUser::Free | PortUser::Ours => None,
    }
}

/// One for all ports together: other ports, or the end of who has them.
fn remedy(ports: &[PortFact], occasion: Occasion) -> String {
    let users: Vec<&str> = ports.iter().filter_map(other).collect();
    if users.iter().any(|user| user.starts_with("mesh ")) {
        return "it looks like an agent of another socket: use that one (--socket), or end it".into();
    }
    let has_swarm = users.iter().any(|user| user.starts_with("dockerd"));
    let end = if has_swarm {
        "end Docker Swarm, when its services are taken over, with `docker swarm leave --force`"
    } else {
        "stop who has them"
    };
    let flags = flags(ports, occasion, has_swarm);
    let command = match occasion {
        Occasion::Start => {
            return format!("this node entered its cluster with these ports, so they can't be others now: {end}");
        }
        // The cluster's own port is the only one in use.
        _ if flags.is_empty() => {
            return format!("{end}, or start the cluster on another port with `mesh swarm init --data-path-port`");
        }
        Occasion::Init => format!("`mesh swarm init {flags}`"),
        Occasion::Join => format!("`mesh swarm join {flags}`"),
        Occasion::Alone => format!("`mesh swarm init {flags}` (`join` takes --listen-addr and --gossip-port, too)"),
    };
    format!("take others beside it with {command}, or else {end}")
}

/// The flags that name a free port in place of each that is taken. Where a Swarm is active, all of its ports are: Docker takes 2377 when it
/// promotes the node, and 4789 with its first overlay network.
fn flags(ports: &[PortFact], occasion: Occasion, has_swarm: bool) -> String {
    let mut flags: Vec<String> = Vec::new();
    for fact in ports {
        let is_swarms = has_swarm && PORTS_OF_SWARM.contains(&fact.port.as_str());
        let (true, Some(instead)) = (other(fact).is_some() || is_swarms, fact.instead) else { continue };
        let flag = match fact.purpose {
            Purpose::Api => format!("--listen-addr 0.0.0.0:{instead}"),
            Purpose::Gossip => format!("--gossip-port {instead}"),
            Purpose::Tunnel if occasion == Occasion::Join => continue,
            Purpose::Tunnel => format!("--data-path-port {instead}"),
        };
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    flags.join(" ")
}
