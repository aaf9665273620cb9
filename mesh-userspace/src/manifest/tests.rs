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
    assert_eq!(
        service.ports,
        [PortSpec { protocol: Protocol::Tcp, target: 8000, published: 8000, mode: PublishMode::Ingress }]
    );
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
            (9000, 80, PublishMode::Ingress),
            (8443, 443, PublishMode::Host),
            (7000, 7000, PublishMode::Ingress),
            (7001, 7001, PublishMode::Ingress)
        ]
    );
    let networks: Vec<_> = service.networks.iter().map(|at| (at.network.as_str(), at.aliases.join(","))).collect();
    assert_eq!(networks, [("demo_front", "web,www,api".into()), ("shared", "web".into())]);
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
  x-mesh: {runtime: exec, affinity: client-ip=60}
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
    assert!(stack.services.iter().all(|service| service.networks[0].network == "demo_default"));
    let names: Vec<_> = stack.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["demo_default"], "a network that no service uses is not made");
}

#[test]
fn what_is_printed_means_the_same() {
    let text = with(
        "    environment: ['PRICE=5$$']\n    ports: [{target: 80, published: 8080}]\n    deploy: {mode: global}\n",
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
            "demo.yaml:5:12: services.web.build: is ignored: mesh does not do it",
            "demo.yaml:6:17: services.web.depends_on: is ignored: mesh does not do it",
            "demo.yaml:7:14: services.web.restart: is ignored: mesh does not do it",
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
             demo.yaml:5:21: services.web.ports[1]: '1:2:3' names a host address, which services can't have (they \
             answer on every node): write PUBLISHED:TARGET\n\
             demo.yaml:6:16: services.web.networks[0]: the network 'nope' is not declared under 'networks'; none is\n\
             demo.yaml:7:24: services.web.stop_grace_period: 'soon' is not a duration: write e.g. 500ms, 10s, 1m30s",
        ),
        (
            &with("    privileged: true\n    secrets: [key]\n    volumes: [data:/data]\nvolumes: {data: {}}\n"),
            "demo.yaml:5:17: services.web.privileged: privileged tasks are not there; take it out\n\
             demo.yaml:6:14: services.web.secrets: secrets are not there yet; without them the service would run \
             unprotected or not at all\n\
             demo.yaml:7:15: services.web.volumes[0]: 'data' is a named volume or a relative path, which are not \
             there; write /host/path:/path\n\
             demo.yaml:8:10: volumes: named volumes are not there yet; use a bind mount (/host/path:/path) in the service",
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
    let image = parse("demo.yaml", "services: {web: {image: nginx}}", &variable).expect("understood");
    let refused = image.stack("demo").expect_err("no docker yet").to_string();
    assert!(refused.starts_with("demo.yaml:1:12: services.web: the docker runtime is not there yet"), "{refused}");
    let good = parse("demo.yaml", &with(""), &variable).expect("understood");
    assert!(good.stack("a b").is_err());
}
