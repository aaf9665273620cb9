//! A whole data plane beside a rig, for what can't be test-run: pins and links, and hooks of a cgroup that real processes call.
//!
//! With pins and a cgroup of its own, and where it is wanted in a network namespace of the calling thread. Addresses are of the family of the test (`rig::Family`), said
//! in IPv4's words. Must not: meet another test's; each gives its own name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_common::schema::{Config, Frontend};
use mesh_userspace::kernel::bpf::{BpfError, Dataplane, FlowSizes, TcWay};
use mesh_userspace::kernel::net::filters::Clsact;
use mesh_userspace::kernel::net::namespace;
use nix::sched::{CloneFlags, unshare};

use super::{HERE, MESH0_MAC, address, ip};

/// Flow tables of these tests.
pub const SMALL: FlowSizes = FlowSizes { table: 4_096, overflow: 1_024 };

/// See the module; dropping it takes its pins and its cgroup away.
pub struct Beside {
    /// Where versions of the layout are pinned.
    pub bpf: PathBuf,
    /// The cgroup that is hooked.
    pub cgroup: PathBuf,
}

impl Beside {
    /// A place for pins that nobody else has, and a cgroup; nothing is loaded yet.
    pub fn new(name: &str) -> Beside {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
        let name = format!("mesh-test-{name}-{}", std::process::id());
        let cgroup = Path::new(line.split(' ').nth(1).expect("a folder")).join(&name);
        std::fs::create_dir(&cgroup).expect("a cgroup");
        Beside { bpf: Path::new("/sys/fs/bpf").join(name), cgroup }
    }

    /// The programs and maps in that place, as an agent opens them: made, or found.
    pub fn open(&self, flows: FlowSizes) -> Result<Dataplane, BpfError> {
        self.open_by(TcWay::Tcx, flows)
    }

    /// The same, attached by this way.
    pub fn open_by(&self, way: TcWay, flows: FlowSizes) -> Result<Dataplane, BpfError> {
        Dataplane::open(&self.bpf, &self.cgroup, flows, way, Box::new(Clsact))
    }

    /// A namespace with `lo` for the calling thread, and the programs in it.
    pub fn in_a_namespace(name: &str) -> (Beside, Dataplane) {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs").success());
        let beside = Beside::new(name);
        let dataplane = beside.open(SMALL).expect("a data plane");
        (beside, dataplane)
    }

    /// The host has this address, too, on `lo`.
    pub fn own_address(&self, addr: [u8; 4]) {
        let addr = address(addr);
        let words = format!("address add {addr}/{} dev lo", if addr.is_ipv4() { 32 } else { 128 });
        assert!(Command::new("ip").args(words.split(' ')).status().expect("ip runs").success(), "ip {words}");
    }

    /// What a process of the host is told when it calls this address at 8080.
    pub fn call(&self, addr: &str) -> String {
        self.run(&format!("exec 3<>/dev/tcp/{}/8080", address(ip(addr))))
    }

    /// The same of a process in the host's cgroup that has a network namespace of its own, as a sandbox's has: nobody listens there.
    pub fn call_from_a_sandbox(&self, addr: &str) -> String {
        self.run(&format!(
            "exec unshare --net bash -c 'ip link set lo up && exec 3<>/dev/tcp/{}/8080'",
            address(ip(addr))
        ))
    }

    /// What a shell in the cgroup complains of.
    fn run(&self, script: &str) -> String {
        let script = format!("echo $$ > {}/cgroup.procs && {script}", self.cgroup.display());
        let output = Command::new("bash").args(["-c", &script]).env("LC_ALL", "C").output().expect("bash runs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = Dataplane::purge(&self.bpf); // the next test has another name
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// Node 1 in the namespace of the calling thread.
pub fn config() -> Config {
    Config {
        netns_cookie: namespace::cookie().expect("the namespace's number"),
        node: 1,
        mesh0: 1,
        tunnel_addr4: HERE,
        mesh0_mac: MESH0_MAC,
        data_port: 4_789,
        ..Config::NONE
    }
}

/// A port of a service that nobody serves: a call is pointed at its VIP and no further.
pub fn frontend(vip: [u8; 4]) -> Frontend<IpAddr> {
    Frontend { pool: 3, vni: 4_097, target_port: 80, ..Frontend::none(address(vip)) }
}
