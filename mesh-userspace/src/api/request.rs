//! What is asked: bodies of requests. Specs of the model travel unchanged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Availability, Id, Role, ServiceSpec, Stack, Subnets, UnixMs};

/// `mesh swarm init`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRequest {
    /// Address or interface, with a port if need be; overrides the agent's own setting.
    pub advertise_addr: Option<String>,
    /// Where the node's API and gossip listen; overrides the agent's own setting, as the next does.
    #[serde(default)]
    pub listen_addr: Option<String>,
    #[serde(default)]
    pub gossip_port: Option<u16>,
    pub default_addr_pool: Subnets,
    pub default_addr_pool_mask_length: Option<u8>,
    pub data_path_port: Option<u16>,
}

/// `mesh swarm join`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub token: String,
    /// `HOST` or `HOST:PORT` of a manager.
    pub remote: String,
    pub advertise_addr: Option<String>,
    #[serde(default)]
    pub listen_addr: Option<String>,
    #[serde(default)]
    pub gossip_port: Option<u16>,
}

impl std::fmt::Debug for JoinRequest {
    /// Without the token: requests end up in logs, secrets must not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("remote", &self.remote)
            .field("advertise_addr", &self.advertise_addr)
            .field("listen_addr", &self.listen_addr)
            .field("gossip_port", &self.gossip_port)
            .finish_non_exhaustive()
    }
}

/// `mesh swarm leave`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// Leave although the node is a manager, or the cluster can't be told.
    pub force: bool,
}

/// `mesh swarm join-token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenRequest {
    pub role: Role,
    /// Make a new token first; the old one is refused from then on.
    pub rotate: bool,
}

/// `mesh node update`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUpdate {
    pub availability: Option<Availability>,
    pub label_add: BTreeMap<String, String>,
    pub label_rm: Vec<String>,
}

/// A whole new spec for a service, made from the one at `version`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceUpdate {
    pub spec: ServiceSpec,
    /// `Service::version` the spec was made from: if the service has changed since, the update is refused (Conflict).
    pub version: u64,
}

/// One `NAME=N` of `mesh service scale`; all of a request are applied together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleItem {
    /// Name, id or unique prefix of the id.
    pub service: String,
    pub replicas: u32,
}

/// `mesh stack deploy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackDeploy {
    pub stack: Stack,
    /// Remove services of the stack that the manifest no longer has.
    pub prune: bool,
}

/// `mesh logs`, `mesh service logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// A service or a task, by name, id or unique prefix of the id.
    pub target: String,
    pub follow: bool,
    /// Last lines of each task; all where absent.
    pub tail: Option<u32>,
    pub since: Option<UnixMs>,
}

/// A [`LogRequest`] with its target found: what the control plane is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Set where a whole service was asked for: with `follow`, tasks that come later belong to it.
    pub service: Option<Id>,
    pub tasks: Vec<Id>,
    pub follow: bool,
    pub tail: Option<u32>,
    pub since: Option<UnixMs>,
}
