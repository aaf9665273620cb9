//! The lab judged by itself, with no mesh at all: cables, servers, captures, faults, and nothing left behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{
    Builder, Capture, Connection, Footprint, Lab, Offloads, Shape, eventually, scenario, skip, step, wiring,
};

fn lab() -> Builder {
    Lab::builder().nodes(["n1", "n2"])
}

#[test]
fn hosts_reach_each_other_and_the_outside() {
    scenario("hosts reach each other and the outside", lab(), |lab| {
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        step("n1 pings n2, the client and the host outside");
        for target in [n2.address(), lab.client().address(), lab.outside().address()] {
            let echoes = n1.ping(target, 2)?;
            ensure!(echoes.all_answered(), "{target}: {echoes:?}");
        }
        step("nodes don't forward");
        ensure!(n1.sysctl("net.ipv4.ip_forward")? == "0");

        step("the client asks a server on n2, over TCP and UDP, and is seen as itself");
        lab.serve(n2, 8000)?;
        let (told, answer) = lab.client().ask(n2.address(), 8000)?;
        ensure!(told.caller == answer.local, "{told:?} {answer:?}");
        let (told, local) = lab.client().udp_ask(n2.address(), 8000)?;
        ensure!(told.caller == local && told.caller.ip() == wiring::CLIENT, "{told:?} {local}");
        ensure!(n2.ask("localhost", 8000)?.0.caller.ip().is_loopback());
        lab.client().upload(n2.address(), 8000, 3_000_000)?;
        lab.client().download(n2.address(), 8000, 3_000_000)?;
        let mut session = lab.client().http_session(n2.address(), 8000)?;
        ensure!(session.get("/")?.whoami()?.caller == session.get("/")?.whoami()?.caller);

        step("a port without a server refuses");
        ensure!(lab.client().tcp_connect(n2.address(), 8001)?.is_refused());

        step("programs run inside");
        let output = n1.run(["ip", "-o", "-4", "address", "show", "dev", "eth0"])?.ok()?;
        ensure!(output.contains("192.168.77.11/24"), "{output}");
        Ok(())
    });
}

#[test]
fn a_wire_carries_whole_frames() {
    scenario("a wire carries whole frames", lab().shape(Shape::Wire), |lab| {
        let n2 = lab.node("n2");
        lab.serve(n2, 8000)?;
        let file = lab.dir().join("switch.pcap");
        for port in ["client", "n2"] {
            let capture = lab.switch().run(|| Capture::start(port, &file))??;
            lab.client().upload(n2.address(), 8000, 3_000_000)?;
            lab.client().download(n2.address(), 8000, 3_000_000)?;
            lab.client().udp_ask(n2.address(), 8000)?;
            // They are read behind the traffic's back, and later on a busy machine.
            let frames = eventually(Duration::from_secs(10), "the frames to be read", || {
                let frames = capture.frames();
                ensure!(frames.len() > 3_000_000 / 1500, "{} frames at the port of {port}", frames.len());
                Ok(frames)
            })?;
            let longest = frames.iter().map(|frame| frame.bytes.len()).max();
            ensure!(longest <= Some(1514), "{longest:?} bytes at the port of {port}");
            let unfinished = frames.iter().filter(|frame| !frame.checksum_complete).count();
            ensure!(unfinished == 0, "{unfinished} unfinished checksums at the port of {port}");
        }
        step("nodes' cables have room for a tunnel's headers, and the outside is there");
        ensure!(n2.run(["ip", "link", "show", "eth0"])?.ok()?.contains("mtu 1550"));
        ensure!(n2.ping(lab.outside().address(), 2)?.all_answered());
        Ok(())
    });
}

#[test]
fn a_cut_cable_cuts_and_a_mended_one_heals() {
    scenario("a cut cable cuts and a mended one heals", lab(), |lab| {
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        lab.serve(n2, 8000)?;
        let probe = lab.client().probe(n2.address(), 8000, Duration::from_millis(20))?;
        step("cut");
        n2.cut()?;
        let cut = std::time::Instant::now();
        ensure!(n1.ping(n2.address(), 1)?.none_answered());
        let attempt = lab.client().tcp_connect(n2.address(), 8000)?;
        ensure!(matches!(attempt, Connection::TimedOut { .. } | Connection::Unreachable { .. }), "{attempt:?}");
        step("mend");
        n2.mend()?;
        eventually(Duration::from_secs(5), "n2 to answer again", || lab.client().ask(n2.address(), 8000).map(drop))?;
        let timeline = probe.stop();
        ensure!(timeline.last_failure_after(cut).is_some() && timeline.answered() > 0, "{}", timeline.describe());

        step("a switch that swallows");
        n2.swallow()?;
        ensure!(n1.ping(n2.address(), 1)?.none_answered());
        let link = n2.run(["ip", "link", "show", "dev", "eth0"])?.ok()?;
        ensure!(link.contains("LOWER_UP"), "the link should stay up: {link}");
        n2.mend()?;
        eventually(Duration::from_secs(5), "n2 to answer again", || lab.client().ask(n2.address(), 8000).map(drop))
    });
}

#[test]
fn a_capture_shows_frames_and_whether_their_checksum_was_ready() {
    scenario("a capture shows frames and whether their checksum was ready", lab(), |lab| {
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        lab.serve(n2, 8000)?;
        for (offloads, complete) in [(Offloads::On, false), (Offloads::TransmitOff, true), (Offloads::AllOff, true)] {
            step(&format!("{offloads:?}"));
            lab.client().set_offloads(offloads)?;
            let capture = n2.capture("eth0")?;
            lab.client().ask(n2.address(), 8000)?;
            eventually(Duration::from_secs(3), "the client's SYN at n2", || {
                let frames = capture.frames();
                // IPv4, TCP, only the SYN flag.
                let syn = frames.iter().find(|f| !f.outgoing && f.bytes[12..14] == [8, 0] && f.bytes[47] == 2);
                let syn = syn.with_context(|| format!("{} frames, but no SYN", frames.len()))?;
                ensure!(syn.bytes[..6] == wiring::mac_of(n2.address()), "{syn:?}");
                ensure!(syn.checksum_complete == complete, "checksum complete: {}", syn.checksum_complete);
                Ok(())
            })?;
        }
        n1.set_port_offloads(Offloads::TransmitOff)
    });
}

#[test]
fn a_footprint_names_what_was_left() {
    scenario("a footprint names what was left", lab(), |lab| {
        let n1 = lab.node("n1");
        let before = Footprint::settled(n1)?;
        n1.namespace().ip("link add mesh0 type veth peer name other")?;
        n1.set_sysctl("net.ipv4.ip_forward", "1")?;
        let left = Footprint::of(n1)?.since(&before).to_string();
        for wanted in [
            "+ link",
            "mesh0",
            "+ sysctl /proc/sys/net/ipv4/ip_forward = 1",
            "- sysctl /proc/sys/net/ipv4/ip_forward = 0",
        ] {
            ensure!(left.contains(wanted), "{wanted} is not in:\n{left}");
        }
        n1.namespace().ip("link delete mesh0")?;
        n1.set_sysctl("net.ipv4.ip_forward", "0")?;
        let left = Footprint::of(n1)?.since(&before);
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}

#[test]
fn the_machines_resolver_is_played_by_the_outside() {
    scenario("the machine's resolver is played by the outside", lab(), |lab| {
        if let Err(reason) = lab.serve_name("outside.test", lab.outside().address()) {
            skip("the machine's resolver is played by the outside", &format!("{reason:#}"));
            return Ok(());
        }
        let n1 = lab.node("n1");
        lab.serve(lab.outside(), 80)?;
        step("a program on n1 asks as it always does");
        let ask = std::path::Path::new(env!("CARGO_BIN_EXE_ask")).display().to_string();
        let found = n1.run([ask.as_str(), "names", "outside.test"])?.ok()?;
        ensure!(found == format!("{}\n", lab.outside().address()), "{found}");
        let seen = n1.run([ask.as_str(), "get", "outside.test", "80", "2"])?.ok()?;
        ensure!(seen.lines().count() == 2 && seen.contains(&n1.address().to_string()), "{seen}");
        n1.run([ask.as_str(), "names", "nobody.test"])?.complaint()?;
        Ok(())
    });
}

#[test]
fn a_forward_drop_stops_a_router() {
    scenario("a forward drop stops a router", lab(), |lab| {
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        step("n2 routes for n1");
        n2.set_sysctl("net.ipv4.ip_forward", "1")?;
        n1.namespace().ip(&format!("route add 203.0.113.0/24 via {}", n2.address()))?;
        ensure!(n1.ping(lab.outside().address(), 1)?.all_answered());
        step("until a firewall forbids it");
        n2.drop_forwarded()?;
        ensure!(n1.ping(lab.outside().address(), 1)?.none_answered());
        ensure!(n1.ping(n2.address(), 1)?.all_answered());
        Ok(())
    });
}

#[test]
fn a_lab_that_ends_leaves_nothing_and_a_failed_one_leaves_a_folder() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return skip("a lab that ends leaves nothing", reason);
    }
    let built = || -> Result<Lab> {
        let lab = lab().up()?;
        lab.serve(lab.node("n1"), 8000)?;
        Ok(lab)
    };
    let lab = built().unwrap();
    let (id, dir) = (lab.id().to_owned(), lab.dir().to_owned());
    let folder = lab.save_failure("only a test").unwrap();
    let saved = std::fs::read_to_string(folder.join("README.txt")).unwrap();
    assert!(saved.contains("nsenter --net=/run/netns/mesh-lab-"), "{saved}");
    assert!(std::fs::read_to_string(folder.join("n1-network.txt")).unwrap().contains("192.168.77.11"));
    std::fs::remove_dir_all(&folder).unwrap();
    drop(lab);
    assert!(!dir.exists());
    let names =
        std::fs::read_dir("/run/netns").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains(&format!("-{id}-"))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_kept_lab_is_found_by_its_name() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return skip("a kept lab is found by its name", reason);
    }
    let name = format!("kept{}", std::process::id());
    lab().name(&name).up().unwrap().keep().unwrap();
    assert!(lab().name(&name).up().is_err(), "the name is taken");
    let lab = Lab::attach(&name).unwrap();
    assert!(lab.node("n1").ping(lab.node("n2").address(), 1).unwrap().all_answered());
    lab.down().unwrap();
    assert!(Lab::attach(&name).is_err());
}

#[test]
fn an_agent_that_ends_at_once_is_told_with_its_log() {
    let builder = lab().mesh_binary("/bin/false");
    scenario("an agent that ends at once is told with its log", builder, |lab| {
        let error = lab.node("n1").start().err().context("/bin/false is no agent")?.to_string();
        ensure!(error.contains("the agent of n1 ended at once"), "{error}");
        Ok(())
    });
}
