//! Tasks as `service ps` and `mesh ps` show them: the leader's wish joined with the node's report.

use std::net::SocketAddr;

use super::Facts;
use crate::api::{ApiError, Listing, TaskDetail, TaskRow};
use crate::model::{Observed, PortSpec, PublishMode, Runtime, Service, Task, TaskSpec, TaskState, TaskStatus};

/// The state of the moment. An end that the node itself reported stands; else the leader's word where it has one
/// (pending, orphaned, last seen of a lost node); else the node's report.
pub fn task_state(task: &Task, observed: &Observed) -> TaskState {
    let reported = observed.tasks.get(&task.id).map(|status| status.state);
    match (reported, task.leader_state) {
        (Some(state), _) if state.is_terminal() => state,
        (_, Some(state)) => state,
        (Some(state), None) => state,
        (None, None) if task.node_id.is_some() => TaskState::Assigned,
        (None, None) => TaskState::New,
    }
}

/// Tasks of one service, slots in order, newest first in each.
pub fn service_tasks(facts: &Facts, word: &str) -> Result<Listing<TaskRow>, ApiError> {
    let service = facts.find_service(word)?;
    Ok(Listing { at: facts.now, rows: rows_of(facts, service) })
}

/// Tasks placed on one node.
pub fn tasks_of_node(facts: &Facts, word: &str) -> Result<Listing<TaskRow>, ApiError> {
    let node = facts.find_node(word)?;
    let tasks = facts.cluster.tasks.values().filter(|task| task.node_id.as_ref() == Some(&node.id));
    Ok(Listing { at: facts.now, rows: sorted(tasks.map(|task| task_row(facts, task)).collect()) })
}

/// This node's own tasks that still have a process or should have one.
pub fn local_tasks(facts: &Facts) -> Result<Listing<TaskRow>, ApiError> {
    let me = facts.member()?;
    let tasks = facts.cluster.tasks.values();
    let rows = tasks
        .filter(|task| task.node_id.as_ref() == Some(me) && is_present(facts, task))
        .map(|task| task_row(facts, task))
        .collect();
    Ok(Listing { at: facts.now, rows: sorted(rows) })
}

pub fn task_detail(facts: &Facts, word: &str) -> Result<TaskDetail, ApiError> {
    let task = facts.find_task(word)?;
    let status = facts.observed.tasks.get(&task.id);
    Ok(TaskDetail {
        row: task_row(facts, task),
        task: task.clone(),
        pid: status.and_then(|status| status.pid),
        exit_code: status.and_then(|status| status.exit_code),
    })
}

/// Has a process, or will: not ended, and not only wanted on paper by a service that is gone.
pub(super) fn is_present(facts: &Facts, task: &Task) -> bool {
    !task_state(task, &facts.observed).is_terminal()
}

pub(super) fn rows_of(facts: &Facts, service: &Service) -> Vec<TaskRow> {
    sorted(facts.cluster.tasks_of(&service.id).map(|task| task_row(facts, task)).collect())
}

pub(super) fn sorted(mut rows: Vec<TaskRow>) -> Vec<TaskRow> {
    rows.sort_by(|a, b| {
        let place = |row: &TaskRow| (service_of(&row.name).to_string(), row.slot);
        let wanted = |row: &TaskRow| (row.slot == 0).then(|| row.node.clone());
        (place(a), wanted(a))
            .cmp(&(place(b), wanted(b)))
            .then(b.desired.eq(&TaskState::Running).cmp(&a.desired.eq(&TaskState::Running)))
            .then(b.created_at.cmp(&a.created_at))
            .then(a.id.cmp(&b.id))
    });
    rows
}

fn service_of(task_name: &str) -> &str {
    task_name.rsplit_once('.').map_or(task_name, |(service, _)| service)
}

/// What stands in the IMAGE column: the image, or with runtime `exec` the file name of the command.
pub(super) fn image_of(spec: &TaskSpec) -> String {
    match spec.runtime {
        Runtime::Docker => spec.image.clone(),
        Runtime::Exec => {
            let program = spec.command.first().map_or("", String::as_str);
            program.rsplit('/').next().unwrap_or(program).to_string()
        }
    }
}

pub(super) fn task_row(facts: &Facts, task: &Task) -> TaskRow {
    let status = facts.observed.tasks.get(&task.id);
    let node = task.node_id.as_ref().and_then(|id| facts.cluster.nodes.get(id));
    let service = facts.cluster.services.get(&task.service_id);
    let state = task_state(task, &facts.observed);
    let host_ports = service.map(|service| service.ports.iter().filter(|port| port.mode == PublishMode::Host));
    TaskRow {
        id: task.id.clone(),
        name: task.name(),
        service_id: task.service_id.clone(),
        slot: task.slot,
        runtime: task.spec.runtime,
        image: image_of(&task.spec),
        node_id: task.node_id.clone(),
        node: node.map(|node| node.name.clone()).unwrap_or_default(),
        desired: task.desired,
        state,
        ready: status.is_some_and(|status| status.ready) && state == TaskState::Running,
        health: status.and_then(|status| status.health).filter(|_| !state.is_terminal()),
        draining: task.draining,
        service_version: task.service_version,
        since: status.filter(|status| status.state == state).map_or(task.created_at, |status| status.since),
        error: error_of(task, state, status),
        ports: host_ports.map(|ports| ports.cloned().collect()).unwrap_or_default(),
        ports_not_taken: service.map(|service| not_taken(facts, service)).unwrap_or_default(),
        created_at: task.created_at,
    }
}

/// Published ports of the service that some node could not take because the host itself uses them: `tcp/8500 on n3`. A published port
/// is every node's, so each task tells of all of them.
fn not_taken(facts: &Facts, service: &Service) -> Vec<String> {
    let reported = |port: &PortSpec| {
        let named = match port.place() {
            (Some(addr), _) => vec![addr],
            (_, Some(interface)) => {
                facts.observed.addresses_of(interface, facts.cluster.nodes.keys()).into_iter().collect()
            }
            _ => return vec![format!("{}/{}", protocol(port.protocol), port.published)],
        };
        let at = |addr| format!("{}/{}", protocol(port.protocol), SocketAddr::new(addr, port.published));
        named.into_iter().map(at).collect()
    };
    let published: Vec<String> = service.ports.iter().flat_map(reported).collect();
    let nodes = facts.cluster.nodes.values().filter_map(|node| Some((node, facts.observed.nodes.get(&node.id)?)));
    nodes
        .flat_map(|(node, status)| {
            let refused = status.ports_not_taken.iter().filter(|port| published.contains(port));
            refused.map(move |port| format!("{port} on {}", node.name))
        })
        .collect()
}

fn protocol(protocol: crate::model::Protocol) -> &'static str {
    match protocol {
        crate::model::Protocol::Tcp => "tcp",
        crate::model::Protocol::Udp => "udp",
        crate::model::Protocol::Sctp => "sctp",
    }
}

/// A task that does what it should needs no words.
fn error_of(task: &Task, state: TaskState, status: Option<&TaskStatus>) -> String {
    let error = status.and_then(|status| status.error.clone());
    match state {
        TaskState::Failed | TaskState::Rejected => {
            error.or_else(|| status.map(|status| status.message.clone())).unwrap_or_else(|| task.message.clone())
        }
        // What it waits for: an image that is pulled, an Engine.
        TaskState::Preparing => {
            let said = status.and_then(|status| status.message.strip_prefix("preparing: "));
            error.unwrap_or_else(|| said.unwrap_or_default().to_owned())
        }
        TaskState::New | TaskState::Pending | TaskState::Orphaned => task.message.clone(),
        _ => error.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::facts;
    use super::*;

    #[test]
    fn the_node_reports_the_leader_overrides_and_an_end_stands() {
        let facts = facts();
        let mut task = facts.find_task("whoami.1").expect("in the fixture").clone();
        assert_eq!(task_state(&task, &facts.observed), TaskState::Running);
        task.leader_state = Some(TaskState::Orphaned);
        assert_eq!(task_state(&task, &facts.observed), TaskState::Orphaned);
        let mut observed = (*facts.observed).clone();
        observed.tasks.get_mut(&task.id).expect("reported").state = TaskState::Failed;
        assert_eq!(task_state(&task, &observed), TaskState::Failed);
        observed.tasks.clear();
        task.leader_state = None;
        assert_eq!(task_state(&task, &observed), TaskState::Assigned);
    }

    #[test]
    fn a_task_in_preparation_says_what_it_waits_for() {
        let facts = facts();
        let task = facts.find_task("whoami.1").expect("in the fixture");
        let mut status = facts.observed.tasks[&task.id].clone();
        (status.error, status.message) = (None, "preparing: pulling nginx:1.27 (42 %)".into());
        assert_eq!(error_of(task, TaskState::Preparing, Some(&status)), "pulling nginx:1.27 (42 %)");
        status.message = "preparing".into();
        assert_eq!(error_of(task, TaskState::Preparing, Some(&status)), "");
    }

    #[test]
    fn history_stands_below_the_present_task_of_its_slot() {
        let facts = facts();
        let rows = service_tasks(&facts, "whoami").expect("rows").rows;
        let seen: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.state)).collect();
        assert_eq!(
            seen,
            [("whoami.1", TaskState::Running), ("whoami.1", TaskState::Failed), ("whoami.2", TaskState::Running),]
        );
    }
}
