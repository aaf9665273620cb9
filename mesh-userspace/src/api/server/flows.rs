//! `POST /v1/flows`: one JSON object a line, as the table is walked; a line `{"error": …}` ends the stream. `GET /v1/flows/summary`: counts.
//! `POST /v1/explain`: what the programs would do with a packet.
//!
//! Invariant: a few hundred flows at most are in memory, whatever the table holds: who reads slowly slows the walk.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::Control;
use super::body::JsonBody;
use super::logs::Record;
use crate::api::view::{FlowNames, explain_query, flow_query};
use crate::api::{ApiError, Caller, ExplainRequest, FlowFeed, FlowRequest, FlowRow, FlowSummary};
use crate::explain::Explanation;

pub(super) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/flows", post(flows))
        .route("/v1/flows/summary", get(summary))
        .route("/v1/explain", post(explain))
}

async fn summary(State(control): State<Control>, caller: Caller) -> Result<JsonBody<FlowSummary>, ApiError> {
    control.flow_summary(&caller).await.map(JsonBody)
}

async fn explain(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<ExplainRequest>,
) -> Result<JsonBody<Explanation>, ApiError> {
    let query = explain_query(&control.facts().await, &request)?;
    control.explain(&caller, query).await.map(JsonBody)
}

async fn flows(
    State(control): State<Control>,
    caller: Caller,
    JsonBody(request): JsonBody<FlowRequest>,
) -> Result<Response, ApiError> {
    let facts = control.facts().await;
    let feed = control.flows(&caller, flow_query(&facts, request)?).await?;
    let names = FlowNames::of(&facts);
    let lines = futures_util::stream::unfold(Some((feed, names)), next);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

type Lines = Option<(FlowFeed, FlowNames)>;

async fn next(lines: Lines) -> Option<(Result<Bytes, std::io::Error>, Lines)> {
    let (mut feed, names) = lines?;
    Some(match feed.recv().await? {
        Ok(facts) => (written(facts.iter().map(|fact| Record::Line(names.row(fact)))), Some((feed, names))),
        Err(error) => (written([Record::End { error }]), None),
    })
}

fn written(records: impl IntoIterator<Item = Record<FlowRow>>) -> Result<Bytes, std::io::Error> {
    let mut bytes = Vec::new();
    for record in records {
        serde_json::to_writer(&mut bytes, &record).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FlowFact;

    #[tokio::test]
    async fn an_error_is_the_last_line() {
        let (sender, feed) = tokio::sync::mpsc::channel::<Result<Vec<FlowFact>, ApiError>>(2);
        sender.send(Err(ApiError::internal("the map went away"))).await.expect("room");
        let names = FlowNames::of(&crate::api::view::fixture::facts());
        let (line, rest) = next(Some((feed, names))).await.expect("a line");
        assert!(line.expect("written").starts_with(b"{\"error\":"));
        assert!(rest.is_none());
    }
}
