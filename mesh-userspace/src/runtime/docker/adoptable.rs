//! Containers that join by their labels: who they are and what they ask for, read from the Engine's own description.
//!
//! ```text
//! docker run -l mesh.network=demo -l mesh.service=web …      docs/reference/labels.md
//! ```
//! Somebody else made these containers, starts and ends them. Here is only what he says about them; whether there is such a network, or the
//! port is free, is the leader's to say.
//! Invariant: a label that can't be read is told in [`Adoptable::problem`], never passed over. Must not: list a task of ours, or change a
//! container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};

use super::engine::{Connected, has_status, words};
use super::request::TASK_LABEL;
use super::watch::verdict_of;
use crate::manifest::parse_publish;
use crate::model::{PortSpec, TaskHealth};

/// The networks it joins; a container without this label is none of ours.
pub const NETWORK_LABEL: &str = "mesh.network";
const SERVICE_LABEL: &str = "mesh.service";
const PORT_LABEL: &str = "mesh.port";
const ALIAS_LABEL: &str = "mesh.alias";
/// Written by Compose: the container's key in `services`.
const COMPOSE_SERVICE_LABEL: &str = "com.docker.compose.service";
/// What people write for the labels above.
const MISTAKEN: [(&str, &str); 4] = [
    ("mesh.networks", NETWORK_LABEL),
    ("mesh.services", SERVICE_LABEL),
    ("mesh.ports", PORT_LABEL),
    ("mesh.aliases", ALIAS_LABEL),
];

/// A running container that asks to join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoptable {
    /// The container's id, 64 hexadecimal digits.
    pub container: String,
    pub name: String,
    pub image: String,
    /// Its first process, by which its network namespace is found.
    pub pid: i32,
    pub service: String,
    /// Names or ids, as the label has them; the first is the one that names and the outside are asked of. Empty only with a problem.
    pub networks: Vec<String>,
    pub aliases: Vec<String>,
    pub ports: Vec<PortSpec>,
    /// The Engine's verdict; None: it has no healthcheck.
    pub health: Option<TaskHealth>,
    /// Its resolv.conf on this host, where that is ours to write: on Docker's default bridge and network `none`. On networks that users
    /// made, Docker's own resolver answers in it.
    pub resolv_conf: Option<PathBuf>,
    /// What keeps it from joining, with the label and what to write instead.
    pub problem: Option<String>,
}

/// All that run, sorted by id. An error is a sentence and means that nothing is known, not that there is none.
pub async fn list(engine: &Connected) -> Result<Vec<Adoptable>, String> {
    let filters = HashMap::from([("label", vec![NETWORK_LABEL])]);
    let options = ListContainersOptionsBuilder::new().filters(&filters).build();
    let containers = engine.docker.list_containers(Some(options)).await.map_err(|error| words(&error))?;
    let mut found = Vec::new();
    for id in containers.into_iter().filter_map(|container| container.id) {
        match engine.docker.inspect_container(&id, None::<InspectContainerOptions>).await {
            Ok(container) => found.extend(read(&container)),
            // It was removed meanwhile.
            Err(error) if has_status(&error, 404) => {}
            Err(error) => return Err(words(&error)),
        }
    }
    found.sort_by(|one, other| one.container.cmp(&other.container));
    Ok(found)
}

/// None for a container that does not run, does not ask to join, or is a task of ours.
pub fn read(found: &ContainerInspectResponse) -> Option<Adoptable> {
    let config = found.config.as_ref()?;
    let labels = config.labels.as_ref()?;
    let state = found.state.as_ref()?;
    let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)?;
    if state.running != Some(true) || labels.contains_key(TASK_LABEL) {
        return None;
    }
    let asked = labels.get(NETWORK_LABEL)?;
    let name = found.name.as_deref().unwrap_or_default().trim_start_matches('/');
    let mode = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref()).unwrap_or_default();
    let mut problems = Problems::default();
    problems.of(has_network_of_its_own(mode));
    problems.of(no_mistaken_label(labels));
    let networks = problems.of(networks(asked));
    let service = problems.of(service(labels, name));
    let ports = problems.of(labels.get(PORT_LABEL).map(|text| ports(text)).transpose()).unwrap_or_default();
    let aliases = problems.of(labels.get(ALIAS_LABEL).map(|text| aliases(text)).transpose()).unwrap_or_default();
    Some(Adoptable {
        container: found.id.clone()?,
        name: name.to_owned(),
        image: config.image.clone().unwrap_or_default(),
        pid,
        service,
        networks,
        aliases,
        ports,
        health: verdict_of(found),
        resolv_conf: resolv_conf(found, mode),
        problem: (!problems.0.is_empty()).then(|| problems.0.join("; ")),
    })
}

/// Mistakes of one container, to be told together.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// The value, or its default in place of a mistake.
    fn of<T: Default>(&mut self, read: Result<T, String>) -> T {
        read.unwrap_or_else(|problem| {
            self.0.push(problem);
            T::default()
        })
    }
}

/// An interface of ours in a shared namespace would be everybody's there.
fn has_network_of_its_own(mode: &str) -> Result<(), String> {
    match mode.split_once(':') {
        None if mode == "host" => Err(format!(
            "label {NETWORK_LABEL}: the container shares the node's own network (network_mode: host), which joins no overlay: start it \
             without network_mode, or take the label off"
        )),
        Some(("container", other)) => Err(format!(
            "label {NETWORK_LABEL}: the container has no network of its own, it shares that of container {other:.12}: put the label on \
             that one"
        )),
        _ => Ok(()),
    }
}

fn no_mistaken_label(labels: &HashMap<String, String>) -> Result<(), String> {
    match MISTAKEN.iter().find(|(written, _)| labels.contains_key(*written)) {
        Some((written, meant)) => Err(format!("label {written} is none of mesh's: write {meant}")),
        None => Ok(()),
    }
}

fn networks(text: &str) -> Result<Vec<String>, String> {
    let remedy = format!("write one name or several, as {NETWORK_LABEL}=demo or {NETWORK_LABEL}=demo,back");
    if text.trim().is_empty() {
        return Err(format!("label {NETWORK_LABEL} is empty: {remedy}"));
    }
    let names = items(text);
    if let Some(bad) = names.iter().find(|name| !is_name(name, &['-', '_', '.'])) {
        return Err(format!("label {NETWORK_LABEL}={text}: '{bad}' is no network's name: {remedy}"));
    }
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        Some((_, twice)) => Err(format!("label {NETWORK_LABEL}={text} names '{twice}' twice: {remedy}")),
        None => Ok(names),
    }
}

/// The label, or Compose's, or the container's name: the first that there is.
fn service(labels: &HashMap<String, String>, name: &str) -> Result<String, String> {
    let rule = "letters, digits, '-' and '_', at most 63, beginning and ending with a letter or digit";
    let (service, whose) = match (labels.get(SERVICE_LABEL), labels.get(COMPOSE_SERVICE_LABEL)) {
        (Some(service), _) => (service.trim(), format!("label {SERVICE_LABEL}")),
        (None, Some(service)) => (service.as_str(), "the service's name in the Compose file".to_owned()),
        (None, None) => (name, "the container's name".to_owned()),
    };
    if is_name(service, &['-', '_']) {
        return Ok(service.to_owned());
    }
    Err(format!("{whose} is '{service}', which is no service's name ({rule}): write label {SERVICE_LABEL}=web"))
}

fn ports(text: &str) -> Result<Vec<PortSpec>, String> {
    let remedy = format!("write the short form, as {PORT_LABEL}=8000:80 or {PORT_LABEL}=8000:80,5353:53/udp");
    let told = |what: String| format!("label {PORT_LABEL}={text}: {what}: {remedy}");
    let mut ports = Vec::new();
    for item in items(text) {
        if item.contains('=') || item.is_empty() {
            return Err(told(format!("'{item}' is not understood")));
        }
        ports.extend(parse_publish(&item).map_err(told)?);
    }
    ports.sort_by(|a: &PortSpec, b| a.order().cmp(&b.order()));
    ports.dedup();
    Ok(ports)
}

fn aliases(text: &str) -> Result<Vec<String>, String> {
    let names = items(text);
    match names.iter().find(|name| !is_name(name, &['-', '_', '.'])) {
        Some(bad) => Err(format!(
            "label {ALIAS_LABEL}={text}: '{bad}' is no name: write one or several, as {ALIAS_LABEL}=www,api"
        )),
        None => Ok(names),
    }
}

/// None where Docker's resolver answers inside, which is as soon as one of its networks was made by somebody; and where the file is not
/// the container's own: one that is mounted over /etc/resolv.conf, be it the host's, is named here just so.
fn resolv_conf(found: &ContainerInspectResponse, mode: &str) -> Option<PathBuf> {
    if mode == "host" || mode.starts_with("container:") {
        return None;
    }
    let is_own = |path: &Path| path.iter().any(|part| part.to_str() == found.id.as_deref());
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let is_plain = networks.is_none_or(|networks| networks.keys().all(|name| name == "bridge" || name == "none"));
    found.resolv_conf_path.as_deref().map(PathBuf::from).filter(|path| is_plain && is_own(path))
}

fn items(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).collect()
}

/// As the leader has names, so that a mistake is told where the label is.
fn is_name(name: &str, inner: &[char]) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = |c: char| c.is_ascii_alphanumeric() || inner.contains(&c);
    name.len() <= 63 && ends(name.chars().next()) && ends(name.chars().last()) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use bollard::models::{
        ContainerConfig, ContainerState, EndpointSettings, Health, HealthStatusEnum, HostConfig, NetworkSettings,
    };

    use super::*;

    fn container(mode: &str, labels: &[(&str, &str)]) -> ContainerInspectResponse {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let network = if mode == "default" { "bridge" } else { mode };
        let networks = HashMap::from([(network.to_owned(), EndpointSettings::default())]);
        ContainerInspectResponse {
            id: Some("ab".repeat(32)),
            name: Some("/shop-web-1".into()),
            state: Some(ContainerState { running: Some(true), pid: Some(77), ..ContainerState::default() }),
            config: Some(ContainerConfig {
                image: Some("nginx".into()),
                labels: Some(labels),
                ..ContainerConfig::default()
            }),
            host_config: Some(HostConfig { network_mode: Some(mode.into()), ..HostConfig::default() }),
            network_settings: Some(NetworkSettings { networks: Some(networks), ..NetworkSettings::default() }),
            resolv_conf_path: Some(format!("/var/lib/docker/containers/{}/resolv.conf", "ab".repeat(32))),
            ..ContainerInspectResponse::default()
        }
    }

    fn problem(mode: &str, labels: &[(&str, &str)]) -> String {
        read(&container(mode, labels)).expect("labelled").problem.expect("a mistake")
    }

    #[test]
    fn all_labels_are_read() {
        let labels = [
            ("mesh.network", "demo, back"),
            ("mesh.service", "web"),
            ("mesh.port", "8000:80,5353:53/udp"),
            ("mesh.alias", "www,api"),
            ("com.docker.compose.service", "frontend"),
        ];
        let seen = read(&container("shop_default", &labels)).expect("labelled");
        assert_eq!((seen.container, seen.name.as_str(), seen.pid), ("ab".repeat(32), "shop-web-1", 77));
        assert_eq!((seen.image.as_str(), seen.service.as_str()), ("nginx", "web"));
        assert_eq!((seen.networks, seen.aliases), (items("demo,back"), items("www,api")));
        let ports: Vec<_> = seen.ports.iter().map(|port| (port.published, port.target)).collect();
        assert_eq!(ports, [(5353, 53), (8000, 80)]);
        assert_eq!((seen.health, seen.resolv_conf, seen.problem), (None, None, None));
    }

    #[test]
    fn a_service_is_named_by_label_by_compose_or_by_the_container() {
        let named = |labels: &[(&str, &str)]| {
            let labels = [&[("mesh.network", "demo")], labels].concat();
            read(&container("default", &labels)).expect("labelled").service
        };
        assert_eq!(named(&[("mesh.service", "web"), ("com.docker.compose.service", "front")]), "web");
        assert_eq!(named(&[("com.docker.compose.service", "front")]), "front");
        assert_eq!(named(&[]), "shop-web-1");
    }

    #[test]
    fn what_does_not_run_does_not_ask_or_is_ours_is_none() {
        let asks = [("mesh.network", "demo")];
        assert!(read(&container("default", &[("mesh.service", "web")])).is_none());
        assert!(read(&container("none", &[("mesh.network", "demo"), (TASK_LABEL, "x")])).is_none());
        let mut ended = container("default", &asks);
        ended.state = Some(ContainerState { running: Some(false), pid: Some(0), ..ContainerState::default() });
        assert!(read(&ended).is_none());
        // Between two starts of one that ends again and again.
        ended.state = Some(ContainerState { running: Some(true), pid: Some(0), ..ContainerState::default() });
        assert!(read(&ended).is_none());
    }

    #[test]
    fn names_are_ours_to_give_only_where_docker_gives_none() {
        let path = |mode: &str| read(&container(mode, &[("mesh.network", "demo")])).expect("labelled").resolv_conf;
        assert!(path("default").is_some() && path("bridge").is_some() && path("none").is_some());
        assert!(path("shop_default").is_none() && path("host").is_none() && path("container:abc").is_none());
        let mut both = container("bridge", &[("mesh.network", "demo")]);
        let settings = both.network_settings.as_mut().and_then(|settings| settings.networks.as_mut());
        settings.expect("networks").insert("shop_default".into(), EndpointSettings::default());
        assert_eq!(read(&both).expect("labelled").resolv_conf, None);
        let mut mounted = container("bridge", &[("mesh.network", "demo")]);
        mounted.resolv_conf_path = Some("/etc/resolv.conf".into());
        assert_eq!(read(&mounted).expect("labelled").resolv_conf, None, "the host's own file");
    }

    #[test]
    fn the_engines_verdict_is_passed_on() {
        let mut checked = container("default", &[("mesh.network", "demo")]);
        let health = Health { status: Some(HealthStatusEnum::STARTING), ..Health::default() };
        checked.state.as_mut().expect("a state").health = Some(health);
        assert_eq!(read(&checked).expect("labelled").health, Some(TaskHealth::Starting));
    }

    #[test]
    fn a_network_that_is_not_the_containers_own_is_told() {
        let told = problem("host", &[("mesh.network", "demo")]);
        assert!(told.contains("network_mode: host") && told.contains("start it without network_mode"), "{told}");
        let told = problem("container:0123456789abcdef", &[("mesh.network", "demo")]);
        assert!(told.contains("container 0123456789ab:") && told.contains("put the label on that one"), "{told}");
    }

    #[test]
    fn networks_that_are_none_are_told() {
        for (label, what) in [("", "is empty"), ("demo,", "''"), ("de mo", "'de mo'"), ("a,b,a", "'a' twice")] {
            let told = problem("default", &[("mesh.network", label)]);
            assert!(told.contains(what) && told.contains("mesh.network=demo,back"), "{label}: {told}");
        }
    }

    #[test]
    fn services_that_are_none_are_told() {
        let told = problem("default", &[("mesh.network", "demo"), ("mesh.service", "web.1")]);
        assert!(told.starts_with("label mesh.service is 'web.1'") && told.contains("label mesh.service=web"), "{told}");
        let told = problem("default", &[("mesh.network", "demo"), ("com.docker.compose.service", "web.1")]);
        assert!(told.contains("in the Compose file is 'web.1'"), "{told}");
        let mut dotted = container("default", &[("mesh.network", "demo")]);
        dotted.name = Some("/my.web".into());
        let told = read(&dotted).expect("labelled").problem.expect("no name for a service");
        assert!(told.starts_with("the container's name is 'my.web'"), "{told}");
    }

    #[test]
    fn ports_that_are_none_are_told() {
        let wrong =
            [("http", "'http' is not a port"), ("", "'' is not"), ("80:80/icmp", "'icmp'"), ("published=80", "=80'")];
        for (label, what) in wrong {
            let told = problem("default", &[("mesh.network", "demo"), ("mesh.port", label)]);
            assert!(told.starts_with(&format!("label mesh.port={label}: ")) && told.contains(what), "{told}");
            assert!(told.contains("mesh.port=8000:80,5353:53/udp"), "{told}");
        }
    }

    #[test]
    fn aliases_that_are_none_are_told() {
        let told = problem("default", &[("mesh.network", "demo"), ("mesh.alias", "www,a b")]);
        assert!(told.contains("'a b' is no name") && told.contains("mesh.alias=www,api"), "{told}");
    }

    #[test]
    fn a_label_in_the_plural_is_told_and_mistakes_come_together() {
        let told = problem("host", &[("mesh.network", ""), ("mesh.ports", "80")]);
        assert!(told.contains("label mesh.ports is none of mesh's: write mesh.port;"), "{told}");
        assert!(told.contains("network_mode: host") && told.contains("is empty"), "{told}");
    }
}
