//! Containers that ask to join a service by their labels, as their node tells the leader of them, and the leader's refusals.

use serde::{Deserialize, Serialize};

use super::PortSpec;

/// A running container of somebody else, and what its labels ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledContainer {
    /// Its id, 64 hexadecimal digits.
    pub container: String,
    pub name: String,
    pub image: String,
    pub service: String,
    /// Names or ids, as its label has them.
    pub networks: Vec<String>,
    /// Further names of the service, on all its networks.
    pub aliases: Vec<String>,
    pub ports: Vec<PortSpec>,
}

/// Why a container did not join, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotAdopted {
    pub container: String,
    pub why: String,
}
