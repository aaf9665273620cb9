//! Other nodes' agents, called over TLS with the same client as the command line.

use std::net::SocketAddr;

use async_trait::async_trait;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::Request;
use serde::de::DeserializeOwned;

use crate::api::ApiError;
use crate::api::client::{Client, Connection, Dial};
use crate::api::tls::{Dialer, Expect, TlsError};
use crate::model::{Cluster, Node};

/// One node's agent.
struct NodeDial {
    dialer: Dialer,
    addr: SocketAddr,
    expect: Expect,
    name: String,
}

#[async_trait]
impl Dial for NodeDial {
    async fn dial(&self) -> Result<Box<dyn Connection>, ApiError> {
        let stream = self.dialer.open(self.addr, &self.expect).await.map_err(refusal)?;
        Ok(Box::new(stream))
    }

    fn name(&self) -> String {
        format!("the agent of node {}", self.name)
    }
}

/// A client of that node's agent.
pub fn client(dialer: &Dialer, node: &Node) -> Client {
    Client::new(NodeDial {
        dialer: dialer.clone(),
        addr: node.api_addr(),
        expect: Expect::Node(node.id.clone()),
        name: node.name.clone(),
    })
}

/// A failed call as an answer to ours.
pub fn refusal(error: TlsError) -> ApiError {
    match error {
        TlsError::Answer { status: 403, message } => ApiError::forbidden(message),
        TlsError::Answer { status: 404, message } => ApiError::not_found(message),
        TlsError::Answer { status: 400..=499, message } => ApiError::conflict(message),
        error => ApiError::unavailable(error.to_string()),
    }
}

/// Asks the node with the store; an error is in its own words where it has any.
pub async fn ask_store<T: DeserializeOwned>(
    dialer: &Dialer,
    cluster: &Cluster,
    request: Request<Body>,
) -> Result<T, ApiError> {
    let store = cluster.nodes.values().find(|node| node.holds_store);
    let store = store.ok_or_else(|| ApiError::unavailable("the store's node is not known here yet; ask there"))?;
    let answer = dialer.request(store.api_addr(), &Expect::Node(store.id.clone()), request).await.map_err(refusal)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| ApiError::unavailable(error.to_string()))?.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| ApiError::internal(error.to_string()));
    }
    Err(serde_json::from_slice(&body)
        .unwrap_or_else(|_| ApiError::internal(String::from_utf8_lossy(&body).into_owned())))
}
