//! The joiner's side of `POST /join`: the one connection that trusts a digest instead of a CA.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};

use super::dial::{client_builder, explain, handshake, http, without_resumption};
use super::verify::{Anchor, Expect, Verifier};
use super::{TlsError, provider};
use crate::api::ApiError;
use crate::membership::identity::{ClusterCa, JoinToken};
use crate::membership::join::{JOIN_PATH, JoinAnswer, JoinRequest};

/// The store writes to disk and the leader allocates while the joiner waits.
const PATIENCE: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Joins the cluster at `addr`. Nothing secret is sent before the server's chain has shown the CA of the token.
pub async fn join(addr: SocketAddr, token: &JoinToken, request: &JoinRequest) -> Result<JoinAnswer, TlsError> {
    let anchor = Anchor::Digest(*token.ca_digest());
    let verifier = Verifier { anchor, expect: Expect::AnyManager, provider: provider() };
    let config = client_builder(verifier)?.with_no_client_auth();
    let mut connection = http(addr, handshake(addr, without_resumption(config)).await?).await?;

    let failed = |detail: String| TlsError::Request { addr, detail };
    let body = serde_json::to_vec(request).map_err(|error| failed(error.to_string()))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(JOIN_PATH)
        .header(HOST, addr.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .map_err(|error| failed(error.to_string()))?;
    let exchange = async {
        let response = connection.send_request(request).await.map_err(|error| explain(addr, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok((status, body))
    };
    let (status, body) = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| TlsError::Timeout { addr, seconds: PATIENCE.as_secs() })??;
    if !status.is_success() {
        let message = match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => error.message,
            Err(_) => format!("the agent at {addr} refused to let this node join ({status})"),
        };
        return Err(TlsError::Answer { status: status.as_u16(), message });
    }
    let answer: JoinAnswer = serde_json::from_slice(&body)
        .map_err(|_| failed("its answer is not understood; same version of mesh?".into()))?;
    // The channel is proven, but what gets saved as our CA must be the very one that the token names.
    match ClusterCa::digest_of_pem(&answer.ca) {
        Some(digest) if digest == *token.ca_digest() => Ok(answer),
        _ => Err(TlsError::OtherCluster { addr }),
    }
}
