//! ICMP errors that are about nothing here, or whose sender has no business with the flow: dropped and counted, or left to the host.

use mesh_common::parse::protocol;
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::errors::{
    CLIENT, ROUTER, TOO_BIG, UNREACHABLE, VIP, about, inward, outward, published, tcp, udp, untouched,
};
use mesh_tests::rig::{HERE, PEER_2, ROUTER_MAC, Rig, Task, UPLINK_MAC};

#[test]
fn errors_about_nothing_here_are_left_to_the_host() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    rig.from_uplink(udp(inward(CLIENT), 40000, 8080));
    let elsewhere = eth(UPLINK_MAC, ROUTER_MAC).ipv4("198.51.100.1", CLIENT);
    for error in [
        // The host's own connection; a published port without that call; another address quoted than the error goes to; no error that is carried.
        about(inward(ROUTER), TOO_BIG, &tcp(outward(), 22, 40000), 100),
        about(inward(ROUTER), TOO_BIG, &udp(outward(), 8080, 40001), 100),
        about(inward(ROUTER), TOO_BIG, &udp(elsewhere, 8080, 40000), 100),
        about(inward(ROUTER), (5, 1, 0), &udp(outward(), 8080, 40000), 100),
        about(inward(ROUTER), TOO_BIG, &udp(outward(), 8080, 40000), 2),
        inward(ROUTER).icmp_error(3, 4, 1_400).payload([0x45; 3]),
    ] {
        untouched(&mut rig, |rig| rig.from_uplink(&error)).left_alone();
    }
}

#[test]
fn a_task_tells_only_of_what_it_was_sent() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let (neighbour, stranger) = (rig.task_here("10.0.16.5"), rig.task_here("10.0.32.3"));
    rig.service(VIP, &[&backend]);
    rig.from_task(&client, udp(client.to(VIP), 40000, 80));
    let met = udp(backend.gets("10.0.16.3"), 40000, 80);
    let sent = udp(client.to(VIP), 40000, 80);
    for (who, quoted) in
        [(&neighbour, &met), (&neighbour, &sent), (&stranger, &met), (&stranger, &sent), (&backend, &sent)]
    {
        let forged = about(who.to("10.0.16.3"), UNREACHABLE, quoted, 100);
        untouched(&mut rig, |rig| rig.from_task(who, &forged)).dropped(DropReason::IcmpError);
    }
    // Of what it was never sent it may speak to its own network only, and nothing is translated.
    let invented = |who: &Task| about(who.to("10.0.16.3"), UNREACHABLE, &udp(who.gets("10.0.16.3"), 40000, 80), 100);
    rig.from_task(&neighbour, invented(&neighbour))
        .sent(&{ about(client.gets("10.0.16.5"), UNREACHABLE, &udp(neighbour.gets("10.0.16.3"), 40000, 80), 100) });
    let outcome = rig.from_task(&stranger, invented(&stranger));
    assert_eq!(outcome.drops.len(), 1, "no way to another network: {outcome:?}");
    assert_ne!(outcome.action, mesh_tests::rig::Action::Redirect);
    // To the outside and to a VIP goes nothing that fits no flow.
    let about_nothing = |dst: &str| about(client.to(dst), UNREACHABLE, &udp(client.gets(dst), 9, 9), 100);
    for dst in [VIP, CLIENT, "10.0.16.1"] {
        rig.from_task(&client, about_nothing(dst)).dropped(DropReason::IcmpError);
    }
}

#[test]
fn a_peer_tells_only_of_flows_that_go_its_way() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let (other, mine) = (rig.task_there(3, "10.0.16.5"), rig.task_here("10.0.16.8"));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    rig.from_task(&client, udp(client.to(VIP), 40000, 80));
    let met = udp(backend.gets("10.0.16.3"), 40000, 80);
    let from = |src: &Task| eth(mac::GATEWAY, client.mac).ipv4(src.addr, client.addr);
    let forged = |rig: &mut Rig, peer, id, error: &Frame, reason| {
        untouched(rig, |rig| rig.from_overlay(peer, id, error)).dropped(reason);
    };
    let peer_3 = [192, 0, 2, 3];
    forged(&mut rig, peer_3, 4_097, &about(from(&backend), UNREACHABLE, &met, 100), DropReason::WrongPeer);
    forged(&mut rig, peer_3, 4_097, &about(from(&other), UNREACHABLE, &met, 100), DropReason::IcmpError);
    forged(&mut rig, PEER_2, 4_098, &about(from(&backend), UNREACHABLE, &met, 100), DropReason::WrongPeer);

    // Requests and answers: about a call that entered elsewhere, or about none.
    let published = rig.service("10.0.16.7", &[&mine]);
    rig.publish(&published, protocol::UDP, 8081, 80);
    let endpoint = mac::of(mac::KIND_ENDPOINT, mine.number);
    let call = udp(eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2), 40000, 8081);
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &call).sent(&udp(mine.gets(CLIENT), 40000, 80));
    let answer = udp(eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT), 8081, 40000);
    let error = about(eth(ROUTER_MAC, endpoint).ipv4(ROUTER, PEER_2), TOO_BIG, &answer, 100);
    forged(&mut rig, peer_3, vni::REQUEST_WIRE, &error, DropReason::IcmpError);
    let of_a_task = about(eth(ROUTER_MAC, endpoint).ipv4(other.addr, PEER_2), TOO_BIG, &answer, 100);
    forged(&mut rig, PEER_2, vni::REQUEST_WIRE, &of_a_task, DropReason::WrongPeer);

    let outward = |src: [u8; 4]| eth(mac::GATEWAY, ROUTER_MAC).ipv4(src, CLIENT);
    let quoting = |dst: [u8; 4], port: u16| udp(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, dst), 40000, port);
    for (src, quoted, reason) in [
        (HERE, quoting(HERE, 22), DropReason::ForgedReply),
        (PEER_2, quoting(PEER_2, 8080), DropReason::ForgedReply),
        (HERE, quoting(PEER_2, 8080), DropReason::IcmpError),
    ] {
        forged(&mut rig, PEER_2, vni::REPLY_WIRE, &about(outward(src), UNREACHABLE, &quoted, 100), reason);
    }
}

#[test]
fn no_vip_has_asked_for_an_echo() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let unasked = |head: Frame| head.icmp_echo_reply(7, 1).payload_of(56);
    untouched(&mut rig, |rig| rig.from_task(&client, unasked(client.to(VIP)))).dropped(DropReason::IcmpError);
    let mesh0 = mac::of(mac::KIND_MESH0, 1);
    let of_host = unasked(eth(mesh0, mesh0).ipv4(HERE, VIP));
    untouched(&mut rig, |rig| rig.from_host(&of_host)).dropped(DropReason::IcmpError);
}
