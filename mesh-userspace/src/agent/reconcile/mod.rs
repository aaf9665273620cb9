//! The funnel at work: facts → pure plans → differences → the edges apply them. The only place that changes this host's network, the
//! BPF maps and the resolver's zone.
//!
//! A round is cheap when nothing changed, so every doubt makes one: a change of the desired or observed state, of a link or address, a
//! task that was prepared, and a slow clock. What fails is said, kept as a warning, and tried again in the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_common::family::Family;
use mesh_common::schema;
use mesh_common::verdict::{DropReason, Hook};
use tokio::sync::Notify;

mod facts;
mod sweeping;
mod unhealthy;

use sweeping::Partings;
use unhealthy::Unhealthy;

use super::member::Member;
use super::names::Names;
use super::watch::Watch;
use super::{Settings, XdpMode, xdp};
use crate::dns::ResolverHandle;
use crate::doctor::Xdp;
use crate::kernel::bpf::{Attachment, BpfError, Dataplane, Events, FlowTable, Lookups, clock};
use crate::kernel::net::{HostNet, NetError, namespace};
use crate::model::{Cluster, Id, NodeStatus, Observed, Task};
use crate::plan::maps::{self, Facts, Programmed};
use crate::plan::net::{self, MESH0, NetImage, NetOp, Underlay, Uplink};

/// A round at least so often.
const EVERY: Duration = Duration::from_secs(10);

/// The kernel's and the resolver's side of this node.
pub struct Kernel {
    net: Arc<HostNet>,
    dataplane: Mutex<Dataplane>,
    /// What the maps hold, by the last round.
    programmed: Arc<Mutex<Programmed>>,
    flows: Arc<FlowTable>,
    watch: Watch,
    /// Backends went or fell silent: their flows are to be told now.
    sweep_now: Notify,
    names: Names,
    /// Unhealthy tasks by the last round.
    unhealthy: Mutex<Unhealthy>,
    /// Task id → its network namespace, while it lives.
    namespaces: Mutex<BTreeMap<Id, PathBuf>>,
    publish_interfaces: Vec<String>,
    fast_path: bool,
    xdp_mode: XdpMode,
    /// What the last round had in the drivers.
    xdp: Mutex<Option<Xdp>>,
    flood_threshold: u32,
    netns_cookie: u64,
    /// One round at a time.
    turn: tokio::sync::Mutex<()>,
    /// The node leaves or the agent ends: no further round.
    closed: AtomicBool,
    /// The underlay as it was when it could last be read.
    underlay: Mutex<Option<Underlay>>,
    kick: Notify,
    /// Node number and interface index of mesh0, once it is there.
    mesh0: Mutex<Option<(u32, u32)>>,
    /// What the last round could not do.
    troubles: Mutex<Troubles>,
    /// What the check-up found wrong with this node, for the others to see.
    notes: Mutex<Vec<String>>,
    /// Revision of the last round that was applied whole.
    applied: Mutex<u64>,
}

/// What a round could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Troubles {
    ports_not_taken: Vec<net::HeldPort>,
    warnings: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    pub fn open(
        net: Arc<HostNet>,
        dataplane: Dataplane,
        resolver: ResolverHandle,
        args: &Settings,
    ) -> anyhow::Result<Self> {
        let programmed = Programmed::from_tables(dataplane.tables()?, dataplane.ring_slots()?);
        let flows = Arc::new(dataplane.flow_table()?);
        Ok(Kernel {
            net,
            dataplane: Mutex::new(dataplane),
            programmed: Arc::new(Mutex::new(programmed)),
            flows,
            watch: Watch::default(),
            sweep_now: Notify::new(),
            names: Names::new(resolver),
            unhealthy: Mutex::default(),
            namespaces: Mutex::default(),
            publish_interfaces: args.publish_interfaces.clone(),
            fast_path: args.fast_path,
            flood_threshold: args.flood_threshold,
            xdp_mode: args.xdp,
            xdp: Mutex::default(),
            netns_cookie: namespace::cookie()?,
            turn: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            underlay: Mutex::default(),
            kick: Notify::new(),
            mesh0: Mutex::default(),
            troubles: Mutex::default(),
            notes: Mutex::default(),
            applied: Mutex::default(),
        })
    }

    /// A task's namespace, from its preparation on.
    pub fn set_namespace(&self, task: Id, netns: PathBuf) {
        lock(&self.namespaces).insert(task, netns);
    }

    /// The task has ended.
    pub fn forget_namespace(&self, task: &Id) {
        lock(&self.namespaces).remove(task);
    }

    /// Node number and interface index of mesh0.
    pub fn mesh0(&self) -> Option<(u32, u32)> {
        *lock(&self.mesh0)
    }

    /// Sequence numbers of the last echoes answered, by node number.
    pub fn echoes(&self) -> anyhow::Result<BTreeMap<u32, u64>> {
        let echoes = lock(&self.dataplane).echoes()?;
        Ok(echoes.into_iter().map(|(node, echo)| (node, echo.sequence)).collect())
    }

    /// Numbers of the peers that the programs hold for unreachable, by what is programmed: a former agent's word, before the first round.
    pub fn unreachable_peers(&self) -> BTreeSet<u32> {
        let programmed = lock(&self.programmed);
        let silent =
            programmed.tables().peers.iter().filter(|(_, peer)| peer.flags & schema::peer_flag::UNREACHABLE != 0);
        silent.map(|(number, _)| *number).collect()
    }

    /// Number and time (ns, monotonic) of the last echo that this node answered.
    pub fn echo_of(&self, node: u32) -> Option<(u64, u64)> {
        let echo = lock(&self.dataplane).echo(node).ok()??;
        Some((echo.sequence, echo.answered_ns))
    }

    /// Largest packet of a task of a node with this data path address, once the underlay is known.
    pub fn overlay_mtu(&self, data_path: IpAddr) -> Option<u32> {
        lock(&self.underlay).map(|underlay| underlay.mtu.saturating_sub(net::overhead(data_path)))
    }

    /// The flow table, to look at.
    pub fn flow_table(&self) -> Arc<FlowTable> {
        self.flows.clone()
    }

    /// Who listens to the programs.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What the programs tell, for the only one who reads it.
    pub fn events(&self) -> Result<Events, BpfError> {
        lock(&self.dataplane).events()
    }

    /// Tells the programs to tell, until this second of their clock.
    pub fn tell(&self, sample: u32, until_s: u32) -> Result<(), BpfError> {
        lock(&self.dataplane).watch(sample, until_s)
    }

    /// The maps of a family, to be asked.
    pub fn lookups<F: Family>(&self) -> Result<Lookups<F>, BpfError> {
        lock(&self.dataplane).lookups()
    }

    /// Names of this host's links, and the link by which its routes lead to an address: for a task's packet as the programs ask.
    pub async fn ways(
        &self,
        from: Option<IpAddr>,
        to: IpAddr,
    ) -> anyhow::Result<(std::collections::HashMap<u32, String>, Option<u32>)> {
        let mesh0 = self.mesh0().map_or(0, |(_, ifindex)| ifindex);
        Ok((self.net.link_names().await?, self.net.way_out(from, to, mesh0).await?))
    }

    /// Drops since the programs were loaded, by hook and reason.
    pub fn drops(&self) -> anyhow::Result<Vec<(Hook, DropReason, u64)>> {
        Ok(lock(&self.dataplane).drops()?)
    }

    /// Tasks of this node that run, with their network namespaces.
    pub fn namespaces(&self) -> BTreeMap<Id, PathBuf> {
        lock(&self.namespaces).clone()
    }

    /// What is wrong with this node besides what a round can't do; reported with the next round.
    pub fn set_notes(&self, notes: Vec<String>) {
        *lock(&self.notes) = notes;
        self.kick();
    }

    /// A task that was prepared must have its link now, and the programs must know it.
    pub async fn check_task(&self, task: &Task) -> anyhow::Result<()> {
        let missing = {
            let programmed = lock(&self.programmed);
            let known = &programmed.tables().endpoints;
            let is_missing = |addr: &IpAddr| known.get(addr).is_none_or(|endpoint| endpoint.ifindex == 0);
            task.attachments.iter().flat_map(|at| at.addrs.each()).find(is_missing)
        };
        match missing {
            None => Ok(()),
            Some(addr) => anyhow::bail!("its address {addr} could not be set up: {}", self.warnings().join("; ")),
        }
    }

    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// No round begins after this.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Rounds for ever.
    pub async fn run(&self, member: &Member) {
        let (mut desired, mut observed) = (member.desired.watch(), member.observed_watch());
        let mut changes = self.net.changes().map_err(|error| log::warn!("{error}")).ok();
        loop {
            self.round(member).await;
            let host_changed = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = desired.changed() => {}
                _ = observed.changed() => {}
                // A broken socket is given up; the slow clock goes on, and opens another.
                news = host_changed => if news.is_none() {
                    changes = None;
                },
                () = self.kick.notified() => {}
                () = tokio::time::sleep(EVERY) => if changes.is_none() {
                    changes = self.net.changes().ok();
                },
            }
        }
    }

    /// One round on the facts of this moment; when it returns, they are applied as far as they can be.
    pub async fn round(&self, member: &Member) {
        let _turn = self.turn.lock().await;
        if self.is_closed() {
            return;
        }
        let (cluster, observed) = (member.desired.get(), member.observed());
        let mut troubles = Troubles::default();
        let mut without = BTreeSet::new();
        match self.apply(member, &cluster, &observed, &mut troubles).await {
            Ok(partings) => {
                // Before it is told that this round is applied: then a task that leaves is signalled.
                if partings.leaves {
                    self.sweep_once().await;
                }
                *lock(&self.applied) = cluster.revision;
                without = lock(&self.unhealthy).follow(&observed.tasks);
            }
            Err(error) => troubles.warnings.push(format!("{error:#}")),
        }
        // Last, for a resolver that hangs must not hold up packets; still within the round, so that a task that starts finds its zone.
        troubles.warnings.extend(self.names.round(&cluster, &observed, &member.id).await);
        let interfaces = match self.interfaces(&cluster).await {
            Ok(interfaces) => interfaces,
            Err(error) => {
                troubles.warnings.push(error.to_string());
                // What was said before may still be so.
                observed.nodes.get(&member.id).map(|status| status.interfaces.clone()).unwrap_or_default()
            }
        };
        let is_new = {
            let mut last = lock(&self.troubles);
            let is_new = *last != troubles;
            *last = troubles.clone();
            is_new
        };
        if is_new {
            troubles.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        }
        let (runtimes, engine_version) = member.runtime.available();
        member.set_node_status(NodeStatus {
            generation: member.generation,
            agent_version: env!("CARGO_PKG_VERSION").to_string(),
            applied_revision: *lock(&self.applied),
            layout_version: schema::LAYOUT_VERSION,
            ports_not_taken: troubles.ports_not_taken.iter().map(as_reported).collect(),
            runtimes: Some(runtimes),
            engine_version,
            without,
            interfaces,
            warnings: [troubles.warnings, lock(&self.notes).clone(), member.adoption.warnings()].concat(),
        });
    }

    /// What the last round could not do, and a flood while it is on, for `mesh status`.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = lock(&self.troubles).warnings.clone();
        match self.flows.flood(clock::now_s()) {
            Ok(flood) => warnings.extend(flood.warning(self.flood_threshold)),
            Err(error) => warnings.push(error.to_string()),
        }
        warnings
    }

    async fn apply(
        &self,
        member: &Member,
        cluster: &Arc<Cluster>,
        observed: &Arc<Observed>,
        troubles: &mut Troubles,
    ) -> anyhow::Result<Partings> {
        let Some(node) = cluster.nodes.get(&member.id) else {
            anyhow::bail!(
                "this node is not (or no longer) a member of the cluster: leave with 'mesh swarm leave --force' and join again"
            );
        };
        let peers: Vec<IpAddr> =
            cluster.nodes.values().filter(|peer| peer.id != node.id).map(|peer| peer.data_path_addr).collect();
        let underlay = self.underlay(node.data_path_addr, &peers, troubles).await?;
        let image = net::compile(cluster, observed, &member.id, &underlay);
        self.converge(&image, troubles).await?;
        let mut facts = self.facts(member, &image, &underlay, &troubles.ports_not_taken).await?;
        facts.next_hops = self.next_hops(node.data_path_addr, &image, &peers, troubles).await;
        facts.protected = self.protected(node.data_path_addr, &image, &peers, troubles);
        *lock(&self.mesh0) = Some((node.number, facts.mesh0));
        self.attach(&image, &facts, troubles).await?;
        self.write_maps(cluster, observed, &facts, troubles)
    }

    async fn converge(&self, image: &NetImage, troubles: &mut Troubles) -> anyhow::Result<()> {
        let namespaces = lock(&self.namespaces).clone();
        let namespace_of = move |task: &Id| File::open(namespaces.get(task)?).ok().map(OwnedFd::from);
        let attach = |ifindex: u32| {
            let mut dataplane = lock(&self.dataplane);
            let both = [Hook::FromOverlay, Hook::FromHost].map(|hook| Attachment::new(hook, MESH0, ifindex));
            both.iter().try_for_each(|attachment| dataplane.ensure(attachment)).map_err(|error| error.to_string())
        };
        let converged = self.net.converge(image, &namespace_of, &attach).await?;
        for op in &converged.done {
            log::debug!("network: {op:?}");
        }
        for (op, error) in converged.failed {
            match (&op, &error) {
                (NetOp::HoldPort(port), NetError::PortInUse { .. }) => {
                    troubles.ports_not_taken.push(*port);
                    troubles.warnings.push(error.to_string());
                }
                _ => troubles.warnings.push(error.to_string()),
            }
        }
        Ok(())
    }

    async fn attach(&self, image: &NetImage, facts: &Facts, troubles: &mut Troubles) -> anyhow::Result<()> {
        let mut wanted = BTreeSet::new();
        wanted.insert(Attachment::new(Hook::FromOverlay, MESH0, facts.mesh0));
        wanted.insert(Attachment::new(Hook::FromHost, MESH0, facts.mesh0));
        for link in image.task_links.values() {
            if let Some(ifindex) = facts.task_links.get(&link.task_id) {
                wanted.insert(Attachment::new(Hook::FromTask, &link.name, *ifindex));
            }
        }
        let uplinks = self.uplinks().await?;
        for uplink in &uplinks {
            wanted.insert(Attachment::new(Hook::FromUplink, &uplink.name, uplink.ifindex));
        }
        let errors = lock(&self.dataplane).attach(&wanted);
        troubles.warnings.extend(errors.iter().map(ToString::to_string));
        self.attach_xdp(&uplinks, troubles);
        Ok(())
    }

    /// The drivers' hook: what is refused there, TC does.
    fn attach_xdp(&self, uplinks: &[Uplink], troubles: &mut Troubles) {
        let choice = xdp::choose(self.xdp_mode, uplinks);
        let refused = lock(&self.dataplane).attach_xdp(&choice.wanted);
        let found = xdp::report(self.xdp_mode, &choice, &refused);
        troubles.warnings.extend(found.complaints());
        let mut last = lock(&self.xdp);
        if last.as_ref() != Some(&found) {
            log::info!("XDP: {}", found.summary);
            *last = Some(found);
        }
    }

    /// What the drivers of the uplinks run of ours; None before the first round.
    pub fn xdp(&self) -> Option<Xdp> {
        lock(&self.xdp).clone()
    }

    fn write_maps(
        &self,
        cluster: &Arc<Cluster>,
        observed: &Arc<Observed>,
        facts: &Facts,
        troubles: &mut Troubles,
    ) -> anyhow::Result<Partings> {
        let mut programmed = lock(&self.programmed);
        let maps::Round { ops, refused, .. } = programmed.round(cluster, observed, facts);
        troubles.warnings.extend(refused.iter().map(ToString::to_string));
        let mut dataplane = lock(&self.dataplane);
        for op in &ops {
            if let Err(error) = dataplane.apply(op) {
                programmed.forget();
                // What the maps hold now is read back, so that the next round starts from the truth.
                *programmed = Programmed::from_tables(dataplane.tables()?, dataplane.ring_slots()?);
                return Err(error.into());
            }
        }
        let partings = Partings::of(&ops, programmed.tables());
        programmed.done(&ops);
        if partings.lost {
            self.sweep_now.notify_one();
        }
        Ok(partings)
    }

    /// Follows names that are too many for a round, for ever.
    pub async fn serve_names(&self, member: &Member) {
        self.names.run(&member.id, || (member.desired.get(), member.observed())).await;
    }

    /// Ends the resolver, as leaving and purging do.
    pub async fn stop_resolver(&self) -> anyhow::Result<()> {
        self.names.stop().await
    }
}

/// `tcp/8000`, or `tcp/192.0.2.1:8000`, as `service ps` looks for it.
fn as_reported(port: &net::HeldPort) -> String {
    let transport = match port.transport {
        net::Transport::Tcp => "tcp",
        net::Transport::Udp => "udp",
    };
    match port.address {
        Some(addr) => format!("{transport}/{}", std::net::SocketAddr::new(addr, port.port)),
        None => format!("{transport}/{}", port.port),
    }
}
