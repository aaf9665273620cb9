//! This node in and out of a cluster, at the user's word; and what it knows, for every listing. One change at a time.

use std::path::Path;
use std::sync::Arc;

use super::seat::{Seat, member_of, seat, store_away};
use crate::agent::member::store_path;
use crate::agent::{Agent, entrance, now, peers, purge};
use crate::api::tls;
use crate::api::{ApiError, Facts, InitAnswer, InitRequest, JoinAnswer, JoinRequest, LeaveRequest, PurgeAnswer};
use crate::leader::isolation;
use crate::membership::identity::FOLDER;
use crate::model::Role;

pub async fn facts(agent: &Agent) -> Facts {
    let member = agent.member.read().await.clone();
    let (cluster, observed, me, mut warnings) = match &member {
        Some(member) => (member.desired.get(), member.observed(), Some(member.id.clone()), member.kernel.warnings()),
        None => (Arc::default(), Arc::default(), None, Vec::new()),
    };
    warnings.extend(agent.checkup.complaints());
    if let Some(member) = &member {
        warnings.extend(member.adoption.warnings());
        warnings.extend(store_away(member));
        if member.keeper.is_some() {
            warnings.extend(isolation(&cluster, &observed, now(), crate::leader::Timing::default()));
        }
    }
    Facts {
        cluster,
        observed,
        me,
        xdp: member.as_ref().and_then(|member| member.kernel.xdp()).map(|xdp| xdp.summary),
        drops: member.as_ref().and_then(|member| member.kernel.drops().ok()).unwrap_or_default(),
        node_name: agent.name.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_string(),
        warnings,
        now: now(),
    }
}

pub async fn init(agent: &Arc<Agent>, request: InitRequest) -> Result<InitAnswer, ApiError> {
    let _changing = agent.changing.lock().await;
    if agent.member.read().await.is_some() {
        return Err(ApiError::conflict("this node is already part of a cluster: mesh swarm leave first"));
    }
    has_no_past(&agent.args.state_dir)?;
    match entrance::begin_cluster(agent, request).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            purge::forget(&agent.args.state_dir);
            Err(as_api(error))
        }
    }
}

pub async fn join(agent: &Arc<Agent>, request: JoinRequest) -> Result<JoinAnswer, ApiError> {
    let _changing = agent.changing.lock().await;
    if agent.member.read().await.is_some() {
        return Err(ApiError::conflict("this node is already part of a cluster: mesh swarm leave first"));
    }
    has_no_past(&agent.args.state_dir)?;
    match entrance::enter_cluster(agent, request).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            purge::forget(&agent.args.state_dir);
            Err(as_api(error))
        }
    }
}

pub async fn leave(agent: &Arc<Agent>, request: LeaveRequest) -> Result<(), ApiError> {
    let _changing = agent.changing.lock().await;
    let member = member_of(agent).await?;
    let cluster = member.desired.get();
    let is_manager = cluster.nodes.get(&member.id).is_some_and(|node| node.role == Role::Manager);
    if is_manager && !request.force {
        return Err(ApiError::conflict("this node is a manager: leave with --force if the cluster can do without it"));
    }
    let told = match &member.keeper {
        Some(_) => Ok(()),
        None => match seat(&member).await {
            Ok(Seat::There(client)) => client.leave_cluster(request.force).await,
            Ok(Seat::Here(_)) => Ok(()),
            Err(error) => Err(error),
        },
    };
    if let (Err(error), false) = (&told, request.force) {
        return Err(ApiError::new(
            error.kind,
            format!("the cluster could not be told: {}; leave with --force all the same", error.message),
        ));
    }
    agent.member.write().await.take();
    purge::leave(agent, &member)
        .await
        .map_err(|error| ApiError::internal(format!("the cluster is left, but {error:#}; 'mesh purge' tries it again")))
}

pub async fn purge_node(agent: &Agent) -> Result<PurgeAnswer, ApiError> {
    let _changing = agent.changing.lock().await;
    let member = agent.member.write().await.take();
    let swept = purge::sweep_out(agent, member.as_deref()).await;
    let removed = swept.into_result().map_err(|error| ApiError::internal(format!("{error:#}")))?;
    Ok(PurgeAnswer { removed })
}

/// What an earlier cluster left is never overwritten: a store that is gone is gone for everybody.
fn has_no_past(state_dir: &Path) -> Result<(), ApiError> {
    let left = [store_path(state_dir), state_dir.join(FOLDER).join("node.json")].into_iter().find(|path| path.exists());
    match left {
        None => Ok(()),
        Some(path) => Err(ApiError::conflict(format!(
            "{} is left of an earlier cluster: restart the agent to go on in it, or move the file away if that cluster is no more",
            path.display()
        ))),
    }
}

/// Errors keep their kind where they have one.
fn as_api(error: anyhow::Error) -> ApiError {
    let message = format!("{error:#}");
    match error.downcast::<ApiError>() {
        Ok(error) => error,
        Err(error) => match error.downcast::<tls::TlsError>() {
            Ok(error) => peers::refusal(error),
            Err(_) => ApiError::conflict(message),
        },
    }
}
