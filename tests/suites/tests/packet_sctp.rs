//! SCTP (single-homed): forwarded and balanced, and published by another port than it is served on, with a right CRC32c.

use mesh_common::parse::protocol;
use mesh_common::schema::Peer;
use mesh_common::verdict::DropReason;
use mesh_common::verdict::Hook;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{Action, HERE, PEER_2, ROUTER_MAC, Rig, RunOptions, UPLINK_MAC, cut, header_len, spoken};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";

/// CRC32c bit by bit (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// An SCTP packet with a DATA chunk of so many bytes, and a right checksum.
fn sctp(head: Frame, sport: u16, dport: u16, size: usize) -> Frame {
    let mut bytes = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0]].concat();
    bytes.extend([0, 3]);
    bytes.extend(u16::try_from(16 + size).unwrap().to_be_bytes());
    bytes.extend((0..251u8).cycle().take(12 + size.next_multiple_of(4)));
    let crc = crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&crc);
    head.protocol(protocol::SCTP).payload(bytes)
}

/// The same as a stack sends it whose device makes the checksum.
fn unfinished(head: Frame, sport: u16, dport: u16) -> Frame {
    let mut bytes = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0]].concat();
    bytes.extend([0; 20]);
    head.protocol(protocol::SCTP).payload(bytes)
}

#[test]
fn a_vip_balances_associations() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, one, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"));
    rig.service(VIP, &[&one, &other]);
    for _ in 0..2 {
        rig.from_task(&client, sctp(client.to(VIP), 40000, 3868, 50)).sent(&sctp(
            one.gets("10.0.16.3"),
            40000,
            3868,
            50,
        ));
        rig.from_task(&client, sctp(client.to(VIP), 40001, 3868, 50)).tunnelled(&sctp(
            other.gets("10.0.16.3"),
            40001,
            3868,
            50,
        ));
    }
    rig.from_task(&one, sctp(one.to("10.0.16.3"), 3868, 40000, 9)).sent(&sctp(client.gets(VIP), 3868, 40000, 9));
}

#[test]
fn a_published_port_may_be_another_than_the_target() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::SCTP, 9000, 3868);
    let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
    let answer = || eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT);
    for size in [0, 1, 50, 240, 241, 255, 256, 257, 1_000, 1_400] {
        rig.from_uplink(sctp(call(), 40000, 9000, size)).sent(&sctp(backend.gets(CLIENT), 40000, 3868, size));
        rig.from_task(&backend, sctp(backend.to(CLIENT), 3868, 40000, size)).sent(&sctp(answer(), 9000, 40000, size));
    }
    rig.from_task(&backend, unfinished(backend.to(CLIENT), 3868, 40000)).sent(&unfinished(answer(), 9000, 40000));
}

#[test]
fn a_fragment_of_which_the_end_is_not_seen_gets_no_other_port() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::SCTP, 9000, 3868);
    let whole = sctp(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).id(7), 40000, 9000, 2_000);
    rig.from_uplink(&cut(&whole, 1_400)[0]).dropped(DropReason::Fragment);
}

#[test]
fn the_owner_renumbers_for_another_node() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::SCTP, 9000, 3868);
    let request = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, PEER_2);
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, sctp(request, 40000, 9000, 700)).sent(&sctp(
        backend.gets(CLIENT),
        40000,
        3868,
        700,
    ));
    let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT);
    rig.from_task(&backend, sctp(backend.to(CLIENT), 3868, 40000, 700)).tunnelled(&sctp(reply, 9000, 40000, 700));
}

#[test]
fn the_way_out_has_a_right_checksum_too() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let outcome = rig.from_task(&task, sctp(task.to(CLIENT), 40000, 3868, 333));
    let l4 = 14 + header_len();
    let port = u16::from_be_bytes([outcome.frame[l4], outcome.frame[l4 + 1]]);
    let wanted = sctp(eth(any(), any()).ipv4(HERE, CLIENT).ttl(63), port, 3868, 333);
    spoken(&wanted).assert_matches(&outcome.frame);
}

#[test]
fn chunks_that_are_cut_apart_before_the_wire_are_not_too_big() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    rig.service(VIP, &[&there]);
    rig.path(2, PEER_2, 1_400);
    // Without a next hop: the fast way is no way for them, which a test run would not show.
    rig.set("PEERS", 2u32, Peer { ifindex: 0, ..rig.peer(2) });
    // What a stack hands over as one packet of several: not so long each, but a packet for each chunk (include/linux/skbuff.h).
    const GSO_BY_FRAGS: u32 = 0xffff;
    for dst in [VIP, "10.0.16.4"] {
        let packets = sctp(client.to(dst).dont_fragment(), 40000, 3868, 1_440);
        let run = |gso_size| RunOptions { ifindex: client.ifindex, gso_size, ..RunOptions::default() };
        rig.run(Hook::FromTask, &packets, run(GSO_BY_FRAGS)).acted_as(Action::Redirect);
    }
}
