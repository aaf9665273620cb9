//! What a situation shows, besides the maps (their text is the product's own): network, names, tasks, services.

use std::collections::BTreeMap;

use mesh_common::wire::mac;
use mesh_userspace::dns::zone::{Answer, QueryType, Question, Zone, answer};
use mesh_userspace::leader::view::{self, Convergence};
use mesh_userspace::model::TaskState;
use mesh_userspace::plan::maps::Kind;
use mesh_userspace::plan::net::{NetImage, NetOp, Programmed, TaskLink};

use super::cluster::Cluster;
use super::node::Node;

/// What `maps` shows where nothing else is asked for.
pub const USUAL: [Kind; 5] = [Kind::Frontend, Kind::Ring, Kind::Backend, Kind::Endpoint, Kind::Peer];

pub fn maps(node: &Node, kinds: &[Kind]) -> Vec<String> {
    let tables = node.maps.tables();
    or_words(kinds.iter().flat_map(|kind| tables.lines(*kind)).collect(), "(empty)")
}

pub fn ops(node: &Node) -> Vec<String> {
    or_words(node.ops.clone(), "(nothing)")
}

pub fn net_ops(node: &Node) -> Vec<String> {
    let line = |op: &NetOp| match op {
        NetOp::AddMesh0(mesh0) => format!("add mesh0 port {}", mesh0.port),
        NetOp::SetMesh0(mesh0) => format!("set mesh0 mtu {} mac {} up", mesh0.mtu, mac_text(mesh0.mac)),
        NetOp::RemoveMesh0 => "remove mesh0".to_string(),
        NetOp::AddAddress(addr) => format!("add address {addr}"),
        NetOp::RemoveAddress(addr) => format!("remove address {addr}"),
        NetOp::SetRoute(subnet, route) => format!("set route {subnet} mtu {}", route.mtu),
        NetOp::RemoveRoute(subnet) => format!("remove route {subnet}"),
        NetOp::AddTaskLink(link) => format!("add {}", link_text(link)),
        NetOp::SetTaskLink(link) => format!("set {}", link_text(link)),
        NetOp::RemoveTaskLink(name) => format!("remove link {name}"),
        NetOp::HoldPort(port) => format!("hold port {port}"),
        NetOp::ReleasePort(port) => format!("release port {port}"),
        NetOp::SetSysctl { key, value } => format!("set {key} = {value}"),
        NetOp::RestoreSysctl(key) => format!("restore {key}"),
    };
    or_words(node.net_ops.iter().map(line).collect(), "(nothing)")
}

/// The image, with a mark at what could not be done yet.
pub fn net(node: &Node) -> Vec<String> {
    let (image, there): (&NetImage, &Programmed) = (&node.image, &node.programmed);
    let mut lines = Vec::new();
    if let Some(mesh0) = image.mesh0 {
        lines.push(format!("mesh0 port {} mtu {} mac {}", mesh0.port, mesh0.mtu, mac_text(mesh0.mac)));
    }
    lines.extend(image.gateways.iter().map(|gateway| format!("gateway {gateway}")));
    lines.extend(image.own_addr.map(|addr| format!("address {addr}")));
    for (subnet, route) in &image.routes {
        let src = route.src.map_or(String::new(), |src| format!(" src {src}"));
        lines.push(format!("route {subnet}{src} mtu {}", route.mtu));
    }
    for link in image.task_links.values() {
        let mark = if there.task_links.contains_key(&link.name) { "" } else { " (waits for its namespace)" };
        lines.push(format!("{}{mark}", link_text(link)));
    }
    for port in &image.held_ports {
        let mark = if there.held_ports.contains(port) { "" } else { " (not taken: the host uses it)" };
        lines.push(format!("port {port}{mark}"));
    }
    or_words(lines, "(nothing)")
}

fn link_text(link: &TaskLink) -> String {
    let addrs: Vec<String> = link.addrs.iter().map(ToString::to_string).collect();
    format!("link {} {} via {} mtu {} mac {}", link.name, addrs.join(" "), link.gateways, link.mtu, mac_text(link.mac))
}

/// Kind and number of a MAC of ours.
fn mac_text(bytes: [u8; 6]) -> String {
    match mac::split(bytes) {
        Some((mac::KIND_TASK, number)) => format!("task-{number}"),
        Some((mac::KIND_MESH0, number)) => format!("mesh0-{number}"),
        _ => bytes.map(|byte| format!("{byte:02x}")).join(":"),
    }
}

/// The zone of a node: per network what each address list is called. Names that contain ids are left out: there is one of each per task.
pub fn names(cluster: &Cluster, node: &Node) -> Vec<String> {
    let zone: &Zone = &node.zone;
    let ids: Vec<&str> = cluster.facts.tasks.keys().map(|id| id.short()).collect();
    let mut lines = Vec::new();
    for network in &zone.networks {
        if network.names.is_empty() && network.reverse.is_empty() {
            continue;
        }
        let internal = if network.internal { " internal" } else { "" };
        lines.push(format!("network {} {}{internal}", network.name, network.subnets));
        let mut by_answer: BTreeMap<(Vec<_>, u32), Vec<&str>> = BTreeMap::new();
        for (name, entry) in &network.names {
            if !ids.iter().any(|id| name.contains(id)) {
                by_answer.entry((entry.addrs.clone(), entry.ttl_s)).or_default().push(name);
            }
        }
        for ((addrs, ttl_s), names) in by_answer {
            let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            let addrs = if addrs.is_empty() { "nobody".to_string() } else { addrs.join(" ") };
            lines.push(format!("  {} = {addrs} ttl {ttl_s}", names.join(" ")));
        }
    }
    let asks = zone.clients.iter().map(|(addr, client)| {
        let task = cluster.facts.tasks.get(&client.task_id).map_or("?".to_string(), |task| cluster.name_of(task));
        format!("asks {addr} {task}")
    });
    lines.extend(asks);
    or_words(lines, "(no names)")
}

/// What a task hears when it asks the resolver of its node.
pub fn ask(cluster: &Cluster, reference: &str, name: &str) -> Result<Vec<String>, String> {
    let task = cluster.task(reference)?;
    let node = task.node_id.as_ref().map_or("?", |id| cluster.node_name(id));
    let asker = task.attachments.first().and_then(|at| at.addrs.first()).ok_or("the task is on no network")?;
    let query_type = if name.ends_with(".arpa") { QueryType::Ptr } else { QueryType::Any };
    let line = match answer(&cluster.node(node)?.zone, Question { asker, name, query_type }, 0) {
        Answer::Addresses { mut addrs, ttl_s } => {
            addrs.sort();
            let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            format!("{} ttl {ttl_s}", addrs.join(" "))
        }
        Answer::Pointer { name, ttl_s } => format!("{name} ttl {ttl_s}"),
        Answer::NoData => "no data".to_string(),
        Answer::NxDomain => "no such name".to_string(),
        Answer::Forward => "forwarded to the host's resolvers".to_string(),
        Answer::Refused => "refused".to_string(),
        Answer::ServFail => "failure: not ours, and no way outside".to_string(),
    };
    Ok(vec![line])
}

/// Tasks that shall run or have not ended, as the first node that has an agent knows them.
pub fn ps(cluster: &Cluster) -> Vec<String> {
    let observed = cluster.observed();
    let mut lines = Vec::new();
    for task in cluster.facts.tasks.values() {
        let state = view::task_state(task, &observed);
        let ends = task.desired != TaskState::Running;
        if ends && state.is_terminal() && task.attachments.is_empty() {
            continue;
        }
        let node = task.node_id.as_ref().map_or("-", |id| cluster.node_name(id));
        let mut line = format!("{} {node} {}", cluster.name_of(task), format!("{state:?}").to_lowercase());
        if state == TaskState::Running && !view::is_ready(task, &observed) {
            line.push_str(" (not ready)");
        }
        let service = cluster.facts.services.get(&task.service_id);
        if service.is_some_and(|service| service.spec.task.command != task.spec.command) {
            line.push_str(" (of the old spec)");
        }
        if ends {
            let why = if task.message.is_empty() { String::new() } else { format!(": {}", task.message) };
            line.push_str(&format!(" (to end{why})"));
        } else if let Some(error) = view::task_error(task, &observed) {
            line.push_str(&format!(": {error}"));
        } else if task.node_id.is_none() && !task.message.is_empty() {
            line.push_str(&format!(": {}", task.message));
        }
        lines.push(line);
    }
    lines.sort();
    or_words(lines, "(no tasks)")
}

/// Services as `service ls` counts them, and what they wait for.
pub fn services(cluster: &Cluster) -> Vec<String> {
    let observed = cluster.observed();
    let facts = &cluster.facts;
    let mut lines: Vec<String> = (facts.services.values())
        .map(|service| {
            let replicas = view::replicas(facts, &observed, service);
            let state = match view::convergence(facts, &observed, service, cluster.now) {
                Convergence::Converged => "converged".to_string(),
                Convergence::Progressing(what) => format!("progressing, {what}"),
                Convergence::Stuck(why) => format!("stuck, {why}"),
            };
            format!("{} {replicas} {state}", service.spec.name)
        })
        .collect();
    lines.sort();
    or_words(lines, "(no services)")
}

fn or_words(lines: Vec<String>, words: &str) -> Vec<String> {
    if lines.is_empty() { vec![words.to_string()] } else { lines }
}
