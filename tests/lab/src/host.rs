//! A machine of the lab: a name, an address, a namespace, and what one can do from there.
//!
//! The client and `outside` are hosts; a [`crate::Node`] is a host that also runs an agent. Verbs of traffic have usual time
//! limits here, so that scenarios read without numbers; where the limit is the point, use [`Host::run_inside`].

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::capture::{self, Capture};
use crate::command::{self, Output};
use crate::firewall;
use crate::namespace::Namespace;
use crate::offload::{self, Offloads};
use crate::terminal::Terminal;
use crate::traffic::{self, Answer, Connection, Echoes, Probe, Session, Whoami};
use crate::wiring::DEVICE;

/// A connection, and each silence on it: far above a lab's round trip, far below a person's patience.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Commands run on a host. Two agents that load their programs at once take more than 90 s where the machine is emulated (`cargo xtask verify`).
pub const COMMAND_LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Namespace,
    captures: PathBuf,
}

impl Host {
    pub(crate) fn new(name: &str, address: Ipv4Addr, namespace: Namespace, lab_dir: &Path) -> Host {
        Host { name: name.to_owned(), address, namespace, captures: lab_dir.join("captures") }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch (of `outside`: beyond the router).
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs `work` in the host's namespace.
    pub fn run_inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// A command prepared to start in the host's namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        self.namespace.command(program)
    }

    /// Runs a program there to its end: `host.run(["ping", "-c", "1", "192.168.77.12"])`.
    pub fn run<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut words = words.into_iter();
        let program = words.next().context("a command has at least one word")?;
        let mut command = self.command(program.as_ref())?;
        command.args(words.map(|word| word.as_ref().to_owned()));
        command::run(command, "", COMMAND_LIMIT)
    }

    /// A program on a terminal of its own there.
    pub fn terminal<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Terminal> {
        let mut words = words.into_iter();
        let program = words.next().context("a command has at least one word")?;
        let mut command = self.command(program.as_ref())?;
        command.args(words.map(|word| word.as_ref().to_owned()));
        Terminal::start(command)
    }

    /// One GET on a connection of its own. `host` is an address or `localhost`.
    pub fn http_get(&self, host: impl ToString, port: u16, path: &str) -> Result<Answer> {
        let host = host.to_string();
        self.run_inside(|| traffic::http_get(&host, port, path, PATIENCE))?.with_context(|| self.from())
    }

    /// Asks a `whoami` over HTTP; the answer knows the task, the caller as seen, and our end of the connection.
    pub fn ask(&self, host: impl ToString, port: u16) -> Result<(Whoami, Answer)> {
        let answer = self.http_get(host, port, "/")?;
        Ok((answer.whoami().with_context(|| self.from())?, answer))
    }

    /// A connection kept open for many requests.
    pub fn http_session(&self, host: impl ToString, port: u16) -> Result<Session> {
        let host = host.to_string();
        self.run_inside(|| Session::open(&host, port, PATIENCE))?.with_context(|| self.from())
    }

    /// Asks a `whoami` over UDP: its answer, and the address we asked from.
    pub fn udp_ask(&self, address: impl Into<IpAddr>, port: u16) -> Result<(Whoami, SocketAddr)> {
        let to = SocketAddr::new(address.into(), port);
        let (text, local) =
            self.run_inside(|| traffic::datagram(to, b"who?", PATIENCE))?.with_context(|| self.from())?;
        Ok((Whoami::parse(&text)?, local))
    }

    /// Datagrams in one go to a `whoami` and back ([`traffic::burst`]).
    pub fn udp_burst(&self, address: impl Into<IpAddr>, port: u16, count: u32, size: u16) -> Result<()> {
        let to = SocketAddr::new(address.into(), port);
        self.run_inside(|| traffic::burst(to, count, size, PATIENCE))?.with_context(|| self.from())
    }

    /// One attempt to connect, told apart by how it ended.
    pub fn tcp_connect(&self, address: impl Into<IpAddr>, port: u16) -> Result<Connection> {
        let to = SocketAddr::new(address.into(), port);
        self.run_inside(|| traffic::tcp_connect(to, PATIENCE))?
    }

    /// POSTs `bytes` bytes and checks that exactly these arrived.
    pub fn upload(&self, host: impl ToString, port: u16, bytes: u64) -> Result<Answer> {
        let host = host.to_string();
        self.run_inside(|| traffic::upload(&host, port, bytes, PATIENCE))?.with_context(|| self.from())
    }

    /// GETs `bytes` bytes and checks each.
    pub fn download(&self, host: impl ToString, port: u16, bytes: u64) -> Result<Answer> {
        let host = host.to_string();
        self.run_inside(|| traffic::download(&host, port, bytes, PATIENCE))?.with_context(|| self.from())
    }

    /// `count` ICMP echoes, each with a second to be answered.
    pub fn ping(&self, address: Ipv4Addr, count: usize) -> Result<Echoes> {
        self.run_inside(|| traffic::echo(address, count, Duration::from_secs(1)))?
    }

    /// New connections to a `whoami` every `pace`, in the background; each attempt has a second.
    pub fn probe(&self, host: impl ToString, port: u16, pace: Duration) -> Result<Probe> {
        let (host, target) = (host.to_string(), std::fs::File::open(self.namespace.path())?);
        let enter = move || Ok(nix::sched::setns(target, nix::sched::CloneFlags::CLONE_NEWNET)?);
        let ask = move || Ok(traffic::http_get(&host, port, "/", Duration::from_secs(1))?.whoami()?.task);
        Ok(Probe::start(pace, enter, ask))
    }

    /// The same by datagrams, all from one socket.
    pub fn udp_probe(&self, address: impl Into<IpAddr>, port: u16, pace: Duration) -> Result<Probe> {
        let (to, target) = (SocketAddr::new(address.into(), port), std::fs::File::open(self.namespace.path())?);
        let enter = move || Ok(nix::sched::setns(target, nix::sched::CloneFlags::CLONE_NEWNET)?);
        let socket = OnceCell::new();
        let ask = move || {
            let talk = match socket.get() {
                Some(talk) => talk,
                None => {
                    let opened = traffic::Talk::to(to, Duration::from_secs(1))?;
                    socket.get_or_init(|| opened)
                }
            };
            Ok(Whoami::parse(&talk.ask(b"who?")?.0)?.task)
        };
        Ok(Probe::start(pace, enter, ask))
    }

    /// Opens connections that nobody means, from many sources, until `enough` or `most` were sent; says how many.
    pub fn syn_flood(
        &self,
        address: Ipv4Addr,
        port: u16,
        per_second: u32,
        most: u32,
        enough: &AtomicBool,
    ) -> Result<u32> {
        let to = SocketAddrV4::new(address, port);
        self.run_inside(|| traffic::syn_flood(to, per_second, most, enough))?.with_context(|| self.from())
    }

    /// Records the frames of a device until the value is dropped; also a pcap file for the failure folder.
    pub fn capture(&self, device: &str) -> Result<Capture> {
        std::fs::create_dir_all(&self.captures)?;
        let file = self.captures.join(format!("{}-{device}.pcap", self.name));
        self.run_inside(|| Capture::start(device, &file))?.with_context(|| self.from())
    }

    /// Puts a frame on the host's cable as it is.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        self.run_inside(|| capture::send(DEVICE, frame))?
    }

    /// Sets the offloads of the host's end of its cable.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<()> {
        self.run_inside(|| offload::set(DEVICE, offloads))?
    }

    pub fn sysctl(&self, name: &str) -> Result<String> {
        self.namespace.sysctl(name)
    }

    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.namespace.set_sysctl(name, value)
    }

    /// A firewall that drops whatever the host would forward, as Docker and ufw set it.
    pub fn drop_forwarded(&self) -> Result<()> {
        self.run_inside(firewall::drop_forwarded)?.with_context(|| self.from())
    }

    fn from(&self) -> String {
        format!("from {} ({})", self.name, self.address)
    }
}
