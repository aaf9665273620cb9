//! What listings show: states and counts derived from desired and observed facts. Every node may ask, not only the leader.

use crate::model::{Cluster, Node, Observed, Runtime, Service, Task, TaskState, UnixMs};

use super::tick::{Next, next, runs_the_same, slots_of, wanted};
use super::{Health, Timing, node_health};

/// STATUS of `node ls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    Ready,
    Down,
    /// Silent in one way or another, or never heard of.
    Unknown,
}

impl NodeState {
    /// As Swarm writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Ready => "Ready",
            NodeState::Down => "Down",
            NodeState::Unknown => "Unknown",
        }
    }
}

/// The state of a node, as the node that observed this sees it.
pub fn node_state(cluster: &Cluster, observed: &Observed, node: &Node, now: UnixMs) -> NodeState {
    let timing = Timing::default();
    let gone = observed.agent_gone_since.get(&node.id);
    let long_gone = gone.is_some_and(|since| now.saturating_sub(*since) >= timing.agent_gone_ms);
    match node_health(cluster, observed, node, now, timing) {
        Health::Ready => NodeState::Ready,
        Health::Lost => NodeState::Down,
        Health::Uncertain if long_gone => NodeState::Down,
        Health::Uncertain => NodeState::Unknown,
    }
}

/// The state of a task to show: what the leader wrote down as final, else what its node reports, else how far placement is.
pub fn task_state(task: &Task, observed: &Observed) -> TaskState {
    if let Some(last) = task.leader_state.filter(|state| state.is_terminal()) {
        return last;
    }
    match (observed.tasks.get(&task.id), &task.node_id) {
        (Some(status), _) => status.state,
        (None, Some(_)) => TaskState::Assigned,
        (None, None) => TaskState::Pending,
    }
}

/// The error to show with a task: its node's, else the leader's word where the task isn't as it should be.
pub fn task_error<'a>(task: &'a Task, observed: &'a Observed) -> Option<&'a str> {
    let reported = observed.tasks.get(&task.id).and_then(|status| status.error.as_deref());
    let ended_well = matches!(task.leader_state, Some(TaskState::Shutdown | TaskState::Complete));
    let unusual = task.leader_state.is_some() && !ended_well;
    reported.or_else(|| (unusual && !task.message.is_empty()).then_some(task.message.as_str()))
}

/// Running and ready to be served from.
pub fn is_ready(task: &Task, observed: &Observed) -> bool {
    let status = observed.tasks.get(&task.id);
    task_state(task, observed) == TaskState::Running && status.is_some_and(|status| status.ready)
}

/// REPLICAS of `service ls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub running: usize,
    pub desired: usize,
}

impl std::fmt::Display for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.running, self.desired)
    }
}

/// How many slots of the service have a ready task, and how many it asks for.
pub fn replicas(cluster: &Cluster, observed: &Observed, service: &Service) -> Replicas {
    let serves = |task: &Task| task.desired == TaskState::Running && is_ready(task, observed);
    let wanted = wanted(cluster, &service.spec);
    let slots = slots_of(cluster, service, cluster.tasks_of(&service.id));
    let running = wanted.iter().filter(|slot| slots.get(slot).is_some_and(|tasks| tasks.iter().any(serves)));
    Replicas { running: running.count(), desired: wanted.len() }
}

/// How far a service is from what its spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// Every slot has a ready task of the newest spec, and nothing else runs.
    Converged,
    /// On its way; the word says what is waited for.
    Progressing(String),
    /// Nothing more will happen without the user.
    Stuck(String),
}

/// How far the service is; what `service create` and its like wait for.
pub fn convergence(cluster: &Cluster, observed: &Observed, service: &Service, now: UnixMs) -> Convergence {
    if let Some(reason) = &service.pending_reason {
        return Convergence::Stuck(reason.clone());
    }
    let update = cluster.updates.get(&service.id);
    if let Some(update) = update.filter(|update| update.state.is_paused()) {
        return Convergence::Stuck(update.message.clone());
    }
    let slots = slots_of(cluster, service, cluster.tasks_of(&service.id));
    let live = |task: &&Task| task.desired == TaskState::Running;
    // Why a task can't start says more than what else is going on.
    let (mut trouble, mut waiting) = (None, None);
    for slot in wanted(cluster, &service.spec) {
        let tasks = slots.get(&slot).map_or(&[][..], Vec::as_slice);
        if let (Some(last), Next::Never) = (tasks.last(), next(&service.spec, tasks, now)) {
            let error = task_error(last, observed).unwrap_or("ended");
            return Convergence::Stuck(format!("{}: {error}; the restart policy allows no more tasks", last.name()));
        }
        let news: Vec<&Task> = tasks.iter().filter(live).collect();
        // What a container of others runs is its owner's choice.
        let is_own = |task: &&&Task| task.adopted.is_none();
        let stale = news.iter().filter(is_own).find(|task| !runs_the_same(&task.spec, &service.spec.task));
        let unready = news.iter().find(|task| !is_ready(task, observed));
        let troubled = news.iter().find(|task| !is_ready(task, observed) && task_error(task, observed).is_some());
        trouble = trouble.or(troubled.map(|task| explain(task, observed)));
        waiting = waiting.or(match (news.is_empty(), stale, unready) {
            (true, _, _) => Some(tasks.last().map_or("starting".to_string(), |last| explain(last, observed))),
            (_, Some(_), _) => Some("replacing tasks of the old spec".to_string()),
            (_, _, Some(task)) => Some(explain(task, observed)),
            _ => None,
        });
    }
    let replicas = replicas(cluster, observed, service);
    match trouble.or(waiting) {
        Some(word) => Convergence::Progressing(format!("{replicas} tasks: {word}")),
        None if update.is_some_and(|update| update.state.is_active()) => {
            Convergence::Progressing(format!("{replicas} tasks: verifying"))
        }
        None => Convergence::Converged,
    }
}

/// `web.1 is pending: no suitable node …`.
fn explain(task: &Task, observed: &Observed) -> String {
    let state = format!("{:?}", task_state(task, observed)).to_lowercase();
    match task_error(task, observed) {
        Some(error) => format!("{} is {state}: {error}", task.name()),
        None => format!("{} is {state}", task.name()),
    }
}

/// What a service runs, in one word of `service ls`: the image, or the command of runtime exec.
pub fn image(service: &Service) -> &str {
    match service.spec.task.runtime {
        Runtime::Docker => &service.spec.task.image,
        Runtime::Exec => service.spec.task.command.first().map_or("", String::as_str),
    }
}
