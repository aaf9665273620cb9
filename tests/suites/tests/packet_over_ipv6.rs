//! The packet tests once more, over IPv6 (`rig::Family`). What is IPv4's alone says why.

#[path = "packet_address.rs"]
mod address;
#[path = "packet_affinity.rs"]
mod affinity;
#[path = "packet_again.rs"]
mod again;
#[path = "packet_allow.rs"]
mod allow;
#[path = "packet_apart.rs"]
mod apart;
#[path = "packet_checksums.rs"]
mod checksums;
#[path = "packet_connections.rs"]
mod connections;
#[path = "packet_direct.rs"]
mod direct;
#[path = "packet_flood.rs"]
mod flood;
#[path = "packet_flow_table.rs"]
mod flow_table;
#[path = "packet_fragments.rs"]
mod fragments;
#[path = "packet_icmp.rs"]
mod icmp;
#[path = "packet_icmp_forged.rs"]
mod icmp_forged;
#[path = "packet_ingress.rs"]
mod ingress;
#[path = "packet_malformed.rs"]
mod malformed;
#[path = "packet_monitor.rs"]
mod monitor;
#[path = "packet_mtu.rs"]
mod mtu;
#[path = "packet_outside.rs"]
mod outside;
#[path = "packet_overlay.rs"]
mod overlay;
#[path = "packet_sandbox.rs"]
mod sandbox;
#[path = "packet_sctp.rs"]
mod sctp;
#[path = "packet_services.rs"]
mod services;
#[path = "packet_tasks.rs"]
mod tasks;

use std::path::Path;

use mesh_common::parse::protocol;
use mesh_common::verdict::DropReason;
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{HERE, Outcome, PEER_2, ROUTER_MAC, Rig, UPLINK_MAC, cut, spoken};

/// Packet suites that are not in this table, and why.
const ELSEWHERE: [(&str, &str); 14] = [
    ("bench", "what the benchmark sends is of IPv4"),
    ("drops", "a list of reasons is of no family"),
    ("explain", "its packets are of both"),
    ("fast", "it is a table, too, of another way"),
    ("fast_over_ipv6", "likewise"),
    ("ipv6", "IPv6's own words: neighbours, both families of one service"),
    ("links", "what holds programs at devices is of no family"),
    ("maps", "its maps are of both"),
    ("model", "its packets are of both"),
    ("over_ipv6", "this one"),
    ("rig", "what one test leaves to the next is of no family"),
    ("underlay6", "its tunnels are of IPv6, their packets of both"),
    ("xdp", "it plays each test over both"),
    ("xdp_over_ipv6", "it is a table, too, of another way"),
];

/// A header of options for who gets the whole (RFC 8200, 4.6).
const OPTIONS: u8 = 60;

#[test]
fn every_packet_suite_is_in_this_table_or_says_why() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table = std::fs::read_to_string(tests.join("packet_over_ipv6.rs")).expect("the table");
    let names = std::fs::read_dir(tests).expect("the suites").map(|entry| entry.expect("an entry").file_name());
    let mut suites: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    suites.retain(|name| name.starts_with("packet_"));
    let of = |name: &str| suites.iter().any(|suite| *suite == format!("packet_{name}.rs"));
    assert!(ELSEWHERE.iter().all(|(name, reason)| of(name) && !reason.is_empty()), "{suites:?}");
    let is_apart = |suite: &str| ELSEWHERE.iter().any(|(name, _)| suite == format!("packet_{name}.rs"));
    suites.retain(|suite| is_apart(suite) == table.contains(&format!("#[path = \"{suite}\"]")));
    assert!(suites.is_empty(), "neither in the table nor apart with a reason, or both: {suites:?}");
}

#[test]
fn nobody_is_told_of_less_than_every_link_takes() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    // 1250 inside: the kernel cuts the outer packet of what is larger, up to 1280 (RFC 8200, section 5).
    rig.path(2, PEER_2, 1_300);
    let sized = |size: usize| client.to("10.0.16.4").udp(40000, 80).payload_of(size - 48);
    let outcome = rig.from_task(&client, sized(1_280));
    outcome.tunnelled(&there.gets("10.0.16.3").udp(40000, 80).payload_of(1_232));
    let told = client.gets("10.0.16.4").icmp_error(3, 4, 1_280).about(&sized(1_281));
    rig.from_task(&client, sized(1_281)).refused(DropReason::TooBig, &told);
}

#[test]
fn a_neighbours_question_on_the_uplink_is_the_hosts() {
    let Some(mut rig) = Rig::new() else { return };
    let target = mesh_packet::over_ipv6(HERE);
    for kind in [135, 136] {
        let message = eth(ROUTER_MAC, UPLINK_MAC).ipv6("fd00::192.0.2.254", target).ttl(255);
        rig.from_uplink(message.icmp_message(kind, 0, [0, 0]).payload(target)).left_alone();
    }
}

#[test]
fn a_datagram_in_one_fragment_is_whole() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service("10.0.16.2", &[&backend]);
    // RFC 6946: nothing is remembered of it, and a later fragment with its number waits for a first one.
    let [one]: [Vec<u8>; 1] =
        cut(&client.to("10.0.16.2").id(7).udp(40000, 80).payload_of(64), 1_400).try_into().expect("it fits");
    let outcome = rig.from_task(&client, &one);
    assert!(outcome.drops.is_empty() && outcome.frame[..6] == backend.mac, "{outcome:?}");
    let later = client.to("10.0.16.2").id(7).fragment(80, false).protocol(17).payload_of(64);
    rig.from_task(&client, later).ignored();
}

/// The pieces of what `over` puts behind this head, with options behind the fragment header (RFC 8200, 4.5): only the first one has them and says what is
/// behind them.
fn behind_options(head: Frame, over: impl Fn(Frame) -> Frame) -> Vec<Vec<u8>> {
    let whole = spoken(&over(head.clone())).bytes();
    let options = [whole[20], 0, 1, 4, 0, 0, 0, 0];
    cut(&head.protocol(OPTIONS).payload([&options[..], &whole[54..]].concat()), 1_400)
}

/// Each piece goes on as the same piece of the other.
#[track_caller]
fn follow(sent: &[Vec<u8>], wanted: &[Vec<u8>], mut run: impl FnMut(&Vec<u8>) -> Outcome) {
    assert!(sent.len() > 2 && sent.len() == wanted.len());
    for (n, (piece, wanted)) in sent.iter().zip(wanted).enumerate() {
        let outcome = run(piece);
        assert!(outcome.drops.is_empty() && outcome.frame == *wanted, "piece {n}: {outcome:02x?}");
    }
}

#[test]
fn pieces_of_a_datagram_with_options_go_where_the_first_one_went() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backends) = (rig.task_here("10.0.16.3"), [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5")]);
    let service = rig.service("10.0.16.2", &[&backends[0], &backends[1]]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let large = |sport: u16, dport: u16| move |head: Frame| head.udp(sport, dport).payload_of(4_000);
    for (id, backend) in [(7, &backends[0]), (8, &backends[1])] {
        let sport = 40_000 + id;
        let sent = behind_options(client.to("10.0.16.2").id(id), large(sport, 80));
        let wanted = behind_options(backend.gets("10.0.16.3").id(id), large(sport, 80));
        follow(&sent, &wanted, |piece| rig.from_task(&client, piece));
        let sent = behind_options(backend.to("10.0.16.3").id(id), large(80, sport));
        let wanted = behind_options(client.gets("10.0.16.2").id(id), large(80, sport));
        follow(&sent, &wanted, |piece| rig.from_task(backend, piece));
    }
    let (outside, called) = ("198.51.100.9", eth(ROUTER_MAC, UPLINK_MAC).ipv4("198.51.100.9", HERE).id(9));
    let sent = behind_options(called, large(40_000, 8080));
    let wanted = behind_options(backends[0].gets(outside).id(9), large(40_000, 80));
    follow(&sent, &wanted, |piece| rig.from_uplink(piece));
    let sent = behind_options(backends[0].to(outside).id(9), large(80, 40_000));
    let wanted = behind_options(eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, outside).id(9), large(8080, 40_000));
    follow(&sent, &wanted, |piece| rig.from_task(&backends[0], piece));
    let sent = behind_options(client.to("10.0.16.2").id(9), |head| head.icmp_echo(5, 1).payload_of(4_000));
    let wanted = behind_options(client.gets("10.0.16.2").id(9), |head| head.icmp_echo_reply(5, 1).payload_of(4_000));
    follow(&sent, &wanted, |piece| rig.from_task(&client, piece));
}

#[test]
fn a_piece_of_a_datagram_with_options_has_no_ports_by_itself() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service("10.0.16.2", &[&backend]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let pieces = |head: Frame| behind_options(head, |head| head.udp(40_000, 8080).payload_of(4_000));
    let [one, other] = [7, 8].map(|id| pieces(client.to("10.0.16.2").id(id)));
    rig.from_task(&client, &one[1]).dropped(DropReason::Fragment);
    assert!(rig.from_task(&client, &one[0]).drops.is_empty());
    assert!(rig.from_task(&client, &one[1]).drops.is_empty());
    rig.from_task(&client, &other[1]).dropped(DropReason::Fragment);
    let outside = pieces(eth(ROUTER_MAC, UPLINK_MAC).ipv4("198.51.100.9", HERE).id(7));
    rig.from_uplink(&outside[1]).left_alone();
    // The first one without its ports (RFC 7112, section 5).
    let cut_off = client.to("10.0.16.2").id(9).fragment(0, true).protocol(OPTIONS).payload([17, 0, 1, 4, 0, 0, 0, 0]);
    rig.from_task(&client, cut_off).dropped(DropReason::Malformed);
}
