//! Other nodes' agents, called over TLS with the same client as the command line.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

use crate::api::ApiError;
use crate::api::client::{Client, Connection, Dial};
use crate::api::tls::{API_PORT, Dialer, Expect, TlsError};
use crate::model::Node;

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
        addr: api_addr(node),
        expect: Expect::Node(node.id.clone()),
        name: node.name.clone(),
    })
}

/// Where a node's API listens.
pub fn api_addr(node: &Node) -> SocketAddr {
    SocketAddr::new(node.advertise_addr, API_PORT)
}

/// What a joining node is told to dial.
pub fn join_addr(addr: IpAddr) -> String {
    SocketAddr::new(addr, API_PORT).to_string()
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
