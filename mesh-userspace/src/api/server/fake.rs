//! A control plane in memory, for tests of routes and of the command line: services run as soon as they are asked
//! for (unless named `broken`), `cat` echoes, `exit N` ends with N.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::api::view::fixture;
use crate::api::*;
use crate::model::*;

pub struct Fake {
    facts: Mutex<Facts>,
    /// What was asked, in order.
    pub calls: Mutex<Vec<String>>,
}

impl Fake {
    pub fn new(facts: Facts) -> Arc<Self> {
        Arc::new(Fake { facts: Mutex::new(facts), calls: Mutex::new(Vec::new()) })
    }

    pub fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// Gives a service as many running tasks as it wants; `broken` gets a failed one.
    fn run_tasks(&self, service_id: &Id) {
        self.change(|facts| {
            let now = facts.now;
            let cluster = Arc::make_mut(&mut facts.cluster);
            let observed = Arc::make_mut(&mut facts.observed);
            let former: Vec<Id> = cluster.tasks_of(service_id).map(|task| task.id.clone()).collect();
            former.iter().for_each(|id| drop(cluster.tasks.remove(id)));
            let service = &cluster.services[service_id];
            let Mode::Replicated { replicas } = service.spec.mode else { return };
            let is_broken = service.spec.name == "broken";
            for slot in 1..=replicas {
                let mut task = fixture::task(0x40 + slot as u8, slot, 0xa1, 0);
                task.service_id = service_id.clone();
                task.service_name = service.spec.name.clone();
                task.spec = service.spec.task.clone().into();
                task.service_version = service.version;
                let status = TaskStatus {
                    state: if is_broken { TaskState::Rejected } else { TaskState::Running },
                    ready: !is_broken,
                    message: "started".into(),
                    error: is_broken.then(|| "exec: no such file: /nowhere".to_string()),
                    exit_code: None,
                    pid: None,
                    health: None,
                    since: now,
                };
                observed.tasks.insert(task.id.clone(), status);
                cluster.tasks.insert(task.id.clone(), task);
            }
        });
    }
}

#[async_trait]
impl ControlPlane for Fake {
    async fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn swarm_init(&self, _: &Caller, request: InitRequest) -> Result<InitAnswer, ApiError> {
        self.called(format!("init {:?}", request.advertise_addr));
        Ok(InitAnswer {
            node_id: fixture::id(0xa1),
            worker_token: "MESHTKN-1-digest-worker".into(),
            join_addr: "192.168.99.1:2377".into(),
        })
    }

    async fn swarm_join(&self, _: &Caller, request: JoinRequest) -> Result<JoinAnswer, ApiError> {
        match request.token.as_str() {
            "MESHTKN-1-digest-worker" => Ok(JoinAnswer { node_id: fixture::id(0xb2), role: Role::Worker }),
            _ => Err(ApiError::forbidden("the join token is not the cluster's; 'mesh swarm join-token' shows it")),
        }
    }

    async fn swarm_leave(&self, _: &Caller, request: LeaveRequest) -> Result<(), ApiError> {
        self.called(format!("leave force={}", request.force));
        Ok(())
    }

    async fn join_token(&self, _: &Caller, request: JoinTokenRequest) -> Result<JoinTokenAnswer, ApiError> {
        let token = if request.role == Role::Manager { "MESHTKN-1-digest-manager" } else { "MESHTKN-1-digest-worker" };
        Ok(JoinTokenAnswer { role: request.role, token: token.into(), join_addr: "192.168.99.1:2377".into() })
    }

    async fn node_update(&self, _: &Caller, node: &Id, update: NodeUpdate) -> Result<(), ApiError> {
        self.called(format!("node_update {} {:?}", node.short(), update.availability));
        Ok(())
    }

    async fn node_remove(&self, _: &Caller, node: &Id, force: bool) -> Result<(), ApiError> {
        self.called(format!("node_remove {} {force}", node.short()));
        Ok(())
    }

    async fn network_create(&self, _: &Caller, spec: NetworkSpec) -> Result<Created, ApiError> {
        self.called(format!("network_create {} {:?} {:?}", spec.name, spec.subnets, spec.mtu));
        Ok(Created { id: fixture::id(0xd1), warnings: Vec::new() })
    }

    async fn network_remove(&self, _: &Caller, network: &Id) -> Result<(), ApiError> {
        self.called(format!("network_remove {}", network.short()));
        Ok(())
    }

    async fn service_create(&self, _: &Caller, spec: ServiceSpec) -> Result<Created, ApiError> {
        let name = spec.name.clone();
        self.called(format!("service_create {name}"));
        let id = fixture::id(0x5f);
        self.change(|facts| {
            let service = Service {
                id: id.clone(),
                ports: spec.ports.clone(),
                spec,
                previous_spec: None,
                version: 1,
                vips: Vec::new(),
                pending_reason: None,
                created_at: facts.now,
                updated_at: facts.now,
            };
            Arc::make_mut(&mut facts.cluster).services.insert(id.clone(), service);
        });
        self.run_tasks(&id);
        Ok(Created { id, warnings: Vec::new() })
    }

    async fn service_update(&self, _: &Caller, service: &Id, update: ServiceUpdate) -> Result<(), ApiError> {
        self.change(|facts| {
            if let Some(place) = Arc::make_mut(&mut facts.cluster).services.get_mut(service) {
                place.ports = update.spec.ports.clone();
                place.spec = update.spec;
                place.version = update.version + 1;
            }
        });
        self.run_tasks(service);
        Ok(())
    }

    async fn service_scale(&self, _: &Caller, items: Vec<ScaleItem>) -> Result<(), ApiError> {
        for item in items {
            let id = self.facts().await.find_service(&item.service)?.id.clone();
            self.change(|facts| {
                if let Some(service) = Arc::make_mut(&mut facts.cluster).services.get_mut(&id) {
                    service.spec.mode = Mode::Replicated { replicas: item.replicas };
                }
            });
            self.run_tasks(&id);
        }
        Ok(())
    }

    async fn service_rollback(&self, _: &Caller, service: &Id) -> Result<(), ApiError> {
        self.called(format!("service_rollback {}", service.short()));
        Ok(())
    }

    async fn service_remove(&self, _: &Caller, service: &Id) -> Result<(), ApiError> {
        self.change(|facts| drop(Arc::make_mut(&mut facts.cluster).services.remove(service)));
        Ok(())
    }

    async fn stack_deploy(&self, caller: &Caller, request: StackDeploy) -> Result<StackAnswer, ApiError> {
        let mut answer = StackAnswer::default();
        for network in request.stack.networks {
            let (action, kind) = (StepAction::Created, StepKind::Network);
            answer.steps.push(StackStep { action, kind, name: network.name, id: fixture::id(0xd1) });
        }
        for spec in request.stack.services {
            let name = spec.name.clone();
            let id = self.service_create(caller, spec).await?.id;
            answer.steps.push(StackStep { action: StepAction::Created, kind: StepKind::Service, name, id });
        }
        Ok(answer)
    }

    async fn stack_remove(&self, _: &Caller, name: &str) -> Result<StackAnswer, ApiError> {
        Err(ApiError::not_found(format!("nothing found in stack: {name}")))
    }

    async fn exec(&self, _: &Caller, task: &Id, request: ExecRequest) -> Result<ExecSession, ApiError> {
        self.called(format!("exec {} {:?} tty={}", task.short(), request.command, request.tty.is_some()));
        let (input, mut inputs) = mpsc::channel(4);
        let (event, events) = mpsc::channel(4);
        tokio::spawn(async move {
            let command: Vec<&str> = request.command.iter().map(String::as_str).collect();
            let mut code = 0;
            match command.as_slice() {
                ["exit", number] => code = number.parse().unwrap_or(255),
                ["cat"] => {
                    while let Some(ExecInput::Stdin(bytes)) = inputs.recv().await {
                        if event.send(ExecEvent::Stdout(bytes)).await.is_err() {
                            return;
                        }
                    }
                }
                // Shows whether the caller's going away arrives.
                ["wait"] => while inputs.recv().await.is_some() {},
                words => {
                    let _ = event.send(ExecEvent::Stderr(format!("{words:?}\n").into())).await;
                }
            }
            let _ = event.send(ExecEvent::Exit(code)).await;
        });
        Ok(ExecSession { input, events })
    }

    async fn logs(&self, _: &Caller, query: LogQuery) -> Result<LogFeed, ApiError> {
        let (sender, feed) = mpsc::channel(8);
        for (number, task_id) in query.tasks.into_iter().enumerate() {
            let line = LogLine { task_id, at: 1000, stream: LogStream::Stdout, text: format!("line {number}") };
            let _ = sender.send(Ok(line)).await;
        }
        if query.tail == Some(0) {
            let _ = sender.send(Err(ApiError::unavailable("n2 is away"))).await;
        }
        Ok(feed)
    }

    async fn flows(&self, _: &Caller, query: FlowQuery) -> Result<FlowFeed, ApiError> {
        let (sender, feed) = mpsc::channel(8);
        let facts = fixture::flows().into_iter();
        let wanted = facts.filter(|fact| query.may_want(&fact.key, &fact.flow) && query.wants(fact));
        let left = query.limit.map_or(usize::MAX, |limit| limit as usize);
        for fact in wanted.take(left) {
            let _ = sender.send(Ok(vec![fact])).await; // nobody listens any more
        }
        Ok(feed)
    }

    async fn flow_summary(&self, _: &Caller) -> Result<FlowSummary, ApiError> {
        let counts = |states: &[(FlowState, u64)]| states.iter().copied().collect();
        Ok(FlowSummary {
            at: fixture::NOW,
            ipv4: TableFill { used: 1_500, size: 3_085_510, overflow_used: 0, overflow_size: 192_844 },
            ipv6: TableFill { used: 2, size: 3_085_510, overflow_used: 0, overflow_size: 65_536 },
            gave_way: 40,
            drops_table_full: 0,
            entries: [
                ("tcp".to_string(), counts(&[(FlowState::Established, 1_200), (FlowState::Closing, 200)])),
                ("udp".to_string(), counts(&[(FlowState::Opening, 100)])),
            ]
            .into(),
        })
    }

    async fn monitor(&self, _: &Caller, query: MonitorQuery) -> Result<EventFeed, ApiError> {
        let (sender, feed) = mpsc::channel(8);
        let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 16, last];
        let event = mesh_common::schema::Event {
            src: mapped(0x11),
            dst: mapped(2),
            len: 74,
            sport: 40_000,
            dport: 8_000,
            protocol: 6,
            tcp_flags: 2,
            ..Default::default()
        };
        let sampled = mesh_common::schema::Event { backend: 0x12, node: 2, deliver: 2, ..event };
        let dropped = mesh_common::schema::Event { reason: 8, ..event };
        let told = [sampled, dropped].into_iter().filter(|event| query.wants(event));
        let told = told.map(|event| Told::Event { event, at: fixture::NOW });
        let _ = sender.send(Ok(std::iter::once(Told::Lost(3)).chain(told).collect())).await;
        Ok(feed)
    }

    async fn explain(&self, _: &Caller, query: ExplainQuery) -> Result<crate::explain::Explanation, ApiError> {
        let step = |asked: &str, found: &str| crate::explain::Step {
            hook: "from_task".into(),
            asked: asked.into(),
            found: found.into(),
        };
        let packet = format!("{}:{}", query.dst, query.dport);
        if query.dport == 9 {
            return Ok(crate::explain::Explanation {
                packet,
                steps: vec![step("FRONTENDS[10.0.16.2]", "service whoami, 0 ready tasks, round-robin, demo")],
                verdict: "dropped".into(),
                sentence: "refused, and the sender is told: no-backend – no task is ready".into(),
                reason: "no-backend".into(),
                remedy: "mesh service ps NAME".into(),
                ..Default::default()
            });
        }
        Ok(crate::explain::Explanation {
            packet,
            steps: vec![step("TURNS[1]", "turn 4: place 0 of 2"), step("BACKENDS[18]", "whoami.2 at 10.0.16.18 on n2")],
            verdict: "delivered".into(),
            sentence: "delivered to whoami.2 on n2".into(),
            task: "whoami.2".into(),
            rewritten: "10.0.16.17:49152 → 10.0.16.18:8000 tcp".into(),
            ..Default::default()
        })
    }

    async fn doctor(&self, _caller: &Caller) -> Result<Vec<crate::doctor::Finding>, ApiError> {
        Ok(vec![
            crate::doctor::Finding::ok("kernel", "6.12.9, BTF, TCX"),
            crate::doctor::Finding::failed("ports", "2377/tcp is in use by nginx (pid 7)", "stop it"),
        ])
    }

    async fn purge(&self, _: &Caller) -> Result<PurgeAnswer, ApiError> {
        Ok(PurgeAnswer { removed: vec!["link mesh0".into()] })
    }
}
