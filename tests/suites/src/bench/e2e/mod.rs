//! End to end: what a user's programs get through us, and through others on the same machine in the same minutes.
//!
//! ```text
//! wanted    the rows: a way, what its client does, a number, another way beside it
//!   ├ ours    real nodes of the lab, services by the command line     rival/   direct, iptables, nftables, haproxy
//!   ├ caller  whose address the server of a published port sees
//!   ├ server  nginx and iperf3, the same for all                      tool     wrk and iperf3 and what they print
//!   ├ wire    our nodes on cables like wires: XDP and TC side by side
//!   └ turns   here: every way once a turn, forwards and backwards, so that pairs of a turn saw the same machine
//! ```
//! Invariant: a way differs from its neighbour in how packets go and in nothing else: servers, their number, client, its words.

mod caller;
mod interrupt;
mod ours;
mod rival;
mod server;
mod tool;
mod wanted;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, eventually};
use nix::sched::{CloneFlags, setns};

use super::{PAIRS, Row, Wish};
pub use interrupt::was_asked as is_interrupted;
use tool::{Call, Kind, Reading};
use wanted::{Wanted, Way};
use wire::Wire;

/// A tool's run.
const SECONDS: u32 = 1;
/// Until servers answer.
const READY: Duration = Duration::from_secs(20);

/// Our nodes: the first has the clients, and no task of a published port.
const NODES: [&str; 2] = ["n1", "n2"];
/// A cluster of its own whose agents don't take the fast way.
const SLOW_NODES: [&str; 2] = ["s1", "s2"];

/// Programs that must be there: what they are for stands with their packages in xtask.
const PROGRAMS: [&str; 6] = ["wrk", "iperf3", "nginx", "haproxy", "iptables-restore", "nft"];

type Readings = BTreeMap<(Kind, Way), Vec<Reading>>;

/// Measures every row that is wanted.
pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    let wanted: Vec<Wanted> = wanted::all().into_iter().filter(|wanted| wish.wants(&wanted.name)).collect();
    let callers = caller::ways().into_iter().filter(|way| wish.wants(&caller::name(*way))).collect::<Vec<_>>();
    if wanted.is_empty() && callers.is_empty() {
        return Ok(Vec::new());
    }
    ensure_installed()?;
    let _watch = interrupt::watch()?;
    // Our nodes, and the rivals' hosts on the same switch, where no agent is started.
    let nodes = NODES.into_iter().chain(SLOW_NODES).chain(rival::overlay::HOSTS);
    // A table as this machine would have it: every closed connection stays in it for a minute.
    let builder = Lab::builder().nodes(nodes).agent_args(["--flow-entries=1000000"]);
    let lab = SLOW_NODES.iter().fold(builder, |builder, name| builder.node_args(name, ["--fast-path=off"])).up()?;
    let folder = lab.dir().join("bench");
    let readings = prepare(&folder).and_then(|()| {
        let is_on_wire = wanted.iter().any(|one| one.way.is_on_wire());
        let wire = if is_on_wire { Some(Wire::up(&folder).context("building the wire shape")?) } else { None };
        let readings = measure(&lab, wire.as_ref(), &folder, &wanted, &callers, wish);
        let down = wire.map_or(Ok(()), Wire::down);
        readings.and_then(|readings| down.map(|()| readings))
    });
    // What a signal broke off is no failure to keep.
    let down = lab.down();
    let (readings, mut kept) = readings?;
    down?;
    let mut rows: Vec<Row> = wanted.iter().map(|wanted| row(wanted, &readings)).collect();
    rows.append(&mut kept);
    Ok(rows)
}

fn prepare(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    server::prepare(folder)
}

/// What the tools read, and whose address the servers saw.
fn measure(
    lab: &Lab,
    wire: Option<&Wire>,
    folder: &Path,
    wanted: &[Wanted],
    callers: &[Way],
    wish: &Wish,
) -> Result<(Readings, Vec<Row>)> {
    let runs: BTreeSet<(Kind, Way)> = wanted.iter().flat_map(runs_of).collect();
    let needed = runs.iter().map(|(_, way)| *way).chain(callers.iter().copied()).collect();
    let calls = ways(lab, wire, folder, &needed)?;
    let kept = callers.iter().map(|way| caller::row(*way, &calls[way])).collect::<Result<Vec<_>>>()?;
    let judged: BTreeSet<Kind> = wanted.iter().filter(|one| one.target.is_some()).map(|one| one.kind).collect();
    let mut readings = Readings::new();
    // Turn 0 warms caches and neighbours, and is thrown away; a quick look has no time for it.
    let (first, turns) = if wish.quick { (1, 1) } else { (0, PAIRS) };
    for turn in first..=turns {
        let mut order: Vec<(Kind, Way)> = runs.iter().copied().collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for run in order {
            // What nobody judges gets fewer turns.
            if turn > turns.min(5) && !judged.contains(&run.0) {
                continue;
            }
            interrupt::check()?;
            let reading = calls[&run.1].measure(run.0, SECONDS, folder);
            interrupt::check()?;
            let reading = reading.with_context(|| format!("{:?} by way of {:?}", run.0, run.1))?;
            if turn > 0 {
                readings.entry(run).or_default().push(reading);
            }
        }
        eprintln!("e2e: turn {turn} of {turns}");
    }
    Ok((readings, kept))
}

/// The runs that a row is made of.
fn runs_of(wanted: &Wanted) -> impl Iterator<Item = (Kind, Way)> {
    let kind = wanted.kind;
    std::iter::once(wanted.way).chain(wanted.beside).map(move |way| (kind, way))
}

fn row(wanted: &Wanted, readings: &Readings) -> Row {
    let numbers = |way: Way| -> Vec<f64> {
        readings[&(wanted.kind, way)].iter().map(|reading| wanted.number.of(reading)).collect()
    };
    let values = numbers(wanted.way);
    let beside = wanted.beside.map_or_else(|| values.clone(), numbers);
    wanted.row(&values.into_iter().zip(beside).collect::<Vec<_>>())
}

/// Builds the ways and waits until each answers.
fn ways(lab: &Lab, wire: Option<&Wire>, folder: &Path, wanted: &BTreeSet<Way>) -> Result<BTreeMap<Way, Call>> {
    let ground = rival::Ground { lab, folder };
    let mut calls = BTreeMap::new();
    let is_slow = |way: &&Way| **way == Way::OurVipMesh0;
    let form = |is_wanted: bool, nodes: &[&str]| is_wanted.then(|| ours::form(lab, nodes)).transpose();
    let swarm = form(wanted.iter().any(|way| way.is_ours() && !is_slow(&way)), &NODES)?;
    let slow_swarm = form(wanted.iter().any(|way| is_slow(&way)), &SLOW_NODES)?;
    for way in wanted {
        if let Some(node) = way.node_on_wire() {
            let wire = wire.context("the wire shape is up where it is wanted")?;
            calls.insert(*way, wire.call(node));
            continue;
        }
        let call = match (way, if is_slow(&way) { &slow_swarm } else { &swarm }) {
            (Way::Direct, _) => rival::routed::direct(ground),
            (Way::Iptables, _) => rival::iptables::build(ground),
            (Way::Nftables, _) => rival::nftables::build(ground),
            (Way::Haproxy, _) => rival::haproxy::build(ground),
            (Way::Vxlan, _) => rival::overlay::direct(ground),
            (Way::VxlanIptables, _) => rival::overlay::with_iptables(ground),
            (Way::DockerPort, _) => rival::ingress::build(ground),
            (Way::OurVip, Some(swarm)) => ours::vip(lab, swarm, folder, "near", "n1", "n1"),
            (Way::OurVips, Some(swarm)) => ours::vips(lab, swarm, folder, "each", "n1", "n1"),
            (Way::OurVipsAcross, Some(swarm)) => ours::vips(lab, swarm, folder, "each-across", "n1", "n2"),
            (Way::OurVipAcross, Some(swarm)) => ours::vip(lab, swarm, folder, "across", "n1", "n2"),
            (Way::OurVipMesh0, Some(swarm)) => ours::vip(lab, swarm, folder, "slow", "s1", "s2"),
            (Way::OurPort, Some(swarm)) => ours::published(lab, swarm, folder, "n1", "n2"),
            (
                Way::OurVip | Way::OurVips | Way::OurVipAcross | Way::OurVipsAcross | Way::OurVipMesh0 | Way::OurPort,
                None,
            ) => unreachable!("a cluster is formed for these above"),
            (Way::XdpPort | Way::TcPort | Way::XdpNode | Way::TcNode | Way::BareNode, _) => {
                unreachable!("these are on the wire")
            }
        };
        calls.insert(*way, call.with_context(|| format!("building {way:?}"))?);
    }
    for (way, call) in &calls {
        wait(call).with_context(|| format!("{way:?} does not answer"))?;
    }
    Ok(calls)
}

/// Until all servers of a way take connections from its client.
fn wait(call: &Call) -> Result<()> {
    // Connections to an address for two servers must find both of them.
    let servers = call.web.iter().chain(&call.web).chain([&call.stream]);
    for server in servers {
        let (server, path) = (*server, call.namespace.clone());
        eventually(READY, &format!("{server}"), || connect(&path, server.into()))?;
    }
    Ok(())
}

fn connect(namespace: &Path, server: std::net::SocketAddr) -> Result<()> {
    let file = std::fs::File::open(namespace).with_context(|| format!("opening {}", namespace.display()))?;
    let inside = std::thread::spawn(move || -> Result<()> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
        Ok(())
    });
    inside.join().map_err(|_| anyhow::anyhow!("the connecting thread panicked"))?
}

fn ensure_installed() -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into()]).collect();
    let missing: Vec<&str> =
        PROGRAMS.into_iter().filter(|name| !folders.iter().any(|folder| folder.join(name).is_file())).collect();
    ensure!(
        missing.is_empty(),
        "not installed: {}; `cargo xtask bench` installs them, or by hand: apt-get install --no-install-recommends \
         wrk iperf3 nginx haproxy iptables nftables",
        missing.join(", ")
    );
    Ok(())
}
