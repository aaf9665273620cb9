//! Taking everything of ours out of this machine: after leaving a cluster, by `mesh purge`, with or without an agent.
//!
//! Order: tasks (they hold links), resolver, links and routes, programs and maps. Each part is tried though another failed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::member::{Member, store_path};
use super::{Agent, Settings, desired, remembered};
use crate::dns::{ResolverHandle, ResolverOptions};
use crate::kernel::bpf::Dataplane;
use crate::kernel::net::HostNet;
use crate::membership::identity::{ClusterSecrets, NodeIdentity};
use crate::runtime::docker::DockerConfig;
use crate::runtime::exec::{ExecConfig, cgroup2_root, masked_dirs};
use crate::runtime::{Runtimes, TaskInstance, TaskRuntime};

/// Forgets the cluster: identity, secrets, store, cache.
pub fn forget(state_dir: &Path) {
    let removed = [NodeIdentity::remove(state_dir), ClusterSecrets::remove(state_dir)];
    for error in removed.into_iter().filter_map(Result::err) {
        log::warn!("{error}");
    }
    desired::remove_cache(state_dir);
    remembered::remove(state_dir);
    let _ = std::fs::remove_file(store_path(state_dir)); // absent is as good
}

/// After the cluster was told: nothing runs on, nothing is remembered.
pub async fn leave(agent: &Arc<Agent>, member: &Arc<Member>) {
    member.leave().await;
    if let Err(error) = sweep_out(agent, Some(member)).await {
        log::error!("{error:#}");
    }
    forget(&agent.args.state_dir);
}

/// Everything out of the kernel and off the process table; the identity stays. Gives a line for each thing removed.
pub async fn sweep_out(agent: &Agent, member: Option<&Member>) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    if let Some(member) = member {
        member.end().await;
        let tasks = member.tasks.stop_all(member).await;
        if tasks > 0 {
            removed.push(format!("{tasks} tasks"));
        }
        member.runtime.close();
        member.kernel.stop_resolver().await;
        removed.push("the resolver".to_string());
    }
    removed.extend(from_kernel(&agent.net, &agent.args.bpf_dir).await?);
    Ok(removed)
}

async fn from_kernel(net: &HostNet, bpf_dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    let converged = net.purge().await?;
    removed.extend(converged.done.iter().map(|op| format!("{op:?}")));
    for (_, error) in &converged.failed {
        log::error!("{error}");
    }
    if bpf_dir.exists() {
        Dataplane::purge(bpf_dir)?;
        removed.push(format!("programs and maps in {}", bpf_dir.display()));
    }
    match converged.failed.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(removed),
    }
}

/// `mesh purge` where no agent runs.
pub fn purge(args: Settings) -> anyhow::Result<Vec<String>> {
    super::start_log(args.verbose);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(purge_alone(&args));
    runtime.shutdown_background();
    outcome
}

async fn purge_alone(args: &Settings) -> anyhow::Result<Vec<String>> {
    if !crate::kernel::net::namespace::is_root() {
        anyhow::bail!("mesh purge needs root: it removes links and programs; run it with sudo");
    }
    let mut removed = Vec::new();
    let identity = NodeIdentity::load(&args.state_dir)?;
    if let (Some(identity), Some(cgroup)) = (identity, args.cgroup.clone().or_else(cgroup2_root)) {
        let masked = masked_dirs(&args.state_dir, &args.socket, &args.bpf_dir);
        let config = ExecConfig::new(args.state_dir.clone(), &identity.name().node_id, cgroup, masked);
        let docker = DockerConfig::new(args.state_dir.clone(), identity.name().node_id.clone());
        let runtime = Runtimes::new(config, docker, &args.runtimes)?;
        for TaskInstance { task_id, .. } in runtime.list().await? {
            // One whose container can't be removed, because the Engine is away, does not run any more; its links go all the same.
            match runtime.remove(&task_id).await {
                Ok(()) => removed.push(format!("task {}", task_id.short())),
                Err(error) => log::warn!("{error}"),
            }
        }
    }
    let run_dir = args.socket.parent().map(PathBuf::from).unwrap_or_default();
    if run_dir.exists() {
        let options = ResolverOptions { run_dir, port: 53, resolv_conf: "/etc/resolv.conf".into(), upstream_port: 53 };
        ResolverHandle::new("/proc/self/exe".into(), options).stop().await?;
    }
    std::fs::create_dir_all(&args.state_dir)?;
    removed.extend(from_kernel(&HostNet::open(&args.state_dir)?, &args.bpf_dir).await?);
    Ok(removed)
}
