//! The asking side of the API: typed calls over any connection that speaks it.
//!
//! The command line dials the agent's unix socket; an agent dials another's over TLS with the same type, and answers
//! its own callers with what it got. Each call has a connection of its own.
//! Must not: retry (the caller knows whether a request may be repeated) or print.

mod calls;
mod dial;
mod exec;
mod forward;
mod logs;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApiError;
pub use dial::{Connection, Dial};
pub use forward::forward;

/// Calls to one agent. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    dial: Arc<dyn Dial>,
}

impl Client {
    /// The agent of this machine.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Client { dial: Arc::new(dial::Unix(socket.into())) }
    }

    /// An agent that `dial` reaches: a new connection for each call.
    pub fn new(dial: impl Dial) -> Self {
        Client { dial: Arc::new(dial) }
    }

    /// An agent at the other end of a connection that is there already: good for one call.
    pub fn over(connection: impl Connection) -> Self {
        Client { dial: Arc::new(dial::Once::new(connection)) }
    }

    /// Sends a request as it is and gives the answer as it is, on a connection of its own.
    pub(crate) async fn send(&self, request: Request<axum::body::Body>) -> Result<Response<Incoming>, ApiError> {
        let connection = self.dial.dial().await?;
        let (mut sender, driver) =
            http1::handshake(TokioIo::new(connection)).await.map_err(|error| lost(&*self.dial, &error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                log::debug!("api: a connection ended early: {error}");
            }
        });
        sender.send_request(request).await.map_err(|error| lost(&*self.dial, &error))
    }

    /// A request with a JSON body.
    fn request<B: Serialize>(method: Method, path: &str, body: Option<&B>) -> Result<JsonRequest, ApiError> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(body)
                .map_err(|error| ApiError::internal(format!("the request for {path} can't be written: {error}")))?,
            None => Vec::new(),
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "mesh")
            .header(header::CONTENT_TYPE, "application/json")
            .body(axum::body::Body::new(Full::new(Bytes::from(bytes))))
            .map_err(|error| ApiError::internal(format!("the request for {path} can't be built: {error}")))
    }

    /// Asks and reads a JSON answer, or the error the other side has for it.
    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ApiError> {
        let response = self.send(Self::request(method, path, body)?).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| lost(&*self.dial, &error))?.to_bytes();
        if !status.is_success() {
            return Err(error_of(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::internal(format!(
                "the answer of {} to {path} is not as expected ({error}): the command and the agent are of different \
                 versions; restart the agent",
                self.dial.name()
            ))
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call::<(), T>(Method::GET, path, None).await
    }
}

type JsonRequest = Request<axum::body::Body>;

fn lost(dial: &dyn Dial, error: &dyn std::error::Error) -> ApiError {
    ApiError::unavailable(format!("the connection to {} was lost: {error}; is it still running?", dial.name()))
}

/// The error in a refusing answer.
fn error_of(status: StatusCode, body: &[u8]) -> ApiError {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        ApiError::internal(format!("the agent answered {status}: {}", text.trim()))
    })
}

/// A word as one segment of a path (RFC 3986, 3.3): everything but unreserved characters is escaped.
fn segment(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for byte in word.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_segment() {
        assert_eq!(segment("whoami.1"), "whoami.1");
        assert_eq!(segment("../a b?"), "..%2Fa%20b%3F");
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_told_with_the_remedy() {
        let error = Client::unix("/nonexistent/mesh.sock").status().await.expect_err("nobody there");
        assert_eq!(
            error.message,
            "cannot reach the agent at /nonexistent/mesh.sock: no such file; start it with 'mesh agent' as root, \
             or name its socket with --socket"
        );
    }
}
