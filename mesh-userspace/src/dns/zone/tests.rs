//! Names in, answers out: a cluster of three nodes seen by the tasks of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::model::{
    Addresses, Algorithm, Attachment, Cluster, EndpointMode, Mode, Network, NetworkAttachment, NetworkSpec, Observed,
    Runtime, Service, ServiceSpec, Stack, Task, TaskSpec, TaskState, TaskStatus, UpdateConfig, Vip,
};

const DEMO: u8 = 1;
const BACK: u8 = 2;
const SECRET: u8 = 3;
const INGRESS: u8 = 9;

fn id(kind: char, number: u8) -> Id {
    Id::try_from(format!("{:02x}{number:030x}", kind as u8).replacen("00", &format!("{number:02x}"), 1)).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(number: u8, name: &str) -> Network {
    Network {
        id: id('d', number),
        spec: NetworkSpec { internal: number == SECRET, ..NetworkSpec::named(name) },
        vni: 4096 + u32::from(number),
        subnets: format!("10.0.{number}.0/24").parse().unwrap(),
        gateways: Ipv4Addr::new(10, 0, number, 1).into(),
        ingress: number == INGRESS,
        removing: false,
        created_at: 0,
    }
}

fn task_spec() -> TaskSpec {
    TaskSpec { command: vec!["whoami".into()], ..TaskSpec::new(Runtime::Exec) }
}

/// The service's VIP on network n is 10.0.n.(100 + service number).
fn service(number: u8, name: &str, networks: &[(u8, &[&str])]) -> Service {
    let attach = |&(network, aliases): &(u8, &[&str])| NetworkAttachment {
        network: id('d', network).to_string(),
        aliases: aliases.iter().map(|alias| alias.to_string()).collect(),
    };
    let vip = |&(network, _): &(u8, &[&str])| Vip {
        network_id: id('d', network),
        addrs: Ipv4Addr::new(10, 0, network, 100 + number).into(),
        pool: u32::from(number),
    };
    Service {
        id: id('e', number),
        spec: ServiceSpec {
            name: name.into(),
            labels: BTreeMap::new(),
            mode: Mode::Replicated { replicas: 1 },
            task: task_spec(),
            networks: networks.iter().map(attach).collect(),
            ports: vec![],
            endpoint_mode: EndpointMode::Vip,
            lb: Algorithm::RoundRobin,
            affinity: None,
            weight_by: None,
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
        },
        previous_spec: None,
        version: 1,
        vips: networks.iter().map(vip).collect(),
        ports: vec![],
        pending_reason: None,
        created_at: 0,
        updated_at: 0,
    }
}

/// A running, ready task; its address on network n is 10.0.n.(its number).
fn add_task(cluster: &mut Cluster, observed: &mut Observed, number: u8, service: u8, slot: u32, node: u8) {
    let service = &cluster.services[&id('e', service)];
    let task = Task {
        id: id('a', number),
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot,
        node_id: Some(id('b', node)),
        spec: service.spec.task.clone().into(),
        service_version: 1,
        attachments: service
            .vips
            .iter()
            .map(|vip| {
                let [a, b, c, _] = vip.addrs.v4.unwrap().octets();
                Attachment {
                    network_id: vip.network_id.clone(),
                    addrs: Ipv4Addr::new(a, b, c, number).into(),
                    endpoint: u32::from(number),
                }
            })
            .collect(),
        desired: TaskState::Running,
        draining: false,
        leader_state: None,
        message: String::new(),
        created_at: 0,
        not_before: 0,
        adopted: None,
    };
    observed.tasks.insert(task.id.clone(), TaskStatus::new(TaskState::Running, true, 0));
    cluster.tasks.insert(task.id.clone(), task);
}

/// Networks demo, back.end (a dot in the name), secret (internal), ingress. On node 1: client (demo, back.end),
/// hermit (secret), edge (ingress alone). whoami has tasks 11 on n1 and 12 on n2; shop_db is of stack `shop`.
fn cluster() -> (Cluster, Observed) {
    let mut cluster = Cluster::default();
    let mut observed = Observed::default();
    for network in
        [network(DEMO, "demo"), network(BACK, "Back.End"), network(SECRET, "secret"), network(INGRESS, "ingress")]
    {
        cluster.networks.insert(network.id.clone(), network);
    }
    let mut db = service(3, "shop_db", &[(BACK, &["db", "api.example.com"])]);
    db.spec.labels.insert(Stack::LABEL.into(), "shop".into());
    let mut many = service(5, "many", &[(DEMO, &[])]);
    many.spec.endpoint_mode = EndpointMode::Dnsrr;
    let mut named = service(8, "named", &[(DEMO, &[])]);
    named.spec.task.hostname = Some("Box".into());
    for service in [
        service(1, "client", &[(DEMO, &[]), (BACK, &[])]),
        service(2, "WhoAmI", &[(DEMO, &["web", "www.example.org"])]),
        db,
        service(4, "hermit", &[(SECRET, &[])]),
        many,
        service(6, "edge", &[(INGRESS, &[])]),
        service(7, "every", &[(DEMO, &[])]),
        named,
        service(9, "idle", &[(DEMO, &["sleepy"])]),
    ] {
        cluster.services.insert(service.id.clone(), service);
    }
    let mut add = |number, service, slot, node| add_task(&mut cluster, &mut observed, number, service, slot, node);
    add(10, 1, 1, 1);
    add(11, 2, 1, 1);
    add(12, 2, 2, 2);
    add(13, 3, 1, 2);
    add(14, 4, 1, 1);
    for number in 20..40 {
        add(number, 5, u32::from(number - 19), 2);
    }
    add(15, 6, 1, 1);
    add(16, 7, 0, 2);
    add(17, 8, 1, 2);
    (cluster, observed)
}

const CLIENT: &str = "10.0.1.10";
const HERMIT: &str = "10.0.3.14";
const EDGE: &str = "10.0.9.15";

fn zone_of((cluster, observed): &(Cluster, Observed)) -> Zone {
    compile(cluster, observed, &id('b', 1))
}

fn ask(zone: &Zone, asker: &str, query_type: QueryType, name: &str) -> Answer {
    answer(zone, Question { asker: ip(asker), name, query_type }, 7)
}

fn addresses(ttl_s: u32, addrs: &[&str]) -> Answer {
    Answer::Addresses { addrs: addrs.iter().map(|addr| ip(addr)).collect(), ttl_s }
}

#[test]
fn every_name_form_of_the_contract() {
    let zone = zone_of(&cluster());
    let task = id('a', 11);
    let node = id('b', 2);
    let table = [
        ("whoami", addresses(30, &["10.0.1.102"])),
        ("WHOAMI.", addresses(30, &["10.0.1.102"])),
        ("web", addresses(30, &["10.0.1.102"])),
        ("whoami.demo", addresses(30, &["10.0.1.102"])),
        ("web.demo", addresses(30, &["10.0.1.102"])),
        ("www.example.org", addresses(30, &["10.0.1.102"])),
        ("www.example.org.demo", addresses(30, &["10.0.1.102"])),
        ("1.whoami", addresses(5, &["10.0.1.11"])),
        ("2.whoami", addresses(5, &["10.0.1.12"])),
        ("2.web", addresses(5, &["10.0.1.12"])),
        ("2.whoami.demo", addresses(5, &["10.0.1.12"])),
        (&format!("whoami.1.{task}"), addresses(5, &["10.0.1.11"])),
        (&format!("whoami.1.{task}.demo"), addresses(5, &["10.0.1.11"])),
        (task.as_str(), addresses(5, &["10.0.1.11"])),
        (task.short(), addresses(5, &["10.0.1.11"])),
        (&format!("{}.demo", task.short()), addresses(5, &["10.0.1.11"])),
        (&format!("every.{node}.{}", id('a', 16)), addresses(5, &["10.0.1.16"])),
        ("box", addresses(5, &["10.0.1.17"])),
        ("shop_db", addresses(30, &["10.0.2.103"])),
        ("db", addresses(30, &["10.0.2.103"])),
        ("api.example.com", addresses(30, &["10.0.2.103"])),
        ("db.back.end", addresses(30, &["10.0.2.103"])),
        ("tasks.db.back.end", addresses(5, &["10.0.2.13"])),
        ("tasks.shop_db", addresses(5, &["10.0.2.13"])),
        // On two networks: the asker's first.
        ("client", addresses(30, &["10.0.1.101"])),
        ("client.back.end", addresses(30, &["10.0.2.101"])),
    ];
    for (name, expected) in table {
        assert_eq!(ask(&zone, CLIENT, QueryType::A, name), expected, "A of {name}");
        assert_eq!(ask(&zone, CLIENT, QueryType::Any, name), expected, "ANY of {name}");
        assert_eq!(ask(&zone, CLIENT, QueryType::Other, name), Answer::NoData, "MX of {name}");
        assert_eq!(ask(&zone, CLIENT, QueryType::Aaaa, name), Answer::NoData, "AAAA of {name}");
        assert_eq!(ask(&zone, CLIENT, QueryType::Ptr, name), Answer::NoData, "PTR of {name}");
    }
}

#[test]
fn views_end_at_the_networks_of_the_asker() {
    let zone = zone_of(&cluster());
    for name in
        ["whoami", "web", "tasks.whoami", "1.whoami", "whoami.demo", "db", id('a', 11).as_str(), "client", "idle"]
    {
        assert_eq!(ask(&zone, HERMIT, QueryType::A, name), Answer::NxDomain, "{name} seen from secret");
        assert_eq!(ask(&zone, HERMIT, QueryType::Other, name), Answer::NxDomain, "{name} seen from secret");
    }
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "hermit"), Answer::NxDomain);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "hermit.secret"), Answer::NxDomain);
    assert_eq!(ask(&zone, HERMIT, QueryType::A, "hermit"), addresses(30, &["10.0.3.104"]));
    // ingress contributes no names, and its tasks see none.
    assert_eq!(ask(&zone, EDGE, QueryType::A, "whoami"), Answer::NxDomain);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "edge"), Answer::Forward);
    assert_eq!(ask(&zone, EDGE, QueryType::A, "edge"), Answer::Forward);
}

#[test]
fn what_is_not_ours_is_forwarded_unless_the_asker_is_internal() {
    let zone = zone_of(&cluster());
    for name in ["example.com", "nosuch", "nosuch.demo", "demo", "", "google.secret", "9.whoami"] {
        assert_eq!(ask(&zone, CLIENT, QueryType::A, name), Answer::Forward, "{name}");
        assert_eq!(ask(&zone, HERMIT, QueryType::A, name), Answer::ServFail, "{name}");
        assert_eq!(ask(&zone, EDGE, QueryType::Other, name), Answer::Forward, "{name}");
    }
    // An alias with a dot may be a public name: only its own network is overridden.
    assert_eq!(ask(&zone, EDGE, QueryType::A, "api.example.com"), Answer::Forward);
    assert_eq!(ask(&zone, EDGE, QueryType::A, "db"), Answer::NxDomain);
}

#[test]
fn only_tasks_of_this_node_are_answered() {
    let zone = zone_of(&cluster());
    for asker in ["10.0.1.12", "10.0.1.1", "192.168.0.1", "10.0.1.102"] {
        assert_eq!(ask(&zone, asker, QueryType::A, "whoami"), Answer::Refused, "asked by {asker}");
    }
    assert_eq!(zone.listen_addrs(), ["10.0.1.1", "10.0.2.1", "10.0.3.1", "10.0.9.1"].map(ip).into());
    assert_eq!(compile(&cluster().0, &cluster().1, &id('b', 3)).listen_addrs(), BTreeSet::new());
}

#[test]
fn reverse_names() {
    let zone = zone_of(&cluster());
    let ptr = |asker, name: &str| ask(&zone, asker, QueryType::Ptr, name);
    let pointer = |name: &str, ttl_s| Answer::Pointer { name: name.into(), ttl_s };
    assert_eq!(ptr(CLIENT, "102.1.0.10.in-addr.arpa."), pointer("whoami.demo", 30));
    assert_eq!(ptr(CLIENT, "103.2.0.10.IN-ADDR.ARPA."), pointer("shop_db.back.end", 30));
    assert_eq!(ptr(CLIENT, "11.1.0.10.in-addr.arpa"), pointer(&format!("whoami.1.{}.demo", id('a', 11)), 5));
    // dnsrr has no VIP.
    assert_eq!(ptr(CLIENT, "105.1.0.10.in-addr.arpa"), Answer::NxDomain);
    // Addresses of overlays never leave the node, seen or not, used or not.
    assert_eq!(ptr(CLIENT, "14.3.0.10.in-addr.arpa"), Answer::NxDomain);
    assert_eq!(ptr(HERMIT, "102.1.0.10.in-addr.arpa"), Answer::NxDomain);
    assert_eq!(ptr(CLIENT, "77.9.0.10.in-addr.arpa"), Answer::NxDomain);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "102.1.0.10.in-addr.arpa"), Answer::NoData);
    for name in ["8.8.8.8.in-addr.arpa", "0.10.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "x.0.0.10.in-addr.arpa"] {
        assert_eq!(ptr(CLIENT, name), Answer::Forward, "{name}");
    }
}

/// The network gets IPv6, and what is on it addresses: 10.0.N.X is fd00:0:0:N::X besides, or instead.
fn number_with_ipv6(cluster: &mut Cluster, network: u8, keeps_ipv4: bool) {
    let six = |addrs: &mut Addresses| {
        let v4 = addrs.v4.take_if(|_| !keeps_ipv4).or(addrs.v4).expect("an address");
        let decimal = u16::from_str_radix(&v4.octets()[3].to_string(), 16).expect("digits");
        addrs.v6 = Some(Ipv6Addr::new(0xfd00, 0, 0, network.into(), 0, 0, 0, decimal));
    };
    let at = id('d', network);
    let net = cluster.networks.get_mut(&at).expect("the network");
    six(&mut net.gateways);
    net.subnets.v4 = net.subnets.v4.filter(|_| keeps_ipv4);
    net.subnets.v6 = Some(format!("fd00:0:0:{network}::/64").parse().unwrap());
    for id in cluster.services.keys().cloned().collect::<Vec<_>>() {
        let service = cluster.services.get_mut(&id).expect("the service");
        service.vips.iter_mut().filter(|vip| vip.network_id == at).for_each(|vip| six(&mut vip.addrs));
    }
    for id in cluster.tasks.keys().cloned().collect::<Vec<_>>() {
        let task = cluster.tasks.get_mut(&id).expect("the task");
        task.attachments.iter_mut().filter(|on| on.network_id == at).for_each(|on| six(&mut on.addrs));
    }
}

#[test]
fn names_have_addresses_of_the_families_of_their_network() {
    let mut state = cluster();
    number_with_ipv6(&mut state.0, DEMO, true);
    number_with_ipv6(&mut state.0, BACK, false);
    let zone = zone_of(&state);
    let ask = |query_type, name: &str| ask(&zone, CLIENT, query_type, name);
    // Both families.
    assert_eq!(ask(QueryType::A, "whoami"), addresses(30, &["10.0.1.102"]));
    assert_eq!(ask(QueryType::Aaaa, "web"), addresses(30, &["fd00:0:0:1::102"]));
    assert_eq!(ask(QueryType::Any, "whoami"), addresses(30, &["10.0.1.102", "fd00:0:0:1::102"]));
    assert_eq!(ask(QueryType::Aaaa, "2.whoami.demo"), addresses(5, &["fd00:0:0:1::12"]));
    let Answer::Addresses { addrs, ttl_s: 5 } = ask(QueryType::Aaaa, "many") else { panic!("a list") };
    let all: BTreeSet<IpAddr> = (20..40).map(|last| ip(&format!("fd00:0:0:1::{last}"))).collect();
    assert_eq!(addrs.into_iter().collect::<BTreeSet<_>>(), all);
    // IPv6 alone, and IPv4 alone: no record is not no name.
    assert_eq!(ask(QueryType::Aaaa, "db"), addresses(30, &["fd00:0:0:2::103"]));
    assert_eq!(ask(QueryType::A, "db"), Answer::NoData);
    assert_eq!(ask(QueryType::Other, "db"), Answer::NoData);
    assert_eq!(
        super::answer(&zone, Question { asker: ip(HERMIT), name: "hermit", query_type: QueryType::Aaaa }, 7),
        Answer::NoData
    );
    assert_eq!(ask(QueryType::Aaaa, "idle"), Answer::NxDomain, "nobody is ready");

    let reverse = |address: &str| {
        let digits = u128::from(address.parse::<Ipv6Addr>().unwrap());
        let labels: Vec<String> = (0..32).map(|at| format!("{:x}", digits >> (4 * at) & 15)).collect();
        format!("{}.ip6.arpa", labels.join("."))
    };
    let pointer = |name: &str, ttl_s| Answer::Pointer { name: name.into(), ttl_s };
    assert_eq!(ask(QueryType::Ptr, &reverse("fd00:0:0:1::102")), pointer("whoami.demo", 30));
    assert_eq!(
        ask(QueryType::Ptr, &reverse("fd00:0:0:2::13").to_uppercase()),
        pointer(&format!("shop_db.1.{}.back.end", id('a', 13)), 5)
    );
    assert_eq!(ask(QueryType::Ptr, &reverse("fd00:0:0:1::105")), Answer::NxDomain, "dnsrr has no VIP");
    assert_eq!(ask(QueryType::Ptr, &reverse("2001:db8::1")), Answer::Forward);
    for name in ["0.0.d.f.ip6.arpa", "ip6.arpa", &reverse("fd00:0:0:1::102").replacen("2.", "02.", 1)] {
        assert_eq!(ask(QueryType::Ptr, name), Answer::Forward, "{name}");
    }

    // Asked from either address, heard at either gateway.
    let asked = answer(&zone, Question { asker: ip("fd00:0:0:2::10"), name: "web", query_type: QueryType::A }, 7);
    assert_eq!(asked, addresses(30, &["10.0.1.102"]));
    let listened = ["10.0.1.1", "fd00:0:0:1::1", "fd00:0:0:2::1", "10.0.3.1", "10.0.9.1"];
    assert_eq!(zone.listen_addrs(), listened.map(ip).into());
}

#[test]
fn task_lists_are_shuffled_by_the_seed() {
    let zone = zone_of(&cluster());
    let list =
        |name: &str, seed| match answer(&zone, Question { asker: ip(CLIENT), name, query_type: QueryType::A }, seed) {
            Answer::Addresses { addrs, ttl_s: 5 } => addrs,
            other => panic!("{name}: {other:?}"),
        };
    let all: BTreeSet<IpAddr> = (20..40).map(|last| Ipv4Addr::new(10, 0, 1, last).into()).collect();
    for name in ["many", "tasks.many", "tasks.many.demo"] {
        assert_eq!(list(name, 1).len(), 20);
        assert_eq!(list(name, 1).into_iter().collect::<BTreeSet<_>>(), all);
        assert_eq!(list(name, 1), list(name, 1), "one seed, one order");
        assert_ne!(list(name, 1), list(name, 2));
    }
    let first: BTreeSet<IpAddr> = (0..400).map(|seed| list("many", seed)[0]).collect();
    assert_eq!(first, all, "each task is first now and then");
}

#[test]
fn without_a_ready_task_the_name_is_gone() {
    let mut state = cluster();
    let zone = zone_of(&state);
    for name in ["idle", "sleepy", "tasks.idle", "tasks.sleepy", "idle.demo"] {
        assert_eq!(ask(&zone, CLIENT, QueryType::A, name), Answer::NxDomain, "{name}: scaled to 0");
        assert_eq!(ask(&zone, CLIENT, QueryType::Other, name), Answer::NxDomain, "{name}: scaled to 0");
    }

    // One unhealthy, one draining: the service's name goes with the last ready task.
    state.1.tasks.get_mut(&id('a', 12)).unwrap().ready = false;
    let zone = zone_of(&state);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "whoami"), addresses(30, &["10.0.1.102"]));
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "tasks.whoami"), addresses(5, &["10.0.1.11"]));
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "2.whoami"), Answer::NxDomain);
    state.0.tasks.get_mut(&id('a', 11)).unwrap().draining = true;
    let zone = zone_of(&state);
    for name in ["whoami", "web", "tasks.whoami", "1.whoami", "102.1.0.10.in-addr.arpa"] {
        assert_eq!(ask(&zone, CLIENT, QueryType::A, name), Answer::NxDomain, "{name}");
    }
    // A draining or unhealthy task still asks; one that ended does not.
    assert_eq!(ask(&zone, "10.0.1.11", QueryType::A, "client"), addresses(30, &["10.0.1.101"]));
    state.1.tasks.get_mut(&id('a', 11)).unwrap().state = TaskState::Shutdown;
    assert_eq!(ask(&zone_of(&state), "10.0.1.11", QueryType::A, "client"), Answer::Refused);

    // A task that waits for its first report asks already, and has no names yet.
    state.1.tasks.remove(&id('a', 10));
    let zone = zone_of(&state);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "hermit"), Answer::NxDomain);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "client"), Answer::NxDomain);
}

#[test]
fn unreachable_nodes_leave_the_lists() {
    let mut state = cluster();
    state.1.unreachable_since.insert(id('b', 2), 5);
    let zone = zone_of(&state);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "whoami"), addresses(30, &["10.0.1.102"]));
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "tasks.whoami"), addresses(5, &["10.0.1.11"]));
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "2.whoami"), addresses(5, &["10.0.1.12"]));
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "many"), Answer::NxDomain);
}

#[test]
fn a_service_name_wins_over_a_hostname_and_equal_names_share() {
    let mut state = cluster();
    // Task 17 calls itself whoami; service many takes the alias web, which whoami has.
    let task = state.0.tasks.get_mut(&id('a', 17)).unwrap();
    std::sync::Arc::make_mut(&mut task.spec).hostname = Some("whoami".into());
    state.0.services.get_mut(&id('e', 7)).unwrap().spec.networks[0].aliases = vec!["web".into()];
    let zone = zone_of(&state);
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "whoami"), addresses(30, &["10.0.1.102"]));
    let Answer::Addresses { mut addrs, .. } = ask(&zone, CLIENT, QueryType::A, "web") else { panic!("web is known") };
    addrs.sort();
    assert_eq!(addrs, ["10.0.1.102", "10.0.1.107"].map(ip));
}

#[test]
fn a_zone_survives_its_journey_as_json_and_damage_to_it() {
    let mut zone = zone_of(&cluster());
    let text = serde_json::to_string(&zone).unwrap();
    assert_eq!(serde_json::from_str::<Zone>(&text).unwrap(), zone);
    zone.clients.get_mut(&ip(CLIENT)).unwrap().networks = vec![99];
    assert_eq!(ask(&zone, CLIENT, QueryType::A, "whoami"), Answer::NxDomain);
}

proptest::proptest! {
    /// Whatever is asked: strangers learn nothing, internal tasks reach nothing, and names of the cluster stay in it.
    #[test]
    fn nothing_leaks(
        labels in proptest::collection::vec("(?i)tasks|whoami|hermit|demo|secret|back|end|1|web|x.y|[a-z0-9._-]{0,9}", 0..5),
        query_type in proptest::sample::select(vec![QueryType::A, QueryType::Aaaa, QueryType::Ptr, QueryType::Any, QueryType::Other]),
    ) {
        let mut state = cluster();
        number_with_ipv6(&mut state.0, DEMO, true);
        number_with_ipv6(&mut state.0, SECRET, false);
        let zone = zone_of(&state);
        let name = labels.join(".");
        proptest::prop_assert_eq!(ask(&zone, "10.0.1.99", query_type, &name), Answer::Refused);
        proptest::prop_assert_ne!(ask(&zone, "fd00:0:0:3::14", query_type, &name), Answer::Forward);
        let on_demo = ask(&zone, CLIENT, query_type, &name);
        if matches!(on_demo, Answer::Addresses { .. }) && !name.to_lowercase().contains("example") {
            proptest::prop_assert_eq!(ask(&zone, EDGE, query_type, &name), Answer::NxDomain);
        }
    }
}
