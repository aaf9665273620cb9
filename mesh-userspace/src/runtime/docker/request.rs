//! From a task's launch to the Engine's request for a container: values in, values out.
//!
//! The container gets network `none` (its interface is ours), the gate before its command, and no restart policy (that is the
//! leader's). DNS and hosts go through the Engine, which writes those files for network `none` too.
//!
//! Invariant: what a service asks for is either in the request or refused with words. Must not: ask the Engine.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, ImageConfig, Mount as EngineMount, MountBindOptions,
    MountTmpfsOptions, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::gate;
use crate::model::{HealthCheck, Id, Mount, MountOptions, Ulimit};
use crate::runtime::TaskLaunch;

/// The task's id: by it a container is found again.
pub const TASK_LABEL: &str = "mesh.task";
/// The node's id in its cluster.
pub const NODE_LABEL: &str = "mesh.node";
/// The agent's state directory: tells what was left from an earlier cluster of the same agent.
pub const STATE_LABEL: &str = "mesh.state-dir";

/// This node, as its containers' labels have it.
pub struct Owner<'a> {
    pub node: &'a Id,
    pub state_dir: &'a Path,
}

/// The request; an error is a sentence and means that this task can't run as it is asked for.
pub fn container(
    launch: &TaskLaunch,
    reference: &str,
    image: &ImageConfig,
    owner: &Owner<'_>,
) -> Result<ContainerCreateBody, String> {
    let gate = gate::path(owner.state_dir);
    let gate = gate.to_string_lossy();
    if gate.contains(':') {
        return Err(format!("the Engine can't mount {gate}: choose a --state-dir without a colon"));
    }
    let command = command(launch, image)?;
    let extra = &launch.container;
    let mut labels: HashMap<String, String> =
        extra.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let task_name = launch.name.strip_suffix(&format!(".{}", launch.task_id)).unwrap_or(&launch.name);
    let service = task_name.rsplit_once('.').map_or(task_name, |(service, _)| service);
    labels.extend(
        [
            (TASK_LABEL, launch.task_id.as_str()),
            (NODE_LABEL, owner.node.as_str()),
            (STATE_LABEL, &owner.state_dir.to_string_lossy()),
            ("mesh.service", service),
            ("mesh.task.name", task_name),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let host_config = HostConfig {
        network_mode: Some("none".into()),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        // `z`: on SELinux machines the file is labelled so that every container may run it; elsewhere it means nothing.
        binds: Some(vec![format!("{gate}:{}:ro,z", gate::INSIDE)]),
        mounts: Some(launch.mounts.iter().map(mount).collect::<Result<_, _>>()?),
        dns: Some(launch.nameservers.iter().map(ToString::to_string).collect()),
        // A single dot: none, instead of the host's.
        dns_search: Some(if launch.search.is_empty() { vec![".".into()] } else { launch.search.clone() }),
        dns_options: Some(vec!["ndots:0".into()]),
        extra_hosts: Some(hosts(launch)),
        nano_cpus: launch.resources.limit_nano_cpus.map(u64::cast_signed),
        memory: launch.resources.limit_memory_bytes.map(u64::cast_signed),
        memory_reservation: launch.resources.reserve_memory_bytes.map(u64::cast_signed),
        cap_add: some(&extra.cap_add),
        cap_drop: some(&extra.cap_drop),
        sysctls: Some(extra.sysctls.iter().map(|(key, value)| (key.clone(), value.clone())).collect()),
        init: extra.init,
        readonly_rootfs: Some(extra.read_only),
        security_opt: extra.no_new_privileges.then(|| vec!["no-new-privileges".into()]),
        group_add: some(&extra.group_add),
        ulimits: Some(extra.ulimits.iter().map(ulimit).collect()),
        shm_size: extra.shm_size_bytes.map(u64::cast_signed),
        pids_limit: extra.pids_limit.map(u64::cast_signed),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        hostname: Some(launch.hostname.clone()),
        image: Some(reference.to_owned()),
        entrypoint: Some(vec![gate::INSIDE.into()]),
        cmd: Some(command),
        env: Some(launch.env.iter().filter(|variable| variable.contains('=')).cloned().collect()),
        user: launch.user.clone(),
        working_dir: launch.workdir.clone(),
        tty: Some(extra.tty),
        open_stdin: Some(extra.stdin_open),
        labels: Some(labels),
        healthcheck: launch.health.as_ref().map(healthcheck),
        // For an Engine that shuts down; we stop tasks ourselves.
        stop_signal: launch.stop_signal.map(|signal| signal.to_string()),
        stop_timeout: Some((launch.stop_grace_ms.div_ceil(1_000)).cast_signed()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

/// Entrypoint and command as the Engine would join them: an entrypoint of the service's own leaves the image's command out.
fn command(launch: &TaskLaunch, image: &ImageConfig) -> Result<Vec<String>, String> {
    let own = launch.container.entrypoint.as_ref();
    let mut words = own.or(image.entrypoint.as_ref()).cloned().unwrap_or_default();
    // An empty word takes the image's entrypoint away.
    words.retain(|word| own.is_none() || !word.is_empty());
    match own {
        _ if !launch.command.is_empty() => words.extend(launch.command.iter().cloned()),
        Some(_) => {}
        None => words.extend(image.cmd.iter().flatten().cloned()),
    }
    if words.is_empty() {
        return Err(format!("image {} has no command of its own: name one after the image", launch.image));
    }
    Ok(words)
}

/// Whether the Engine will run a healthcheck in it.
pub fn is_checked(launch: &TaskLaunch, image: &ImageConfig) -> bool {
    match &launch.health {
        Some(check) => !check.command.is_empty(),
        None => {
            let test = image.healthcheck.as_ref().and_then(|check| check.test.as_ref());
            test.is_some_and(|test| !test.is_empty() && test.first().is_some_and(|word| word != "NONE"))
        }
    }
}

fn healthcheck(check: &HealthCheck) -> HealthConfig {
    if check.is_disabled() {
        return HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() };
    }
    let nanoseconds = |ms: u64| Some(ms.saturating_mul(1_000_000).cast_signed());
    HealthConfig {
        test: Some(std::iter::once("CMD".to_owned()).chain(check.command.iter().cloned()).collect()),
        interval: nanoseconds(check.interval_ms),
        timeout: nanoseconds(check.timeout_ms),
        retries: Some(check.retries.into()),
        start_period: nanoseconds(check.start_period_ms),
        start_interval: nanoseconds(check.start_interval_ms).filter(|wait| *wait != 0), // Engines before 25 know none
    }
}

fn mount(mount: &Mount) -> Result<EngineMount, String> {
    let typ = match mount.kind.as_str() {
        "bind" => MountType::BIND,
        "volume" => MountType::VOLUME,
        "tmpfs" => MountType::TMPFS,
        other => return Err(format!("mount of type '{other}' on {}: use bind, volume or tmpfs", mount.target)),
    };
    Ok(EngineMount {
        typ: Some(typ),
        // A volume without a name, and every tmpfs, is the container's own.
        source: (!mount.source.is_empty() && typ != MountType::TMPFS).then(|| mount.source.clone()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        bind_options: bind_options(mount)?,
        volume_options: (typ == MountType::VOLUME).then(|| volume_options(&mount.options)),
        tmpfs_options: (typ == MountType::TMPFS).then(|| MountTmpfsOptions {
            size_bytes: mount.options.tmpfs_size_bytes.map(u64::cast_signed),
            mode: mount.options.tmpfs_mode.map(i64::from),
            ..MountTmpfsOptions::default()
        }),
        ..EngineMount::default()
    })
}

fn bind_options(mount: &Mount) -> Result<Option<MountBindOptions>, String> {
    let Some(word) = &mount.options.propagation else { return Ok(None) };
    let propagation = word.parse().map_err(|_| {
        format!(
            "mount on {}: propagation '{word}' is none: use private, rprivate, shared, rshared, slave or rslave",
            mount.target
        )
    })?;
    Ok(Some(MountBindOptions { propagation: Some(propagation), ..MountBindOptions::default() }))
}

fn volume_options(options: &MountOptions) -> MountVolumeOptions {
    let map = |entries: &BTreeMap<String, String>| entries.clone().into_iter().collect::<HashMap<_, _>>();
    let driver_config = (options.driver.is_some() || !options.driver_opts.is_empty()).then(|| {
        MountVolumeOptionsDriverConfig { name: options.driver.clone(), options: Some(map(&options.driver_opts)) }
    });
    MountVolumeOptions {
        no_copy: Some(options.no_copy),
        labels: Some(map(&options.labels)),
        driver_config,
        subpath: options.subpath.clone(),
    }
}

fn ulimit((name, limit): (&String, &Ulimit)) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.clone()), soft: Some(limit.soft), hard: Some(limit.hard) }
}

/// Lines of /etc/hosts: the task's own name at its addresses, then what the service asks for.
fn hosts(launch: &TaskLaunch) -> Vec<String> {
    let own = launch.addresses.iter().map(|address| format!("{}:{address}", launch.hostname));
    let extra = launch.extra_hosts.iter().map(|(address, name)| format!("{name}:{address}"));
    own.chain(extra).chain(launch.container.extra_hosts.iter().cloned()).collect()
}

fn some(words: &[String]) -> Option<Vec<String>> {
    (!words.is_empty()).then(|| words.to_vec())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Container, Resources};

    pub fn launch() -> TaskLaunch {
        let task_id = Id::from_bytes([0xab; 16]);
        TaskLaunch {
            name: format!("shop.web.3.{task_id}"),
            task_id,
            hostname: "web-3".into(),
            image: "nginx:1.27".into(),
            container: Container::default(),
            command: vec![],
            env: vec!["A=b".into(), "NOTHING".into()],
            user: Some("1000:1000".into()),
            workdir: None,
            mounts: vec![],
            resources: Resources::default(),
            health: None,
            nameservers: vec!["10.0.0.1".parse().expect("an address")],
            search: vec![],
            addresses: vec!["10.0.0.7".parse().expect("an address")],
            extra_hosts: vec![],
            stop_signal: None,
            stop_grace_ms: 1_500,
            exit_matters: false,
        }
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: Some(vec!["/entry.sh".into()]),
            cmd: Some(vec!["nginx".into(), "-g".into()]),
            ..ImageConfig::default()
        }
    }

    fn request(launch: &TaskLaunch) -> Result<ContainerCreateBody, String> {
        let (node, state_dir) = (Id::from_bytes([1; 16]), Path::new("/var/lib/mesh"));
        container(launch, "nginx:1.27", &image(), &Owner { node: &node, state_dir })
    }

    #[test]
    fn the_command_is_joined_as_the_engine_would() {
        let words = |launch: &TaskLaunch| request(launch).expect("a request").cmd.unwrap_or_default();
        let mut task = launch();
        assert_eq!(words(&task), ["/entry.sh", "nginx", "-g"]);
        task.command = vec!["bash".into()];
        assert_eq!(words(&task), ["/entry.sh", "bash"]);
        task.container.entrypoint = Some(vec!["/own".into()]);
        assert_eq!(words(&task), ["/own", "bash"]);
        task.command.clear();
        assert_eq!(words(&task), ["/own"], "the image's command belongs to the image's entrypoint");
        task.container.entrypoint = Some(vec![String::new()]);
        assert!(request(&task).expect_err("nothing left to run").contains("nginx:1.27"));
    }

    #[test]
    fn network_names_and_labels_are_ours() {
        let body = request(&launch()).expect("a request");
        assert_eq!(body.entrypoint.as_deref(), Some(&["/.mesh-gate".to_owned()][..]));
        assert_eq!(body.env.as_deref(), Some(&["A=b".to_owned()][..]));
        assert_eq!(body.stop_timeout, Some(2));
        let labels = body.labels.expect("labels");
        assert_eq!(labels["mesh.service"], "shop.web");
        assert_eq!(labels["mesh.task.name"], "shop.web.3");
        let host = body.host_config.expect("a host config");
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.extra_hosts.as_deref(), Some(&["web-3:10.0.0.7".to_owned()][..]));
        assert_eq!(host.dns.as_deref(), Some(&["10.0.0.1".to_owned()][..]));
        assert_eq!(host.dns_search.as_deref(), Some(&[".".to_owned()][..]));
    }

    #[test]
    fn a_healthcheck_is_the_services_the_images_or_none() {
        let mut task = launch();
        let own = HealthCheck {
            command: vec!["wget".into(), "-qO-".into(), "localhost".into()],
            interval_ms: 1_000,
            timeout_ms: 500,
            retries: 3,
            ..HealthCheck::default()
        };
        let images = ImageConfig {
            healthcheck: Some(HealthConfig {
                test: Some(vec!["CMD-SHELL".into(), "true".into()]),
                ..HealthConfig::default()
            }),
            ..image()
        };
        assert!(!is_checked(&task, &image()) && is_checked(&task, &images));
        task.health = Some(own.clone());
        let asked = request(&task).expect("a request").healthcheck.expect("a check");
        assert_eq!(asked.test.as_deref().map(|test| test.join(" ")).as_deref(), Some("CMD wget -qO- localhost"));
        assert_eq!((asked.interval, asked.timeout, asked.retries), (Some(1_000_000_000), Some(500_000_000), Some(3)));
        task.health = Some(HealthCheck { command: vec![], ..own });
        assert!(!is_checked(&task, &images), "disabled by the service");
        let asked = request(&task).expect("a request").healthcheck.expect("a check");
        assert_eq!(asked.test.as_deref(), Some(&["NONE".to_owned()][..]));
    }

    #[test]
    fn mounts_are_passed_on_or_refused() {
        let mut task = launch();
        let of = |kind: &str, source: &str| Mount {
            kind: kind.into(),
            source: source.into(),
            target: "/data".into(),
            read_only: true,
            ..Mount::default()
        };
        task.mounts = vec![of("bind", "/srv"), of("volume", "data"), of("tmpfs", "")];
        let mounts = request(&task).expect("a request").host_config.and_then(|host| host.mounts).expect("mounts");
        let seen: Vec<_> = mounts.iter().map(|mount| (mount.typ, mount.source.as_deref())).collect();
        let wanted = [
            (Some(MountType::BIND), Some("/srv")),
            (Some(MountType::VOLUME), Some("data")),
            (Some(MountType::TMPFS), None),
        ];
        assert_eq!(seen, wanted);
        task.mounts = vec![of("npipe", "x")];
        assert!(request(&task).expect_err("not of this world").contains("npipe"));
    }

    #[test]
    fn what_only_containers_have_is_passed_on() {
        let mut task = launch();
        task.container = Container {
            stdin_open: true,
            no_new_privileges: true,
            group_add: vec!["docker".into()],
            ulimits: [("nofile".to_owned(), Ulimit { soft: 1_024, hard: -1 })].into(),
            shm_size_bytes: Some(1 << 20),
            pids_limit: Some(7),
            ..Container::default()
        };
        let volume = MountOptions { driver: Some("nfs".into()), subpath: Some("a".into()), ..MountOptions::default() };
        let tmpfs = MountOptions { tmpfs_size_bytes: Some(4_096), tmpfs_mode: Some(0o1777), ..MountOptions::default() };
        let shared = MountOptions { propagation: Some("rslave".into()), ..MountOptions::default() };
        let of = |kind: &str, options: MountOptions| Mount { kind: kind.into(), options, ..Mount::default() };
        task.mounts = vec![of("volume", volume), of("tmpfs", tmpfs), of("bind", shared)];
        let body = request(&task).expect("a request");
        assert_eq!(body.open_stdin, Some(true));
        let host = body.host_config.expect("a host's part");
        assert_eq!(host.security_opt.as_deref(), Some(&["no-new-privileges".to_owned()][..]));
        assert_eq!((host.shm_size, host.pids_limit), (Some(1 << 20), Some(7)));
        assert_eq!(host.group_add.as_deref(), Some(&["docker".to_owned()][..]));
        let limit = &host.ulimits.expect("limits")[0];
        assert_eq!((limit.name.as_deref(), limit.soft, limit.hard), (Some("nofile"), Some(1_024), Some(-1)));
        let mounts = host.mounts.expect("mounts");
        let volume = mounts[0].volume_options.as_ref().expect("a volume's");
        let driver = volume.driver_config.as_ref().and_then(|driver| driver.name.as_deref());
        assert_eq!((driver, volume.subpath.as_deref()), (Some("nfs"), Some("a")));
        let tmpfs = mounts[1].tmpfs_options.as_ref().expect("a tmpfs'");
        assert_eq!((tmpfs.size_bytes, tmpfs.mode), (Some(4_096), Some(0o1777)));
        let bind = mounts[2].bind_options.as_ref().and_then(|bind| bind.propagation);
        assert_eq!(bind.map(|word| word.to_string()).as_deref(), Some("rslave"));
        task.mounts =
            vec![of("bind", MountOptions { propagation: Some("sideways".into()), ..MountOptions::default() })];
        assert!(request(&task).expect_err("no such propagation").contains("sideways"));
    }
}
