//! What the benchmark measures is what it says: every walk's packets get the verdict they should, every bare program does its work.
//!
//! Nothing is timed here: a benchmark of drops would be a lie, and that can be seen without a clock.

use mesh_common::wire::mac;
use mesh_packet::{any, eth};
use mesh_tests::bench::Wish;
use mesh_tests::bench::micro::{Bench, Effort, Floor, LIVE_FLOWS, floors, live_rows};
use mesh_tests::rig::{HERE, PEER_2, ROUTER_MAC, built};

const FLOWS: u32 = 16;
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// What `know` writes into a bare program's entries.
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn bench() -> Option<Bench> {
    bench_for(FLOWS)
}

fn bench_for(flows: u32) -> Option<Bench> {
    if let Some(reason) = mesh_lab::cannot_run() {
        mesh_lab::skip("the benchmark's packet programs", reason);
        return None;
    }
    if built("mesh-bench-ebpf").is_err() {
        mesh_lab::skip("the benchmark's packet programs", "they are not built: run `cargo xtask build-ebpf`");
        return None;
    }
    Some(Bench::new(flows, 4_096, Effort { repeats: 64, pairs: 11 }).expect("the benchmark's programs load"))
}

#[test]
fn every_walk_gets_its_verdict_for_every_flow() {
    let Some(mut bench) = bench() else { return };
    for walk in bench.walks() {
        let name = walk.row_name(walk.sort, FLOWS);
        let verdicts = bench.verdicts(&walk, FLOWS).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        for (ours, bare) in verdicts.unwrap_or_default() {
            assert!(walk.stream.verdicts.contains(&ours), "{name}: {ours}, not {:?}", walk.stream.verdicts);
            assert!([0, 3, 7].contains(&bare), "{name}: {} said {bare}", walk.bare);
        }
    }
}

#[test]
fn every_row_can_be_measured_and_says_what_it_is() {
    let Some(mut bench) = bench() else { return };
    let mut names = std::collections::BTreeSet::new();
    for walk in bench.walks() {
        let mut rows = vec![bench.established(&walk, FLOWS).unwrap_or_else(|error| panic!("{error:#}"))];
        if walk.is_opened_by_its_own() {
            rows.push(bench.new_flows(&walk, FLOWS).unwrap_or_else(|error| panic!("{error:#}")));
            rows.push(bench.new_flows_in_flood(&walk, FLOWS).unwrap_or_else(|error| panic!("{error:#}")));
        }
        for row in rows {
            assert_ne!(row.value.is_some(), row.note.is_some(), "{}: a number, or why there is none", row.name);
            assert!(names.insert(row.name.clone()), "{} is there twice", row.name);
        }
    }
}

fn floor(name: &str) -> Floor {
    floors().into_iter().find(|floor| floor.program == name).expect("a bare program of this name")
}

#[test]
fn a_bare_forward_makes_a_right_tunnel_packet() {
    let Some(mut bench) = bench() else { return };
    for (name, neighbour) in
        [("xdp_lru_vxlan", NEIGHBOUR), ("xdp_forward", NEIGHBOUR), ("xdp_ring_vxlan", mac::of(mac::KIND_ENDPOINT, 1))]
    {
        let (tuple, ran) = bench.made_of(&floor(name)).expect(name);
        assert_eq!(ran.code, 3, "{name}");
        let outer = eth(OUR_MAC, ROUTER_MAC).ipv4(HERE, PEER_2).ttl(64).dont_fragment().udp(any(), 4_789).no_checksum();
        let inner = outer.vxlan(4_097).eth(mac::GATEWAY, neighbour).ipv4(tuple.src, tuple.dst);
        inner.tcp(tuple.sport, tuple.dport).seq(1).ack(1).payload_of(10).assert_matches(&ran.frame);
    }
}

#[test]
fn a_bare_rewrite_leaves_right_checksums() {
    let Some(mut bench) = bench() else { return };
    for name in ["tc_dnat", "tc_dnat_tunnel"] {
        let (tuple, ran) = bench.made_of(&floor(name)).expect(name);
        assert_eq!(ran.code, 7, "{name}");
        let wanted = eth(mac::GATEWAY, NEIGHBOUR).ipv4(tuple.src, PEER_2).tcp(tuple.sport, tuple.dport);
        wanted.seq(1).ack(1).payload_of(10).assert_matches(&ran.frame);
    }
}

#[test]
fn a_wrapper_restores_what_a_program_did() {
    let Some(mut bench) = bench() else { return };
    // Two swaps undo each other, unless the second run saw the frame as it was.
    let (tuple, ran) = bench.made_of(&floor("xdp_swap")).expect("xdp_swap");
    let swapped = eth(OUR_MAC, ROUTER_MAC).ipv4(tuple.src, tuple.dst).tcp(tuple.sport, tuple.dport);
    swapped.seq(1).ack(1).payload_of(10).assert_matches(&ran.frame);
}

#[test]
fn every_way_brings_all_live_frames_to_the_end() {
    let Some(mut bench) = bench_for(LIVE_FLOWS) else { return };
    // Each reading counts what reached the end, and fails where that is not what was sent.
    let rows = live_rows(&mut bench, &Wish::default()).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(rows.len(), 3);
    for (row, against) in rows.iter().zip(["tc_dnat,", "tc_dnat_peer,", "iptables DNAT,"]) {
        assert!(row.name.contains(&format!("beside {against}")), "{}", row.name);
        assert_ne!(row.value.is_some(), row.note.is_some(), "{}: a number, or why there is none", row.name);
    }
}
