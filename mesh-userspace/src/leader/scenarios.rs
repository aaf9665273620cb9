//! Stories of services in a simulated cluster: the leader ticks, the nodes act, and what runs where is compared as text.

use super::command::{self, CommandError, NodeUpdate};
use super::view::{self, Convergence};
use super::world::{World, node_id, port, spec};
use crate::model::*;

fn web(replicas: u32) -> ServiceSpec {
    ServiceSpec { mode: Mode::Replicated { replicas }, ..spec("web") }
}

fn convergence(world: &World, name: &str) -> Convergence {
    let service = world.cluster.service_named(name).expect("the service");
    view::convergence(&world.cluster, &world.observed, service, world.now)
}

fn available(world: &mut World, node: &str, availability: Availability) {
    let update = NodeUpdate { availability: Some(availability), ..NodeUpdate::default() };
    world.command(|cluster, _| command::update_node(cluster, node, &update)).expect("update node");
}

#[test]
fn tasks_spread_and_the_vip_stays() {
    let mut world = World::of_nodes(3);
    let vip = world.create(ServiceSpec { ports: vec![port(8000, 80)], ..web(1) }).vips;
    assert!(matches!(convergence(&world, "web"), Convergence::Progressing(_)));
    world.settle();
    assert_eq!(world.running(), ["web.1 n1 Running"]);
    assert_eq!(convergence(&world, "web"), Convergence::Converged);
    world.scale("web", 5);
    world.settle();
    let five = ["web.1 n1 Running", "web.2 n2 Running", "web.3 n3 Running", "web.4 n1 Running", "web.5 n2 Running"];
    assert_eq!(world.running(), five);
    world.scale("web", 2);
    world.settle();
    assert_eq!(world.running(), ["web.1 n1 Running", "web.2 n2 Running"], "the highest slots go");
    assert_eq!(world.cluster.tasks.len(), 2, "scaled-down tasks leave no history");
    world.scale("web", 0);
    world.settle();
    assert!(world.cluster.tasks.is_empty());
    assert_eq!(world.cluster.service_named("web").expect("there").vips, vip);
}

#[test]
fn a_task_told_to_end_drains_first_and_keeps_its_address_until_it_ended() {
    let mut world = World::of_nodes(1);
    world.create(web(1));
    world.settle();
    let before = world.task("web", 1);
    world.scale("web", 0);
    world.tick();
    let ending = &world.cluster.tasks[&before.id];
    assert!(ending.draining && ending.desired == TaskState::Shutdown);
    assert_eq!(ending.attachments, before.attachments);
}

#[test]
fn a_failed_task_is_replaced_after_the_delay() {
    let mut world = World::of_nodes(2);
    world.create(web(1));
    world.settle();
    let first = world.task("web", 1);
    world.end(&first.id, TaskState::Failed);
    world.settle();
    assert!(world.running().is_empty(), "the delay is 5 s");
    assert_eq!(world.cluster.tasks[&first.id].message, "exit 1");
    world.pass(4_999);
    world.settle();
    assert!(world.running().is_empty());
    world.pass(1);
    world.settle();
    assert_eq!(world.running(), ["web.1 n1 Running"]);
    assert_ne!(world.task("web", 1).id, first.id);
}

#[test]
fn a_crash_loop_keeps_five_of_history_and_moves_away_from_its_node() {
    let mut world = World::of_nodes(2);
    let mut looping = web(1);
    looping.task.command = vec!["false".into()];
    world.create(looping);
    world.live(60);
    assert!(world.cluster.tasks.len() <= 6, "{}", world.cluster.tasks.len());
    assert!(
        world.cluster.tasks.values().any(|task| task.node_id == Some(node_id(2))),
        "five failures make n1 the last choice"
    );
    assert!(world.cluster.tasks.values().all(|task| task.attachments.is_empty() || task.desired == TaskState::Running));
}

#[test]
fn attempts_used_up_leave_the_service_stuck_with_words() {
    let mut world = World::of_nodes(1);
    let mut failing = web(1);
    failing.task.command = vec!["false".into()];
    failing.task.restart =
        RestartPolicy { condition: RestartCondition::OnFailure, max_attempts: 2, ..Default::default() };
    world.create(failing.clone());
    world.live(60);
    assert_eq!(world.cluster.tasks.len(), 3, "the first and two more attempts");
    let Convergence::Stuck(why) = convergence(&world, "web") else { panic!("stuck") };
    assert!(why.contains("exit 1"), "{why}");
    // A new spec gets its chance at once.
    failing.task.command = vec!["sleep".into()];
    world.update(failing);
    world.live(10);
    assert_eq!(world.running(), ["web.1 n1 Running"]);
}

#[test]
fn a_finished_task_of_condition_none_rests() {
    let mut world = World::of_nodes(1);
    let mut once = web(1);
    once.task.command = vec!["true".into()];
    once.task.restart.condition = RestartCondition::None;
    world.create(once);
    world.live(30);
    assert_eq!(world.cluster.tasks.len(), 1);
}

#[test]
fn tasks_of_a_lost_node_run_elsewhere_and_end_when_it_returns() {
    let mut world = World::of_nodes(3);
    world.create(web(3));
    world.settle();
    let lost = world.task("web", 2);
    world.cut(2);
    world.live(4);
    assert_eq!(world.running()[1], "web.2 n2 Running", "within the grace time nothing moves");
    world.live(2);
    assert_eq!(world.running(), ["web.1 n1 Running", "web.2 n1 Running", "web.3 n3 Running"]);
    let orphan = &world.cluster.tasks[&lost.id];
    assert_eq!(orphan.leader_state, Some(TaskState::Orphaned));
    assert_eq!(orphan.attachments, lost.attachments, "it may still run: its address is kept");
    world.live(30);
    world.mend(2);
    world.settle();
    let orphan = &world.cluster.tasks[&lost.id];
    assert_eq!(world.observed.tasks[&lost.id].state, TaskState::Shutdown);
    assert!(orphan.attachments.is_empty());
    assert_eq!(world.running().len(), 3, "nobody moves back");
    world.scale("web", 4);
    world.settle();
    assert_eq!(world.task("web", 4).node_id, Some(node_id(2)), "the node takes part again");
}

#[test]
fn a_gone_agent_keeps_its_tasks_and_gets_no_new_ones() {
    let mut world = World::of_nodes(2);
    world.create(web(2));
    world.settle();
    world.kill_agent(2);
    world.live(60);
    assert_eq!(world.running(), ["web.1 n1 Running", "web.2 n2 Running"]);
    world.scale("web", 4);
    world.settle();
    assert!(world.running().iter().filter(|line| line.contains("n1")).count() == 3);
}

#[test]
fn a_leader_that_is_cut_off_moves_nothing() {
    let mut world = World::of_nodes(3);
    world.create(web(3));
    world.settle();
    let before = world.running();
    world.cut(2);
    world.cut(3);
    world.live(60);
    assert_eq!(world.running(), before);
    world.mend(2);
    world.mend(3);
    world.live(5);
    assert_eq!(world.running(), before);
}

#[test]
fn a_drained_node_is_emptied_and_a_paused_one_only_gets_nothing_new() {
    let mut world = World::of_nodes(2);
    world.create(web(2));
    world.settle();
    available(&mut world, "n2", Availability::Pause);
    world.scale("web", 3);
    world.settle();
    assert_eq!(world.running(), ["web.1 n1 Running", "web.2 n2 Running", "web.3 n1 Running"]);
    available(&mut world, "n2", Availability::Drain);
    world.settle();
    assert_eq!(world.running(), ["web.1 n1 Running", "web.2 n1 Running", "web.3 n1 Running"]);
    available(&mut world, "n1", Availability::Drain);
    world.settle();
    let why = &world.task("web", 1).message;
    assert_eq!(why, "no suitable node (2 drained: n1, n2)");
    assert!(matches!(convergence(&world, "web"), Convergence::Progressing(word) if word.contains("no suitable node")));
}

#[test]
fn a_global_service_runs_once_on_every_eligible_node() {
    let mut world = World::of_nodes(3);
    let mut global = ServiceSpec { mode: Mode::Global, ..spec("agent") };
    global.task.constraints = vec!["node.role == worker".into()];
    world.create(global);
    world.settle();
    assert_eq!(world.running(), ["agent.0 n2 Running", "agent.0 n3 Running"]);
    world.cut(3);
    world.live(10);
    assert_eq!(world.running(), ["agent.0 n2 Running"]);
    world.mend(3);
    world.live(1);
    assert_eq!(world.running(), ["agent.0 n2 Running", "agent.0 n3 Running"]);
    available(&mut world, "n2", Availability::Drain);
    world.settle();
    assert_eq!(world.running(), ["agent.0 n3 Running"]);
}

#[test]
fn placement_limits_hold_and_say_so() {
    let mut world = World::of_nodes(2);
    let mut limited = web(3);
    limited.task.max_replicas_per_node = 1;
    world.create(limited);
    world.settle();
    let waiting = world.task("web", 3);
    assert_eq!(waiting.message, "no suitable node (2 with the most replicas a node may have: n1, n2)");
    let host = PortSpec { mode: PublishMode::Host, ..port(53, 53) };
    let hosted =
        |name: &str| ServiceSpec { ports: vec![host.clone()], mode: Mode::Replicated { replicas: 2 }, ..spec(name) };
    world.create(hosted("dns"));
    world.settle();
    world.create(hosted("other"));
    world.settle();
    assert_eq!(world.task("other", 1).message, "no suitable node (2 where the host port is in use: n1, n2)");
    world.command(|cluster, _| command::remove_service(cluster, "dns")).expect("remove");
    world.settle();
    assert_eq!(world.task("other", 1).leader_state, None);
}

#[test]
fn a_rolling_update_replaces_one_after_the_other() {
    let mut world = World::of_nodes(3);
    world.create(web(3));
    world.settle();
    let old: Vec<Id> = (1..=3).map(|slot| world.task("web", slot).id).collect();
    let mut newer = web(3);
    newer.task.env = vec!["VERSION=2".into()];
    newer.update.delay_ms = 2_000;
    world.update(newer);
    world.tick();
    let ending = world.cluster.tasks.values().filter(|task| task.desired == TaskState::Shutdown).count();
    assert_eq!(ending, 1, "one at a time, and its successor waits for it");
    assert_eq!(world.cluster.tasks.len(), 3);
    world.settle();
    let new = |world: &World| (1..=3).filter(|slot| !old.contains(&world.task("web", *slot).id)).count();
    assert_eq!(new(&world), 1, "the delay holds the next one back");
    world.live(2);
    assert_eq!(new(&world), 2);
    world.live(2);
    assert_eq!(new(&world), 3);
    world.live(6);
    let service = world.cluster.service_named("web").expect("there");
    assert_eq!(world.cluster.updates[&service.id].state, UpdateState::Completed);
    assert_eq!(convergence(&world, "web"), Convergence::Converged);
}

#[test]
fn nodes_whose_clocks_differ_are_on_trial_as_long_as_others() {
    for behind_ms in [3_600_000, -3_600_000] {
        let mut world = World::of_nodes(2);
        let service = world.create(web(2));
        world.settle();
        world.pass(7_200_000);
        world.clocks_are(behind_ms);
        let mut newer = web(2);
        newer.task.env = vec!["VERSION=2".into()];
        newer.update = UpdateConfig { parallelism: 2, monitor_ms: 5_000, ..newer.update };
        world.update(newer.clone());
        world.live(3);
        assert_eq!(world.cluster.updates[&service.id].state, UpdateState::Updating, "the trial lasts 5 s");
        assert_eq!(world.cluster.updates[&service.id].ready_since.len(), 2);
        world.live(4);
        assert_eq!(world.cluster.updates[&service.id].state, UpdateState::Completed);
        assert!(world.cluster.updates[&service.id].ready_since.is_empty());

        newer.task.env = vec!["VERSION=3".into()];
        newer.update = UpdateConfig { parallelism: 1, delay_ms: 4_000, ..newer.update };
        world.update(newer);
        let second = world.task("web", 2).id;
        let first = world.task("web", 1).id;
        let replaced = |world: &World| {
            usize::from(world.task("web", 1).id != first) + usize::from(world.task("web", 2).id != second)
        };
        world.live(2);
        assert_eq!(replaced(&world), 1, "the delay is not over");
        world.live(4);
        assert_eq!(replaced(&world), 2);
        let new = world.task("web", 1).id;
        world.end(&new, TaskState::Failed);
        world.settle();
        assert_eq!(world.cluster.updates[&service.id].state, UpdateState::Paused, "it failed within its trial");
    }
}

#[test]
fn a_task_that_finds_no_node_does_not_hold_up_an_update() {
    let mut world = World::of_nodes(1);
    let mut limited = web(2);
    limited.task.max_replicas_per_node = 1;
    world.create(limited.clone());
    world.settle();
    let old = world.task("web", 1).id;
    world.pass(1_000);
    limited.task.env = vec!["VERSION=2".into()];
    world.update(limited);
    world.live(3);
    assert_ne!(world.task("web", 1).id, old);
}

#[test]
fn start_first_keeps_the_old_task_until_the_new_one_is_ready() {
    let mut world = World::of_nodes(2);
    world.create(web(1));
    world.settle();
    let old = world.task("web", 1).id;
    let mut newer = web(1);
    newer.task.env = vec!["VERSION=2".into()];
    newer.update.order = UpdateOrder::StartFirst;
    world.update(newer);
    world.tick();
    assert_eq!(world.cluster.tasks[&old].desired, TaskState::Running);
    assert_eq!(world.cluster.tasks.len(), 2);
    world.settle();
    assert_eq!(world.cluster.tasks[&old].desired, TaskState::Shutdown);
    assert_eq!(world.running().len(), 1);
}

#[test]
fn an_update_that_fails_pauses_or_rolls_back() {
    for (action, state) in [
        (UpdateFailureAction::Pause, UpdateState::Paused),
        (UpdateFailureAction::Rollback, UpdateState::RollbackCompleted),
    ] {
        let mut world = World::of_nodes(2);
        let service = world.create(web(3));
        world.settle();
        let mut broken = web(3);
        broken.task.command = vec!["false".into()];
        broken.update.failure_action = action;
        world.update(broken);
        world.live(30);
        assert_eq!(world.cluster.updates[&service.id].state, state, "{:?}", world.cluster.updates);
        let running = world.running().iter().filter(|line| line.ends_with("Running")).count();
        assert_eq!(running, if action == UpdateFailureAction::Pause { 2 } else { 3 });
        let stuck = matches!(convergence(&world, "web"), Convergence::Stuck(_));
        assert_eq!(stuck, action == UpdateFailureAction::Pause);
    }
}

#[test]
fn what_concerns_the_leader_only_replaces_no_task() {
    let mut world = World::of_nodes(2);
    world.create(web(2));
    world.settle();
    let before = (world.task("web", 1).id, world.task("web", 2).id);
    let mut changed = ServiceSpec { ports: vec![port(0, 80)], ..web(2) };
    changed.task.restart.delay_ms = 1;
    changed.labels.insert("a".into(), "b".into());
    let service = world.update(changed);
    world.live(10);
    assert_eq!((world.task("web", 1).id, world.task("web", 2).id), before);
    assert_eq!(world.task("web", 1).service_version, service.version);
    assert!(world.cluster.updates.is_empty());
}

#[test]
fn a_removed_service_and_a_removed_node_leave_nothing() {
    let mut world = World::of_nodes(3);
    world.create(web(3));
    world.settle();
    world.cut(3);
    world.live(10);
    let remove =
        |cluster: &Cluster, ctx: &mut super::Ctx| command::remove_node(cluster, &Observed::default(), "n3", true, ctx);
    world.command(remove).expect("by force");
    world.settle();
    assert!(world.cluster.tasks.values().all(|task| task.node_id != Some(node_id(3)) || task.attachments.is_empty()));
    world.command(|cluster, _| command::remove_service(cluster, "web")).expect("remove");
    assert!(world.cluster.tasks.values().all(|task| task.desired == TaskState::Remove));
    world.settle();
    assert!(world.cluster.tasks.is_empty());
}

#[test]
fn a_removed_network_is_there_for_its_ending_tasks_and_for_nobody_else() {
    let mut world = World::of_nodes(2);
    let demo = world.network("demo", None);
    let mut spec = web(2);
    spec.networks.push(NetworkAttachment { network: demo.id.to_string(), aliases: Vec::new() });
    world.create(spec);
    world.settle();
    world.command(|cluster, _| command::remove_service(cluster, "web")).expect("remove the service");
    world.command(|cluster, _| command::remove_network(cluster, "demo")).expect("remove the network");

    assert!(world.cluster.networks[&demo.id].removing, "its tasks still run");
    let holds = |world: &World| {
        world.cluster.tasks.values().filter(|task| task.attachments.iter().any(|at| at.network_id == demo.id)).count()
    };
    assert_eq!(holds(&world), 2, "they keep their addresses");
    assert!(world.command(|cluster, _| command::remove_network(cluster, "demo")).is_err(), "it has no name any more");
    let again = world.network("demo", None);
    assert!(again.subnets != demo.subnets && again.vni != demo.vni, "what is in use is not given out");

    world.settle();
    assert!(!world.cluster.networks.contains_key(&demo.id), "the last task has ended");
    assert_eq!(world.cluster.network_named("demo").map(|network| &network.id), Some(&again.id));
}

#[test]
fn exhaustion_is_said_and_heals() {
    let mut world = World::of_nodes(1);
    let network = world.network("small", Some("172.16.0.0/29"));
    let on_small = |name: &str, replicas| ServiceSpec {
        networks: vec![NetworkAttachment { network: network.spec.name.clone(), aliases: Vec::new() }],
        mode: Mode::Replicated { replicas },
        ..spec(name)
    };
    world.create(on_small("web", 5));
    world.settle();
    let why = "network 'small' has no address left (5 of the 5 of 172.16.0.0/29 are in use): remove services or make a larger network";
    assert_eq!(world.task("web", 5).message, why, "a gateway, a VIP, four tasks");
    let second = world.create(on_small("more", 1));
    assert_eq!(second.pending_reason.as_deref(), Some(why));
    world.settle();
    assert_eq!(world.task("more", 1).message, why);
    assert_eq!(convergence(&world, "more"), Convergence::Stuck(why.to_string()));
    world.scale("web", 1);
    world.settle();
    assert_eq!(world.running(), ["more.1 n1 Running", "web.1 n1 Running"]);
}

#[test]
fn tasks_are_found_by_slot_id_and_prefix() {
    let mut world = World::of_nodes(2);
    world.create(web(2));
    world.create(ServiceSpec { mode: Mode::Global, ..spec("agent") });
    world.settle();
    let task = world.task("web", 2);
    for reference in ["web.2", task.id.as_str(), task.id.short(), &format!("web.2.{}", task.id)] {
        assert_eq!(command::task(&world.cluster, reference).expect(reference).id, task.id);
    }
    assert_eq!(command::task(&world.cluster, "agent.n2").expect("by node").node_id, Some(node_id(2)));
    assert!(matches!(command::task(&world.cluster, "web.3"), Err(CommandError::NotFound { .. })));
}
