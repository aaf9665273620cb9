//! How this node gets into a cluster: makes one, or enters one with a token. Each is whole or leaves nothing behind.

use std::sync::Arc;

use super::member::{Keeper, Member, store_path};
use super::ports::{Asked, Ports};
use super::{Agent, desired, lifecycle, now, peers, ports, random};
use crate::api::tls;
use crate::api::{InitAnswer, InitRequest, JoinAnswer, JoinRequest};
use crate::doctor::Occasion;
use crate::kernel::bpf::Dataplane;
use crate::kernel::net::filters;
use crate::leader::{Ctx, command};
use crate::membership::Seed;
use crate::membership::identity::{CertifiedName, ClusterSecrets, JoinToken, NodeIdentity, NodeKey};
use crate::membership::join as door;
use crate::model::{API_PORT, Cluster, ControlPorts, GOSSIP_PORT, Id, Node, Role, Runtime};
use crate::runtime::docker;
use crate::store::{EmbeddedStore, Outcome, objects};

/// The runtimes that answer at this moment: a node that enters with more would be given tasks that it can't run.
async fn answering(allowed: &[Runtime]) -> Vec<Runtime> {
    let has_engine = allowed.contains(&Runtime::Docker) && docker::look().await.1.is_ok();
    allowed.iter().copied().filter(|runtime| *runtime != Runtime::Docker || has_engine).collect()
}

pub async fn begin_cluster(agent: &Arc<Agent>, request: InitRequest) -> anyhow::Result<InitAnswer> {
    let state_dir = &agent.args.state_dir;
    let asked = Asked {
        advertise: request.advertise_addr.as_deref(),
        listen: request.listen_addr.as_deref(),
        gossip_port: request.gossip_port,
    };
    let place = ports::choose(&agent.net, &agent.args, &asked).await?;
    let data_port = request.data_path_port.unwrap_or(command::DEFAULT_DATA_PATH_PORT);
    let ports = Ports::take(&agent.net, &place, data_port, Occasion::Init).await?;
    let id = Id::from_bytes(random());
    let secrets = ClusterSecrets::create(&Id::from_bytes(random()), now())?;
    let key = NodeKey::generate()?;
    let name = CertifiedName { node_id: id.clone(), role: Role::Manager };
    let signed = secrets.ca.sign(&key.csr_pem()?, &name, now())?;
    let mut init = command::InitCluster::with_defaults(command::NewNode {
        id: id.clone(),
        name: agent.name.clone(),
        role: Role::Manager,
        advertise_addr: place.advertise_addr,
        data_path_addr: place.data_path_addr,
        ports: place.ports.clone(),
        cert_fingerprint: signed.fingerprint.clone(),
        runtimes: answering(&agent.args.runtimes).await,
        routed_prefixes: agent.net.routed_prefixes().await?.into_iter().collect(),
    });
    if let Some(pool) = request.default_addr_pool.v4 {
        init.address_pool = pool;
    }
    init.address_pool6 = request.default_addr_pool.v6;
    if let Some(len) = request.default_addr_pool_mask_length {
        init.subnet_len = len;
    }
    if let Some(port) = request.data_path_port {
        init.data_path_port = port;
    }
    agent.net.check_data_port(init.data_path_port).await?;
    let commit = command::init_cluster(&Cluster::default(), init, &mut Ctx::new(now(), &mut random))?;
    let store = EmbeddedStore::open(store_path(state_dir)).await?;
    match objects::commit(&store, &commit.changes, 0).await? {
        Outcome::Committed { .. } => {}
        Outcome::Conflict => {
            anyhow::bail!("{} holds a cluster already: remove it if it is an old one", store_path(state_dir).display())
        }
    }
    let cluster = objects::load_cluster(&store).await?;
    let identity = key.certified(&signed.pem, secrets.ca.certificate_pem(), secrets.gossip_keys.clone())?;
    secrets.save(state_dir)?;
    identity.save(state_dir)?;
    let worker_token = secrets.join_token(Role::Worker).reveal().to_string();
    let keeper = Keeper { store, secrets: secrets.into(), door: Default::default() };
    let member = begin_or_undo(agent, identity, cluster, Some(keeper), Vec::new(), ports).await?;
    *agent.member.write().await = Some(member);
    Ok(InitAnswer { node_id: id, worker_token, join_addr: place.api_addr().to_string() })
}

pub async fn enter_cluster(agent: &Arc<Agent>, request: JoinRequest) -> anyhow::Result<JoinAnswer> {
    let state_dir = &agent.args.state_dir;
    let token: JoinToken = request.token.trim().parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let remote = resolve_remote(&request.remote).await?;
    let asked = Asked {
        advertise: request.advertise_addr.as_deref(),
        listen: request.listen_addr.as_deref(),
        gossip_port: request.gossip_port,
    };
    let place = ports::choose(&agent.net, &agent.args, &asked).await?;
    let ports = Ports::take(&agent.net, &place, command::DEFAULT_DATA_PATH_PORT, Occasion::Join).await?;
    let key = NodeKey::generate()?;
    let asked = door::JoinRequest {
        secret: token.secret().clone(),
        csr: key.csr_pem()?,
        name: agent.name.clone(),
        advertise_addr: place.advertise_addr,
        data_path_addr: place.data_path_addr,
        ports: place.ports.clone(),
        runtimes: answering(&agent.args.runtimes).await,
        routed_prefixes: agent.net.routed_prefixes().await?.into_iter().collect(),
    };
    let answer = tls::join(remote, &token, &asked).await?;
    let identity = key.certified(&answer.certificate, &answer.ca, answer.gossip_keys.clone())?;
    let (node_id, role) = (identity.name().node_id.clone(), identity.name().role);
    identity.save(state_dir)?;
    // The store's word before anything is begun: this node's own record is part of it.
    let dialer = tls::Dialer::new(Arc::new(identity));
    let store = store_node(&answer, remote);
    let begun = async {
        let known = desired::Desired::new(Cluster::default(), state_dir, false);
        known.fetch(&dialer, &store, 0, std::time::Duration::ZERO).await?;
        let cluster = (*known.get()).clone();
        if cluster.nodes.get(&node_id).is_some_and(|me| me.ports != place.ports) {
            anyhow::bail!(
                "mesh on the store's node is older and knows no ports but {API_PORT} and {GOSSIP_PORT}: upgrade it, or join with those"
            );
        }
        // One writer a file: the member's own comes now.
        drop(known);
        agent.net.check_data_port(answer.settings.data_path_port).await?;
        let identity = NodeIdentity::load(state_dir)?;
        let identity = identity.ok_or_else(|| anyhow::anyhow!("the identity that was just saved is gone"))?;
        begin_or_undo(agent, identity, cluster, None, answer.members.clone(), ports).await
    };
    let member = match begun.await {
        Ok(member) => member,
        Err(error) => {
            // No half-made member stays behind in the cluster.
            let taken_back = peers::client(&dialer, &store).leave_cluster(true).await;
            taken_back.unwrap_or_else(|error| log::warn!("take the join back: {error:?}"));
            return Err(error);
        }
    };
    *agent.member.write().await = Some(member);
    Ok(JoinAnswer { node_id, role })
}

/// Begins the member. Where that fails, programs, hooks and maps that it brought into the kernel go again; what was pinned there before is
/// somebody's (another agent's, perhaps) and stays.
async fn begin_or_undo(
    agent: &Arc<Agent>,
    identity: NodeIdentity,
    cluster: Cluster,
    keeper: Option<Keeper>,
    seeds: Vec<Seed>,
    ports: Ports,
) -> anyhow::Result<Arc<Member>> {
    let bpf_dir = &agent.args.bpf_dir;
    let was_there = bpf_dir.exists();
    let begun = lifecycle::begin(agent, identity, cluster, keeper, seeds, ports).await;
    if begun.is_err() && !was_there {
        let (_, failed) = filters::remove_all();
        failed.iter().for_each(|error| log::error!("take back what was begun: {error}; 'mesh purge' tries it again"));
        let undone = Dataplane::purge(bpf_dir);
        undone.unwrap_or_else(|error| log::error!("take back what was begun: {error}; 'mesh purge' tries it again"));
    }
    begun
}

/// `HOST` or `HOST:PORT`.
async fn resolve_remote(remote: &str) -> anyhow::Result<std::net::SocketAddr> {
    let with_port = if remote.parse::<std::net::IpAddr>().is_ok() || !remote.contains(':') {
        format!("{}:{API_PORT}", if remote.contains(':') { format!("[{remote}]") } else { remote.to_string() })
    } else {
        remote.to_string()
    };
    let mut found = tokio::net::lookup_host(&with_port).await.map_err(|error| {
        anyhow::anyhow!("'{remote}' is no address of a manager: {error}; write HOST or HOST:{API_PORT}")
    })?;
    found.next().ok_or_else(|| anyhow::anyhow!("'{remote}' has no address; write HOST or HOST:{API_PORT}"))
}

/// Just enough of the store's node to ask it.
fn store_node(answer: &door::JoinAnswer, remote: std::net::SocketAddr) -> Node {
    let at = if answer.store.addr.ip().is_unspecified() { remote } else { answer.store.addr };
    Node {
        id: answer.store.id.clone(),
        number: 0,
        name: "the store's node".into(),
        role: Role::Manager,
        availability: crate::model::Availability::Active,
        labels: Default::default(),
        advertise_addr: at.ip(),
        ports: ControlPorts { api: at.port(), ..ControlPorts::default() },
        data_path_addr: at.ip(),
        cert_fingerprint: String::new(),
        renewed_fingerprint: None,
        holds_store: true,
        runtimes: Vec::new(),
        routed_prefixes: Vec::new(),
        joined_at: 0,
    }
}
