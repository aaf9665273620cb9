//! Links into containers that have a network already.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use super::bed::*;
use crate::kernel::net::HostNet;
use crate::plan::net::*;

/// A container with a bridge network: `eth0` 172.17.0.2/16 with the default route by 172.17.0.1, the host's `docker0`. A process holds
/// its namespace, as a container's does.
struct Container {
    netns: OwnedFd,
    process: Child,
}

impl Container {
    fn start() -> Container {
        Container::start_on(0)
    }

    /// On bridge `dockerN`, 172.17+N.0.0/16.
    fn start_on(number: u8) -> Container {
        let netns = empty_namespace();
        let process = inside(&netns, || {
            std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
        });
        let container = Container { netns, process };
        let (bridge, subnet) = (format!("docker{number}"), format!("172.{}.0", 17 + number));
        ip(&format!("link add {bridge} type veth peer name eth0 netns {}", container.process.id()));
        ip(&format!("addr add {subnet}.1/16 dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        container.ip("link set lo up");
        container.ip(&format!("addr add {subnet}.2/16 dev eth0"));
        container.ip("link set eth0 up");
        container.ip(&format!("route add default via {subnet}.1"));
        container
    }

    fn ip(&self, arguments: &str) -> String {
        inside(&self.netns, || ip(arguments))
    }

    /// Everything that must be there again when we are gone.
    fn as_people_see_it(&self) -> String {
        inside(&self.netns, || {
            let settings = ["all", "default", "eth0"].map(|name| {
                ["rp_filter", "arp_ignore", "forwarding"]
                    .map(|key| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/{key}")).unwrap())
            });
            // Neighbours come and go with what the container says to Docker's side.
            let seen = host_as_people_see_it();
            format!("{}\n{settings:?}", seen.rsplit_once("\n--\n").unwrap().0)
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn guest() -> TaskLink {
    TaskLink { guest: true, ..task_link() }
}

/// The programs' part, played by the host's own stack: gateways of both networks, and a caller from outside whose address only our
/// side knows.
fn play_the_programs() {
    for address in ["10.0.16.1/20", "10.0.32.1/20", "198.51.100.7/32"] {
        ip(&format!("addr add {address} dev mvabababab"));
    }
}

#[test]
fn a_guest_keeps_its_own_network_and_answers_by_ours() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let container = Container::start();
        // The worst that an administrator may have set: answers must leave by the interface that a packet came in by.
        inside(&container.netns, || std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap());
        let before = container.as_people_see_it();
        host.add_task_link(&guest(), container.netns.as_fd()).await.unwrap();

        let (mesh0, routes, rules) = inside(&container.netns, || (link_json("mesh0"), ip("route"), ip("rule")));
        assert_eq!((&mesh0["address"], &mesh0["mtu"]), (&"e6:11:00:00:00:4d".into(), &1450.into()));
        for route in ["default via 172.17.0.1 dev eth0", "10.0.16.0/20 dev mesh0 proto kernel scope link src 10.0.16.5"]
        {
            assert!(routes.contains(route), "{route} is not among\n{routes}");
        }
        assert_eq!(routes.matches("default").count(), 1, "{routes}");
        for rule in ["10900:\tfrom 10.0.16.5 lookup 109 proto 109", "10900:\tfrom 10.0.32.9 lookup 109 proto 109"] {
            assert!(rules.contains(rule), "{rule} is not among\n{rules}");
        }

        play_the_programs();
        let ways = container.ip("route get 198.51.100.7 from 10.0.32.9");
        assert!(ways.contains("via 10.0.16.1 dev mesh0"), "{ways}");
        assert!(container.ip("route get 10.0.32.77 from 10.0.32.9").contains("10.0.32.77 from 10.0.32.9 dev mesh0"));
        assert!(container.ip("route get 198.51.100.7").contains("via 172.17.0.1 dev eth0"), "its own go as before");

        // A caller with an address of anywhere, on TCP and UDP; on both networks' addresses.
        for address in [[10, 0, 16, 5], [10, 0, 32, 9]].map(Ipv4Addr::from) {
            let listener = inside(&container.netns, || TcpListener::bind("0.0.0.0:0").unwrap());
            let port = listener.local_addr().unwrap().port();
            let from: SocketAddr = "198.51.100.7:0".parse().unwrap();
            let caller = tokio::net::TcpSocket::new_v4().unwrap();
            caller.bind(from).unwrap();
            let call = tokio::time::timeout(PATIENCE, caller.connect((address, port).into())).await;
            let mut caller: TcpStream = call.expect("an answer").unwrap().into_std().unwrap();
            caller.set_nonblocking(false).unwrap();
            let (mut answering, seen) = listener.accept().unwrap();
            assert_eq!(seen.ip(), Ipv4Addr::new(198, 51, 100, 7), "with the caller's own address");
            answering.write_all(b"hello").unwrap();
            drop(answering);
            let mut said = String::new();
            caller.read_to_string(&mut said).unwrap();
            assert_eq!(said, "hello");
        }
        let server = inside(&container.netns, || UdpSocket::bind("10.0.16.5:0").unwrap());
        let caller = UdpSocket::bind("198.51.100.7:0").unwrap();
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        caller.send_to(b"x", server.local_addr().unwrap()).unwrap();
        let mut byte = [0];
        let (_, from) = server.recv_from(&mut byte).unwrap();
        server.send_to(b"y", from).unwrap();
        assert_eq!(caller.recv_from(&mut byte).unwrap().1, server.local_addr().unwrap());

        // Docker's side goes on as before.
        let listener = inside(&container.netns, || TcpListener::bind("172.17.0.2:80").unwrap());
        TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
        drop(listener);

        host.remove_task_link("mvabababab").await.unwrap();
        assert_eq!(container.as_people_see_it(), before);
    });
}

#[test]
fn a_purge_that_knows_nobody_leaves_the_container_as_it_was() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let container = Container::start();
        let before = container.as_people_see_it();
        HostNet::open(state.path()).unwrap().add_task_link(&guest(), container.netns.as_fd()).await.unwrap();
        // Somebody else's rule and table stay.
        container.ip("rule add from 10.0.16.5 lookup 77 pref 700");
        assert!(container.ip("rule").contains("lookup 109"));
        HostNet::open(state.path()).unwrap().purge().await.unwrap();
        assert!(container.ip("rule").contains("700:\tfrom 10.0.16.5 lookup 77"));
        container.ip("rule del pref 700");
        assert_eq!(container.as_people_see_it(), before);
    });
}

#[test]
fn a_guests_link_is_adopted_by_its_mac_and_completed() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let container = Container::start();
        // The first name is taken; Docker's eth1 stays free for Docker.
        container.ip("link add mesh0 type veth peer name other");
        host.add_task_link(&guest(), container.netns.as_fd()).await.unwrap();
        let index = host.ifindex("mvabababab").await.unwrap();
        assert_eq!(inside(&container.netns, || link_json("mesh1"))["address"], "e6:11:00:00:00:4d");
        assert_eq!(link_json("mvabababab")["ifalias"], format!("mesh guest {}", task_id()));

        let wanted = NetImage { task_links: [("mvabababab".into(), guest())].into(), ..Default::default() };
        let fresh = HostNet::open(state.path()).unwrap();
        let adopted = fresh.converge(&wanted, &|_| None, &|_| Ok(())).await.unwrap();
        assert!(adopted.done.is_empty() && adopted.failed.is_empty(), "{adopted:?}");
        container.ip("rule del pref 10900");
        container.ip("route flush table 109");
        fresh.add_task_link(&guest(), container.netns.as_fd()).await.unwrap();
        assert_eq!(fresh.ifindex("mvabababab").await.unwrap(), index, "the same link throughout");
        assert_eq!(container.ip("rule").matches("lookup 109").count(), 2);
        assert!(container.ip("route show table 109").contains("default via 10.0.16.1 dev mesh1"));

        let mut smaller = wanted.clone();
        smaller.task_links.values_mut().for_each(|link| link.mtu = 1400);
        let netns = || container.netns.try_clone().ok();
        fresh.converge(&smaller, &|_| netns(), &|_| Ok(())).await.unwrap();
        assert_eq!(inside(&container.netns, || link_json("mesh1"))["mtu"], 1400);

        // Started again, it has a new namespace: the link is made anew there.
        let again = Container::start_on(1);
        fresh.add_task_link(&guest(), again.netns.as_fd()).await.unwrap();
        assert!(again.ip("link").contains("mesh0"));
        assert!(!container.ip("link").contains("mesh1") && !container.ip("rule").contains("lookup 109"));
    });
}
