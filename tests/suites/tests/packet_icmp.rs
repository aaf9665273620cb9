//! ICMP errors about flows, in all walks and both ways: who sent a packet is told of it as he sent it, byte by byte, and by whom he called.

use mesh_common::parse::protocol;
use mesh_common::schema::{Frontend, FrontendKey, algorithm, rewrite};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::errors::{
    CLIENT, ROUTER, TOO_BIG, UNREACHABLE, VIP, about, inward, outward, published, tcp, udp, untouched,
};
use mesh_tests::rig::kernel::CHECKSUM_COMPLETE;
use mesh_tests::rig::{HERE, MESH0_MAC, PEER_2, ROUTER_MAC, Rig, RunOptions, Task, spoken};

/// Further kinds of errors: type, code, MTU.
const EXCEEDED: (u8, u8, u16) = (11, 0, 0);
const PARAMETER: (u8, u8, u16) = (12, 0, 0);

/// What a packet carries behind its IP header.
type Over = fn(Frame, u16, u16) -> Frame;

fn syn(head: Frame, sport: u16, dport: u16) -> Frame {
    head.tcp(sport, dport).syn().mss(1_380)
}

fn bare_udp(head: Frame, sport: u16, dport: u16) -> Frame {
    udp(head, sport, dport).no_checksum()
}

/// What flows begin with, and the number of their protocol.
const CARRIED: [(Over, u8); 3] = [(syn, protocol::TCP), (udp, protocol::UDP), (bare_udp, protocol::UDP)];

/// Every kind, quoting eight bytes and all there are: with both the outcome is the same error about the packet as its sender knows it.
fn every(mut check: impl FnMut((u8, u8, u16), usize)) {
    for kind in [UNREACHABLE, TOO_BIG, EXCEEDED, PARAMETER] {
        for bytes in [8, 100] {
            check(kind, bytes);
        }
    }
}

#[test]
fn between_tasks_here_an_error_comes_from_the_vip_that_was_called() {
    for (over, _) in CARRIED {
        let Some(mut rig) = Rig::new() else { return };
        let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
        rig.service(VIP, &[&backend]);
        let (sent, met) = (over(client.to(VIP), 40000, 80), over(backend.gets("10.0.16.3"), 40000, 80));
        rig.from_task(&client, &sent).sent(&met);
        every(|kind, bytes| {
            let error = about(backend.to("10.0.16.3"), kind, &met, bytes);
            let told = about(client.gets(VIP), kind, &sent, bytes);
            untouched(&mut rig, |rig| rig.from_task(&backend, &error)).sent(&told);
        });
        // And the other way: the client can't take an answer.
        let (answer, met) = (over(backend.to("10.0.16.3"), 80, 40000), over(client.gets(VIP), 80, 40000));
        rig.from_task(&backend, &answer).sent(&met);
        every(|kind, bytes| {
            let error = about(client.to(VIP), kind, &met, bytes);
            let told = about(backend.gets("10.0.16.3"), kind, &answer, bytes);
            untouched(&mut rig, |rig| rig.from_task(&client, &error)).sent(&told);
        });
    }
}

#[test]
fn between_nodes_the_clients_node_translates() {
    for (over, _) in CARRIED {
        let Some(mut rig) = Rig::new() else { return };
        let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
        rig.service(VIP, &[&backend]);
        let (sent, met) = (over(client.to(VIP), 40000, 80), over(backend.gets("10.0.16.3"), 40000, 80));
        rig.from_task(&client, &sent).tunnelled(&met);
        every(|kind, bytes| {
            let error = about(eth(mac::GATEWAY, client.mac).ipv4(backend.addr, client.addr), kind, &met, bytes);
            let told = about(client.gets(VIP), kind, &sent, bytes);
            untouched(&mut rig, |rig| rig.from_overlay(PEER_2, 4_097, &error)).sent(&told);
        });
        let answer = over(backend.to("10.0.16.3"), 80, 40000);
        rig.from_overlay(PEER_2, 4_097, &answer);
        let error = about(client.to(VIP), UNREACHABLE, &over(client.gets(VIP), 80, 40000), 100);
        let told = about(backend.gets("10.0.16.3"), UNREACHABLE, &answer, 100);
        untouched(&mut rig, |rig| rig.from_task(&client, &error)).tunnelled(&told);
    }
}

#[test]
fn the_backends_node_hands_errors_on_as_they_are() {
    let Some(mut rig) = Rig::new() else { return };
    let (here, there) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.3"));
    let error = about(here.to("10.0.16.3"), UNREACHABLE, &udp(here.gets("10.0.16.3"), 40000, 80), 100);
    let told = about(there.gets("10.0.16.4"), UNREACHABLE, &udp(here.gets("10.0.16.3"), 40000, 80), 100);
    rig.from_task(&here, &error).tunnelled(&told);
    let answer = udp(here.to("10.0.16.3"), 80, 40000);
    let error = about(eth(mac::GATEWAY, here.mac).ipv4(there.addr, here.addr), UNREACHABLE, &answer, 100);
    rig.from_overlay(PEER_2, 4_097, &error).sent(&about(here.gets("10.0.16.3"), UNREACHABLE, &answer, 100));
}

#[test]
fn a_task_that_calls_itself_is_told_by_the_vip_and_tells_as_the_gateway() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    rig.service(VIP, &[&task]);
    let (sent, met) = (udp(task.to(VIP), 40000, 80), udp(task.gets("10.0.16.1"), 40000, 80));
    rig.from_task(&task, &sent).sent(&met);
    let error = about(task.to("10.0.16.1"), UNREACHABLE, &met, 100);
    rig.from_task(&task, &error).sent(&about(task.gets(VIP), UNREACHABLE, &sent, 100));
    let (answer, met) = (udp(task.to("10.0.16.1"), 80, 40000), udp(task.gets(VIP), 80, 40000));
    rig.from_task(&task, &answer).sent(&met);
    let error = about(task.to(VIP), UNREACHABLE, &met, 100);
    rig.from_task(&task, &error).sent(&about(task.gets("10.0.16.1"), UNREACHABLE, &answer, 100));
}

#[test]
fn a_caller_outside_is_told_by_the_address_that_it_called() {
    for (over, _) in CARRIED {
        let Some(mut rig) = Rig::new() else { return };
        let backend = rig.task_here("10.0.16.4");
        published(&mut rig, &backend);
        let (sent, met) = (over(inward(CLIENT), 40000, 8080), over(backend.gets(CLIENT), 40000, 80));
        rig.from_uplink(&sent).sent(&met);
        every(|kind, bytes| {
            let error = about(backend.to(CLIENT), kind, &met, bytes);
            untouched(&mut rig, |rig| rig.from_task(&backend, &error)).sent(&about(outward(), kind, &sent, bytes));
        });
    }
}

#[test]
fn a_task_here_is_told_by_routers_outside_about_its_answers() {
    for (over, _) in CARRIED {
        let Some(mut rig) = Rig::new() else { return };
        let backend = rig.task_here("10.0.16.4");
        published(&mut rig, &backend);
        rig.from_uplink(over(inward(CLIENT), 40000, 8080));
        let (answer, met) = (over(backend.to(CLIENT), 80, 40000), over(outward(), 8080, 40000));
        rig.from_task(&backend, &answer).sent(&met);
        for src in [ROUTER, CLIENT] {
            every(|kind, bytes| {
                let told = about(backend.gets(src), kind, &answer, bytes);
                untouched(&mut rig, |rig| rig.from_uplink(about(inward(src), kind, &met, bytes))).sent(&told);
            });
        }
    }
}

#[test]
fn the_ingress_node_sends_errors_to_the_owner_as_it_sent_the_call() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    published(&mut rig, &backend);
    rig.from_uplink(udp(inward(CLIENT), 40000, 8080));
    let met = udp(outward(), 8080, 40000);
    let to_owner = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(ROUTER, HERE);
    every(|kind, bytes| {
        let wanted = about(to_owner.clone(), kind, &met, bytes);
        untouched(&mut rig, |rig| rig.from_uplink(about(inward(ROUTER), kind, &met, bytes))).tunnelled(&wanted);
    });
}

#[test]
fn an_ingress_node_that_remembers_no_call_asks_the_ring_whom_to_tell() {
    let Some(mut rig) = Rig::new() else { return };
    let backends = [rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.5")];
    let service = rig.service(VIP, &[&backends[0], &backends[1]]);
    let maglev = Frontend { algorithm: algorithm::MAGLEV, target_port: 80, ..service.frontend };
    rig.put_frontend(FrontendKey::published(8080, protocol::UDP), maglev);
    let mut owners = Vec::new();
    for port in 40000..40016 {
        let call = rig.from_uplink(udp(inward(CLIENT), port, 8080));
        let (key, flow) = call.new_flow();
        rig.forget(key);
        let met = udp(outward(), 8080, port);
        let to = eth(ROUTER_MAC, flow.mac).ipv4(ROUTER, HERE);
        rig.from_uplink(about(inward(ROUTER), EXCEEDED, &met, 8)).tunnelled(&about(to, EXCEEDED, &met, 8));
        owners.push(flow.node);
    }
    assert!(owners.contains(&2) && owners.contains(&3), "{owners:?}");
}

/// Calls that enter at node 2, each kind: VNI, source MAC, caller, called address and port.
fn entries(caller: &Task) -> [(u32, [u8; 6], String, String, u16); 3] {
    let client = mac::of(mac::KIND_CLIENT, caller.number);
    let (node, vip) = ("192.0.2.2".to_owned(), VIP.to_owned());
    [
        (vni::REQUEST_WIRE, ROUTER_MAC, CLIENT.to_owned(), node.clone(), 8080),
        (vni::REQUEST_NODE, mac::HOST, node.clone(), vip, 80),
        (vni::REQUEST_NODE, client, caller.ip(), node, 8080),
    ]
}

#[test]
fn the_owner_translates_errors_both_ways() {
    for (over, _) in CARRIED {
        let Some(mut rig) = Rig::new() else { return };
        let (backend, caller) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.9"));
        published(&mut rig, &backend);
        let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
        for (id, last_hop, src, dst, port) in entries(&caller) {
            let request = |src: &str| eth(last_hop, endpoint).ipv4(src, &*dst);
            let (sent, met) = (over(request(&src), 40000, port), over(backend.gets(&src), 40000, 80));
            rig.from_overlay(PEER_2, id, &sent).sent(&met);
            let back = || eth(mac::GATEWAY, last_hop).ipv4(&*dst, &*src);
            every(|kind, bytes| {
                let error = about(backend.to(&src), kind, &met, bytes);
                let outcome = untouched(&mut rig, |rig| rig.from_task(&backend, &error));
                outcome.tunnelled(&about(back(), kind, &sent, bytes));
            });
            let (answer, met) = (over(backend.to(&src), 80, 40000), over(back(), port, 40000));
            rig.from_task(&backend, &answer).tunnelled(&met);
            every(|kind, bytes| {
                let told = about(backend.gets(&src), kind, &answer, bytes);
                let error = about(request(&src), kind, &met, bytes);
                untouched(&mut rig, |rig| rig.from_overlay(PEER_2, id, &error)).sent(&told);
            });
            let of_router = about(request(ROUTER), EXCEEDED, &met, 8);
            let outcome = rig.from_overlay(PEER_2, id, &of_router);
            if id == vni::REQUEST_WIRE {
                outcome.sent(&about(backend.gets(ROUTER), EXCEEDED, &answer, 8));
            } else {
                outcome.dropped(DropReason::IcmpError);
            }
        }
    }
}

#[test]
fn the_ingress_node_lets_the_owners_errors_out_as_answers() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    published(&mut rig, &backend);
    let sent = udp(inward(CLIENT), 40000, 8080);
    rig.from_uplink(&sent);
    every(|kind, bytes| {
        let error = about(eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT), kind, &sent, bytes);
        untouched(&mut rig, |rig| rig.from_overlay(PEER_2, vni::REPLY_WIRE, &error)).sent(&about(
            outward(),
            kind,
            &sent,
            bytes,
        ));
    });
}

#[test]
fn a_host_that_calls_a_vip_is_told_and_tells() {
    let Some(mut rig) = Rig::new() else { return };
    let (here, there) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"));
    rig.service(VIP, &[&here]);
    rig.service("10.0.16.6", &[&there]);
    let host = |dst: &str| eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, dst);
    let up = |src: &str| eth(mac::GATEWAY, MESH0_MAC).ipv4(src, HERE);

    let (sent, met) = (udp(host(VIP), 40000, 80), udp(here.gets("192.0.2.1"), 40000, 80));
    rig.from_host(&sent).sent(&met);
    rig.from_task(&here, about(here.to("192.0.2.1"), UNREACHABLE, &met, 100)).sent(&about(
        up(VIP),
        UNREACHABLE,
        &sent,
        100,
    ));
    let (answer, met) = (udp(here.to("192.0.2.1"), 80, 40000), udp(up(VIP), 80, 40000));
    rig.from_task(&here, &answer).sent(&met);
    rig.from_host(about(host(VIP), UNREACHABLE, &met, 100)).sent(&about(
        here.gets("192.0.2.1"),
        UNREACHABLE,
        &answer,
        100,
    ));

    let sent = udp(host("10.0.16.6"), 40000, 80);
    rig.from_host(&sent);
    let error = about(eth(mac::GATEWAY, mac::HOST).ipv4("10.0.16.6", HERE), UNREACHABLE, &sent, 100);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &error).passed(&about(up("10.0.16.6"), UNREACHABLE, &sent, 100));
    let met = udp(up("10.0.16.6"), 80, 40000);
    let request = eth(mac::HOST, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(HERE, "10.0.16.6");
    rig.from_host(about(host("10.0.16.6"), UNREACHABLE, &met, 100)).tunnelled(&about(request, UNREACHABLE, &met, 100));
}

#[test]
fn a_task_that_called_a_published_port_is_told_and_tells() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, there) = (rig.task_here("10.0.32.3"), rig.task_there(2, "10.0.16.4"));
    published(&mut rig, &there);
    let sent = udp(client.to("192.0.2.1"), 40000, 8080);
    rig.from_task(&client, &sent);
    let last_hop = mac::of(mac::KIND_CLIENT, client.number);
    let error = about(eth(mac::GATEWAY, last_hop).ipv4(HERE, client.addr), UNREACHABLE, &sent, 100);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &error).sent(&about(client.gets("192.0.2.1"), UNREACHABLE, &sent, 100));
    let met = udp(client.gets("192.0.2.1"), 8080, 40000);
    let request = eth(last_hop, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(client.addr, HERE);
    rig.from_task(&client, about(client.to("192.0.2.1"), UNREACHABLE, &met, 100)).tunnelled(&about(
        request,
        UNREACHABLE,
        &met,
        100,
    ));
}

#[test]
fn on_the_way_out_routers_tell_the_task() {
    const SERVER: &str = "198.51.100.77";
    for (over, _) in CARRIED {
        let Some(mut rig) = Rig::new() else { return };
        let task = rig.task_here("10.0.16.3");
        let sent = over(task.to(SERVER), 40000, 443);
        let outcome = rig.from_task(&task, &sent);
        let port = outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
        let met = over(eth(any(), any()).ipv4(HERE, SERVER), port, 443);
        for src in [ROUTER, SERVER] {
            every(|kind, bytes| {
                let told = about(task.gets(src), kind, &sent, bytes);
                untouched(&mut rig, |rig| rig.from_uplink(about(inward(src), kind, &met, bytes))).sent(&told);
            });
        }
        let (answer, met) = (over(inward(SERVER), 443, port), over(task.gets(SERVER), 443, 40000));
        rig.from_uplink(&answer);
        let told = about(eth(any(), any()).ipv4(HERE, SERVER).ttl(63), UNREACHABLE, &answer, 100);
        untouched(&mut rig, |rig| rig.from_task(&task, about(task.to(SERVER), UNREACHABLE, &met, 100))).sent(&told);
    }
}

#[test]
fn an_echo_that_ran_out_of_hops_is_told_with_its_own_identifier() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    for own_id in [77, 0] {
        let sent = task.to(CLIENT).ttl(2).icmp_echo(own_id, 1).payload_of(56);
        let outcome = rig.from_task(&task, &sent);
        let id = outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
        let met = eth(any(), any()).ipv4(HERE, CLIENT).ttl(1).icmp_echo(id, 1).payload_of(56);
        for bytes in [8, 64] {
            // As it was met: hops are not given back.
            let quoted = task.to(CLIENT).ttl(1).icmp_echo(own_id, 1).payload_of(56);
            let told = about(task.gets(ROUTER), EXCEEDED, &quoted, bytes);
            rig.from_uplink(about(inward(ROUTER), EXCEEDED, &met, bytes)).sent(&told);
        }
    }
}

#[test]
fn what_another_tuple_took_is_put_back_too() {
    // Two addresses of the service, one caller's port: the second call has its source port changed at the task.
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    rig.from_uplink(udp(inward(CLIENT), 40000, 8080));
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let sent = udp(eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2), 40000, 8080);
    let outcome = rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &sent);
    let changed = outcome.new_flow().1.other_port;
    assert_ne!(changed, 0);
    let met = udp(backend.gets(CLIENT), changed, 80);
    rig.from_task(&backend, about(backend.to(CLIENT), UNREACHABLE, &met, 100)).tunnelled(&about(
        eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT),
        UNREACHABLE,
        &sent,
        100,
    ));
}

#[test]
fn what_a_stack_of_this_machine_quotes_unfinished_stays_unfinished() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let sent = udp(client.to(VIP), 40000, 80).unfinished_checksum();
    rig.from_task(&client, udp(client.to(VIP), 40000, 80));
    let met = udp(backend.gets("10.0.16.3"), 40000, 80).unfinished_checksum();
    rig.from_task(&backend, about(backend.to("10.0.16.3"), UNREACHABLE, &met, 100)).sent(&about(
        client.gets(VIP),
        UNREACHABLE,
        &sent,
        100,
    ));
}

#[test]
fn the_devices_sum_over_an_error_stays_true() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    let options = RunOptions { ifindex: rig.devices().uplink, flags: CHECKSUM_COMPLETE, ..RunOptions::default() };
    rig.from_uplink(tcp(inward(CLIENT), 40000, 8080));
    let answer = tcp(backend.to(CLIENT), 80, 40000);
    rig.from_task(&backend, &answer);
    let met = tcp(outward(), 8080, 40000);
    use std::os::fd::AsFd;
    rig.load("sweep");
    let program = rig.program("sweep").fd().unwrap();
    if mesh_tests::rig::kernel::test_run(program.as_fd(), &[0; 64], options).is_err() {
        eprintln!("NOT RUN: CHECKSUM_COMPLETE in test runs needs Linux 6.15");
        return;
    }
    every(|kind, bytes| {
        let told = about(backend.gets(ROUTER), kind, &answer, bytes);
        let error = about(inward(ROUTER), kind, &met, bytes);
        rig.run(mesh_common::verdict::Hook::FromUplink, &error, options).sent(&told);
    });
}

#[test]
fn an_error_to_the_outside_takes_the_hop_that_all_take() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let first = rig.from_task(&task, udp(task.to(CLIENT), 40000, 53));
    let port = first.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).expect("the call's").1.port;
    let (answer, met) = (udp(inward(CLIENT), 53, port), udp(task.gets(CLIENT), 53, 40000));
    rig.from_uplink(&answer).sent(&met);
    let told = |ttl: u8| about(task.to(CLIENT).ttl(ttl), UNREACHABLE, &met, 100);
    let outcome = rig.from_task(&task, told(2));
    assert!(outcome.drops.is_empty(), "{outcome:?}");
    let wanted = about(eth(any(), any()).ipv4(HERE, CLIENT).ttl(1), UNREACHABLE, &answer, 100);
    assert_eq!(outcome.frame[14..], spoken(&wanted).bytes()[14..]);
    // And nobody is told of an error.
    rig.from_task(&task, told(1)).dropped(DropReason::HopLimit);
}
