//! A tiny simulated world for tests: nodes that start and stop what the leader wants, cables that break, a clock that is turned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::command::{self, InitCluster, NewNode};
use super::{Ctx, tick, view};
use crate::model::*;

/// A cluster, what its leader sees, and what time it is.
pub(crate) struct World {
    pub cluster: Cluster,
    pub observed: Observed,
    pub now: UnixMs,
    seed: u64,
    cut: BTreeSet<Id>,
    /// How far the nodes' clocks are behind the leader's.
    behind_ms: i64,
}

/// The identity of the node with this number.
pub(crate) fn node_id(number: u32) -> Id {
    Id::from_bytes([0xa0 + number as u8; 16])
}

/// What the node `n<number>` brings.
pub(crate) fn new_node(number: u32) -> NewNode {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, number as u8));
    NewNode {
        id: node_id(number),
        name: format!("n{number}"),
        role: if number == 1 { Role::Manager } else { Role::Worker },
        advertise_addr: address,
        ports: Default::default(),
        data_path_addr: address,
        cert_fingerprint: String::new(),
        runtimes: vec![Runtime::Exec],
        routed_prefixes: vec!["192.0.2.0/24".parse().expect("a prefix")],
    }
}

/// A node on its own, a worker unless it is the first.
pub(crate) fn node(number: u32) -> Node {
    let new = new_node(number);
    Node {
        id: new.id,
        number,
        name: new.name,
        role: new.role,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        advertise_addr: new.advertise_addr,
        ports: new.ports,
        data_path_addr: new.data_path_addr,
        cert_fingerprint: new.cert_fingerprint,
        renewed_fingerprint: None,
        holds_store: number == 1,
        runtimes: new.runtimes,
        routed_prefixes: Vec::new(),
        joined_at: 0,
    }
}

/// One task of `sleep`, on no network of its own.
pub(crate) fn spec(name: &str) -> ServiceSpec {
    let mut spec = ServiceSpec::new(name, Runtime::Exec);
    spec.task.command = vec!["sleep".into(), "3600".into()];
    spec
}

/// With these subnets and no other family, or with what the pool gives.
pub(crate) fn network_spec(name: &str, subnets: Option<&str>) -> NetworkSpec {
    let subnets = subnets.map(|subnets| subnets.parse::<Subnets>().expect("subnets"));
    NetworkSpec {
        subnets: subnets.unwrap_or_default(),
        ipv4: subnets.is_none_or(|subnets| subnets.v4.is_some()),
        ..NetworkSpec::named(name)
    }
}

pub(crate) fn port(published: u16, target: u16) -> PortSpec {
    PortSpec::new(Protocol::Tcp, published, target)
}

/// Deterministic and different at each call.
fn random(seed: &mut u64) -> [u8; 16] {
    let mut word = || {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let (one, two) = (word(), word());
    std::array::from_fn(|at| if at < 8 { one[at] } else { two[at - 8] })
}

impl World {
    /// `n1` (the store's) up to `n<count>`, all well.
    pub fn of_nodes(count: u32) -> Self {
        let mut world = World {
            cluster: Cluster::default(),
            observed: Observed::default(),
            now: 1_000_000,
            seed: 7,
            cut: BTreeSet::new(),
            behind_ms: 0,
        };
        world
            .command(|cluster, ctx| command::init_cluster(cluster, InitCluster::with_defaults(new_node(1)), ctx))
            .expect("init");
        for number in 2..=count {
            world.command(|cluster, ctx| command::join_node(cluster, new_node(number), ctx)).expect("join");
        }
        world.observed.agent_alive = world.cluster.nodes.keys().map(|id| (id.clone(), true)).collect();
        world
    }

    /// Runs a command and commits its changes.
    pub fn command<T>(
        &mut self,
        run: impl FnOnce(&Cluster, &mut Ctx) -> Result<command::Commit<T>, command::CommandError>,
    ) -> Result<T, command::CommandError> {
        let mut source = || random(&mut self.seed);
        let commit = run(&self.cluster, &mut Ctx::new(self.now, &mut source))?;
        self.cluster.apply(&commit.changes);
        self.check();
        Ok(commit.answer)
    }

    pub fn network(&mut self, name: &str, subnet: Option<&str>) -> Network {
        let spec = network_spec(name, subnet);
        self.command(|cluster, ctx| command::create_network(cluster, spec, ctx)).expect("create network")
    }

    pub fn create(&mut self, spec: ServiceSpec) -> Service {
        self.command(|cluster, ctx| command::create_service(cluster, spec, ctx)).expect("create service")
    }

    pub fn scale(&mut self, name: &str, replicas: u32) {
        let wanted = [(name.to_string(), replicas)];
        self.command(|cluster, ctx| command::scale_services(cluster, &wanted, ctx)).expect("scale");
    }

    pub fn update(&mut self, spec: ServiceSpec) -> Service {
        let name = spec.name.clone();
        self.command(|cluster, ctx| command::update_service(cluster, &name, spec, None, ctx)).expect("update")
    }

    /// One tick, committed. A second one must find nothing to do.
    pub fn tick(&mut self) -> usize {
        let mut source = || random(&mut self.seed);
        let changes = tick(&self.cluster, &self.observed, &mut Ctx::new(self.now, &mut source));
        self.cluster.apply(&changes);
        let again = tick(&self.cluster, &self.observed, &mut Ctx::new(self.now, &mut source));
        assert_eq!(again, [], "a tick repeated finds nothing to do; the first was {changes:#?}");
        self.check();
        changes.len()
    }

    /// Every reachable node does what is wanted of it: tasks run, or fail where their command is `false`, or end.
    pub fn nodes_act(&mut self) -> usize {
        let mut acts = 0;
        for task in self.cluster.tasks.values() {
            let Some(node) = task.node_id.as_ref().filter(|id| !self.cut.contains(id)) else { continue };
            if self.observed.agent_alive.get(node) == Some(&false) {
                continue;
            }
            let was = self.observed.tasks.get(&task.id).map(|status| status.state);
            let is = match (was, task.desired) {
                (None, TaskState::Running) => match task.spec.command.first().map_or("", String::as_str) {
                    "false" => TaskState::Failed,
                    "true" => TaskState::Complete,
                    _ => TaskState::Running,
                },
                (None | Some(TaskState::Running), TaskState::Shutdown | TaskState::Remove) => TaskState::Shutdown,
                _ => continue,
            };
            acts += 1;
            self.observed.tasks.insert(task.id.clone(), status(is, self.now.saturating_add_signed(-self.behind_ms)));
        }
        let known = &self.cluster.tasks;
        let unknown: Vec<Id> = self.observed.tasks.keys().filter(|id| !known.contains_key(*id)).cloned().collect();
        unknown.iter().for_each(|id| drop(self.observed.tasks.remove(id)));
        acts
    }

    /// Leader and nodes in turn until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..500 {
            if self.tick() + self.nodes_act() == 0 {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Time passes in steps of a second, leader and nodes going on meanwhile.
    pub fn live(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.settle();
            self.pass(1_000);
        }
        self.settle();
    }

    /// A leader at rest has nothing to do before it said that something is due.
    fn check_quiet(&mut self, ms: u64) {
        let timing = super::Timing::default();
        let mut seed = 1;
        let mut work = || random(&mut seed);
        let mut idle = |now| tick(&self.cluster, &self.observed, &mut Ctx::new(now, &mut work)).is_empty();
        let due = super::due(&self.cluster, &self.observed, self.now, timing).map_or(UnixMs::MAX, |due| due - 1);
        let quiet = due.min(self.now + ms);
        assert!(!idle(self.now) || idle(quiet), "something was due {} ms after a rest, unannounced", quiet - self.now);
    }

    /// The nodes' clocks are wrong, all alike; the leader's is right.
    pub fn clocks_are(&mut self, behind_ms: i64) {
        self.behind_ms = behind_ms;
    }

    /// Time passes, and nobody does anything.
    pub fn pass(&mut self, ms: u64) {
        self.check_quiet(ms);
        self.now += ms;
    }

    /// The node's cable is cut; its agent seems gone soon after.
    pub fn cut(&mut self, number: u32) {
        self.cut.insert(node_id(number));
        self.observed.unreachable_since.insert(node_id(number), self.now);
        self.kill_agent(number);
    }

    pub fn kill_agent(&mut self, number: u32) {
        self.observed.agent_alive.insert(node_id(number), false);
        self.observed.agent_gone_since.insert(node_id(number), self.now);
    }

    pub fn mend(&mut self, number: u32) {
        self.cut.remove(&node_id(number));
        self.observed.unreachable_since.remove(&node_id(number));
        self.observed.agent_gone_since.remove(&node_id(number));
        self.observed.agent_alive.insert(node_id(number), true);
    }

    /// A running task's process ends.
    pub fn end(&mut self, task: &Id, state: TaskState) {
        self.observed.tasks.insert(task.clone(), status(state, self.now));
    }

    /// `whoami.1 n2 Running`, sorted: the tasks that shall run.
    pub fn running(&self) -> Vec<String> {
        let live = self.cluster.tasks.values().filter(|task| task.desired == TaskState::Running);
        let mut lines: Vec<String> = live.map(|task| self.line(task)).collect();
        lines.sort();
        lines
    }

    pub fn line(&self, task: &Task) -> String {
        let node = task.node_id.as_ref().map_or("-", |id| self.cluster.nodes.get(id).map_or("?", |node| &node.name));
        format!("{}.{} {node} {:?}", task.service_name, task.slot, view::task_state(task, &self.observed))
    }

    /// The only task of this slot that shall run.
    pub fn task(&self, service: &str, slot: u32) -> Task {
        let mut live = self.cluster.tasks.values().filter(|task| task.desired == TaskState::Running);
        live.find(|task| task.service_name == service && task.slot == slot).expect("such a task").clone()
    }

    /// What the allocator promises: everything given out has one owner, and lies where it should.
    fn check(&self) {
        fn distinct<T: Ord + std::fmt::Debug>(what: &str, all: impl Iterator<Item = T>) {
            let mut seen = BTreeSet::new();
            for one in all {
                assert!(!seen.contains(&one), "{what} {one:?} is given out twice");
                seen.insert(one);
            }
        }
        let cluster = &self.cluster;
        let vips = || cluster.services.iter().map(|(_, service)| service).flat_map(|service| &service.vips);
        let attachments = || cluster.tasks.iter().map(|(_, task)| task).flat_map(|task| &task.attachments);
        let holders = vips().map(|vip| (&vip.network_id, vip.addrs));
        let holders = holders.chain(attachments().map(|at| (&at.network_id, at.addrs)));
        for (network, addrs) in holders.clone() {
            let network = cluster.networks.get(network).expect("an address is on a network that is there");
            let (has, asked) =
                (addrs.each().map(|at| at.is_ipv4()), network.subnets.each().map(|net| net.addr().is_ipv4()));
            assert!(has.eq(asked), "{addrs}: one of each family of {}", network.subnets);
            for (address, subnet) in addrs.each().zip(network.subnets.each()) {
                assert!(subnet.contains(&address), "{address} in {subnet}");
                let reserved = network.gateways.each().chain([subnet.network(), subnet.broadcast()]);
                assert!(!reserved.collect::<Vec<_>>().contains(&address), "{address} is no host's");
            }
        }
        let addresses = holders.flat_map(|(network, addrs)| addrs.each().map(move |address| (network, address)));
        distinct("address", addresses);
        distinct("pool", vips().map(|vip| vip.pool));
        distinct("endpoint", attachments().map(|at| at.endpoint));
        distinct("VNI", cluster.networks.values().map(|network| network.vni));
        distinct("node number", cluster.nodes.values().map(|node| node.number));
        distinct("interface", cluster.tasks.values().map(Task::interface));
        let ports = cluster.services.values().flat_map(|service| &service.ports);
        let ports = ports.filter(|port| port.mode == PublishMode::Ingress);
        let place = |port: &PortSpec| (port.address, port.interface.clone());
        distinct("published port", ports.map(|port| (port.protocol, port.published, place(port))));
    }
}

fn status(state: TaskState, since: UnixMs) -> TaskStatus {
    let error = (state == TaskState::Failed).then(|| "exit 1".to_string());
    TaskStatus { error, ..TaskStatus::new(state, state == TaskState::Running, since) }
}
