//! Addresses of either family as numbers: searches for free ones are written once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The address as a number of its family.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address with this number, in the family of the prefix. Numbers that the family hasn't got are cut off.
pub(super) fn address(net: IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// The numbers of a prefix's first and last address.
pub(super) fn span(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// The gateway where the user names none.
pub fn first_host(net: IpNet) -> IpAddr {
    address(net, span(net).0 + 1)
}
