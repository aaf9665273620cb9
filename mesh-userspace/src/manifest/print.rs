//! A manifest as understood, as YAML: every default written out, every port and network in its long form.

use serde_json::{Map, Value, json};

use super::volumes::DeclaredVolume;
use super::{DeclaredNetwork, Manifest};
use crate::model::{
    Container, EndpointMode, HealthCheck, Mode, Mount, NetworkAttachment, NetworkSpec, PortSpec, Runtime, ServiceSpec,
    TaskSpec, UpdateConfig,
};

impl Manifest {
    /// A manifest that means the same, wherever it is read: nothing in it comes from files or variables any more.
    pub fn to_yaml(&self) -> String {
        let services: Map<String, Value> =
            self.services.iter().map(|spec| (spec.name.clone(), service(spec))).collect();
        let attached =
            |short: &str| self.services.iter().any(|spec| spec.networks.iter().any(|network| network.network == short));
        let networks: Map<String, Value> = (self.networks.iter())
            .filter(|(short, _)| attached(short))
            .map(|(short, declared)| (short.clone(), network(declared)))
            .collect();
        let is_named = |mount: &Mount, short: &str| mount.kind == "volume" && mount.source == short;
        let mounted =
            |short: &str| self.services.iter().any(|spec| spec.task.mounts.iter().any(|mount| is_named(mount, short)));
        let volumes: Map<String, Value> = (self.volumes.iter())
            .filter(|(short, _)| mounted(short))
            .map(|(short, declared)| (short.clone(), volume(declared)))
            .collect();
        let document = trimmed(json!({ "services": services, "networks": networks, "volumes": volumes }));
        let document = with_dollars(document);
        serde_yaml::to_string(&document).expect("a JSON value with string keys is always writable as YAML")
    }
}

/// A dollar that is one is written double.
fn with_dollars(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => items.into_iter().map(with_dollars).collect(),
        Value::Object(entries) => {
            entries.into_iter().map(|(key, value)| (key, with_dollars(value))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// Without the keys that say nothing.
fn trimmed(value: Value) -> Value {
    let Value::Object(entries) = value else { return value };
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    entries.into_iter().filter(|(_, value)| says(value)).collect::<Map<_, _>>().into()
}

fn duration(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn service(spec: &ServiceSpec) -> Value {
    let task = &spec.task;
    // A list keeps its order, and has no aliases but the service's own name; a mapping has both the other way round.
    let is_list = spec.networks.iter().all(|network| network.aliases == [spec.name.as_str()]);
    let networks: Value = match is_list {
        true => spec.networks.iter().map(|network| network.network.clone()).collect(),
        false => {
            let entry = |network: &NetworkAttachment| (network.network.clone(), json!({ "aliases": network.aliases }));
            spec.networks.iter().map(entry).collect::<Map<_, _>>().into()
        }
    };
    let mut value = json!({
        "image": task.image,
        "command": task.command,
        "environment": task.env,
        "ports": spec.ports.iter().map(port).collect::<Vec<_>>(),
        "networks": networks,
        "healthcheck": task.health.as_ref().map(health),
        "volumes": task.mounts.iter().map(mount).collect::<Vec<_>>(),
        "stop_grace_period": duration(task.stop_grace_period_ms),
        "stop_signal": task.stop_signal,
        "hostname": task.hostname,
        "user": task.user,
        "working_dir": task.workdir,
        "deploy": deploy(spec),
        "x-mesh": trimmed(json!({
            "runtime": task.runtime,
            "lb": spec.lb,
            "affinity": spec.affinity.map(|affinity| format!("client-ip={}", affinity.timeout_s)),
            "weight-by": spec.weight_by.as_ref().map(|key| format!("node.labels.{key}")),
        })),
    });
    merge(&mut value, container(&task.container));
    let mut value = trimmed(value);
    // An entrypoint of no words says something, as far as there is an image's own to take away.
    if let (Some(entrypoint), Runtime::Docker) = (&task.container.entrypoint, task.runtime) {
        value["entrypoint"] = json!(entrypoint);
    }
    value
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(entries), Value::Object(more)) = (value, more) {
        entries.extend(more);
    }
}

fn container(asked: &Container) -> Value {
    let ulimits: Map<String, Value> = (asked.ulimits.iter())
        .map(|(name, limit)| (name.clone(), json!({ "soft": limit.soft, "hard": limit.hard })))
        .collect();
    json!({
        "labels": asked.labels,
        "tty": asked.tty.then_some(true),
        "stdin_open": asked.stdin_open.then_some(true),
        "init": asked.init,
        "read_only": asked.read_only.then_some(true),
        "cap_add": asked.cap_add,
        "cap_drop": asked.cap_drop,
        "security_opt": asked.no_new_privileges.then_some(["no-new-privileges:true"]),
        "group_add": asked.group_add,
        "extra_hosts": asked.extra_hosts,
        "sysctls": asked.sysctls,
        "ulimits": ulimits,
        "shm_size": asked.shm_size_bytes.map(|bytes| bytes.to_string()),
    })
}

fn mount(mount: &Mount) -> Value {
    let options = &mount.options;
    trimmed(json!({
        "type": mount.kind,
        "source": mount.source,
        "target": mount.target,
        "read_only": mount.read_only.then_some(true),
        "bind": trimmed(json!({ "propagation": options.propagation })),
        "volume": trimmed(json!({
            "nocopy": options.no_copy.then_some(true),
            "subpath": options.subpath,
            "labels": options.labels,
        })),
        "tmpfs": trimmed(json!({
            "size": options.tmpfs_size_bytes.map(|bytes| bytes.to_string()),
            "mode": options.tmpfs_mode.map(|mode| format!("{mode:o}")),
        })),
    }))
}

fn volume(declared: &DeclaredVolume) -> Value {
    match declared {
        DeclaredVolume::External { name } => json!({ "external": true, "name": name }),
        DeclaredVolume::Own { name, driver, driver_opts, labels } => {
            trimmed(json!({ "name": name, "driver": driver, "driver_opts": driver_opts, "labels": labels }))
        }
    }
}

fn port(port: &PortSpec) -> Value {
    let published = (port.published > 0).then_some(port.published);
    trimmed(json!({
        "target": port.target,
        "published": published,
        "protocol": port.protocol,
        "mode": port.mode,
        "host_ip": port.address,
        "x-mesh": trimmed(json!({ "allow": port.allow, "interface": port.interface })),
    }))
}

fn health(health: &HealthCheck) -> Value {
    if health.is_disabled() {
        return json!({ "disable": true });
    }
    let test: Vec<String> = std::iter::once("CMD".to_string()).chain(health.command.iter().cloned()).collect();
    json!({
        "test": test,
        "interval": duration(health.interval_ms),
        "timeout": duration(health.timeout_ms),
        "retries": health.retries,
        "start_period": duration(health.start_period_ms),
        "start_interval": duration(health.start_interval_ms),
    })
}

fn deploy(spec: &ServiceSpec) -> Value {
    let task = &spec.task;
    let (mode, replicas) = match spec.mode {
        Mode::Replicated { replicas } => ("replicated", Some(replicas)),
        Mode::Global => ("global", None),
        Mode::Adopted => ("adopted", None),
    };
    trimmed(json!({
        "mode": mode,
        "replicas": replicas,
        "endpoint_mode": if spec.endpoint_mode == EndpointMode::Vip { "vip" } else { "dnsrr" },
        "labels": spec.labels,
        "placement": trimmed(json!({
            "constraints": task.constraints,
            "max_replicas_per_node": (task.max_replicas_per_node > 0).then_some(task.max_replicas_per_node),
        })),
        "restart_policy": {
            "condition": task.restart.condition,
            "delay": duration(task.restart.delay_ms),
            "max_attempts": task.restart.max_attempts,
            "window": duration(task.restart.window_ms),
        },
        "update_config": update(&spec.update),
        "rollback_config": update(&spec.rollback),
        "resources": resources(task),
    }))
}

fn update(config: &UpdateConfig) -> Value {
    json!({
        "parallelism": config.parallelism,
        "delay": duration(config.delay_ms),
        "monitor": duration(config.monitor_ms),
        "failure_action": config.failure_action,
        "max_failure_ratio": f64::from(config.max_failure_ratio),
        "order": config.order,
    })
}

fn resources(task: &TaskSpec) -> Value {
    let side = |cpus: Option<u64>, memory: Option<u64>, pids: Option<u64>| {
        trimmed(json!({
            "cpus": cpus.map(|cpus| (cpus as f64 / 1e9).to_string()),
            "memory": memory.map(|bytes| bytes.to_string()),
            "pids": pids,
        }))
    };
    let resources = &task.resources;
    trimmed(json!({
        "limits": side(resources.limit_nano_cpus, resources.limit_memory_bytes, task.container.pids_limit),
        "reservations": side(resources.reserve_nano_cpus, resources.reserve_memory_bytes, None),
    }))
}

fn network(declared: &DeclaredNetwork) -> Value {
    match declared {
        DeclaredNetwork::External { name } => json!({ "external": true, "name": name }),
        DeclaredNetwork::Own { spec, name } => own_network(spec, name.as_deref()),
    }
}

fn own_network(spec: &NetworkSpec, name: Option<&str>) -> Value {
    let mut options: Map<String, Value> =
        spec.options.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    if let Some(mtu) = spec.mtu {
        options.insert("mtu".into(), mtu.to_string().into());
    }
    let subnets = spec.subnets.each().map(|subnet| {
        let gateway = spec.gateways.each().find(|gateway| gateway.is_ipv4() == subnet.addr().is_ipv4());
        trimmed(json!({ "subnet": subnet, "gateway": gateway }))
    });
    let config: Vec<Value> = subnets.collect();
    trimmed(json!({
        "driver": "overlay",
        "driver_opts": options,
        "attachable": spec.attachable,
        "internal": spec.internal,
        "enable_ipv4": (!spec.ipv4).then_some(false),
        "enable_ipv6": spec.ipv6.then_some(true),
        "ipam": (!config.is_empty()).then(|| json!({ "config": config })),
        "labels": spec.labels,
        "name": name,
    }))
}
