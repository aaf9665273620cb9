//! A member as the store or a join answer knows it: enough to say hello.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::Id;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seed {
    pub id: Id,
    /// Gossip address.
    pub addr: SocketAddr,
}
