//! A host of its own for each test: a namespace with one NIC (a veth), and helpers to look at it with other eyes than ours.

use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_common::wire::mac;
use nix::sched::{CloneFlags, setns, unshare};

use crate::model::Id;
use crate::plan::net::*;

pub const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `test` on a thread in a new network namespace with `lo` and `eth0` (192.168.7.1/24, MTU 1500) up.
pub fn on_a_host<W: Future<Output = ()>>(test: impl FnOnce() -> W + Send + 'static) {
    if !crate::kernel::net::namespace::is_root() {
        assert!(std::env::var("MESH_MUST_RUN").is_err(), "this test makes network namespaces: run it as root");
        eprintln!("skipped: this test makes network namespaces, run it as root");
        return;
    }
    let host = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        ip("link set lo up");
        // No link-local addresses, whose duplicate detection would change the picture while a test compares it.
        std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
        ip("link add eth0 type veth peer name cable");
        ip("addr add 192.168.7.1/24 dev eth0");
        ip("link set eth0 up");
        ip("link set cable up");
        eventually("the cable is plugged in", || {
            ["eth0", "cable"].iter().all(|link| link_json(link)["operstate"] == "UP")
        });
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A namespace without anything in it: a task's.
pub fn empty_namespace() -> OwnedFd {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    });
    made.join().unwrap()
}

/// Does `work` on a thread in `netns`.
pub fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// `ip …`, in the calling thread's namespace; its output.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `ip -d -j link show NAME`.
pub fn link_json(name: &str) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&ip(&format!("-d -j link show {name}"))).unwrap();
    all[0].clone()
}

/// Everything that purge must leave as it was.
pub fn host_as_people_see_it() -> String {
    ["-d link", "addr", "route show table all", "-6 route show table all", "rule", "neigh"]
        .map(|what| {
            // Lifetimes and counters move on their own.
            ip(what).lines().filter(|line| !line.contains("valid_lft")).collect::<Vec<_>>().join("\n")
        })
        .join("\n--\n")
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn task_id() -> Id {
    Id::from_bytes([0xab; 16])
}

pub fn task_link() -> TaskLink {
    TaskLink {
        name: "mvabababab".into(),
        task_id: task_id(),
        mac: mac::of(mac::KIND_TASK, 77),
        mtu: 1450,
        addrs: ["10.0.16.5/20", "fd00:16::5/64", "10.0.32.9/20", "fd00:32::9/64"]
            .map(|net| net.parse().unwrap())
            .into(),
        gateways: "10.0.16.1,fd00:16::1".parse().unwrap(),
        guest: false,
    }
}

/// One network of both families with a task here, one port, no task link.
pub fn image() -> NetImage {
    let own = "fd00::6d65:7368:0:1".parse().unwrap();
    let route = |net: &str| {
        let src = if net.contains(':') { own } else { Ipv4Addr::new(192, 168, 7, 1).into() };
        (net.parse().unwrap(), Route { src: Some(src), mtu: 1450 })
    };
    let of_ipv6 = [("accept_ra", "0"), ("addr_gen_mode", "1"), ("disable_ipv6", "0"), ("forwarding", "1")]
        .map(|(name, value)| (format!("net/ipv6/conf/mesh0/{name}"), value.to_string()));
    let sysctls = [("forwarding", "1"), ("rp_filter", "0")]
        .map(|(name, value)| (format!("net/ipv4/conf/mesh0/{name}"), value.to_string()));
    NetImage {
        mesh0: Some(Mesh0 { port: 4789, mac: mac::of(mac::KIND_MESH0, 1), mtu: 1450 }),
        gateways: ["10.0.16.1", "fd00:16::1"].map(|addr| addr.parse().unwrap()).into(),
        own_addr: Some(own),
        routes: ["10.0.0.0/20", "10.0.16.0/20", "fd00::/64", "fd00:16::/64"].map(route).into(),
        task_links: Default::default(),
        held_ports: [Transport::Tcp, Transport::Udp]
            .map(|transport| HeldPort { transport, port: 8000, address: None })
            .into(),
        sysctls: sysctls.into_iter().chain(of_ipv6).collect(),
    }
}
