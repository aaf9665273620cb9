//! The resolver process (`mesh resolver`): serves the zone last pushed, whether an agent is there or not.
//!
//! In a walk: agent → `resolver.sock` → here → [`super::server`]. Started by the agent, it outlives the agent, and is
//! adopted by the next one. The zone is on disk before it is acknowledged, so that a resolver that is started
//! anew answers at once.
//!
//! One thread: names are looked up in memory, and everything else is waiting. It runs in the network namespace it was
//! started in. SIGTERM ends it; SIGHUP does not, whoever's terminal the agent was started from.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::protocol::{FrameError, PROTOCOL, Request, Status, VERSION, read_frame, write_frame};
use super::run_dir::{RunDir, is_taken};
use super::server::{DnsServer, ForwardOptions};
use super::zone::Zone;

/// How often addresses that could not be listened on are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// `mesh resolver`: the agent starts it with these.
#[derive(Clone, Debug, clap::Args)]
pub struct ResolverOptions {
    /// Directory of the socket, the zone and the log
    #[arg(long)]
    pub run_dir: PathBuf,
    /// Port to listen on at each gateway
    #[arg(long, default_value_t = 53)]
    pub port: u16,
    /// File that names the host's resolvers
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Port of the host's resolvers
    #[arg(long, default_value_t = 53)]
    pub upstream_port: u16,
}

/// Why the resolver can't run.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("another resolver runs in {0} already: end it first (`mesh purge`), or use another --run-dir")]
    Taken(PathBuf),
    #[error("the resolver can't use its directory {dir}: {source}")]
    RunDir { dir: PathBuf, source: io::Error },
    #[error("the resolver can't start: {0}")]
    Start(#[from] io::Error),
}

/// Runs the resolver until it is told to end.
pub fn resolver_main(options: &ResolverOptions) -> Result<(), ResolverError> {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: &ResolverOptions) -> Result<(), ResolverError> {
    let run_dir = RunDir::new(&options.run_dir);
    let unusable = |source| ResolverError::RunDir { dir: options.run_dir.clone(), source };
    let _lock = run_dir.claim().map_err(|error| match is_taken(&error) {
        true => ResolverError::Taken(options.run_dir.clone()),
        false => unusable(error),
    })?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // A handler that nobody reads from is a signal ignored.
    let _hangup = signal(SignalKind::hangup())?;

    let resolver = Resolver::load(options, run_dir.clone()).await?;
    let resolver = Arc::new(Mutex::new(resolver));
    let listener = listen(&run_dir).map_err(unusable)?;
    log::info!("resolver {VERSION} (pid {}) is up in {}", std::process::id(), options.run_dir.display());

    let mut again = interval(TRY_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, resolver.clone()))),
                Err(error) => log::warn!("a connection to the resolver's socket failed: {error}"),
            },
            _ = again.tick() => resolver.lock().await.server.listen(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    log::info!("resolver ends: it was asked to");
    std::fs::remove_file(run_dir.socket()).map_err(unusable)
}

/// Binds under another name first, so that the socket is never there with other permissions than 0600.
fn listen(run_dir: &RunDir) -> io::Result<UnixListener> {
    let unfinished = run_dir.socket().with_extension("new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&unfinished, run_dir.socket())?;
    Ok(listener)
}

async fn serve(mut stream: UnixStream, resolver: Arc<Mutex<Resolver>>) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => {}
        Ok(peer) => return log::warn!("user {} may not speak to the resolver", peer.uid()),
        Err(error) => return log::warn!("who speaks to the resolver is unknown: {error}"),
    }
    if let Err(error) = converse(&mut stream, &resolver).await {
        log::warn!("the agent's connection ended: {error}");
    }
}

async fn converse(stream: &mut UnixStream, resolver: &Mutex<Resolver>) -> Result<(), FrameError> {
    let greeting = resolver.lock().await.status();
    write_frame(stream, &greeting).await?;
    while let Some(request) = read_frame::<Request>(stream).await? {
        let status = {
            let mut resolver = resolver.lock().await;
            if let Request::Push { generation, zone } = request {
                resolver.serve_zone(generation, zone.into_owned()).await;
            }
            resolver.status()
        };
        write_frame(stream, &status).await?;
    }
    Ok(())
}

/// What is kept on disk.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    protocol: u32,
    generation: u64,
    zone: std::borrow::Cow<'a, Zone>,
}

struct Resolver {
    run_dir: RunDir,
    netns: u64,
    generation: u64,
    zone_digest: String,
    server: DnsServer,
    not_kept: Option<String>,
}

impl Resolver {
    async fn load(options: &ResolverOptions, run_dir: RunDir) -> io::Result<Self> {
        let forward = ForwardOptions {
            resolv_conf: options.resolv_conf.clone(),
            port: options.upstream_port,
            ..ForwardOptions::default()
        };
        let server = DnsServer::new(options.port, forward);
        let zone_digest = Zone::default().digest();
        let mut resolver = Resolver { run_dir, netns: netns()?, generation: 0, zone_digest, server, not_kept: None };
        match std::fs::read(resolver.run_dir.zone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::error!("the kept zone can't be read, names wait for the agent: {error}"),
            Ok(json) => match serde_json::from_slice::<Kept>(&json) {
                Ok(kept) if kept.protocol == PROTOCOL => {
                    resolver.take(kept.generation, kept.zone.into_owned()).await;
                }
                Ok(kept) => log::warn!("the kept zone is of protocol {}, names wait for the agent", kept.protocol),
                Err(error) => log::error!("the kept zone is damaged, names wait for the agent: {error}"),
            },
        }
        Ok(resolver)
    }

    async fn serve_zone(&mut self, generation: u64, zone: Zone) {
        let kept = Kept { protocol: PROTOCOL, generation, zone: std::borrow::Cow::Borrowed(&zone) };
        let path = self.run_dir.zone();
        let written =
            serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|json| self.run_dir.write_whole(&path, &json));
        self.not_kept = written.err().map(|error| {
            let path = path.display();
            log::error!("the zone can't be kept in {path}: {error}");
            format!("the zone can't be kept in {path}, a restarted resolver would know an older one: {error}")
        });
        self.take(generation, zone).await;
    }

    async fn take(&mut self, generation: u64, zone: Zone) {
        self.generation = generation;
        self.zone_digest = zone.digest();
        self.server.apply(zone).await;
    }

    fn status(&self) -> Status {
        let (upstreams, no_upstream) = self.server.upstreams();
        Status {
            protocol: PROTOCOL,
            version: VERSION.to_string(),
            pid: std::process::id(),
            netns: self.netns,
            generation: self.generation,
            zone_digest: self.zone_digest.clone(),
            gateways: self.server.gateways(),
            errors: self.server.errors().clone(),
            warnings: no_upstream.into_iter().chain(self.not_kept.clone()).collect(),
            upstreams,
            queries: self.server.counts(),
        }
    }
}

/// The inode that tells this process's network namespace from others.
pub(super) fn netns() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/self/ns/net")?.ino())
}

/// Each TCP client and each forwarded query takes a descriptor; the usual soft limit of 1024 is one careless task.
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes one rlimit to the one it is given.
    let mut result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if result == 0 {
        limit.rlim_cur = limit.rlim_max.min(65_536);
        // SAFETY: the call reads one rlimit.
        result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
    if let Err(error) = Errno::result(result) {
        log::warn!("the limit of open files can't be raised: {error}");
    }
}
