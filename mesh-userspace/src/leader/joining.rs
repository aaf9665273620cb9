//! Containers of others in the cluster, told as stories: they come, go, and are never taken for the cluster's own.

use super::command::{self, NodeUpdate, adopt_containers};
use super::view::replicas;
use super::world::*;
use crate::model::*;

fn container(number: u8, service: &str) -> LabelledContainer {
    LabelledContainer {
        container: format!("{number:02x}").repeat(32),
        name: format!("blog-{number}"),
        image: "nginx:1.27".into(),
        service: service.into(),
        networks: vec!["demo".into()],
        aliases: vec!["www".into()],
        ports: vec![port(8080, 80)],
    }
}

/// Two nodes and an attachable network; the nodes do what the leader wants.
fn world() -> World {
    let mut world = World::of_nodes(2);
    let spec = NetworkSpec { attachable: true, ..network_spec("demo", None) };
    world.command(|cluster, ctx| command::create_network(cluster, spec, ctx)).expect("a network");
    world
}

/// The node tells its list; the refusals.
fn list(world: &mut World, node: u32, containers: &[LabelledContainer]) -> Vec<String> {
    let refused = world.command(|cluster, ctx| adopt_containers(cluster, &node_id(node), containers, ctx));
    let refused = refused.expect("a node of the cluster").into_iter().map(|refused| refused.why).collect();
    world.settle();
    refused
}

fn web(world: &World) -> Service {
    world.cluster.service_named("web").expect("the service").clone()
}

fn count(world: &World) -> String {
    replicas(&world.cluster, &world.observed, &web(world)).to_string()
}

#[test]
fn a_removed_service_lets_go_of_a_container_and_does_not_take_it_in_again() {
    let mut world = world();
    assert_eq!(list(&mut world, 2, &[container(7, "web")]), [""; 0]);
    world.command(|cluster, _| command::remove_service(cluster, "web")).expect("removed");
    world.settle();
    assert!(world.cluster.services.is_empty());
    assert!(world.cluster.tasks.values().all(|task| task.attachments.is_empty()), "its address is free");
    // It runs on, and its node lists it for ever.
    list(&mut world, 2, &[container(7, "web")]);
    world.live(60);
    list(&mut world, 2, &[container(7, "web")]);
    assert!(world.cluster.services.is_empty(), "it was sent away");
    // Stopped and started, it asks anew.
    list(&mut world, 2, &[]);
    assert!(world.cluster.tasks.is_empty());
    list(&mut world, 2, &[container(7, "web")]);
    assert_eq!(world.running(), ["web.1 n2 Running"]);
}

#[test]
fn the_first_makes_the_service_and_the_next_join_it() {
    let mut world = world();
    list(&mut world, 1, &[container(1, "web"), container(2, "web")]);
    list(&mut world, 2, &[container(3, "web")]);
    assert_eq!(world.running(), ["web.1 n1 Running", "web.2 n1 Running", "web.3 n2 Running"]);
    let service = web(&world);
    assert_eq!((service.spec.mode, service.vips.len(), service.ports.len()), (Mode::Adopted, 1, 1));
    assert_eq!(service.spec.networks[0].aliases, ["www"]);
    assert_eq!(count(&world), "3/3");
    let task = world.task("web", 3);
    assert_eq!((task.hostname(), task.spec.image.as_str()), ("blog-3", "nginx:1.27"));
    let before = world.cluster.clone();
    list(&mut world, 1, &[container(2, "web"), container(1, "web")]);
    world.live(30);
    assert_eq!(world.cluster, before, "the same list again, and time, change nothing");
}

#[test]
fn a_container_that_stops_leaves_and_the_service_keeps_its_address() {
    let mut world = world();
    list(&mut world, 2, &[container(7, "web")]);
    let (service, first) = (web(&world), world.task("web", 1));
    // Its node says so at once; the list comes after.
    world.end(&first.id, TaskState::Complete);
    world.settle();
    assert_eq!((count(&world).as_str(), world.running().len()), ("0/0", 0));
    list(&mut world, 2, &[]);
    world.live(30);
    assert_eq!(web(&world), service, "nothing restarts it, and the name stays");
    list(&mut world, 2, &[container(7, "web")]);
    assert_eq!(web(&world).vips, service.vips);
    assert_ne!(world.task("web", 1).id, first.id);
    // A node that only lists, without a report, is believed too.
    list(&mut world, 2, &[]);
    assert_eq!(count(&world), "0/0");
}

#[test]
fn nobody_replaces_moves_or_ends_it() {
    let mut world = world();
    list(&mut world, 2, &[container(7, "web")]);
    let task = world.task("web", 1);
    world.cut(2);
    world.live(60);
    assert_eq!(world.task("web", 1), task, "an unreachable node keeps its containers");
    world.mend(2);
    world.live(10);
    let drain = NodeUpdate { availability: Some(Availability::Drain), ..NodeUpdate::default() };
    world.command(|cluster, _| command::update_node(cluster, "n2", &drain)).expect("drained");
    world.live(10);
    assert_eq!(world.task("web", 1), task, "draining a node is not for containers of others");
    let observed = world.observed.clone();
    world.command(|cluster, ctx| command::remove_node(cluster, &observed, "n2", true, ctx)).expect("removed");
    world.settle();
    assert_eq!((world.running().len(), count(&world).as_str()), (0, "0/0"));
    assert!(world.cluster.tasks.values().all(|task| task.attachments.is_empty()));
}

#[test]
fn who_can_not_join_is_told_why_and_the_others_join() {
    let mut world = world();
    world.network("private", None);
    world.create(ServiceSpec { ports: vec![port(9000, 80)], ..spec("own") });
    let with = |number, change: &dyn Fn(&mut LabelledContainer)| {
        let mut container = container(number, "web");
        change(&mut container);
        container
    };
    let on = |name: &str| vec![name.to_string()];
    let refused = list(
        &mut world,
        1,
        &[
            with(1, &|it| it.networks = on("nowhere")),
            with(2, &|it| it.networks = on("private")),
            with(3, &|it| it.service = "own".into()),
            with(4, &|it| it.ports = vec![port(9000, 80)]),
            with(5, &|_| {}),
            with(6, &|it| it.ports = vec![port(8081, 80)]),
            with(7, &|it| it.aliases = Vec::new()),
            with(8, &|it| it.ports = vec![port(2377, 80)]),
        ],
    );
    let expected: [&[&str]; 7] = [
        &["no network 'nowhere'", "mesh network create --attachable nowhere"],
        &["network 'private' is not attachable", "--attachable"],
        &["'own' runs tasks of its own", "mesh.service"],
        &["9000/tcp", "service 'own' has"],
        &["other ports", "8080:80, not 8081:80"],
        &["other aliases", "www, not none"],
        &["2377/tcp", "mesh itself"],
    ];
    assert_eq!(refused.len(), expected.len(), "{refused:#?}");
    for (why, words) in refused.iter().zip(expected) {
        words.iter().for_each(|word| assert!(why.contains(word), "{word} in {why}"));
    }
    assert_eq!(count(&world), "1/1", "number 5 joined");
    assert_eq!(world.cluster.services.len(), 2, "who is refused leaves nothing");
}

#[test]
fn with_nobody_in_it_the_next_containers_labels_count() {
    let mut world = world();
    list(&mut world, 1, &[container(1, "web")]);
    let vips = web(&world).vips;
    list(&mut world, 1, &[]);
    let other = LabelledContainer { ports: vec![port(8081, 80)], ..container(2, "web") };
    assert_eq!(list(&mut world, 1, &[other]), [""; 0]);
    assert_eq!((web(&world).ports, web(&world).vips), (vec![port(8081, 80)], vips));
}

#[test]
fn commands_can_neither_scale_nor_update_nor_make_such_a_service() {
    let mut world = world();
    list(&mut world, 1, &[container(1, "web")]);
    let before = world.cluster.clone();
    let scaled = [("web".to_string(), 3)];
    let scale = world.command(|cluster, ctx| command::scale_services(cluster, &scaled, ctx)).expect_err("refused");
    let spec = web(&world).spec;
    let again = ServiceSpec { name: "more".into(), ..spec.clone() };
    let update = world.command(|cluster, ctx| command::update_service(cluster, "web", spec, None, ctx));
    let create = world.command(|cluster, ctx| command::create_service(cluster, again, ctx)).expect_err("refused");
    assert!(scale.to_string().contains("scaled") && scale.to_string().contains("docker run"), "{scale}");
    assert!(update.expect_err("refused").to_string().contains("updated"));
    assert!(create.to_string().contains("mesh.network"), "{create}");
    assert_eq!(world.cluster, before);
}
