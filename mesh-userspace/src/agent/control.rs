//! What the API's routes ask of this agent: changes go to the leader where this is the store's node, else to that node; commands and logs
//! go to the node that has the task.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::entrance::join_addr;
use super::member::{Keeper, Member, store_path};
use super::{Agent, lead, now, peers, purge};
use crate::api::client::Client;
use crate::api::tls;
use crate::api::{
    ApiError, Caller, ControlPlane, Created, ExecSession, Facts, InitAnswer, InitRequest, JoinAnswer, JoinRequest,
    JoinTokenAnswer, JoinTokenRequest, LeaveRequest, LogFeed, LogQuery, LogRequest, NodeUpdate, PurgeAnswer, ScaleItem,
    ServiceUpdate, StackAnswer, StackDeploy, StackStep, StepAction, StepKind,
};
use crate::leader::command;
use crate::leader::{Ctx, isolation};
use crate::membership::identity::FOLDER;
use crate::model::{
    Cluster, ExecRequest, Id, NetworkSpec, Node, Protocol, PublishMode, Role, Runtime, ServiceSpec, Task,
};
use crate::runtime::{LogRequest as TaskLogs, RuntimeError, TaskRuntime};

/// The control plane of this agent.
pub struct Control(pub Arc<Agent>);

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::internal(format!("{error:#}"))
}

/// Where a change is made.
enum Seat<'a> {
    Here(&'a Keeper),
    There(Client),
}

impl Control {
    async fn member(&self) -> Result<Arc<Member>, ApiError> {
        self.0.member.read().await.clone().ok_or_else(|| {
            ApiError::conflict(
                "this node is in no cluster; run 'mesh swarm init' to start one or 'mesh swarm join' to enter one",
            )
        })
    }

    /// The store's node, for a change.
    fn seat<'a>(&self, member: &'a Member) -> Result<Seat<'a>, ApiError> {
        if let Some(keeper) = &member.keeper {
            return Ok(Seat::Here(keeper));
        }
        if let Some(away) = store_away(member) {
            return Err(ApiError::unavailable(format!("{away}; changes wait until it is back")));
        }
        let cluster = member.desired.get();
        let store = cluster.nodes.values().find(|node| node.holds_store);
        let store =
            store.ok_or_else(|| ApiError::unavailable("the store's node is not known yet; try again in a moment"))?;
        Ok(Seat::There(peers::client(&member.dialer, store)))
    }

    /// After a change made elsewhere: this node shows it before it is answered.
    async fn caught_up<T>(&self, member: &Member, answer: Result<T, ApiError>) -> Result<T, ApiError> {
        let answer = answer.map_err(|error| match (error.kind, store_away(member)) {
            (crate::api::ErrorKind::Unavailable, Some(away)) => {
                ApiError::unavailable(format!("{away}; {}", error.message))
            }
            _ => error,
        })?;
        let cluster = member.desired.get();
        if let Some(store) = cluster.nodes.values().find(|node| node.holds_store) {
            let fetched =
                member.desired.fetch(&member.dialer, store, cluster.revision, std::time::Duration::ZERO).await;
            if let Err(error) = fetched {
                log::debug!("the change is made, its news are late: {error:#}");
            }
        }
        Ok(answer)
    }

    /// What an earlier cluster left is never overwritten: a store that is gone is gone for everybody.
    fn has_no_past(&self) -> Result<(), ApiError> {
        let state_dir = &self.0.args.state_dir;
        let left =
            [store_path(state_dir), state_dir.join(FOLDER).join("node.json")].into_iter().find(|path| path.exists());
        match left {
            None => Ok(()),
            Some(path) => Err(ApiError::conflict(format!(
                "{} is left of an earlier cluster: restart the agent to go on in it, or move the file away if that cluster is no more",
                path.display()
            ))),
        }
    }

    /// A task, and this node if it runs here.
    fn place_of(&self, member: &Member, task: &Id) -> Result<(Task, Option<Node>), ApiError> {
        let cluster = member.desired.get();
        let task = cluster
            .tasks
            .get(task)
            .ok_or_else(|| ApiError::not_found("the task is gone; 'mesh service ps' shows those there are"))?;
        let node = task.node_id.as_ref().and_then(|id| cluster.nodes.get(id));
        let node = node.ok_or_else(|| {
            ApiError::conflict(format!("task {} has no node yet; 'mesh service ps' says why", task.name()))
        })?;
        Ok((task.clone(), (node.id != member.id).then(|| node.clone())))
    }
}

/// "store on n1 is away since …", if it is.
fn store_away(member: &Member) -> Option<String> {
    let since = member.desired.away_since()?;
    let cluster = member.desired.get();
    let name = cluster.nodes.values().find(|node| node.holds_store).map_or("?", |node| node.name.as_str());
    let seconds = now().saturating_sub(since) / 1000;
    Some(format!("store on {name} is away since {seconds} s: bring that node back, or its network"))
}

#[async_trait]
impl ControlPlane for Control {
    async fn facts(&self) -> Facts {
        let member = self.0.member.read().await.clone();
        let (cluster, observed, me, mut warnings) = match &member {
            Some(member) => {
                (member.desired.get(), member.observed(), Some(member.id.clone()), member.kernel.warnings())
            }
            None => (Arc::default(), Arc::default(), None, Vec::new()),
        };
        if let Some(member) = &member {
            warnings.extend(store_away(member));
            if member.keeper.is_some() {
                warnings.extend(isolation(&cluster, &observed, now(), crate::leader::Timing::default()));
            }
        }
        Facts {
            cluster,
            observed,
            me,
            node_name: self.0.name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_string(),
            warnings,
            now: now(),
        }
    }

    async fn swarm_init(&self, _caller: &Caller, request: InitRequest) -> Result<InitAnswer, ApiError> {
        let _changing = self.0.changing.lock().await;
        if self.0.member.read().await.is_some() {
            return Err(ApiError::conflict("this node is already part of a cluster: mesh swarm leave first"));
        }
        self.has_no_past()?;
        match self.begin_cluster(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                purge::forget(&self.0.args.state_dir);
                Err(as_api(error))
            }
        }
    }

    async fn swarm_join(&self, _caller: &Caller, request: JoinRequest) -> Result<JoinAnswer, ApiError> {
        let _changing = self.0.changing.lock().await;
        if self.0.member.read().await.is_some() {
            return Err(ApiError::conflict("this node is already part of a cluster: mesh swarm leave first"));
        }
        self.has_no_past()?;
        match self.enter_cluster(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                purge::forget(&self.0.args.state_dir);
                Err(as_api(error))
            }
        }
    }

    async fn swarm_leave(&self, _caller: &Caller, request: LeaveRequest) -> Result<(), ApiError> {
        let _changing = self.0.changing.lock().await;
        let member = self.member().await?;
        let cluster = member.desired.get();
        let is_manager = cluster.nodes.get(&member.id).is_some_and(|node| node.role == Role::Manager);
        if is_manager && !request.force {
            return Err(ApiError::conflict(
                "this node is a manager: leave with --force if the cluster can do without it",
            ));
        }
        let told = match &member.keeper {
            Some(_) => Ok(()),
            None => match self.seat(&member) {
                Ok(Seat::There(client)) => client.leave_cluster(request.force).await,
                Ok(Seat::Here(_)) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let (Err(error), false) = (&told, request.force) {
            return Err(ApiError::new(
                error.kind,
                format!("the cluster could not be told: {}; leave with --force all the same", error.message),
            ));
        }
        self.0.member.write().await.take();
        purge::leave(&self.0, &member).await;
        Ok(())
    }

    async fn join_token(&self, _caller: &Caller, request: JoinTokenRequest) -> Result<JoinTokenAnswer, ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => client.join_token(&request).await,
            Seat::Here(keeper) => {
                let cluster = member.desired.get();
                let addr = cluster.nodes.get(&member.id).map(|node| join_addr(node.advertise_addr)).unwrap_or_default();
                let mut secrets = keeper.secrets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if request.rotate {
                    secrets.tokens.rotate(request.role);
                    secrets.save(member.state_dir()).map_err(internal)?;
                }
                let token = secrets.join_token(request.role).reveal().to_string();
                Ok(JoinTokenAnswer { role: request.role, token, join_addr: addr })
            }
        }
    }

    async fn node_update(&self, _caller: &Caller, node: &Id, update: NodeUpdate) -> Result<(), ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.node_update(node.as_str(), &update).await).await,
            Seat::Here(keeper) => {
                let update = command::NodeUpdate {
                    availability: update.availability,
                    role: None,
                    label_add: update.label_add,
                    label_rm: update.label_rm,
                };
                lead::command(&member, keeper, |cluster, _| command::update_node(cluster, node.as_str(), &update))
                    .await
                    .map(drop)
            }
        }
    }

    async fn node_remove(&self, _caller: &Caller, node: &Id, force: bool) -> Result<(), ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.node_remove(node.as_str(), force).await).await,
            Seat::Here(keeper) => {
                let observed = member.observed();
                let decide = |cluster: &Cluster, ctx: &mut Ctx| {
                    command::remove_node(cluster, &observed, node.as_str(), force, ctx)
                };
                lead::command(&member, keeper, decide).await.map(drop)
            }
        }
    }

    async fn network_create(&self, _caller: &Caller, spec: NetworkSpec) -> Result<Created, ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.network_create(&spec).await).await,
            Seat::Here(keeper) => {
                let made =
                    lead::command(&member, keeper, |cluster, ctx| command::create_network(cluster, spec.clone(), ctx))
                        .await?;
                Ok(Created { id: made.id, warnings: Vec::new() })
            }
        }
    }

    async fn network_remove(&self, _caller: &Caller, network: &Id) -> Result<(), ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.network_remove(network.as_str()).await).await,
            Seat::Here(keeper) => {
                lead::command(&member, keeper, |cluster, _| command::remove_network(cluster, network.as_str()))
                    .await
                    .map(drop)
            }
        }
    }

    async fn service_create(&self, _caller: &Caller, spec: ServiceSpec) -> Result<Created, ApiError> {
        refuse_not_yet(&spec)?;
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.service_create(&spec).await).await,
            Seat::Here(keeper) => {
                let made =
                    lead::command(&member, keeper, |cluster, ctx| command::create_service(cluster, spec.clone(), ctx))
                        .await?;
                let warnings = without_engine(&member.observed(), &spec).into_iter().collect();
                Ok(Created { id: made.id, warnings })
            }
        }
    }

    async fn service_update(&self, _caller: &Caller, service: &Id, update: ServiceUpdate) -> Result<(), ApiError> {
        refuse_not_yet(&update.spec)?;
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => {
                self.caught_up(&member, client.service_update(service.as_str(), &update).await).await
            }
            Seat::Here(keeper) => {
                let decide = |cluster: &Cluster, ctx: &mut Ctx| {
                    command::update_service(cluster, service.as_str(), update.spec.clone(), Some(update.version), ctx)
                };
                lead::command(&member, keeper, decide).await.map(drop)
            }
        }
    }

    async fn service_scale(&self, _caller: &Caller, items: Vec<ScaleItem>) -> Result<(), ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.service_scale(&items).await).await,
            Seat::Here(keeper) => {
                let wanted: Vec<(String, u32)> = items.into_iter().map(|item| (item.service, item.replicas)).collect();
                lead::command(&member, keeper, |cluster, ctx| command::scale_services(cluster, &wanted, ctx))
                    .await
                    .map(drop)
            }
        }
    }

    async fn service_rollback(&self, _caller: &Caller, service: &Id) -> Result<(), ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.service_rollback(service.as_str()).await).await,
            Seat::Here(keeper) => {
                lead::command(&member, keeper, |cluster, ctx| command::rollback_service(cluster, service.as_str(), ctx))
                    .await
                    .map(drop)
            }
        }
    }

    async fn service_remove(&self, _caller: &Caller, service: &Id) -> Result<(), ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.service_remove(service.as_str()).await).await,
            Seat::Here(keeper) => {
                lead::command(&member, keeper, |cluster, _| command::remove_service(cluster, service.as_str()))
                    .await
                    .map(drop)
            }
        }
    }

    async fn stack_deploy(&self, _caller: &Caller, request: StackDeploy) -> Result<StackAnswer, ApiError> {
        request.stack.services.iter().try_for_each(refuse_not_yet)?;
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.stack_deploy(&request).await).await,
            Seat::Here(keeper) => {
                let before = member.desired.get();
                let decide = |cluster: &Cluster, ctx: &mut Ctx| {
                    command::deploy_stack(cluster, request.stack.clone(), request.prune, ctx)
                };
                let outcome = lead::command(&member, keeper, decide).await?;
                Ok(StackAnswer { steps: stack_steps(&before, &member.desired.get(), &outcome), warnings: Vec::new() })
            }
        }
    }

    async fn stack_remove(&self, _caller: &Caller, name: &str) -> Result<StackAnswer, ApiError> {
        let member = self.member().await?;
        match self.seat(&member)? {
            Seat::There(client) => self.caught_up(&member, client.stack_remove(name).await).await,
            Seat::Here(keeper) => {
                let before = member.desired.get();
                let removed = lead::command(&member, keeper, |cluster, _| command::remove_stack(cluster, name)).await?;
                let steps = removed.iter().filter_map(|name| step(&before, StepAction::Removed, name)).collect();
                Ok(StackAnswer { steps, warnings: Vec::new() })
            }
        }
    }

    async fn exec(&self, caller: &Caller, task: &Id, request: ExecRequest) -> Result<ExecSession, ApiError> {
        let member = self.member().await?;
        match self.place_of(&member, task)? {
            (_, None) => {
                let (input, events) = member.runtime.exec(task, request).await.map_err(of_runtime)?;
                Ok(ExecSession { input, events })
            }
            (_, Some(node)) if *caller == Caller::Local => {
                peers::client(&member.dialer, &node).exec(task.as_str(), &request).await
            }
            (task, Some(node)) => {
                Err(ApiError::conflict(format!("task {} runs on {}, ask there", task.name(), node.name)))
            }
        }
    }

    async fn logs(&self, caller: &Caller, query: LogQuery) -> Result<LogFeed, ApiError> {
        let member = self.member().await?;
        let (sender, feed) = mpsc::channel(256);
        for id in &query.tasks {
            match self.place_of(&member, id) {
                Ok((_, None)) => {
                    let asked = TaskLogs { follow: query.follow, tail: query.tail.map(|lines| lines as usize) };
                    // A task whose output is gone has no lines; that is no reason to withhold the others'.
                    let Ok(mut lines) = member.runtime.logs(id, asked).await else { continue };
                    let sender = sender.clone();
                    let since = query.since.unwrap_or(0);
                    tokio::spawn(async move {
                        while let Some(line) = lines.recv().await {
                            if line.at >= since && sender.send(Ok(line)).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                Ok((_, Some(node))) if *caller == Caller::Local => {
                    let asked = LogRequest {
                        target: id.to_string(),
                        follow: query.follow,
                        tail: query.tail,
                        since: query.since,
                    };
                    let client = peers::client(&member.dialer, &node);
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        match client.logs(&asked).await {
                            Ok(mut records) => {
                                while let Some(record) = records.recv().await {
                                    if sender.send(record.map(|record| record.line)).await.is_err() {
                                        return;
                                    }
                                }
                            }
                            Err(error) => {
                                let _ = sender.send(Err(error)).await; // nobody listens any more
                            }
                        }
                    });
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(feed)
    }

    async fn purge(&self, _caller: &Caller) -> Result<PurgeAnswer, ApiError> {
        let _changing = self.0.changing.lock().await;
        let member = self.0.member.write().await.take();
        let removed = purge::sweep_out(&self.0, member.as_deref()).await.map_err(internal)?;
        Ok(PurgeAnswer { removed })
    }
}

/// What a spec may say and this build does not do yet is refused, not forgotten.
fn refuse_not_yet(spec: &ServiceSpec) -> Result<(), ApiError> {
    let refuse = |what: &str, instead: &str| {
        Err(ApiError::bad_request(format!("service '{}': {what} is not there yet: {instead}", spec.name)))
    };
    if spec.task.health.is_some() {
        return refuse(
            "a healthcheck",
            "leave it out; a task counts as ready when it listens on its published TCP ports",
        );
    }
    if spec.affinity.is_some() {
        return refuse("affinity", "leave it out");
    }
    if spec.ports.iter().any(|port| port.mode == PublishMode::Host) {
        return refuse(
            "publishing with mode=host",
            "leave the mode out; tasks see their callers' own addresses all the same",
        );
    }
    if spec.ports.iter().any(|port| port.protocol == Protocol::Sctp) {
        return refuse("publishing an SCTP port", "publish TCP or UDP");
    }
    Ok(())
}

/// A service of containers where no Engine answers at this moment: it waits for one.
fn without_engine(observed: &crate::model::Observed, spec: &ServiceSpec) -> Option<String> {
    let is_away = observed.nodes.values().all(|node| !node.runtimes.contains(&Runtime::Docker));
    (spec.task.runtime == Runtime::Docker && is_away).then(|| {
        format!(
            "no node of this cluster has a Docker Engine that answers: '{}' waits for one; start or install it (apt-get install \
             docker.io), or run a command of the host with --runtime exec",
            spec.name
        )
    })
}

/// Errors keep their kind where they have one.
fn as_api(error: anyhow::Error) -> ApiError {
    let message = format!("{error:#}");
    match error.downcast::<ApiError>() {
        Ok(error) => error,
        Err(error) => match error.downcast::<tls::TlsError>() {
            Ok(error) => peers::refusal(error),
            Err(_) => ApiError::conflict(message),
        },
    }
}

fn of_runtime(error: RuntimeError) -> ApiError {
    match error {
        RuntimeError::NotFound { .. } => ApiError::not_found(error.to_string()),
        _ => ApiError::conflict(error.to_string()),
    }
}

fn stack_steps(before: &Cluster, after: &Cluster, outcome: &command::StackOutcome) -> Vec<StackStep> {
    let of = |action: StepAction, names: &[String], cluster: &Cluster| -> Vec<StackStep> {
        names.iter().filter_map(|name| step(cluster, action, name)).collect()
    };
    [
        of(StepAction::Created, &outcome.created_networks, after),
        of(StepAction::Created, &outcome.created_services, after),
        of(StepAction::Updated, &outcome.updated_services, after),
        of(StepAction::Unchanged, &outcome.unchanged_services, after),
        of(StepAction::Removed, &outcome.removed, before),
    ]
    .concat()
}

/// The step about the service or network of this name.
fn step(cluster: &Cluster, action: StepAction, name: &str) -> Option<StackStep> {
    let service = cluster.service_named(name).map(|service| (StepKind::Service, service.id.clone()));
    let network = || cluster.network_named(name).map(|network| (StepKind::Network, network.id.clone()));
    let (kind, id) = service.or_else(network)?;
    Some(StackStep { action, kind, name: name.to_string(), id })
}
