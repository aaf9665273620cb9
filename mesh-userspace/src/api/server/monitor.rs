//! `POST /v1/monitor`: one JSON object a line, as the programs tell; ends when the caller goes.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::Control;
use super::body::JsonBody;
use super::logs::Record;
use crate::api::view::{EventNames, monitor_query};
use crate::api::{ApiError, Caller, EventFeed, MonitorRequest};

pub(super) fn routes() -> Router<Control> {
    Router::new().route("/v1/monitor", post(monitor))
}

async fn monitor(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<MonitorRequest>,
) -> Result<Response, ApiError> {
    let query = monitor_query(&control.facts().await, request)?;
    let feed = control.monitor(&caller, query).await?;
    let lines = futures_util::stream::unfold((control, feed), next);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

type Lines = (Control, EventFeed);

/// Names are found anew for each piece: a task that began after the question has one too.
async fn next((control, mut feed): Lines) -> Option<(Result<Bytes, std::io::Error>, Lines)> {
    let records: Vec<Record<_>> = match feed.recv().await? {
        Ok(told) => {
            let names = EventNames::of(&control.facts().await);
            told.iter().map(|told| Record::Line(names.row(told))).collect()
        }
        Err(error) => vec![Record::End { error }],
    };
    let mut bytes = Vec::new();
    for record in records {
        if let Err(error) = serde_json::to_writer(&mut bytes, &record) {
            return Some((Err(std::io::Error::other(error)), (control, feed)));
        }
        bytes.push(b'\n');
    }
    Some((Ok(bytes.into()), (control, feed)))
}
