//! `POST /v1/tasks/{task}/exec`: an HTTP upgrade, then frames of [`crate::api::stream`].
//!
//! The session starts before the 101 is sent, so that every refusal is an ordinary error answer.

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{Response, StatusCode, header};
use axum::routing::post;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, split};

use super::Control;
use super::body::JsonBody;
use crate::api::{ApiError, Caller, ExecSession, Facts, stream};
use crate::model::{ExecRequest, Role, Task};

pub(super) fn routes() -> Router<Control> {
    Router::new().route("/v1/tasks/{task}/exec", post(exec))
}

async fn exec(
    State(control): State<Control>,
    caller: Caller,
    Path(word): Path<String>,
    mut request: Request,
) -> Result<Response<Body>, ApiError> {
    let wants = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if wants != Some(stream::PROTOCOL) {
        return Err(ApiError::bad_request(format!("exec wants 'Upgrade: {}'", stream::PROTOCOL)));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let JsonBody(what) = JsonBody::<ExecRequest>::from_request(request, &()).await?;
    let facts = control.facts().await;
    let task = facts.find_task(&word)?;
    may_touch(&caller, &facts, task)?;
    if what.command.is_empty() {
        return Err(ApiError::bad_request("exec needs a command"));
    }
    let session = control.exec(&caller, &task.id, what).await?;
    tokio::spawn(run(upgrade, session, task.name()));
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, stream::PROTOCOL)
        .body(Body::empty())
        .map_err(|error| ApiError::internal(format!("exec: the answer can't be built: {error}")))
}

/// A manager reaches every task; a worker's socket its own node's.
pub(super) fn may_touch(caller: &Caller, facts: &Facts, task: &Task) -> Result<(), ApiError> {
    if !caller.is_manager() {
        return Err(ApiError::forbidden(format!("refused for {caller}: only managers reach tasks of other nodes")));
    }
    let is_worker = facts.self_node().is_some_and(|node| node.role == Role::Worker);
    if !is_worker || task.node_id == facts.me {
        return Ok(());
    }
    let node = task.node_id.as_ref().and_then(|id| facts.cluster.nodes.get(id));
    let place = node.map_or("no node yet".to_string(), |node| node.name.clone());
    Err(ApiError::forbidden(format!(
        "task {} is on {place} and this node is a worker: run it on a manager or on the task's node",
        task.name()
    )))
}

async fn run(upgrade: OnUpgrade, session: ExecSession, task: String) {
    match upgrade.await {
        Ok(connection) => pump(connection, session).await,
        Err(error) => log::warn!("exec in {task}: the caller went away before the session began: {error}"),
    }
}

/// Until the command's end, or until the caller is gone: then both channels close, which tells the runtime.
async fn pump(connection: Upgraded, session: ExecSession) {
    let (mut from_caller, mut to_caller) = split(TokioIo::new(connection));
    let ExecSession { input, mut events } = session;
    let reading = async move {
        while let Ok(Some(frame)) = stream::read_input(&mut from_caller).await {
            if input.send(frame).await.is_err() {
                // The command has ended; its last words may still be on their way.
                std::future::pending::<()>().await;
            }
        }
    };
    let writing = async {
        while let Some(event) = events.recv().await {
            if stream::write_event(&mut to_caller, &event).await.is_err() {
                break;
            }
        }
        // The other side may have closed already; nothing is lost then.
        let _ = to_caller.shutdown().await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}
