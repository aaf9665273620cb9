//! An overlay network: a name, a VNI, a subnet.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Id, UnixMs};

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub name: String,
    /// Asked subnet; the allocator picks one from the pool where absent.
    pub subnet: Option<Ipv4Net>,
    /// Asked gateway; the first host address of the subnet where absent.
    pub gateway: Option<Ipv4Addr>,
    /// Tasks of an internal network don't reach the outside.
    pub internal: bool,
    pub attachable: bool,
    /// MTU of the tasks' interfaces; derived from the underlay where absent.
    pub mtu: Option<u32>,
    pub labels: BTreeMap<String, String>,
    /// Unrecognised driver options, kept for `inspect`.
    pub options: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// A network of which only the name was said.
    pub fn named(name: &str) -> Self {
        NetworkSpec {
            name: name.to_string(),
            subnet: None,
            gateway: None,
            internal: false,
            attachable: false,
            mtu: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }
}

/// A network with what the allocator gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: Id,
    pub spec: NetworkSpec,
    /// VXLAN network identifier; 4096 is `ingress`, user networks from 4097.
    pub vni: u32,
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    /// The one network named `ingress`: carries published services that name no network; its names are not in DNS.
    pub ingress: bool,
    /// The user has removed it: it has no name any more, and is gone for good when its last task has ended. Until then its tasks keep
    /// their addresses and ways, and its subnet and VNI stay taken.
    #[serde(default)]
    pub removing: bool,
    pub created_at: UnixMs,
}
