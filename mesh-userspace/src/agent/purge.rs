//! Taking everything of ours out of this machine: after leaving a cluster, by `mesh purge`, with or without an agent.
//!
//! Order: tasks (they hold links), resolver, links and routes, programs and maps. Each part is tried though another failed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::member::{Member, store_path};
use super::{Agent, Settings, desired, remembered};
use crate::dns::{ResolverHandle, ResolverOptions};
use crate::kernel::bpf::Dataplane;
use crate::kernel::net::{HostNet, filters};
use crate::membership::identity::{ClusterSecrets, NodeIdentity};
use crate::model::Id;
use crate::plan::net::NetOp;
use crate::runtime::docker::{DockerConfig, DockerRuntime, Guests};
use crate::runtime::exec::{ExecConfig, cgroup2_root, masked_dirs};
use crate::runtime::{Runtimes, TaskInstance, TaskRuntime};

/// Longest wait for starts and stops of tasks that are under way: killing a task takes its grace time.
const SETTLE: Duration = Duration::from_secs(15);

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

/// What was removed, a line each, and what could not be.
#[derive(Debug, Default)]
pub struct SweptOut {
    pub removed: Vec<String>,
    pub failed: Vec<String>,
}

impl SweptOut {
    fn tried<E: std::fmt::Display>(&mut self, what: impl Into<String>, outcome: Result<(), E>) {
        match outcome {
            Ok(()) => self.removed.push(what.into()),
            Err(error) => self.failed.push(format!("{error:#}")),
        }
    }

    /// All that was removed, or all that was not in one line.
    pub fn into_result(self) -> anyhow::Result<Vec<String>> {
        if self.failed.is_empty() {
            return Ok(self.removed);
        }
        anyhow::bail!("not everything could be removed: {}", self.failed.join("; "))
    }
}

/// After the cluster was told: nothing runs on, nothing is remembered.
pub async fn leave(agent: &Arc<Agent>, member: &Arc<Member>) -> anyhow::Result<()> {
    member.leave().await;
    let swept = sweep_out(agent, Some(member)).await;
    forget(&agent.args.state_dir);
    swept.into_result().map(drop)
}

/// Everything out of the kernel and off the process table; the identity stays.
pub async fn sweep_out(agent: &Agent, member: Option<&Member>) -> SweptOut {
    let mut swept = SweptOut::default();
    if let Some(member) = member {
        member.end().await;
        member.tasks.settle(SETTLE).await;
        let (tasks, failed) = member.tasks.stop_all(member).await;
        if tasks > 0 {
            swept.removed.push(format!("{tasks} tasks"));
        }
        swept.failed.extend(failed);
        let_guests_go(&mut swept, &agent.args.state_dir);
        member.runtime.close();
        swept.tried("the resolver", member.kernel.stop_resolver().await);
    } else {
        containers_left(&mut swept, &agent.args).await;
    }
    from_kernel(&mut swept, &agent.net, &agent.args.bpf_dir).await;
    swept
}

/// What containers that joined were given besides their links.
fn let_guests_go(swept: &mut SweptOut, state_dir: &Path) {
    match Guests::of(state_dir).let_all_go() {
        Ok(0) => {}
        Ok(guests) => swept.removed.push(format!("{guests} containers are disconnected and run on")),
        Err(error) => swept.failed.push(format!("find the containers that joined: {error}")),
    }
}

async fn from_kernel(swept: &mut SweptOut, net: &HostNet, bpf_dir: &Path) {
    match net.purge().await {
        Ok(converged) => {
            swept.removed.extend(converged.done.iter().filter_map(taken));
            swept.failed.extend(converged.failed.iter().map(|(_, error)| error.to_string()));
        }
        Err(error) => swept.failed.push(error.to_string()),
    }
    filters_too(swept);
    if bpf_dir.exists() {
        swept.tried(format!("programs and maps in {}", bpf_dir.display()), Dataplane::purge(bpf_dir));
    }
}

/// Where the kernel has no TCX: filters on links that are the host's.
fn filters_too(swept: &mut SweptOut) {
    let (removed, failed) = filters::remove_all();
    swept.removed.extend(removed);
    swept.failed.extend(failed);
}

/// What a step took away, as users know it; None where it took nothing.
fn taken(op: &NetOp) -> Option<String> {
    match op {
        NetOp::RemoveMesh0 => Some("the device mesh0".into()),
        NetOp::RemoveAddress(addr) => Some(format!("the address {addr} of mesh0")),
        NetOp::RemoveRoute(subnet) => Some(format!("the route to {subnet}")),
        NetOp::RemoveTaskLink(name) => Some(format!("the link {name}")),
        NetOp::ReleasePort(port) => Some(format!("the hold on port {port}")),
        NetOp::RestoreSysctl(key) => Some(format!("our value of {key}, which is as it was before")),
        NetOp::AddMesh0(_)
        | NetOp::SetMesh0(_)
        | NetOp::AddAddress(_)
        | NetOp::SetRoute(..)
        | NetOp::AddTaskLink(_)
        | NetOp::SetTaskLink(_)
        | NetOp::HoldPort(_)
        | NetOp::SetSysctl { .. } => None,
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
    let mut swept = SweptOut::default();
    match NodeIdentity::load(&args.state_dir) {
        Ok(identity) => tasks_of(&mut swept, args, identity.as_ref()).await,
        Err(error) => swept.failed.push(format!("tasks are not looked for: {error}")),
    }
    let_guests_go(&mut swept, &args.state_dir);
    let run_dir = args.socket.parent().map(PathBuf::from).unwrap_or_default();
    if run_dir.exists() {
        let options = ResolverOptions { run_dir, port: 53, resolv_conf: "/etc/resolv.conf".into(), upstream_port: 53 };
        let stopped = ResolverHandle::new("/proc/self/exe".into(), options).stop().await;
        swept.failed.extend(stopped.err().map(|error| error.to_string()));
    }
    let opened = std::fs::create_dir_all(&args.state_dir).map_err(anyhow::Error::from);
    match opened.and_then(|()| Ok(HostNet::open(&args.state_dir)?)) {
        Ok(net) => from_kernel(&mut swept, &net, &args.bpf_dir).await,
        Err(error) => {
            swept.failed.push(format!("links, routes and sysctls stay: {error:#}"));
            filters_too(&mut swept);
            swept.tried(format!("programs and maps in {}", args.bpf_dir.display()), Dataplane::purge(&args.bpf_dir));
        }
    }
    // What went is said also where something else did not.
    if !swept.failed.is_empty() {
        swept.removed.iter().for_each(|line| log::info!("removed: {line}"));
    }
    swept.into_result()
}

/// Containers that a cluster left behind which this node is no more in: no Engine answered when it was left. Their records tell of them.
async fn containers_left(swept: &mut SweptOut, args: &Settings) {
    if !args.state_dir.join("containers").exists() {
        return;
    }
    // No cluster's node: none of them is this one's to keep.
    let nobody = Id::from_bytes([0; 16]);
    let listed = async {
        let runtime = DockerRuntime::new(DockerConfig::new(args.state_dir.clone(), nobody))?;
        runtime.list().await.map(|tasks| (runtime, tasks))
    };
    match listed.await {
        Ok((runtime, tasks)) => {
            for TaskInstance { task_id, .. } in tasks {
                swept.tried(format!("task {}", task_id.short()), runtime.remove(&task_id).await);
            }
            runtime.close();
        }
        Err(error) => swept.failed.push(error.to_string()),
    }
}

/// Tasks that a former agent left running; of a node of no cluster, containers at most.
async fn tasks_of(swept: &mut SweptOut, args: &Settings, identity: Option<&NodeIdentity>) {
    let Some(identity) = identity else { return containers_left(swept, args).await };
    let Some(cgroup) = args.cgroup.clone().or_else(cgroup2_root) else { return };
    let masked = masked_dirs(&args.state_dir, &args.socket, &args.bpf_dir);
    let config = ExecConfig::new(args.state_dir.clone(), &identity.name().node_id, cgroup, masked);
    let docker = DockerConfig::new(args.state_dir.clone(), identity.name().node_id.clone());
    let listed = async {
        let runtime = Runtimes::new(config, docker, &args.runtimes)?;
        runtime.list().await.map(|tasks| (runtime, tasks))
    };
    match listed.await {
        Ok((runtime, tasks)) => {
            for TaskInstance { task_id, .. } in tasks {
                swept.tried(format!("task {}", task_id.short()), runtime.remove(&task_id).await);
            }
        }
        Err(error) => swept.failed.push(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn containers_of_a_cluster_that_was_left_are_looked_for_by_their_records() {
        let folder = tempfile::tempdir().unwrap();
        let dir = |name: &str| folder.path().join(name);
        let args = Settings {
            name: None,
            socket: dir("mesh.sock"),
            state_dir: dir("state"),
            bpf_dir: dir("bpf"),
            cgroup: None,
            advertise_addr: None,
            listen_addr: None,
            gossip_port: None,
            data_path_addr: None,
            publish_interfaces: Vec::new(),
            fast_path: true,
            tc: crate::agent::TcMode::Auto,
            xdp: crate::agent::XdpMode::Auto,
            flow_entries: None,
            flood_threshold: 0,
            runtimes: vec![crate::model::Runtime::Docker],
            verbose: 0,
        };
        std::fs::create_dir_all(dir("state/containers")).unwrap();
        let id = Id::from_bytes([7; 16]);
        let record = serde_json::json!({
            "task_id": id, "launch": null, "container": "mesh-test-no-such-container", "process": null, "gate": null,
            "started_at": null, "is_checked": false, "stop_signal": null, "exit": {"code": 0, "signal": null, "error": null, "at": 1},
        });
        let file = dir("state/containers").join(format!("{}.json", id.as_str()));
        std::fs::write(&file, record.to_string()).unwrap();
        let mut swept = SweptOut::default();
        tasks_of(&mut swept, &args, None).await;
        // Without an Engine it can't be removed, and that is said; with one there is nothing any more.
        let is_said = swept.failed.iter().any(|error| error.contains(id.short()));
        assert_ne!(is_said, swept.removed.contains(&format!("task {}", id.short())), "{swept:?}");
        assert_eq!(file.exists(), is_said, "{swept:?}");
    }

    #[test]
    fn what_was_taken_away_is_said_in_words() {
        let port =
            crate::plan::net::HeldPort { transport: crate::plan::net::Transport::Tcp, port: 9002, address: None };
        let done =
            [NetOp::ReleasePort(port), NetOp::HoldPort(port), NetOp::RestoreSysctl("net.ipv4.ip_forward".into())];
        let said: Vec<String> = done.iter().filter_map(taken).collect();
        assert_eq!(said, ["the hold on port 9002/tcp", "our value of net.ipv4.ip_forward, which is as it was before"]);
    }

    #[test]
    fn every_part_that_failed_is_named_and_none_hides_the_others() {
        let mut swept = SweptOut::default();
        swept.tried("one", Err("the first is stuck"));
        swept.tried("two", Ok::<(), String>(()));
        swept.tried("three", Err("the third is stuck"));
        assert_eq!(swept.removed, ["two"]);
        let said = swept.into_result().expect_err("two parts failed").to_string();
        assert!(said.contains("the first is stuck; the third is stuck"), "{said}");
    }
}
