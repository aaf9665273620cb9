//! An overlay network: a name, a VNI, a subnet of each family that it has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Addresses, Id, Subnets, UnixMs};

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub name: String,
    /// Asked subnets; the allocator picks one from the family's pool where absent.
    #[serde(rename = "subnet")]
    pub subnets: Subnets,
    /// Asked gateways; the first host address of the subnet where absent.
    #[serde(rename = "gateway")]
    pub gateways: Addresses,
    /// It has IPv4 addresses.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ipv4: bool,
    /// It has IPv6 addresses; so it has where a subnet of IPv6 is asked for.
    #[serde(default, skip_serializing_if = "is_no")]
    pub ipv6: bool,
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
            subnets: Subnets::default(),
            gateways: Addresses::default(),
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            mtu: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }

    pub fn wants_ipv6(&self) -> bool {
        self.ipv6 || self.subnets.v6.is_some()
    }
}

fn yes() -> bool {
    true
}

fn is_yes(said: &bool) -> bool {
    *said
}

fn is_no(said: &bool) -> bool {
    !*said
}

/// A network with what the allocator gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: Id,
    pub spec: NetworkSpec,
    /// VXLAN network identifier; 4096 is `ingress`, user networks from 4097.
    pub vni: u32,
    #[serde(rename = "subnet")]
    pub subnets: Subnets,
    /// One in each subnet.
    #[serde(rename = "gateway")]
    pub gateways: Addresses,
    /// The one network named `ingress`: carries published services that name no network; its names are not in DNS.
    pub ingress: bool,
    /// The user has removed it: it has no name any more, and is gone for good when its last task has ended. Until then its tasks keep
    /// their addresses and ways, and its subnet and VNI stay taken.
    #[serde(default)]
    pub removing: bool,
    pub created_at: UnixMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_stored_before_there_was_ipv6_reads_and_writes_as_it_was() {
        let stored = r#"{"id":"07070707070707070707070707070707","spec":{"name":"demo","subnet":null,"gateway":null,"internal":false,"attachable":false,"mtu":null,"labels":{},"options":{}},"vni":4097,"subnet":"10.0.16.0/20","gateway":"10.0.16.1","ingress":false,"removing":false,"created_at":5}"#;
        let network: Network = serde_json::from_str(stored).expect("a network");
        assert_eq!(network.spec, NetworkSpec::named("demo"));
        assert_eq!(
            (network.subnets.to_string(), network.gateways.to_string()),
            ("10.0.16.0/20".into(), "10.0.16.1".into())
        );
        assert_eq!(serde_json::to_string(&network).expect("JSON"), stored);
    }
}
