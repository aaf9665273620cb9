//! Every key that may stand in a manifest, by section, and its fate. What stands nowhere here is unknown.

/// What becomes of a key.
pub(super) enum Fate {
    Read,
    /// Says nothing to us and asks nothing of us.
    Pass,
    /// Compose knows it, we don't do it, and nothing is lost: said aloud.
    Warn,
    /// Compose knows it, and ignoring it would lose data or safety.
    Refuse(&'static str),
    Unknown(String),
}

/// One section's keys.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    read: &'static [&'static str],
    pass: &'static [&'static str],
    warn: &'static [&'static str],
    refuse: &'static [(&'static str, &'static str)],
}

const NONE: Keys = Keys { read: &[], pass: &[], warn: &[], refuse: &[] };

pub(super) const TOP: Keys = Keys {
    read: &["services", "networks"],
    pass: &["version"],
    warn: &["name"],
    refuse: &[
        ("volumes", "named volumes are not there yet; use a bind mount (/host/path:/path) in the service"),
        ("secrets", "secrets are not there yet; without them the services would run unprotected or not at all"),
        ("configs", "configs are not there yet; bind-mount the file (/host/path:/path) in the service"),
        ("include", "other files are not read; write one manifest (mesh stack config -c - reads standard input)"),
    ],
};

pub(super) const SERVICE: Keys = Keys {
    read: &[
        "image",
        "command",
        "entrypoint",
        "environment",
        "ports",
        "networks",
        "healthcheck",
        "stop_grace_period",
        "stop_signal",
        "hostname",
        "user",
        "working_dir",
        "volumes",
        "deploy",
        "x-mesh",
    ],
    pass: &[],
    warn: &[
        "annotations",
        "attach",
        "blkio_config",
        "build",
        "cap_add",
        "cgroup_parent",
        "container_name",
        "cpu_count",
        "cpu_percent",
        "cpu_period",
        "cpu_quota",
        "cpu_shares",
        "cpuset",
        "depends_on",
        "develop",
        "dns",
        "dns_opt",
        "dns_search",
        "domainname",
        "expose",
        "external_links",
        "extra_hosts",
        "init",
        "isolation",
        "labels",
        "links",
        "logging",
        "mac_address",
        "oom_kill_disable",
        "oom_score_adj",
        "platform",
        "profiles",
        "pull_policy",
        "restart",
        "runtime",
        "scale",
        "shm_size",
        "stdin_open",
        "storage_opt",
        "sysctls",
        "tty",
        "ulimits",
    ],
    refuse: &[
        ("secrets", "secrets are not there yet; without them the service would run unprotected or not at all"),
        ("configs", "configs are not there yet; bind-mount the file (volumes: ['/host/path:/path'])"),
        ("privileged", "privileged tasks are not there; take it out"),
        ("cap_drop", "capabilities can't be dropped one by one yet; tasks have Docker's default set"),
        ("security_opt", "it is not there yet, and without it the service would be less protected than asked"),
        ("read_only", "a read-only root is not there yet, and without it the service could write more than asked"),
        ("network_mode", "tasks have a network of their own: use 'networks'"),
        ("pid", "tasks have a PID namespace of their own"),
        ("ipc", "it is not there yet"),
        ("userns_mode", "it is not there yet"),
        ("uts", "tasks have a UTS namespace of their own"),
        ("cgroup", "tasks have a cgroup of their own"),
        ("group_add", "it is not there yet"),
        ("devices", "it is not there yet"),
        ("device_cgroup_rules", "it is not there yet"),
        ("gpus", "it is not there yet"),
        ("tmpfs", "mounts of type tmpfs are not there yet"),
        ("volumes_from", "volumes of others are not there; use a bind mount under 'volumes'"),
        ("env_file", "files of variables are not read; write them under 'environment'"),
        ("extends", "other services' definitions are not read; use a YAML anchor and a merge key (<<)"),
        ("cpus", "write it as deploy.resources.limits.cpus"),
        ("mem_limit", "write it as deploy.resources.limits.memory"),
        ("memswap_limit", "it is not there yet"),
        ("mem_reservation", "write it as deploy.resources.reservations.memory"),
        ("mem_swappiness", "it is not there yet"),
        ("pids_limit", "it is not there yet"),
        ("credential_spec", "it is not there"),
        ("post_start", "hooks are not there yet"),
        ("pre_stop", "hooks are not there yet"),
    ],
};

pub(super) const X_MESH: Keys = Keys { read: &["runtime", "lb", "affinity"], ..NONE };

pub(super) const PORT: Keys = Keys {
    read: &["target", "published", "protocol", "mode"],
    warn: &["name", "app_protocol"],
    refuse: &[("host_ip", "services answer on every node; a host address can't be chosen")],
    ..NONE
};

pub(super) const ATTACHMENT: Keys = Keys {
    read: &["aliases"],
    warn: &["priority", "gw_priority", "driver_opts", "link_local_ips", "mac_address", "interface_name"],
    refuse: &[
        ("ipv4_address", "tasks' addresses are chosen by mesh, as in Swarm; use the service's name"),
        ("ipv6_address", "tasks' addresses are chosen by mesh, as in Swarm; use the service's name"),
    ],
    ..NONE
};

pub(super) const HEALTH: Keys =
    Keys { read: &["test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"], ..NONE };

pub(super) const VOLUME: Keys = Keys {
    read: &["type", "source", "target", "read_only"],
    warn: &["consistency", "bind"],
    refuse: &[("volume", "named volumes are not there yet"), ("tmpfs", "mounts of type tmpfs are not there yet")],
    ..NONE
};

pub(super) const DEPLOY: Keys = Keys {
    read: &[
        "mode",
        "replicas",
        "endpoint_mode",
        "labels",
        "placement",
        "restart_policy",
        "update_config",
        "rollback_config",
        "resources",
    ],
    ..NONE
};

pub(super) const PLACEMENT: Keys =
    Keys { read: &["constraints", "max_replicas_per_node"], warn: &["preferences"], ..NONE };

pub(super) const RESTART: Keys = Keys { read: &["condition", "delay", "max_attempts", "window"], ..NONE };

pub(super) const UPDATE: Keys =
    Keys { read: &["parallelism", "delay", "monitor", "failure_action", "max_failure_ratio", "order"], ..NONE };

pub(super) const RESOURCES: Keys = Keys { read: &["limits", "reservations"], ..NONE };

pub(super) const AMOUNTS: Keys = Keys {
    read: &["cpus", "memory"],
    warn: &["generic_resources"],
    refuse: &[("pids", "it is not there yet"), ("devices", "it is not there yet")],
    ..NONE
};

pub(super) const NETWORK: Keys = Keys {
    read: &["driver", "driver_opts", "attachable", "internal", "ipam", "external", "name", "labels"],
    warn: &["enable_ipv4"],
    refuse: &[("enable_ipv6", "IPv6 inside networks is not there yet")],
    ..NONE
};

pub(super) const EXTERNAL: Keys = Keys { read: &["name"], ..NONE };

pub(super) const IPAM: Keys = Keys { read: &["config"], warn: &["driver", "options"], ..NONE };

pub(super) const IPAM_CONFIG: Keys =
    Keys { read: &["subnet", "gateway"], warn: &["ip_range", "aux_addresses"], ..NONE };

impl Keys {
    pub fn fate(&self, key: &str) -> Fate {
        if self.read.contains(&key) {
            return Fate::Read;
        }
        if self.pass.contains(&key) || key.starts_with("x-") {
            return Fate::Pass;
        }
        if self.warn.contains(&key) {
            return Fate::Warn;
        }
        match self.refuse.iter().find(|(refused, _)| *refused == key) {
            Some((_, why)) => Fate::Refuse(why),
            None => Fate::Unknown(self.unknown(key)),
        }
    }

    fn unknown(&self, key: &str) -> String {
        let known = self.read.iter().chain(self.pass).chain(self.warn);
        let nearest = known.map(|known| (distance(key, known), *known)).min();
        match nearest {
            Some((steps, nearest)) if steps <= 2 + key.len() / 6 && steps < nearest.len() => {
                format!("this key is unknown; did you mean '{nearest}'?")
            }
            _ => format!("this key is unknown; allowed are {}", self.read.join(", ")),
        }
    }
}

/// Steps from one word to the other: a letter added, taken away, replaced, or two neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut steps = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(before[j - 2] + 1);
            }
            row.push(steps);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_swaps_once() {
        assert_eq!(distance("enviroment", "environment"), 1);
        assert_eq!(distance("prots", "ports"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
