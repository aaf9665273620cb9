//! The checksum table (decision 2) on real devices: offloads on, off on the underlay, off everywhere × TCP, UDP, 64 KB segments × every
//! hook that rewrites. Throughput proves nothing here: a receiver on the same machine never looks at an unfinished checksum.
//!
//! Judged by packet sockets on every device that frames arrive at: a frame whose checksum is finished must have the right one, one whose
//! checksum is not must hold the bare sum of its pseudo header, ready for a device to finish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Capture, Frame, Lab, Offloads, Swarm, eventually, scenario, set_offloads, step};
use mesh_packet::checksum;

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8000;
/// Bytes of a tunnel packet's outer headers over IPv4.
const OUTER: usize = 50;
/// Bytes of a transfer: many segments of 64 KB, yet little to judge.
const MANY: u64 = 600_000;

#[test]
fn checksums_are_right_or_rightly_unfinished_everywhere() {
    scenario("checksums are right, or rightly unfinished, everywhere", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let swarm = Swarm::form(lab)?;
        lab.serve(lab.outside(), PORT)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let published = ["-p", "8000:8000", "-p", "8000:8000/udp"];
        swarm.create_whoami("whoami", &[&["--network", "demo", "--replicas", "2"], &published[..]].concat())?;
        swarm.wait_running("whoami", 2, SOON)?;
        let tasks: Vec<String> = ["client.1", "whoami.1", "whoami.2"].map(str::to_owned).into();
        for offloads in [Offloads::On, Offloads::TransmitOff, Offloads::AllOff] {
            step(&format!("offloads {offloads:?}"));
            for host in lab.hosts() {
                host.set_offloads(offloads)?;
            }
            for task in &tasks {
                let of_task = if offloads == Offloads::AllOff { offloads } else { Offloads::On };
                swarm.inside(task).enter(|| set_offloads("eth0", of_task))??;
            }
            judge(lab, &swarm, &tasks, offloads)?;
        }
        Ok(())
    });
}

fn judge(lab: &Lab, swarm: &Swarm, tasks: &[String], offloads: Offloads) -> Result<()> {
    let mut captures: Vec<(String, Capture)> = Vec::new();
    for host in lab.hosts() {
        captures.push((host.name().to_owned(), host.capture("eth0")?));
    }
    for task in tasks {
        let file = lab.dir().join(format!("{task}-{offloads:?}.pcap"));
        captures.push((task.clone(), swarm.inside(task).enter(|| Capture::start("eth0", &file))??));
    }
    play(lab, swarm)?;
    let mut seen = Seen::default();
    for (place, capture) in &captures {
        for frame in eventually(SOON, "frames", || {
            let frames = capture.frames();
            ensure!(!frames.is_empty(), "{place} saw nothing");
            Ok(frames)
        })? {
            seen.judge(&frame).with_context(|| format!("{place}, offloads {offloads:?}"))?;
        }
    }
    step(&format!("{seen:?}"));
    ensure!(seen.finished > 20, "too little was seen: {seen:?}");
    ensure!(offloads == Offloads::AllOff || seen.unfinished > 100, "nothing was unfinished: {seen:?}");
    ensure!(offloads != Offloads::On || seen.large > 10, "no large segments: {seen:?}");
    Ok(())
}

/// Every walk that rewrites: from outside, from a node, from a task to a VIP and to a node, and out of the cluster.
fn play(lab: &Lab, swarm: &Swarm) -> Result<()> {
    let inside = swarm.inside("client.1");
    let vip = swarm.vip("whoami")?;
    for node in lab.nodes() {
        for _ in 0..4 {
            lab.client().ask(node.address(), PORT)?;
            lab.client().udp_ask(node.address(), PORT)?;
            node.ask("127.0.0.1", PORT)?;
            node.ask(vip, PORT)?;
            node.udp_ask(vip, PORT)?;
        }
        lab.client().upload(node.address(), PORT, MANY)?;
        lab.client().download(node.address(), PORT, MANY)?;
        inside.get(node.address(), PORT, 4)?;
        inside.udp(node.address(), PORT, 4)?;
    }
    inside.get(vip, PORT, 4)?;
    inside.udp(vip, PORT, 4)?;
    for _ in 0..2 {
        inside.upload(vip, PORT, MANY)?;
        inside.download(vip, PORT, MANY)?;
    }
    let outside = lab.outside().address();
    inside.get(outside, PORT, 2)?;
    inside.udp(outside, PORT, 2)?;
    inside.upload(outside, PORT, MANY)?;
    inside.download(outside, PORT, MANY)
}

/// What was judged.
#[derive(Debug, Default)]
struct Seen {
    finished: usize,
    unfinished: usize,
    /// Of more than an MTU.
    large: usize,
}

impl Seen {
    fn judge(&mut self, frame: &Frame) -> Result<()> {
        let layers = mesh_packet::decode(&frame.bytes);
        let states: Vec<(&str, &str)> = layers
            .iter()
            .filter(|layer| ["tcp", "udp", "icmp"].contains(&layer.name))
            .flat_map(|layer| layer.fields.iter().map(|(name, value)| (layer.name, *name, value.as_str())))
            .filter(|(_, name, _)| *name == "checksum")
            .map(|(layer, _, value)| (layer, value))
            .collect();
        let is_wrong = states.iter().any(|(_, state)| *state == "wrong");
        let is_unfinished = states.iter().any(|(_, state)| *state == "unfinished");
        ensure!(!is_wrong, "a wrong checksum: {states:?}\n{layers:#?}");
        // Of what is not ready the field may be right by chance; ready and yet unfinished is a loss. Other frames stand behind outer headers.
        let is_as_told = match frame.checksum_complete {
            true => !is_unfinished,
            false => [0, OUTER].iter().any(|at| frame.bytes.get(*at..).is_some_and(checksum::may_be_unfinished)),
        };
        ensure!(is_as_told || states.is_empty(), "complete: {}, but {states:?}\n{layers:#?}", frame.checksum_complete);
        if frame.checksum_complete {
            self.finished += 1
        } else {
            self.unfinished += 1
        }
        self.large += usize::from(frame.bytes.len() > 3_000);
        Ok(())
    }
}
