//! Whatever users, nodes and cables do: nothing is given out twice, every tick comes to rest, and what is left runs.
//!
//! [`World`] checks the allocator after every commit and repeats every tick, so the properties here only need to move it.

use proptest::prelude::*;

use super::command;
use super::view::{self, Convergence};
use super::world::{World, network_spec, port, spec};
use crate::model::*;

#[derive(Clone, Debug)]
enum Step {
    Create { name: u8, replicas: u32, global: bool, networks: u8, publish: bool },
    Scale { name: u8, replicas: u32 },
    Update { name: u8, value: u8, start_first: bool, parallelism: u32 },
    Rollback { name: u8 },
    Remove { name: u8 },
    AddNetwork { name: u8, small: bool },
    RemoveNetwork { name: u8 },
    Availability { node: u32, availability: Availability },
    Cut { node: u32 },
    Mend { node: u32 },
    End { nth: usize, failed: bool },
    Pass { ms: u64 },
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
        2 => (0u8..2, any::<bool>()).prop_map(|(name, small)| Step::AddNetwork { name, small }),
        1 => (0u8..2).prop_map(|name| Step::RemoveNetwork { name }),
        1 => (node.clone(), availability).prop_map(|(node, availability)| Step::Availability { node, availability }),
        1 => node.clone().prop_map(|node| Step::Cut { node }),
        1 => node.prop_map(|node| Step::Mend { node }),
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
        Step::AddNetwork { name, small } => {
            let subnet = format!("172.16.{name}.0/29");
            let spec = network_spec(&format!("net{name}"), small.then_some(subnet.as_str()));
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
        Step::Pass { ms } => world.pass(ms),
        Step::Settle => world.settle(),
    }
    world.tick();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_comes_to_rest_as_wanted(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::of_nodes(3);
        for step in steps {
            play(&mut world, step);
        }
        // Peace: every node is well, and time enough for restarts, delays and trials.
        for node in 2..4 {
            world.mend(node);
            let update = command::NodeUpdate { availability: Some(Availability::Active), ..Default::default() };
            world.command(|cluster, _| command::update_node(cluster, &format!("n{node}"), &update)).expect("update");
        }
        world.live(90);
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
        let services: Vec<String> = world.cluster.services.values().map(|service| service.spec.name.clone()).collect();
        for name in services {
            world.command(|cluster, _| command::remove_service(cluster, &name)).expect("remove");
        }
        world.settle();
        prop_assert!(world.cluster.tasks.is_empty());
    }
}
