//! Containers that ask to join by their labels: told to the leader until the cluster agrees with what runs here.
//!
//! ```text
//! runtime::adoptable ─┐
//! desired ────────────┴─▶ differs? ─▶ POST /cluster/adopt, the whole list ─▶ leader::command::adopt_containers
//!                                                └─ refusals ─▶ log, mesh status
//! ```
//! Invariant: what is told is the list of this moment, so a lost answer, a new leader or a restart costs a repetition and nothing else.
//! Must not: connect anything itself; that follows from the desired state (tasks::guests).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;

use super::member::Member;
use super::{lead, peers};
use crate::api::ApiError;
use crate::leader::command::{adopt_containers, has_joined};
use crate::model::{Cluster, Id, LabelledContainer, NotAdopted, TaskState};
use crate::runtime::docker::Adoptable;

pub const ADOPT_PATH: &str = "/cluster/adopt";
/// A look at least so often.
const EVERY: Duration = Duration::from_secs(1);
/// The same question is asked again after so long: the network it lacked may be there now.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest wait for the store's node.
const ANSWER: Duration = Duration::from_secs(10);

/// Why containers of this node are not in the service that they ask for.
#[derive(Default)]
pub struct Adoption {
    warnings: Mutex<Vec<String>>,
}

impl Adoption {
    /// A line for each such container.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True where they are others than before; new ones are logged.
    fn set(&self, warnings: Vec<String>) -> bool {
        let mut current = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.iter().filter(|warning| !current.contains(warning)).for_each(|warning| log::warn!("{warning}"));
        let is_new = *current != warnings;
        *current = warnings;
        is_new
    }
}

/// Tells for ever.
pub async fn run(member: &Member) {
    let (mut adoptable, mut desired) = (member.runtime.adoptable(), member.desired.watch());
    let mut questions = Questions::default();
    loop {
        let listed = adoptable.borrow_and_update().clone();
        let cluster = desired.borrow_and_update().clone();
        // A cached state may be older than the list.
        if let Some(listed) = listed.filter(|_| member.desired.is_fresh()) {
            questions.forget_others(&listed);
            if let Some(tell) = questions.next(&cluster, &member.id, &listed, Instant::now()) {
                match ask(member, &tell).await {
                    Ok(refused) => questions.answered(&listed, &tell, refused, Instant::now()),
                    Err(error) => log::debug!("tell the leader of containers that ask to join: {}", error.message),
                }
            }
            if member.adoption.set(questions.warnings(&listed)) {
                member.kernel.kick();
            }
        }
        tokio::select! {
            Ok(()) = adoptable.changed() => {}
            _ = desired.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn ask(member: &Member, listed: &[LabelledContainer]) -> Result<Vec<NotAdopted>, ApiError> {
    if let Some(keeper) = &member.keeper {
        return lead::command(member, keeper, |cluster, ctx| adopt_containers(cluster, &member.id, listed, ctx)).await;
    }
    let body = serde_json::to_vec(listed).map_err(|error| ApiError::internal(error.to_string()))?;
    let request = hyper::Request::post(ADOPT_PATH)
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let cluster = member.desired.get();
    let answer = tokio::time::timeout(ANSWER, peers::ask_store(&member.dialer, &cluster, request)).await;
    answer.unwrap_or_else(|_| Err(ApiError::unavailable("the store's node does not answer in time")))
}

/// What was asked, when, and what came of it. Pure.
#[derive(Default)]
struct Questions {
    /// Container and process → when the leader was last asked for it.
    asked: BTreeMap<(String, i32), Instant>,
    /// Container → why it was refused.
    refused: BTreeMap<String, String>,
    /// Container → its process when it was last looked at.
    seen: BTreeMap<String, i32>,
    /// When containers that are gone were last told.
    released: Option<Instant>,
}

impl Questions {
    fn forget_others(&mut self, listed: &[Adoptable]) {
        let there: BTreeSet<&str> = listed.iter().map(|found| found.container.as_str()).collect();
        self.refused.retain(|container, _| there.contains(container.as_str()));
        self.asked.retain(|(container, _), _| there.contains(container.as_str()));
    }

    /// The list to tell now; None: the cluster agrees with it, or was asked a moment ago.
    fn next(
        &mut self,
        cluster: &Cluster,
        me: &Id,
        listed: &[Adoptable],
        now: Instant,
    ) -> Option<Vec<LabelledContainer>> {
        let is_old = |last: Option<&Instant>| last.is_none_or(|last| now.duration_since(*last) >= AGAIN);
        let asking = || listed.iter().filter(|found| found.problem.is_none());
        // Started anew, it was gone in between, also where nobody saw that: who was sent away may come again.
        let again = |found: &&Adoptable| self.seen.get(&found.container).is_some_and(|pid| *pid != found.pid);
        let again: BTreeSet<&str> = listed.iter().filter(again).map(|found| found.container.as_str()).collect();
        let there: BTreeSet<&str> = asking().map(|found| found.container.as_str()).collect();
        let mut of_mine = cluster.tasks.values().filter(|task| task.node_id.as_ref() == Some(me));
        let is_gone = of_mine.any(|task| {
            let has_place = task.desired == TaskState::Running
                || (task.desired == TaskState::Remove && task.attachments.is_empty());
            let container = task.adopted.as_deref().filter(|_| has_place);
            container.is_some_and(|container| !there.contains(container) || again.contains(container))
        });
        let told = |found: &Adoptable| LabelledContainer {
            container: found.container.clone(),
            name: found.name.clone(),
            image: found.image.clone(),
            service: found.service.clone(),
            networks: found.networks.clone(),
            aliases: found.aliases.clone(),
            ports: found.ports.clone(),
        };
        let list = if is_gone && (is_old(self.released.as_ref()) || !again.is_empty()) {
            self.released = Some(now);
            Some(asking().filter(|found| !again.contains(found.container.as_str())).map(told).collect())
        } else {
            let wants = |found: &&Adoptable| {
                !has_joined(cluster, me, &found.container)
                    && is_old(self.asked.get(&(found.container.clone(), found.pid)))
            };
            asking().any(|found| wants(&found)).then(|| asking().map(told).collect())
        };
        if list.is_none() {
            self.see(listed);
        }
        list
    }

    fn see(&mut self, listed: &[Adoptable]) {
        self.seen = listed.iter().map(|found| (found.container.clone(), found.pid)).collect();
    }

    /// The leader heard `told` of what is `listed`.
    fn answered(&mut self, listed: &[Adoptable], told: &[LabelledContainer], refused: Vec<NotAdopted>, now: Instant) {
        self.see(listed);
        let told: BTreeSet<&str> = told.iter().map(|told| told.container.as_str()).collect();
        let told = listed.iter().filter(|found| told.contains(found.container.as_str()));
        self.asked.extend(told.map(|found| ((found.container.clone(), found.pid), now)));
        self.refused = refused.into_iter().map(|refused| (refused.container, refused.why)).collect();
    }

    fn warnings(&self, listed: &[Adoptable]) -> Vec<String> {
        let why = |found: &Adoptable| {
            let why = found.problem.as_ref().or_else(|| self.refused.get(&found.container))?;
            Some(format!("container {} ({:.12}) does not join: {why}", found.name, found.container))
        };
        listed.iter().filter_map(why).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Task;

    fn id(byte: u8) -> Id {
        Id::from_bytes([byte; 16])
    }

    fn found(container: u8, pid: i32) -> Adoptable {
        let container = format!("{container:02x}").repeat(32);
        Adoptable { container, pid, name: "blog".into(), service: "web".into(), ..Adoptable::default() }
    }

    /// The task of this container on node 1.
    fn task(container: u8, desired: TaskState) -> Task {
        let spec = crate::model::TaskSpec::new(crate::model::Runtime::Docker);
        Task {
            id: id(container),
            service_id: id(5),
            service_name: "web".into(),
            slot: 1,
            node_id: Some(id(1)),
            spec: spec.into(),
            service_version: 1,
            attachments: Vec::new(),
            desired,
            draining: false,
            leader_state: None,
            message: String::new(),
            created_at: 0,
            not_before: 0,
            adopted: Some(found(container, 0).container),
        }
    }

    fn cluster(tasks: impl IntoIterator<Item = Task>) -> Cluster {
        Cluster { tasks: tasks.into_iter().map(|task| (task.id.clone(), task)).collect(), ..Cluster::default() }
    }

    /// How many containers are told; None: nothing is.
    fn told(questions: &mut Questions, cluster: &Cluster, listed: &[Adoptable], now: Instant) -> Option<usize> {
        let tell = questions.next(cluster, &id(1), listed, now)?;
        questions.answered(listed, &tell, Vec::new(), now);
        Some(tell.len())
    }

    #[test]
    fn told_is_what_the_cluster_does_not_agree_with_and_not_all_the_time() {
        let (mut questions, begin) = (Questions::default(), Instant::now());
        let none = cluster([]);
        assert_eq!(told(&mut questions, &none, &[], begin), None);
        assert_eq!(told(&mut questions, &none, &[found(7, 70)], begin), Some(1));
        assert_eq!(told(&mut questions, &none, &[found(7, 70)], begin), None, "the leader was asked a moment ago");
        assert_eq!(told(&mut questions, &none, &[found(7, 70)], begin + AGAIN), Some(1), "it lacked something then");
        let joined = cluster([task(7, TaskState::Running)]);
        assert_eq!(told(&mut questions, &joined, &[found(7, 70)], begin + 3 * AGAIN), None);
        assert_eq!(told(&mut questions, &joined, &[found(7, 70), found(8, 80)], begin), Some(2));
        assert_eq!(told(&mut questions, &joined, &[], begin), Some(0), "it is gone");
        let mistaken = Adoptable { problem: Some("label mesh.port".into()), ..found(9, 90) };
        assert_eq!(told(&mut questions, &none, &[mistaken], begin), None);
    }

    #[test]
    fn who_was_sent_away_comes_again_when_it_was_started_anew() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let sent_away = cluster([task(7, TaskState::Remove)]);
        assert_eq!(told(&mut questions, &sent_away, &[found(7, 70)], now), None);
        // The Engine was asked before and after its restart only. An answer that is lost changes nothing.
        assert_eq!(questions.next(&sent_away, &id(1), &[found(7, 71)], now).map(|list| list.len()), Some(0));
        assert_eq!(told(&mut questions, &sent_away, &[found(7, 71)], now), Some(0));
        assert_eq!(told(&mut questions, &cluster([]), &[found(7, 71)], now), Some(1));
    }

    #[test]
    fn refusals_name_the_container_and_go_with_it() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let listed = [found(7, 70), Adoptable { problem: Some("label mesh.port".into()), ..found(9, 90) }];
        let tell = questions.next(&cluster([]), &id(1), &listed, now).expect("asks");
        let refused = NotAdopted { container: listed[0].container.clone(), why: "there is no network 'demo'".into() };
        questions.answered(&listed, &tell, vec![refused], now);
        let warnings = questions.warnings(&listed);
        assert_eq!(warnings[0], "container blog (070707070707) does not join: there is no network 'demo'");
        assert!(warnings[1].contains("mesh.port"));
        questions.forget_others(&[]);
        assert!(questions.warnings(&listed[..1]).is_empty());
    }
}
