//! One method a route; names as in [`crate::api::ControlPlane`] and [`crate::api::view`].

use hyper::Method;

use super::{Client, segment};
use crate::api::{
    ApiError, Created, ExplainRequest, FlowSummary, InitAnswer, InitRequest, JoinAnswer, JoinRequest, JoinTokenAnswer,
    JoinTokenRequest, LeaveRequest, Listing, NetworkDetail, NetworkRow, NodeDetail, NodeRow, NodeUpdate, PurgeAnswer,
    ScaleItem, ServiceDetail, ServiceRow, ServiceUpdate, StackAnswer, StackDeploy, StackRow, StatusAnswer, TaskDetail,
    TaskRow,
};
use crate::doctor::Finding;
use crate::explain::Explanation;
use crate::model::{NetworkSpec, ServiceSpec};

type Answer<T> = Result<T, ApiError>;

/// Reading.
impl Client {
    pub async fn status(&self) -> Answer<StatusAnswer> {
        self.get("/v1/status").await
    }

    pub async fn nodes(&self) -> Answer<Listing<NodeRow>> {
        self.get("/v1/nodes").await
    }

    pub async fn node(&self, node: &str) -> Answer<NodeDetail> {
        self.get(&format!("/v1/nodes/{}", segment(node))).await
    }

    pub async fn tasks_of_node(&self, node: &str) -> Answer<Listing<TaskRow>> {
        self.get(&format!("/v1/nodes/{}/tasks", segment(node))).await
    }

    pub async fn networks(&self) -> Answer<Listing<NetworkRow>> {
        self.get("/v1/networks").await
    }

    pub async fn network(&self, network: &str) -> Answer<NetworkDetail> {
        self.get(&format!("/v1/networks/{}", segment(network))).await
    }

    pub async fn services(&self) -> Answer<Listing<ServiceRow>> {
        self.get("/v1/services").await
    }

    pub async fn service(&self, service: &str) -> Answer<ServiceDetail> {
        self.get(&format!("/v1/services/{}", segment(service))).await
    }

    pub async fn service_tasks(&self, service: &str) -> Answer<Listing<TaskRow>> {
        self.get(&format!("/v1/services/{}/tasks", segment(service))).await
    }

    pub async fn stacks(&self) -> Answer<Listing<StackRow>> {
        self.get("/v1/stacks").await
    }

    pub async fn stack_services(&self, stack: &str) -> Answer<Listing<ServiceRow>> {
        self.get(&format!("/v1/stacks/{}/services", segment(stack))).await
    }

    pub async fn stack_tasks(&self, stack: &str) -> Answer<Listing<TaskRow>> {
        self.get(&format!("/v1/stacks/{}/tasks", segment(stack))).await
    }

    pub async fn local_tasks(&self) -> Answer<Listing<TaskRow>> {
        self.get("/v1/tasks").await
    }

    pub async fn task(&self, task: &str) -> Answer<TaskDetail> {
        self.get(&format!("/v1/tasks/{}", segment(task))).await
    }
}

/// This node's kernel.
impl Client {
    pub async fn explain(&self, request: &ExplainRequest) -> Answer<Explanation> {
        self.call(Method::POST, "/v1/explain", Some(request)).await
    }

    pub async fn flow_summary(&self) -> Answer<FlowSummary> {
        self.get("/v1/flows/summary").await
    }
}

/// Changing.
impl Client {
    pub async fn swarm_init(&self, request: &InitRequest) -> Answer<InitAnswer> {
        self.call(Method::POST, "/v1/swarm/init", Some(request)).await
    }

    pub async fn swarm_join(&self, request: &JoinRequest) -> Answer<JoinAnswer> {
        self.call(Method::POST, "/v1/swarm/join", Some(request)).await
    }

    pub async fn swarm_leave(&self, request: &LeaveRequest) -> Answer<()> {
        self.call(Method::POST, "/v1/swarm/leave", Some(request)).await
    }

    pub async fn join_token(&self, request: &JoinTokenRequest) -> Answer<JoinTokenAnswer> {
        self.call(Method::POST, "/v1/swarm/join-token", Some(request)).await
    }

    pub async fn node_update(&self, node: &str, update: &NodeUpdate) -> Answer<()> {
        self.call(Method::PUT, &format!("/v1/nodes/{}", segment(node)), Some(update)).await
    }

    pub async fn node_remove(&self, node: &str, force: bool) -> Answer<()> {
        self.call::<(), _>(Method::DELETE, &format!("/v1/nodes/{}?force={force}", segment(node)), None).await
    }

    pub async fn network_create(&self, spec: &NetworkSpec) -> Answer<Created> {
        self.call(Method::POST, "/v1/networks", Some(spec)).await
    }

    pub async fn network_remove(&self, network: &str) -> Answer<()> {
        self.call::<(), _>(Method::DELETE, &format!("/v1/networks/{}", segment(network)), None).await
    }

    pub async fn service_create(&self, spec: &ServiceSpec) -> Answer<Created> {
        self.call(Method::POST, "/v1/services", Some(spec)).await
    }

    pub async fn service_update(&self, service: &str, update: &ServiceUpdate) -> Answer<()> {
        self.call(Method::PUT, &format!("/v1/services/{}", segment(service)), Some(update)).await
    }

    pub async fn service_scale(&self, items: &[ScaleItem]) -> Answer<()> {
        self.call(Method::POST, "/v1/scale", Some(&items)).await
    }

    pub async fn service_rollback(&self, service: &str) -> Answer<()> {
        self.call::<(), _>(Method::POST, &format!("/v1/services/{}/rollback", segment(service)), None).await
    }

    pub async fn service_remove(&self, service: &str) -> Answer<()> {
        self.call::<(), _>(Method::DELETE, &format!("/v1/services/{}", segment(service)), None).await
    }

    pub async fn stack_deploy(&self, request: &StackDeploy) -> Answer<StackAnswer> {
        self.call(Method::PUT, &format!("/v1/stacks/{}", segment(&request.stack.name)), Some(request)).await
    }

    pub async fn stack_remove(&self, stack: &str) -> Answer<StackAnswer> {
        self.call::<(), _>(Method::DELETE, &format!("/v1/stacks/{}", segment(stack)), None).await
    }

    pub async fn doctor(&self) -> Answer<Vec<Finding>> {
        self.call::<(), _>(Method::POST, "/v1/doctor", None).await
    }

    pub async fn purge(&self) -> Answer<PurgeAnswer> {
        self.call::<(), _>(Method::POST, "/v1/purge", None).await
    }
}

/// Between nodes.
impl Client {
    /// This node leaves: told to the store's node.
    pub async fn leave_cluster(&self, force: bool) -> Answer<()> {
        self.call::<(), _>(Method::POST, &format!("/cluster/leave?force={force}"), None).await
    }
}
