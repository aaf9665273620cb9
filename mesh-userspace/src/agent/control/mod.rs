//! What the API's routes ask of this agent: the one place where a request becomes an act, an act a file beside this one.
//!
//! | file | for |
//! |---|---|
//! | life | this node in and out of a cluster, what it knows |
//! | nodes | tokens and members |
//! | desired | networks, services, stacks |
//! | tasks | commands in tasks, their output |
//! | flows | what the flow table holds |
//! | explain | where a packet would go |
//! | seat | where a change is made |
//! | not_yet | what a service may not ask for yet |

mod desired;
mod explain;
mod flows;
mod life;
mod nodes;
mod not_yet;
mod seat;
mod tasks;

use std::sync::Arc;

use async_trait::async_trait;

use super::member::Member;
use super::watch::Watch;
use super::{Agent, doctor};
use crate::api::{
    ApiError, Caller, ControlPlane, Created, EventFeed, ExecSession, ExplainQuery, Facts, FlowFeed, FlowQuery,
    FlowSummary, InitAnswer, InitRequest, JoinAnswer, JoinRequest, JoinTokenAnswer, JoinTokenRequest, LeaveRequest,
    LogFeed, LogQuery, MonitorQuery, NodeUpdate, PurgeAnswer, ScaleItem, ServiceUpdate, StackAnswer, StackDeploy,
};
use crate::doctor::Finding;
use crate::explain::Explanation;
use crate::model::{ExecRequest, Id, NetworkSpec, ServiceSpec};

/// The control plane of this agent.
pub struct Control(pub Arc<Agent>);

impl Control {
    async fn member(&self) -> Result<Arc<Member>, ApiError> {
        seat::member_of(&self.0).await
    }
}

#[async_trait]
impl ControlPlane for Control {
    async fn facts(&self) -> Facts {
        life::facts(&self.0).await
    }

    async fn swarm_init(&self, _caller: &Caller, request: InitRequest) -> Result<InitAnswer, ApiError> {
        life::init(&self.0, request).await
    }

    async fn swarm_join(&self, _caller: &Caller, request: JoinRequest) -> Result<JoinAnswer, ApiError> {
        life::join(&self.0, request).await
    }

    async fn swarm_leave(&self, _caller: &Caller, request: LeaveRequest) -> Result<(), ApiError> {
        life::leave(&self.0, request).await
    }

    async fn join_token(&self, _caller: &Caller, request: JoinTokenRequest) -> Result<JoinTokenAnswer, ApiError> {
        nodes::join_token(&*self.member().await?, request).await
    }

    async fn node_update(&self, _caller: &Caller, node: &Id, update: NodeUpdate) -> Result<(), ApiError> {
        nodes::update_node(&*self.member().await?, node, update).await
    }

    async fn node_remove(&self, _caller: &Caller, node: &Id, force: bool) -> Result<(), ApiError> {
        nodes::remove_node(&*self.member().await?, node, force).await
    }

    async fn network_create(&self, _caller: &Caller, spec: NetworkSpec) -> Result<Created, ApiError> {
        desired::create_network(&*self.member().await?, spec).await
    }

    async fn network_remove(&self, _caller: &Caller, network: &Id) -> Result<(), ApiError> {
        desired::remove_network(&*self.member().await?, network).await
    }

    async fn service_create(&self, _caller: &Caller, spec: ServiceSpec) -> Result<Created, ApiError> {
        desired::create_service(&*self.member().await?, spec).await
    }

    async fn service_update(&self, _caller: &Caller, service: &Id, update: ServiceUpdate) -> Result<(), ApiError> {
        desired::update_service(&*self.member().await?, service, update).await
    }

    async fn service_scale(&self, _caller: &Caller, items: Vec<ScaleItem>) -> Result<(), ApiError> {
        desired::scale_services(&*self.member().await?, items).await
    }

    async fn service_rollback(&self, _caller: &Caller, service: &Id) -> Result<(), ApiError> {
        desired::rollback_service(&*self.member().await?, service).await
    }

    async fn service_remove(&self, _caller: &Caller, service: &Id) -> Result<(), ApiError> {
        desired::remove_service(&*self.member().await?, service).await
    }

    async fn stack_deploy(&self, _caller: &Caller, request: StackDeploy) -> Result<StackAnswer, ApiError> {
        desired::deploy_stack(&*self.member().await?, request).await
    }

    async fn stack_remove(&self, _caller: &Caller, name: &str) -> Result<StackAnswer, ApiError> {
        desired::remove_stack(&*self.member().await?, name).await
    }

    async fn exec(&self, caller: &Caller, task: &Id, request: ExecRequest) -> Result<ExecSession, ApiError> {
        tasks::exec(&*self.member().await?, caller, task, request).await
    }

    async fn logs(&self, caller: &Caller, query: LogQuery) -> Result<LogFeed, ApiError> {
        tasks::logs(&*self.member().await?, caller, query).await
    }

    async fn flows(&self, _caller: &Caller, query: FlowQuery) -> Result<FlowFeed, ApiError> {
        flows::list(&*self.member().await?, query)
    }

    async fn flow_summary(&self, _caller: &Caller) -> Result<FlowSummary, ApiError> {
        flows::summary(&*self.member().await?).await
    }

    async fn monitor(&self, _caller: &Caller, query: MonitorQuery) -> Result<EventFeed, ApiError> {
        Watch::listen(&self.member().await?, query)
    }

    async fn explain(&self, _caller: &Caller, query: ExplainQuery) -> Result<Explanation, ApiError> {
        explain::explained(&*self.member().await?, query).await
    }

    async fn doctor(&self, _caller: &Caller) -> Result<Vec<Finding>, ApiError> {
        Ok(doctor::examine(&self.0, true).await)
    }

    async fn purge(&self, _caller: &Caller) -> Result<PurgeAnswer, ApiError> {
        life::purge_node(&self.0).await
    }
}
