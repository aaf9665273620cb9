//! A stack: the networks and services of one manifest, deployed and removed together.

use serde::{Deserialize, Serialize};

use super::{NetworkSpec, ServiceSpec};

/// A manifest as understood: names carry the stack's prefix already, `${VAR}` is expanded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    pub name: String,
    pub networks: Vec<NetworkSpec>,
    pub services: Vec<ServiceSpec>,
}

impl Stack {
    /// Label that ties an object to its stack, as Swarm has it.
    pub const LABEL: &str = "com.docker.stack.namespace";
}
