//! `mesh doctor`: a healthy node has nothing to complain of; each fault made on purpose is named, with its remedy.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Stranger, Swarm, eventually, run_command, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// A check-up follows a change of the cluster within 25 s, and repeats each half minute while something is wrong.
const CHECKED: Duration = Duration::from_secs(60);

#[test]
fn the_doctor_names_what_is_wrong_with_its_remedy() {
    scenario("the doctor names what is wrong with its remedy", Lab::builder(), |lab| {
        a_machine_without_an_agent(lab)?;
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "-d", "overlay", "demo"])?;
        let here = ["--network", "demo", "--constraint", "node.hostname==n1"];
        swarm.create_client("client", &here)?;
        a_healthy_node(lab)?;
        a_route_into_the_pool(lab)?;
        a_program_on_our_hook(lab)?;
        a_narrow_path(lab)?;
        a_silent_name_server(lab)?;
        the_status_tells_until_it_is_mended(lab)
    });
}

fn a_machine_without_an_agent(lab: &Lab) -> Result<()> {
    let n1 = lab.node("n1");
    step("mesh doctor on a bare machine: nothing failed");
    let flags = machine_flags(n1);
    let rows = doctor(n1, &flags, 0)?;
    for check in ["rights", "kernel", "programs", "bpffs", "cgroup2", "engine", "state", "ports", "routes", "hooks"] {
        ensure!(row(&rows, check)?["State"] == "ok", "{check}: {rows:#?}");
    }
    ensure!(!n1.state_dir().exists(), "the doctor made the state directory");

    for (port, name) in [(2377, "2377/tcp"), (7946, "7946/tcp")] {
        step(&format!("somebody has {name}"));
        let taken = n1.run_inside(|| TcpListener::bind(("0.0.0.0", port)))??;
        let found = failed(&doctor(n1, &flags, 1)?, "ports")?;
        let me = format!("(pid {})", std::process::id());
        ensure!(found.contains(name) && found.contains(&me), "{found}");
        drop(taken);
    }
    step("somebody has 4789/udp");
    let taken = n1.run_inside(|| UdpSocket::bind(("0.0.0.0", 4789)))??;
    let found = failed(&doctor(n1, &flags, 1)?, "ports")?;
    ensure!(found.contains("4789/udp") && found.contains("--data-path-port"), "{found}");
    drop(taken);

    step("a state directory that can't be one");
    let file = n1.dir().join("file");
    std::fs::write(&file, "")?;
    let mut wrong = flags.clone();
    wrong[1] = format!("--state-dir={}", file.display());
    let found = failed(&doctor(n1, &wrong, 1)?, "state")?;
    ensure!(found.contains("not a directory") && found.contains("--state-dir"), "{found}");

    step("a bpf directory that is on no bpffs");
    let mut wrong = flags.clone();
    wrong[2] = format!("--bpf-dir={}", n1.dir().display());
    let found = failed(&doctor(n1, &wrong, 1)?, "bpffs")?;
    ensure!(found.contains("mount -t bpf"), "{found}");
    doctor(n1, &flags, 0).map(drop)
}

fn a_healthy_node(lab: &Lab) -> Result<()> {
    step("mesh doctor on a member: all is well, the other nodes included");
    let n1 = lab.node("n1");
    let rows = eventually(SOON, "a healthy node", || {
        let rows = doctor(n1, &[], 0)?;
        let bad: Vec<&Value> = rows.iter().filter(|row| row["State"] != "ok").collect();
        ensure!(bad.is_empty(), "{bad:#?}");
        Ok(rows)
    })?;
    for (check, words) in [
        ("ports", &["2377/tcp, 7946/tcp, 7946/udp, 4789/udp held by this agent"][..]),
        ("peers", &["n2, n3"]),
        ("mtu", &["to n2", "1450", "1500"]),
        ("clock", &["ms"]),
        ("names", &["client.1"]),
        ("forward", &["FORWARD"]),
    ] {
        let found = text(row(&rows, check)?, "Found");
        ensure!(words.iter().all(|word| found.contains(word)), "{check}: {found}");
    }
    let paths = rows.iter().filter(|row| row["Check"] == "mtu").count();
    ensure!(paths == 2, "a line for each peer's path: {rows:#?}");
    let table = n1.mesh(["doctor"])?.ok()?;
    ensure!(table.starts_with("CHECK ") && !table.contains('→'), "{table}");
    Ok(())
}

fn a_route_into_the_pool(lab: &Lab) -> Result<()> {
    step("a route 10.0.0.0/9 that covers the cluster's networks");
    let n1 = lab.node("n1");
    n1.namespace().ip("route add 10.0.0.0/9 dev eth0")?;
    let found = failed(&doctor(n1, &[], 1)?, "routes")?;
    ensure!(found.contains("10.0.0.0/9") && found.contains("eth0") && found.contains("ip route del"), "{found}");
    let table = n1.mesh(["doctor"])?;
    ensure!(table.status == 1 && table.stdout.contains("    → "), "{}", table.describe());
    n1.namespace().ip("route del 10.0.0.0/9 dev eth0")?;

    step("a route elsewhere in the pool, since after the join: a warning");
    n1.namespace().ip("route add 10.200.0.0/16 dev eth0")?;
    let found = warned(&doctor(n1, &[], 0)?, "routes")?;
    ensure!(found.contains("10.200.0.0/16") && found.contains("--subnet"), "{found}");
    n1.namespace().ip("route del 10.200.0.0/16 dev eth0")?;
    doctor(n1, &[], 0).map(drop)
}

/// Whoever else works with packets: monitoring tools, other networks, firewalls in eBPF.
fn a_program_on_our_hook(lab: &Lab) -> Result<()> {
    let n1 = lab.node("n1");
    let ifindex = || nix::net::if_::if_nametoindex("eth0").context("eth0");
    step("a stranger's program at eth0's ingress: by TCX, by XDP, as a filter");
    for (place, attach) in [
        ("eth0 ingress (TCX)", Stranger::at_tcx as fn(&str, u32) -> Result<Stranger>),
        ("eth0 (XDP)", Stranger::at_xdp),
    ] {
        let stranger = n1.run_inside(|| attach("other_program", ifindex()?))??;
        let found = warned(&doctor(n1, &[], 0)?, "hooks")?;
        ensure!(found.contains("other_program") && found.contains(place) && found.contains("bpftool"), "{found}");
        drop(stranger);
    }
    n1.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])?.ok()?;
    // One instruction of classic BPF, "return 0": no match, on to the next.
    n1.run(["tc", "filter", "add", "dev", "eth0", "ingress", "bpf", "bytecode", "1,6 0 0 0,"])?.ok()?;
    let found = warned(&doctor(n1, &[], 0)?, "hooks")?;
    ensure!(found.contains("eth0 ingress (TC filter)"), "{found}");
    n1.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"])?.ok()?;
    let rows = doctor(n1, &[], 0)?;

    step("and at connect(2) of a cgroup");
    let root = text(row(&rows, "cgroup2")?, "Found");
    let cgroup = Path::new(root.split(',').next().unwrap_or_default()).join(format!("{}-doctor", lab.id()));
    std::fs::create_dir(&cgroup)?;
    let said = in_a_cgroup(n1, &cgroup);
    std::fs::remove_dir(&cgroup)?;
    let found = said?;
    ensure!(found.contains("other_program") && found.contains("(connect4)"), "{found}");
    Ok(())
}

/// Asked of no agent: the agents of the lab have the machine's own cgroup, which is nobody's to play with.
fn in_a_cgroup(node: &Node, cgroup: &Path) -> Result<String> {
    let _stranger = Stranger::at_connect("other_program", cgroup)?;
    let flags = ["--socket=/nonexistent/mesh.sock".to_owned(), format!("--cgroup={}", cgroup.display())];
    let words = ["doctor", "--format", "json"].map(str::to_owned);
    // Where the agent has its ports they are in use, for somebody who is not that agent.
    let output = node.mesh(words.iter().chain(&flags).chain(&machine_flags(node)))?;
    let rows: Vec<Value> = serde_json::from_str(&output.stdout).with_context(|| output.describe())?;
    warned(&rows, "hooks")
}

fn a_narrow_path(lab: &Lab) -> Result<()> {
    step("the switch's cable to n2 takes 1400 bytes, and nobody tells");
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    let heard: Vec<usize> = [n1, n2].map(silences).to_vec();
    lab.switch().ip("link set n2 mtu 1400")?;
    let found = failed(&doctor(n1, &[], 1)?, "mtu")?;
    ensure!(found.contains("to n2 packets of 1500 bytes are lost") && !found.contains("n3"), "{found}");
    let largest: u32 = found
        .split("the largest that pass have ")
        .nth(1)
        .and_then(|rest| rest.split(':').next()?.parse().ok())
        .with_context(|| found.clone())?;
    ensure!((1392..=1408).contains(&largest), "{found}");
    let found = failed(&doctor(n2, &[], 1)?, "mtu")?;
    ensure!(found.contains("to n1") && found.contains("to n3"), "{found}");
    // Ten more searches: each has its chance to be mistaken for silence.
    for _ in 0..10 {
        doctor(n1, &[], 1)?;
    }
    let heard_now: Vec<usize> = [n1, n2].map(silences).to_vec();
    ensure!(heard == heard_now, "the search itself made a peer unreachable:\n{}", n1.log());
    lab.switch().ip("link set n2 mtu 1500")?;
    doctor(n1, &[], 0).map(drop)?;
    doctor(n2, &[], 0).map(drop)
}

/// How often the agent said that the set of peers that don't answer has changed.
fn silences(node: &Node) -> usize {
    node.log().matches("nodes that do not answer on the data path").count()
}

/// As behind a firewall whose INPUT chain drops: shown by what stays silent, for its rules are not read.
fn a_silent_name_server(lab: &Lab) -> Result<()> {
    let n1 = lab.node("n1");
    step("n1's name server is silent");
    let resolver = n1.processes().into_iter().find(|(_, command)| command.contains(" resolver "));
    let (pid, _) = resolver.context("no resolver runs")?;
    signal(pid, "STOP")?;
    let said = doctor(n1, &[], 1);
    signal(pid, "CONT")?;
    let found = failed(&said?, "names")?;
    ensure!(found.contains("client.1") && found.contains("53/udp"), "{found}");
    eventually(SOON, "names again", || doctor(n1, &[], 0).map(drop))
}

fn the_status_tells_until_it_is_mended(lab: &Lab) -> Result<()> {
    step("what is wrong stands in `mesh status` of every node, until it is mended");
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    n2.namespace().ip("route add 10.0.0.0/9 dev eth0")?;
    doctor(n2, &[], 1)?;
    let tells = |node: &Node, words: &str| -> Result<()> {
        let status = node.mesh(["status"])?.ok()?;
        ensure!(status.contains(words), "{status}");
        Ok(())
    };
    tells(n2, "routes: this host reaches 10.0.0.0/9")?;
    eventually(SOON, "the warning at n1", || tells(n1, "n2: routes: this host reaches 10.0.0.0/9"))?;
    n2.namespace().ip("route del 10.0.0.0/9 dev eth0")?;
    eventually(CHECKED, "no warning once it is mended", || {
        for node in [n1, n2] {
            let status = node.mesh(["status"])?.ok()?;
            ensure!(!status.contains("10.0.0.0/9"), "{status}");
        }
        Ok(())
    })
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let mut command = Command::new("kill");
    command.args([format!("-{name}"), pid.to_string()]);
    run_command(command, "", SOON)?.ok().map(drop)
}

/// How the agent of this node would be started.
fn machine_flags(node: &Node) -> Vec<String> {
    node.agent_command().into_iter().skip(3).take(3).collect()
}

/// The rows, after the exit code was checked.
fn doctor(node: &Node, flags: &[String], code: i32) -> Result<Vec<Value>> {
    let words = ["doctor", "--format", "json"].map(str::to_owned);
    let output = node.mesh(words.iter().chain(flags))?;
    ensure!(output.status == code, "{}", output.describe());
    serde_json::from_str(&output.stdout).with_context(|| output.describe())
}

fn row<'a>(rows: &'a [Value], check: &str) -> Result<&'a Value> {
    rows.iter().find(|row| row["Check"] == check).with_context(|| format!("no row {check}: {rows:#?}"))
}

fn failed(rows: &[Value], check: &str) -> Result<String> {
    of_state(rows, check, "failed")
}

fn warned(rows: &[Value], check: &str) -> Result<String> {
    of_state(rows, check, "warning")
}

/// What all rows of this check and state say, remedies included; no other check may be in that state.
fn of_state(rows: &[Value], check: &str, state: &str) -> Result<String> {
    let bad: Vec<&Value> = rows.iter().filter(|row| row["State"] == state).collect();
    ensure!(!bad.is_empty() && bad.iter().all(|row| text(row, "Check") == check || state == "warning"), "{rows:#?}");
    let of_check: Vec<&&Value> = bad.iter().filter(|row| text(row, "Check") == check).collect();
    ensure!(!of_check.is_empty() && of_check.iter().all(|row| !text(row, "Remedy").is_empty()), "{rows:#?}");
    Ok(of_check.iter().map(|row| format!("{}\n{}\n", text(row, "Found"), text(row, "Remedy"))).collect())
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}
