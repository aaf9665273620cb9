//! A published port under a flood of connections that nobody means: who is connected stays connected, who comes gets in, the table does not fill.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::schema::{Flow, FlowKey, LAYOUT_VERSION};
use mesh_lab::Session;
use mesh_lab::{Lab, Node, Swarm, eventually, scenario, step};

type Table = aya::maps::HashMap<aya::maps::MapData, FlowKey<[u8; 4]>, Flow<[u8; 4]>>;

const SOON: Duration = Duration::from_secs(10);
/// New flows a second and CPU, as the agents are told.
const THRESHOLD: usize = 1_000;
/// Twenty times that, ten seconds long at most.
const PER_SECOND: u32 = 20_000;
const MOST: u32 = 200_000;
const CONNECTED: usize = 1_000;
const WARNING: &str = "a flood of new flows";

#[test]
fn a_flood_breaks_no_connection_and_keeps_no_client_out() {
    let flags = [format!("--flood-threshold={THRESHOLD}")];
    let lab = Lab::builder().nodes(["n1", "n2"]).agent_args(flags);
    scenario("a flood breaks no connection and keeps no client out", lab, |lab| {
        let (n1, swarm) = (lab.node("n1"), Swarm::form(lab)?);
        swarm.mesh(["network", "create", "demo"])?;
        step("a task on each of two nodes, published on port 8000; every call enters at n1");
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--replicas", "2"])?;
        swarm.wait_running("whoami", 2, SOON)?;
        room_for_connections()?;
        let open = |_| lab.client().http_session(n1.address(), 8000);
        let mut sessions = (0..CONNECTED).map(open).collect::<Result<Vec<_>>>().context("before the flood")?;
        let before = all_answer(&mut sessions)?;
        ensure!(before.iter().collect::<BTreeSet<_>>().len() == 2, "both tasks have some");
        let (at_first, n2_at_first) = (kept(n1)?, kept(lab.node("n2"))?);

        let enough = AtomicBool::new(false);
        let (sent, new_clients) = thread::scope(|scope| {
            let flood = scope.spawn(|| lab.client().syn_flood(n1.address(), 8000, PER_SECOND, MOST, &enough));
            let during = during_the_flood(lab, &mut sessions, &before, || !flood.is_finished());
            enough.store(true, Ordering::Relaxed);
            let sent = flood.join().expect("the flood's thread")?;
            during.map(|new_clients| (sent, new_clients))
        })?;

        let grown = kept(n1)?.saturating_sub(at_first);
        let grown_there = kept(lab.node("n2"))?.saturating_sub(n2_at_first);
        step(&format!(
            "{sent} SYNs, {new_clients} new clients served; entries in FLOWS4: n1 {at_first} and {grown} more, n2 {n2_at_first} and \
             {grown_there} more"
        ));
        ensure!(sent > 40_000, "{sent} SYNs are no flood");
        // Two entries a flow: of the new clients, and of what came before the flood was known – a second's worth at its begin and, should the
        // machine have paused for a second in between, once more.
        let bound = 2 * (new_clients + 2 * THRESHOLD + THRESHOLD / 10);
        ensure!(grown <= bound && grown_there <= bound, "{grown} and {grown_there} entries more, {bound} allowed");

        step("the flood is over: status is calm, all is as it was");
        eventually(SOON, "a calm status", || {
            let status = swarm.mesh(["status"])?;
            ensure!(!status.contains(WARNING), "{status}");
            Ok(())
        })?;
        ensure!(all_answer(&mut sessions)? == before, "every connection is still with its task");
        lab.client().ask(n1.address(), 8000)?;
        Ok(())
    });
}

/// While the flood lasts: connections that were there go on at their tasks, and new clients are served. Returns how many of those were.
fn during_the_flood(lab: &Lab, sessions: &mut [Session], before: &[String], lasts: impl Fn() -> bool) -> Result<usize> {
    let n1 = lab.node("n1");
    step("the flood is told in mesh status");
    eventually(SOON, "the warning", || {
        let status = n1.mesh(["status"])?.ok()?;
        ensure!(status.contains(WARNING), "{status}");
        Ok(())
    })?;
    step("1,000 connections go on, new clients are served");
    let mut served = 0;
    let mut kept = Vec::new();
    while lasts() {
        for (session, task) in sessions.iter_mut().zip(before) {
            let answer = session.get("/").context("an established connection broke in the flood")?.whoami()?;
            ensure!(answer.task == *task, "{answer:?}, was with {task}");
            if served < 200 {
                let mut new = lab.client().http_session(n1.address(), 8000).context("a new client in the flood")?;
                let first = new.get("/").context("a new client in the flood")?.whoami()?;
                served += 1;
                kept.push((new, first.task));
            }
        }
        for (session, task) in &mut kept {
            let answer = session.get("/").context("who came in the flood stays")?.whoami()?;
            ensure!(answer.task == *task, "{answer:?}, was with {task}");
        }
    }
    ensure!(served >= 200, "only {served} new clients were served while it lasted");
    Ok(served)
}

/// Each connection's task.
fn all_answer(sessions: &mut [Session]) -> Result<Vec<String>> {
    sessions.iter_mut().map(|session| Ok(session.get("/")?.whoami()?.task)).collect()
}

/// Entries in a node's flow table.
fn kept(node: &Node) -> Result<usize> {
    let path = node.bpf_dir().join(format!("v{LAYOUT_VERSION}/maps/FLOWS4"));
    let map = aya::maps::MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    let table = Table::try_from(aya::maps::Map::HashMap(map))?;
    Ok(table.keys().filter(Result::is_ok).count())
}

/// Descriptors for all the connections of this process.
fn room_for_connections() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain calls with a struct of ours.
    let is_set = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max.min(8_192);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    ensure!(is_set && limit.rlim_cur >= 2_048, "this process may have {} open files only", limit.rlim_cur);
    Ok(())
}
