//! A whole data plane beside a rig, for what can't be test-run: hooks of a cgroup, called by real processes.
//!
//! In a network namespace of the calling thread, with pins and a cgroup of its own. Must not: meet another test's; each gives its own name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_common::schema::{Config, Frontend};
use mesh_common::wire::mac;
use mesh_userspace::kernel::bpf::{Dataplane, FlowSizes, TcWay};
use mesh_userspace::kernel::net::filters::Clsact;
use mesh_userspace::kernel::net::namespace;
use nix::sched::{CloneFlags, unshare};

use super::HERE;

/// See the module; dropping it takes its pins and its cgroup away.
pub struct Beside {
    bpf: PathBuf,
    cgroup: PathBuf,
}

impl Beside {
    /// A namespace with `lo`, and the programs in it.
    pub fn open(name: &str) -> (Beside, Dataplane) {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs").success());
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
        let name = format!("mesh-test-{name}-{}", std::process::id());
        let cgroup = Path::new(line.split(' ').nth(1).expect("a folder")).join(&name);
        std::fs::create_dir(&cgroup).expect("a cgroup");
        let beside = Beside { bpf: Path::new("/sys/fs/bpf").join(name), cgroup };
        let sizes = FlowSizes { table: 4_096, overflow: 1_024 };
        let dataplane = Dataplane::open(&beside.bpf, &beside.cgroup, sizes, TcWay::Tcx, Box::new(Clsact));
        (beside, dataplane.expect("a data plane"))
    }

    /// What a process of the host is told when it calls this address at 8080.
    pub fn call(&self, addr: &str) -> String {
        let script = format!("echo $$ > {}/cgroup.procs && exec 3<>/dev/tcp/{addr}/8080", self.cgroup.display());
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
        mesh0_mac: mac::of(mac::KIND_MESH0, 1),
        data_port: 4_789,
        ..Config::NONE
    }
}

/// A port of a service that nobody serves: a call is pointed at its VIP and no further.
pub fn frontend(vip: [u8; 4]) -> Frontend<IpAddr> {
    Frontend { pool: 3, vni: 4_097, target_port: 80, ..Frontend::none(IpAddr::from(vip)) }
}
