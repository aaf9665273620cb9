//! Exec from the asking side: the upgrade, then frames in both directions.

use http_body_util::BodyExt;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, split};
use tokio::sync::mpsc;

use super::{Client, error_of, lost, segment};
use crate::api::{ApiError, ExecSession, stream};
use crate::model::ExecRequest;

/// Frames in flight before the slower side is waited for.
const WINDOW: usize = 16;

impl Client {
    /// Starts a command in a task. The session's events end without an exit if the connection is lost.
    pub async fn exec(&self, task: &str, request: &ExecRequest) -> Result<ExecSession, ApiError> {
        let mut request = Self::request(Method::POST, &format!("/v1/tasks/{}/exec", segment(task)), Some(request))?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static(stream::PROTOCOL));
        let response = self.send(request).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = response.into_body().collect().await.map_err(|error| lost(&*self.dial, &error))?.to_bytes();
            return Err(error_of(status, &body));
        }
        let connection = hyper::upgrade::on(response).await.map_err(|error| lost(&*self.dial, &error))?;
        let (mut from_task, mut to_task) = split(TokioIo::new(connection));
        let (input, mut inputs) = mpsc::channel(WINDOW);
        let (event, events) = mpsc::channel(WINDOW);
        tokio::spawn(async move {
            let sending = async {
                while let Some(input) = inputs.recv().await {
                    if stream::write_input(&mut to_task, &input).await.is_err() {
                        break;
                    }
                }
                // All senders are gone: the caller is. Closing our half says so.
                let _ = to_task.shutdown().await;
            };
            let receiving = async {
                while let Ok(Some(got)) = stream::read_event(&mut from_task).await {
                    if event.send(got).await.is_err() {
                        break;
                    }
                }
            };
            tokio::pin!(sending);
            tokio::select! {
                () = receiving => {}
                () = &mut sending => {}
            }
        });
        Ok(ExecSession { input, events })
    }
}
