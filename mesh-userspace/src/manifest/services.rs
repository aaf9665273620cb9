//! The section `services`.

use std::collections::BTreeMap;

use super::errors::{Place, Problem};
use super::reader::{Field, Reader};
use super::{
    DEFAULT_NETWORK, DeclaredNetwork, deploy, health, is_name, keys, parse_duration_ms, published, split_words, volumes,
};
use crate::model::{
    Affinity, Algorithm, EndpointMode, Mode, NetworkAttachment, PublishMode, Resources, RestartPolicy, Runtime,
    ServiceSpec, TaskSpec, UpdateConfig,
};

type Fields<'t> = BTreeMap<&'t str, Field<'t>>;

pub(super) fn read(
    field: &Field,
    networks: &BTreeMap<String, DeclaredNetwork>,
    reader: &mut Reader,
) -> Result<Vec<(Place, ServiceSpec)>, Problem> {
    let mut services = Vec::new();
    for (name, service) in reader.entries(field.tree, &field.path)? {
        if !is_name(name) {
            let told = "this is no name for a service: letters, digits, '-', '_', beginning with a letter or digit";
            reader.problem(service.key_problem(told));
        }
        services.push((service.key, read_service(name, &service, networks, reader)?));
    }
    if services.is_empty() {
        reader.problem(field.problem("is empty: a manifest without services does nothing"));
    }
    Ok(services)
}

fn read_service(
    name: &str,
    service: &Field,
    networks: &BTreeMap<String, DeclaredNetwork>,
    reader: &mut Reader,
) -> Result<ServiceSpec, Problem> {
    let fields = reader.fields(service.tree, &service.path, keys::SERVICE)?;
    let mut spec = plain(name);
    read_task(&fields, &mut spec.task, reader)?;
    if let Some(field) = fields.get("ports") {
        spec.ports = published::read(field, reader)?;
    }
    spec.networks = attachments(name, fields.get("networks"), networks, reader)?;
    if let Some(field) = fields.get("deploy") {
        deploy::read(field, &mut spec, reader)?;
    }
    if let Some(field) = fields.get("x-mesh") {
        read_x_mesh(field, &mut spec, reader)?;
    }
    check(service, &fields, &spec, reader);
    Ok(spec)
}

/// What a service is that says nothing.
fn plain(name: &str) -> ServiceSpec {
    ServiceSpec {
        name: name.to_string(),
        labels: BTreeMap::new(),
        mode: Mode::Replicated { replicas: 1 },
        task: TaskSpec {
            runtime: Runtime::Docker,
            image: String::new(),
            command: Vec::new(),
            env: Vec::new(),
            user: None,
            hostname: None,
            workdir: None,
            mounts: Vec::new(),
            health: None,
            stop_signal: None,
            stop_grace_period_ms: 10_000,
            resources: Resources::default(),
            restart: RestartPolicy::default(),
            constraints: Vec::new(),
            max_replicas_per_node: 0,
            force_update: 0,
            container: Default::default(),
        },
        networks: Vec::new(),
        ports: Vec::new(),
        endpoint_mode: EndpointMode::Vip,
        lb: Algorithm::RoundRobin,
        affinity: None,
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
    }
}

fn read_task(fields: &Fields, task: &mut TaskSpec, reader: &mut Reader) -> Result<(), Problem> {
    let text = |key: &str| fields.get(key).filter(|field| !field.is_nothing()).map(Field::text).transpose();
    task.image = text("image")?.unwrap_or_default().to_string();
    task.user = text("user")?.map(str::to_string);
    task.hostname = text("hostname")?.map(str::to_string);
    task.workdir = text("working_dir")?.map(str::to_string);
    task.stop_signal = text("stop_signal")?.map(str::to_string);
    for key in ["entrypoint", "command"] {
        if let Some(field) = fields.get(key) {
            task.command.extend(words(field, reader)?);
        }
    }
    if let Some(field) = fields.get("environment") {
        task.env = environment(field, reader)?;
    }
    if let Some(field) = fields.get("healthcheck") {
        task.health = health::read(field, reader)?;
    }
    if let Some(field) = fields.get("volumes") {
        task.mounts = volumes::read(field, reader)?;
    }
    if let Some(field) = fields.get("stop_grace_period")
        && let Some(period) = reader.parsed(field, parse_duration_ms)?
    {
        task.stop_grace_period_ms = period;
    }
    Ok(())
}

/// A command: a string, cut as a shell does, or a list of words.
pub(super) fn words(field: &Field, reader: &mut Reader) -> Result<Vec<String>, Problem> {
    if field.is_nothing() {
        return Ok(Vec::new());
    }
    if field.is_list() {
        return field.items()?.iter().map(|item| item.text().map(str::to_string)).collect();
    }
    if field.is_map() {
        return Err(field.problem("a string or a list is wanted here, not a mapping"));
    }
    Ok(reader.parsed(field, split_words)?.unwrap_or_default())
}

/// A mapping, or a list of `K=V`. A key without a value has the one of the environment, or is left out.
fn environment(field: &Field, reader: &mut Reader) -> Result<Vec<String>, Problem> {
    let from_here = |key: &str, reader: &Reader| reader.variable(key).map(|value| format!("{key}={value}"));
    let mut variables = Vec::new();
    if field.is_list() {
        for item in field.items()? {
            let text = item.text()?;
            match text.contains('=') {
                true => variables.push(text.to_string()),
                false => variables.extend(from_here(text, reader)),
            }
        }
        return Ok(variables);
    }
    for (key, value) in reader.entries(field.tree, &field.path)? {
        match value.is_nothing() {
            true => variables.extend(from_here(key, reader)),
            false => variables.push(format!("{key}={}", value.text()?)),
        }
    }
    Ok(variables)
}

/// A list of names, or a mapping of names to what the service wants there.
fn attachments(
    service: &str,
    field: Option<&Field>,
    networks: &BTreeMap<String, DeclaredNetwork>,
    reader: &mut Reader,
) -> Result<Vec<NetworkAttachment>, Problem> {
    let mut wanted: Vec<(Field, NetworkAttachment)> = Vec::new();
    let attachment = |network: &str, aliases| NetworkAttachment { network: network.to_string(), aliases };
    match field {
        None => {}
        Some(field) if field.is_list() => {
            for item in field.items()? {
                let name = item.text()?;
                wanted.push((item, attachment(name, Vec::new())));
            }
        }
        Some(field) => {
            for (name, at) in reader.entries(field.tree, &field.path)? {
                let fields = reader.fields(at.tree, &at.path, keys::ATTACHMENT)?;
                let items = fields.get("aliases").map(Field::items).transpose()?.unwrap_or_default();
                let aliases: Result<Vec<String>, Problem> =
                    items.iter().map(|item| item.text().map(str::to_string)).collect();
                wanted.push((at.clone(), attachment(name, aliases?)));
            }
        }
    }
    for (at, attachment) in &wanted {
        let network = &attachment.network;
        if !networks.contains_key(network) && network != DEFAULT_NETWORK {
            let known = networks.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none is".to_string() } else { format!("declared are: {known}") };
            reader.problem(at.problem(format!("the network '{network}' is not declared under 'networks'; {known}")));
        }
    }
    if wanted.is_empty() {
        return Ok(vec![super::with_short_name(attachment(DEFAULT_NETWORK, Vec::new()), service)]);
    }
    Ok(wanted.into_iter().map(|(_, attachment)| super::with_short_name(attachment, service)).collect())
}

fn read_x_mesh(field: &Field, spec: &mut ServiceSpec, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::X_MESH)?;
    if let Some(field) = fields.get("runtime")
        && let Some(runtime) = reader.word(field, &[("exec", Runtime::Exec), ("docker", Runtime::Docker)])?
    {
        spec.task.runtime = runtime;
    }
    let algorithms =
        [("round-robin", Algorithm::RoundRobin), ("maglev", Algorithm::Maglev), ("random", Algorithm::Random)];
    if let Some(field) = fields.get("lb")
        && let Some(lb) = reader.word(field, &algorithms)?
    {
        spec.lb = lb;
    }
    if let Some(field) = fields.get("affinity")
        && let Some(affinity) = reader.parsed(field, super::parse_affinity)?
    {
        spec.affinity = affinity.map(|timeout_s| Affinity { timeout_s });
    }
    Ok(())
}

/// What only the whole service shows.
fn check(service: &Field, fields: &Fields, spec: &ServiceSpec, reader: &mut Reader) {
    let at = |key: &str| fields.get(key).unwrap_or(service);
    if spec.task.runtime == Runtime::Exec {
        if !spec.task.image.is_empty() {
            reader.problem(at("image").problem("runtime exec runs a command of the host: take the image out"));
        }
        if spec.task.command.is_empty() {
            reader.problem(service.key_problem("runtime exec needs a 'command'"));
        }
    } else if spec.task.image.is_empty() {
        let told = "an 'image' is missing; to run a command of the host write 'x-mesh: {runtime: exec}'";
        reader.problem(service.key_problem(told));
    }
    let on_ingress = spec.ports.iter().any(|port| port.mode == PublishMode::Ingress);
    if spec.endpoint_mode == EndpointMode::Dnsrr && on_ingress {
        let told = "a port published on every node needs a VIP: write 'mode: host' here, or endpoint_mode: vip";
        reader.problem(at("ports").problem(told));
    }
}
