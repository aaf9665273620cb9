//! Manifests and what they mean; wrong manifests and what is said.

use super::*;
use crate::model::*;

fn variable(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("9000".to_string()),
        "TOKEN" => Some("secret".to_string()),
        _ => None,
    }
}

fn stack(text: &str) -> Stack {
    let manifest = parse("demo.yaml", text, &variable).unwrap_or_else(|errors| panic!("{errors}"));
    manifest.stack("demo").unwrap_or_else(|errors| panic!("{errors}"))
}

fn service(text: &str) -> ServiceSpec {
    stack(text).services.remove(0)
}

/// A service `web` with these lines (indented by four) and a command.
fn with(lines: &str) -> String {
    format!("services:\n  web:\n    command: [web]\n    x-mesh: {{runtime: exec}}\n{lines}")
}

fn wrong(text: &str) -> String {
    match parse("demo.yaml", text, &variable) {
        Ok(_) => "nothing wrong".into(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn the_contracts_example() {
    let stack = stack(
        r#"
networks:
  demo: {driver: overlay}
services:
  whoami:
    command: [/usr/local/bin/whoami, --port, "8000"]
    ports: ["8000:8000"]
    networks: [demo]
    deploy: {replicas: 2}
    x-mesh: {runtime: exec, lb: round-robin}
"#,
    );
    let labels = |labels: &BTreeMap<String, String>| labels[Stack::LABEL].clone();
    assert_eq!(stack.networks.len(), 1);
    assert_eq!((stack.networks[0].name.as_str(), labels(&stack.networks[0].labels)), ("demo_demo", "demo".into()));
    let service = &stack.services[0];
    assert_eq!((service.name.as_str(), labels(&service.labels)), ("demo_whoami", "demo".into()));
    assert_eq!(service.task.command, ["/usr/local/bin/whoami", "--port", "8000"]);
    assert_eq!(service.task.runtime, Runtime::Exec);
    assert_eq!(service.mode, Mode::Replicated { replicas: 2 });
    assert_eq!(service.ports, [PortSpec::new(Protocol::Tcp, 8000, 8000)]);
    assert_eq!(service.networks, [NetworkAttachment { network: "demo_demo".into(), aliases: vec!["whoami".into()] }]);
}

#[test]
fn everything_a_service_can_say() {
    let service = service(&with(
        r#"
    entrypoint: /bin/sh -c
    environment: {A: 1.10, B: "x y", TOKEN: , GONE: }
    ports:
      - "${PORT}:80/udp"
      - {target: 443, published: "8443", protocol: tcp, mode: host}
      - 7000-7001:7000-7001
    networks:
      front: {aliases: [www, api]}
      back:
    healthcheck: {test: [CMD, check], interval: 2s, timeout: 500ms, retries: 5, start_period: 1m, start_interval: 1s}
    stop_grace_period: 1m30s
    stop_signal: SIGINT
    hostname: box
    user: "1000:1000"
    working_dir: /srv
    volumes: ["/data:/data:ro"]
    deploy:
      mode: replicated
      replicas: 3
      endpoint_mode: vip
      labels: [tier=front]
      placement: {constraints: [node.role == manager], max_replicas_per_node: 2}
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 4, window: 1m}
      update_config: {parallelism: 2, delay: 1s, order: start-first, failure_action: rollback, max_failure_ratio: 0.25}
      rollback_config: {parallelism: 0}
      resources: {limits: {cpus: "0.5", memory: 64M}, reservations: {memory: 32m}}
networks:
  front: {internal: true, driver_opts: {mtu: 1400}}
  back: {external: true, name: shared}
"#,
    ));
    let task = &service.task;
    assert_eq!(task.command, ["/bin/sh", "-c", "web"]);
    assert_eq!(task.env, ["A=1.10", "B=x y", "TOKEN=secret"]);
    assert_eq!((task.user.as_deref(), task.hostname.as_deref()), (Some("1000:1000"), Some("box")));
    assert_eq!((task.workdir.as_deref(), task.stop_signal.as_deref()), (Some("/srv"), Some("SIGINT")));
    assert_eq!(task.stop_grace_period_ms, 90_000);
    assert!(task.mounts[0].read_only && task.mounts[0].source == "/data");
    let health = task.health.as_ref().expect("a check");
    assert_eq!(
        *health,
        HealthCheck {
            command: vec!["check".into()],
            interval_ms: 2_000,
            timeout_ms: 500,
            retries: 5,
            start_period_ms: 60_000,
            start_interval_ms: 1_000
        }
    );
    assert_eq!(task.constraints, ["node.role == manager"]);
    assert_eq!(task.max_replicas_per_node, 2);
    assert_eq!(
        task.restart,
        RestartPolicy { condition: RestartCondition::OnFailure, delay_ms: 1_000, max_attempts: 4, window_ms: 60_000 }
    );
    assert_eq!(task.resources.limit_nano_cpus, Some(500_000_000));
    assert_eq!(task.resources.limit_memory_bytes, Some(64 << 20));
    assert_eq!(task.resources.reserve_memory_bytes, Some(32 << 20));
    let ports: Vec<_> = service.ports.iter().map(|port| (port.published, port.target, port.mode)).collect();
    assert_eq!(
        ports,
        [
            (7000, 7000, PublishMode::Ingress),
            (7001, 7001, PublishMode::Ingress),
            (8443, 443, PublishMode::Host),
            (9000, 80, PublishMode::Ingress)
        ]
    );
    let networks: Vec<_> = service.networks.iter().map(|at| (at.network.as_str(), at.aliases.join(","))).collect();
    assert_eq!(networks, [("shared", "web".into()), ("demo_front", "web,www,api".into())]);
    assert_eq!((service.update.parallelism, service.update.order), (2, UpdateOrder::StartFirst));
    assert_eq!(service.update.failure_action, UpdateFailureAction::Rollback);
    assert_eq!(service.rollback.parallelism, 0);
    assert_eq!(service.labels["tier"], "front");
}

#[test]
fn anchors_merges_extensions_and_defaults() {
    let stack = stack(
        r#"
version: "3.8"
x-common: &common
  x-mesh: {runtime: exec, affinity: client-ip=60, weight-by: node.labels.size}
  environment: ["MODE=${MODE:-fast}"]
services:
  a:
    <<: *common
    command: sleep "1 h"
  b:
    <<: *common
    command: [sleep, "$$HOME"]
    x-note: mine
networks:
  unused: {}
"#,
    );
    let commands: Vec<_> = stack.services.iter().map(|service| service.task.command.join("|")).collect();
    assert_eq!(commands, ["sleep|1 h", "sleep|$HOME"]);
    assert!(stack.services.iter().all(|service| service.task.env == ["MODE=fast"]));
    assert!(stack.services.iter().all(|service| service.affinity == Some(Affinity { timeout_s: 60 })));
    assert!(stack.services.iter().all(|service| service.weight_by.as_deref() == Some("size")));
    assert!(stack.services.iter().all(|service| service.networks[0].network == "demo_default"));
    let names: Vec<_> = stack.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["demo_default"], "a network that no service uses is not made");
}

#[test]
fn what_is_printed_means_the_same() {
    let text = with(
        "    environment: ['PRICE=5$$']\n    ports: [{target: 80, published: 8080}, {target: 1, published: 1, host_ip: 192.0.2.1, \
         x-mesh: {allow: [10.0.0.0/8]}}, {target: 1, published: 1, x-mesh: {interface: eth1}}]\n    deploy: {mode: global}\n",
    );
    let first = parse("demo.yaml", &text, &variable).unwrap_or_else(|errors| panic!("{errors}"));
    let printed = first.to_yaml();
    let second = parse("printed.yaml", &printed, &variable).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    assert_eq!(first.stack("s").expect("a stack"), second.stack("s").expect("a stack"), "{printed}");
}

#[test]
fn what_is_ignored_is_said() {
    let text = with("    build: .\n    depends_on: [db]\n    restart: always\n    privileged: false\n");
    let manifest = parse("demo.yaml", &text, &variable).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        manifest.warnings(),
        [
            "demo.yaml:5:12: services.web.build: is ignored: images are not built here",
            "demo.yaml:6:17: services.web.depends_on: is ignored: services start together, as in Swarm; let them try \
             again until the other one answers",
            "demo.yaml:7:14: services.web.restart: is ignored: write deploy.restart_policy, as in Swarm",
        ]
    );
}

#[test]
fn wrong_manifests_are_told_with_place_key_and_what_is_allowed() {
    let table = [
        ("{}", "demo.yaml:1:1: services: is missing: a manifest without services does nothing"),
        ("service: {}", "demo.yaml:1:1: service: this key is unknown; did you mean 'services'?"),
        (&with("    prots: []\n"), "demo.yaml:5:5: services.web.prots: this key is unknown; did you mean 'ports'?"),
        (&with("    ports: 80\n"), "demo.yaml:5:12: services.web.ports: a list is wanted here, not a single value"),
        (
            &with("    deploy: {replicas: [1]}\n"),
            "demo.yaml:5:24: services.web.deploy.replicas: a single value is wanted here, not a list",
        ),
        (
            &with("    x-mesh: {lb: fast}\n").replacen("    x-mesh: {runtime: exec}\n", "", 1),
            "demo.yaml:2:3: services.web: an 'image' is missing; to run a command of the host write 'x-mesh: {runtime: exec}'\n\
             demo.yaml:4:18: services.web.x-mesh.lb: 'fast' is not allowed here: round-robin, maglev, random",
        ),
        (
            &with("    ports: ['0:80', '1:2:3']\n    networks: [nope]\n    stop_grace_period: soon\n"),
            "demo.yaml:5:13: services.web.ports[0]: '0' is not a port: 1 to 65535 are allowed\n\
             demo.yaml:5:21: services.web.ports[1]: '1' is not an address that a port can be published at: write one \
             that a node has, or 127.0.0.1 or ::1 for processes of the nodes themselves, or leave it out\n\
             demo.yaml:6:16: services.web.networks[0]: the network 'nope' is not declared under 'networks'; none is\n\
             demo.yaml:7:24: services.web.stop_grace_period: 'soon' is not a duration: write e.g. 500ms, 10s, 1m30s",
        ),
        (
            &with("    privileged: true\n    secrets: [key]\n    volumes: [data:/data]\nvolumes: {data: {}}\n"),
            "demo.yaml:5:17: services.web.privileged: privileged tasks are not there; take it out, or name what \
             is needed under 'cap_add'\n\
             demo.yaml:6:14: services.web.secrets: secrets are not there yet; without them the service would run \
             unprotected or not at all\n\
             demo.yaml:7:14: services.web.volumes: runtime exec does not have it: volumes need runtime docker; bind a \
             folder of the host (/host/path:/path)",
        ),
        (
            &with("    deploy: {endpoint_mode: dnsrr}\n    ports: ['80:80']\n"),
            "demo.yaml:6:12: services.web.ports: a port published on every node needs a VIP: write 'mode: host' here, \
             or endpoint_mode: vip",
        ),
        (
            &with("    networks: [n]\nnetworks: {n: {ipam: {config: [{subnet: 10.1.2.3/20}]}}}\n"),
            "demo.yaml:6:41: networks.n.ipam.config[0].subnet: '10.1.2.3/20' has bits set behind the prefix; did you \
             mean 10.1.0.0/20?",
        ),
        (
            &with(
                "    networks: [n]\nnetworks: {n: {ipam: {config: [{subnet: 10.1.0.0/20}, {subnet: 10.2.0.0/20}]}}}\n",
            ),
            "demo.yaml:6:55: networks.n.ipam.config[1]: a network has one subnet of each family",
        ),
        (
            &with(
                "    networks: [n]\nnetworks: {n: {ipam: {config: [{subnet: 'fd00:1::/64', gateway: 'fd00:2::1'}]}}}\n",
            ),
            "demo.yaml:6:65: networks.n.ipam.config[0].gateway: fd00:2::1 is not in the subnet fd00:1::/64",
        ),
        (
            &with("    networks: [n]\nnetworks: {n: {enable_ipv4: false}}\n"),
            "demo.yaml:6:29: networks.n.enable_ipv4: without IPv4 a network needs enable_ipv6: true, or a subnet of IPv6",
        ),
        (
            &with("    hostname: ${NAME:?say who}\n"),
            "demo.yaml:5:15: the variable NAME is required and not set: say who",
        ),
    ];
    for (text, told) in table {
        assert_eq!(wrong(text), told, "{text}");
    }
    let two = "services:\n  a: {command: x, x-mesh: {runtime: exec}, ports: ['80:80']}\n  \
               b: {command: x, x-mesh: {runtime: exec}, ports: ['80:81']}\n";
    assert_eq!(wrong(two), "demo.yaml:3:3: services.b.ports: port 80 is published by service 'a' already");
    let good = parse("demo.yaml", &with(""), &variable).expect("understood");
    assert!(good.stack("a b").is_err());
}

/// A service `web` from an image with these lines (indented by four).
fn image(lines: &str) -> String {
    format!("services:\n  web:\n    image: nginx\n{lines}")
}

fn at(folder: &str, text: &str) -> Result<Manifest, Errors> {
    let read = |path: &std::path::Path| match path.to_str() {
        Some("/srv/shop/web.env") => Ok("A=file\nB=file\n# C=3\nTOKEN\n".to_string()),
        _ => Err(format!("{}: not there", path.display())),
    };
    parse_in("shop.yaml", text, &Around { folder: Some(folder.into()), variable: &variable, read: &read })
}

#[test]
fn what_a_container_can_say() {
    let text = image(
        r#"
    entrypoint: ["/entry", "$$1"]
    command: run --it
    labels: {a: b}
    tty: true
    stdin_open: true
    init: true
    read_only: true
    cap_add: [NET_ADMIN]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    group_add: [audio, 44]
    extra_hosts: ["db:10.0.0.9", "up=host-gateway"]
    sysctls: {net.core.somaxconn: 1024}
    ulimits: {nproc: 65535, nofile: {soft: 1, hard: 2}}
    shm_size: 64m
    tmpfs: ["/run:size=1m,mode=0700", /tmp]
    deploy: {resources: {limits: {pids: 50}}}
"#,
    );
    let service = service(&text);
    let asked = &service.task.container;
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    assert_eq!((service.task.runtime, service.task.image.as_str()), (Runtime::Docker, "nginx"));
    assert_eq!(asked.entrypoint, Some(words(&["/entry", "$1"])));
    assert_eq!(service.task.command, ["run", "--it"]);
    assert_eq!((asked.labels["a"].as_str(), service.labels.contains_key("a")), ("b", false));
    assert!(asked.tty && asked.stdin_open && asked.init == Some(true) && asked.read_only && asked.no_new_privileges);
    assert_eq!((&asked.cap_add, &asked.cap_drop), (&words(&["NET_ADMIN"]), &words(&["ALL"])));
    assert_eq!(asked.group_add, ["audio", "44"]);
    assert_eq!(asked.extra_hosts, ["db:10.0.0.9", "up:host-gateway"]);
    assert_eq!(asked.sysctls["net.core.somaxconn"], "1024");
    assert_eq!(asked.ulimits["nofile"], Ulimit { soft: 1, hard: 2 });
    assert_eq!(asked.ulimits["nproc"], Ulimit { soft: 65535, hard: 65535 });
    assert_eq!((asked.shm_size_bytes, asked.pids_limit), (Some(64 << 20), Some(50)));
    let tmpfs = &service.task.mounts[0];
    assert_eq!((tmpfs.kind.as_str(), tmpfs.target.as_str()), ("tmpfs", "/run"));
    assert_eq!((tmpfs.options.tmpfs_size_bytes, tmpfs.options.tmpfs_mode), (Some(1 << 20), Some(0o700)));
    let cleared = |line: &str| self::service(&image(line)).task.container.entrypoint;
    assert_eq!(cleared("    entrypoint: ''\n"), Some(Vec::new()));
    assert_eq!(cleared("    entrypoint: []\n"), Some(Vec::new()));
    assert_eq!(cleared("    entrypoint:\n"), None);
}

#[test]
fn volumes_of_every_kind() {
    let text = image(
        r#"
    volumes:
      - data:/var/lib/data
      - ./conf:/etc/conf:ro
      - ../up:/up:rslave
      - /anonymous
      - shared:/shared:nocopy
      - {type: volume, source: named, target: /named, read_only: true, volume: {subpath: a/b}}
      - {type: bind, source: ~/keys, target: /keys}
      - type: tmpfs
        target: /fast
        tmpfs: {size: 1m, mode: 0o1777}
volumes:
  data: {driver: local, driver_opts: {type: nfs, o: "addr=10.0.0.1,rw"}, labels: [keep=yes]}
  shared: {external: true, name: of-others}
  named: {name: exactly}
"#,
    )
    .replace("~/keys", "/home/u/keys");
    let manifest = at("/srv/shop", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let stack = manifest.stack("s").expect("a stack");
    let seen: Vec<_> = (stack.services[0].task.mounts.iter())
        .map(|mount| {
            format!("{} {}:{}{}", mount.kind, mount.source, mount.target, if mount.read_only { ":ro" } else { "" })
        })
        .collect();
    assert_eq!(
        seen,
        [
            "volume s_data:/var/lib/data",
            "bind /srv/shop/conf:/etc/conf:ro",
            "bind /srv/up:/up",
            "volume :/anonymous",
            "volume of-others:/shared",
            "volume exactly:/named:ro",
            "bind /home/u/keys:/keys",
            "tmpfs :/fast",
        ]
    );
    let options = |index: usize| &stack.services[0].task.mounts[index].options;
    assert_eq!((options(0).driver.as_deref(), options(0).driver_opts["type"].as_str()), (Some("local"), "nfs"));
    assert_eq!((options(0).labels["keep"].as_str(), options(0).labels[Stack::LABEL].as_str()), ("yes", "s"));
    assert_eq!(options(2).propagation.as_deref(), Some("rslave"));
    assert!(options(4).no_copy && options(4).labels.is_empty(), "what others made is taken as it is");
    assert_eq!((options(5).subpath.as_deref(), options(7).tmpfs_mode), (Some("a/b"), Some(0o1777)));
}

#[test]
fn files_of_variables_come_first() {
    let text = image("    env_file: web.env\n    environment: {A: here, MISSING: }\n");
    let manifest = at("/srv/shop", &text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(manifest.stack("s").expect("a stack").services[0].task.env, ["A=here", "B=file", "TOKEN=secret"]);
    assert_eq!(
        manifest.warnings(),
        ["shop.yaml:5:28: services.web.environment.MISSING: the variable MISSING is not set: it is left out"]
    );
    let text = image("    env_file: [{path: gone.env, required: false}, ../no.env]\n");
    assert_eq!(
        at("/srv/shop", &text).expect_err("a file is missing").to_string(),
        "shop.yaml:4:51: services.web.env_file[1]: the file of variables can't be read: /srv/no.env: not there"
    );
}

#[test]
fn the_order_of_keys_says_nothing() {
    let one = "services:\n  b: {image: b, environment: {X: 1, A: 2}, networks: {n: , m: }, ports: ['2:2', '1:1']}\n  \
               a: {image: a, labels: {x: 1, a: 2}}\nnetworks: {n: , m: }\n";
    let other = "networks: {m: , n: }\nservices:\n  a: {labels: {a: 2, x: 1}, image: a}\n  \
                 b: {ports: ['1:1', '2:2'], networks: {m: , n: }, environment: [A=2, X=1], image: b}\n";
    let services = |text: &str| {
        let mut services = stack(text).services;
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    };
    assert_eq!(services(one), services(other));
}

#[test]
fn what_would_lose_data_or_safety_is_refused_the_rest_is_named() {
    for (lines, told) in [
        ("    security_opt: ['seccomp:strict.json']\n", "less protected than asked"),
        ("    network_mode: none\n", "tasks without any network are not there"),
        ("    ports: ['eth0:80:80']\n", "'eth0' is not an address"),
        ("    ports: [{target: 80, host_ip: '::'}]\n", "'::' is no address of its own"),
        ("    ports: [{target: 80, x-mesh: {interface: lo}}]\n", "'lo' is each node's loopback"),
        ("    ports: [{target: 80, host_ip: 192.0.2.1, x-mesh: {interface: eth1}}]\n", "name one of the two"),
        ("    configs: [a]\n", "configs are not there yet"),
        ("    volumes: [data:/data]\n", "the volume 'data' is not declared under 'volumes'; none is"),
        ("    volumes: [./a:/a]\n", "the manifest has no folder"),
        ("    volumes: [/a:/data, /b:/data]\n", "something is mounted at '/data' already"),
        ("    volumes: [{type: npipe, target: /x}]\n", "bind, volume, tmpfs"),
        ("    deploy: {mode: global-job}\n", "jobs are not there yet; allowed are: replicated, global"),
        ("    networks: [n]\nnetworks: {n: {driver_opts: {encrypted: ''}}}\n", "encryption between nodes is not there"),
        ("    networks: [n]\nnetworks: {n: {external: true, name: host}}\n", "is not one that services can be on"),
        ("    ulimits: {nofile: {soft: 3, hard: 2}}\n", "the soft limit 3 is above the hard limit 2"),
    ] {
        let wrong = wrong(&image(lines));
        assert!(wrong.contains(told) && wrong.lines().count() == 1, "{lines}: {wrong}");
    }
    let text = image(
        "    network_mode: host\n    pid: host\n    devices: [/dev/kmsg]\n    security_opt: [apparmor:unconfined]\n    \
         logging: {driver: json-file}\n    networks: {default: {ipv4_address: 10.0.0.9}}\n    tty: false\n",
    );
    let manifest = parse("demo.yaml", &text, &variable).unwrap_or_else(|errors| panic!("{errors}"));
    let keys: Vec<&str> = manifest.warnings().iter().filter_map(|line| line.split(": ").nth(1)).collect();
    let wanted = ["devices", "logging", "pid", "security_opt[0]", "network_mode", "networks.default.ipv4_address"];
    let mut wanted = wanted.map(|key| format!("services.web.{key}"));
    let mut keys: Vec<String> = keys.into_iter().map(str::to_string).collect();
    keys.sort();
    wanted.sort();
    assert_eq!(keys, wanted, "{:?}", manifest.warnings());
}

#[test]
fn runtime_exec_refuses_what_it_would_have_to_drop() {
    for (lines, told) in [
        ("    volumes: [/data]\n", "volumes need runtime docker"),
        ("    read_only: true\n", "services.web.read_only: runtime exec does not have it"),
        ("    deploy: {resources: {limits: {pids: 5}}}\n", "services.web.deploy.resources.limits.pids"),
        ("    image: nginx\n", "take the image out"),
    ] {
        let wrong = wrong(&with(lines));
        assert!(wrong.contains(told) && wrong.lines().count() == 1, "{lines}: {wrong}");
    }
    let text = with("    tty: true\n    tmpfs: /run/x\n    extra_hosts: ['db:10.0.0.9']\n    entrypoint: nice\n");
    let manifest = parse("demo.yaml", &text, &variable).unwrap_or_else(|errors| panic!("{errors}"));
    let told = ["demo.yaml:5:10: services.web.tty: is ignored: runtime exec does not have it: it needs runtime docker"];
    assert_eq!(manifest.warnings(), told);
    assert_eq!(service(&text).task.command, ["nice", "web"]);
}

#[test]
fn several_manifests_are_one_and_the_later_wins() {
    let base = "services:\n  web:\n    image: web:1\n    command: [a, b]\n    environment: [A=1, B=1]\n    \
                ports: ['80:80']\n    volumes: ['/x:/data', '/y:/conf']\n    networks: [front]\n    \
                deploy: {replicas: 2, labels: [l=1]}\nnetworks: {front: }\n";
    let over = "services:\n  web:\n    image: web:2\n    command: [c]\n    environment: {B: 2, C: 2}\n    \
                ports: ['80:80', '81:81']\n    volumes: ['/z:/data']\n    networks: {back: {aliases: [b]}}\n    \
                deploy: {labels: {m: 1}}\n  more: {image: more}\nnetworks: {back: }\n";
    let around = Around { folder: None, variable: &variable, read: &|_| Err(String::new()) };
    let read = |manifests: &[(&str, &str)]| parse_all(manifests, &around);
    let stack = read(&[("base.yaml", base), ("over.yaml", over)]).unwrap_or_else(|errors| panic!("{errors}"));
    let stack = stack.stack("s").expect("a stack");
    let web = &stack.services[0];
    assert_eq!((web.task.image.as_str(), web.task.command.join(" ").as_str()), ("web:2", "c"));
    assert_eq!(web.task.env, ["A=1", "B=2", "C=2"]);
    assert_eq!(web.ports.iter().map(|port| port.published).collect::<Vec<_>>(), [80, 81]);
    let mounts: Vec<_> = web.task.mounts.iter().map(|mount| format!("{}:{}", mount.source, mount.target)).collect();
    assert_eq!(mounts, ["/y:/conf", "/z:/data"]);
    let networks: Vec<_> = web.networks.iter().map(|at| at.network.as_str()).collect();
    assert_eq!((networks, web.mode), (vec!["s_back", "s_front"], Mode::Replicated { replicas: 2 }));
    assert!(web.labels.contains_key("l") && web.labels.contains_key("m"));
    assert_eq!(stack.services[1].name, "s_more");

    let wrong = "services:\n  web:\n    ports: ['x:80']\n";
    let errors = read(&[("base.yaml", base), ("over.yaml", wrong)]).expect_err("no port").to_string();
    assert_eq!(errors, "over.yaml:3:13: services.web.ports[1]: 'x' is not a port: 1 to 65535 are allowed");
    let torn = read(&[("base.yaml", base), ("over.yaml", "services: [")]).expect_err("no YAML").to_string();
    assert!(torn.starts_with("over.yaml:1:"), "{torn}");
    let empty = read(&[("base.yaml", base), ("over.yaml", "services:\n  web:\n    environment:\n")]);
    assert_eq!(empty.expect("fine").stack("s").expect("a stack").services[0].task.env, ["A=1", "B=1"]);
}
