//! Stories of a mixed cluster: some nodes have a Docker Engine, some have none, and Engines come and go.

use super::command::{self, CommandError};
use super::view::{self, Convergence};
use super::world::{World, node_id, spec};
use crate::model::*;

/// `nginx`, a container.
fn container(name: &str, mode: Mode) -> ServiceSpec {
    let mut spec = ServiceSpec { mode, ..spec(name) };
    spec.task = TaskSpec { runtime: Runtime::Docker, image: "nginx".into(), command: Vec::new(), ..spec.task };
    // What the simulated nodes tell apart.
    spec.task.command = vec!["nginx".into()];
    spec
}

/// The node's agent reports whether an Engine answers.
fn engine(world: &mut World, number: u32, answers: bool) {
    let runtimes = if answers { vec![Runtime::Exec, Runtime::Docker] } else { vec![Runtime::Exec] };
    says(world, number, Some(runtimes));
}

/// The node's agent reports what answers; None as an agent too old to say.
fn says(world: &mut World, number: u32, runtimes: Option<Vec<Runtime>>) {
    let answers = runtimes.iter().flatten().any(|runtime| *runtime == Runtime::Docker);
    let status = NodeStatus {
        generation: 1,
        agent_version: String::new(),
        applied_revision: 0,
        layout_version: 1,
        ports_not_taken: Vec::new(),
        runtimes,
        engine_version: answers.then(|| "29.0.0".to_string()),
        without: Default::default(),
        interfaces: Default::default(),
        warnings: Vec::new(),
    };
    world.observed.nodes.insert(node_id(number), status);
    world.settle();
}

fn replicas(world: &World, name: &str) -> String {
    let service = world.cluster.service_named(name).expect("the service");
    view::replicas(&world.cluster, &world.observed, service).to_string()
}

#[test]
fn containers_go_where_an_engine_answers_and_commands_anywhere() {
    let mut world = World::of_nodes(3);
    let refused = world.command(|cluster, ctx| {
        command::create_service(cluster, container("web", Mode::Replicated { replicas: 1 }), ctx)
    });
    assert!(matches!(refused, Err(CommandError::NoDocker { .. })), "nobody has an Engine: {refused:?}");
    engine(&mut world, 2, true);
    world.create(container("web", Mode::Replicated { replicas: 2 }));
    world.create(ServiceSpec { mode: Mode::Replicated { replicas: 3 }, ..spec("job") });
    world.settle();
    let running = world.running();
    assert_eq!(running.iter().filter(|line| line.starts_with("web") && line.ends_with("n2 Running")).count(), 2);
    assert_eq!(running.iter().filter(|line| line.starts_with("job")).count(), 3);
}

#[test]
fn without_an_engine_a_container_waits_with_words_and_starts_when_one_comes() {
    let mut world = World::of_nodes(3);
    engine(&mut world, 3, true);
    let drain = command::NodeUpdate { availability: Some(Availability::Drain), ..Default::default() };
    world.command(|cluster, _| command::update_node(cluster, "n3", &drain)).expect("drained");
    world.create(container("web", Mode::Replicated { replicas: 1 }));
    world.settle();
    let why = "no suitable node (2 nodes lack the docker runtime: n1, n2; 1 drained: n3)";
    assert_eq!(world.task("web", 1).message, why);
    engine(&mut world, 1, true);
    assert_eq!(world.running(), ["web.1 n1 Running"]);
}

#[test]
fn an_engine_that_goes_away_keeps_its_tasks_and_gets_no_new_ones() {
    let mut world = World::of_nodes(2);
    engine(&mut world, 1, true);
    engine(&mut world, 2, true);
    world.create(container("web", Mode::Replicated { replicas: 2 }));
    world.create(container("everywhere", Mode::Global));
    world.settle();
    let before = world.running();
    assert_eq!(before.len(), 4);
    engine(&mut world, 2, false);
    assert_eq!(world.running(), before, "what runs lives on");
    world.scale("web", 4);
    world.settle();
    assert_eq!(world.running().iter().filter(|line| line.contains("n2 Running")).count(), 2);
    // An update replaces what it can reach, and is not held up by the rest.
    let mut changed = container("everywhere", Mode::Global);
    changed.task.env = vec!["A=1".into()];
    world.update(changed);
    world.live(20);
    let service = world.cluster.service_named("everywhere").expect("the service").clone();
    assert_eq!(world.cluster.updates[&service.id].state, UpdateState::Completed);
    assert_eq!(replicas(&world, "everywhere"), "2/2");
}

#[test]
fn a_node_for_containers_alone_gets_none_while_its_engine_is_away() {
    let mut world = World::of_nodes(2);
    let containers_alone = [Runtime::Docker];
    says(&mut world, 2, Some(containers_alone.to_vec()));
    world.create(container("web", Mode::Replicated { replicas: 1 }));
    world.settle();
    assert_eq!(world.running(), ["web.1 n2 Running"]);
    says(&mut world, 2, Some(Vec::new()));
    world.scale("web", 2);
    world.settle();
    assert_eq!(world.running(), ["web.1 n2 Running", "web.2 - Pending"], "nothing is placed where nothing answers");
    let why = "no suitable node (2 nodes lack the docker runtime: n1, n2)";
    assert_eq!(world.task("web", 2).message, why);
    says(&mut world, 2, None);
    assert_eq!(world.cluster.nodes[&node_id(2)].runtimes, [], "who does not say leaves the record as it is");
    says(&mut world, 2, Some(containers_alone.to_vec()));
    assert_eq!(world.running(), ["web.1 n2 Running", "web.2 n2 Running"]);
}

#[test]
fn a_global_container_is_asked_for_where_an_engine_answers_only() {
    let mut world = World::of_nodes(3);
    engine(&mut world, 2, true);
    world.create(container("agent", Mode::Global));
    world.settle();
    assert_eq!((world.running().len(), replicas(&world, "agent").as_str()), (1, "1/1"));
    let service = world.cluster.service_named("agent").expect("the service");
    assert_eq!(view::convergence(&world.cluster, &world.observed, service, world.now), Convergence::Converged);
    engine(&mut world, 3, true);
    assert_eq!((world.running().len(), replicas(&world, "agent").as_str()), (2, "2/2"));
    // Its task ends with its Engine: none is asked for until that is back.
    let task = world.cluster.tasks.values().find(|task| task.node_id == Some(node_id(3))).expect("a task").id.clone();
    engine(&mut world, 3, false);
    world.end(&task, TaskState::Failed);
    world.live(10);
    assert_eq!((world.running().len(), replicas(&world, "agent").as_str()), (1, "1/1"));
    engine(&mut world, 3, true);
    world.live(10);
    assert_eq!((world.running().len(), replicas(&world, "agent").as_str()), (2, "2/2"));
}

#[test]
fn what_nobody_reported_yet_is_as_it_was_at_join() {
    let mut world = World::of_nodes(2);
    let node = world.cluster.nodes.get_mut(&node_id(2)).expect("n2");
    node.runtimes = vec![Runtime::Exec, Runtime::Docker];
    world.create(container("web", Mode::Replicated { replicas: 1 }));
    world.settle();
    assert_eq!(world.running(), ["web.1 n2 Running"]);
}
