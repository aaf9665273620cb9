//! The agent: one process a node that wires the rooms together. Pure rooms decide, edges act; here is only who calls whom, and when.
//!
//! ```text
//! desired (store, or followed from its node) ─┐
//! observed (gossip, echo) ────────────────────┼─▶ reconcile: plan → diff → apply (network, maps, resolver)
//! links and addresses of the host ────────────┘
//! desired ─▶ tasks: start and stop this node's tasks, report them by gossip
//! Engine ─▶ adoption: containers that ask to join by their labels, told to the leader
//! store's node: lead: leader::tick → commit
//! unix socket, TLS ─▶ api ─▶ control ─▶ lead (or the store's node), entrance
//! lifecycle: begins a member and keeps its loops going
//! ```
//! Invariant: what this process knows can be lost at any time; kernel, supervisors and resolver go on without it, and the next agent
//! finds them. Must not: decide what a pure room could decide.

mod adoption;
mod cluster_routes;
mod control;
mod desired;
mod doctor;
mod entrance;
mod kept;
mod lead;
mod lifecycle;
mod member;
mod names;
mod peers;
mod ports;
mod preflight;
mod purge;
mod reach;
mod reconcile;
mod remembered;
mod renewal;
mod settings;
mod tasks;
mod tc;
mod watch;
mod xdp;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, RwLock};

pub use doctor::doctor;
pub use purge::purge;
pub use settings::{Settings, TcMode, XdpMode};

use crate::api::server::{bind_unix, router, serve_unix};
use crate::kernel::bpf::TcWay;
use crate::kernel::net::HostNet;
use crate::model::UnixMs;
use member::Member;
use preflight::Machine;

/// What all parts of the agent share.
pub(crate) struct Agent {
    args: Settings,
    /// This node's name, in a cluster or not.
    name: String,
    cgroup: PathBuf,
    tc: TcWay,
    net: Arc<HostNet>,
    /// None while the node is in no cluster.
    member: RwLock<Option<Arc<Member>>>,
    checkup: doctor::Checkup,
    /// init, join, leave and purge: one at a time.
    changing: Mutex<()>,
    /// What a member answers to other nodes. Given here, since it has the whole control plane and a member must not know that.
    cluster_router: fn(&Arc<Agent>, &Arc<Member>) -> axum::Router,
}

/// Milliseconds since the Unix epoch: the one clock that goes into the pure rooms.
pub(crate) fn now() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as UnixMs)
}

/// 16 random bytes, for ids.
pub(crate) fn random() -> [u8; 16] {
    rand::random()
}

/// Log to standard error: warnings of everybody, our own words as asked.
pub fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn,mesh_userspace=info",
        1 => "info,mesh_userspace=debug",
        _ => "debug",
    };
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).try_init(); // once is enough
}

/// `mesh agent`: runs until SIGTERM or SIGINT. Tasks, programs and resolver go on afterwards.
pub fn run(args: Settings) -> anyhow::Result<()> {
    start_log(args.verbose);
    // Whoever started us may have blocked signals for itself; a daemon that can't be told to end is no good one.
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    let Machine { cgroup, tc } = preflight::check(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(serve(args, cgroup, tc));
    runtime.shutdown_background();
    outcome
}

async fn serve(args: Settings, cgroup: PathBuf, tc: TcWay) -> anyhow::Result<()> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    for dir in [Some(args.state_dir.as_path()), args.socket.parent()].into_iter().flatten() {
        std::fs::create_dir_all(dir).with_context(|| format!("make the directory {}", dir.display()))?;
    }
    let net = Arc::new(HostNet::open(&args.state_dir)?);
    let listener = bind_unix(&args.socket)?;
    let agent = Arc::new(Agent {
        args,
        name,
        cgroup,
        tc,
        net,
        member: RwLock::default(),
        checkup: doctor::Checkup::default(),
        changing: Mutex::default(),
        cluster_router: cluster_routes::router,
    });
    if let Some(member) = lifecycle::resume(&agent).await? {
        *agent.member.write().await = Some(member);
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told_to_end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    log::info!("agent of node {} listens at {}", agent.name, agent.args.socket.display());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // without systemd there is nobody to tell
    let checkups = tokio::spawn(doctor::watch(agent.clone()));
    let socket = agent.args.socket.clone();
    serve_unix(listener, router(Arc::new(control::Control(agent.clone()))), told_to_end).await;
    checkups.abort();
    if let Some(member) = agent.member.write().await.take() {
        member.end().await;
    }
    let _ = std::fs::remove_file(socket); // the next agent replaces it anyway
    Ok(())
}
