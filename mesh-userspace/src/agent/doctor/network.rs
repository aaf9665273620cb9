//! Facts of the host's network.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use crate::agent::Settings;
use crate::agent::member::Member;
use crate::agent::ports::{Place, listened};
use crate::doctor::{Ipsec, Network, Occasion, OtherProgram, PortFact, PortUser, Purpose};
use crate::kernel::bpf::survey;
use crate::kernel::net::{HostNet, LinkProgram, PortHolder, Protection};
use crate::leader::command::{DEFAULT_ADDRESS_POOL, DEFAULT_DATA_PATH_PORT};
use crate::model::{Cluster, Node};
use crate::plan::net::{HeldPort, MESH0, Transport};

/// `cgroup` is None where its programs can't be looked at.
pub async fn gather(args: &Settings, net: &HostNet, cgroup: Option<&str>, member: Option<&Arc<Member>>) -> Network {
    let cluster = member.map(|member| member.desired.get());
    let settings = cluster.as_ref().and_then(|cluster| cluster.settings.clone());
    let me = member.and_then(|member| cluster.as_ref()?.nodes.get(&member.id));
    let data_port = settings.as_ref().map_or(DEFAULT_DATA_PATH_PORT, |settings| settings.data_path_port);
    let routes = net.routes_elsewhere().await.map_err(|error| error.to_string());
    let networks = cluster.iter().flat_map(|cluster| cluster.networks.values());
    Network {
        ports: match me {
            Some(me) => of_member(net, Place::of(me).listened(), data_port).await,
            None => ports(net, listened(args), data_port).await,
        },
        occasion: if member.is_some() { Occasion::Start } else { Occasion::Alone },
        not_taken: match member {
            Some(member) => not_taken(net, member).await,
            None => Vec::new(),
        },
        pools: settings.map_or(DEFAULT_ADDRESS_POOL, |settings| settings.address_pool).into(),
        networks: networks.map(|network| (network.spec.name.clone(), network.subnets)).collect(),
        routes,
        reported: me.map(|node| node.routed_prefixes.clone()),
        others: match cgroup {
            Some(cgroup) => others(args, net, Path::new(cgroup)).await,
            None => Vec::new(),
        },
        xdp: member.and_then(|member| member.kernel.xdp()),
        ipsec: cluster.as_ref().zip(me).map(|(cluster, me)| ipsec(net, cluster, me, data_port)),
    }
}

fn ipsec(net: &HostNet, cluster: &Cluster, me: &Node, data_port: u16) -> Result<Ipsec, String> {
    let others = cluster.nodes.values().filter(|node| node.id != me.id);
    let names: BTreeMap<IpAddr, String> = others.map(|node| (node.data_path_addr, node.name.clone())).collect();
    let peers: Vec<IpAddr> = names.keys().copied().collect();
    net.protected(me.data_path_addr, data_port, &peers).map_err(|error| error.to_string()).map(|protected| {
        let of = |wanted| {
            let those = protected.iter().filter(move |(_, protection)| **protection == wanted);
            those.filter_map(|(peer, _)| names.get(peer).cloned()).collect()
        };
        Ipsec { protected: of(Protection::Ipsec), blocked: of(Protection::Blocked) }
    })
}

/// The ports that nodes talk on, and who has them; where somebody else has one, which are free.
pub async fn ports(net: &HostNet, [api, gossip]: [u16; 2], data_port: u16) -> Vec<PortFact> {
    let needed = [
        (Transport::Tcp, api, Purpose::Api),
        (Transport::Tcp, gossip, Purpose::Gossip),
        (Transport::Udp, gossip, Purpose::Gossip),
        (Transport::Udp, data_port, Purpose::Tunnel),
    ];
    let mut facts = Vec::new();
    for (transport, port, purpose) in needed {
        let name = if transport == Transport::Tcp { "tcp" } else { "udp" };
        facts.push(PortFact {
            port: format!("{port}/{name}"),
            purpose,
            user: net.port_holder(transport, port).await.map_or(PortUser::Free, user),
            instead: None,
        });
    }
    if facts.iter().any(|fact| matches!(fact.user, PortUser::Other(_))) {
        for (fact, (_, port, _)) in facts.iter_mut().zip(needed) {
            fact.instead = free_beside(net, port).await;
        }
    }
    facts
}

/// A member holds its sockets, perhaps on one address of several: another program may have the same port on another one.
async fn of_member(net: &HostNet, listened: [u16; 2], data_port: u16) -> Vec<PortFact> {
    let mut facts = ports(net, listened, data_port).await;
    for fact in facts.iter_mut().filter(|fact| fact.purpose != Purpose::Tunnel) {
        fact.user = PortUser::Ours;
    }
    facts
}

/// A port that nobody has, by TCP or UDP, recognisable by the digits of the one that is taken: 12377 for 2377.
async fn free_beside(net: &HostNet, taken: u16) -> Option<u16> {
    const TRIES: usize = 100;
    /// IANA's registered ports end here (RFC 6335, 6); the kernel may give those above to anybody.
    const LAST: u16 = 49151;
    let first = if taken < 10_000 { taken + 10_000 } else { taken.saturating_add(1) };
    for port in (first..=LAST).take(TRIES) {
        let tcp = net.port_holder(Transport::Tcp, port).await;
        if tcp.is_none() && net.port_holder(Transport::Udp, port).await.is_none() {
            return Some(port);
        }
    }
    None
}

fn user(holder: PortHolder) -> PortUser {
    match holder {
        PortHolder::Mesh0 => PortUser::Ours,
        PortHolder::Process { pid, .. } if pid == std::process::id() => PortUser::Ours,
        PortHolder::Process { name, pid } => PortUser::Other(format!("{name} (pid {pid})")),
        PortHolder::Device(name) => PortUser::Other(format!("the VXLAN device {name}")),
        PortHolder::Kernel => {
            PortUser::Other("the kernel or another container (Docker Swarm's overlay shows so)".into())
        }
    }
}

/// `tcp/8000`, or `tcp/192.0.2.1:8000`, as the node reports it, with the user of the moment.
async fn not_taken(net: &HostNet, member: &Member) -> Vec<(String, Option<String>)> {
    let observed = member.observed();
    let reported = observed.nodes.get(&member.id).map(|status| status.ports_not_taken.clone()).unwrap_or_default();
    let mut found = Vec::new();
    for port in reported {
        let (transport, number) = port.split_once('/').unwrap_or_default();
        let transport = if transport == "udp" { Transport::Udp } else { Transport::Tcp };
        let (number, address) = match number.parse::<SocketAddr>() {
            Ok(at) => (Some(at.port()), Some(at.ip())),
            Err(_) => (number.parse().ok(), None),
        };
        let holder = match number {
            Some(number) => net.held_port_holder(HeldPort { transport, port: number, address }).await,
            None => None,
        };
        let by = holder.map(user).and_then(|user| match user {
            PortUser::Other(name) => Some(name),
            PortUser::Free | PortUser::Ours => None,
        });
        found.push((port, by));
    }
    found
}

/// Programs of others on uplinks, on mesh0 and on the cgroup's socket hooks.
async fn others(args: &Settings, net: &HostNet, cgroup: &Path) -> Vec<OtherProgram> {
    let mut links: Vec<(u32, String)> = Vec::new();
    match net.uplinks(&args.publish_interfaces).await {
        Ok(uplinks) => links.extend(uplinks.into_iter().map(|uplink| (uplink.ifindex, uplink.name))),
        Err(error) => log::warn!("{error}"),
    }
    if let Ok(Some(index)) = net.ifindex(MESH0).await {
        links.push((index, MESH0.to_string()));
    }
    let mut others = Vec::new();
    let mut add = |place: String, name: String| others.push(OtherProgram { place, name });
    for (_, link) in &links {
        // A kernel without TCX is told elsewhere.
        for (direction, name) in survey::other_tcx_programs(link).unwrap_or_default() {
            add(format!("{link} {direction} (TCX)"), name);
        }
    }
    for (link, program) in net.link_programs(&links).await.unwrap_or_default() {
        match program {
            LinkProgram::Xdp(id) => {
                let name = survey::program_name(id);
                if !survey::is_ours(&name) {
                    add(format!("{link} (XDP)"), name);
                }
            }
            LinkProgram::Filter(direction, name) => add(format!("{link} {direction} (TC filter)"), name),
        }
    }
    for (hook, name) in survey::other_socket_programs(cgroup).unwrap_or_default() {
        add(format!("{} ({hook})", cgroup.display()), name);
    }
    others
}
