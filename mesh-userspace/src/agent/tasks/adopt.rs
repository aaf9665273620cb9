//! What a former agent left is taken over: running tasks run on, healthy ones stay in tables and names throughout.

use super::{Tasks, reports};
use crate::agent::member::Member;
use crate::agent::now;
use crate::model::TaskHealth;
use crate::runtime::{Phase, RuntimeError, TaskInstance, TaskRuntime};

impl Tasks {
    /// Takes over what a former agent left; subscribe to the runtime's events first.
    ///
    /// An error ends the agent's start: with a list that is not whole, running tasks would be started again or given up.
    pub async fn adopt(&self, member: &Member) -> Result<(), RuntimeError> {
        let instances = member.runtime.list().await?;
        let mut running = 0;
        for TaskInstance { task_id, phase, prepared, started_at, health, .. } in instances {
            self.with(|known| known.instances.insert(task_id.clone()));
            let pid = prepared.as_ref().map(|prepared| prepared.pid);
            if let Some(prepared) = prepared {
                member.kernel.set_namespace(task_id.clone(), prepared.netns);
            }
            match phase {
                Phase::Running => {
                    running += 1;
                    self.report(member, &task_id, reports::runs(health, pid, started_at.unwrap_or_else(now)));
                }
                // The former agent had begun to end it.
                Phase::Exited(_) if health == Some(TaskHealth::Unhealthy) => {
                    let words = member.runtime.last_failure(&task_id).await;
                    self.report(member, &task_id, reports::unhealthy(words));
                }
                Phase::Exited(exit) => self.exited(member, &task_id, &exit),
                // Died between preparation and start: begun anew.
                Phase::Prepared => {
                    if let Err(error) = member.runtime.remove(&task_id).await {
                        log::warn!("{error}");
                    }
                    member.kernel.forget_namespace(&task_id);
                    self.with(|known| known.instances.remove(&task_id));
                }
            }
        }
        match self.find_guests(member) {
            Ok(guests) => running += guests,
            Err(error) => log::warn!("find the containers that joined: {error}: they join anew"),
        }
        if running > 0 {
            log::info!("{running} running tasks of a former agent adopted");
        }
        member.membership.inventory_done();
        member.kernel.kick();
        Ok(())
    }
}
