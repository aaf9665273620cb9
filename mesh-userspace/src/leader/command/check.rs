//! Whether a service's spec makes sense: in itself, and with the nodes there are. Names become ids here.

use ipnet::IpNet;

use crate::leader::Constraint;
use crate::model::{Cluster, EndpointMode, HealthCheck, Id, Mode, PublishMode, Runtime, ServiceSpec};

use super::error::{port_name, runtime_name};
use super::{CommandError, port, resolve};

/// More tasks of one service than a network of usual size has addresses.
const MOST_REPLICAS: u32 = 10_000;

/// Letters, digits and `inner` characters, at most 63, the first and last a letter or digit.
pub(super) fn is_name(name: &str, inner: &[char]) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = |c: char| c.is_ascii_alphanumeric() || inner.contains(&c);
    name.len() <= 63 && ends(name.chars().next()) && ends(name.chars().last()) && name.chars().all(fits)
}

/// What speaks against hosts with addresses of this prefix.
pub(super) fn subnet_rule(subnet: IpNet) -> Option<&'static str> {
    match subnet {
        IpNet::V4(subnet) => {
            let address = subnet.addr();
            if !(8..=29).contains(&subnet.prefix_len()) {
                Some("give a prefix between /8 and /29")
            } else if [0, 127].contains(&address.octets()[0]) || address.is_multicast() || address.is_link_local() {
                Some("hosts can't have such addresses; take a private prefix")
            } else if address.octets()[0] >= 240 {
                Some("it is reserved; take a private prefix")
            } else {
                None
            }
        }
        IpNet::V6(subnet) => {
            let address = subnet.addr();
            if !(16..=112).contains(&subnet.prefix_len()) {
                Some("give a prefix between /16 and /112, usually a /64")
            } else if address.is_multicast() || address.is_unicast_link_local() || address.segments()[0] == 0 {
                Some("hosts can't have such addresses; take a unique local prefix such as fd00:1::/64 (RFC 4193)")
            } else {
                None
            }
        }
    }
}

/// Checks the spec and gives it with the ids of its networks. `own`: the service itself, where it is there already.
pub(super) fn check(cluster: &Cluster, mut spec: ServiceSpec, own: Option<&Id>) -> Result<ServiceSpec, CommandError> {
    check_name(cluster, &spec, own)?;
    // What containers of others run is theirs to say.
    if spec.mode != Mode::Adopted {
        check_what_runs(cluster, &spec)?;
    }
    check_numbers(&spec)?;
    for text in &spec.task.constraints {
        let bad = |source| CommandError::BadConstraint { service: spec.name.clone(), source };
        Constraint::parse(text).map_err(bad)?;
    }
    let ingress_port = spec.ports.iter().find(|port| port.mode == PublishMode::Ingress);
    if let (EndpointMode::Dnsrr, Some(port)) = (spec.endpoint_mode, ingress_port) {
        return Err(CommandError::DnsrrPublishes { service: spec.name, port: port_name(port) });
    }
    resolve_networks(cluster, &mut spec)?;
    port::check(cluster, &spec, own)?;
    Ok(spec)
}

fn check_name(cluster: &Cluster, spec: &ServiceSpec, own: Option<&Id>) -> Result<(), CommandError> {
    let name = || spec.name.clone();
    if !is_name(&spec.name, &['-', '_']) {
        // The dot separates service and slot in a task's name.
        let rule = "use letters, digits, '-' and '_', at most 63, beginning and ending with a letter or digit";
        return Err(CommandError::BadName { kind: "service", name: name(), rule });
    }
    match cluster.service_named(&spec.name).filter(|other| Some(&other.id) != own) {
        Some(other) => Err(CommandError::NameTaken { kind: "service", name: name(), id: other.id.short().to_string() }),
        None => Ok(()),
    }
}

fn check_what_runs(cluster: &Cluster, spec: &ServiceSpec) -> Result<(), CommandError> {
    let service = || spec.name.clone();
    let task = &spec.task;
    match task.runtime {
        Runtime::Exec if !task.image.is_empty() => {
            return Err(CommandError::ImageForExec { service: service(), image: task.image.clone() });
        }
        Runtime::Exec if task.command.first().is_none_or(String::is_empty) => {
            return Err(CommandError::NoCommand { service: service() });
        }
        Runtime::Exec => {
            if let Some(lack) = task.lacking_on_exec().into_iter().find(|lack| lack.harms) {
                return Err(CommandError::NotOnExec { service: service(), what: lack.key, remedy: lack.remedy });
            }
        }
        Runtime::Docker if task.image.is_empty() => return Err(CommandError::NothingToRun { service: service() }),
        _ => {}
    }
    let offered = cluster.nodes.values().any(|node| node.runtimes.contains(&task.runtime));
    match task.runtime {
        _ if offered => Ok(()),
        Runtime::Docker => Err(CommandError::NoDocker { service: service(), image: task.image.clone() }),
        runtime => Err(CommandError::NoRuntime { service: service(), runtime: runtime_name(runtime) }),
    }
}

fn check_numbers(spec: &ServiceSpec) -> Result<(), CommandError> {
    let service = || spec.name.clone();
    if let Mode::Replicated { replicas } = spec.mode {
        check_replicas(&spec.name, replicas)?;
    }
    for (setting, config) in
        [("update max-failure-ratio", &spec.update), ("rollback max-failure-ratio", &spec.rollback)]
    {
        if !(0.0..=1.0).contains(&config.max_failure_ratio) {
            let (value, rule) = (config.max_failure_ratio.to_string(), "give a number between 0 and 1");
            return Err(CommandError::BadServiceSetting { service: service(), setting, value, rule });
        }
    }
    // Without a command it says that there is none; what else it says would be lost.
    if let Some(health) = spec.task.health.as_ref().filter(|health| health.is_disabled())
        && *health != HealthCheck::disabled()
    {
        let (setting, value) = ("health interval", format!("{} ms but no health command", health.interval_ms));
        return Err(CommandError::BadServiceSetting { service: service(), setting, value, rule: "give --health-cmd" });
    }
    Ok(())
}

pub(super) fn check_replicas(service: &str, replicas: u32) -> Result<(), CommandError> {
    if replicas > MOST_REPLICAS {
        let service = service.to_string();
        return Err(CommandError::TooManyReplicas { service, replicas, most: MOST_REPLICAS });
    }
    Ok(())
}

fn resolve_networks(cluster: &Cluster, spec: &mut ServiceSpec) -> Result<(), CommandError> {
    let mut seen: Vec<Id> = Vec::new();
    for attachment in &mut spec.networks {
        let network = resolve::network(cluster, &attachment.network)?;
        if network.ingress {
            return Err(CommandError::IngressByHand { service: spec.name.clone() });
        }
        if seen.contains(&network.id) {
            let (service, network) = (spec.name.clone(), network.spec.name.clone());
            return Err(CommandError::NetworkTwice { service, network });
        }
        seen.push(network.id.clone());
        attachment.network = network.id.to_string();
    }
    Ok(())
}
