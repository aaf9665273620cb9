//! traceroute as operators run it: Debian's program on real stacks, by datagrams, echoes and SYNs, over both families. What is a hop, and who speaks
//! for it: docs/decisions/0027.
//!
//! | from | to | is seen |
//! |---|---|---|
//! | a task, a node | VIP, task, gateway | that address alone, wherever the task is |
//! | a task | a published port of any node | that node's address alone |
//! | a task | the outside | its gateway, the routers, the host |
//! | outside | a published port | the routers, then the address that was called, whichever node has the task |
//!
//! And, from outside, how large a datagram such a port takes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Inside, Lab, Node, Shape, Swarm, eventually, scenario, skip, step};

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);

/// Ways of asking a task whose program listens on 8000: datagrams to ports that nobody has, and to one that answers; echoes; SYNs that are accepted,
/// and refused.
const OF_TASKS: [&str; 5] = ["", "-U -p 8000", "-I", "-T -p 8000", "-T -p 9"];
/// Of a node: 8001 is published for 8000, and 9001 for a port on which the task has nobody. Echoes and other ports are the node's own to answer.
const OF_NODES: [&str; 6] = ["-U -p 8001", "-U -p 9001", "-T -p 8001", "-T -p 9001", "-I", ""];
const PUBLISHED: [&str; 8] = ["-p", "8001:8000", "-p", "8001:8000/udp", "-p", "9001:9", "-p", "9001:9/udp"];

/// Whoever asks.
#[derive(Clone, Copy)]
enum Asker<'a> {
    Task(Inside<'a>),
    Host(&'a Host),
}

impl Asker<'_> {
    /// Each of these ways shows these hops, and nothing beside.
    fn sees(self, to: IpAddr, ways: &[&str], hops: &[IpAddr]) -> Result<()> {
        let hops: Vec<String> = hops.iter().map(IpAddr::to_string).collect();
        for way in ways {
            let seen = self.hops(to, way)?;
            ensure!(seen == hops, "traceroute {way} {to}: {seen:?}, and not {hops:?}");
        }
        Ok(())
    }

    /// Who answered, in the order of distance; with `!H` and the like where that was to say no, and `*` where nobody did. One probe at a time, and one a
    /// hop: stacks answer few errors a second.
    fn hops(self, to: IpAddr, way: &str) -> Result<Vec<String>> {
        let to = to.to_string();
        let fixed = ["traceroute", "-n", "-q", "1", "-N", "1", "-w", "2", "-m", "5"];
        let words: Vec<&str> = fixed.into_iter().chain(way.split_whitespace()).chain([to.as_str()]).collect();
        let printed = match self {
            Asker::Task(inside) => inside.run(&words)?,
            Asker::Host(host) => host.run(words)?.ok()?,
        };
        let who = |line: &str| {
            let words = line.split_whitespace().skip(1);
            let kept = words.enumerate().filter(|(place, word)| *place == 0 || word.starts_with('!'));
            kept.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
        };
        Ok(printed.lines().skip(1).map(who).collect())
    }
}

#[test]
fn traceroute_shows_an_overlay_as_one_link() {
    // n3 leaves outer headers to mesh0, both ways.
    let lab = Lab::builder().node_args("n3", ["--fast-path=off"]);
    scenario("traceroute shows an overlay as one link", lab, |lab| {
        let Some(swarm) = prepared(lab)? else { return Ok(()) };
        swarm.create_whoami("web", &["--network", "demo", "--mode", "global"])?;
        let places = ["n1", "n2", "n3"].map(|node| format!("node.hostname=={node}"));
        let [first, second, third] = places.each_ref().map(|place| ["--network", "demo", "--constraint", place]);
        swarm.create_whoami("public", &[&second[..], &PUBLISHED].concat())?;
        swarm.create_client("one", &first)?;
        swarm.create_client("three", &third)?;
        let (one, three) = (swarm.inside("one.1"), swarm.inside("three.1"));
        each_by_its_way(&swarm, lab, &one, &three)?;

        step("a task, and a node, to VIPs and to tasks, here and elsewhere");
        let n1: &Host = lab.node("n1");
        let (vips, tasks) = (one.names("web")?, one.names("tasks.web")?);
        ensure!(vips.len() == 2 && tasks.len() == 6, "{vips:?}, {tasks:?}");
        // Three times to a VIP: each task of the service has its turn.
        for to in [tasks, vips.repeat(3)].concat() {
            Asker::Task(one).sees(to, &OF_TASKS, &[to])?;
            Asker::Task(three).sees(to, &OF_TASKS, &[to])?;
            Asker::Host(n1).sees(to, &OF_TASKS, &[to])?;
        }

        step("a task to published ports, by nodes with the task and without; all else of another node is outside");
        let gateways = gateways(&one)?;
        for node in ["n1", "n2", "n3"] {
            let to = lab.node(node).address().into();
            Asker::Task(one).sees(to, &OF_NODES[..4], &[to])?;
            let hops = if node == "n1" { vec![to] } else { vec![gateways[0], to] };
            Asker::Task(one).sees(to, &OF_NODES[4..], &hops)?;
        }
        // Of another node only the addresses are known by which nodes call each other.
        let (own, others) = (of_ipv6(n1)?, of_ipv6(lab.node("n2"))?);
        Asker::Task(one).sees(own, &OF_NODES, &[own])?;
        Asker::Task(one).sees(others, &OF_NODES, &[gateways[1], others])?;

        step("a task to its gateway, and to the outside: gateway, router, host");
        for (gateway, router, host) in [(gateways[0], ROUTER, OUTSIDE), (gateways[1], ROUTER6, OUTSIDE6)] {
            let (router, host): (IpAddr, IpAddr) = (router.parse()?, host.parse()?);
            Asker::Task(one).sees(gateway, &["-I"], &[gateway])?;
            Asker::Task(one).sees(router, &["", "-I", "-T -p 9"], &[gateway, router])?;
            Asker::Task(one).sees(host, &["", "-I", "-T -p 9"], &[gateway, router, host])?;
            Asker::Task(three).sees(host, &[""], &[gateway, router, host])?;
        }

        step(
            "from outside to published ports, by nodes with the task and without, on the same link and behind a router",
        );
        for node in lab.nodes() {
            for (to, router) in [(node.address().into(), OUTSIDE_ROUTER), (of_ipv6(node)?, OUTSIDE_ROUTER6)] {
                Asker::Host(lab.client()).sees(to, &OF_NODES, &[to])?;
                Asker::Host(lab.outside()).sees(to, &OF_NODES[..5], &[router.parse()?, to])?;
            }
        }

        step(
            "--mtu tells what a published port takes: a link's size where the task is, elsewhere what the tunnel leaves of it",
        );
        for node in lab.nodes() {
            for to in [node.address().into(), of_ipv6(node)?] {
                let sizes = sizes_told(lab.client(), to)?;
                ensure!(sizes == [if node.name() == "n2" { "1500" } else { "1450" }], "to {to}: {sizes:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn traceroute_ends_at_the_node_that_was_called_also_by_its_driver() {
    let lab = Lab::builder().nodes(["n1", "n2"]).shape(Shape::Wire).node_args("n1", ["--xdp", "native"]);
    scenario("traceroute ends at the node that was called, also by its driver", lab, |lab| {
        let Some(swarm) = prepared(lab)? else { return Ok(()) };
        let here = ["--network", "demo", "--constraint", "node.hostname==n2"];
        swarm.create_whoami("web", &[&here[..], &PUBLISHED].concat())?;
        let (n1, client) = (lab.node("n1"), Asker::Host(lab.client()));
        for to in [n1.address().into(), of_ipv6(n1)?] {
            step(&format!("datagrams to {to} of which n1's stack sees nothing"));
            eventually(A_ROUND, "a call in the driver's hands", || {
                let echo = (lab.client(), n1.address());
                let ask = || client.sees(to, &["-U -p 8001"], &[to]);
                let seen = frames_with_port((n1, "eth0"), "8001", echo, ask)?;
                ensure!(seen == 0, "{seen} frames");
                Ok(())
            })?;
            step("and every other way");
            client.sees(to, &OF_NODES, &[to])?;
            Asker::Host(lab.outside()).sees(to, &OF_NODES[..5], &[router_of_outside(to).parse()?, to])?;
        }
        Ok(())
    });
}

const ROUTER: &str = "192.168.77.1";
const OUTSIDE: &str = "203.0.113.10";
const OUTSIDE_ROUTER: &str = "203.0.113.1";
/// The same of the second family, which a lab's hosts are given here.
const ROUTER6: &str = "fd77::1";
const OUTSIDE6: &str = "fd03::10";
const OUTSIDE_ROUTER6: &str = "fd03::1";

fn router_of_outside(to: IpAddr) -> &'static str {
    if to.is_ipv4() { OUTSIDE_ROUTER } else { OUTSIDE_ROUTER6 }
}

/// A host's address of IPv6 ends as that of IPv4 does.
fn of_ipv6(host: &Host) -> Result<IpAddr> {
    let [.., last] = host.address().octets();
    Ok(format!("fd77::{last}").parse()?)
}

/// A cluster whose hosts have both families, and a network of both; None where there is no traceroute.
fn prepared(lab: &Lab) -> Result<Option<Swarm<'_>>> {
    if !lab.client().run(["sh", "-c", "command -v traceroute"])?.success() {
        skip("traceroute", "there is no such program");
        return Ok(None);
    }
    lab.switch().set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    // A router of Linux tells one asker of six probes, then of one a second (icmp(7)); this one of each.
    lab.switch().set_sysctl("net.ipv4.icmp_ratelimit", "0")?;
    lab.switch().set_sysctl("net.ipv6.icmp.ratelimit", "0")?;
    lab.switch().ip(&format!(
        "address add {ROUTER6}/64 dev br0 nodad
         address add {OUTSIDE_ROUTER6}/64 dev outside nodad"
    ))?;
    lab.outside().namespace().ip(&format!(
        "address add {OUTSIDE6}/64 dev eth0 nodad
         route add fd77::/64 via {OUTSIDE_ROUTER6}"
    ))?;
    for host in lab.hosts().into_iter().filter(|host| host.name() != "outside") {
        host.namespace().ip(&format!(
            "address add {}/64 dev eth0 nodad
             route add ::/0 via {ROUTER6}",
            of_ipv6(host)?
        ))?;
    }
    let swarm = Swarm::form(lab)?;
    swarm.mesh(["network", "create", "--ipv6", "demo"])?;
    Ok(Some(swarm))
}

/// The routers that a task's default routes name, of each family.
fn gateways(inside: &Inside) -> Result<Vec<IpAddr>> {
    let of = |family: &str| -> Result<IpAddr> {
        let shown = inside.run(&["ip", family, "route", "show", "default"])?;
        let via = shown.split_whitespace().skip_while(|word| *word != "via").nth(1);
        Ok(via.with_context(|| format!("no default route: {shown}"))?.parse()?)
    };
    Ok(vec![of("-4")?, of("-6")?])
}

/// n1 sends past mesh0, once a round has told it next hops; n3 never does.
fn each_by_its_way(swarm: &Swarm, lab: &Lab, one: &Inside, three: &Inside) -> Result<()> {
    step("n1 sends past mesh0, n3 through it");
    let vip = swarm.vip("public")?;
    for to in [one.names("public")?, one.names("tasks.public")?].concat() {
        let by_mesh0 = |node: &str, inside: &Inside| {
            let (node, ask) = (lab.node(node), || Asker::Task(*inside).sees(to, &["-U -p 8000"], &[to]));
            frames_with_port((node, "mesh0"), "8000", (node, vip), ask)
        };
        eventually(A_ROUND, "a call that n1's mesh0 does not send", || {
            let seen = by_mesh0("n1", one)?;
            ensure!(seen == 0, "{seen} frames");
            Ok(())
        })?;
        ensure!(by_mesh0("n3", three)? > 0, "n3's mesh0 sent nothing");
    }
    Ok(())
}

/// What is told to somebody who sends datagrams that are too large, last before one is answered; a line a hop.
fn sizes_told(asker: &Host, to: IpAddr) -> Result<Vec<String>> {
    let to = to.to_string();
    let printed =
        asker.run(["traceroute", "--mtu", "-n", "-q", "3", "-w", "2", "-m", "2", "-U", "-p", "8001", &to])?.ok()?;
    ensure!(printed.lines().count() == 2 && printed.contains(" ms"), "{printed}");
    let words = printed.split_whitespace();
    Ok(words.filter_map(|word| word.strip_prefix("F=")).map(str::to_owned).collect())
}

/// Frames from or to this port that a device's packet sockets see while somebody asks. Frames come in order: an echo behind the rest says that all were
/// seen.
fn frames_with_port(
    (node, device): (&Node, &str),
    port: &str,
    (echoes, to): (&Host, Ipv4Addr),
    ask: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    let capture = node.capture(device)?;
    ask()?;
    ensure!(echoes.ping(to, 1)?.all_answered(), "no echo of {to}");
    let layers = |bytes: &[u8]| mesh_packet::decode(&bytes[..bytes.len().min(200)]);
    eventually(SOON, "the echo in the capture", || {
        let frames = capture.frames();
        ensure!(frames.iter().any(|frame| layers(&frame.bytes).iter().any(|layer| layer.name.starts_with("icmp"))));
        Ok(())
    })?;
    let is_of_port = |bytes: &[u8]| {
        let layers = layers(bytes);
        let mut fields = layers.iter().flat_map(|layer| &layer.fields);
        fields.any(|(name, value)| name.ends_with(" port") && value == port)
    };
    Ok(capture.frames().iter().filter(|frame| is_of_port(&frame.bytes)).count())
}
