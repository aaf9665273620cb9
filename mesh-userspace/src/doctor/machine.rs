//! The machine itself: rights, kernel, mounts, the Engine, the state directory, the clock's discipline.

use super::ports::PORTS_OF_SWARM;
use super::{Clock, Engine, Finding, Machine, PortFact, Programs, StateDir};

/// The oldest kernel that this is tried on, Debian 12's: docs/decisions/0012-kernels.md.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// What the agent uses, with their numbers in linux/capability.h.
const NEEDED: [(u32, &str); 8] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (10, "CAP_NET_BIND_SERVICE"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
];

/// A store, its copy while it is compacted, and tasks' output fit in this.
const LEAST_FREE_BYTES: u64 = 256 << 20;

/// `6.18.44-fc` → (6, 18).
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// `ports` are those that mesh has or would have.
pub(super) fn judge(machine: &Machine, ports: &[PortFact]) -> Vec<Finding> {
    vec![
        rights(machine),
        kernel(machine),
        programs(machine),
        bpffs(machine),
        cgroup(machine),
        engine(machine, ports),
        state_dir(&machine.state_dir),
    ]
}

fn rights(machine: &Machine) -> Finding {
    if !machine.is_root {
        return Finding::failed(
            "rights",
            "this process is not root: what only root may see was left out",
            "run it with sudo; where an agent runs, being in the group mesh is enough",
        );
    }
    let lacks = |(bit, _): &&(u32, &str)| machine.capabilities.is_some_and(|set| set & (1 << bit) == 0);
    let missing: Vec<&str> = NEEDED.iter().filter(lacks).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Finding::ok("rights", "root, with the capabilities needed");
    }
    Finding::failed(
        "rights",
        format!("root, but without {}", missing.join(", ")),
        "run mesh on the host itself; inside a container it must be privileged and share the host's network and PIDs",
    )
}

fn kernel(machine: &Machine) -> Finding {
    let release = &machine.release;
    if kernel_version(release).is_some_and(|version| version < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        return Finding::failed(
            "kernel",
            format!("{release} is too old: mesh needs {major}.{minor} or newer"),
            "install a newer kernel (Debian 12 and newer have one) and start it",
        );
    }
    if !machine.has_btf {
        return Finding::failed(
            "kernel",
            format!("{release} has no BTF: /sys/kernel/btf/vmlinux is missing"),
            "start a kernel built with CONFIG_DEBUG_INFO_BTF; those of the distributions are",
        );
    }
    if let (Some(Err(tcx)), Some(Err(clsact))) = (&machine.tcx, &machine.clsact) {
        return Finding::failed(
            "kernel",
            format!("{release} has neither TCX ({tcx}) nor filters of clsact: {clsact}"),
            "load its modules: modprobe -a sch_ingress cls_bpf; or start a kernel with TCX (Linux 6.6)",
        );
    }
    let xdp = match machine.has_xdp {
        Some(true) => ", XDP",
        Some(false) => ", no XDP (not needed)",
        None => "",
    };
    let tc = match (&machine.tcx, &machine.clsact) {
        (Some(Ok(())), _) => ", TCX",
        (_, Some(Ok(()))) => ", clsact (no TCX, which is as well)",
        _ => "",
    };
    Finding::ok("kernel", format!("{release}, BTF{tc}{xdp}"))
}

fn programs(machine: &Machine) -> Finding {
    match &machine.programs {
        Programs::Loaded => Finding::ok("programs", "loaded and running"),
        Programs::Tried(Ok(())) => Finding::ok("programs", "the kernel takes them (tried, and let go)"),
        Programs::Tried(Err(error)) => Finding::failed(
            "programs",
            format!("the kernel refuses them: {error}"),
            "start a kernel from 6.1 on with BTF; if this one is, please report the line above with `uname -a`",
        ),
        Programs::NotTried => Finding::ok("programs", "not tried: that needs root"),
    }
}

fn bpffs(machine: &Machine) -> Finding {
    let dir = &machine.bpf_dir;
    if machine.is_bpffs {
        return Finding::ok("bpffs", dir.clone());
    }
    Finding::failed(
        "bpffs",
        format!("{dir} is not on a BPF file system"),
        "mount -t bpf bpf /sys/fs/bpf (systemd does so at boot), or name another with --bpf-dir",
    )
}

fn cgroup(machine: &Machine) -> Finding {
    match &machine.cgroup {
        Ok(dir) if machine.is_cgroup_hybrid => Finding::ok(
            "cgroup2",
            format!(
                "{dir}, beside version 1 (limits of tasks need the controllers: systemd.unified_cgroup_hierarchy=1)"
            ),
        ),
        Ok(dir) => Finding::ok("cgroup2", dir.clone()),
        Err(why) => Finding::failed(
            "cgroup2",
            why.clone(),
            "mount -t cgroup2 none /sys/fs/cgroup/unified (make the folder first), or name one with --cgroup",
        ),
    }
}

fn engine(machine: &Machine, ports: &[PortFact]) -> Finding {
    let shared: Vec<&str> =
        PORTS_OF_SWARM.into_iter().filter(|port| ports.iter().any(|ours| ours.port == *port)).collect();
    match &machine.engine {
        Engine::Answers { version, is_in_swarm: true, .. } if !shared.is_empty() => Finding::warning(
            "engine",
            format!(
                "Docker Engine {version} is in a Swarm of its own, which takes {} when it needs it, as mesh does",
                shared.join(", ")
            ),
            "enter a cluster by other ports (`mesh swarm init` and `join` take --listen-addr and --gossip-port, `init` takes \
             --data-path-port), or take its services over, then `docker swarm leave --force`; the Engine itself may stay",
        ),
        Engine::Answers { at, version, is_in_swarm: true } => Finding::ok(
            "engine",
            format!("Docker Engine {version} at {at}, in a Swarm of its own, whose ports mesh does not use"),
        ),
        Engine::Answers { at, version, .. } => Finding::ok("engine", format!("Docker Engine {version} at {at}")),
        Engine::Absent { at } if machine.wants_engine => Finding::failed(
            "engine",
            format!("--runtimes names docker, but no Docker Engine listens at {at}"),
            "start it (systemctl start docker), install it, name its socket in DOCKER_HOST, or leave docker out of --runtimes",
        ),
        Engine::Absent { at } => Finding::ok("engine", format!("none at {at}; tasks run with --runtime exec")),
        Engine::Silent { at, why } => Finding::warning(
            "engine",
            format!("somebody listens at {at}, but it does not answer as a Docker Engine: {why}"),
            "look at it with `docker version` and `systemctl status docker`, and restart it if it hangs",
        ),
    }
}

fn state_dir(dir: &StateDir) -> Finding {
    let path = &dir.path;
    if let Some(problem) = &dir.problem {
        return Finding::failed(
            "state",
            format!("{path} can't be written: {problem}"),
            "mend its file system (mount -o remount,rw) or permissions, or name another folder with --state-dir",
        );
    }
    if let Some(mode) = dir.mode.filter(|mode| mode & 0o022 != 0) {
        return Finding::warning(
            "state",
            format!("{path} may be written by others than root (mode {mode:o}): it holds this node's keys"),
            format!("chmod go-w {path}"),
        );
    }
    match dir.free_bytes {
        Some(free) if free < LEAST_FREE_BYTES => Finding::warning(
            "state",
            format!("{path} has {} MiB free: the store and tasks' output need room", free >> 20),
            "make room on that file system, or name another folder with --state-dir",
        ),
        Some(free) => Finding::ok("state", format!("{path}, {} MiB free", free >> 20)),
        None => Finding::ok("state", path.clone()),
    }
}

/// A clock that nobody sets drifts. Where the other nodes can be asked, their word counts more than the kernel's.
pub(super) fn clock(clock: Clock, peers_are_asked: bool) -> Option<Finding> {
    const CHECK: &str = "clock source";
    match (clock, peers_are_asked) {
        (Clock::Synchronised, _) => Some(Finding::ok(CHECK, "set by NTP or the like")),
        (Clock::Alone, true) => {
            Some(Finding::ok(CHECK, "the kernel knows of none; compared with the other nodes below"))
        }
        (Clock::Alone, false) => Some(Finding::warning(
            CHECK,
            "nobody sets this machine's clock, as far as the kernel knows",
            "let NTP set it (systemctl enable --now systemd-timesyncd, or chrony): certificates and logs go by it",
        )),
        (Clock::Unknown, _) => None,
    }
}
