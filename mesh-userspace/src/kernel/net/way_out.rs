//! By which link this host's routes lead to an address, asked as the programs ask for tasks: as if the packet came in by mesh0.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteAttribute, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::error::NetError;
use super::{HostNet, link};

impl HostNet {
    /// The link out; None: the kernel has no way. `from` is a task's address.
    pub async fn way_out(&self, from: Option<IpAddr>, to: IpAddr, mesh0: u32) -> Result<Option<u32>, NetError> {
        let question = match to {
            IpAddr::V4(to) => {
                let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32);
                match from {
                    Some(IpAddr::V4(from)) => question.source_prefix(from, 32).input_interface(mesh0),
                    _ => question,
                }
                .build()
            }
            IpAddr::V6(to) => {
                let question = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128);
                match from {
                    Some(IpAddr::V6(from)) => question.source_prefix(from, 128).input_interface(mesh0),
                    _ => question,
                }
                .build()
            }
        };
        // "Unreachable" is an answer, too.
        let Ok(Some(answer)) = self.handle.route().get(question).execute().try_next().await else {
            return Ok(None);
        };
        if answer.header.kind != RouteType::Unicast {
            return Ok(None);
        }
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }))
    }

    /// Names of all links, by index.
    pub async fn link_names(&self) -> Result<HashMap<u32, String>, NetError> {
        Ok(link::all(&self.handle).await?.into_iter().map(|link| (link.index, link.name)).collect())
    }
}
