//! Every key that may stand in a manifest, by section, and its fate. What stands nowhere here is unknown.

/// What becomes of a key.
pub(super) enum Fate {
    Read,
    /// Says nothing to us and asks nothing of us.
    Pass,
    /// Compose knows it, we don't do it, and nothing is lost: said aloud, with the reason.
    Warn(&'static str),
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
    /// Warned of with a reason of its own.
    say: &'static [(&'static str, &'static str)],
    refuse: &'static [(&'static str, &'static str)],
}

const NONE: Keys = Keys { read: &[], pass: &[], warn: &[], say: &[], refuse: &[] };

pub(super) const TOP: Keys = Keys {
    read: &["services", "networks", "volumes"],
    pass: &["version"],
    say: &[("name", "the stack is named on the command line")],
    refuse: &[
        ("secrets", "secrets are not there yet; without them the services would run unprotected or not at all"),
        ("configs", "configs are not there yet; bind-mount the file (./file:/path) in the service"),
        ("include", "other files are not read; write one manifest (mesh stack config -c - reads standard input)"),
    ],
    ..NONE
};

/// A container of ours is less privileged than asked, never more.
const MORE_ISOLATED: &str = "tasks have one of their own, as in Swarm";

pub(super) const SERVICE: Keys = Keys {
    read: &[
        "image",
        "build",
        "command",
        "entrypoint",
        "environment",
        "env_file",
        "ports",
        "networks",
        "network_mode",
        "healthcheck",
        "stop_grace_period",
        "stop_signal",
        "hostname",
        "user",
        "group_add",
        "working_dir",
        "volumes",
        "tmpfs",
        "labels",
        "tty",
        "stdin_open",
        "init",
        "read_only",
        "cap_add",
        "cap_drop",
        "security_opt",
        "extra_hosts",
        "sysctls",
        "ulimits",
        "shm_size",
        "pids_limit",
        "deploy",
        "x-mesh",
    ],
    warn: &[
        "annotations",
        "attach",
        "blkio_config",
        "cgroup_parent",
        "cpu_count",
        "cpu_percent",
        "cpu_period",
        "cpu_quota",
        "cpu_shares",
        "cpuset",
        "develop",
        "device_cgroup_rules",
        "domainname",
        "gpus",
        "isolation",
        "label_file",
        "mac_address",
        "models",
        "oom_kill_disable",
        "oom_score_adj",
        "platform",
        "provider",
        "runtime",
        "storage_opt",
        "use_api_socket",
    ],
    say: &[
        ("cgroup", MORE_ISOLATED),
        ("cgroupns_mode", MORE_ISOLATED),
        ("container_name", "tasks are named SERVICE.SLOT.ID, as in Swarm"),
        ("depends_on", "services start together, as in Swarm; let them try again until the other one answers"),
        ("devices", "services have no devices of the host, as in Swarm"),
        ("dns", "tasks ask the resolver of mesh, which forwards to those of the host"),
        ("dns_opt", "tasks ask the resolver of mesh"),
        ("dns_search", "tasks ask the resolver of mesh"),
        ("expose", "tasks of one network reach each other at every port"),
        ("external_links", "services of one network know each other by name"),
        ("ipc", MORE_ISOLATED),
        ("links", "services of one network know each other by name"),
        ("logging", "output goes to the task's log: mesh service logs"),
        ("pid", MORE_ISOLATED),
        ("profiles", "the service is deployed in any case, as in Swarm"),
        ("pull_policy", "a node pulls an image that it does not have"),
        ("restart", "write deploy.restart_policy, as in Swarm"),
        ("scale", "write deploy.replicas"),
        ("userns_mode", "tasks are in the user namespace that the Engine gives them"),
        ("uts", MORE_ISOLATED),
    ],
    refuse: &[
        ("secrets", "secrets are not there yet; without them the service would run unprotected or not at all"),
        ("configs", "configs are not there yet; bind-mount the file (volumes: ['./file:/path'])"),
        ("privileged", "privileged tasks are not there; take it out, or name what is needed under 'cap_add'"),
        ("volumes_from", "volumes of others are not there; name the volume under 'volumes'"),
        ("volume_driver", "write it at the volume under the top-level key 'volumes'"),
        ("extends", "other services' definitions are not read; use a YAML anchor and a merge key (<<)"),
        ("cpus", "write it as deploy.resources.limits.cpus"),
        ("mem_limit", "write it as deploy.resources.limits.memory"),
        ("memswap_limit", "it is not there yet"),
        ("mem_reservation", "write it as deploy.resources.reservations.memory"),
        ("mem_swappiness", "it is not there yet"),
        ("credential_spec", "it is not there"),
        ("post_start", "hooks are not there yet"),
        ("pre_stop", "hooks are not there yet"),
    ],
    ..NONE
};

pub(super) const ENV_FILE: Keys = Keys { read: &["path", "required"], warn: &["format"], ..NONE };

pub(super) const ULIMIT: Keys = Keys { read: &["soft", "hard"], ..NONE };

pub(super) const X_MESH: Keys = Keys { read: &["runtime", "lb", "affinity", "allow", "weight-by"], ..NONE };

pub(super) const PORT: Keys = Keys {
    read: &["target", "published", "protocol", "mode", "host_ip", "x-mesh"],
    warn: &["name", "app_protocol"],
    ..NONE
};

pub(super) const PORT_X_MESH: Keys = Keys { read: &["allow", "interface"], ..NONE };

const OWN_ADDRESS: &str = "tasks' addresses are chosen by mesh, as in Swarm; use the service's name";

pub(super) const ATTACHMENT: Keys = Keys {
    read: &["aliases"],
    warn: &["priority", "gw_priority", "driver_opts", "link_local_ips", "mac_address", "interface_name"],
    say: &[("ipv4_address", OWN_ADDRESS), ("ipv6_address", OWN_ADDRESS)],
    ..NONE
};

pub(super) const HEALTH: Keys =
    Keys { read: &["test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"], ..NONE };

pub(super) const MOUNT: Keys = Keys {
    read: &["type", "source", "target", "read_only", "bind", "volume", "tmpfs"],
    pass: &["consistency"],
    ..NONE
};

pub(super) const MOUNT_BIND: Keys = Keys {
    read: &["propagation"],
    pass: &["selinux"],
    say: &[("create_host_path", "a folder of the host must be there before, as in Swarm")],
    ..NONE
};

pub(super) const MOUNT_VOLUME: Keys = Keys { read: &["nocopy", "subpath", "labels"], ..NONE };

pub(super) const MOUNT_TMPFS: Keys = Keys { read: &["size", "mode"], ..NONE };

pub(super) const VOLUME: Keys = Keys { read: &["driver", "driver_opts", "labels", "external", "name"], ..NONE };

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

const SPREAD: &str = "tasks are spread over all nodes that fit";

pub(super) const PLACEMENT: Keys =
    Keys { read: &["constraints", "max_replicas_per_node"], say: &[("preferences", SPREAD)], ..NONE };

pub(super) const RESTART: Keys = Keys { read: &["condition", "delay", "max_attempts", "window"], ..NONE };

pub(super) const UPDATE: Keys =
    Keys { read: &["parallelism", "delay", "monitor", "failure_action", "max_failure_ratio", "order"], ..NONE };

pub(super) const RESOURCES: Keys = Keys { read: &["limits", "reservations"], ..NONE };

pub(super) const LIMITS: Keys = Keys { read: &["cpus", "memory", "pids"], ..NONE };

pub(super) const RESERVATIONS: Keys =
    Keys { read: &["cpus", "memory"], warn: &["generic_resources", "devices"], ..NONE };

pub(super) const NETWORK: Keys = Keys {
    read: &[
        "driver",
        "driver_opts",
        "attachable",
        "internal",
        "enable_ipv4",
        "enable_ipv6",
        "ipam",
        "external",
        "name",
        "labels",
    ],
    ..NONE
};

pub(super) const EXTERNAL: Keys = Keys { read: &["name"], ..NONE };

pub(super) const IPAM: Keys = Keys { read: &["driver", "config"], warn: &["options"], ..NONE };

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
            return Fate::Warn("mesh does not do it");
        }
        if let Some((_, why)) = self.say.iter().find(|(said, _)| *said == key) {
            return Fate::Warn(why);
        }
        match self.refuse.iter().find(|(refused, _)| *refused == key) {
            Some((_, why)) => Fate::Refuse(why),
            None => Fate::Unknown(self.unknown(key)),
        }
    }

    fn unknown(&self, key: &str) -> String {
        let known = self.read.iter().chain(self.pass).chain(self.warn);
        let explained = self.say.iter().chain(self.refuse).map(|(key, _)| key);
        let nearest = known.chain(explained).map(|known| (distance(key, known), *known)).min();
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
