//! `mesh service update`: the present spec with changes, sent back whole; refused if someone else changed it meanwhile.

use std::collections::BTreeMap;

use clap::Args;

use super::container::{ContainerFlags, parse_host, parse_ulimit};
use super::create::{Ports, Registry, RuntimeWord, check, from_environment};
use super::flags::{SpecFlags, parse_network, set};
use super::mount::parse_mount;
use crate::api::{Client, ServiceUpdate};
use crate::cli::fault::Fault;
use crate::cli::node::split_label;
use crate::cli::{Screen, progress};
use crate::manifest::split_words;
use crate::model::{Mount, NetworkAttachment, PortSpec, Protocol, Runtime, ServiceSpec, TaskSpec, Ulimit};

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[arg(long, value_name = "K=V")]
    env_add: Vec<String>,
    #[arg(long, value_name = "K")]
    env_rm: Vec<String>,
    /// Publish a port, or change who may call one (allow=); a list of callers stays unless another is given
    #[arg(long, value_name = "PORT", value_parser = Ports::parse)]
    publish_add: Vec<Ports>,
    /// Target port [/protocol] that is no longer published
    #[arg(long, value_name = "TARGET", value_parser = parse_target)]
    publish_rm: Vec<(u16, Protocol)>,
    #[arg(long, value_name = "NETWORK", value_parser = parse_network)]
    network_add: Vec<NetworkAttachment>,
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    #[arg(long, value_name = "MOUNT", value_parser = parse_mount)]
    mount_add: Vec<Mount>,
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    #[arg(long, value_name = "EXPR")]
    constraint_add: Vec<String>,
    #[arg(long, value_name = "EXPR")]
    constraint_rm: Vec<String>,
    #[arg(long, value_name = "K=V")]
    label_add: Vec<String>,
    #[arg(long, value_name = "K")]
    label_rm: Vec<String>,
    #[command(flatten)]
    in_container: ContainerLists,
    /// New arguments, as one shell word
    #[arg(long, value_name = "ARGS")]
    args: Option<String>,
    /// New command and arguments of runtime exec, as one shell word
    #[arg(long, value_name = "COMMAND", conflicts_with = "args")]
    command: Option<String>,
    /// New image
    #[arg(long)]
    image: Option<String>,
    #[arg(long)]
    runtime: Option<RuntimeWord>,
    /// Replace the tasks although nothing has changed
    #[arg(long)]
    force: bool,
    /// Take back the last change instead
    #[arg(long)]
    rollback: bool,
    #[command(flatten)]
    wait: progress::Wait,
    #[command(flatten)]
    registry: Registry,
    #[command(flatten)]
    flags: SpecFlags,
    #[command(flatten)]
    container: ContainerFlags,
    service: String,
}

/// Lists of the container that grow and shrink.
#[derive(Debug, Args)]
struct ContainerLists {
    #[arg(long, value_name = "K=V")]
    container_label_add: Vec<String>,
    #[arg(long, value_name = "K")]
    container_label_rm: Vec<String>,
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_host)]
    host_add: Vec<String>,
    /// NAME, or NAME:ADDRESS for one of its addresses
    #[arg(long, value_name = "NAME")]
    host_rm: Vec<String>,
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// Takes it out of the dropped ones too
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Takes it out of the added ones too
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    #[arg(long, value_name = "K=V")]
    sysctl_add: Vec<String>,
    #[arg(long, value_name = "K")]
    sysctl_rm: Vec<String>,
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    ulimit_add: Vec<(String, Ulimit)>,
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<String>,
}

fn parse_target(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port.parse().map_err(|_| format!("'{port}' is not a port: 1 to 65535 are allowed"))?;
    Ok((port, crate::manifest::parse_protocol(protocol)?))
}

pub(super) async fn run(update: Update, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let detail = client.service(&update.service).await?;
    let (id, wait) = (detail.service.id.clone(), update.wait);
    let name = update.service.clone();
    update.registry.remark(screen);
    if update.rollback {
        client.service_rollback(id.as_str()).await?;
    } else {
        let mut spec = detail.service.spec.clone();
        let gone = network_names(&update, client).await?;
        update.apply(&mut spec, &gone)?;
        check(&spec, screen)?;
        client.service_update(id.as_str(), &ServiceUpdate { spec, version: detail.service.version }).await?;
    }
    screen.line(name)?;
    wait.for_services(&[id], client, screen).await
}

/// What `--network-rm` names, with the ids that the spec keeps instead.
async fn network_names(update: &Update, client: &Client) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    for name in &update.network_rm {
        names.push(name.clone());
        names.push(client.network(name).await?.network.id.to_string());
    }
    Ok(names)
}

impl Update {
    fn apply(self, spec: &mut ServiceSpec, networks_gone: &[String]) -> Result<(), Fault> {
        let task = &mut spec.task;
        set(&mut task.runtime, self.runtime.map(Runtime::from));
        set(&mut task.image, self.image);
        let added: Vec<String> = self.env_add.into_iter().filter_map(from_environment).collect();
        let is_replaced = |variable: &String| added.iter().any(|new| key(new) == key(variable));
        task.env.retain(|variable| !self.env_rm.iter().any(|gone| gone == key(variable)) && !is_replaced(variable));
        task.env.extend(added);
        task.mounts.retain(|mount| {
            !self.mount_rm.contains(&mount.target) && !self.mount_add.iter().any(|new| new.target == mount.target)
        });
        task.mounts.extend(self.mount_add);
        change(&mut task.constraints, self.constraint_add, &self.constraint_rm);
        self.in_container.apply(task);
        if let Some(text) = self.command {
            if task.runtime == Runtime::Docker {
                return Err(Fault::failed("--command: a container has --entrypoint and --args"));
            }
            task.command = split_words(&text).map_err(|error| Fault::failed(format!("--command: {error}")))?;
        }
        if let Some(text) = self.args {
            let args = split_words(&text).map_err(|error| Fault::failed(format!("--args: {error}")))?;
            // The first word of a command of the host is its program.
            task.command.truncate(usize::from(task.runtime == Runtime::Exec));
            task.command.extend(args);
        }
        self.container.apply(task)?;
        if task.runtime == Runtime::Exec && task.command.is_empty() {
            return Err(Fault::failed("--command: an empty command can't be run"));
        }
        if self.force {
            task.force_update += 1;
        }
        spec.networks.retain(|attachment| !networks_gone.contains(&attachment.network));
        spec.networks.extend(self.network_add);
        spec.ports.retain(|port| !self.publish_rm.contains(&(port.target, port.protocol)));
        for mut port in self.publish_add.into_iter().flat_map(|ports| ports.0) {
            // The same port with other callers takes the place of the one before. Without a word about callers it is no change: nobody opens a
            // port to everybody by leaving something out.
            let is_same = |had: &PortSpec| had.is_for(&port) && had.published == port.published;
            let Some(at) = spec.ports.iter().position(is_same) else {
                spec.ports.push(port);
                continue;
            };
            if port.allow.is_empty() {
                port.allow = std::mem::take(&mut spec.ports[at].allow);
            }
            spec.ports[at] = port;
        }
        change_map(&mut spec.labels, &self.label_add, &self.label_rm);
        self.flags.apply(spec)
    }
}

impl ContainerLists {
    fn apply(self, task: &mut TaskSpec) {
        let container = &mut task.container;
        change_map(&mut container.labels, &self.container_label_add, &self.container_label_rm);
        change_map(&mut container.sysctls, &self.sysctl_add, &self.sysctl_rm);
        container.ulimits.retain(|name, _| !self.ulimit_rm.contains(name));
        container.ulimits.extend(self.ulimit_add);
        let name = |host: &str| host.split(':').next().unwrap_or_default().to_string();
        container.extra_hosts.retain(|host| !self.host_rm.iter().any(|gone| gone == host || *gone == name(host)));
        change(&mut container.extra_hosts, self.host_add, &[]);
        change(&mut container.group_add, self.group_add, &self.group_rm);
        let same = |one: &str, other: &str| capability(one) == capability(other);
        container.cap_add.retain(|cap| !self.cap_drop.iter().any(|dropped| same(cap, dropped)));
        container.cap_drop.retain(|cap| !self.cap_add.iter().any(|added| same(cap, added)));
        change(&mut container.cap_add, self.cap_add, &[]);
        change(&mut container.cap_drop, self.cap_drop, &[]);
    }
}

fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_string)
}

fn key(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// What is there already is not added a second time: an update that changes nothing replaces nothing.
fn change(list: &mut Vec<String>, added: Vec<String>, gone: &[String]) {
    list.retain(|item| !gone.contains(item));
    for item in added {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn change_map(map: &mut BTreeMap<String, String>, added: &[String], gone: &[String]) {
    map.retain(|key, _| !gone.contains(key));
    map.extend(added.iter().map(|pair| split_label(pair)));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn updated(spec: &ServiceSpec, words: &[&str]) -> ServiceSpec {
        let line = Line::try_parse_from([&["update"], words, &["web"]].concat()).expect("flags");
        let mut spec = spec.clone();
        line.update.apply(&mut spec, &["n1".to_string()]).expect("applied");
        spec
    }

    #[test]
    fn what_is_added_is_taken_away_by_its_name() {
        let mut spec = ServiceSpec::new("web", Runtime::Docker);
        spec.task.image = "nginx".into();
        let more = updated(
            &spec,
            &[
                "--env-add=A=1",
                "--mount-add",
                "source=data,target=/data",
                "--publish-add=80:8080",
                "--network-add=n1",
                "--constraint-add=node.role==worker",
                "--label-add=a=b",
                "--container-label-add=c=d",
                "--host-add=db:10.0.0.1",
                "--group-add=audio",
                "--cap-add=CAP_NET_ADMIN",
                "--sysctl-add=net.x=1",
                "--ulimit-add=nofile=5",
                "--tty",
                "--init=false",
                "--entrypoint=/e x",
                "--args=a 'b c'",
                "--image=nginx:2",
                "--rollback-parallelism=2",
                "--limit-pids=9",
            ],
        );
        assert_eq!((more.task.image.as_str(), more.task.command.join("|").as_str()), ("nginx:2", "a|b c"));
        assert_eq!(more.task.container.entrypoint.as_deref(), Some(&["/e".to_string(), "x".into()][..]));
        assert_eq!((more.task.container.tty, more.task.container.init), (true, Some(false)));
        assert_eq!(more.rollback.parallelism, 2);
        let mut less = updated(
            &more,
            &[
                "--env-rm=A",
                "--mount-rm=/data",
                "--publish-rm=8080",
                "--network-rm=n1",
                "--constraint-rm=node.role==worker",
                "--label-rm=a",
                "--container-label-rm=c",
                "--host-rm=db",
                "--group-rm=audio",
                "--cap-drop=net_admin",
                "--sysctl-rm=net.x",
                "--ulimit-rm=nofile",
                "--tty=false",
                "--image=nginx",
                "--args=",
                "--entrypoint=",
                "--rollback-parallelism=1",
                "--limit-pids=0",
            ],
        );
        assert_eq!(less.task.container.entrypoint, Some(Vec::new()), "none at all, not the image's");
        assert_eq!(less.task.container.cap_drop, ["net_admin"]);
        less.task.container.cap_drop.clear();
        less.task.container.entrypoint = None;
        less.task.container.init = None;
        assert_eq!(less, spec);
    }

    #[test]
    fn a_list_of_callers_is_changed_by_another_and_never_by_silence() {
        let spec = ServiceSpec::new("web", Runtime::Docker);
        let listed =
            updated(&spec, &["--publish-add=published=80,target=8080,allow=10.1.0.0/16", "--publish-add=81:81"]);
        assert_eq!(updated(&listed, &["--publish-add=80:8080"]), listed);
        let other = updated(&listed, &["--publish-add=published=80,target=8080,allow=10.2.0.0/16"]);
        let lists = |spec: &ServiceSpec| spec.ports.iter().map(|port| format!("{:?}", port.allow)).collect::<Vec<_>>();
        assert_eq!(lists(&other), ["[10.2.0.0/16]", "[]"]);
        let open = updated(&listed, &["--publish-rm=8080", "--publish-add=80:8080"]);
        assert_eq!(lists(&open), ["[]", "[]"], "said in so many words");
    }

    #[test]
    fn what_is_there_already_changes_nothing_and_force_does() {
        let mut spec = ServiceSpec::new("web", Runtime::Exec);
        spec.task.command = vec!["web".into(), "x".into()];
        spec.task.constraints = vec!["node.role==worker".into()];
        assert_eq!(updated(&spec, &["--constraint-add=node.role==worker", "--args=x"]), spec);
        assert_eq!(updated(&spec, &["--force"]).task.force_update, 1);
        assert_eq!(updated(&spec, &["--command=other --flag"]).task.command, ["other", "--flag"]);
    }
}
