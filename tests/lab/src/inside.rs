//! What a task sees: names, services, the outside – asked from its inside by `mesh exec TASK ask …`.
//!
//! The lab's threads can enter a task's network namespace but not its mount namespace, where resolv.conf is; so a small program of the
//! lab runs there, as a user's would. Needs neither curl nor ping on the machine.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::binaries;
use crate::node::Node;

/// The inside of one task, through the command line of a node that may reach it.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    node: &'a Node,
    task: &'a str,
}

/// The command that runs `ask` in the namespaces of process `pid`, for a task whose agent is away.
pub fn ask_as(pid: u32, words: &[&str]) -> Vec<String> {
    let head = ["nsenter", "--net", "--mount", "--target", &pid.to_string(), "--"].map(str::to_owned);
    let program = binaries::ask().display().to_string();
    head.into_iter().chain([program]).chain(words.iter().map(|word| (*word).to_owned())).collect()
}

/// One answer of a `whoami` to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who answered: the host name of a task.
    pub task: String,
    /// Who asked, as the answering task saw it.
    pub caller: SocketAddr,
    /// Who asked, as the asking task knows itself.
    pub local: SocketAddr,
}

impl<'a> Inside<'a> {
    pub(crate) fn new(node: &'a Node, task: &'a str) -> Self {
        Inside { node, task }
    }

    /// `times` requests, each on a connection of its own.
    pub fn get(&self, host: impl ToString, port: u16, times: usize) -> Result<Vec<Seen>> {
        self.seen("get", &host.to_string(), port, times)
    }

    /// `times` datagrams, each from a port of its own.
    pub fn udp(&self, host: impl ToString, port: u16, times: usize) -> Result<Vec<Seen>> {
        self.seen("udp", &host.to_string(), port, times)
    }

    /// `times` datagrams, all from one socket, one each `pace`; every one but one must be answered within a second.
    pub fn talk(&self, host: impl ToString, port: u16, times: usize, pace: Duration) -> Result<Vec<Seen>> {
        let (host, port, times, pace) = (host.to_string(), port.to_string(), times.to_string(), pace.as_millis());
        let text = self.ask(&["talk", &host, &port, &times, &pace.to_string()])?;
        text.lines().map(|line| line.parse()).collect()
    }

    /// `connected`, `refused`, `unreachable` or `silent`, and how long it took to know.
    pub fn connect(&self, host: impl ToString, port: u16) -> Result<(String, Duration)> {
        let text = self.ask(&["connect", &host.to_string(), &port.to_string()])?;
        let (word, time) = text.trim().split_once(' ').with_context(|| format!("not an answer: {text}"))?;
        Ok((word.to_owned(), Duration::from_millis(time.parse()?)))
    }

    pub fn upload(&self, host: impl ToString, port: u16, bytes: u64) -> Result<()> {
        self.ask(&["upload", &host.to_string(), &port.to_string(), &bytes.to_string()]).map(drop)
    }

    pub fn download(&self, host: impl ToString, port: u16, bytes: u64) -> Result<()> {
        self.ask(&["download", &host.to_string(), &port.to_string(), &bytes.to_string()]).map(drop)
    }

    /// Datagrams in one go and back ([`crate::traffic::burst`]).
    pub fn burst(&self, host: impl ToString, port: u16, count: u32, size: u16) -> Result<()> {
        self.ask(&["burst", &host.to_string(), &port.to_string(), &count.to_string(), &size.to_string()]).map(drop)
    }

    /// Addresses of a name, sorted; an error where there is none.
    pub fn names(&self, name: &str) -> Result<Vec<IpAddr>> {
        let text = self.ask(&["names", name])?;
        let mut addresses = text.lines().map(|line| Ok(line.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    /// Echoes answered of `count` sent.
    pub fn ping(&self, host: impl ToString, count: usize) -> Result<usize> {
        let text = self.ask(&["ping", &host.to_string(), &count.to_string()])?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    }

    /// Any program: `mesh exec TASK …`, which must succeed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        self.node.mesh(["exec", self.task].iter().chain(words))?.ok()
    }

    /// Runs `work` on a thread in the task's network namespace. Its files are this machine's.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let link = self.run(&["readlink", "/proc/self/ns/net"])?;
        let inode: u64 =
            link.trim().trim_start_matches("net:[").trim_end_matches(']').parse().context("its namespace")?;
        let mut found = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path().join("ns/net"));
        let path = found.find(|path| std::fs::metadata(path).is_ok_and(|file| file.ino() == inode));
        let target = File::open(path.with_context(|| format!("no process of {}", self.task))?)?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(target.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            inside.join().expect("the thread in the task's namespace ends well")
        })
    }

    fn seen(&self, verb: &str, host: &str, port: u16, times: usize) -> Result<Vec<Seen>> {
        let text = self.ask(&[verb, host, &port.to_string(), &times.to_string()])?;
        text.lines().map(|line| line.parse()).collect()
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let program = binaries::ask().display().to_string();
        self.run(&[&[program.as_str()], words].concat())
    }
}

impl FromStr for Seen {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Seen> {
        let words: Vec<&str> = line.split(' ').collect();
        let [task, caller, local] = words[..] else { anyhow::bail!("not an answer: {line}") };
        Ok(Seen { task: task.to_owned(), caller: caller.parse()?, local: local.parse()? })
    }
}
