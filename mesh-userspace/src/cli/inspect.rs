//! Objects as `inspect` shows them: Swarm's keys and shapes, our own under `Mesh`.

use serde_json::{Map, Value, json};

use super::age::rfc3339;
use super::node::{availability_name, manager_name, state_name};
use super::ports::{mode_name, protocol_name};
use crate::api::{NetworkDetail, NetworkTask, NodeDetail, ServiceDetail};
use crate::model::{
    EndpointMode, Mode, Mount, MountOptions, PortSpec, RestartCondition, Role, Runtime, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateFailureAction, UpdateOrder,
};

pub(super) fn node(detail: &NodeDetail) -> Value {
    let NodeDetail { row, node, status } = detail;
    let manager = row.manager.map(|status| {
        json!({
            "Leader": node.holds_store,
            "Reachability": manager_name(status).to_lowercase(),
            "Addr": node.api_addr(),
        })
    });
    json!({
        "ID": node.id,
        "CreatedAt": rfc3339(node.joined_at),
        "Spec": {
            "Labels": node.labels,
            "Role": if node.role == Role::Manager { "manager" } else { "worker" },
            "Availability": availability_name(node.availability, false),
        },
        "Description": {
            "Hostname": node.name,
            "Engine": { "EngineVersion": row.engine_version.as_ref().unwrap_or(&row.agent_version) },
        },
        "Status": {
            "State": state_name(row.state).to_lowercase(),
            "Addr": node.advertise_addr,
        },
        "ManagerStatus": manager,
        "Mesh": {
            "Number": node.number,
            "APIPort": node.ports.api,
            "GossipPort": node.ports.gossip,
            "DataPathAddr": node.data_path_addr,
            "HoldsStore": node.holds_store,
            "Version": row.agent_version,
            "Runtimes": node.runtimes,
            "RoutedPrefixes": node.routed_prefixes,
            "UnreachableSince": row.unreachable_since.map(rfc3339),
            "PortsNotTaken": status.as_ref().map(|status| &status.ports_not_taken),
            "Warnings": status.as_ref().map(|status| &status.warnings),
            "AppliedRevision": status.as_ref().map(|status| status.applied_revision),
            "LayoutVersion": status.as_ref().map(|status| status.layout_version),
        },
    })
}

pub(super) fn network(detail: &NetworkDetail, verbose: bool) -> Value {
    let network = &detail.network;
    let containers: Map<String, Value> = detail
        .local_tasks
        .iter()
        .map(|task| {
            let address = |is_ipv4| {
                let mut all = task.addrs.within(&network.subnets);
                all.find(|one| one.addr().is_ipv4() == is_ipv4).map(|one| one.to_string()).unwrap_or_default()
            };
            let value = json!({
                "Name": task.name,
                "EndpointID": format!("{:08x}", task.endpoint),
                "IPv4Address": address(true),
                "IPv6Address": address(false),
            });
            (task.id.to_string(), value)
        })
        .collect();
    let mut options: Map<String, Value> =
        network.spec.options.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    options.insert("com.docker.network.driver.overlay.vxlanid_list".into(), network.vni.to_string().into());
    if let Some(mtu) = network.spec.mtu {
        options.insert("mtu".into(), mtu.to_string().into());
    }
    let config = network.subnets.each().zip(network.gateways.each());
    let config = config.map(|(subnet, gateway)| json!({ "Subnet": subnet, "Gateway": gateway }));
    let mut value = json!({
        "Name": network.spec.name,
        "Id": network.id,
        "Created": rfc3339(network.created_at),
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv4": network.subnets.v4.is_some(),
        "EnableIPv6": network.subnets.v6.is_some(),
        "IPAM": {
            "Driver": "default",
            "Config": config.collect::<Vec<_>>(),
        },
        "Internal": network.spec.internal,
        "Attachable": network.spec.attachable,
        "Ingress": network.ingress,
        "Containers": containers,
        "Options": options,
        "Labels": network.spec.labels,
        "Peers": detail.peers.iter().map(|peer| json!({ "Name": peer.name, "IP": peer.ip })).collect::<Vec<_>>(),
    });
    if verbose {
        value["Services"] = services_on(detail);
    }
    value
}

fn services_on(detail: &NetworkDetail) -> Value {
    let task = |task: &NetworkTask| {
        json!({
            "Name": task.name,
            "EndpointID": format!("{:08x}", task.endpoint),
            "EndpointIP": task.addrs.first(),
            "EndpointIPv6": task.addrs.v6,
            "Info": { "Host IP": task.host },
        })
    };
    let services = detail.services.iter().map(|service| {
        let port = |port: &PortSpec| {
            format!("Target: {}, Publish: {}/{}", port.target, port.published, protocol_name(port.protocol))
        };
        let value = json!({
            "VIP": service.vip.and_then(|vip| vip.first()),
            "VIPv6": service.vip.and_then(|vip| vip.v6),
            "Ports": service.ports.iter().map(port).collect::<Vec<_>>(),
            "LocalLBIndex": service.pool,
            "Tasks": service.tasks.iter().map(task).collect::<Vec<_>>(),
        });
        (service.name.clone(), value)
    });
    Value::from(services.collect::<Map<_, _>>())
}

pub(super) fn service(detail: &ServiceDetail) -> Value {
    let service = &detail.service;
    let vips = detail.vips.iter().map(|vip| json!({ "NetworkID": vip.network_id, "Addr": vip.addr }));
    let mut value = json!({
        "ID": service.id,
        "Version": { "Index": service.version },
        "CreatedAt": rfc3339(service.created_at),
        "UpdatedAt": rfc3339(service.updated_at),
        "Spec": spec(&service.spec),
        "Endpoint": {
            "Spec": { "Mode": endpoint_mode(service.spec.endpoint_mode), "Ports": ports(&service.spec.ports) },
            "Ports": ports(&service.ports),
            "VirtualIPs": vips.collect::<Vec<_>>(),
        },
        "ServiceStatus": { "RunningTasks": detail.running, "DesiredTasks": detail.desired },
    });
    if let Some(update) = &detail.update {
        value["UpdateStatus"] = json!({
            "State": update.state,
            "StartedAt": rfc3339(update.started_at),
            "CompletedAt": update.completed_at.map(rfc3339),
            "Message": update.message,
        });
    }
    if let Some(previous) = &service.previous_spec {
        value["PreviousSpec"] = spec(previous);
    }
    if let Some(reason) = &service.pending_reason {
        value["Mesh"] = json!({ "PendingReason": reason });
    }
    value
}

fn spec(spec: &ServiceSpec) -> Value {
    let mode = match spec.mode {
        Mode::Replicated { replicas } => json!({ "Replicated": { "Replicas": replicas } }),
        Mode::Global => json!({ "Global": {} }),
        Mode::Adopted => json!({ "Adopted": {} }),
    };
    let mut template = task_template(&spec.task);
    template["Networks"] = spec
        .networks
        .iter()
        .map(|network| json!({ "Target": network.network, "Aliases": network.aliases }))
        .collect::<Vec<_>>()
        .into();
    json!({
        "Name": spec.name,
        "Labels": spec.labels,
        "TaskTemplate": template,
        "Mode": mode,
        "UpdateConfig": update(&spec.update),
        "RollbackConfig": update(&spec.rollback),
        "EndpointSpec": { "Mode": endpoint_mode(spec.endpoint_mode), "Ports": ports(&spec.ports) },
        "Mesh": {
            "LB": spec.lb,
            "Affinity": spec.affinity.map(|affinity| json!({ "ClientIP": affinity.timeout_s })),
            "WeightBy": spec.weight_by.as_ref().map(|key| format!("node.labels.{key}")),
        },
    })
}

/// Durations in nanoseconds, as Swarm's API has them.
fn task_template(task: &TaskSpec) -> Value {
    let ns = |ms: u64| ms.saturating_mul(1_000_000);
    let health = task.health.as_ref().map(|health| {
        if health.is_disabled() {
            return json!({ "Test": ["NONE"] });
        }
        let test: Vec<&str> = std::iter::once("CMD").chain(health.command.iter().map(String::as_str)).collect();
        json!({
            "Test": test,
            "Interval": ns(health.interval_ms),
            "Timeout": ns(health.timeout_ms),
            "Retries": health.retries,
            "StartPeriod": ns(health.start_period_ms),
            "StartInterval": ns(health.start_interval_ms),
        })
    });
    let runtime = match task.runtime {
        Runtime::Exec => "exec",
        Runtime::Docker => "container",
    };
    let container = &task.container;
    let ulimits = container.ulimits.iter();
    json!({
        "ContainerSpec": {
            "Image": task.image,
            "Labels": container.labels,
            "Command": container.entrypoint,
            "Args": task.command,
            "Env": task.env,
            "User": task.user,
            "Groups": container.group_add,
            "Hostname": task.hostname,
            "Dir": task.workdir,
            "TTY": container.tty,
            "OpenStdin": container.stdin_open,
            "Init": container.init,
            "ReadOnly": container.read_only,
            "Privileges": { "NoNewPrivileges": container.no_new_privileges },
            "CapabilityAdd": container.cap_add,
            "CapabilityDrop": container.cap_drop,
            "Sysctls": container.sysctls,
            "Ulimits": ulimits
                .map(|(name, limit)| json!({ "Name": name, "Soft": limit.soft, "Hard": limit.hard }))
                .collect::<Vec<_>>(),
            "Hosts": container.extra_hosts,
            "Mounts": task.mounts.iter().map(mount).collect::<Vec<_>>(),
            "Healthcheck": health,
            "StopSignal": task.stop_signal,
            "StopGracePeriod": ns(task.stop_grace_period_ms),
        },
        "Resources": {
            "Limits": {
                "NanoCPUs": task.resources.limit_nano_cpus,
                "MemoryBytes": task.resources.limit_memory_bytes,
                "Pids": container.pids_limit,
            },
            "Reservations": {
                "NanoCPUs": task.resources.reserve_nano_cpus,
                "MemoryBytes": task.resources.reserve_memory_bytes,
            },
        },
        "RestartPolicy": {
            "Condition": match task.restart.condition {
                RestartCondition::None => "none",
                RestartCondition::OnFailure => "on-failure",
                RestartCondition::Any => "any",
            },
            "Delay": ns(task.restart.delay_ms),
            "MaxAttempts": task.restart.max_attempts,
            "Window": ns(task.restart.window_ms),
        },
        "Placement": { "Constraints": task.constraints, "MaxReplicas": task.max_replicas_per_node },
        "ForceUpdate": task.force_update,
        "Runtime": runtime,
    })
}

fn mount(mount: &Mount) -> Value {
    let options = &mount.options;
    let mut value = json!({
        "Type": mount.kind,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    });
    let driver = json!({ "Name": options.driver, "Options": options.driver_opts });
    let part = match mount.kind.as_str() {
        "volume" => json!({
            "NoCopy": options.no_copy,
            "Labels": options.labels,
            "Subpath": options.subpath,
            "DriverConfig": driver,
        }),
        "tmpfs" => json!({ "SizeBytes": options.tmpfs_size_bytes, "Mode": options.tmpfs_mode }),
        _ => json!({ "Propagation": options.propagation }),
    };
    if mount.options != MountOptions::default() {
        let key = match mount.kind.as_str() {
            "volume" => "VolumeOptions",
            "tmpfs" => "TmpfsOptions",
            _ => "BindOptions",
        };
        value[key] = part;
    }
    value
}

fn update(config: &UpdateConfig) -> Value {
    json!({
        "Parallelism": config.parallelism,
        "Delay": config.delay_ms.saturating_mul(1_000_000),
        "Monitor": config.monitor_ms.saturating_mul(1_000_000),
        "FailureAction": match config.failure_action {
            UpdateFailureAction::Pause => "pause",
            UpdateFailureAction::Continue => "continue",
            UpdateFailureAction::Rollback => "rollback",
        },
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": match config.order {
            UpdateOrder::StopFirst => "stop-first",
            UpdateOrder::StartFirst => "start-first",
        },
    })
}

fn endpoint_mode(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    }
}

fn ports(ports: &[PortSpec]) -> Value {
    let port = |port: &PortSpec| {
        let mut value = json!({
            "Protocol": protocol_name(port.protocol),
            "TargetPort": port.target,
            "PublishedPort": port.published,
            "PublishMode": mode_name(port.mode),
        });
        if let Some(addr) = port.address {
            value["Address"] = json!(addr);
        }
        if let Some(interface) = &port.interface {
            value["Interface"] = json!(interface);
        }
        if !port.allow.is_empty() {
            value["Allow"] = json!(port.allow);
        }
        value
    };
    ports.iter().map(port).collect::<Vec<_>>().into()
}
