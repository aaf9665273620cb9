//! Flows with names: which task an endpoint number is, and whose flows were asked for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mesh_common::family::Bytes;
use mesh_common::schema::flow_flag;

use super::Facts;
use crate::api::ApiError;
use crate::api::flows::{Ends, FlowFact, FlowQuery, FlowRequest, FlowRow, protocol_name};
use crate::model::{Id, Task};

/// Finds what a request names.
pub fn flow_query(facts: &Facts, request: FlowRequest) -> Result<FlowQuery, ApiError> {
    let FlowRequest { service, task, state, replies, limit } = request;
    Ok(FlowQuery { ends: wanted_ends(facts, service, task)?, state, replies, limit })
}

/// The tasks that are asked for, as the kernel knows them.
pub(super) fn wanted_ends(facts: &Facts, service: Option<String>, task: Option<String>) -> Result<Vec<Ends>, ApiError> {
    let mut ends = Vec::new();
    if let Some(word) = service {
        let service = facts.find_service(&word)?;
        let mut of_service = ends_of(facts.cluster.tasks_of(&service.id));
        // Who calls a service that has no task calls it all the same.
        of_service.addrs.extend(service.vips.iter().flat_map(|vip| vip.addrs.each()).map(to_16));
        ends.push(of_service);
    }
    if let Some(word) = task {
        ends.push(ends_of([facts.find_task(&word)?]));
    }
    Ok(ends)
}

fn to_16(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_16(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn ends_of<'t>(tasks: impl IntoIterator<Item = &'t Task>) -> Ends {
    let mut ends = Ends::default();
    for at in tasks.into_iter().flat_map(|task| &task.attachments) {
        ends.endpoints.insert(at.endpoint);
        ends.addrs.extend(at.addrs.each().map(to_16));
    }
    ends
}

/// Names of tasks by their endpoint numbers, made once for a whole listing.
pub struct FlowNames {
    tasks: HashMap<u32, Names>,
}

struct Names {
    service: String,
    task: String,
    id: Id,
    node: String,
}

fn end(addr: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(addr)).to_canonical(), port)
}

impl FlowNames {
    pub fn of(facts: &Facts) -> FlowNames {
        let mut tasks = HashMap::new();
        for task in facts.cluster.tasks.values() {
            let node = task.node_id.as_ref().and_then(|id| facts.cluster.nodes.get(id));
            for at in &task.attachments {
                let names = Names {
                    service: task.service_name.clone(),
                    task: task.name(),
                    id: task.id.clone(),
                    node: node.map(|node| node.name.clone()).unwrap_or_default(),
                };
                tasks.insert(at.endpoint, names);
            }
        }
        FlowNames { tasks }
    }

    pub fn row(&self, fact: &FlowFact) -> FlowRow {
        let FlowFact { key, flow, twin, .. } = fact;
        let names = self.tasks.get(&flow.backend);
        let name = |part: fn(&Names) -> &String| names.map(|names| part(names).clone()).unwrap_or_default();
        let both = |one: u64, other: Option<u64>| one.saturating_add(other.unwrap_or(0));
        FlowRow {
            protocol: protocol_name(key.protocol),
            source: end(key.src, key.sport),
            destination: end(key.dst, key.dport),
            service: name(|names| &names.service),
            task: name(|names| &names.task),
            task_id: names.map(|names| names.id.clone()),
            node: name(|names| &names.node),
            state: fact.state(),
            is_reply: flow.flags & flow_flag::REVERSE != 0,
            is_beside: fact.is_beside,
            silent_s: fact.silent_s,
            packets: both(flow.packets.into(), twin.map(|twin| twin.packets.into())),
            bytes: both(flow.bytes, twin.map(|twin| twin.bytes)),
        }
    }
}
