//! Facts of a good machine, one of them made bad at a time: the finding names it and says what to do.

use super::*;

fn good() -> Facts {
    Facts {
        machine: Machine {
            is_root: true,
            capabilities: Some(u64::MAX),
            release: "6.12.9-amd64".into(),
            has_btf: true,
            tcx: Some(Ok(())),
            clsact: None,
            has_xdp: Some(true),
            programs: Programs::Loaded,
            bpf_dir: "/sys/fs/bpf/mesh".into(),
            is_bpffs: true,
            cgroup: Ok("/sys/fs/cgroup".into()),
            is_cgroup_hybrid: false,
            engine: Engine::Absent { at: "/var/run/docker.sock".into() },
            wants_engine: false,
            state_dir: StateDir {
                path: "/var/lib/mesh".into(),
                problem: None,
                mode: Some(0o755),
                free_bytes: Some(9 << 30),
            },
            clock: Clock::Synchronised,
        },
        network: Network {
            ports: vec![
                port("2377/tcp", Purpose::Api, PortUser::Ours),
                port("4789/udp", Purpose::Tunnel, PortUser::Ours),
            ],
            occasion: Occasion::Alone,
            not_taken: Vec::new(),
            pools: "10.0.0.0/8,fd12:3456:789a::/48".parse().unwrap(),
            networks: vec![("demo".into(), "10.0.16.0/20".parse().unwrap())],
            routes: Ok(vec![("192.168.1.0/24".parse().unwrap(), "eth0".into())]),
            reported: Some(Vec::new()),
            others: Vec::new(),
            xdp: None,
            ipsec: Some(Ok(Ipsec::default())),
        },
        peers: Some(Peers {
            overlay_mtu: Some(1450),
            outer_mtu: Some(1500),
            data_port: 4789,
            peers: vec![peer()],
            names: Some(("web.1".into(), Ok(()))),
        }),
    }
}

fn port(port: &str, purpose: Purpose, user: PortUser) -> PortFact {
    let instead = port.split('/').next().and_then(|number| number.parse::<u16>().ok()).map(|number| number + 10_000);
    PortFact { port: port.into(), purpose, user, instead }
}

fn peer() -> Peer {
    Peer {
        name: "n2".into(),
        api_addr: "192.168.1.2:2377".parse().unwrap(),
        gossip_addr: "192.168.1.2:7946".parse().unwrap(),
        data_path_addr: "192.168.2.2".parse().unwrap(),
        is_alive: Some(true),
        is_reached: true,
        api: Api::Answered { ahead_ms: 12, took_ms: 8 },
        path: PathMtu::Whole,
    }
}

/// The one finding that is not ok, after `spoil`.
fn bad(spoil: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = good();
    spoil(&mut facts);
    let findings: Vec<Finding> = judge(&facts).into_iter().filter(|finding| finding.state != State::Ok).collect();
    let [finding] = findings.as_slice() else { panic!("not one finding: {findings:#?}") };
    assert!(finding.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "{finding:?}");
    finding.clone()
}

#[track_caller]
fn says(finding: &Finding, check: &str, state: State, words: &[&str]) {
    assert_eq!((finding.check.as_str(), finding.state), (check, state), "{finding:?}");
    let said = finding.complaint().expect("a complaint");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

fn routes_of(facts: &mut Facts) -> &mut Vec<(ipnet::IpNet, String)> {
    facts.network.routes.as_mut().expect("a list")
}

fn peers_of(facts: &mut Facts) -> &mut Peers {
    facts.peers.as_mut().expect("a cluster")
}

#[test]
fn a_good_machine_has_nothing_to_complain_of() {
    let findings = judge(&good());
    assert!(findings.iter().all(|finding| finding.state == State::Ok && finding.remedy.is_none()), "{findings:#?}");
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check.as_str()).collect();
    assert_eq!(
        checks,
        [
            "rights",
            "kernel",
            "programs",
            "bpffs",
            "cgroup2",
            "engine",
            "state",
            "clock source",
            "ports",
            "routes",
            "hooks",
            "ipsec",
            "forward",
            "peers",
            "clock",
            "mtu",
            "names"
        ]
    );
}

#[test]
fn the_kernel_is_judged_by_release_and_by_what_it_can_do() {
    says(&bad(|f| f.machine.release = "5.10.0-30-amd64".into()), "kernel", State::Failed, &["5.10.0-30", "6.1"]);
    says(&bad(|f| f.machine.has_btf = false), "kernel", State::Failed, &["BTF", "CONFIG_DEBUG_INFO_BTF"]);
    let without_tcx = |clsact: Result<(), String>| {
        bad(|f| (f.machine.tcx, f.machine.clsact) = (Some(Err("EINVAL".into())), Some(clsact)))
    };
    says(&without_tcx(Err("no cls_bpf".into())), "kernel", State::Failed, &["TCX", "EINVAL", "no cls_bpf", "modprobe"]);
    let mut older = good();
    (older.machine.tcx, older.machine.clsact) = (Some(Err("EINVAL".into())), Some(Ok(())));
    assert!(judge(&older).iter().any(|it| it.state == State::Ok && it.found.contains("clsact")));
    let refused = Programs::Tried(Err("R1 invalid".into()));
    says(&bad(|f| f.machine.programs = refused), "programs", State::Failed, &["R1 invalid"]);
    assert_eq!(kernel_version("6.18.44-fc-v669"), Some((6, 18)));
    assert_eq!(kernel_version("weird"), None);
}

#[test]
fn rights_mounts_and_the_state_directory() {
    says(&bad(|f| f.machine.is_root = false), "rights", State::Failed, &["sudo"]);
    let without_admin = !(1u64 << 21);
    says(
        &bad(|f| f.machine.capabilities = Some(without_admin)),
        "rights",
        State::Failed,
        &["CAP_SYS_ADMIN", "privileged"],
    );
    says(&bad(|f| f.machine.is_bpffs = false), "bpffs", State::Failed, &["mount -t bpf"]);
    says(&bad(|f| f.machine.cgroup = Err("none is mounted".into())), "cgroup2", State::Failed, &["mount -t cgroup2"]);
    let problem = Some("read-only file system".to_string());
    says(&bad(|f| f.machine.state_dir.problem = problem), "state", State::Failed, &["/var/lib/mesh", "--state-dir"]);
    says(&bad(|f| f.machine.state_dir.mode = Some(0o777)), "state", State::Warning, &["777", "chmod go-w"]);
    says(&bad(|f| f.machine.state_dir.free_bytes = Some(3 << 20)), "state", State::Warning, &["3 MiB"]);
}

#[test]
fn an_engine_is_needed_only_where_it_is_asked_for() {
    says(&bad(|f| f.machine.wants_engine = true), "engine", State::Failed, &["systemctl start docker"]);
    let silent = Engine::Silent { at: "/run/d.sock".into(), why: "no HTTP".into() };
    says(&bad(|f| f.machine.engine = silent), "engine", State::Warning, &["/run/d.sock", "no HTTP"]);
    let swarm = Engine::Answers { at: "/run/d.sock".into(), version: "27.3.1".into(), is_in_swarm: true };
    says(&bad(|f| f.machine.engine = swarm), "engine", State::Warning, &["27.3.1", "docker swarm leave"]);
}

#[test]
fn a_clock_that_nobody_sets_is_told_where_no_other_node_can_be_asked() {
    says(
        &bad(|f| {
            f.machine.clock = Clock::Alone;
            f.peers = None;
        }),
        "clock source",
        State::Warning,
        &["NTP"],
    );
}

#[test]
fn a_port_in_use_is_named_with_its_user() {
    let nginx = PortUser::Other("nginx (pid 7)".into());
    says(&bad(|f| f.network.ports[0].user = nginx.clone()), "ports", State::Failed, &["2377/tcp", "nginx (pid 7)"]);
    says(&bad(|f| f.network.ports[1].user = nginx), "ports", State::Failed, &["4789/udp", "--data-path-port"]);
    let docker = PortUser::Other("dockerd (pid 9)".into());
    says(&bad(|f| f.network.ports[0].user = docker), "ports", State::Failed, &["docker swarm leave"]);
    let not_taken = vec![("tcp/8000".to_string(), Some("nginx (pid 7)".to_string()))];
    says(&bad(|f| f.network.not_taken = not_taken), "published", State::Warning, &["tcp/8000", "nginx"]);
}

#[test]
fn a_route_into_the_pool_is_judged_by_what_lies_there() {
    let route = |to: &str| (to.parse().unwrap(), "tun0".to_string());
    says(
        &bad(|f| routes_of(f).push(route("10.0.0.0/9"))),
        "routes",
        State::Failed,
        &["10.0.0.0/9", "tun0", "demo", "ip route del 10.0.0.0/9"],
    );
    says(&bad(|f| routes_of(f).push(route("10.0.17.0/24"))), "routes", State::Failed, &["demo"]);
    says(&bad(|f| routes_of(f).push(route("10.77.0.0/16"))), "routes", State::Warning, &["--subnet"]);
    says(&bad(|f| f.network.routes = Err("cannot list routes".into())), "routes", State::Warning, &["cannot list"]);
    let mut facts = good();
    routes_of(&mut facts).push(route("10.77.1.0/24"));
    facts.network.reported = Some(vec!["10.77.0.0/16".parse().unwrap()]);
    assert!(judge(&facts).iter().all(|finding| finding.state == State::Ok), "the allocator was told");
    let mut facts = good();
    (facts.network.reported, facts.network.networks) = (None, Vec::new());
    routes_of(&mut facts).push(route("10.77.1.0/24"));
    assert!(judge(&facts).iter().all(|finding| finding.state == State::Ok), "networks will keep out of it");
    routes_of(&mut facts).push(route("10.0.0.0/8"));
    let said: Vec<String> = judge(&facts).iter().filter_map(Finding::complaint).collect();
    assert!(said.len() == 1 && said[0].contains("--default-addr-pool"), "{said:?}");
}

#[test]
fn another_program_on_our_hook_is_named() {
    let other = OtherProgram { place: "eth0 ingress (TCX)".into(), name: "cil_from_netdev".into() };
    says(&bad(|f| f.network.others.push(other)), "hooks", State::Warning, &["cil_from_netdev", "eth0 ingress"]);
}

#[test]
fn a_peer_that_answers_in_part_points_at_a_firewall() {
    let half = bad(|f| peers_of(f).peers[0].is_reached = false);
    says(&half, "peers", State::Warning, &["n2", "4789/udp of 192.168.2.2", "INPUT"]);
    let whole = bad(|f| {
        let peer = &mut peers_of(f).peers[0];
        (peer.is_alive, peer.is_reached, peer.path) = (Some(false), false, PathMtu::NotTried);
        peer.api = Api::Failed("timed out".into());
    });
    says(&whole, "peers", State::Warning, &["timed out", "systemctl start mesh"]);
    let names = Err("nothing within 2 s".to_string());
    let names = bad(|f| peers_of(f).names = Some(("web.1".into(), names)));
    says(&names, "names", State::Failed, &["web.1", "53/udp", "mesh0"]);
}

#[test]
fn clocks_are_compared_within_what_can_be_measured() {
    let apart = |ahead_ms, took_ms| move |f: &mut Facts| peers_of(f).peers[0].api = Api::Answered { ahead_ms, took_ms };
    says(&bad(apart(2_500, 10)), "clock", State::Warning, &["n2", "2.5 s ahead", "NTP"]);
    says(&bad(apart(-90_000, 10)), "clock", State::Failed, &["90.0 s behind"]);
    let mut facts = good();
    apart(1_400, 900)(&mut facts);
    assert!(judge(&facts).iter().all(|finding| finding.state == State::Ok), "a slow answer is no wrong clock");
}

#[test]
fn a_narrow_path_is_told_in_bytes_on_the_wire() {
    let narrow = bad(|f| peers_of(f).peers[0].path = PathMtu::Only(1350));
    says(&narrow, "mtu", State::Failed, &["n2", "1500", "1400", "ip link set mtu 1400", "1350"]);
    let swallowed = bad(|f| {
        let peer = &mut peers_of(f).peers[0];
        (peer.path, peer.api) = (PathMtu::Only(1350), Api::Failed("timed out".into()));
    });
    says(&swallowed, "mtu", State::Failed, &["n2"]);
}

#[test]
fn every_peers_path_has_a_line_of_its_own() {
    let mut facts = good();
    peers_of(&mut facts).peers.push(Peer { name: "n3".into(), path: PathMtu::Only(1350), ..peer() });
    let found = judge(&facts);
    let lines: Vec<_> = found.iter().filter(|finding| finding.check == "mtu").collect();
    let [passes, is_narrow] = lines[..] else { panic!("a line each: {lines:?}") };
    assert_eq!(passes.state, State::Ok);
    assert!(passes.found.contains("to n2 packets of 1500 bytes pass") && passes.found.contains("1450 for tasks"));
    says(is_narrow, "mtu", State::Failed, &["to n3", "1400"]);
}

/// What a Docker Swarm with an overlay network leaves.
fn beside_a_swarm() -> [PortFact; 4] {
    let swarm = || PortUser::Other("dockerd (pid 7)".into());
    [
        port("2377/tcp", Purpose::Api, swarm()),
        port("7946/tcp", Purpose::Gossip, swarm()),
        port("7946/udp", Purpose::Gossip, swarm()),
        port("4789/udp", Purpose::Tunnel, PortUser::Other("the VXLAN device vx-001001-abcde".into())),
    ]
}

#[test]
fn all_ports_that_somebody_else_has_are_named_in_one_line_with_the_flags_for_others() {
    assert_eq!(clash(&[port("2377/tcp", Purpose::Api, PortUser::Free)], Occasion::Init), None);
    let said = clash(&beside_a_swarm(), Occasion::Init).expect("a clash");
    for words in [
        "2377/tcp (the cluster's API) by dockerd (pid 7)",
        "7946/tcp",
        "7946/udp",
        "vx-001001",
        "`mesh swarm init --listen-addr 0.0.0.0:12377 --gossip-port 17946 --data-path-port 14789`",
        "`docker swarm leave --force`",
    ] {
        assert_eq!(said.matches(words).count(), 1, "{words} in {said}");
    }
    let said = clash(&beside_a_swarm(), Occasion::Join).expect("a clash");
    assert!(said.contains("`mesh swarm join --listen-addr 0.0.0.0:12377 --gossip-port 17946`"), "{said}");
    assert!(said.contains("4789/udp (the tunnel unless the cluster has another --data-path-port)"), "{said}");
    let said = clash(&beside_a_swarm(), Occasion::Start).expect("a clash");
    assert!(said.contains("can't be others now") && !said.contains("--gossip-port"), "{said}");
}

#[test]
fn the_ports_of_a_swarm_are_left_to_it_before_they_are_taken() {
    let mut ports = beside_a_swarm();
    (ports[0].user, ports[3].user) = (PortUser::Free, PortUser::Free);
    let said = clash(&ports, Occasion::Init).expect("a clash");
    assert!(said.contains("--listen-addr 0.0.0.0:12377 --gossip-port 17946 --data-path-port 14789`"), "{said}");
    assert!(!said.contains("2377/tcp (") && !said.contains("4789/udp ("), "only what is taken now: {said}");
    let nginx = [port("2377/tcp", Purpose::Api, PortUser::Other("nginx (pid 7)".into())), ports[3].clone()];
    let said = clash(&nginx, Occasion::Init).expect("a clash");
    assert!(said.contains("`mesh swarm init --listen-addr 0.0.0.0:12377`") && said.contains("stop who has"), "{said}");
}

#[test]
fn an_engine_in_a_swarm_is_no_trouble_where_mesh_has_other_ports() {
    let swarm = || Engine::Answers { at: "/sock".into(), version: "26.1".into(), is_in_swarm: true };
    says(&bad(|f| f.machine.engine = swarm()), "engine", State::Warning, &["2377/tcp, 4789/udp", "--data-path-port"]);
    let mut facts = good();
    facts.machine.engine = swarm();
    facts.network.ports = vec![port("12377/tcp", Purpose::Api, PortUser::Ours)];
    assert!(judge(&facts).iter().all(|finding| finding.state == State::Ok));
}

#[test]
fn packets_between_nodes_that_an_ipsec_policy_takes_are_told() {
    let ipsec = |protected: &[&str], blocked: &[&str]| {
        let [protected, blocked] = [protected, blocked].map(|names| names.iter().map(ToString::to_string).collect());
        Some(Ok(Ipsec { protected, blocked }))
    };
    let mut facts = good();
    facts.network.ipsec = ipsec(&["n2", "n3"], &[]);
    let findings = judge(&facts);
    let finding = findings.iter().find(|finding| finding.check == "ipsec").expect("it is looked at");
    assert!(finding.state == State::Ok && finding.found.contains("n2, n3"), "{finding:?}");
    let finding = bad(|facts| facts.network.ipsec = ipsec(&["n2"], &["n3"]));
    says(&finding, "ipsec", State::Warning, &["from or to n3", "ip xfrm policy"]);
    let finding = bad(|facts| facts.network.ipsec = Some(Err("list the host's IPsec policies: no".into())));
    says(&finding, "ipsec", State::Warning, &["through mesh0", "CAP_NET_ADMIN"]);
}
