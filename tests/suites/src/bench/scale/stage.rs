//! Maps and programs of our own, pinned and opened as the agent does, with a cgroup of their own for the socket hooks.
//!
//! Invariant: everything bears this process's number and its own, and goes with the value, also after a failure.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use aya::maps::MapData;
use aya::programs::SchedClassifier;
use mesh_common::schema::MIN_FLOWS;
use mesh_userspace::kernel::bpf::{Dataplane, FlowSizes, TcWay};
use mesh_userspace::kernel::net::filters::Clsact;

pub struct Stage {
    pins: PathBuf,
    cgroup: PathBuf,
    flows: FlowSizes,
    dataplane: Option<Dataplane>,
}

impl Stage {
    pub fn new() -> Result<Stage> {
        Stage::with_flows(FlowSizes::of_table(MIN_FLOWS as u32))
    }

    /// With flow tables of this size.
    pub fn with_flows(flows: FlowSizes) -> Result<Stage> {
        static STAGES: AtomicU32 = AtomicU32::new(0);
        let name = format!("mesh-bench-{}-{}", std::process::id(), STAGES.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup_root()?.join(&name);
        std::fs::create_dir_all(&cgroup)
            .with_context(|| format!("making {}: measuring needs root", cgroup.display()))?;
        Ok(Stage { pins: Path::new("/sys/fs/bpf").join(name), cgroup, flows, dataplane: None })
    }

    /// Opens the data plane, anew or over what is pinned.
    pub fn open(&mut self) -> Result<()> {
        self.dataplane = None;
        self.dataplane = Some(Dataplane::open(&self.pins, &self.cgroup, self.flows, TcWay::Tcx, Box::new(Clsact))?);
        Ok(())
    }

    /// # Panics
    /// Before [`Stage::open`].
    pub fn dataplane(&mut self) -> &mut Dataplane {
        self.dataplane.as_mut().expect("the stage is open")
    }

    /// A program of the data plane, by its pin.
    pub fn program(&mut self, name: &str) -> Result<OwnedFd> {
        let pin = self.dataplane().dir().join("progs").join(name);
        let program = SchedClassifier::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    }

    /// A map of the data plane, by its pin.
    pub fn map(&mut self, name: &str) -> Result<MapData> {
        let pin = self.dataplane().dir().join("maps").join(name);
        MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))
    }

    pub fn remove(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        self.dataplane = None;
        if self.pins.exists() {
            Dataplane::purge(&self.pins)?;
        }
        match std::fs::remove_dir(&self.cgroup) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.cgroup.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            eprintln!("scale: {error:#}");
        }
    }
}

/// Where cgroup v2 is mounted: hybrid machines have it in a folder of its own.
fn cgroup_root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let is_cgroup2 = |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 "));
    let line = mounts.lines().find(is_cgroup2).context("no cgroup v2 is mounted")?;
    line.split(' ').nth(4).map(PathBuf::from).context("/proc/self/mountinfo names no folder")
}
