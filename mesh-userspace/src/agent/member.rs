//! A node's life in a cluster: everything that exists from init or join (or a restart) to leave.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::desired::{Desired, load_cache};
use super::reconcile::Kernel;
use super::remembered::Remembered;
use super::tasks::Tasks;
use super::{Agent, cluster_routes, lead, now, reach};
use crate::api::tls::{self, API_PORT, Dialer, ServeLimits};
use crate::dns::{ResolverHandle, ResolverOptions};
use crate::kernel::bpf::Dataplane;
use crate::membership::identity::{ClusterSecrets, NodeIdentity, next_generation};
use crate::membership::join::JoinDoor;
use crate::membership::{Config, GOSSIP_PORT, Membership, Seed};
use crate::model::{Cluster, Id, NodeStatus, Observed, UnixMs};
use crate::runtime::docker::DockerConfig;
use crate::runtime::exec::{ExecConfig, masked_dirs};
use crate::runtime::{Runtimes, TaskEvent, TaskRuntime};
use crate::store::{EmbeddedStore, objects};

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
    pub tasks: Arc<Tasks>,
    state_dir: PathBuf,
    loops: Mutex<JoinSet<()>>,
    last_status: Mutex<Option<NodeStatus>>,
    remembered: Remembered,
}

/// Where the embedded store is.
pub fn store_path(state_dir: &std::path::Path) -> PathBuf {
    state_dir.join("store.redb")
}

impl Member {
    /// Goes on where a former agent was; None on a node that is in no cluster.
    pub async fn resume(agent: &Arc<Agent>) -> anyhow::Result<Option<Arc<Member>>> {
        let state_dir = &agent.args.state_dir;
        let Some(identity) = NodeIdentity::load(state_dir)? else { return Ok(None) };
        let listener = listen().await?;
        let (cluster, keeper) = match ClusterSecrets::load(state_dir)? {
            Some(secrets) => {
                let store = EmbeddedStore::open(store_path(state_dir)).await?;
                let cluster = objects::load_cluster(&store).await?;
                (cluster, Some(Keeper { store, secrets: Mutex::new(secrets), door: Mutex::default() }))
            }
            None => (load_cache(state_dir)?, None),
        };
        Member::begin(agent, identity, cluster, keeper, Vec::new(), listener).await.map(Some)
    }

    /// Starts all that a member does. `seeds` are members known besides those of `cluster`.
    pub async fn begin(
        agent: &Arc<Agent>,
        identity: NodeIdentity,
        cluster: Cluster,
        keeper: Option<Keeper>,
        seeds: Vec<Seed>,
        listener: TcpListener,
    ) -> anyhow::Result<Arc<Member>> {
        let args = &agent.args;
        let id = identity.name().node_id.clone();
        let advertise = match cluster.nodes.get(&id) {
            Some(node) => node.advertise_addr,
            None => agent.net.resolve_address("--advertise-addr", args.advertise_addr.as_deref()).await?,
        };
        let dataplane = Dataplane::open(&args.bpf_dir, &agent.cgroup)?;
        let run_dir = args.socket.parent().map(PathBuf::from).unwrap_or_default();
        let options = ResolverOptions { run_dir, port: 53, resolv_conf: "/etc/resolv.conf".into(), upstream_port: 53 };
        let resolver = ResolverHandle::new("/proc/self/exe".into(), options);
        let kernel = Kernel::open(agent.net.clone(), dataplane, resolver, args.publish_interfaces.clone())?;
        let masked = masked_dirs(&args.state_dir, &args.socket, &args.bpf_dir);
        let exec = ExecConfig::new(args.state_dir.clone(), &id, agent.cgroup.clone(), masked);
        let docker = DockerConfig::new(args.state_dir.clone(), id.clone());
        let runtime = Runtimes::new(exec, docker, &args.runtimes)?;
        let generation = next_generation(&args.state_dir, now())?;
        let membership = Membership::start(Config {
            node_id: id.clone(),
            generation,
            bind: SocketAddr::new(unspecified(advertise), GOSSIP_PORT),
            advertise: SocketAddr::new(advertise, GOSSIP_PORT),
            keys: identity.gossip_keys().clone(),
            seeds: seeds.into_iter().chain(seeds_of(&cluster)).filter(|seed| seed.id != id).collect(),
        })
        .await?;
        let identity = Arc::new(identity);
        let member = Arc::new(Member {
            id,
            generation,
            dialer: Dialer::new(identity.clone()),
            desired: Desired::new(cluster, &args.state_dir, keeper.is_some()),
            membership,
            unreachable: watch::Sender::default(),
            observed: watch::Sender::default(),
            keeper,
            kernel,
            runtime,
            tasks: Arc::default(),
            state_dir: args.state_dir.clone(),
            loops: Mutex::default(),
            last_status: Mutex::default(),
            remembered: Remembered::load(&args.state_dir),
        });
        // What a former agent started is known before the first question is answered.
        let mut first = Observed::default();
        member.remembered.complete(&mut first, &member.desired.get(), &member.id);
        member.observed.send_replace(Arc::new(first));
        let events = member.runtime.events();
        member.tasks.adopt(&member).await.context("find the tasks of a former agent")?;
        member.see_own_reports().await;
        member.clone().spawn_loops(agent, &identity, listener, events)?;
        Ok(member)
    }

    fn spawn_loops(
        self: Arc<Self>,
        agent: &Arc<Agent>,
        identity: &NodeIdentity,
        listener: TcpListener,
        events: mpsc::UnboundedReceiver<TaskEvent>,
    ) -> anyhow::Result<()> {
        let (config_keeper, config) = watch::channel(tls::server_config(identity)?);
        let router = cluster_routes::router(agent, &self);
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let member = self.clone();
        loops.spawn(async move {
            let is_revoked = move |id: &Id, fingerprint: &str| member.is_revoked(id, fingerprint);
            tls::serve(listener, config, router, is_revoked, ServeLimits::default(), std::future::pending()).await;
            drop(config_keeper);
        });
        let member = self.clone();
        loops.spawn(async move { member.merge_observed().await });
        let member = self.clone();
        loops.spawn(async move { member.tell_members().await });
        let member = self.clone();
        loops.spawn(async move {
            match &member.keeper {
                Some(keeper) => member.desired.mirror(&keeper.store).await,
                None => member.desired.follow(&member.dialer).await,
            }
        });
        if self.keeper.is_some() {
            let member = self.clone();
            loops.spawn(async move {
                if let Some(keeper) = &member.keeper {
                    lead::run(&member, keeper).await;
                }
            });
        }
        let member = self.clone();
        loops.spawn(async move { member.tasks.clone().run(&member, events).await });
        let member = self.clone();
        loops.spawn(async move { member.kernel.run(&member).await });
        let member = self.clone();
        loops.spawn(async move { member.kernel.sweep().await });
        let member = self.clone();
        loops.spawn(async move { reach::run(&member).await });
        let member = self.clone();
        // An Engine that came or went is reported at once.
        loops.spawn(async move {
            loop {
                let (_, version) = member.runtime.available();
                member.kernel.kick();
                member.runtime.changed(&version).await;
            }
        });
        Ok(())
    }

    /// Gossip shows our own reports a moment after they are made: the first round must not take running tasks out of the tables.
    async fn see_own_reports(&self) {
        let (mut gossip, reported) = (self.membership.observed(), self.tasks.reported());
        let are_shown = |observed: &Arc<Observed>| reported.iter().all(|id| observed.tasks.contains_key(id));
        if tokio::time::timeout(Duration::from_secs(1), gossip.wait_for(are_shown)).await.is_err() {
            log::warn!("gossip does not show the tasks that were adopted: their traffic may pause for a moment");
        }
        let mut observed = (**gossip.borrow()).clone();
        self.remembered.complete(&mut observed, &self.desired.get(), &self.id);
        self.observed.send_replace(Arc::new(observed));
    }

    /// A node that is removed, or shows another certificate than it joined with.
    fn is_revoked(&self, id: &Id, fingerprint: &str) -> bool {
        let cluster = self.desired.get();
        if cluster.nodes.is_empty() {
            return false; // nothing heard yet: the certificate's signature has to do
        }
        cluster.nodes.get(id).is_none_or(|node| node.cert_fingerprint != fingerprint)
    }

    /// Everything observed, echo included.
    pub fn observed(&self) -> Arc<Observed> {
        self.observed.borrow().clone()
    }

    pub fn observed_watch(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.subscribe()
    }

    /// Gossip and echo into one view, for ever.
    async fn merge_observed(&self) {
        let (mut gossip, mut unreachable) = (self.membership.observed(), self.unreachable.subscribe());
        loop {
            let mut observed = (**gossip.borrow_and_update()).clone();
            observed.unreachable_since = unreachable.borrow_and_update().clone();
            self.remembered.complete(&mut observed, &self.desired.get(), &self.id);
            let is_new = self.observed.send_if_modified(|current| {
                let is_new = **current != observed;
                if is_new {
                    *current = Arc::new(observed);
                }
                is_new
            });
            if is_new && let Err(error) = self.remembered.keep(&self.observed()) {
                log::warn!("keep what was observed: {error}");
            }
            tokio::select! {
                _ = gossip.changed() => {}
                _ = unreachable.changed() => {}
            }
        }
    }

    /// Gossip learns from the store who belongs to the cluster, for ever.
    async fn tell_members(&self) {
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
        let mut observed = self.observed_watch();
        let is_applied = |observed: &Arc<Observed>| {
            let cluster = self.desired.get();
            cluster.nodes.keys().all(|id| {
                let is_heard = observed.agent_alive.get(id).copied().unwrap_or(*id == self.id);
                let is_reached = !observed.unreachable_since.contains_key(id);
                let applied = observed.nodes.get(id).map_or(0, |status| status.applied_revision);
                !is_heard || !is_reached || applied >= revision
            })
        };
        if tokio::time::timeout(longest, observed.wait_for(is_applied)).await.is_err() {
            log::warn!("not every node has applied revision {revision} after {longest:?}");
        }
    }

    /// The agent ends; tasks, programs and resolver go on.
    pub async fn end(&self) {
        self.abort_loops();
    }

    /// The node leaves: gossip is told, and nothing of ours runs on.
    pub async fn leave(&self) {
        self.membership.leave().await;
        self.abort_loops();
    }

    fn abort_loops(&self) {
        self.kernel.close();
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    pub fn state_dir(&self) -> &std::path::Path {
        &self.state_dir
    }
}

/// Where members gossip.
pub fn seeds_of(cluster: &Cluster) -> Vec<Seed> {
    let seed = |node: &crate::model::Node| Seed {
        id: node.id.clone(),
        addr: SocketAddr::new(node.advertise_addr, GOSSIP_PORT),
    };
    cluster.nodes.values().map(seed).collect()
}

/// The listener of the cluster API; taken before anything else is begun.
pub async fn listen() -> anyhow::Result<TcpListener> {
    let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), API_PORT);
    TcpListener::bind(addr).await.with_context(|| {
        format!("listen for other nodes on {API_PORT}/tcp: is it in use? `ss -lntp 'sport = {API_PORT}'` shows by whom; end that first")
    })
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
