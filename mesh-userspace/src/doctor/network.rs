//! The host's network: published ports, routes into the pool, other programs on our hooks, and what a
//! firewall can and can't do.

use ipnet::IpNet;

use super::{Finding, Network};

pub(super) fn judge(network: &Network) -> Vec<Finding> {
    let mut findings = super::ports::judge(&network.ports, network.occasion);
    findings.extend(published(network));
    findings.extend(routes(network));
    findings.extend(programs(network));
    findings.extend(drivers(network));
    findings.extend(ipsec(network));
    // Not looked at, because nothing there can matter: docs/decisions/0015-firewalls-by-behaviour.md.
    findings.push(Finding::ok(
        "forward",
        "FORWARD policies don't matter: tasks' packets pass from link to link by programs, never through the host's stack",
    ));
    findings
}

fn published(network: &Network) -> Vec<Finding> {
    let finding = |(port, user): &(String, Option<String>)| {
        let by = user.as_ref().map(|user| format!(" by {user}")).unwrap_or_default();
        Finding::warning(
            "published",
            format!("published port {port} is in use on this host{by}: this node does not publish it"),
            "stop that program, or publish another port with `mesh service update`; the other nodes answer on it",
        )
    };
    network.not_taken.iter().map(finding).collect()
}

fn routes(network: &Network) -> Vec<Finding> {
    let pools = network.pools;
    let routes = match &network.routes {
        Ok(routes) => routes,
        Err(why) => {
            return vec![Finding::warning("routes", why.clone(), "ask again; `ip route show table all` lists them")];
        }
    };
    let is_inside = |to: &IpNet| pools.each().any(|pool| overlap(to, &pool));
    let inside: Vec<(IpNet, &str)> =
        routes.iter().filter(|(to, _)| is_inside(to)).map(|(to, link)| (*to, link.as_str())).collect();
    let found: Vec<Finding> = inside.iter().filter_map(|(to, link)| route(network, *to, link)).collect();
    if !found.is_empty() {
        return found;
    }
    let said = if inside.is_empty() {
        format!("none leads into the pool {pools}")
    } else {
        let kept: Vec<String> = inside.iter().map(|(to, link)| format!("{to} by {link}")).collect();
        format!("networks come from {pools} and keep out of {}", kept.join(", "))
    };
    vec![Finding::ok("routes", said)]
}

/// What is wrong with a route into the pool, if anything.
fn route(network: &Network, to: IpNet, link: &str) -> Option<Finding> {
    let pool = network.pools.each().find(|pool| overlap(&to, pool))?;
    let mut subnets =
        network.networks.iter().flat_map(|(name, subnets)| subnets.each().map(move |subnet| (name, subnet)));
    if let Some((name, subnet)) = subnets.find(|(_, subnet)| overlap(subnet, &to)) {
        return Some(Finding::failed(
            "routes",
            format!("this host reaches {to} by {link}, and network {name} is {subnet}: one of them is out of reach"),
            format!(
                "remove that route (ip route del {to}), or create the network again elsewhere: \
                 mesh network rm {name}; mesh network create --subnet … {name}"
            ),
        ));
    }
    let leaves_little = to.prefix_len() <= pool.prefix_len().saturating_add(1);
    let Some(reported) = &network.reported else {
        return leaves_little.then(|| {
            Finding::warning(
                "routes",
                format!("this host reaches {to} by {link}, which leaves little of the pool {pool} for networks"),
                "start the cluster with another pool: mesh swarm init --default-addr-pool CIDR",
            )
        });
    };
    let is_known = reported.iter().any(|prefix| prefix.contains(&to));
    (!is_known).then(|| {
        Finding::warning(
            "routes",
            format!(
                "this host reaches {to} by {link} since after it joined: a new network may be put there (pool {pool})"
            ),
            "create networks with --subnet outside of it, or let this node leave and join again, which reports it",
        )
    })
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Our program in the uplinks' drivers, where it is wanted.
fn drivers(network: &Network) -> Vec<Finding> {
    let Some(xdp) = &network.xdp else { return Vec::new() };
    if xdp.refused.is_empty() {
        return vec![Finding::ok("xdp", xdp.summary.clone())];
    }
    let finding = |(what, remedy): &(String, String)| {
        Finding::warning("xdp", format!("{what}; published ports are served at TC there"), remedy.clone())
    };
    xdp.refused.iter().map(finding).collect()
}

/// What the host's IPsec policies do with packets between nodes. Nothing has to be set for it: docs/decisions/0020-fast-way.md.
fn ipsec(network: &Network) -> Option<Finding> {
    const CHECK: &str = "ipsec";
    Some(match network.ipsec.as_ref()? {
        Err(why) => Finding::warning(
            CHECK,
            format!("{why}: packets to other nodes go the slower way, through mesh0, where policies hold"),
            "`ip xfrm policy` may tell more; an agent in a container needs CAP_NET_ADMIN for the host's network",
        ),
        Ok(ipsec) if !ipsec.blocked.is_empty() => Finding::warning(
            CHECK,
            format!("an IPsec policy of this host drops the tunnel's packets from or to {}", ipsec.blocked.join(", ")),
            "`ip xfrm policy` lists them: let the data port pass between the nodes' data path addresses, or be encrypted",
        ),
        Ok(ipsec) if !ipsec.protected.is_empty() => Finding::ok(
            CHECK,
            format!(
                "policies of this host are for packets from or to {}: they go through mesh0, and never past the policies",
                ipsec.protected.join(", ")
            ),
        ),
        Ok(_) => Finding::ok(CHECK, "no policy of this host is for packets between nodes"),
    })
}

fn programs(network: &Network) -> Vec<Finding> {
    if network.others.is_empty() {
        return vec![Finding::ok("hooks", "no program but ours on the hooks that mesh uses")];
    }
    let finding = |other: &super::OtherProgram| {
        Finding::warning(
            "hooks",
            format!("another program on a hook of ours: {} at {}", other.name, other.place),
            "if published ports or names fail on this node, take it away (`bpftool net`, `bpftool cgroup tree` show whose \
             it is) or keep its owner off this interface; one that only watches does no harm",
        )
    };
    network.others.iter().map(finding).collect()
}
