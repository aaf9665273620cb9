//! Next hops: what the kernel's routes and neighbours make of them, and what is told when they change.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::bed::*;
use crate::kernel::net::{Changes, HostNet, Protection};
use crate::plan::maps::NextHop;

const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 7, 1));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 7, 2));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
const MAC: [u8; 6] = [2, 0, 0, 0, 7, 2];

async fn hop(host: &HostNet, to: IpAddr) -> Option<NextHop> {
    host.next_hops(FROM, 4789, &[PEER, FAR]).await.unwrap().get(&to).copied()
}

fn link_mac() -> [u8; 6] {
    let text = link_json("eth0")["address"].as_str().unwrap().to_string();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

async fn is_told(changes: &mut Changes, within: Duration) -> bool {
    tokio::time::timeout(within, changes.next()).await.is_ok()
}

#[test]
fn a_neighbour_is_a_next_hop_and_so_is_a_gateway() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        assert_eq!(hop(&host, PEER).await, None, "nobody knows its MAC address");
        ip("neigh replace 192.168.7.2 lladdr 02:00:00:00:07:02 nud stale dev eth0");
        let ifindex = host.ifindex("eth0").await.unwrap().unwrap();
        let expected = NextHop { ifindex, link_mac: link_mac(), mac: MAC, mtu: 1500 };
        assert_eq!(hop(&host, PEER).await, Some(expected));
        assert_eq!(hop(&host, FAR).await, None, "no route");
        ip("route add 10.9.0.0/16 via 192.168.7.2 mtu 1400");
        assert_eq!(hop(&host, FAR).await, Some(NextHop { mtu: 1400, ..expected }));
        ip("neigh del 192.168.7.2 dev eth0");
        assert_eq!((hop(&host, PEER).await, hop(&host, FAR).await), (None, None));
    });
}

#[test]
fn next_hops_of_ipv6_are_found_as_well() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let [from, peer, far] = ["fd99::1", "fd99::2", "fd98::9"].map(|addr| addr.parse::<IpAddr>().unwrap());
        ip("addr add fd99::1/64 dev eth0 nodad");
        // The kernel would rather send from here, says its answer; but tunnel packets don't.
        ip("addr add fd98::1/128 dev eth0 nodad");
        let hops = || async { host.next_hops(from, 4789, &[peer, far]).await.unwrap() };
        assert_eq!(hops().await, [].into(), "nobody knows its MAC address, and no route");
        ip("neigh replace fd99::2 lladdr 02:00:00:00:07:02 nud stale dev eth0");
        let ifindex = host.ifindex("eth0").await.unwrap().unwrap();
        let expected = NextHop { ifindex, link_mac: link_mac(), mac: MAC, mtu: 1500 };
        assert_eq!(hops().await, [(peer, expected)].into());
        ip("neigh replace fe80::7 lladdr 02:00:00:00:07:02 nud permanent dev eth0");
        ip("-6 route add fd98::/64 via fe80::7 dev eth0 mtu 1400");
        assert_eq!(hops().await, [(peer, expected), (far, NextHop { mtu: 1400, ..expected })].into());
        ip("-6 route replace fd98::/64 nexthop via fe80::7 dev eth0 nexthop via fd99::2 dev eth0");
        assert_eq!(hops().await, [(peer, expected)].into(), "several next hops");
        let mut changes = host.changes().unwrap();
        ip("neigh del fd99::2 dev eth0");
        assert!(is_told(&mut changes, PATIENCE).await, "gone");
        assert_eq!(hops().await, [].into());
    });
}

#[test]
fn a_doubtful_route_is_no_next_hop() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        for neighbour in ["192.168.7.2", "192.168.7.3"] {
            ip(&format!("neigh replace {neighbour} lladdr 02:00:00:00:07:02 nud permanent dev eth0"));
        }
        ip("route add 10.9.0.0/16 via 192.168.7.2");
        assert!(hop(&host, FAR).await.is_some());
        ip("route replace 10.9.0.0/16 nexthop via 192.168.7.2 nexthop via 192.168.7.3");
        assert_eq!(hop(&host, FAR).await, None, "several next hops");
        ip("route replace blackhole 10.9.0.0/16");
        assert_eq!(hop(&host, FAR).await, None, "a black hole");
        ip("route replace 10.9.0.0/16 via 192.168.7.2");
        assert!(hop(&host, FAR).await.is_some());
        // A rule for just the tunnel's packets, as a policy-routed host may have.
        ip("route add blackhole default table 77");
        ip("rule add ipproto udp dport 4789 to 10.9.0.0/16 table 77");
        assert_eq!(hop(&host, FAR).await, None, "a rule sends them elsewhere");
        ip("rule del table 77");
        ip("link set eth0 down");
        assert_eq!(hop(&host, PEER).await, None, "the link is down");
    });
}

#[test]
fn a_neighbour_that_changes_is_told_at_once_and_one_that_ages_is_not() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        ip("neigh replace 192.168.7.2 lladdr 02:00:00:00:07:02 nud reachable dev eth0");
        assert!(hop(&host, PEER).await.is_some());
        let mut changes = host.changes().unwrap();
        let quiet = Duration::from_millis(300);
        while is_told(&mut changes, quiet).await {}
        for state in ["stale", "delay", "reachable", "stale"] {
            ip(&format!("neigh change 192.168.7.2 lladdr 02:00:00:00:07:02 nud {state} dev eth0"));
        }
        ip("neigh replace 192.168.7.99 lladdr 02:00:00:00:07:99 nud reachable dev eth0");
        assert!(!is_told(&mut changes, quiet).await, "the same MAC address, or nobody's next hop");
        ip("neigh change 192.168.7.2 lladdr 02:00:00:00:07:03 nud stale dev eth0");
        assert!(is_told(&mut changes, PATIENCE).await, "another MAC address");
        assert_eq!(hop(&host, PEER).await.map(|hop| hop.mac[5]), Some(3));
        ip("neigh del 192.168.7.2 dev eth0");
        assert!(is_told(&mut changes, PATIENCE).await, "gone");
        assert_eq!(hop(&host, PEER).await, None);
        ip("neigh replace 192.168.7.2 lladdr 02:00:00:00:07:02 nud permanent dev eth0");
        assert!(is_told(&mut changes, PATIENCE).await, "back");
        assert_eq!(hop(&host, PEER).await.map(|hop| hop.mac), Some(MAC));
        ip("rule add to 10.77.0.0/16 table 77");
        assert!(is_told(&mut changes, PATIENCE).await, "a rule");
    });
}

#[test]
fn ipsec_policies_are_found_as_the_host_has_them() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let protected = || host.protected(FROM, 4789, &[PEER, FAR]).unwrap();
        assert_eq!(protected(), [].into());
        let esp = "tmpl src 192.168.7.1 dst 192.168.7.2 proto esp mode transport";
        ip(&format!("xfrm policy add dir out src 0.0.0.0/0 dst 192.168.7.0/24 proto udp dport 4789 {esp}"));
        assert_eq!(protected(), [(PEER, Protection::Ipsec)].into());
        ip("xfrm policy add dir in src 10.9.9.9/32 dst 0.0.0.0/0 action block");
        assert_eq!(protected(), [(PEER, Protection::Ipsec), (FAR, Protection::Blocked)].into());
        ip("xfrm policy flush");
        for other in ["proto udp dport 4790", "proto tcp", "mark 7"] {
            ip(&format!("xfrm policy add dir out src 0.0.0.0/0 dst 0.0.0.0/0 {other} {esp}"));
            assert_eq!(protected(), [].into(), "{other}");
        }
        // Many answers do not fit one message.
        for third in 0..200 {
            ip(&format!("xfrm policy add dir out src 0.0.0.0/0 dst 10.9.{third}.9/32 {esp}"));
        }
        assert_eq!(protected(), [(FAR, Protection::Ipsec)].into());
    });
}
