//! `mesh explain` asked: words as the user typed them, and the same with their names found.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::explain::Names;

/// `mesh explain SRC DST[:PORT][/PROTO]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// A task, service, node, `host`, or an address; with `:PORT` if it matters.
    pub from: String,
    pub to: String,
    /// A later packet of a connection, not its first.
    pub later: bool,
}

/// An [`ExplainRequest`] with its names found: what the control plane is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainQuery {
    /// None: this host.
    pub src: Option<IpAddr>,
    /// What this host's own calls into the overlay come from, of the destination's family; None: it has none.
    pub own: Option<IpAddr>,
    /// 0: any.
    pub sport: u16,
    pub dst: IpAddr,
    pub dport: u16,
    pub protocol: u8,
    pub is_later: bool,
    /// This node's number.
    pub me: u32,
    pub names: Names,
}
