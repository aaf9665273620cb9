//! The desired state changed by users: networks, services, stacks. Decided by the pure commands of the leader where the store is; asked
//! for there from everywhere else. Must not: decide anything itself.

use super::not_yet::refuse_not_yet;
use super::seat::{Seat, caught_up, seat};
use crate::agent::lead;
use crate::agent::member::Member;
use crate::api::{
    ApiError, Created, ScaleItem, ServiceUpdate, StackAnswer, StackDeploy, StackStep, StepAction, StepKind,
};
use crate::leader::{Ctx, command};
use crate::model::{Cluster, Id, NetworkSpec, ServiceSpec};

pub async fn create_network(member: &Member, spec: NetworkSpec) -> Result<Created, ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.network_create(&spec).await).await,
        Seat::Here(keeper) => {
            let made =
                lead::command(member, keeper, |cluster, ctx| command::create_network(cluster, spec.clone(), ctx))
                    .await?;
            Ok(Created { id: made.id, warnings: Vec::new() })
        }
    }
}

pub async fn remove_network(member: &Member, network: &Id) -> Result<(), ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.network_remove(network.as_str()).await).await,
        Seat::Here(keeper) => {
            lead::command(member, keeper, |cluster, _| command::remove_network(cluster, network.as_str()))
                .await
                .map(drop)
        }
    }
}

pub async fn create_service(member: &Member, spec: ServiceSpec) -> Result<Created, ApiError> {
    refuse_not_yet(&spec)?;
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.service_create(&spec).await).await,
        Seat::Here(keeper) => {
            let made =
                lead::command(member, keeper, |cluster, ctx| command::create_service(cluster, spec.clone(), ctx))
                    .await?;
            Ok(Created { id: made.id, warnings: Vec::new() })
        }
    }
}

pub async fn update_service(member: &Member, service: &Id, update: ServiceUpdate) -> Result<(), ApiError> {
    refuse_not_yet(&update.spec)?;
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.service_update(service.as_str(), &update).await).await,
        Seat::Here(keeper) => {
            let decide = |cluster: &Cluster, ctx: &mut Ctx| {
                command::update_service(cluster, service.as_str(), update.spec.clone(), Some(update.version), ctx)
            };
            lead::command(member, keeper, decide).await.map(drop)
        }
    }
}

pub async fn scale_services(member: &Member, items: Vec<ScaleItem>) -> Result<(), ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.service_scale(&items).await).await,
        Seat::Here(keeper) => {
            let wanted: Vec<(String, u32)> = items.into_iter().map(|item| (item.service, item.replicas)).collect();
            lead::command(member, keeper, |cluster, ctx| command::scale_services(cluster, &wanted, ctx)).await.map(drop)
        }
    }
}

pub async fn rollback_service(member: &Member, service: &Id) -> Result<(), ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.service_rollback(service.as_str()).await).await,
        Seat::Here(keeper) => {
            lead::command(member, keeper, |cluster, ctx| command::rollback_service(cluster, service.as_str(), ctx))
                .await
                .map(drop)
        }
    }
}

pub async fn remove_service(member: &Member, service: &Id) -> Result<(), ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.service_remove(service.as_str()).await).await,
        Seat::Here(keeper) => {
            lead::command(member, keeper, |cluster, _| command::remove_service(cluster, service.as_str()))
                .await
                .map(drop)
        }
    }
}

pub async fn deploy_stack(member: &Member, request: StackDeploy) -> Result<StackAnswer, ApiError> {
    request.stack.services.iter().try_for_each(refuse_not_yet)?;
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.stack_deploy(&request).await).await,
        Seat::Here(keeper) => {
            let before = member.desired.get();
            let decide = |cluster: &Cluster, ctx: &mut Ctx| {
                command::deploy_stack(cluster, request.stack.clone(), request.prune, ctx)
            };
            let outcome = lead::command(member, keeper, decide).await?;
            Ok(StackAnswer { steps: stack_steps(&before, &member.desired.get(), &outcome), warnings: Vec::new() })
        }
    }
}

pub async fn remove_stack(member: &Member, name: &str) -> Result<StackAnswer, ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.stack_remove(name).await).await,
        Seat::Here(keeper) => {
            let before = member.desired.get();
            let removed = lead::command(member, keeper, |cluster, _| command::remove_stack(cluster, name)).await?;
            let steps = removed.iter().filter_map(|name| step(&before, StepAction::Removed, name)).collect();
            Ok(StackAnswer { steps, warnings: Vec::new() })
        }
    }
}

fn stack_steps(before: &Cluster, after: &Cluster, outcome: &command::StackOutcome) -> Vec<StackStep> {
    let of = |action: StepAction, names: &[String], cluster: &Cluster| -> Vec<StackStep> {
        names.iter().filter_map(|name| step(cluster, action, name)).collect()
    };
    [
        of(StepAction::Created, &outcome.created_networks, after),
        of(StepAction::Created, &outcome.created_services, after),
        of(StepAction::Updated, &outcome.updated_services, after),
        of(StepAction::Unchanged, &outcome.unchanged_services, after),
        of(StepAction::Removed, &outcome.removed, before),
    ]
    .concat()
}

/// The step about the service or network of this name.
fn step(cluster: &Cluster, action: StepAction, name: &str) -> Option<StackStep> {
    let service = cluster.service_named(name).map(|service| (StepKind::Service, service.id.clone()));
    let network = || cluster.network_named(name).map(|network| (StepKind::Network, network.id.clone()));
    let (kind, id) = service.or_else(network)?;
    Some(StackStep { action, kind, name: name.to_string(), id })
}
