//! `mesh service create`: flags to a spec, sent, then waited for.

use clap::{Args, ValueEnum};

use super::flags::{SpecFlags, parse_mount, parse_network};
use crate::api::Client;
use crate::cli::fault::Fault;
use crate::cli::node::split_label;
use crate::cli::{Screen, progress};
use crate::manifest::parse_publish;
use crate::model::{
    Algorithm, EndpointMode, Mode, Mount, NetworkAttachment, PortSpec, PublishMode, Resources, RestartPolicy, Runtime,
    ServiceSpec, TaskSpec, UpdateConfig,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeWord {
    Replicated,
    Global,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeWord {
    /// A command of this host
    Exec,
    /// A container
    Docker,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the service [default: the image's or command's, with some digits]
    #[arg(long)]
    name: Option<String>,
    /// Network it is on: NAME, or name=NAME,alias=OTHER; repeatable
    #[arg(long, value_parser = parse_network)]
    network: Vec<NetworkAttachment>,
    /// 8000:80[/udp], 9000-9009:9000-9009, 80, or published=,target=,protocol=,mode=; repeatable
    #[arg(short, long, value_name = "PORT", value_parser = Ports::parse)]
    publish: Vec<Ports>,
    /// 'global': one task on every node
    #[arg(long, conflicts_with = "replicas", default_value = "replicated", hide_default_value = true)]
    mode: ModeWord,
    /// Set an environment variable; K alone takes the value from here
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// type=bind,source=/PATH,target=/PATH[,readonly]
    #[arg(long, value_parser = parse_mount)]
    mount: Vec<Mount>,
    /// Where tasks may run: node.hostname==n1, node.role!=manager, node.labels.K==V
    #[arg(long, value_name = "EXPR")]
    constraint: Vec<String>,
    #[arg(short, long, value_name = "K=V")]
    label: Vec<String>,
    /// 'exec': all words are a command of this host; 'docker': the first is an image [default: docker]
    #[arg(long)]
    runtime: Option<RuntimeWord>,
    /// Don't wait until it runs
    #[arg(short, long)]
    detach: bool,
    /// Only the id, no progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    flags: SpecFlags,
    /// With --runtime exec the command and its arguments; else IMAGE [COMMAND] [ARG...]
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE|COMMAND")]
    words: Vec<String>,
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
    let (detach, quiet) = (create.detach, create.quiet);
    let created = client.service_create(&create.into_spec()?).await?;
    created.warnings.iter().for_each(|warning| screen.remark(format!("mesh: warning: {warning}")));
    screen.line(created.id.to_string())?;
    if detach {
        return Ok(());
    }
    if quiet {
        let sink = &mut Screen { out: &mut std::io::sink(), err: &mut std::io::sink(), live: false };
        return progress::converge(&created.id, client, sink).await;
    }
    progress::converge(&created.id, client, screen).await
}

impl Create {
    fn into_spec(self) -> Result<ServiceSpec, Fault> {
        let mut command = self.words;
        let (runtime, image) = match self.runtime {
            Some(RuntimeWord::Exec) => (Runtime::Exec, String::new()),
            Some(RuntimeWord::Docker) | None => (Runtime::Docker, command.remove(0)), // clap: at least one word
        };
        let first = if image.is_empty() { command.first().map_or("", String::as_str) } else { image.as_str() };
        let mode = match self.mode {
            ModeWord::Replicated => Mode::Replicated { replicas: 1 },
            ModeWord::Global => Mode::Global,
        };
        let ports: Vec<PortSpec> = self.publish.into_iter().flat_map(|ports| ports.0).collect();
        let name = self.name.unwrap_or_else(|| random_name(first));
        let mut spec = ServiceSpec {
            name,
            labels: self.label.iter().map(|label| split_label(label)).collect(),
            mode,
            task: TaskSpec {
                runtime,
                image,
                command,
                env: self.env.into_iter().filter_map(from_environment).collect(),
                user: None,
                hostname: None,
                workdir: None,
                mounts: self.mount,
                health: None,
                stop_signal: None,
                stop_grace_period_ms: 10_000,
                resources: Resources::default(),
                restart: RestartPolicy::default(),
                constraints: self.constraint,
                max_replicas_per_node: 0,
                force_update: 0,
                container: Default::default(),
            },
            networks: self.network,
            ports,
            endpoint_mode: EndpointMode::Vip,
            lb: Algorithm::RoundRobin,
            affinity: None,
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
        };
        self.flags.apply(&mut spec)?;
        check(&spec)?;
        Ok(spec)
    }
}

/// What no cluster could accept.
pub(super) fn check(spec: &ServiceSpec) -> Result<(), Fault> {
    let on_ingress = spec.ports.iter().any(|port| port.mode == PublishMode::Ingress);
    if spec.endpoint_mode == EndpointMode::Dnsrr && on_ingress {
        return Err(Fault::failed(
            "--endpoint-mode dnsrr: a port published on every node needs a VIP; publish it with mode=host, or use vip",
        ));
    }
    Ok(())
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
    let stem = program.rsplit('/').next().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
    let stem = stem.to_ascii_lowercase();
    let stem: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let stem = stem.trim_matches('-');
    let stem = if stem.is_empty() { "service" } else { stem };
    format!("{stem}-{:04x}", rand::random::<u16>())
}
