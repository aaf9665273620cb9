//! `swarm init`: settings, the first node, the network `ingress`.

use ipnet::{Ipv4Net, Ipv6Net};
use mesh_common::wire::vni;

use crate::leader::Ctx;
use crate::model::{Cluster, ControlPorts, Network, NetworkSpec, Node, Settings};

use super::node::{NewNode, enter};
use super::{CommandError, Commit, network};

/// Where networks come from unless `init` says otherwise.
pub const DEFAULT_ADDRESS_POOL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8);
/// VXLAN's own port (RFC 7348, 5).
pub const DEFAULT_DATA_PATH_PORT: u16 = 4789;

/// What `swarm init` asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct InitCluster {
    pub address_pool: Ipv4Net,
    pub subnet_len: u8,
    /// None: one of the cluster's own.
    pub address_pool6: Option<Ipv6Net>,
    pub data_path_port: u16,
    /// The node that makes the cluster, keeps its store and runs its leader.
    pub node: NewNode,
}

impl InitCluster {
    /// The pool, subnet length and port that `init` takes where the user names none.
    pub fn with_defaults(node: NewNode) -> Self {
        let address_pool = DEFAULT_ADDRESS_POOL;
        let data_path_port = DEFAULT_DATA_PATH_PORT;
        InitCluster { address_pool, subnet_len: 20, address_pool6: None, data_path_port, node }
    }

    fn check(&self) -> Result<(), CommandError> {
        let bad = |setting, value: String, rule| Err(CommandError::BadSetting { setting, value, rule });
        let pool = self.address_pool;
        if pool.trunc() != pool {
            return bad("address pool", pool.to_string(), "its host bits are not zero");
        }
        if pool.addr().is_loopback()
            || pool.addr().is_multicast()
            || pool.addr().is_link_local()
            || pool.prefix_len() < 8
        {
            return bad("address pool", pool.to_string(), "take a private prefix such as 10.0.0.0/8 or 172.16.0.0/12");
        }
        if self.subnet_len < pool.prefix_len() || self.subnet_len > 29 {
            let rule = "each network needs between a /29 and the whole pool";
            return bad("subnet length", self.subnet_len.to_string(), rule);
        }
        if let Some(pool) = self.address_pool6 {
            if pool.trunc() != pool {
                return bad("address pool", pool.to_string(), "its host bits are not zero");
            }
            if pool.prefix_len() > Settings::SUBNET6_LEN || super::check::subnet_rule(pool.into()).is_some() {
                let rule = "take a unique local prefix with room for /64s, such as fd12:3456:789a::/48";
                return bad("address pool", pool.to_string(), rule);
            }
        }
        let (ours, usual) = (&self.node.ports, ControlPorts::default());
        let taken = [usual.api, usual.gossip, ours.api, ours.gossip];
        if !(1024..=49151).contains(&self.data_path_port) || taken.contains(&self.data_path_port) {
            let rule = "give a port of 1024-49151 that is neither 2377 nor 7946, nor that of this node's API or gossip";
            return bad("data path port", self.data_path_port.to_string(), rule);
        }
        Ok(())
    }
}

/// Makes the cluster: the answer is its first node.
pub fn init_cluster(cluster: &Cluster, request: InitCluster, ctx: &mut Ctx) -> Result<Commit<Node>, CommandError> {
    if cluster.settings.is_some() || !cluster.nodes.is_empty() {
        return Err(CommandError::AlreadyInitialised);
    }
    request.check()?;
    let mut after = cluster.clone();
    let node = enter(&mut after, request.node, true, ctx)?;
    let settings = Settings {
        cluster_id: ctx.new_id(),
        address_pool: request.address_pool,
        subnet_len: request.subnet_len,
        address_pool6: request.address_pool6,
        data_path_port: request.data_path_port,
    };
    let spec = NetworkSpec::named("ingress");
    let subnets = network::subnets(&mut after, &settings, &spec)
        .map_err(|source| CommandError::SubnetsUsedUp { network: spec.name.clone(), source })?;
    let ingress = Network {
        id: ctx.new_id(),
        gateways: network::gateways(&subnets, &spec.gateways),
        spec,
        vni: vni::INGRESS,
        subnets,
        ingress: true,
        removing: false,
        created_at: ctx.now,
    };
    after.networks.insert(ingress.id.clone(), ingress);
    after.settings = Some(settings);
    Ok(Commit::of(cluster, &after, node))
}
