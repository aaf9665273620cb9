//! This node as a member of its cluster: everything that exists from init or join (or a restart) to leave, for all parts of the agent
//! to hold. Begun and ended by `lifecycle`. Must not: know who holds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::adoption::Adoption;
use super::desired::Desired;
use super::reconcile::Kernel;
use super::remembered::Remembered;
use super::tasks::Tasks;
use super::{Agent, now, ports, reach};
use crate::api::tls::Dialer;
use crate::dns::{ResolverHandle, ResolverOptions};
use crate::kernel::bpf::{Dataplane, FlowSizes};
use crate::kernel::net::filters::Clsact;
use crate::membership::identity::{ClusterSecrets, NodeIdentity, next_generation};
use crate::membership::join::JoinDoor;
use crate::membership::{Config, GossipSockets, Membership, Seed};
use crate::model::{Cluster, Id, NodeStatus, Observed, UnixMs};
use crate::runtime::docker::{DockerConfig, Guests};
use crate::runtime::exec::{ExecConfig, masked_dirs};
use crate::runtime::{Runtimes, TaskEvent, TaskRuntime};
use crate::store::EmbeddedStore;

/// What only the store's node has.
pub struct Keeper {
    pub store: EmbeddedStore,
    pub secrets: Mutex<ClusterSecrets>,
    pub door: Mutex<JoinDoor>,
}

/// This node as a member of its cluster.
pub struct Member {
    pub id: Id,
    pub generation: u64,
    pub dialer: Dialer,
    pub desired: Desired,
    pub membership: Membership,
    /// Peers whose echo is silent, and since when.
    pub unreachable: watch::Sender<BTreeMap<Id, UnixMs>>,
    observed: watch::Sender<Arc<Observed>>,
    pub keeper: Option<Keeper>,
    pub kernel: Kernel,
    pub runtime: Runtimes,
    /// Containers of others that are tasks here.
    pub guests: Guests,
    pub adoption: Adoption,
    pub tasks: Arc<Tasks>,
    state_dir: PathBuf,
    pub loops: Mutex<JoinSet<()>>,
    last_status: Mutex<Option<NodeStatus>>,
    remembered: Remembered,
}

/// A loop ends where it waits next; a blocking call may hold one up.
const LOOPS_END: Duration = Duration::from_secs(5);

/// Where the embedded store is.
pub fn store_path(state_dir: &std::path::Path) -> PathBuf {
    state_dir.join("store.redb")
}

impl Member {
    /// Takes over what the kernel and the runtime have, and joins the gossip; the loops are `lifecycle`'s. `seeds` are members known
    /// besides those of `cluster`. The events are those of the runtime.
    pub async fn assemble(
        agent: &Agent,
        identity: Arc<NodeIdentity>,
        cluster: Cluster,
        keeper: Option<Keeper>,
        seeds: Vec<Seed>,
        sockets: GossipSockets,
    ) -> anyhow::Result<(Arc<Member>, mpsc::UnboundedReceiver<TaskEvent>)> {
        let args = &agent.args;
        let id = identity.name().node_id.clone();
        let advertise = match cluster.nodes.get(&id) {
            Some(node) => node.gossip_addr(),
            None => ports::choose(&agent.net, &agent.args, &ports::Asked::default()).await?.gossip_addr(),
        };
        let flows = FlowSizes::wanted(args.flow_entries);
        let dataplane = Dataplane::open(&args.bpf_dir, &agent.cgroup, flows, agent.tc, Box::new(Clsact))?;
        let run_dir = args.socket.parent().map(PathBuf::from).unwrap_or_default();
        let options = ResolverOptions { run_dir, port: 53, resolv_conf: "/etc/resolv.conf".into(), upstream_port: 53 };
        let resolver = ResolverHandle::new("/proc/self/exe".into(), options);
        let kernel = Kernel::open(agent.net.clone(), dataplane, resolver, args)?;
        let masked = masked_dirs(&args.state_dir, &args.socket, &args.bpf_dir);
        let exec = ExecConfig::new(args.state_dir.clone(), &id, agent.cgroup.clone(), masked);
        let docker = DockerConfig::new(args.state_dir.clone(), id.clone());
        let runtime = Runtimes::new(exec, docker, &args.runtimes)?;
        let generation = next_generation(&args.state_dir, now())?;
        let config = Config {
            node_id: id.clone(),
            generation,
            advertise,
            keys: identity.gossip_keys().clone(),
            seeds: seeds.into_iter().chain(seeds_of(&cluster)).filter(|seed| seed.id != id).collect(),
        };
        let membership = Membership::start(config, sockets);
        let member = Arc::new(Member {
            id,
            generation,
            dialer: Dialer::new(identity),
            desired: Desired::new(cluster, &args.state_dir, keeper.is_some()),
            membership,
            unreachable: watch::Sender::default(),
            observed: watch::Sender::default(),
            keeper,
            kernel,
            runtime,
            guests: Guests::of(&args.state_dir),
            adoption: Adoption::default(),
            tasks: Arc::default(),
            state_dir: args.state_dir.clone(),
            loops: Mutex::default(),
            last_status: Mutex::default(),
            remembered: Remembered::load(&args.state_dir),
        });
        // What a former agent started is known before the first question is answered.
        let silent = reach::seed(&member.desired.get(), &member.kernel.unreachable_peers(), now());
        let mut first = Observed { unreachable_since: silent.clone(), ..Observed::default() };
        member.unreachable.send_replace(silent);
        member.remembered.complete(&mut first, &member.desired.get(), &member.id);
        let events = member.runtime.events();
        member.tasks.adopt(&member).await.context("find the tasks of a former agent")?;
        member.tasks.complete(&mut first);
        member.observed.send_replace(Arc::new(first));
        Ok((member, events))
    }

    /// A node that is removed, or shows another certificate than it joined with.
    pub fn is_revoked(&self, id: &Id, fingerprint: &str) -> bool {
        let cluster = self.desired.get();
        if cluster.nodes.is_empty() {
            return false; // nothing heard yet: the certificate's signature has to do
        }
        cluster.nodes.get(id).is_none_or(|node| !node.has_certificate(fingerprint))
    }

    /// Everything observed, echo included.
    pub fn observed(&self) -> Arc<Observed> {
        self.observed.borrow().clone()
    }

    pub fn observed_watch(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.subscribe()
    }

    /// Gossip and echo into one view, for ever.
    pub async fn merge_observed(&self) {
        let (mut gossip, mut unreachable) = (self.membership.observed(), self.unreachable.subscribe());
        loop {
            let mut observed = (**gossip.borrow_and_update()).clone();
            observed.unreachable_since = unreachable.borrow_and_update().clone();
            self.remembered.complete(&mut observed, &self.desired.get(), &self.id);
            self.tasks.complete(&mut observed);
            let is_new = self.observed.send_if_modified(|current| {
                let is_new = **current != observed;
                if is_new {
                    *current = Arc::new(observed);
                }
                is_new
            });
            if is_new {
                self.remembered.keep(self.observed());
            }
            tokio::select! {
                _ = gossip.changed() => {}
                _ = unreachable.changed() => {}
            }
        }
    }

    /// Gossip learns from the store who belongs to the cluster, for ever.
    pub async fn tell_members(&self) {
        let mut desired = self.desired.watch();
        let mut told = Vec::new();
        loop {
            let seeds = seeds_of(&desired.borrow_and_update());
            if !seeds.is_empty() && seeds != told {
                self.membership.set_members(seeds.clone());
                told = seeds;
            }
            if desired.changed().await.is_err() {
                return;
            }
        }
    }

    /// Reports about this node, if the report is a new one.
    pub fn set_node_status(&self, status: NodeStatus) {
        let mut last = self.last_status.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() != Some(&status) {
            *last = Some(status.clone());
            self.membership.set_node_status(status);
        }
    }

    /// Waits until every node that can be heard has applied this revision of the desired state, for `longest` at most.
    pub async fn applied_everywhere(&self, revision: u64, longest: Duration) {
        if !self.everywhere(|status| status.applied_revision >= revision, longest).await {
            log::warn!("not every node has applied revision {revision} after {longest:?}");
        }
    }

    /// Waits until every node that can be heard is without this unhealthy task of ours, for `longest` at most.
    pub async fn out_everywhere(&self, task: &Id, longest: Duration) {
        if !self.everywhere(|status| status.without.contains(task), longest).await {
            log::warn!("not every node is without the unhealthy task {} after {longest:?}", task.short());
        }
    }

    /// Waits until this is true of every node that can be heard and reached; false where it isn't in time.
    async fn everywhere(&self, is_so: impl Fn(&NodeStatus) -> bool, longest: Duration) -> bool {
        let mut observed = self.observed_watch();
        let is_so = |observed: &Arc<Observed>| {
            let cluster = self.desired.get();
            cluster.nodes.keys().all(|id| {
                let is_heard = observed.agent_alive.get(id).copied().unwrap_or(*id == self.id);
                let is_reached = !observed.unreachable_since.contains_key(id);
                !is_heard || !is_reached || observed.nodes.get(id).is_some_and(&is_so)
            })
        };
        tokio::time::timeout(longest, observed.wait_for(is_so)).await.is_ok()
    }

    /// The agent ends; tasks, programs and resolver go on.
    pub async fn end(&self) {
        self.end_loops().await;
    }

    /// The node leaves: gossip is told, and nothing of ours runs on.
    pub async fn leave(&self) {
        self.membership.leave().await;
        self.end_loops().await;
    }

    /// Afterwards no round, sweep or answer of the cluster API is under way, and the port is free again.
    async fn end_loops(&self) {
        self.kernel.close();
        let mut loops = std::mem::take(&mut *self.loops.lock().unwrap_or_else(PoisonError::into_inner));
        if tokio::time::timeout(LOOPS_END, loops.shutdown()).await.is_err() {
            log::warn!("the agent's loops did not end within {LOOPS_END:?}");
        }
        // Before a node that leaves forgets what is on disk.
        self.desired.close();
        self.remembered.close();
    }

    pub fn state_dir(&self) -> &std::path::Path {
        &self.state_dir
    }
}

/// Where members gossip.
pub fn seeds_of(cluster: &Cluster) -> Vec<Seed> {
    let seed = |node: &crate::model::Node| Seed { id: node.id.clone(), addr: node.gossip_addr() };
    cluster.nodes.values().map(seed).collect()
}
