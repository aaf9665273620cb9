//! The player of situations, watched itself: it must find what is wrong, or its silence means nothing.

use mesh_common::schema::{Backend, Frontend, RingSlot, backend_state};
use mesh_tests::script::{Ids, Maps, play};
use mesh_userspace::plan::maps::{Image, MapOp, Placed, Pool, Tables, diff, place, vip_key};

#[test]
fn what_a_command_says_is_written_below_it() {
    let file = "# Two nodes.\nnodes 2\nps\n\nmaps n1 peers\n---\nwrong\n";
    let (played, kept) = play(file, Ids::Counted);
    let right = "# Two nodes.\nnodes 2\nps\n---\n(no tasks)\n\nmaps n1 peers\n---\npeer 2 192.0.2.2 mtu 1500\n";
    assert_eq!((played.as_str(), kept), (right, Ok(())));
    assert_eq!(play(right, Ids::Counted).0, right);
}

#[test]
fn what_is_left_in_the_end_and_words_unknown_are_errors() {
    let manifest = "services:\n  web:\n    command: [web]\n    x-mesh: {runtime: exec}\n";
    let file = format!("nodes 1\nstack deploy demo <<EOF\n{manifest}EOF\nsettle\nmaps n1\n");
    let error = play(&file, Ids::Counted).1.expect_err("a task is left");
    assert!(error.contains("task demo_web.1 is left"), "{error}");
    assert_eq!(play("dance\n", Ids::Counted).1.expect_err("not a word"), "1: no such command");
    assert!(play("nodes 1\nps\n", Ids::Counted).1.is_err(), "no `maps` in the end");
}

/// One service with these ready backends, and nothing else.
fn tables(backends: &[u32]) -> Tables {
    let key = vip_key([10, 0, 16, 2].into());
    let frontend = Frontend {
        pool: 1,
        vni: 4097,
        turns_at: 0,
        turns_len: 0,
        ring_at: 0,
        ring_len: 0,
        vip: key.addr,
        target_port: 0,
        algorithm: 0,
        flags: 0,
        affinity_s: 0,
        generation: 0,
        allow: 0,
    };
    let backends = backends.iter().map(|backend| RingSlot { backend: *backend, node: 1 }).collect();
    let pool = Pool { backends, ..Pool::default() };
    let image = Image { frontends: [(key, frontend)].into(), pools: [(1, pool)].into(), ..Default::default() };
    place(image, &mut Placed::default()).0
}

#[test]
fn a_frontend_that_leads_nowhere_is_found_at_its_operation() {
    let wanted = tables(&[7]);
    let error = Maps::default().apply(&diff(&Tables::default(), &wanted), &wanted).expect_err("no backend 7");
    assert!(error.contains("after `put frontend 10.0.16.2") && error.contains("backend: 7"), "{error}");
}

#[test]
fn operations_in_the_wrong_order_or_left_out_are_found() {
    let mut wanted = tables(&[7]);
    let backend = Backend {
        addr6: [0; 16],
        addr4: [10, 0, 16, 3],
        vni: 4097,
        pool: 1,
        node: 1,
        ifindex: 0,
        mac: [0; 6],
        state: backend_state::READY,
        pad: 0,
    };
    wanted.backends.insert(7, backend);
    let ops = diff(&Tables::default(), &wanted);
    Maps::default().apply(&ops, &wanted).expect("the right order");
    let turned: Vec<MapOp> = ops.iter().rev().cloned().collect();
    let error = Maps::default().apply(&turned, &wanted).expect_err("the frontend before its list");
    assert!(error.contains("neither its old nor its new lists"), "{error}");
    let error = Maps::default().apply(&ops[..1], &wanted).expect_err("not all");
    assert!(error.contains("instead of"), "{error}");
}
