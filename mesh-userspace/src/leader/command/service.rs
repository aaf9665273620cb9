//! A service is created, or gets another spec.

use crate::leader::Ctx;
use crate::leader::allocate::settle_service;
use crate::model::{Cluster, Id, Mode, Service, ServiceSpec, UpdateState, UpdateStatus};

use super::check::check;
use super::{CommandError, Commit, resolve};

/// `service create`. A service whose address or port can't be had exists all the same, with `pending_reason`.
pub fn create_service(cluster: &Cluster, spec: ServiceSpec, ctx: &mut Ctx) -> Result<Commit<Service>, CommandError> {
    if spec.mode == Mode::Adopted {
        return Err(CommandError::AdoptedByHand { service: spec.name });
    }
    let mut after = cluster.clone();
    let service = add(&mut after, spec, ctx)?;
    Ok(Commit::of(cluster, &after, service))
}

/// Adds a service to the copy of the cluster that a command works on. A service without a name gets one from its id.
pub(super) fn add(after: &mut Cluster, mut spec: ServiceSpec, ctx: &mut Ctx) -> Result<Service, CommandError> {
    if after.settings.is_none() {
        return Err(CommandError::NotInitialised);
    }
    let id = ctx.new_id();
    if spec.name.is_empty() {
        spec.name = format!("service-{}", id.short());
    }
    let service = Service {
        id: id.clone(),
        spec: check(after, spec, None)?,
        previous_spec: None,
        version: 1,
        vips: Vec::new(),
        ports: Vec::new(),
        pending_reason: None,
        created_at: ctx.now,
        updated_at: ctx.now,
    };
    after.services.insert(id.clone(), service);
    settle_service(after, &id);
    Ok(after.services[&id].clone())
}

/// `service update`: the whole spec is replaced; addresses and ports that stay asked for stay the same. `expected`: the version
/// the spec was made from, so that of two users at once one is told.
pub fn update_service(
    cluster: &Cluster,
    reference: &str,
    spec: ServiceSpec,
    expected: Option<u64>,
    ctx: &Ctx,
) -> Result<Commit<Service>, CommandError> {
    let service = resolve::service(cluster, reference)?;
    if let Some(expected) = expected.filter(|expected| *expected != service.version) {
        let (service, version) = (service.spec.name.clone(), service.version);
        return Err(CommandError::ChangedMeanwhile { service, version, expected });
    }
    let mut after = cluster.clone();
    let service = replace_spec(&mut after, &service.id, spec, UpdateState::Updating, ctx)?;
    Ok(Commit::of(cluster, &after, service))
}

/// Gives a service another spec, in the copy of the cluster that is worked on. The same spec again changes nothing.
pub(in crate::leader) fn replace_spec(
    after: &mut Cluster,
    id: &Id,
    spec: ServiceSpec,
    state: UpdateState,
    ctx: &Ctx,
) -> Result<Service, CommandError> {
    let missing = || CommandError::NotFound { kind: "service", reference: id.to_string() };
    let old = after.services.get(id).cloned().ok_or_else(missing)?;
    let name = || old.spec.name.clone();
    if spec.name != old.spec.name {
        return Err(CommandError::Rename { service: name(), name: spec.name });
    }
    if old.spec.mode == Mode::Adopted {
        return Err(CommandError::AdoptedStays { service: name(), asked: "updated" });
    }
    if spec.mode == Mode::Adopted {
        return Err(CommandError::AdoptedByHand { service: name() });
    }
    if matches!(spec.mode, Mode::Global) != matches!(old.spec.mode, Mode::Global) {
        return Err(CommandError::ModeChange { service: name() });
    }
    let spec = check(after, spec, Some(id))?;
    if spec == old.spec {
        return Ok(old);
    }
    let replaces_tasks =
        !crate::leader::tick::runs_the_same(&spec.task, &old.spec.task) || spec.networks != old.spec.networks;
    let mut service = old.clone();
    service.previous_spec = Some(std::mem::replace(&mut service.spec, spec).into());
    service.version += 1;
    service.updated_at = ctx.now;
    after.services.insert(id.clone(), service);
    if replaces_tasks {
        let status = UpdateStatus {
            state,
            started_at: ctx.now,
            completed_at: None,
            message: "update in progress".into(),
            ready_since: Default::default(),
        };
        after.updates.insert(id.clone(), status);
    }
    settle_service(after, id);
    Ok(after.services[id].clone())
}
