//! What users ask of the cluster: each command is a function from the cluster and the request to changes and an answer.
//!
//! Every command works on a copy and compares it with what was, so a command that fails has changed nothing, and one that
//! touches many objects (a stack) is all or nothing. Errors are one line that says what was asked, what is wrong, what to do.

mod adopt;
mod check;
mod cluster;
mod error;
mod network;
mod node;
mod port;
#[cfg(test)]
mod refusals;
mod resolve;
mod scale;
mod service;
mod stack;

pub use adopt::{adopt_containers, has_joined};
pub use cluster::{DEFAULT_ADDRESS_POOL, DEFAULT_DATA_PATH_PORT, InitCluster, init_cluster};
pub use error::CommandError;
pub(in crate::leader) use error::runtime_name;
pub use network::{create_network, remove_network};
pub(super) use network::{forget, is_vacant};
pub use node::{Joined, NewNode, NodeUpdate, join_node, leave_node, remove_node, renew_certificate, update_node};
pub use resolve::{network, node, service, task};
pub use scale::{remove_service, rollback_service, scale_services};
pub(in crate::leader) use service::replace_spec;
pub use service::{create_service, update_service};
pub use stack::{StackOutcome, deploy_stack, remove_stack};

use crate::model::{Change, Cluster};

/// What a command leads to: commit the changes, then give the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit<T> {
    pub changes: Vec<Change>,
    pub answer: T,
}

impl<T> Commit<T> {
    /// The changes from what was to what shall be.
    fn of(before: &Cluster, after: &Cluster, answer: T) -> Self {
        Commit { changes: Change::between(before, after), answer }
    }
}
