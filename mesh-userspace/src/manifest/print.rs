//! A manifest as understood, as YAML: every default written out, every port and network in its long form.

use serde_json::{Map, Value, json};

use super::{DeclaredNetwork, Manifest};
use crate::model::{EndpointMode, HealthCheck, Mode, NetworkSpec, PortSpec, ServiceSpec, TaskSpec, UpdateConfig};

impl Manifest {
    /// A manifest that means the same.
    pub fn to_yaml(&self) -> String {
        let services: Map<String, Value> =
            self.services.iter().map(|service| (service.spec.name.clone(), self::service(&service.spec))).collect();
        let used = |short: &str| {
            self.services.iter().any(|service| service.spec.networks.iter().any(|network| network.network == short))
        };
        let networks: Map<String, Value> = self
            .networks
            .iter()
            .filter(|(short, _)| used(short))
            .map(|(short, declared)| (short.clone(), network(declared)))
            .collect();
        let document = json!({ "services": services, "networks": networks });
        serde_yaml::to_string(&document).expect("a JSON value with string keys is always writable as YAML")
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
    let networks: Map<String, Value> =
        spec.networks.iter().map(|network| (network.network.clone(), json!({ "aliases": network.aliases }))).collect();
    let mounts = task.mounts.iter().map(|mount| {
        json!({ "type": mount.kind, "source": mount.source, "target": mount.target, "read_only": mount.read_only })
    });
    trimmed(json!({
        "image": task.image,
        "command": escaped(&task.command),
        "environment": escaped(&task.env),
        "ports": spec.ports.iter().map(port).collect::<Vec<_>>(),
        "networks": networks,
        "healthcheck": task.health.as_ref().map(health),
        "volumes": mounts.collect::<Vec<_>>(),
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
        })),
    }))
}

/// A dollar that is one is written double.
fn escaped(words: &[String]) -> Vec<String> {
    words.iter().map(|word| word.replace('$', "$$")).collect()
}

fn port(port: &PortSpec) -> Value {
    let published = (port.published > 0).then_some(port.published);
    trimmed(json!({ "target": port.target, "published": published, "protocol": port.protocol, "mode": port.mode }))
}

fn health(health: &HealthCheck) -> Value {
    if health.is_disabled() {
        return json!({ "disable": true });
    }
    let test: Vec<String> = std::iter::once("CMD".to_string()).chain(escaped(&health.command)).collect();
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
    let side = |cpus: Option<u64>, memory: Option<u64>| {
        trimmed(json!({
            "cpus": cpus.map(|cpus| (cpus as f64 / 1e9).to_string()),
            "memory": memory.map(|bytes| bytes.to_string()),
        }))
    };
    let resources = &task.resources;
    trimmed(json!({
        "limits": side(resources.limit_nano_cpus, resources.limit_memory_bytes),
        "reservations": side(resources.reserve_nano_cpus, resources.reserve_memory_bytes),
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
    let config = spec.subnet.map(|subnet| trimmed(json!({ "subnet": subnet, "gateway": spec.gateway })));
    trimmed(json!({
        "driver": "overlay",
        "driver_opts": options,
        "attachable": spec.attachable,
        "internal": spec.internal,
        "ipam": config.map(|config| json!({ "config": [config] })),
        "labels": spec.labels,
        "name": name,
    }))
}
