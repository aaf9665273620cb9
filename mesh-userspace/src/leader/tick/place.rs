//! The scheduler: a node for every task that has none, spread over those that may take it, and an address on each network.

use std::collections::BTreeMap;

use crate::leader::Health;
use crate::leader::allocate::{AddressesUsedUp, networks_of, next_addresses, next_endpoint};
use crate::leader::command::runtime_name;
use crate::model::{Attachment, Availability, Cluster, Id, Node, Service, Task};

use super::Work;
use super::obstacle::Obstacle;
use super::slots::{is_live, matches};
use super::tally::{Tally, host_ports};

/// Gives every waiting task a node, or a word why it has none.
pub(super) fn place_pending(work: &mut Work) {
    let waiting = work.after.tasks.values().filter(|task| is_live(task) && task.node_id.is_none());
    let mut waiting: Vec<Task> = waiting.cloned().collect();
    waiting.sort_by(|one, other| {
        (&one.service_name, one.slot, &one.id).cmp(&(&other.service_name, other.slot, &other.id))
    });
    let mut tally = Tally::of(&work.after, work.ctx.now);
    for mut task in waiting {
        let Some(service) = work.after.services.get(&task.service_id).cloned() else { continue };
        let placed = match &service.pending_reason {
            Some(reason) => Err(reason.clone()),
            None => choose(work, &tally, &service).and_then(|node| {
                attach(&mut work.after, &service)
                    .map(|attachments| (node, attachments))
                    .map_err(|used_up| used_up.to_string())
            }),
        };
        match placed {
            Ok((node, attachments)) => {
                tally.add(&task, &node, Some(&service));
                assign(&mut task, node, attachments);
            }
            Err(why) => task.message = why,
        }
        work.after.tasks.insert(task.id.clone(), task);
    }
}

/// Puts a global service's new task on its node, if that may take it now; what is missing otherwise stands at the service.
pub(super) fn place_on(work: &mut Work, mut task: Task, node: &Id) {
    let Some(service) = work.after.services.get(&task.service_id).cloned() else { return };
    let tally = Tally::of(&work.after, work.ctx.now);
    let fits = work.after.nodes.get(node).is_some_and(|node| obstacle(work, &tally, &service, node).is_none());
    if !fits || service.pending_reason.is_some() {
        return;
    }
    match attach(&mut work.after, &service) {
        Ok(attachments) => {
            assign(&mut task, node.clone(), attachments);
            work.after.tasks.insert(task.id.clone(), task);
        }
        Err(used_up) => {
            let service = work.after.services.get_mut(&service.id);
            service.into_iter().for_each(|service| service.pending_reason = Some(used_up.to_string()));
        }
    }
}

fn assign(task: &mut Task, node: Id, attachments: Vec<Attachment>) {
    task.node_id = Some(node);
    task.attachments = attachments;
    task.leader_state = None;
    task.message = String::new();
}

/// An address and an endpoint number on each network of the service: all, or none is taken.
pub(in crate::leader) fn attach(after: &mut Cluster, service: &Service) -> Result<Vec<Attachment>, AddressesUsedUp> {
    let counters = after.counters.clone();
    let mut attachments: Vec<Attachment> = Vec::new();
    for network_id in networks_of(after, &service.spec) {
        let Some(network) = after.networks.get(&network_id).cloned() else { continue };
        let addrs = next_addresses(after, &network).inspect_err(|_| after.counters = counters.clone())?;
        // Its range is larger than there are addresses, so addresses are used up first.
        let endpoint = next_endpoint(after).expect("2^32 endpoint numbers outlast 2^32 addresses");
        attachments.push(Attachment { network_id, addrs, endpoint });
    }
    Ok(attachments)
}

/// The node with the fewest tasks of the service, then the fewest at all, then the smallest number.
fn choose(work: &Work, tally: &Tally, service: &Service) -> Result<Id, String> {
    let mut obstacles: BTreeMap<Obstacle, Vec<&Node>> = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in work.after.nodes.values() {
        match obstacle(work, tally, service, node) {
            Some(obstacle) => obstacles.entry(obstacle).or_default().push(node),
            None => fitting.push(node),
        }
    }
    let load = |node: &&Node| {
        let id = &node.id;
        (tally.fails_there(id, &service.id), tally.live_of(id, &service.id), tally.live(id), node.number)
    };
    match fitting.into_iter().min_by_key(load) {
        Some(node) => Ok(node.id.clone()),
        None => {
            let words = obstacles.into_iter().map(|(obstacle, nodes)| obstacle.of(&nodes));
            Err(format!("no suitable node ({})", words.collect::<Vec<_>>().join("; ")))
        }
    }
}

/// Why the node can't take a task of this service now.
fn obstacle(work: &Work, tally: &Tally, service: &Service, node: &Node) -> Option<Obstacle> {
    match (node.availability, work.health(&node.id)) {
        (Availability::Drain, _) => return Some(Obstacle::Drained),
        (Availability::Pause, _) => return Some(Obstacle::Paused),
        (_, Health::Lost) => return Some(Obstacle::Down),
        (_, Health::Uncertain) => return Some(Obstacle::NotHeard),
        (Availability::Active, Health::Ready) => {}
    }
    let task = &service.spec.task;
    if !matches(&service.spec, node) {
        return Some(Obstacle::Constraints);
    }
    if !node.runtimes.contains(&task.runtime) {
        return Some(Obstacle::LacksRuntime(runtime_name(task.runtime)));
    }
    let most = task.max_replicas_per_node as usize;
    if most != 0 && tally.live_of(&node.id, &service.id) >= most {
        return Some(Obstacle::MostReplicas);
    }
    host_ports(service).any(|port| tally.holds(&node.id, port)).then_some(Obstacle::HostPort)
}
