//! What a network, a service or a task has of each address family: one, or none.
//!
//! Stored as it always was where there is one only (`"10.0.16.2"`, or null for none), and as a list where there are both: records of clusters
//! without IPv6 are read, and read by others, unchanged.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One of IPv4, one of IPv6, both, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerFamily<A, B> {
    pub v4: Option<A>,
    pub v6: Option<B>,
}

/// The addresses of one thing.
pub type Addresses = PerFamily<Ipv4Addr, Ipv6Addr>;
/// The prefixes of one network.
pub type Subnets = PerFamily<Ipv4Net, Ipv6Net>;

impl<A, B> Default for PerFamily<A, B> {
    fn default() -> Self {
        PerFamily { v4: None, v6: None }
    }
}

impl<A, B> PerFamily<A, B> {
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Those there are, IPv4 first.
    pub fn iter<T: From<A> + From<B> + Clone>(&self) -> impl Iterator<Item = T> + Clone + use<T, A, B>
    where
        A: Copy,
        B: Copy,
    {
        self.v4.map(T::from).into_iter().chain(self.v6.map(T::from))
    }
}

impl Addresses {
    /// Those there are, IPv4 first.
    pub fn each(&self) -> impl Iterator<Item = IpAddr> + Clone + use<> {
        self.iter()
    }

    /// The one that stands for all where one is shown.
    pub fn first(&self) -> Option<IpAddr> {
        self.each().next()
    }

    /// Takes the place of one of its family.
    pub fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4 = Some(address),
            IpAddr::V6(address) => self.v6 = Some(address),
        }
    }

    /// Each with the length of its family's prefix.
    pub fn within(&self, subnets: &Subnets) -> impl Iterator<Item = IpNet> + use<> {
        let v4 = self.v4.zip(subnets.v4).and_then(|(address, net)| Ipv4Net::new(address, net.prefix_len()).ok());
        let v6 = self.v6.zip(subnets.v6).and_then(|(address, net)| Ipv6Net::new(address, net.prefix_len()).ok());
        PerFamily { v4, v6 }.iter()
    }
}

impl Subnets {
    /// Those there are, IPv4 first.
    pub fn each(&self) -> impl Iterator<Item = IpNet> + Clone + use<> {
        self.iter()
    }

    pub fn contain(&self, address: IpAddr) -> bool {
        self.each().any(|net| net.contains(&address))
    }

    /// Takes the place of one of its family.
    pub fn set(&mut self, net: IpNet) {
        match net {
            IpNet::V4(net) => self.v4 = Some(net),
            IpNet::V6(net) => self.v6 = Some(net),
        }
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        let mut addresses = Addresses::default();
        all.into_iter().for_each(|address| addresses.set(address));
        addresses
    }
}

impl From<Ipv4Addr> for Addresses {
    fn from(address: Ipv4Addr) -> Self {
        PerFamily { v4: Some(address), v6: None }
    }
}

impl From<Ipv6Addr> for Addresses {
    fn from(address: Ipv6Addr) -> Self {
        PerFamily { v4: None, v6: Some(address) }
    }
}

impl From<Ipv4Net> for Subnets {
    fn from(net: Ipv4Net) -> Self {
        PerFamily { v4: Some(net), v6: None }
    }
}

impl From<Ipv6Net> for Subnets {
    fn from(net: Ipv6Net) -> Self {
        PerFamily { v4: None, v6: Some(net) }
    }
}

impl<A: Display, B: Display> PerFamily<A, B> {
    fn words(&self) -> Vec<String> {
        let v4 = self.v4.iter().map(ToString::to_string);
        v4.chain(self.v6.iter().map(ToString::to_string)).collect()
    }
}

impl<A: Display, B: Display> Display for PerFamily<A, B> {
    /// `10.0.16.2, fd00::2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(", "))
    }
}

impl<A: FromStr, B: FromStr> FromStr for PerFamily<A, B> {
    type Err = String;

    /// One word or several, divided by commas; at most one of each family.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut read = PerFamily::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let is_second = match (word.parse(), word.parse()) {
                (Ok(v4), _) => read.v4.replace(v4).is_some(),
                (_, Ok(v6)) => read.v6.replace(v6).is_some(),
                _ => return Err(format!("'{word}' is of neither IPv4 nor IPv6")),
            };
            if is_second {
                return Err(format!("'{text}' names two of one family"));
            }
        }
        Ok(read)
    }
}

impl<A: Display, B: Display> Serialize for PerFamily<A, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.words().as_slice() {
            [] => serializer.serialize_none(),
            [one] => serializer.serialize_str(one),
            both => serializer.collect_seq(both),
        }
    }
}

impl<'de, A: FromStr, B: FromStr> Deserialize<'de> for PerFamily<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(String),
            Several(Vec<String>),
        }
        let text = match Option::<Written>::deserialize(deserializer)? {
            None => String::new(),
            Some(Written::One(one)) => one,
            Some(Written::Several(several)) => several.join(","),
        };
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_stored_as_it_always_was_and_two_are_a_list() {
        let written = |addresses: &Addresses| serde_json::to_string(addresses).expect("JSON");
        let (v4, v6) = (Ipv4Addr::new(10, 0, 16, 2), "fd00::2".parse::<Ipv6Addr>().expect("an address"));
        let both = PerFamily { v4: Some(v4), v6: Some(v6) };
        for (addresses, text) in [
            (Addresses::default(), "null"),
            (v4.into(), "\"10.0.16.2\""),
            (v6.into(), "\"fd00::2\""),
            (both, "[\"10.0.16.2\",\"fd00::2\"]"),
        ] {
            assert_eq!(written(&addresses), text);
            assert_eq!(serde_json::from_str::<Addresses>(text).expect("what was written"), addresses);
        }
        assert_eq!(both.to_string().parse::<Addresses>(), Ok(both));
        for text in ["\"fd00::/64\"", "[\"10.0.0.1\",\"10.0.0.2\"]", "7"] {
            assert!(serde_json::from_str::<Addresses>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_address_goes_with_the_prefix_of_its_family() {
        let subnets: Subnets = "10.0.16.0/20,fd00:1::/64".parse().expect("prefixes");
        let addresses: Addresses = "10.0.16.2,fd00:1::2".parse().expect("addresses");
        let told: Vec<String> = addresses.within(&subnets).map(|net| net.to_string()).collect();
        assert_eq!(told, ["10.0.16.2/20", "fd00:1::2/64"]);
        assert!(subnets.contain("fd00:1::9".parse().expect("an address")));
        assert!(!subnets.contain("fd00:2::9".parse().expect("an address")));
        assert_eq!(addresses.within(&subnets.v6.expect("a prefix").into()).count(), 1, "no prefix, no address");
    }
}
