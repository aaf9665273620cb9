//! Answers without an end from the asking side, logs and flows: a body of JSON lines, read as it comes.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{Client, error_of, lost};
use crate::api::server::Record;
use crate::api::{ApiError, FlowRequest, FlowRow, LogRecord, LogRequest, MonitorRequest, MonitorRow};

/// Lines in flight before the reader is waited for.
const WINDOW: usize = 256;

impl Client {
    /// Lines as they come; the channel closes at the end.
    pub async fn logs(&self, request: &LogRequest) -> Result<mpsc::Receiver<Result<LogRecord, ApiError>>, ApiError> {
        self.lines("/v1/logs", request).await
    }

    /// Flows of this node as the table is walked; the channel closes at the end.
    pub async fn flows(&self, request: &FlowRequest) -> Result<mpsc::Receiver<Result<FlowRow, ApiError>>, ApiError> {
        self.lines("/v1/flows", request).await
    }

    /// Packets' verdicts on this node as they happen, until the receiver is dropped.
    pub async fn monitor(
        &self,
        request: &MonitorRequest,
    ) -> Result<mpsc::Receiver<Result<MonitorRow, ApiError>>, ApiError> {
        self.lines("/v1/monitor", request).await
    }

    async fn lines<B: Serialize, T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        request: &B,
    ) -> Result<mpsc::Receiver<Result<T, ApiError>>, ApiError> {
        let response = self.send(Self::request(Method::POST, path, Some(request))?).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await.map_err(|error| lost(&*self.dial, &error))?.to_bytes();
            return Err(error_of(status, &body));
        }
        let (sender, receiver) = mpsc::channel(WINDOW);
        let client = self.clone();
        tokio::spawn(async move {
            if let Err(error) = read(&client, response.into_body(), &sender).await {
                // Nobody listens any more: nobody to tell.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }
}

async fn read<T: DeserializeOwned>(
    client: &Client,
    mut body: Incoming,
    sender: &mpsc::Sender<Result<T, ApiError>>,
) -> Result<(), ApiError> {
    let mut pending = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| lost(&*client.dial, &error))?;
        let Some(data) = frame.data_ref() else { continue };
        pending.extend_from_slice(data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end);
            pending.advance(1);
            let record = serde_json::from_slice(&line)
                .map_err(|error| ApiError::internal(format!("a line of the answer is not as expected: {error}")))?;
            match record {
                Record::Line(record) => {
                    if sender.send(Ok(record)).await.is_err() {
                        return Ok(());
                    }
                }
                Record::End { error } => return Err(error),
            }
        }
    }
}
