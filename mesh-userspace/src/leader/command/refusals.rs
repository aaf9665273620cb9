//! Tests of what commands refuse and how they say it; and of what they give where they don't.

use super::*;
use crate::leader::Ctx;
use crate::leader::world::{World, network_spec, new_node, node_id, port, spec};
use crate::model::*;

type Refusal = Result<(), CommandError>;

fn create(world: &mut World, spec: ServiceSpec) -> Refusal {
    world.command(|cluster, ctx| create_service(cluster, spec, ctx)).map(drop)
}

fn network(world: &mut World, name: &str, subnet: &str, gateway: Option<&str>) -> Refusal {
    let subnet = (!subnet.is_empty()).then_some(subnet);
    let mut spec = network_spec(name, subnet);
    spec.gateways = gateway.unwrap_or_default().parse().expect("addresses");
    world.command(|cluster, ctx| create_network(cluster, spec, ctx)).map(drop)
}

/// The refusal says all of these words, and nothing has changed.
fn refused(world: &World, before: &Cluster, refusal: Refusal, words: &[&str]) {
    let message = refusal.expect_err(&format!("refused because of {words:?}")).to_string();
    for word in words {
        assert!(message.contains(word), "'{word}' in: {message}");
    }
    assert!(!message.contains('\n'));
    assert_eq!(world.cluster, *before, "nothing changed");
}

fn on(network: &str, name: &str) -> ServiceSpec {
    let attachment = NetworkAttachment { network: network.to_string(), aliases: Vec::new() };
    ServiceSpec { networks: vec![attachment], ..spec(name) }
}

fn publishing(name: &str, ports: Vec<PortSpec>) -> ServiceSpec {
    ServiceSpec { ports, ..spec(name) }
}

#[test]
fn init_makes_settings_a_manager_and_ingress() {
    let world = World::of_nodes(1);
    let ingress = world.cluster.ingress_network().expect("ingress");
    assert_eq!((ingress.vni, ingress.subnets.v4.map(|net| net.to_string())), (4096, Some("10.0.0.0/20".to_string())));
    let first = &world.cluster.nodes[&node_id(1)];
    assert!(first.holds_store && first.number == 1);
}

#[test]
fn init_refuses_what_can_not_work() {
    let refuse = |change: &dyn Fn(&mut InitCluster), words: &[&str]| {
        let mut request = InitCluster::with_defaults(new_node(1));
        change(&mut request);
        let mut random = || [1; 16];
        let cluster = Cluster::default();
        let error = init_cluster(&cluster, request, &mut Ctx::new(0, &mut random)).expect_err("refused").to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "'{word}' in: {error}"));
    };
    refuse(&|request| request.address_pool = "10.0.0.1/8".parse().expect("a prefix"), &["10.0.0.1/8", "host bits"]);
    refuse(&|request| request.address_pool = "127.0.0.0/8".parse().expect("a prefix"), &["private prefix"]);
    refuse(&|request| request.subnet_len = 30, &["30", "/29"]);
    let pool6 = |pool: &str| Some(pool.parse().expect("a prefix"));
    refuse(&|request| request.address_pool6 = pool6("fd00:1::1/48"), &["fd00:1::1/48", "host bits"]);
    refuse(&|request| request.address_pool6 = pool6("fd00:1::/96"), &["fd00:1::/96", "/64s"]);
    refuse(&|request| request.address_pool6 = pool6("fe80::/48"), &["fe80::/48", "unique local"]);
    refuse(&|request| request.data_path_port = 7946, &["7946"]);
    refuse(&|request| (request.data_path_port, request.node.ports.gossip) = (14789, 14789), &["14789", "gossip"]);
    refuse(&|request| request.node.ports.api = 7946, &["'n1'", "7946", "--listen-addr"]);
    refuse(&|request| request.node.name = "a b".into(), &["'a b'", "--name"]);
    let covering = "10.0.0.0/8".parse().expect("a prefix");
    refuse(&|request| request.node.routed_prefixes = vec![covering], &["no /20", "--default-addr-pool"]);
    let world = World::of_nodes(1);
    let mut random = || [1; 16];
    let again = InitCluster::with_defaults(new_node(1));
    let error = init_cluster(&world.cluster, again, &mut Ctx::new(0, &mut random)).expect_err("refused");
    assert_eq!(error, CommandError::AlreadyInitialised);
}

#[test]
fn a_node_takes_ports_of_its_own_that_nobody_needs() {
    let mut world = World::of_nodes(1);
    create(&mut world, publishing("web", vec![port(12377, 80)])).expect("create");
    let joining = |api, gossip| NewNode { ports: ControlPorts { api, gossip, listen: None }, ..new_node(2) };
    let before = world.cluster.clone();
    for (new, words) in [
        (joining(12377, 7946), &["'n2'", "12377", "service 'web'"][..]),
        (joining(2377, 12377), &["12377", "service 'web'"]),
        (joining(2377, 4789), &["4789", "tunnel"]),
        (joining(5000, 5000), &["5000", "one each"]),
        (joining(0, 7946), &["port 0"]),
    ] {
        let refusal = world.command(|cluster, ctx| join_node(cluster, new, ctx)).map(drop);
        refused(&world, &before, refusal, words);
    }
    let joined = world.command(|cluster, ctx| join_node(cluster, joining(30000, 17946), ctx)).expect("join");
    assert_eq!(joined.node.api_addr().to_string(), "192.0.2.2:30000");
    assert_eq!(joined.node.gossip_addr().to_string(), "192.0.2.2:17946");

    // From now on they are no service's, of whichever node; the usual ones are kept for nodes to come.
    let before = world.cluster.clone();
    for (published, purpose) in [(30000, "cluster API"), (17946, "membership"), (2377, "cluster API")] {
        let refusal = create(&mut world, publishing("new", vec![port(published, 80)]));
        refused(&world, &before, refusal, &[&format!("{published}/tcp"), purpose]);
    }
    create(&mut world, publishing("any", vec![port(0, 80)])).expect("create");
    let any = world.cluster.service_named("any").expect("the service");
    assert_eq!(any.ports[0].published, 30001, "30000 is n2's");
}

#[test]
fn nodes_get_numbers_and_never_an_old_one() {
    let mut world = World::of_nodes(3);
    world.command(|cluster, ctx| remove_node(cluster, &Observed::default(), "n3", true, ctx)).expect("remove");
    let joined = world.command(|cluster, ctx| join_node(cluster, new_node(4), ctx)).expect("join");
    assert_eq!(joined.node.number, 4);
    let mut routing = new_node(5);
    routing.routed_prefixes = vec!["10.0.0.0/16".parse().expect("a prefix")];
    let joined = world.command(|cluster, ctx| join_node(cluster, routing, ctx)).expect("join");
    assert!(joined.warnings[0].contains("'ingress' (10.0.0.0/20) overlaps with 10.0.0.0/16"), "{:?}", joined.warnings);
}

#[test]
fn node_commands_refuse_with_words() {
    let mut world = World::of_nodes(2);
    let before = world.cluster.clone();
    let twin = NewNode { id: node_id(7), ..new_node(2) };
    let refusal = world.command(|cluster, ctx| join_node(cluster, twin, ctx)).map(drop);
    refused(&world, &before, refusal, &["node named 'n2' is already there"]);
    let same_address = NewNode { name: "n7".into(), id: node_id(7), ..new_node(2) };
    let refusal = world.command(|cluster, ctx| join_node(cluster, same_address, ctx)).map(drop);
    refused(&world, &before, refusal, &["192.0.2.2", "'n2'"]);
    let other_family = NewNode { data_path_addr: "fd00::3".parse().expect("an address"), ..new_node(3) };
    let refusal = world.command(|cluster, ctx| join_node(cluster, other_family, ctx)).map(drop);
    refused(&world, &before, refusal, &["fd00::3", "'n1' at 192.0.2.1", "different families", "--data-path-addr"]);
    let observed = world.observed.clone();
    let refusal = world.command(|cluster, ctx| remove_node(cluster, &observed, "n2", false, ctx)).map(drop);
    refused(&world, &before, refusal, &["'n2' is not down", "--force"]);
    let refusal = world.command(|cluster, ctx| remove_node(cluster, &observed, "n1", true, ctx)).map(drop);
    refused(&world, &before, refusal, &["'n1' keeps the cluster's store"]);
    let refusal = world.command(|cluster, _| leave_node(cluster, &node_id(1), false)).map(drop);
    refused(&world, &before, refusal, &["'n1'", "--force"]);
    let demote = NodeUpdate { role: Some(Role::Worker), ..NodeUpdate::default() };
    let refusal = world.command(|cluster, _| update_node(cluster, "n1", &demote)).map(drop);
    refused(&world, &before, refusal, &["can't become a worker"]);
    let unlabel = NodeUpdate { label_rm: vec!["zone".into()], ..NodeUpdate::default() };
    let refusal = world.command(|cluster, _| update_node(cluster, "n2", &unlabel)).map(drop);
    refused(&world, &before, refusal, &["no label 'zone'"]);
    let refusal = world.command(|cluster, _| update_node(cluster, "n9", &unlabel)).map(drop);
    refused(&world, &before, refusal, &["no node 'n9'", "mesh node ls"]);
    let mut random = || [1; 16];
    let error = join_node(&Cluster::default(), new_node(1), &mut Ctx::new(0, &mut random)).expect_err("refused");
    assert_eq!(error, CommandError::NotInitialised);
}

#[test]
fn networks_get_a_vni_and_a_subnet_that_nobody_routes() {
    let mut world = World::of_nodes(1);
    let node = world.cluster.nodes.get_mut(&node_id(1)).expect("n1");
    node.routed_prefixes = vec!["10.0.16.0/24".parse().expect("a prefix"), "0.0.0.0/0".parse().expect("a prefix")];
    let one = world.network("one", None);
    assert_eq!(
        (one.vni, one.subnets.to_string().as_str(), one.gateways.to_string().as_str()),
        (4097, "10.0.32.0/20", "10.0.32.1")
    );
    world.command(|cluster, _| remove_network(cluster, "one")).expect("remove");
    let two = world.network("two", None);
    assert_eq!((two.vni, two.subnets.to_string().as_str()), (4098, "10.0.48.0/20"), "nothing is used again at once");
}

#[test]
fn networks_of_both_families_or_ipv6_alone_come_from_the_pools() {
    let mut world = World::of_nodes(1);
    let pool = world.cluster.settings.as_ref().expect("settings").pool_of_ipv6();
    assert!(pool.prefix_len() == 48 && pool.addr().segments()[0] >> 8 == 0xfd, "{pool} is unique local");
    let mut create = |spec| world.command(|cluster, ctx| create_network(cluster, spec, ctx)).expect("created");
    let both = create(NetworkSpec { ipv6: true, ..network_spec("both", None) });
    let v6 = both.subnets.v6.expect("a subnet");
    assert!(both.subnets.v4.is_some() && v6.prefix_len() == 64 && pool.contains(&v6), "{}", both.subnets);
    assert_eq!(both.gateways.v6.map(u128::from), Some(u128::from(v6.network()) + 1));
    let alone = create(NetworkSpec { ipv6: true, ipv4: false, ..network_spec("alone", None) });
    assert!(alone.subnets.v4.is_none() && alone.subnets.v6.is_some_and(|net| net != v6), "{}", alone.subnets);
    let named =
        NetworkSpec { gateways: "fd00:9::9".parse().expect("one"), ..network_spec("named", Some("fd00:9::/64")) };
    let named = create(NetworkSpec { ipv4: true, ..named });
    assert!(named.subnets.v4.is_some(), "the other family comes from its pool");
    assert_eq!(named.gateways.v6, "fd00:9::9".parse().ok());

    let mut web = on("both", "web");
    web.networks.extend(on("alone", "").networks);
    self::create(&mut world, web).expect("create");
    world.settle();
    let vips = &world.cluster.service_named("web").expect("web").vips;
    let families = |addrs: &Addresses| (addrs.v4.is_some(), addrs.v6.is_some());
    assert_eq!(vips.iter().map(|vip| families(&vip.addrs)).collect::<Vec<_>>(), [(true, true), (false, true)]);
    let at = world.task("web", 1).attachments;
    assert_eq!(at.iter().map(|at| families(&at.addrs)).collect::<Vec<_>>(), [(true, true), (false, true)]);
}

#[test]
fn network_commands_refuse_with_words() {
    let mut world = World::of_nodes(2);
    world.network("demo", Some("172.16.0.0/24"));
    world.network("six", Some("fd00:6::/64"));
    create(&mut world, on("demo", "web")).expect("create");
    let n1 = world.cluster.nodes.get_mut(&node_id(1)).expect("n1");
    n1.routed_prefixes.push("2001:db8:7::/48".parse().expect("a prefix"));
    let before = world.cluster.clone();
    for (name, subnet, gateway, words) in [
        ("demo", "", None, &["network named 'demo' is already there"][..]),
        ("ingress", "", None, &["'ingress'", "reserved"]),
        ("a/b", "", None, &["'a/b'", "use letters"]),
        ("x", "172.16.0.128/25", None, &["overlaps with 172.16.0.0/24 of network 'demo'"]),
        ("x", "172.0.0.0/8", None, &["'demo'"]),
        ("x", "192.0.2.0/28", None, &["192.0.2.0/24, which node 'n1' routes elsewhere"]),
        ("x", "172.17.0.1/24", None, &["host bits", "172.17.0.0/24"]),
        ("x", "172.17.0.0/30", None, &["/29"]),
        ("x", "127.0.0.0/24", None, &["private prefix"]),
        ("x", "240.0.0.0/24", None, &["reserved"]),
        ("x", "", Some("10.9.0.1"), &["10.9.0.1", "--subnet"]),
        ("x", "172.17.0.0/24", Some("172.18.0.1"), &["172.18.0.1", "not in the subnet"]),
        ("x", "172.17.0.0/24", Some("172.17.0.255"), &["172.17.0.255", "hosts can't have"]),
        ("x", "fd00:1::/64", Some("fd00:2::1"), &["fd00:2::1", "not in the subnet fd00:1::/64"]),
        ("x", "fd00:1::/64", Some("fd00:1::"), &["fd00:1::", "hosts can't have"]),
        ("x", "fd00:1::/64", Some("172.17.0.1"), &["172.17.0.1", "--subnet"]),
        ("x", "fd00:1::1/64", None, &["host bits", "fd00:1::/64"]),
        ("x", "fd00:1::/113", None, &["/112", "/64"]),
        ("x", "fe80::/64", None, &["unique local"]),
        ("x", "ff02::/64", None, &["unique local"]),
        ("x", "::/64", None, &["unique local"]),
        ("x", "172.17.0.0/24,fd00:6::/48", None, &["overlaps with fd00:6::/64 of network 'six'"]),
        ("x", "2001:db8::/32", None, &["2001:db8:7::/48, which node 'n1' routes elsewhere"]),
    ] {
        let refusal = network(&mut world, name, subnet, gateway);
        refused(&world, &before, refusal, words);
    }
    let of_neither = NetworkSpec { ipv4: false, ..network_spec("x", None) };
    let refusal = world.command(|cluster, ctx| create_network(cluster, of_neither, ctx)).map(drop);
    refused(&world, &before, refusal, &["without IPv4", "--ipv6"]);
    let contradicts = NetworkSpec { ipv4: false, ..network_spec("x", Some("172.17.0.0/24,fd00:1::/64")) };
    let refusal = world.command(|cluster, ctx| create_network(cluster, contradicts, ctx)).map(drop);
    refused(&world, &before, refusal, &["without IPv4", "leave one out"]);
    let small = NetworkSpec { mtu: Some(1000), ipv6: true, ..network_spec("x", None) };
    let refusal = world.command(|cluster, ctx| create_network(cluster, small, ctx)).map(drop);
    refused(&world, &before, refusal, &["MTU 1000", "1280"]);
    let narrow = NetworkSpec { mtu: Some(100), ..network_spec("x", None) };
    let refusal = world.command(|cluster, ctx| create_network(cluster, narrow, ctx)).map(drop);
    refused(&world, &before, refusal, &["MTU 100"]);
    let refusal = world.command(|cluster, _| remove_network(cluster, "demo")).map(drop);
    refused(&world, &before, refusal, &["'demo' is used by service 'web'"]);
    let refusal = world.command(|cluster, _| remove_network(cluster, "ingress")).map(drop);
    refused(&world, &before, refusal, &["can't be removed"]);
}

#[test]
fn a_network_may_go_while_tasks_of_a_removed_service_still_end() {
    let mut world = World::of_nodes(1);
    world.network("demo", None);
    create(&mut world, on("demo", "web")).expect("create");
    world.settle();
    world.command(|cluster, _| remove_service(cluster, "web")).expect("remove service");
    world.command(|cluster, _| remove_network(cluster, "demo")).expect("remove network");
    assert!(world.cluster.network_named("demo").is_none(), "its name is free at once");
    world.settle();
    assert!(world.cluster.tasks.is_empty());
}

#[test]
fn services_get_a_vip_per_network_and_the_ports_they_ask_for() {
    let mut world = World::of_nodes(1);
    let (one, two) = (world.network("one", None), world.network("two", None));
    let mut both = on("one", "web");
    both.networks.push(NetworkAttachment { network: two.id.short().to_string(), aliases: vec!["www".into()] });
    both.ports = vec![port(0, 80), port(8000, 81)];
    let service = world.create(both.clone());
    let networks: Vec<_> = service.vips.iter().map(|vip| &vip.network_id).collect();
    assert_eq!(networks, [&one.id, &two.id]);
    assert_eq!(service.spec.networks[1].network, two.id.to_string(), "names became ids");
    assert_eq!(service.ports[0].published, 30000);
    // An update that keeps a network and a port keeps what they got.
    let mut fewer = both;
    fewer.networks.remove(0);
    fewer.ports = vec![port(0, 80), port(0, 82)];
    let updated = world.update(fewer);
    assert_eq!(updated.vips, service.vips[1..]);
    assert_eq!(updated.ports.iter().map(|port| port.published).collect::<Vec<_>>(), [30000, 30001]);
    assert_eq!((updated.version, updated.previous_spec), (2, Some(service.spec.into())));
    let unnamed = world.create(ServiceSpec { ports: vec![port(80, 80)], ..spec("") });
    assert!(unnamed.spec.name.starts_with("service-"));
    assert_eq!(unnamed.vips[0].network_id, world.cluster.ingress_network().expect("ingress").id);
}

#[test]
fn service_commands_refuse_with_words() {
    let mut world = World::of_nodes(1);
    let twice = world.network("demo", None);
    create(&mut world, publishing("web", vec![port(8000, 80)])).expect("create");
    create(&mut world, ServiceSpec { mode: Mode::Global, ..spec("everywhere") }).expect("create");
    let before = world.cluster.clone();
    let with = |change: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = spec("new");
        change(&mut spec);
        spec
    };
    let mut two_networks = on("demo", "new");
    two_networks.networks.push(NetworkAttachment { network: twice.id.to_string(), aliases: Vec::new() });
    let udp = PortSpec { protocol: Protocol::Udp, ..port(4789, 1) };
    let at =
        |addr: &str, published| PortSpec { address: Some(addr.parse().expect("an address")), ..port(published, 1) };
    let on_link = |name: &str, published| PortSpec { interface: Some(name.into()), ..port(published, 1) };
    let host = PortSpec { mode: PublishMode::Host, ..port(8000, 1) };
    let refusals = [
        (spec("web"), &["service named 'web' is already there"][..]),
        (spec("a.b"), &["'a.b'", "use letters"]),
        (on("nowhere", "new"), &["no network 'nowhere'", "mesh network ls"]),
        (on("ingress", "new"), &["'new'", "publish a port"]),
        (two_networks, &["network 'demo' twice"]),
        (publishing("new", vec![port(8000, 81)]), &["port 8000/tcp", "service 'web' has"]),
        (publishing("new", vec![host]), &["port 8000/tcp", "service 'web' has"]),
        (publishing("new", vec![at("192.0.2.1", 8000)]), &["port 192.0.2.1:8000/tcp", "service 'web' has"]),
        (publishing("new", vec![at("192.0.2.1", 1), port(1, 2)]), &["1/tcp twice"]),
        (
            publishing("new", vec![at("2001:db8::1", 8001)]),
            &["port [2001:db8::1]:8001/tcp", "network 'ingress'", "--network", "another address"],
        ),
        (publishing("new", vec![at("2001:db8::1", 0)]), &["port 2001:db8::1 → 1/tcp", "network 'ingress'"]),
        (ServiceSpec { ports: vec![at("2001:db8::1", 0)], ..on("demo", "new") }, &["→ 1/tcp", "network 'demo'"]),
        (publishing("new", vec![on_link("eth1", 8000)]), &["port eth1:8000/tcp", "service 'web' has"]),
        (publishing("new", vec![on_link("eth1", 1), on_link("eth1", 1)]), &["eth1:1/tcp twice"]),
        (publishing("new", vec![on_link("eth1", 1), port(1, 1)]), &["1/tcp twice"]),
        (publishing("new", vec![port(2377, 1)]), &["2377/tcp", "cluster API"]),
        (publishing("new", vec![port(7946, 1)]), &["7946/tcp", "membership"]),
        (publishing("new", vec![udp]), &["4789/udp", "tunnels"]),
        (publishing("new", vec![port(1, 1), port(1, 2)]), &["1/tcp twice"]),
        (publishing("new", vec![port(1, 0)]), &["without a target"]),
        (
            ServiceSpec { endpoint_mode: EndpointMode::Dnsrr, ..publishing("new", vec![port(1, 1)]) },
            &["dnsrr", "1/tcp", "mode=host"],
        ),
        (ServiceSpec { mode: Mode::Replicated { replicas: 20_000 }, ..spec("new") }, &["20000", "10000"]),
        (with(&|spec| spec.task.constraints = vec!["node.role=boss".into()]), &["node.role=boss", "=="]),
        (with(&|spec| spec.task.command.clear()), &["no command"]),
        (with(&|spec| spec.task.image = "nginx".into()), &["nginx", "leave the image out"]),
        (with(&|spec| spec.task.runtime = Runtime::Docker), &["neither image nor command"]),
        (
            with(&|spec| (spec.task.runtime, spec.task.image) = (Runtime::Docker, "nginx".into())),
            &["no node has a Docker Engine", "--runtime exec"],
        ),
        (
            with(&|spec| {
                let volume = Mount { kind: "volume".into(), target: "/data".into(), ..Mount::default() };
                spec.task.mounts = vec![volume];
            }),
            &["asks for volumes", "runtime docker", "/host/path:/path"],
        ),
        (with(&|spec| spec.task.container.cap_drop = vec!["ALL".into()]), &["cap_drop", "runtime exec does not have"]),
        (with(&|spec| spec.update.max_failure_ratio = f32::NAN), &["update max-failure-ratio", "between 0 and 1"]),
    ];
    for (spec, words) in refusals {
        let refusal = create(&mut world, spec);
        refused(&world, &before, refusal, words);
    }
    let scale = |world: &mut World, wanted: &[(&str, u32)]| {
        let wanted: Vec<_> = wanted.iter().map(|(name, replicas)| (name.to_string(), *replicas)).collect();
        world.command(|cluster, ctx| scale_services(cluster, &wanted, ctx)).map(drop)
    };
    let refusal = scale(&mut world, &[("web", 3), ("everywhere", 2)]);
    refused(&world, &before, refusal, &["'everywhere' is global"]);
    let refusal = scale(&mut world, &[("web", 3), ("none", 2)]);
    refused(&world, &before, refusal, &["no service 'none'"]);
    let update = |world: &mut World, spec: ServiceSpec, expected| {
        world.command(|cluster, ctx| update_service(cluster, "web", spec, expected, ctx)).map(drop)
    };
    let refusal = update(&mut world, spec("other"), None);
    refused(&world, &before, refusal, &["can't be renamed to 'other'"]);
    let refusal = update(&mut world, ServiceSpec { mode: Mode::Global, ..spec("web") }, None);
    refused(&world, &before, refusal, &["between replicated and global"]);
    let refusal = update(&mut world, spec("web"), Some(7));
    refused(&world, &before, refusal, &["version 1, not 7"]);
    let refusal = world.command(|cluster, ctx| rollback_service(cluster, "web", ctx)).map(drop);
    refused(&world, &before, refusal, &["never updated"]);
    let refusal = world.command(|cluster, _| remove_service(cluster, "none")).map(drop);
    refused(&world, &before, refusal, &["no service 'none'", "mesh service ls"]);
}

#[test]
fn a_prefix_that_several_have_lists_them() {
    let mut world = World::of_nodes(1);
    for name in ["one", "two"] {
        let network = world.network(name, None);
        // Ids are random: two that begin alike are made.
        world.cluster.networks.remove(&network.id);
        let id = Id::try_from(format!("abc{}", &network.id.as_str()[3..])).expect("an id");
        world.cluster.networks.insert(id.clone(), Network { id, ..network });
    }
    let error = resolve::network(&world.cluster, "abc").expect_err("ambiguous").to_string();
    assert!(error.contains("one (abc") && error.contains("two (abc"), "{error}");
    assert!(resolve::network(&world.cluster, "").is_err(), "nothing is no prefix");
}

#[test]
fn rollback_swaps_the_specs() {
    let mut world = World::of_nodes(1);
    create(&mut world, spec("web")).expect("create");
    let mut newer = spec("web");
    newer.task.env = vec!["A=1".into()];
    world.update(newer.clone());
    let back = world.command(|cluster, ctx| rollback_service(cluster, "web", ctx)).expect("back");
    assert_eq!((back.spec.task.env.len(), back.previous_spec), (0, Some(newer.into())));
    assert_eq!(world.cluster.updates[&back.id].state, UpdateState::RollbackStarted);
}

fn stack(services: Vec<ServiceSpec>) -> Stack {
    Stack { name: "shop".into(), networks: vec![network_spec("shop_net", None)], services }
}

fn deploy(world: &mut World, stack: Stack, prune: bool) -> Result<StackOutcome, CommandError> {
    world.command(|cluster, ctx| deploy_stack(cluster, stack, prune, ctx))
}

#[test]
fn a_stack_is_created_updated_pruned_and_removed() {
    let mut world = World::of_nodes(1);
    let web = ServiceSpec { ports: vec![port(80, 80)], ..on("shop_net", "shop_web") };
    let db = ServiceSpec { ports: vec![port(81, 81)], ..on("shop_net", "shop_db") };
    let first = deploy(&mut world, stack(vec![web.clone(), db.clone()]), false).expect("deploy");
    assert_eq!((first.created_networks.len(), first.created_services.len()), (1, 2));
    let again = deploy(&mut world, stack(vec![web.clone(), db.clone()]), false).expect("again");
    assert_eq!(again.unchanged_services, ["shop_web", "shop_db"]);
    // The two swap their ports in one go.
    let swapped = stack(vec![
        ServiceSpec { ports: db.ports.clone(), ..web.clone() },
        ServiceSpec { ports: web.ports.clone(), ..db.clone() },
    ]);
    assert_eq!(deploy(&mut world, swapped, false).expect("swap").updated_services.len(), 2);
    deploy(&mut world, stack(vec![web.clone(), db]), false).expect("swap back");
    let kept = deploy(&mut world, stack(vec![web.clone()]), false).expect("without db");
    assert_eq!((kept.removed.len(), world.cluster.services.len()), (0, 2), "nothing goes unasked");
    let pruned = deploy(&mut world, stack(vec![web]), true).expect("prune");
    assert_eq!(pruned.removed, ["shop_db"]);
    world.settle();
    let removed = world.command(|cluster, _| remove_stack(cluster, "shop")).expect("remove");
    assert_eq!(removed, ["shop_web", "shop_net"]);
    world.settle();
    assert!(world.cluster.tasks.is_empty() && world.cluster.networks.len() == 1);
}

#[test]
fn a_stack_is_all_or_nothing() {
    let mut world = World::of_nodes(1);
    create(&mut world, publishing("other", vec![port(80, 80)])).expect("create");
    world.network("taken", None);
    let before = world.cluster.clone();
    let clash = ServiceSpec { ports: vec![port(80, 80)], ..on("shop_net", "shop_db") };
    let refusal = deploy(&mut world, stack(vec![on("shop_net", "shop_web"), clash]), false).map(drop);
    refused(&world, &before, refusal, &["80/tcp", "'other'"]);
    let refusal = deploy(&mut world, stack(vec![spec("other")]), false).map(drop);
    refused(&world, &before, refusal, &["service named 'other'", "not part of the stack"]);
    let foreign = Stack { networks: vec![network_spec("taken", None)], ..stack(Vec::new()) };
    let refusal = deploy(&mut world, foreign, false).map(drop);
    refused(&world, &before, refusal, &["network named 'taken'", "not part of the stack"]);
    let refusal = world.command(|cluster, _| remove_stack(cluster, "none")).map(drop);
    refused(&world, &before, refusal, &["stack 'none'"]);
    deploy(&mut world, stack(vec![on("shop_net", "shop_web")]), false).expect("deploy");
    create(&mut world, on("shop_net", "guest")).expect("create");
    let before = world.cluster.clone();
    let other_subnet = Stack { networks: vec![network_spec("shop_net", Some("172.16.0.0/24"))], ..stack(Vec::new()) };
    let refusal = deploy(&mut world, other_subnet, false).map(drop);
    refused(&world, &before, refusal, &["shop_net", "other settings"]);
    let refusal = world.command(|cluster, _| remove_stack(cluster, "shop")).map(drop);
    refused(&world, &before, refusal, &["used by service 'guest'"]);
}
