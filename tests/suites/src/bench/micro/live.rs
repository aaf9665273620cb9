//! The whole path of a forwarded packet, by live frames: from a driver's receive to the device behind which the task is.
//!
//! Frames are injected into the uplink of a rig in batches of 64, as a native driver's would (`BPF_F_TEST_XDP_LIVE_FRAMES`); they become
//! sk_buffs, go up the stack, and are counted and dropped where they would enter the task. The same frames dropped at the uplink's TC ingress
//! are the base, which is subtracted from every way. Invariant: in each reading as many packets reach the end as were sent, so a way that loses
//! some is no way.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};

use super::frames::{Bytes, Tuple};
use super::measure::Bench;
use super::programs::FLOWS;
use crate::bench::{Row, Target, Wish};
use crate::rig::index;
use crate::rig::kernel::{Place, attach, run_live};

/// Flows of these rows.
pub const LIVE_FLOWS: u32 = 1_000;
const OURS: &str = "live frames: from_uplink, published, task here";
const BARE: &str = "tc_dnat";
/// A bare program that ends where ours does: in the task's namespace.
const BARE_INTO: &str = "tc_dnat_peer";
const IPTABLES: &str = "iptables DNAT";
/// What `iptables` sends to, and the device before it.
const BEHIND: &str = "mv3";

/// The rows, as far as they are wanted.
pub fn rows(bench: &mut Bench, wish: &Wish) -> Result<Vec<Row>> {
    let name = |against: &str| format!("{OURS}, beside {against}, {}", super::flows_in_words(LIVE_FLOWS));
    if ![BARE, BARE_INTO, IPTABLES].iter().any(|against| wish.wants(&name(against))) {
        return Ok(Vec::new());
    }
    let walks = bench.walks();
    let is_it = |walk: &&super::Walk| walk.stream.program == "from_uplink" && walk.name == "published, task here";
    let walk = walks.iter().find(is_it).context("the walk of a published port")?;
    let readings = match Stage::set(bench)? {
        Ok(stage) => {
            bench.open(walk, LIVE_FLOWS)?;
            let tuples = bench.tuples(&walk.stream, LIVE_FLOWS);
            let first = bench.load(&walk.stream.data(), &tuples)?;
            stage.readings(bench, &first, &tuples)?
        }
        Err(why) => {
            let missing = |against| Row::missing(name(against), "ns", why.clone());
            return Ok(vec![missing(BARE), missing(BARE_INTO), missing(IPTABLES)]);
        }
    };
    let beside = |at: usize| readings.iter().map(|reading| (reading[0], reading[at])).collect::<Vec<_>>();
    Ok(vec![
        Row::pairs(name(BARE), "ns", BARE, &beside(1)).target(Target::RatioAtMost(1.1)),
        Row::pairs(name(BARE_INTO), "ns", BARE_INTO, &beside(2)),
        Row::pairs(name(IPTABLES), "ns", IPTABLES, &beside(3)).target(Target::RatioAtMost(0.30)),
    ])
}

/// Devices and rules, and the programs that stay attached.
struct Stage {
    turn: OwnedFd,
    drop: OwnedFd,
    uplink: u32,
    /// Ends of the ways, and the XDP program that gives the uplink its queues.
    _attached: Vec<OwnedFd>,
    _task: TaskSide,
}

impl Stage {
    /// The inner error says why this machine can't.
    fn set(bench: &mut Bench) -> Result<Result<Stage, String>> {
        let (uplink, client) = (bench.rig.devices().uplink, bench.world.client_ifindex());
        let (turn, drop) = (bench.programs.program("turn_live")?, bench.programs.program("tc_drop")?);
        let pass = bench.programs.program("xdp_pass")?;
        // Links of TCX came with Linux 6.6: where there is none the first says so.
        let end = match attach(drop.as_fd(), client, Place::Egress) {
            Ok(end) => end,
            Err(error) => return Ok(Err(format!("attaching by TCX is refused: {error}"))),
        };
        let behind = index(BEHIND)?;
        let attached = vec![
            end,
            attach(drop.as_fd(), behind, Place::Egress).context("ending the way of iptables")?,
            attach(pass.as_fd(), uplink, Place::Xdp).context("giving the uplink receive queues")?,
        ];
        for (path, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/disable_ipv6", "1")] {
            std::fs::write(format!("/proc/sys/net/{path}"), value).with_context(|| format!("writing {path}"))?;
        }
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]);
        let batch = format!(
            "address add 10.99.0.1/24 dev {BEHIND}\n\
             neighbour add 10.99.0.2 lladdr 02:00:00:00:00:22 dev {BEHIND} nud permanent\n"
        );
        run(ip, &batch)?;
        let mut iptables = Command::new("iptables");
        iptables.args(["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080"]);
        iptables.args(["-j", "DNAT", "--to-destination", "10.99.0.2:80"]);
        if let Err(error) = run(iptables, "") {
            return Ok(Err(format!("{IPTABLES} can't be set up: {error:#}")));
        }
        let task = TaskSide::begin("eth2", drop.try_clone()?)?;
        ensure!(index("mv2")? == bench.world.task_ifindex(), "the task called is not behind mv2");
        Ok(Ok(Stage { turn, drop, uplink, _attached: attached, _task: task }))
    }

    /// Nanoseconds above the base: ours, bare, bare into the task's namespace, iptables; in turns.
    fn readings(&self, bench: &mut Bench, first: &Bytes, flows: &[Tuple]) -> Result<Vec<[f64; 4]>> {
        let ours = bench.rig.descriptor("from_uplink")?.context("there is no from_uplink")?;
        let (bare, into) = (bench.programs.program(BARE)?, bench.programs.program(BARE_INTO)?);
        let (client, task) = (bench.world.client_ifindex(), bench.world.task_ifindex());
        let mut readings = Vec::new();
        for reading in 0..=bench.effort.pairs {
            let base = self.one(bench, Some(&self.drop), "the base", first)?;
            let ours = self.one(bench, Some(&ours), "from_uplink", first)? - base;
            bench.programs.know(FLOWS, flows, true, client)?;
            let bare = self.one(bench, Some(&bare), BARE, first)? - base;
            bench.programs.know(FLOWS, flows, true, task)?;
            let into = self.one(bench, Some(&into), BARE_INTO, first)? - base;
            let iptables = self.one(bench, None, IPTABLES, first)? - base;
            // The first fills caches and conntrack's table.
            if reading > 0 {
                readings.push([ours, bare, into, iptables]);
            }
        }
        Ok(readings)
    }

    /// One reading with this program at the uplink's TC ingress.
    fn one(&self, bench: &mut Bench, program: Option<&OwnedFd>, name: &str, first: &Bytes) -> Result<f64> {
        let _attached = match program {
            Some(program) => Some(attach(program.as_fd(), self.uplink, Place::Ingress)?),
            None => None,
        };
        let before = bench.programs.counted()?;
        let took = run_live(self.turn.as_fd(), first, self.uplink, bench.effort.repeats).context("injecting frames")?;
        let ended = bench.programs.counted()? - before;
        // The kernel rounds up to whole batches.
        let sent = u64::from(bench.effort.repeats);
        ensure!(ended >= sent && ended < sent + 64, "{name}: {sent} packets were sent, {ended} reached the end");
        Ok(f64::from(took))
    }
}

/// A task's namespace with its end of a veth, at whose ingress packets are dropped. It ends with this.
struct TaskSide {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TaskSide {
    fn begin(device: &'static str, drop: OwnedFd) -> Result<TaskSide> {
        let (tell, told) = mpsc::channel::<Result<i32>>();
        let (go, gone) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).context("making the task's namespace");
            if tell.send(made.map(|()| nix::unistd::gettid().as_raw())).is_err() || gone.recv().is_err() {
                return;
            }
            let attached = up(device).and_then(|index| Ok(attach(drop.as_fd(), index, Place::Ingress)?));
            let _link = match attached {
                Ok(link) => tell.send(Ok(0)).map(|()| link),
                Err(error) => return tell.send(Err(error)).unwrap_or_default(),
            };
            // Until the other end goes.
            let _ = gone.recv();
        });
        let side = TaskSide { stop: Some(go), thread: Some(thread) };
        let answer = || told.recv().map_err(|_| anyhow!("the task's thread has ended")).and_then(|answer| answer);
        let thread = answer()?;
        let mut ip = Command::new("ip");
        ip.args(["link", "set", device, "netns", &thread.to_string()]);
        run(ip, "")?;
        side.stop.as_ref().context("just made")?.send(()).context("the task's thread has ended")?;
        answer().with_context(|| format!("readying {device} in the task's namespace"))?;
        Ok(side)
    }
}

impl Drop for TaskSide {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing to say
        }
    }
}

fn up(device: &str) -> Result<u32> {
    let mut ip = Command::new("ip");
    ip.args(["link", "set", device, "up"]);
    run(ip, "")?;
    index(device)
}

fn run(command: Command, input: &str) -> Result<()> {
    mesh_lab::run_command(command, input, Duration::from_secs(20))?.ok().map(drop)
}
