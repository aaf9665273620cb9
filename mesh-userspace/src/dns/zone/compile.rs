//! Desired + observed → zone: which names stand for which addresses at this moment.
//!
//! Three questions decide about a task, and they are not the same:
//! - *asks*: it lives on this node and has not ended. Starting, draining and unhealthy tasks resolve names too.
//! - *ready*: its node said so, it is to run and it does not drain. Then its own names and its service's name exist.
//! - *listed*: ready, and its node answers echoes here. Only then is it in lists (`tasks.SERVICE`, dnsrr), where a
//!   client would pick it among others. Its own names stay: who asks for that very task has no other to go to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Client, Entry, Pointer, TASK_TTL_S, VIP_TTL_S, Zone, ZoneNetwork};
use crate::model::{
    Addresses, Cluster, EndpointMode, Id, Mode, Network, Observed, Service, Stack, Task, TaskState, Vip,
};

/// Makes the zone that `this_node`'s resolver serves.
pub fn compile(cluster: &Cluster, observed: &Observed, this_node: &Id) -> Zone {
    let positions: BTreeMap<&Id, usize> = cluster.networks.keys().enumerate().map(|(at, id)| (id, at)).collect();
    let mut tasks: BTreeMap<&Id, Vec<Member>> = BTreeMap::new();
    for task in cluster.tasks.values() {
        if let Some(member) = Member::of(task, observed) {
            tasks.entry(&task.service_id).or_default().push(member);
        }
    }
    let networks = cluster.networks.values().map(|network| compile_network(network, cluster, &tasks)).collect();

    let mut clients = BTreeMap::new();
    for task in cluster.tasks.values().filter(|task| task.node_id.as_ref() == Some(this_node) && asks(task, observed)) {
        let seen = task.attachments.iter().filter_map(|attachment| positions.get(&attachment.network_id).copied());
        let client = Client { task_id: task.id.clone(), networks: seen.collect() };
        let addrs = task.attachments.iter().flat_map(|attachment| attachment.addrs.each());
        clients.extend(addrs.map(|addr| (addr, client.clone())));
    }
    Zone { networks, clients }
}

fn compile_network(network: &Network, cluster: &Cluster, tasks: &BTreeMap<&Id, Vec<Member>>) -> ZoneNetwork {
    let mut names = Names { network: network.spec.name.to_lowercase(), ..Names::default() };
    if !network.ingress {
        for service in cluster.services.values() {
            let members = tasks.get(&service.id).map(Vec::as_slice).unwrap_or_default();
            for vip in service.vips.iter().filter(|vip| vip.network_id == network.id) {
                names.add_service(service, vip, members);
            }
        }
    }
    ZoneNetwork {
        name: names.network,
        subnets: network.subnets,
        gateways: network.gateways,
        internal: network.spec.internal,
        names: names.entries.into_iter().map(|(name, (_, entry))| (name, entry)).collect(),
        reverse: names.reverse,
    }
}

/// A task that has names: it has not ended and is to run.
struct Member<'a> {
    task: &'a Task,
    ready: bool,
    listed: bool,
}

impl<'a> Member<'a> {
    fn of(task: &'a Task, observed: &Observed) -> Option<Self> {
        let node = task.node_id.as_ref()?;
        if task.desired != TaskState::Running || !asks(task, observed) {
            return None;
        }
        let ready = !task.draining && observed.tasks.get(&task.id).is_some_and(|status| status.ready);
        Some(Member { task, ready, listed: ready && !observed.unreachable_since.contains_key(node) })
    }

    /// The addresses of its own names: none while it is not ready.
    fn answers_at(&self, addrs: &Addresses) -> Addresses {
        if self.ready { *addrs } else { Addresses::default() }
    }

    fn addrs_on(&self, network: &Id) -> Option<Addresses> {
        self.task.attachments.iter().find(|attachment| attachment.network_id == *network).map(|on| on.addrs)
    }
}

/// Whether the task is (or is about to be) alive, so that it may ask.
fn asks(task: &Task, observed: &Observed) -> bool {
    match observed.tasks.get(&task.id) {
        Some(status) => !status.state.is_terminal(),
        None => task.desired == TaskState::Running,
    }
}

/// Where two things claim one name, the lower kind has it; equals share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service,
    TaskList,
    Task,
    Hostname,
}

#[derive(Default)]
struct Names {
    network: String,
    entries: BTreeMap<String, (Kind, Entry)>,
    reverse: BTreeMap<IpAddr, Pointer>,
}

impl Names {
    fn add_service(&mut self, service: &Service, vip: &Vip, members: &[Member]) {
        let members: Vec<(&Member, Addresses)> =
            members.iter().filter_map(|member| Some((member, member.addrs_on(&vip.network_id)?))).collect();
        let listed = members.iter().filter(|(member, _)| member.listed);
        let listed: Vec<Addresses> = listed.map(|&(_, addrs)| addrs).collect();
        let (addrs, ttl_s) = match service.spec.endpoint_mode {
            EndpointMode::Dnsrr => (listed.clone(), TASK_TTL_S),
            EndpointMode::Vip if members.iter().any(|(member, _)| member.ready) => (vec![vip.addrs], VIP_TTL_S),
            EndpointMode::Vip => (Vec::new(), VIP_TTL_S),
        };
        let own_name = service.spec.name.to_lowercase();
        if service.spec.endpoint_mode == EndpointMode::Vip && !addrs.is_empty() {
            self.point(&vip.addrs, &own_name, VIP_TTL_S);
        }
        for (name, withheld) in service_names(service, &vip.network_id) {
            self.add(Kind::TaskList, format!("tasks.{name}"), &listed, TASK_TTL_S, withheld);
            for (member, addrs) in members.iter().filter(|(member, _)| member.task.slot > 0) {
                let slot = format!("{}.{name}", member.task.slot);
                self.add(Kind::Task, slot, &[member.answers_at(addrs)], TASK_TTL_S, withheld);
            }
            // Between a task's end and its successor's start the slot is a name of ours all the same.
            if let Mode::Replicated { replicas } = service.spec.mode {
                for slot in 1..=replicas {
                    self.add(Kind::Task, format!("{slot}.{name}"), &[], TASK_TTL_S, withheld);
                }
            }
            self.add(Kind::Service, name, &addrs, ttl_s, withheld);
        }
        for (member, addrs) in &members {
            self.add_task(member, addrs);
        }
    }

    fn add_task(&mut self, member: &Member, addrs: &Addresses) {
        let task = member.task;
        let answers = [member.answers_at(addrs)];
        let full_name = format!("{}.{}", task.name(), task.id).to_lowercase();
        if member.ready {
            self.point(addrs, &full_name, TASK_TTL_S);
        }
        for name in [full_name, task.id.to_string(), task.id.short().to_string()] {
            self.add(Kind::Task, name, &answers, TASK_TTL_S, true);
        }
        let hostname = task.hostname().to_lowercase();
        let withheld = !hostname.contains('.');
        self.add(Kind::Hostname, hostname, &answers, TASK_TTL_S, withheld);
    }

    fn add(&mut self, kind: Kind, name: String, addrs: &[Addresses], ttl_s: u32, withheld: bool) {
        let fresh = || (kind, Entry { addrs: Vec::new(), ttl_s, withheld });
        let (holder, entry) = self.entries.entry(name).or_insert_with(fresh);
        if kind < *holder {
            (*holder, *entry) = fresh();
        }
        if kind == *holder {
            for addr in addrs.iter().flat_map(Addresses::each) {
                if !entry.addrs.contains(&addr) {
                    entry.addrs.push(addr);
                }
            }
            entry.ttl_s = entry.ttl_s.min(ttl_s);
            entry.withheld |= withheld;
        }
    }

    fn point(&mut self, addrs: &Addresses, name: &str, ttl_s: u32) {
        for addr in addrs.each() {
            self.reverse.insert(addr, Pointer { name: format!("{name}.{}", self.network), ttl_s });
        }
    }
}

/// A service's own name, its name without the stack's prefix, its aliases on this network; each with whether tasks of
/// other networks are refused it (see [`Entry::withheld`]).
fn service_names(service: &Service, network: &Id) -> BTreeMap<String, bool> {
    let spec = &service.spec;
    let stack = spec.labels.get(Stack::LABEL);
    let short = stack.and_then(|stack| spec.name.strip_prefix(stack.as_str())?.strip_prefix('_'));
    let attachments = spec.networks.iter().filter(|attachment| attachment.network == network.as_str());
    let aliases = attachments.flat_map(|attachment| attachment.aliases.iter().map(String::as_str));
    let chosen = aliases.map(|alias| (alias.trim_end_matches('.').to_lowercase(), !alias.contains('.')));
    // Own names last: where an alias repeats one, they win.
    let own = [Some(spec.name.as_str()), short].into_iter().flatten().map(|name| (name.to_lowercase(), true));
    chosen.chain(own).filter(|(name, _)| !name.is_empty()).collect()
}
