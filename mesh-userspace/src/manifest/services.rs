//! The section `services`.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::errors::{Place, Problem};
use super::reader::{Field, Reader};
use super::volumes::DeclaredVolume;
use super::{
    DeclaredNetwork, attachments, container, deploy, environment, health, is_name, keys, mounts, parse_duration_ms,
    published, split_words,
};
use crate::model::{Affinity, Algorithm, EndpointMode, PublishMode, Runtime, ServiceSpec, TaskSpec};

pub(super) type Fields<'t> = BTreeMap<&'t str, Field<'t>>;

/// What the other sections declare.
#[derive(Clone, Copy)]
pub(super) struct Declarations<'a> {
    pub networks: &'a BTreeMap<String, DeclaredNetwork>,
    pub volumes: &'a BTreeMap<String, DeclaredVolume>,
}

pub(super) fn read(
    field: &Field,
    declared: Declarations,
    reader: &mut Reader,
) -> Result<Vec<(Place, ServiceSpec)>, Problem> {
    let mut services = Vec::new();
    for (name, service) in reader.entries(field.tree, &field.path)? {
        if !is_name(name) {
            let told = "this is no name for a service: letters, digits, '-', '_', beginning with a letter or digit";
            reader.problem(service.key_problem(told));
        }
        services.push((service.key, read_service(name, &service, declared, reader)?));
    }
    if services.is_empty() {
        reader.problem(field.problem("is empty: a manifest without services does nothing"));
    }
    Ok(services)
}

fn read_service(
    name: &str,
    service: &Field,
    declared: Declarations,
    reader: &mut Reader,
) -> Result<ServiceSpec, Problem> {
    let fields = reader.fields(service.tree, &service.path, keys::SERVICE)?;
    let mut spec = ServiceSpec::new(name, Runtime::Docker);
    // First: what the other keys mean hangs on it.
    let mut allow = Vec::new();
    if let Some(field) = fields.get("x-mesh") {
        allow = read_x_mesh(field, &mut spec, reader)?;
    }
    read_task(&fields, &mut spec.task, declared, reader)?;
    if let Some(field) = fields.get("ports") {
        spec.ports = published::read(field, reader)?;
    }
    // A port's own list wins over that of all its service's.
    spec.ports.iter_mut().filter(|port| port.allow.is_empty()).for_each(|port| port.allow.clone_from(&allow));
    spec.networks = attachments::read(name, fields.get("networks"), declared.networks, reader)?;
    if let Some(field) = fields.get("deploy") {
        deploy::read(field, &mut spec, reader)?;
    }
    check(service, &fields, &spec, reader);
    Ok(spec)
}

fn read_task(fields: &Fields, task: &mut TaskSpec, declared: Declarations, reader: &mut Reader) -> Result<(), Problem> {
    let text = |key: &str| fields.get(key).filter(|field| !field.is_nothing()).map(Field::text).transpose();
    task.image = text("image")?.unwrap_or_default().to_string();
    task.user = text("user")?.map(str::to_string);
    task.hostname = text("hostname")?.map(str::to_string);
    task.workdir = text("working_dir")?.map(str::to_string);
    task.stop_signal = text("stop_signal")?.map(str::to_string);
    let mut words_of =
        |key: &str| fields.get(key).filter(|field| !field.is_nothing()).map(|field| words(field, reader)).transpose();
    let (entrypoint, command) = (words_of("entrypoint")?, words_of("command")?);
    if task.runtime == Runtime::Exec {
        task.command.extend(entrypoint.unwrap_or_default());
    } else {
        task.container.entrypoint = entrypoint;
    }
    task.command.extend(command.unwrap_or_default());
    task.env = environment::read(fields.get("environment"), fields.get("env_file"), reader)?;
    container::read(fields, &mut task.container, reader)?;
    if let Some(field) = fields.get("healthcheck") {
        task.health = health::read(field, reader)?;
    }
    if let Some(field) = fields.get("volumes") {
        task.mounts = mounts::read(field, declared.volumes, reader)?;
    }
    if let Some(field) = fields.get("tmpfs") {
        task.mounts.extend(mounts::read_tmpfs(field, reader)?);
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

/// What it says of the service; whom all of its ports let in is returned.
fn read_x_mesh(field: &Field, spec: &mut ServiceSpec, reader: &mut Reader) -> Result<Vec<IpNet>, Problem> {
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
    if let Some(field) = fields.get("weight-by") {
        spec.weight_by = reader.parsed(field, super::parse_weight_by)?.flatten();
    }
    Ok(fields.get("allow").map(|field| published::read_allow(field, reader)).transpose()?.unwrap_or_default())
}

/// What only the whole service shows.
fn check(service: &Field, fields: &Fields, spec: &ServiceSpec, reader: &mut Reader) {
    let at = |key: &str| fields.get(key).unwrap_or(service);
    let has_what_runs = !spec.task.image.is_empty() || spec.task.runtime == Runtime::Exec;
    if let Some(field) = fields.get("build").filter(|_| has_what_runs) {
        reader.ignored(field, "images are not built here");
    }
    if spec.task.runtime == Runtime::Exec {
        check_exec(service, fields, &spec.task, reader);
    } else if spec.task.image.is_empty() {
        let told = match fields.get("build") {
            Some(_) => "an 'image' is missing: images are not built here; build and push one, then name it",
            None => "an 'image' is missing; to run a command of the host write 'x-mesh: {runtime: exec}'",
        };
        reader.problem(service.key_problem(told));
    }
    let on_ingress = spec.ports.iter().any(|port| port.mode == PublishMode::Ingress);
    if spec.endpoint_mode == EndpointMode::Dnsrr && on_ingress {
        let told = "a port published on every node needs a VIP: write 'mode: host' here, or endpoint_mode: vip";
        reader.problem(at("ports").problem(told));
    }
}

fn check_exec(service: &Field, fields: &Fields, task: &TaskSpec, reader: &mut Reader) {
    if !task.image.is_empty() {
        let image = fields.get("image").unwrap_or(service);
        reader.problem(image.problem("runtime exec runs a command of the host: take the image out"));
    }
    if task.command.is_empty() {
        reader.problem(service.key_problem("runtime exec needs a 'command'"));
    }
    for lack in task.lacking_on_exec() {
        let field = match fields.get(lack.key) {
            Some(field) => field.clone(),
            None => Field { path: format!("{}.{}", service.path, lack.key), ..service.clone() },
        };
        let told = format!("runtime exec does not have it: {}", lack.remedy);
        match (lack.harms, fields.contains_key(lack.key)) {
            (true, true) => reader.problem(field.problem(told)),
            (true, false) => reader.problem(field.key_problem(told)),
            (false, _) => reader.ignored(&field, &told),
        }
    }
}
