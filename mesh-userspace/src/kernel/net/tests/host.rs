//! The host's own network: `mesh0` and what is on it, ports, settings, uplinks, changes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use super::bed::*;
use crate::kernel::net::{HostNet, NetError};
use crate::plan::net::*;

async fn put(host: &HostNet, wanted: &NetImage) -> Vec<NetOp> {
    let converged = host.converge(wanted, &|_| None, &|_| Ok(())).await.unwrap();
    assert!(converged.failed.is_empty(), "{:?}", converged.failed);
    converged.done
}

/// What keeps the host from the image; what only follows from it is not told.
async fn only_failure(host: &HostNet) -> String {
    let converged = host.converge(&image(), &|_| None, &|_| Ok(())).await.unwrap();
    assert_eq!(converged.failed.len(), 1, "{:?}", converged.failed);
    converged.failed[0].1.to_string()
}

#[test]
fn mesh0_goes_up_with_its_programs_or_not_at_all() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let refuse = |_| Err("the verifier said no".to_string());
        let refused = host.converge(&image(), &|_| None, &refuse).await.unwrap();
        assert!(refused.failed[0].1.to_string().ends_with("could not be attached: the verifier said no"));
        assert!(!link_json("mesh0")["flags"].to_string().contains("\"UP\""));
        let seen = std::sync::atomic::AtomicU32::new(0);
        let attach = |index| {
            assert!(!link_json("mesh0")["flags"].to_string().contains("\"UP\""), "attached before it is up");
            seen.store(index, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        };
        host.converge(&image(), &|_| None, &attach).await.unwrap();
        assert_eq!(Some(seen.into_inner()), host.ifindex("mesh0").await.unwrap());
        assert_eq!(host.observe(&image()).await.unwrap(), image().footprint());
    });
}

#[test]
fn mesh0_is_what_the_programs_expect() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        let link = link_json("mesh0");
        assert_eq!(link["address"], "e6:12:00:00:00:01");
        assert_eq!((&link["mtu"], &link["ifalias"]), (&1450.into(), &"mesh".into()));
        let flags = link["flags"].to_string();
        assert!(flags.contains("NOARP") && flags.contains("\"UP\"") && !flags.contains("MULTICAST"), "{flags}");
        let vxlan = &link["linkinfo"]["info_data"];
        assert_eq!(
            (&vxlan["external"], &vxlan["learning"], &vxlan["port"]),
            (&true.into(), &false.into(), &4789.into())
        );
        assert!(ip("addr show dev mesh0").contains("inet 10.0.16.1/32 scope link"));
        let route = ip("route show 10.0.16.0/20");
        assert!(route.contains("dev mesh0 proto 109 scope link src 192.168.7.1 mtu 1450"), "{route}");
        let addrs = ip("-6 addr show dev mesh0");
        assert!(
            addrs.contains("inet6 fd00:16::1/128 scope global nodad deprecated") && !addrs.contains("fe80"),
            "{addrs}"
        );
        let route = ip("-6 route show fd00:16::/64");
        assert!(route.contains("dev mesh0 proto 109 src fd00::6d65:7368:0:1 metric 1024 mtu 1450"), "{route}");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/conf/mesh0/forwarding").unwrap(), "1\n");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/mesh0/forwarding").unwrap(), "1\n");
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap(),
            "0\n",
            "the host's own stays"
        );
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n", "the host's own stays");
        assert!(!state.path().join("sysctl.json").exists(), "settings of our own link need no record");
    });
}

#[test]
fn the_last_tasks_gateway_goes_without_the_routes() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let (ingress, last) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 16, 1]));
        let mut image = image();
        image.gateways.insert(ingress);
        put(&host, &image).await;
        image.gateways.remove(&last);
        assert_eq!(put(&host, &image).await, [NetOp::RemoveAddress(last)]);
        // With the last address the kernel would have taken them, and calls of the host's processes would fail for a moment.
        assert!(ip("route show 10.0.16.0/20").contains("dev mesh0"));
        assert_eq!(host.observe(&image).await.unwrap(), image.footprint());
    });
}

#[test]
fn a_packet_to_the_overlay_reaches_mesh0_without_arp() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        sender.connect("10.0.16.5:9").unwrap();
        assert_eq!(sender.local_addr().unwrap().ip(), Ipv4Addr::new(192, 168, 7, 1));
        sender.send(b"hello").unwrap();
        let mut frame = [0; 2048];
        eventually("the datagram leaves by mesh0", || {
            while let Ok(len) = recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                let (destination, source, kind) = (&frame[..6], &frame[6..12], &frame[12..14]);
                assert!(kind != [8, 6] || source[0] != 0xe6, "mesh0 asked for a neighbour");
                if kind == [8, 0] && frame[30..34] == [10, 0, 16, 5] {
                    assert_eq!((destination, source), (&[0xe6, 0x12, 0, 0, 0, 1][..], &[0xe6, 0x12, 0, 0, 0, 1][..]));
                    assert_eq!(&frame[len - 5..len], b"hello");
                    return true;
                }
            }
            false
        });
    });
}

#[test]
fn a_host_without_ipv6_on_its_links_has_it_on_mesh0() {
    on_a_host(|| async {
        let switch = |name: &str| format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        std::fs::write(switch("all"), "1").unwrap();
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        assert_eq!(host.observe(&image()).await.unwrap(), image().footprint());
        assert_eq!(std::fs::read_to_string(switch("eth0")).unwrap(), "1\n", "the host's own stays");
        let netns = empty_namespace();
        inside(&netns, || std::fs::write(switch("default"), "1").unwrap());
        host.add_task_link(&task_link(), std::os::fd::AsFd::as_fd(&netns)).await.unwrap();
        assert!(
            inside(&netns, || ip("-6 addr show dev eth0")).contains("inet6 fd00:16::5/64"),
            "an Engine's namespace"
        );
    });
}

#[test]
fn a_second_round_finds_nothing_to_do_and_a_new_agent_adopts() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let mut wanted = image();
        wanted.sysctls.insert("net/ipv4/ip_local_reserved_ports".into(), "61000-61999".into());
        let first = HostNet::open(state.path()).unwrap();
        assert!(!put(&first, &wanted).await.is_empty());
        assert_eq!(put(&first, &wanted).await, vec![]);
        assert_eq!(first.observe(&wanted).await.unwrap(), wanted.footprint());
        for op in diff(&Programmed::default(), &wanted) {
            first.apply(&op, &|_| None).await.unwrap_or_else(|error| panic!("{op:?} a second time: {error}"));
        }
        let index = first.ifindex("mesh0").await.unwrap();
        drop(first);
        let second = HostNet::open(state.path()).unwrap();
        assert!(put(&second, &wanted).await.iter().all(|op| matches!(op, NetOp::HoldPort(_))));
        assert_eq!(second.ifindex("mesh0").await.unwrap(), index, "mesh0 and the programs on it lived on");
    });
}

#[test]
fn purge_leaves_the_host_as_it_was() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        std::fs::write(reserved, "9000").unwrap();
        let before = host_as_people_see_it();
        let host = HostNet::open(state.path()).unwrap();
        let mut wanted = image();
        wanted.sysctls.insert("net/ipv4/ip_local_reserved_ports".into(), "61000-61999".into());
        wanted.task_links.insert("mvabababab".into(), task_link());
        let netns = empty_namespace();
        let converged = host.converge(&wanted, &|_| netns.try_clone().ok(), &|_| Ok(())).await.unwrap();
        assert!(converged.failed.is_empty(), "{:?}", converged.failed);
        assert_ne!(host_as_people_see_it(), before);
        assert_eq!(std::fs::read_to_string(reserved).unwrap().trim(), "61000-61999");
        assert!(state.path().join("sysctl.json").exists());
        // Purge is another process than the agent.
        drop(host);
        let purged = HostNet::open(state.path()).unwrap().purge().await.unwrap();
        assert!(purged.failed.is_empty(), "{:?}", purged.failed);
        assert_eq!(host_as_people_see_it(), before);
        assert_eq!(std::fs::read_to_string(reserved).unwrap().trim(), "9000");
        assert!(!state.path().join("sysctl.json").exists());
    });
}

#[test]
fn what_others_break_is_repaired() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        ip("link set mesh0 down");
        ip("link set mesh0 mtu 1300");
        ip("addr del 10.0.16.1/32 dev mesh0");
        // What `systemd-sysctl` does when it sets ip_forward: every link's own switch goes with it.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/conf/mesh0/forwarding").unwrap(), "0\n");
        put(&host, &image()).await;
        assert_eq!(host.observe(&image()).await.unwrap(), image().footprint());
    });
}

#[test]
fn another_port_takes_a_new_device() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        let mut wanted = image();
        wanted.mesh0.as_mut().unwrap().port = 4790;
        wanted.routes.values_mut().for_each(|route| route.mtu = 1400);
        put(&host, &wanted).await;
        assert_eq!(host.observe(&wanted).await.unwrap(), wanted.footprint());
    });
}

#[test]
fn a_foreign_mesh0_is_left_alone() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        ip("link add mesh0 type veth peer name other");
        let words = only_failure(&host).await;
        assert!(words.contains("mesh did not make (type veth)") && words.contains("ip link delete mesh0"), "{words}");
        host.purge().await.unwrap();
        assert_eq!(link_json("mesh0")["linkinfo"]["info_kind"], "veth");
    });
}

#[test]
fn a_taken_tunnel_port_is_named_with_the_remedy() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let before = ip("link");
        let hog = UdpSocket::bind("0.0.0.0:4789").unwrap();
        let words = only_failure(&host).await;
        assert!(
            words.contains(&format!("(pid {})", std::process::id())) && words.contains("--data-path-port"),
            "{words}"
        );
        assert_eq!(ip("link"), before, "nothing half-made is left");
        drop(hog);
        ip("link add docker type vxlan id 4097 dstport 4789 local 192.168.7.1");
        ip("link set docker up");
        let words = only_failure(&host).await;
        assert!(words.contains("the VXLAN device docker"), "{words}");
        ip("link del docker");
        put(&host, &image()).await;
    });
}

#[test]
fn routes_of_the_host_are_never_replaced() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        ip("route add 10.0.16.0/20 dev eth0 metric 100");
        let before = ip("route show dev eth0");
        let converged = host.converge(&image(), &|_| None, &|_| Ok(())).await.unwrap();
        let [(_, error @ NetError::RouteTaken { .. })] = converged.failed.as_slice() else { panic!("{converged:?}") };
        assert!(error.to_string().contains("reaches 10.0.16.0/20 by eth0"), "{error}");
        assert_eq!(ip("route show dev eth0"), before);
        assert!(host.routed_prefixes().await.unwrap().contains(&"10.0.16.0/20".parse().unwrap()));
        assert!(!host.routed_prefixes().await.unwrap().contains(&"10.0.0.0/20".parse().unwrap()), "ours is no claim");
        ip("addr del 192.168.7.1/24 dev eth0");
        let words = host.converge(&image(), &|_| None, &|_| Ok(())).await.unwrap().failed[0].1.to_string();
        assert!(words.contains("192.168.7.1") && words.contains("--advertise-addr"), "{words}");
    });
}

#[test]
fn a_published_port_is_held_and_callers_are_refused_at_once() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        let anywhere: [IpAddr; 4] = [
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        for addr in anywhere {
            let at = SocketAddr::new(addr, 8000);
            assert_eq!(TcpListener::bind(at).unwrap_err().kind(), ErrorKind::AddrInUse, "tcp {at}");
            assert_eq!(UdpSocket::bind(at).unwrap_err().kind(), ErrorKind::AddrInUse, "udp {at}");
        }
        for addr in
            [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(192, 168, 7, 1).into(), IpAddr::from(Ipv6Addr::LOCALHOST)]
        {
            let begin = Instant::now();
            let at = SocketAddr::new(addr, 8000);
            assert_eq!(TcpStream::connect_timeout(&at, PATIENCE).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let local: IpAddr =
                if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let caller = UdpSocket::bind((local, 0)).unwrap();
            caller.set_read_timeout(Some(PATIENCE)).unwrap();
            caller.connect(at).unwrap();
            caller.send(b"anybody?").unwrap();
            assert_eq!(caller.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "udp {at}");
            assert!(begin.elapsed() < PATIENCE, "{at} hung");
        }
        put(&host, &NetImage { held_ports: Default::default(), ..image() }).await;
        TcpListener::bind("0.0.0.0:8000").unwrap();
    });
}

#[test]
fn a_port_of_one_address_is_held_there_alone_and_before_the_address_is_there() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let held = |addr: &str| {
            let address = Some(addr.parse().unwrap());
            [Transport::Tcp, Transport::Udp].map(|transport| HeldPort { transport, port: 8000, address })
        };
        let later = ["192.168.7.99", "fd00:7::99"];
        let held_ports = ["192.168.7.1"].iter().chain(&later).flat_map(|addr| held(addr)).collect();
        put(&host, &NetImage { held_ports, ..image() }).await;
        let bound = |addr: &str| {
            let at = SocketAddr::new(addr.parse().unwrap(), 8000);
            [TcpListener::bind(at).map(drop), UdpSocket::bind(at).map(drop)].map(|bound| bound.map_err(|e| e.kind()))
        };
        assert_eq!(bound("127.0.0.1"), [Ok(()), Ok(())]);
        for addr in ["192.168.7.1", "0.0.0.0"] {
            assert_eq!(bound(addr), [Err(ErrorKind::AddrInUse); 2], "{addr}");
        }
        ip("addr add 192.168.7.99/24 dev eth0");
        ip("addr add fd00:7::99/64 dev eth0 nodad");
        for addr in later {
            assert_eq!(bound(addr), [Err(ErrorKind::AddrInUse); 2], "{addr}");
        }
        let at = SocketAddr::new(later[0].parse().unwrap(), 8000);
        assert_eq!(TcpStream::connect_timeout(&at, PATIENCE).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_port_of_an_address_that_is_not_here_is_nobodys_concern_until_it_comes() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let _listener = TcpListener::bind("0.0.0.0:8000").unwrap();
        let elsewhere = Some("192.168.7.99".parse().unwrap());
        let port = HeldPort { transport: Transport::Tcp, port: 8000, address: elsewhere };
        let image = NetImage { held_ports: [port].into(), ..image() };
        // With the second, as keepalived has it, a host may bind what it has not.
        for nonlocal in ["0", "1"] {
            std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", nonlocal).unwrap();
            let converged = host.converge(&image, &|_| None, &|_| Ok(())).await.unwrap();
            assert!(converged.failed.is_empty(), "{converged:?}");
        }
        ip("addr add 192.168.7.99/24 dev eth0");
        let converged = host.converge(&image, &|_| None, &|_| Ok(())).await.unwrap();
        let [(_, error @ NetError::PortInUse { .. })] = converged.failed.as_slice() else { panic!("{converged:?}") };
        assert!(error.to_string().contains("192.168.7.99:8000/tcp"), "{error}");
    });
}

#[test]
fn a_port_that_the_host_uses_is_reported_with_its_owner() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:8000").unwrap();
        let converged = host.converge(&image(), &|_| None, &|_| Ok(())).await.unwrap();
        let [(NetOp::HoldPort(port), error @ NetError::PortInUse { .. })] = converged.failed.as_slice() else {
            panic!("{converged:?}")
        };
        assert_eq!(port.to_string(), "8000/tcp");
        assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(listener);
        let port = *port;
        assert_eq!(put(&host, &image()).await, vec![NetOp::HoldPort(port)], "tried again, and it is free now");
    });
}

#[test]
fn uplinks_are_what_packets_may_come_in_by() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        put(&host, &image()).await;
        ip("link add br0 type bridge");
        ip("addr add 172.17.0.1/16 dev br0");
        ip("link add port0 type veth peer name port1");
        ip("addr add 172.17.0.9/16 dev port0");
        ip("link set port0 master br0");
        ip("tuntap add tun0 mode tun");
        ip("addr add 10.9.0.1/24 dev tun0");
        let uplinks = host.uplinks(&[]).await.unwrap();
        let names: Vec<&str> = uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
        assert_eq!(names, ["eth0", "br0", "tun0"]);
        let (eth0, tun0) =
            (uplinks.iter().find(|u| u.name == "eth0").unwrap(), uplinks.iter().find(|u| u.name == "tun0").unwrap());
        assert!(eth0.has_ethernet && !tun0.has_ethernet && eth0.up);
        assert!(eth0.addrs.contains(&"192.168.7.1/24".parse().unwrap()));
        let only: Vec<_> = host.uplinks(&["eth0".into()]).await.unwrap();
        assert_eq!(only.len(), 1);
        let local = host.local_addresses().await.unwrap();
        assert!(local.contains(&IpAddr::from([192, 168, 7, 1])) && local.contains(&IpAddr::from([127, 0, 0, 1])));
        assert!(!local.contains(&IpAddr::from([10, 0, 16, 1])), "a gateway is not the host's own");
    });
}

#[test]
fn the_underlay_tells_address_and_mtu() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let own = IpAddr::from([192, 168, 7, 1]);
        assert_eq!(host.resolve_address("--advertise-addr", None).await.unwrap(), own);
        assert_eq!(
            host.underlay(own, &[IpAddr::from([192, 168, 7, 2])]).await.unwrap(),
            Underlay { mtu: 1500, has_ipv6: true }
        );
        ip("route add 192.168.9.0/24 via 192.168.7.2 mtu 1400");
        assert_eq!(host.mtu_towards(IpAddr::from([192, 168, 9, 1])).await.unwrap(), 1400);
        assert_eq!(
            host.underlay(own, &[IpAddr::from([192, 168, 9, 1]), own]).await.unwrap(),
            Underlay { mtu: 1400, has_ipv6: true }
        );
        assert!(host.mtu_towards(IpAddr::from([8, 8, 8, 8])).await.is_err());
        let words = host.underlay(IpAddr::from([192, 168, 7, 77]), &[]).await.unwrap_err().to_string();
        assert!(words.contains("--data-path-addr"), "{words}");
    });
}

#[test]
fn a_change_is_told_once_and_none_is_lost() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let mut changes = host.changes().unwrap();
        let quiet = std::time::Duration::from_millis(300);
        while tokio::time::timeout(quiet, changes.next()).await.is_ok() {}
        for address in ["192.168.8.1/24", "192.168.8.2/24"] {
            ip(&format!("addr add {address} dev eth0"));
        }
        tokio::time::timeout(PATIENCE, changes.next()).await.expect("an address is news");
        assert!(tokio::time::timeout(quiet, changes.next()).await.is_err(), "a burst is told once");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        tokio::time::timeout(PATIENCE, changes.next()).await.expect("a forwarding switch is news");
    });
}

#[test]
fn a_namespace_has_a_cookie_of_its_own() {
    on_a_host(|| async {
        let ours = crate::kernel::net::namespace::cookie().unwrap();
        let other = inside(&empty_namespace(), || {
            ip("link set lo up");
            crate::kernel::net::namespace::cookie().unwrap()
        });
        assert!(ours != 0 && ours != other);
    });
}

#[test]
fn lists_that_are_asked_for_at_once_are_all_answered() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let ask = |_| host.link_programs(&[]);
        for answer in futures_util::future::join_all((0..64).map(ask)).await {
            answer.unwrap();
        }
        // One that is called off is answered all the same, to nobody.
        for _ in 0..64 {
            let _ = tokio::time::timeout(std::time::Duration::ZERO, host.link_programs(&[])).await;
            host.link_programs(&[]).await.unwrap();
        }
    });
}
