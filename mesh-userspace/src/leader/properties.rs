//! Whatever users, nodes and cables do: nothing is given out twice, every tick comes to rest, and what is left runs.
//!
//! [`World`] checks the allocator after every commit and repeats every tick, so the properties here only need to move it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::command;
use super::view::{self, Convergence};
use super::world::{World, network_spec, node_id, port, spec};
use crate::model::*;

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: u8,
        replicas: u32,
        global: bool,
        networks: u8,
        publish: bool,
    },
    Scale {
        name: u8,
        replicas: u32,
    },
    Update {
        name: u8,
        value: u8,
        start_first: bool,
        parallelism: u32,
    },
    Rollback {
        name: u8,
    },
    Remove {
        name: u8,
    },
    AddNetwork {
        name: u8,
        small: bool,
        /// IPv4, IPv6, or both.
        families: u8,
    },
    RemoveNetwork {
        name: u8,
    },
    Availability {
        node: u32,
        availability: Availability,
    },
    Cut {
        node: u32,
    },
    Mend {
        node: u32,
    },
    End {
        nth: usize,
        failed: bool,
    },
    /// The node lists these of its four containers, a bit each, as asking to join.
    List {
        node: u32,
        running: u8,
    },
    Pass {
        ms: u64,
    },
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 2u32..4;
    let availability = prop_oneof![Just(Availability::Active), Just(Availability::Pause), Just(Availability::Drain)];
    prop_oneof![
        3 => (0u8..4, 0u32..6, any::<bool>(), 0u8..4, any::<bool>()).prop_map(|(name, replicas, global, networks, publish)| {
            Step::Create { name, replicas, global, networks, publish }
        }),
        2 => (0u8..4, 0u32..7).prop_map(|(name, replicas)| Step::Scale { name, replicas }),
        2 => (0u8..4, 0u8..3, any::<bool>(), 0u32..3).prop_map(|(name, value, start_first, parallelism)| {
            Step::Update { name, value, start_first, parallelism }
        }),
        1 => (0u8..4).prop_map(|name| Step::Rollback { name }),
        1 => (0u8..4).prop_map(|name| Step::Remove { name }),
        2 => (0u8..2, any::<bool>(), 0u8..3).prop_map(|(name, small, families)| Step::AddNetwork { name, small, families }),
        1 => (0u8..2).prop_map(|name| Step::RemoveNetwork { name }),
        1 => (node.clone(), availability).prop_map(|(node, availability)| Step::Availability { node, availability }),
        1 => node.clone().prop_map(|node| Step::Cut { node }),
        1 => node.clone().prop_map(|node| Step::Mend { node }),
        3 => (node, 0u8..16).prop_map(|(node, running)| Step::List { node, running }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(nth, failed)| Step::End { nth, failed }),
        3 => (0u64..8_000).prop_map(|ms| Step::Pass { ms }),
        3 => Just(Step::Settle),
    ]
}

fn changed(world: &World, name: &str, change: impl FnOnce(&mut ServiceSpec)) -> Option<ServiceSpec> {
    let mut spec = world.cluster.service_named(name)?.spec.clone();
    change(&mut spec);
    Some(spec)
}

/// Those whose bit is set. Two of a node ask for the same service, on networks that may not be there; one publishes a port.
fn containers(node: u32, running: u8) -> Vec<LabelledContainer> {
    let container = |bit: u8| LabelledContainer {
        container: format!("{node}{bit}").repeat(32),
        name: format!("c{node}{bit}"),
        image: "nginx".into(),
        service: format!("s{}", bit % 3),
        networks: vec![format!("net{}", bit % 2)],
        aliases: Vec::new(),
        ports: if bit == 2 { vec![port(0, 80)] } else { Vec::new() },
    };
    (0..4).filter(|bit| running & (1 << bit) != 0).map(container).collect()
}

/// A node that is cut off tells nobody. Who was refused.
fn list(world: &mut World, node: u32, running: u8) -> Vec<String> {
    if world.observed.unreachable_since.contains_key(&node_id(node)) {
        return Vec::new();
    }
    let listed = containers(node, running);
    let told = world.command(|cluster, ctx| command::adopt_containers(cluster, &node_id(node), &listed, ctx));
    told.expect("a node of the cluster").into_iter().map(|refused| refused.container).collect()
}

/// Plays a step. Commands may be refused: then nothing has changed, which their own tests show.
fn play(world: &mut World, step: Step) {
    let service = |name: u8| format!("s{name}");
    match step {
        Step::Create { name, replicas, global, networks, publish } => {
            let on = (0..2u8).filter(|bit| networks & (1 << bit) != 0);
            let on = on.map(|bit| NetworkAttachment { network: format!("net{bit}"), aliases: Vec::new() });
            let mode = if global { Mode::Global } else { Mode::Replicated { replicas } };
            let ports = if publish { vec![port(0, 80)] } else { Vec::new() };
            let spec = ServiceSpec { networks: on.collect(), mode, ports, ..spec(&service(name)) };
            world.command(|cluster, ctx| command::create_service(cluster, spec, ctx)).ok();
        }
        Step::Scale { name, replicas } => {
            let wanted = [(service(name), replicas)];
            world.command(|cluster, ctx| command::scale_services(cluster, &wanted, ctx)).ok();
        }
        Step::Update { name, value, start_first, parallelism } => {
            let order = if start_first { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
            let spec = changed(world, &service(name), |spec| {
                spec.task.env = vec![format!("V={value}")];
                spec.update = UpdateConfig { order, parallelism, ..spec.update };
            });
            let Some(spec) = spec else { return };
            world.command(|cluster, ctx| command::update_service(cluster, &service(name), spec, None, ctx)).ok();
        }
        Step::Rollback { name } => {
            world.command(|cluster, ctx| command::rollback_service(cluster, &service(name), ctx)).ok();
        }
        Step::Remove { name } => {
            world.command(|cluster, _| command::remove_service(cluster, &service(name))).ok();
        }
        Step::AddNetwork { name, small, families } => {
            let subnet = format!("172.16.{name}.0/29");
            let spec = network_spec(&format!("net{name}"), small.then_some(subnet.as_str()));
            let (ipv4, ipv6) = (families != 1 || small, families != 0);
            let spec = NetworkSpec { attachable: true, ipv4, ipv6, ..spec };
            world.command(|cluster, ctx| command::create_network(cluster, spec, ctx)).ok();
        }
        Step::RemoveNetwork { name } => {
            world.command(|cluster, _| command::remove_network(cluster, &format!("net{name}"))).ok();
        }
        Step::Availability { node, availability } => {
            let update = command::NodeUpdate { availability: Some(availability), ..Default::default() };
            world.command(|cluster, _| command::update_node(cluster, &format!("n{node}"), &update)).ok();
        }
        Step::Cut { node } => world.cut(node),
        Step::Mend { node } => world.mend(node),
        Step::End { nth, failed } => {
            let running = world.observed.tasks.iter().filter(|(_, status)| status.state == TaskState::Running);
            let running: Vec<Id> = running.map(|(id, _)| id.clone()).collect();
            if !running.is_empty() {
                let state = if failed { TaskState::Failed } else { TaskState::Complete };
                world.end(&running[nth % running.len()], state);
            }
        }
        Step::List { node, running } => {
            list(world, node, running);
        }
        Step::Pass { ms } => world.pass(ms),
        Step::Settle => world.settle(),
    }
    world.tick();
}

/// The task is the container of a node that lists it.
fn is_listed(runs: &BTreeMap<u32, u8>, task: &Task) -> bool {
    let node = runs.iter().find(|(node, _)| task.node_id == Some(node_id(**node)));
    node.is_some_and(|(node, running)| {
        containers(*node, *running).into_iter().any(|listed| task.adopted == Some(listed.container))
    })
}

fn adopted_that_run(world: &World) -> Vec<&Task> {
    let run = |task: &&Task| task.adopted.is_some() && task.desired == TaskState::Running;
    world.cluster.tasks.values().filter(run).collect()
}

fn remove_services(world: &mut World) {
    let names: Vec<String> = world.cluster.services.values().map(|service| service.spec.name.clone()).collect();
    for name in names {
        world.command(|cluster, _| command::remove_service(cluster, &name)).expect("remove");
    }
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_comes_to_rest_as_wanted(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::of_nodes(3);
        let mut runs = BTreeMap::from([(2, 0), (3, 0)]);
        for step in steps {
            if let Step::List { node, running } = &step {
                runs.insert(*node, *running);
            }
            play(&mut world, step);
        }
        // Peace: every node is well, and time enough for restarts, delays and trials.
        for node in 2..4 {
            world.mend(node);
            let update = command::NodeUpdate { availability: Some(Availability::Active), ..Default::default() };
            world.command(|cluster, _| command::update_node(cluster, &format!("n{node}"), &update)).expect("update");
        }
        world.live(90);
        // Lists are told again, as nodes do where the cluster disagrees: who is on one has joined, was sent away, or was refused.
        for (node, running) in &runs {
            let refused = list(&mut world, *node, *running);
            for asking in containers(*node, *running) {
                let has_joined = command::has_joined(&world.cluster, &node_id(*node), &asking.container);
                prop_assert!(has_joined != refused.contains(&asking.container), "{} {refused:?}", asking.name);
            }
        }
        world.settle();
        let mut lives = BTreeSet::new();
        for task in adopted_that_run(&world) {
            prop_assert!(is_listed(&runs, task), "{} is no container that runs", world.line(task));
            prop_assert!(lives.insert(&task.adopted), "{} is there twice", world.line(task));
            let mode = world.cluster.services[&task.service_id].spec.mode;
            prop_assert!(mode == Mode::Adopted, "{} is a task of a service with tasks of its own", world.line(task));
        }
        for service in world.cluster.services.values() {
            match view::convergence(&world.cluster, &world.observed, service, world.now) {
                Convergence::Converged => {}
                other => {
                    let text = format!("{other:?}");
                    let excused = text.contains("no address left") || text.contains("paused");
                    prop_assert!(excused, "{} is not as wanted: {text}", service.spec.name);
                }
            }
        }
        // Only history and what runs is left, and history holds no address.
        for task in world.cluster.tasks.values() {
            prop_assert!(task.desired == TaskState::Running || task.attachments.is_empty(), "{}", world.line(task));
        }
        let joined: BTreeSet<_> = adopted_that_run(&world).into_iter().map(|task| task.adopted.clone()).collect();
        remove_services(&mut world);
        // Containers that were sent away run on and are listed on, and do not come in again; those may that were refused before.
        for (node, running) in &runs {
            list(&mut world, *node, *running);
        }
        world.settle();
        for task in adopted_that_run(&world) {
            prop_assert!(!joined.contains(&task.adopted), "{}", world.line(task));
        }
        for node in runs.keys() {
            list(&mut world, *node, 0);
        }
        remove_services(&mut world);
        for node in runs.keys() {
            list(&mut world, *node, 0);
        }
        prop_assert!(world.cluster.tasks.is_empty());
    }
}
