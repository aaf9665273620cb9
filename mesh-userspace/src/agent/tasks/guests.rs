//! Containers of others as tasks: connected when the leader says so, let go when they end or are not wanted any more.
//!
//! Join: namespace of its process → link, programs, maps, zone → names → ready, at once or by the Engine's verdict. Leave: out of every
//! node's tables → open connections end, for a grace time → link and names taken back. Invariant: whatever happens, the container runs on as its owner wants. Must not: ask a
//! runtime to start, stop or remove it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::begin::listens_soon;
use super::end::DRAIN;
use super::{Known, Tasks, reports};
use crate::agent::member::Member;
use crate::agent::now;
use crate::model::{Id, Task, TaskHealth, TaskState, TaskStatus};
use crate::runtime::docker::{Adoptable, Guest};
use crate::runtime::is_connected;

/// Connections are looked for so often while a container is let go.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Tasks {
    /// What the Engine lists now; None: it does not say. Ends are found by the next look at all tasks.
    pub(super) fn listed(&self, member: &Member, listed: Option<Vec<Adoptable>>) {
        let verdicts: Vec<(Guest, Option<TaskHealth>)> = self.with(|known| {
            let verdict = |guest: &Guest| {
                let found = listed.iter().flatten().find(|found| is_the_same(guest, found))?;
                (found.health != guest.health).then(|| (guest.clone(), found.health))
            };
            let verdicts = known.guests.values().filter_map(verdict).collect();
            known.listed = listed.clone();
            verdicts
        });
        for (mut guest, health) in verdicts {
            guest.health = health;
            if let Err(error) = member.guests.keep(&guest) {
                log::warn!("keep the verdict on container {:.12}: {error}", guest.container);
            }
            let id = guest.task_id.clone();
            self.with(|known| known.guests.insert(id.clone(), guest));
            if let Some(health) = health {
                self.judged(member, &id, health);
            }
        }
    }

    pub(super) async fn join(&self, member: &Arc<Member>, task: &Task, found: Option<Box<Adoptable>>) {
        let Some(found) = found else {
            self.report(member, &task.id, gone());
            member.kernel.kick();
            return;
        };
        self.report(member, &task.id, reports::status(TaskState::Preparing, false, "preparing"));
        match self.connect(member, task, &found).await {
            Ok(()) => log::info!("container {} joined as {}", found.name, task.name()),
            Err(error) => {
                let error = format!("container {} could not be connected: {error:#}", found.name);
                log::warn!("task {}: {error}", task.name());
                self.let_go(member, &task.id);
                let report = reports::ended(TaskState::Failed, "could not be connected", Some(error), None);
                self.report(member, &task.id, report);
                member.kernel.kick();
            }
        }
    }

    async fn connect(&self, member: &Arc<Member>, task: &Task, found: &Adoptable) -> anyhow::Result<()> {
        let cluster = member.desired.get();
        let first = task.attachments.first().and_then(|at| cluster.networks.get(&at.network_id));
        let guest = member.guests.take_in(&task.id, found, now())?;
        member.kernel.set_namespace(task.id.clone(), guest.netns());
        self.take(&guest);
        member.kernel.round(member).await;
        member.kernel.check_task(task).await?;
        anyhow::ensure!(!member.kernel.is_closed(), "this node is leaving the cluster");
        if let Some(gateway) = first.and_then(|network| network.gateways.first())
            && let Err(error) = member.guests.give_names(found, gateway)
        {
            // Who calls it is answered all the same.
            log::warn!("{error}");
        }
        if found.health.is_none() {
            listens_soon(&cluster, task, guest.pid()).await;
        }
        self.update(member, &task.id, |known| {
            let health = known.guests.get(&task.id).map_or(found.health, |guest| guest.health);
            let is_over = known.reports.get(&task.id).is_some_and(|report| report.state.is_terminal());
            (!is_over).then(|| reports::runs(health, Some(guest.pid()), now()))
        });
        member.kernel.kick();
        Ok(())
    }

    /// It is one of ours from now on; its end is looked at as soon as its process ends, whatever the Engine is at.
    fn take(&self, guest: &Guest) {
        self.with(|known| known.guests.insert(guest.task_id.clone(), guest.clone()));
        let (kick, guest) = (self.kick.clone(), guest.clone());
        tokio::spawn(async move {
            guest.end().await;
            kick.notify_one();
        });
    }

    /// The store does not want it here any more: every node learns that from there, and only then is it disconnected.
    pub(super) async fn dismiss(&self, member: &Arc<Member>, task: &Task, revision: u64) {
        if let Some(served) = self.tell_to_end(&task.id) {
            let draining = reports::status(TaskState::Running, false, "draining");
            self.report(member, &task.id, TaskStatus { health: served.health, pid: served.pid, ..draining });
            member.applied_everywhere(revision, DRAIN).await;
            self.serve_out(member, task).await;
        }
        self.let_go(member, &task.id);
        self.report(member, &task.id, reports::ended(TaskState::Shutdown, "disconnected", None, None));
        member.kernel.kick();
    }

    /// Nobody new comes any more. Who is being served is served to the end, for as long as a task of ours would be given to end; only then is
    /// the link taken from under the connection.
    async fn serve_out(&self, member: &Member, task: &Task) {
        let Some(guest) = self.with(|known| known.guests.get(&task.id).cloned()) else { return };
        let addrs: Vec<IpAddr> = task.attachments.iter().flat_map(|at| at.addrs.each()).collect();
        let deadline = Instant::now() + Duration::from_millis(task.spec.stop_grace_period_ms);
        while is_connected(guest.pid(), &addrs) && !member.kernel.is_closed() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The container ended, or was started anew and has another network.
    pub(super) fn ended(&self, member: &Member, task: &Task) {
        log::info!("the container of {} stopped", task.name());
        self.with(|known| known.stopping.insert(task.id.clone()));
        self.let_go(member, &task.id);
        self.report(member, &task.id, gone());
        member.kernel.kick();
    }

    /// Takes back what joining gave it; the link goes with the next round after its end was reported.
    pub(super) fn let_go(&self, member: &Member, id: &Id) {
        if let Some(guest) = self.with(|known| known.guests.remove(id)) {
            member.guests.let_go(&guest);
            member.kernel.forget_namespace(id);
        }
    }

    /// Guests of a former agent, before the first round: their namespaces and reports are there, so nothing is taken out.
    pub(super) fn find_guests(&self, member: &Member) -> std::io::Result<usize> {
        let guests = member.guests.list()?;
        for guest in &guests {
            if !guest.is_alive() {
                member.guests.let_go(guest);
                self.report(member, &guest.task_id, gone());
                continue;
            }
            member.kernel.set_namespace(guest.task_id.clone(), guest.netns());
            self.take(guest);
            self.report(member, &guest.task_id, reports::runs(guest.health, Some(guest.pid()), guest.joined_at));
        }
        Ok(guests.len())
    }
}

fn gone() -> TaskStatus {
    reports::ended(TaskState::Complete, "its container stopped", None, None)
}

/// The same life of the same container.
fn is_the_same(guest: &Guest, found: &Adoptable) -> bool {
    found.container == guest.container && found.pid.unsigned_abs() == guest.pid()
}

/// By the kernel's word or the Engine's.
pub(super) fn has_ended(known: &Known, guest: &Guest) -> bool {
    let is_listed = |listed: &Vec<Adoptable>| listed.iter().any(|found| is_the_same(guest, found));
    !guest.is_alive() || known.listed.as_ref().is_some_and(|listed| !is_listed(listed))
}
