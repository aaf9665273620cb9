//! A service gets more or fewer tasks, goes back to its previous spec, or goes.

use crate::leader::Ctx;
use crate::model::{Cluster, Id, Mode, Service, TaskState, UpdateState};

use super::check::check_replicas;
use super::service::replace_spec;
use super::{CommandError, Commit, resolve};

/// `service scale NAME=N...`: all or none.
pub fn scale_services(
    cluster: &Cluster,
    wanted: &[(String, u32)],
    ctx: &Ctx,
) -> Result<Commit<Vec<Service>>, CommandError> {
    let mut after = cluster.clone();
    let mut scaled = Vec::new();
    for (reference, replicas) in wanted {
        let mut service = resolve::service(&after, reference)?.clone();
        if service.spec.mode == Mode::Global {
            return Err(CommandError::GlobalScales { service: service.spec.name });
        }
        if service.spec.mode == Mode::Adopted {
            return Err(CommandError::AdoptedStays { service: service.spec.name, asked: "scaled" });
        }
        check_replicas(&service.spec.name, *replicas)?;
        let mode = Mode::Replicated { replicas: *replicas };
        if service.spec.mode != mode {
            service.previous_spec = Some(service.spec.clone().into());
            service.spec.mode = mode;
            service.version += 1;
            service.updated_at = ctx.now;
            after.services.insert(service.id.clone(), service.clone());
        }
        scaled.push(service);
    }
    Ok(Commit::of(cluster, &after, scaled))
}

/// `service rollback`: the previous spec is the spec again, and the other way round.
pub fn rollback_service(cluster: &Cluster, reference: &str, ctx: &Ctx) -> Result<Commit<Service>, CommandError> {
    let service = resolve::service(cluster, reference)?;
    let none = || CommandError::NoPreviousSpec { service: service.spec.name.clone() };
    let previous = *service.previous_spec.clone().ok_or_else(none)?;
    let mut after = cluster.clone();
    let service = replace_spec(&mut after, &service.id, previous, UpdateState::RollbackStarted, ctx)?;
    Ok(Commit::of(cluster, &after, service))
}

/// `service rm`: name, VIPs and ports are free at once; the tasks end in their grace period and then go.
pub fn remove_service(cluster: &Cluster, reference: &str) -> Result<Commit<Service>, CommandError> {
    let service = resolve::service(cluster, reference)?.clone();
    let mut after = cluster.clone();
    take_out(&mut after, &service);
    Ok(Commit::of(cluster, &after, service))
}

/// Takes a service out of the copy of the cluster that a command works on, and tells its tasks to end.
pub(super) fn take_out(after: &mut Cluster, service: &Service) {
    after.services.remove(&service.id);
    after.updates.remove(&service.id);
    let tasks: Vec<Id> = after.tasks_of(&service.id).map(|task| task.id.clone()).collect();
    for id in &tasks {
        let task = &mut after.tasks[id];
        task.draining |= task.desired == TaskState::Running;
        task.desired = TaskState::Remove;
    }
}
