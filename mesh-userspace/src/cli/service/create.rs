//! `mesh service create`: flags to a spec, sent, then waited for.

use clap::{Args, ValueEnum};

use super::container::{ContainerFlags, check_exec, parse_host, parse_ulimit};
use super::flags::{SpecFlags, parse_network};
use super::mount::parse_mount;
use crate::api::Client;
use crate::cli::fault::Fault;
use crate::cli::node::split_label;
use crate::cli::{Screen, progress};
use crate::manifest::{parse_env_file, parse_publish};
use crate::model::{EndpointMode, Mode, Mount, NetworkAttachment, PortSpec, PublishMode, Runtime, ServiceSpec, Ulimit};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeWord {
    Replicated,
    Global,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeWord {
    /// A container of the Docker Engine
    Docker,
    /// A command of the host
    Exec,
}

impl From<RuntimeWord> for Runtime {
    fn from(word: RuntimeWord) -> Self {
        match word {
            RuntimeWord::Docker => Runtime::Docker,
            RuntimeWord::Exec => Runtime::Exec,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the service [default: the image's or command's, with some digits]
    #[arg(long)]
    name: Option<String>,
    /// Network it is on: NAME, or name=NAME,alias=OTHER; repeatable
    #[arg(long, value_parser = parse_network)]
    network: Vec<NetworkAttachment>,
    /// 8000:80[/udp], 9000-9009:9000-9009, 80, 192.0.2.1:80:80, or published=,target=,protocol=,mode=,address=,interface=,allow=CIDR[;CIDR…]; repeatable
    #[arg(short, long, value_name = "PORT", value_parser = Ports::parse)]
    publish: Vec<Ports>,
    /// 'global': one task on every node
    #[arg(long, conflicts_with = "replicas", default_value = "replicated", hide_default_value = true)]
    mode: ModeWord,
    /// Set an environment variable; K alone takes the value from here
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Environment variables from a file, one K=V a line; --env wins
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// type=bind|volume|tmpfs,source=NAME or /PATH,target=/PATH[,readonly]
    #[arg(long, value_parser = parse_mount)]
    mount: Vec<Mount>,
    /// Where tasks may run: node.hostname==n1, node.role!=manager, node.labels.K==V
    #[arg(long, value_name = "EXPR")]
    constraint: Vec<String>,
    /// Label of the service
    #[arg(short, long, value_name = "K=V")]
    label: Vec<String>,
    /// Label of its containers
    #[arg(long, value_name = "K=V")]
    container_label: Vec<String>,
    /// Further line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_host)]
    host: Vec<String>,
    /// Further group of the user
    #[arg(long)]
    group: Vec<String>,
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    #[arg(long, value_name = "K=V")]
    sysctl: Vec<String>,
    /// nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    ulimit: Vec<(String, Ulimit)>,
    #[arg(long, hide = true)]
    secret: Vec<String>,
    #[arg(long, hide = true)]
    config: Vec<String>,
    /// 'exec': all words are a command of the host [default: docker]
    #[arg(long)]
    runtime: Option<RuntimeWord>,
    #[command(flatten)]
    wait: progress::Wait,
    #[command(flatten)]
    registry: Registry,
    #[command(flatten)]
    flags: SpecFlags,
    #[command(flatten)]
    container: ContainerFlags,
    /// IMAGE [COMMAND] [ARG...]; with --runtime exec the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    words: Vec<String>,
}

/// What Docker's client asks a registry before an Engine does; ours leaves all of that to the Engines.
#[derive(Debug, Default, Args)]
pub(crate) struct Registry {
    #[arg(long, hide = true)]
    with_registry_auth: bool,
    #[arg(long, hide = true)]
    no_resolve_image: bool,
}

impl Registry {
    pub(crate) fn remark(&self, screen: &mut Screen<'_>) {
        if self.with_registry_auth {
            screen.remark(
                "mesh: warning: --with-registry-auth is ignored: nodes get no credentials from here; an image that \
                 needs them must be on its node before (docker pull)",
            );
        }
    }
}

/// What one `-p` gives.
#[derive(Clone, Debug)]
pub(super) struct Ports(pub(super) Vec<PortSpec>);

impl Ports {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        parse_publish(text).map(Ports)
    }
}

pub(super) async fn run(create: Create, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let wait = create.wait;
    create.registry.remark(screen);
    let spec = create.into_spec()?;
    check(&spec, screen)?;
    let created = client.service_create(&spec).await?;
    created.warnings.iter().for_each(|warning| screen.remark(format!("mesh: warning: {warning}")));
    screen.line(created.id.to_string())?;
    wait.for_services(&[created.id], client, screen).await
}

impl Create {
    fn into_spec(self) -> Result<ServiceSpec, Fault> {
        refuse_not_there(&self.secret, &self.config)?;
        let runtime = self.runtime.map_or(Runtime::Docker, Runtime::from);
        let mut words = self.words.into_iter();
        let first = words.next().unwrap_or_default();
        let name = self.name.unwrap_or_else(|| random_name(&first));
        let mut spec = ServiceSpec::new(&name, runtime);
        spec.labels = self.label.iter().map(|label| split_label(label)).collect();
        if self.mode == ModeWord::Global {
            spec.mode = Mode::Global;
        }
        spec.networks = self.network;
        spec.ports = self.publish.into_iter().flat_map(|ports| ports.0).collect();
        let task = &mut spec.task;
        match runtime {
            Runtime::Docker => (task.image, task.command) = (first, words.collect()),
            Runtime::Exec => task.command = std::iter::once(first).chain(words).collect(),
        }
        task.env = environment(&self.env_file, self.env)?;
        task.mounts = self.mount;
        task.constraints = self.constraint;
        let container = &mut task.container;
        container.labels = self.container_label.iter().map(|label| split_label(label)).collect();
        container.extra_hosts = self.host;
        container.group_add = self.group;
        container.cap_add = self.cap_add;
        container.cap_drop = self.cap_drop;
        container.sysctls = self.sysctl.iter().map(|sysctl| split_label(sysctl)).collect();
        container.ulimits = self.ulimit.into_iter().collect();
        self.container.apply(task)?;
        self.flags.apply(&mut spec)?;
        Ok(spec)
    }
}

/// What no cluster could accept.
pub(super) fn check(spec: &ServiceSpec, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let on_ingress = spec.ports.iter().any(|port| port.mode == PublishMode::Ingress);
    if spec.endpoint_mode == EndpointMode::Dnsrr && on_ingress {
        return Err(Fault::failed(
            "--endpoint-mode dnsrr: a port published on every node needs a VIP; publish it with mode=host, or use vip",
        ));
    }
    check_exec(&spec.task, screen)
}

fn refuse_not_there(secrets: &[String], configs: &[String]) -> Result<(), Fault> {
    if !secrets.is_empty() {
        return Err(Fault::failed("--secret: secrets are not there yet; without it the service would run unprotected"));
    }
    if !configs.is_empty() {
        return Err(Fault::failed("--config: configs are not there yet; bind-mount the file (--mount type=bind,…)"));
    }
    Ok(())
}

/// Files first, then single variables: a later one takes the place of an earlier one of its name.
fn environment(files: &[String], single: Vec<String>) -> Result<Vec<String>, Fault> {
    let mut variables: Vec<String> = Vec::new();
    for path in files {
        let fail = |told: String| Fault::failed(format!("--env-file {path}: {told}"));
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let lines = parse_env_file(&text, &|name| std::env::var(name).ok()).map_err(fail)?;
        variables.extend(lines.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    variables.extend(single.into_iter().filter_map(from_environment));
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_string();
    let mut kept: Vec<String> = Vec::new();
    for variable in variables {
        kept.retain(|earlier| name(earlier) != name(&variable));
        kept.push(variable);
    }
    Ok(kept)
}

/// `K=V` as it is; `K` with the value it has here, and left out where it has none, as Docker does.
pub(super) fn from_environment(variable: String) -> Option<String> {
    if variable.contains('=') {
        return Some(variable);
    }
    std::env::var(&variable).ok().map(|value| format!("{variable}={value}"))
}

/// The program's or image's name made fit for DNS, and four digits.
fn random_name(program: &str) -> String {
    let stem = program.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let stem = stem.split([':', '@']).next().unwrap_or_default();
    let stem: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let stem = stem.trim_matches('-');
    let stem = if stem.is_empty() { "service" } else { stem };
    format!("{stem}-{:04x}", rand::random::<u16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_images_and_programs() {
        let stem = |text: &str| random_name(text).rsplit_once('-').map(|(stem, _)| stem.to_string());
        assert_eq!(stem("registry:5000/team/web-app:1.2@sha256:ab").as_deref(), Some("web-app"));
        assert_eq!(stem("/usr/bin/sleep").as_deref(), Some("sleep"));
        assert_eq!(stem("…").as_deref(), Some("service"));
    }

    #[test]
    fn single_variables_win_over_files() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "A=1\nB=2\n").expect("written");
        let path = file.path().display().to_string();
        let variables = environment(&[path], vec!["A=3".into()]).expect("readable");
        assert_eq!(variables, ["B=2", "A=3"]);
        assert!(environment(&["/nowhere".into()], Vec::new()).is_err());
    }
}
