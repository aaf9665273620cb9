//! A member's life: begun by init, join or a restart, kept going by loops, ended by leaving or with the agent.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::desired::load_cache;
use super::member::{Keeper, Member, store_path};
use super::ports::{Asked, Place, Ports};
use super::{Agent, adoption, lead, ports, reach, renewal};
use crate::api::tls::{self, ServeLimits};
use crate::doctor::Occasion;
use crate::leader::command::DEFAULT_DATA_PATH_PORT;
use crate::membership::Seed;
use crate::membership::identity::{ClusterSecrets, NodeIdentity};
use crate::model::{Cluster, Id};
use crate::runtime::TaskEvent;
use crate::store::{EmbeddedStore, objects};

/// Goes on where a former agent was; None on a node that is in no cluster.
pub async fn resume(agent: &Arc<Agent>) -> anyhow::Result<Option<Arc<Member>>> {
    let state_dir = &agent.args.state_dir;
    let Some(identity) = NodeIdentity::load(state_dir)? else { return Ok(None) };
    let (cluster, keeper) = match ClusterSecrets::load(state_dir)? {
        Some(secrets) => {
            let store = EmbeddedStore::open(store_path(state_dir)).await?;
            let cluster = objects::load_cluster(&store).await?;
            (cluster, Some(Keeper { store, secrets: Mutex::new(secrets), door: Mutex::default() }))
        }
        None => (load_cache(state_dir)?, None),
    };
    let me = cluster.nodes.get(&identity.name().node_id);
    let data_port = cluster.settings.as_ref().map_or(DEFAULT_DATA_PATH_PORT, |settings| settings.data_path_port);
    let place = match me {
        Some(node) => {
            let place = Place::of(node);
            place.warn_of_others(&agent.args);
            place
        }
        None => ports::choose(&agent.net, &agent.args, &Asked::default()).await?,
    };
    let ports = Ports::take(&agent.net, &place, data_port, Occasion::Start).await?;
    begin(agent, identity, cluster, keeper, Vec::new(), ports).await.map(Some)
}

/// Starts all that a member does. `seeds` are members known besides those of `cluster`.
pub async fn begin(
    agent: &Arc<Agent>,
    identity: NodeIdentity,
    cluster: Cluster,
    keeper: Option<Keeper>,
    seeds: Vec<Seed>,
    ports: Ports,
) -> anyhow::Result<Arc<Member>> {
    let identity = Arc::new(identity);
    let (member, events) = Member::assemble(agent, identity.clone(), cluster, keeper, seeds, ports.gossip).await?;
    spawn_loops(&member, agent, &identity, ports.api, events)?;
    Ok(member)
}

fn spawn_loops(
    this: &Arc<Member>,
    agent: &Arc<Agent>,
    identity: &Arc<NodeIdentity>,
    listener: TcpListener,
    events: mpsc::UnboundedReceiver<TaskEvent>,
) -> anyhow::Result<()> {
    let (config_keeper, config) = watch::channel(tls::server_config(identity)?);
    let router = (agent.cluster_router)(agent, this);
    let mut loops = this.loops.lock().unwrap_or_else(PoisonError::into_inner);
    let member = this.clone();
    loops.spawn(async move {
        let is_revoked = move |id: &Id, fingerprint: &str| member.is_revoked(id, fingerprint);
        tls::serve(listener, config, router, is_revoked, ServeLimits::default(), std::future::pending()).await;
    });
    let (member, identity) = (this.clone(), identity.clone());
    loops.spawn(async move { renewal::run(&member, identity, config_keeper).await });
    let member = this.clone();
    loops.spawn(async move { member.merge_observed().await });
    let member = this.clone();
    loops.spawn(async move { member.tell_members().await });
    let member = this.clone();
    loops.spawn(async move {
        match &member.keeper {
            Some(keeper) => member.desired.mirror(&keeper.store).await,
            None => member.desired.follow(&member.dialer).await,
        }
    });
    if this.keeper.is_some() {
        let member = this.clone();
        loops.spawn(async move {
            if let Some(keeper) = &member.keeper {
                lead::run(&member, keeper).await;
            }
        });
    }
    let member = this.clone();
    loops.spawn(async move { member.tasks.clone().run(&member, events).await });
    let member = this.clone();
    loops.spawn(async move { adoption::run(&member).await });
    let member = this.clone();
    loops.spawn(async move { member.kernel.run(&member).await });
    let member = this.clone();
    loops.spawn(async move { member.kernel.sweep().await });
    let member = this.clone();
    loops.spawn(async move { member.kernel.serve_names(&member).await });
    let member = this.clone();
    loops.spawn(async move { reach::run(&member).await });
    let member = this.clone();
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
