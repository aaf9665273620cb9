//! Services with affinity: a client keeps its backend, whatever it calls of the service and by which node, for a time after its last new flow.

use mesh_common::hash;
use mesh_common::parse::protocol;
use mesh_common::schema::{Affinity, AffinityKey, Backend, Frontend, FrontendKey, RingSlot, algorithm, backend_state};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{HERE, Outcome, PEER_2, ROUTER_MAC, Rig, Service, Task, UPLINK_MAC, client_hash, ip};

const VIP: &str = "10.0.16.2";
const TIMEOUT_S: u32 = 60;

/// The head of a frame that a client of the world sends to this node.
fn call(client: [u8; 4]) -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(client, HERE)
}

fn client(n: u8) -> [u8; 4] {
    [198, 51, 100, n]
}

/// A service with affinity, published as 8080.
fn affine(rig: &mut Rig, tasks: &[&Task]) -> Service {
    let mut service = rig.service(VIP, tasks);
    service.frontend = Frontend { algorithm: algorithm::CLIENT, affinity_s: TIMEOUT_S, ..service.frontend };
    restaffed(rig, &service, tasks)
}

/// The same service over these tasks.
fn restaffed(rig: &mut Rig, service: &Service, tasks: &[&Task]) -> Service {
    let service = rig.staffed(service, tasks);
    rig.put_frontend(FrontendKey::vip(ip(VIP)), service.frontend);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    service
}

/// Endpoint number of the task that was chosen, or that a frame of a known flow is addressed to.
fn receiver(outcome: &Outcome) -> u32 {
    if let Some((_, flow)) = outcome.new_flows.first() {
        return flow.backend;
    }
    let mac: [u8; 6] = outcome.frame[..6].try_into().unwrap();
    mac::split(mac).expect("a MAC of ours").1
}

/// The backend that the ring names for a client.
fn named(rig: &Rig, service: &Service, client: [u8; 4]) -> u32 {
    let Frontend { ring_at, ring_len, .. } = service.frontend;
    let slot = ring_at + hash::slot(client_hash(client), ring_len);
    rig.get::<RingSlot>("RINGS", slot).backend
}

fn kept(rig: &Rig, service: &Service, client: [u8; 4]) -> Option<Affinity> {
    rig.affinity(&AffinityKey { addr: client, pool: service.pool })
}

/// As if the client's last new flow had begun so many seconds earlier.
fn age(rig: &mut Rig, service: &Service, client: [u8; 4], seconds: u32) {
    let entry = kept(rig, service, client).expect("the client is remembered");
    let older = Affinity { last_new_s: entry.last_new_s - seconds, ..entry };
    rig.put_affinity(AffinityKey { addr: client, pool: service.pool }, older);
}

fn forget_flows(rig: &mut Rig) {
    for (key, _) in rig.flows() {
        rig.forget(key);
    }
}

/// The uplink by TC, and with the driver's hook before it.
fn both_ways() -> impl Iterator<Item = Rig> {
    [Rig::new as fn() -> Option<Rig>, Rig::with_xdp].into_iter().filter_map(|rig| rig())
}

#[test]
fn a_client_gets_one_backend_for_all_its_connections_and_clients_are_spread() {
    for mut rig in both_ways() {
        let (one, other) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"));
        let service = affine(&mut rig, &[&one, &other]);
        let mut seen = std::collections::BTreeSet::new();
        for n in 1..=16 {
            let first = receiver(&rig.from_uplink(call(client(n)).tcp(40_000, 8080).syn()));
            assert_eq!(first, named(&rig, &service, client(n)), "the ring decides, by the address alone");
            for port in 40_001..40_004 {
                assert_eq!(receiver(&rig.from_uplink(call(client(n)).tcp(port, 8080).syn())), first);
                assert_eq!(receiver(&rig.from_uplink(call(client(n)).udp(port, 8080).payload(b"?"))), first);
            }
            seen.insert(first);
        }
        assert_eq!(seen, [one.number, other.number].into(), "sixteen clients are not all of one slot");
    }
}

#[test]
fn a_client_stays_where_it_is_when_the_ring_changes_until_its_time_is_over() {
    for mut rig in both_ways() {
        let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
        let service = affine(&mut rig, &[&one]);
        let clients: Vec<[u8; 4]> = (1..=16).map(client).collect();
        for client in &clients {
            assert_eq!(receiver(&rig.from_uplink(call(*client).tcp(40_000, 8080).syn())), one.number);
        }
        let service = restaffed(&mut rig, &service, &[&one, &other]);
        let mut moved = 0;
        for client in &clients {
            let again = receiver(&rig.from_uplink(call(*client).tcp(40_001, 8080).syn()));
            assert_eq!(again, one.number, "it keeps its backend");
            age(&mut rig, &service, *client, TIMEOUT_S + 1);
            let later = receiver(&rig.from_uplink(call(*client).tcp(40_002, 8080).syn()));
            assert_eq!(later, named(&rig, &service, *client), "the ring decides anew");
            assert_eq!(kept(&rig, &service, *client).map(|entry| entry.backend), Some(later));
            moved += u32::from(later != one.number);
        }
        assert!(moved > 0, "the ring of two names the other one as well");
    }
}

#[test]
fn a_new_flow_begins_the_time_again_and_a_packet_of_an_old_one_does_not() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
    let service = affine(&mut rig, &[&one, &other]);
    let client = client(1);
    let first = receiver(&rig.from_uplink(call(client).tcp(40_000, 8080).syn()));
    let began = kept(&rig, &service, client).expect("it is remembered").last_new_s;
    age(&mut rig, &service, client, 50);
    rig.from_uplink(call(client).tcp(40_000, 8080).seq(1).ack(1));
    assert_eq!(kept(&rig, &service, client).map(|entry| entry.last_new_s), Some(began - 50));
    rig.from_uplink(call(client).tcp(40_001, 8080).syn());
    assert!(kept(&rig, &service, client).is_some_and(|entry| entry.last_new_s >= began && entry.backend == first));
}

#[test]
fn a_connection_whose_entry_was_lost_goes_where_its_client_was_however_long_ago() {
    for mut rig in both_ways() {
        let (one, other) = (rig.task_there(2, "10.0.16.4"), rig.task_there(2, "10.0.16.5"));
        let service = affine(&mut rig, &[&one]);
        let clients: Vec<[u8; 4]> = (1..=8).map(client).collect();
        for client in &clients {
            rig.from_uplink(call(*client).tcp(40_000, 8080).syn());
        }
        let service = restaffed(&mut rig, &service, &[&one, &other]);
        for client in &clients {
            age(&mut rig, &service, *client, 2 * TIMEOUT_S);
        }
        forget_flows(&mut rig);
        for client in &clients {
            let middle = rig.from_uplink(call(*client).tcp(40_000, 8080).seq(9).ack(9).payload(b"x"));
            assert_eq!(receiver(&middle), one.number);
        }
    }
}

#[test]
fn a_client_whose_backend_drains_or_is_gone_gets_another_and_keeps_that() {
    for mut rig in both_ways() {
        let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
        let service = affine(&mut rig, &[&one]);
        rig.from_uplink(call(client(1)).tcp(40_000, 8080).syn());
        rig.from_uplink(call(client(2)).tcp(40_000, 8080).syn());
        let service = restaffed(&mut rig, &service, &[&other]);
        let draining: Backend =
            rig.read::<u32, Backend>("BACKENDS").get(&one.number, 0).expect("it is there until its end");
        rig.put("BACKENDS", one.number, Backend { state: backend_state::DRAINING, ..draining });
        assert_eq!(receiver(&rig.from_uplink(call(client(1)).tcp(40_001, 8080).syn())), other.number);
        // Its connection of before goes on.
        let before = rig.from_uplink(call(client(1)).tcp(40_000, 8080).seq(1).ack(1));
        assert_eq!(receiver(&before), one.number);
        rig.ended(&one);
        assert_eq!(receiver(&rig.from_uplink(call(client(2)).tcp(40_001, 8080).syn())), other.number);
        for client in [client(1), client(2)] {
            assert_eq!(kept(&rig, &service, client).map(|entry| entry.backend), Some(other.number));
        }
    }
}

#[test]
fn a_number_that_is_another_services_by_now_is_not_kept() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, stranger) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
    let service = affine(&mut rig, &[&one]);
    rig.service("10.0.16.9", &[&stranger]);
    let key = AffinityKey { addr: client(1), pool: service.pool };
    rig.put_affinity(key, Affinity { backend: stranger.number, last_new_s: u32::MAX / 2 });
    assert_eq!(receiver(&rig.from_uplink(call(client(1)).tcp(40_000, 8080).syn())), one.number);
}

#[test]
fn a_client_that_was_turned_back_keeps_the_second_choice() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, other) = (rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.16.5"));
    let service = affine(&mut rig, &[&gone]);
    let syn = call(client(1)).tcp(40_000, 8080).syn();
    assert_eq!(receiver(&rig.from_uplink(&syn)), gone.number);
    let service = restaffed(&mut rig, &service, &[&gone, &other]);
    let back = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, gone.number)).ipv4(client(1), HERE).tcp(40_000, 8080).syn();
    let again = rig.from_overlay(PEER_2, vni::TURNED_BACK_WIRE, &back);
    assert_eq!(receiver(&again), other.number);
    assert_eq!(kept(&rig, &service, client(1)).map(|entry| entry.backend), Some(other.number));
}

#[test]
fn a_task_keeps_its_backend_by_the_vip_and_by_the_published_port_and_never_itself() {
    let Some(mut rig) = Rig::new() else { return };
    let caller = rig.task_here("10.0.16.3");
    let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
    affine(&mut rig, &[&one, &other]);
    let by_vip = receiver(&rig.from_task(&caller, caller.to(VIP).tcp(40_000, 80).syn()));
    for port in 40_001..40_005 {
        assert_eq!(receiver(&rig.from_task(&caller, caller.to(VIP).udp(port, 53).payload(b"?"))), by_vip);
        assert_eq!(receiver(&rig.from_task(&caller, caller.to("192.0.2.1").tcp(port, 8080).syn())), by_vip);
    }
    for (task, another) in [(&one, &other), (&other, &one)] {
        for port in 41_000..41_004 {
            assert_eq!(receiver(&rig.from_task(task, task.to(VIP).tcp(port, 80).syn())), another.number);
        }
    }
}

#[test]
fn processes_of_the_host_keep_theirs_as_one_client() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
    let service = affine(&mut rig, &[&one, &other]);
    let process = |port| eth([9; 6], [9; 6]).ipv4(HERE, VIP).tcp(port, 80).syn();
    let first = receiver(&rig.from_host(process(40_000)));
    assert_eq!(first, named(&rig, &service, HERE));
    assert!((40_001..40_005).all(|port| receiver(&rig.from_host(process(port))) == first));
}

#[test]
fn in_a_flood_clients_are_not_remembered_and_those_that_are_keep_their_backend() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
    let service = affine(&mut rig, &[&one]);
    rig.from_uplink(call(client(1)).tcp(40_000, 8080).syn());
    let service = restaffed(&mut rig, &service, &[&one, &other]);
    rig.flood_is_on();
    let stranger = (2..=32).map(client).find(|it| named(&rig, &service, *it) == other.number).expect("one of many");
    assert_eq!(receiver(&rig.from_uplink(call(stranger).tcp(40_000, 8080).syn())), other.number);
    assert_eq!(kept(&rig, &service, stranger), None);
    assert_eq!(receiver(&rig.from_uplink(call(client(1)).tcp(40_001, 8080).syn())), one.number);
}
