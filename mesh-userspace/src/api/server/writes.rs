//! Changing routes: names resolved, then the control plane asked.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{delete, post, put};
use serde::Deserialize;

use super::Control;
use super::body::{JsonBody, Params};
use crate::api::{
    ApiError, Caller, Created, InitAnswer, InitRequest, JoinAnswer, JoinRequest, JoinTokenAnswer, JoinTokenRequest,
    LeaveRequest, NodeUpdate, PurgeAnswer, ScaleItem, ServiceUpdate, StackAnswer, StackDeploy,
};
use crate::doctor::Finding;
use crate::model::{NetworkSpec, ServiceSpec};

type Answer<T> = Result<JsonBody<T>, ApiError>;

/// Changes of the cluster: by managers, on managers.
pub(super) fn change_routes() -> Router<Control> {
    Router::new()
        .route("/v1/swarm/join-token", post(join_token))
        .route("/v1/nodes/{node}", put(node_update).delete(node_remove))
        .route("/v1/networks", post(network_create))
        .route("/v1/networks/{network}", delete(network_remove))
        .route("/v1/services", post(service_create))
        .route("/v1/services/{service}", put(service_update).delete(service_remove))
        .route("/v1/services/{service}/rollback", post(service_rollback))
        .route("/v1/scale", post(service_scale))
        .route("/v1/stacks/{stack}", put(stack_deploy).delete(stack_remove))
}

/// Changes of this machine: by its own socket.
pub(super) fn local_routes() -> Router<Control> {
    Router::new()
        .route("/v1/swarm/init", post(swarm_init))
        .route("/v1/swarm/join", post(swarm_join))
        .route("/v1/swarm/leave", post(swarm_leave))
        .route("/v1/doctor", post(doctor))
        .route("/v1/purge", post(purge))
}

async fn swarm_init(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<InitRequest>,
) -> Answer<InitAnswer> {
    control.swarm_init(&caller, request).await.map(JsonBody)
}

async fn swarm_join(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Answer<JoinAnswer> {
    control.swarm_join(&caller, request).await.map(JsonBody)
}

async fn swarm_leave(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<LeaveRequest>,
) -> Answer<()> {
    control.swarm_leave(&caller, request).await.map(JsonBody)
}

async fn doctor(State(control): State<Control>, caller: Caller) -> Answer<Vec<Finding>> {
    control.doctor(&caller).await.map(JsonBody)
}

async fn purge(State(control): State<Control>, caller: Caller) -> Answer<PurgeAnswer> {
    control.purge(&caller).await.map(JsonBody)
}

async fn join_token(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<JoinTokenRequest>,
) -> Answer<JoinTokenAnswer> {
    control.join_token(&caller, request).await.map(JsonBody)
}

async fn node_update(
    State(control): State<Control>,
    caller: Caller,
    Path(word): Path<String>,
    JsonBody(update): JsonBody<NodeUpdate>,
) -> Answer<()> {
    let id = control.facts().await.find_node(&word)?.id.clone();
    control.node_update(&caller, &id, update).await.map(JsonBody)
}

#[derive(Deserialize)]
struct RemoveParams {
    #[serde(default)]
    force: bool,
}

async fn node_remove(
    State(control): State<Control>,
    caller: Caller,
    Path(word): Path<String>,
    Params(params): Params<RemoveParams>,
) -> Answer<()> {
    let id = control.facts().await.find_node(&word)?.id.clone();
    control.node_remove(&caller, &id, params.force).await.map(JsonBody)
}

async fn network_create(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(spec): JsonBody<NetworkSpec>,
) -> Answer<Created> {
    control.network_create(&caller, spec).await.map(JsonBody)
}

async fn network_remove(State(control): State<Control>, caller: Caller, Path(word): Path<String>) -> Answer<()> {
    let id = control.facts().await.find_network(&word)?.id.clone();
    control.network_remove(&caller, &id).await.map(JsonBody)
}

async fn service_create(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(spec): JsonBody<ServiceSpec>,
) -> Answer<Created> {
    control.service_create(&caller, spec).await.map(JsonBody)
}

async fn service_update(
    State(control): State<Control>,
    caller: Caller,
    Path(word): Path<String>,
    JsonBody(update): JsonBody<ServiceUpdate>,
) -> Answer<()> {
    let id = control.facts().await.find_service(&word)?.id.clone();
    control.service_update(&caller, &id, update).await.map(JsonBody)
}

async fn service_scale(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(items): JsonBody<Vec<ScaleItem>>,
) -> Answer<()> {
    control.service_scale(&caller, items).await.map(JsonBody)
}

async fn service_rollback(State(control): State<Control>, caller: Caller, Path(word): Path<String>) -> Answer<()> {
    let id = control.facts().await.find_service(&word)?.id.clone();
    control.service_rollback(&caller, &id).await.map(JsonBody)
}

async fn service_remove(State(control): State<Control>, caller: Caller, Path(word): Path<String>) -> Answer<()> {
    let id = control.facts().await.find_service(&word)?.id.clone();
    control.service_remove(&caller, &id).await.map(JsonBody)
}

async fn stack_deploy(
    State(control): State<Control>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<StackDeploy>,
) -> Answer<StackAnswer> {
    if name != request.stack.name {
        let asked = &request.stack.name;
        return Err(ApiError::bad_request(format!("stack '{asked}' was sent to the address of stack '{name}'")));
    }
    control.stack_deploy(&caller, request).await.map(JsonBody)
}

async fn stack_remove(State(control): State<Control>, caller: Caller, Path(name): Path<String>) -> Answer<StackAnswer> {
    control.stack_remove(&caller, &name).await.map(JsonBody)
}
