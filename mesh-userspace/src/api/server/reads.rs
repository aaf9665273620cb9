//! Reading routes: facts in, view out.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, get};
use serde::Serialize;

use super::Control;
use super::body::JsonBody;
use crate::api::{ApiError, Facts, StatusAnswer, view};

pub(super) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/nodes", listing(view::nodes))
        .route("/v1/nodes/{node}", named(view::node_detail))
        .route("/v1/nodes/{node}/tasks", named(view::tasks_of_node))
        .route("/v1/networks", listing(view::networks))
        .route("/v1/networks/{network}", named(view::network_detail))
        .route("/v1/services", listing(view::services))
        .route("/v1/services/{service}", named(view::service_detail))
        .route("/v1/services/{service}/tasks", named(view::service_tasks))
        .route("/v1/stacks", listing(view::stacks))
        .route("/v1/stacks/{stack}/services", named(view::stack_services))
        .route("/v1/stacks/{stack}/tasks", named(view::stack_tasks))
        .route("/v1/tasks", listing(view::local_tasks))
        .route("/v1/tasks/{task}", named(view::task_detail))
}

async fn status(State(control): State<Control>) -> JsonBody<StatusAnswer> {
    JsonBody(view::status(&control.facts().await))
}

/// A route that answers with a view of everything of one kind.
fn listing<T: Serialize + Send + 'static>(view: fn(&Facts) -> Result<T, ApiError>) -> MethodRouter<Control> {
    get(move |State(control): State<Control>| async move { view(&control.facts().await).map(JsonBody) })
}

/// A route that answers with a view of one named object.
fn named<T: Serialize + Send + 'static>(view: fn(&Facts, &str) -> Result<T, ApiError>) -> MethodRouter<Control> {
    get(move |State(control): State<Control>, Path(word): Path<String>| async move {
        view(&control.facts().await, &word).map(JsonBody)
    })
}
