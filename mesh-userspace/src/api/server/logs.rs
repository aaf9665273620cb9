//! `POST /v1/logs`: one JSON object a line, as they come. A line `{"error": …}` ends the stream.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::{Deserialize, Serialize};

use super::Control;
use super::body::JsonBody;
use super::exec::may_touch;
use crate::api::{ApiError, Caller, Facts, LogFeed, LogQuery, LogRecord, LogRequest};
use crate::model::{Id, LogLine, Task};

pub(super) fn routes() -> Router<Control> {
    Router::new().route("/v1/logs", post(logs))
}

/// What one line of the stream is.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Record<T> {
    Line(T),
    End { error: ApiError },
}

async fn logs(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<LogRequest>,
) -> Result<Response, ApiError> {
    let facts = control.facts().await;
    let query = resolve(&facts, request)?;
    for task in query.tasks.iter().filter_map(|id| facts.cluster.tasks.get(id)) {
        may_touch(&caller, &facts, task)?;
    }
    let feed = control.logs(&caller, query).await?;
    let state = Lines { control, feed, names: BTreeMap::new(), done: false };
    let lines = futures_util::stream::unfold(state, Lines::next);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn resolve(facts: &Facts, request: LogRequest) -> Result<LogQuery, ApiError> {
    let LogRequest { target, follow, tail, since } = request;
    let (service, tasks) = match facts.find_service(&target) {
        Ok(service) => {
            let tasks = facts.cluster.tasks_of(&service.id).map(|task| task.id.clone()).collect();
            (Some(service.id.clone()), tasks)
        }
        Err(no_service) => match facts.find_task(&target) {
            Ok(task) => (None, vec![task.id.clone()]),
            Err(_) => {
                let message = no_service.message.replacen("no such service:", "no such task or service:", 1);
                return Err(ApiError::new(no_service.kind, message));
            }
        },
    };
    Ok(LogQuery { service, tasks, follow, tail, since })
}

/// The feed with the names that its tasks go by.
struct Lines {
    control: Control,
    feed: LogFeed,
    names: BTreeMap<Id, (String, String)>,
    done: bool,
}

impl Lines {
    async fn next(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        if self.done {
            return None;
        }
        let record = match self.feed.recv().await? {
            Ok(line) => Record::Line(self.named(line).await),
            Err(error) => {
                self.done = true;
                Record::End { error }
            }
        };
        let bytes = serde_json::to_vec(&record).map_err(std::io::Error::other).map(|mut bytes| {
            bytes.push(b'\n');
            Bytes::from(bytes)
        });
        Some((bytes, self))
    }

    /// Facts are asked once a task: a task that began after the question has a name too.
    async fn named(&mut self, line: LogLine) -> LogRecord {
        if !self.names.contains_key(&line.task_id) {
            let facts = self.control.facts().await;
            let found = facts.cluster.tasks.get(&line.task_id).map(|task| names(&facts, task));
            self.names.insert(line.task_id.clone(), found.unwrap_or_default());
        }
        let (task, node) = self.names.get(&line.task_id).cloned().unwrap_or_default();
        LogRecord { task, node, line }
    }
}

fn names(facts: &Facts, task: &Task) -> (String, String) {
    let node = task.node_id.as_ref().and_then(|id| facts.cluster.nodes.get(id));
    (task.name(), node.map(|node| node.name.clone()).unwrap_or_default())
}
