//! One question → one answer, from the view of the task that asks.
//!
//! Order, as Swarm's: the whole name on each of the asker's networks, then NAME.NETWORK with the longest NAME first
//! (both may contain dots). A name that the cluster knows but the asker may not see, and a name with nobody ready
//! behind it, are NXDOMAIN; they are never forwarded. Anything else is for the host's resolvers, and for a task that
//! has internal networks alone a failure, because its packets don't reach the outside either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Entry, Zone, ZoneNetwork};

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Source address of the query.
    pub asker: IpAddr,
    /// Presentation form; case and a trailing dot don't matter.
    pub name: &'a str,
    pub query_type: QueryType,
}

/// The record types that make a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryType {
    A,
    Aaaa,
    Ptr,
    Any,
    /// MX, HTTPS, …: known names have none of them.
    Other,
}

impl QueryType {
    fn is_for(self, addr: &IpAddr) -> bool {
        match self {
            QueryType::A => addr.is_ipv4(),
            QueryType::Aaaa => addr.is_ipv6(),
            QueryType::Any => true,
            QueryType::Ptr | QueryType::Other => false,
        }
    }
}

/// What to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A or AAAA records, in the order to send them.
    Addresses {
        addrs: Vec<IpAddr>,
        ttl_s: u32,
    },
    /// One PTR record.
    Pointer {
        name: String,
        ttl_s: u32,
    },
    /// The name exists, this type of record does not: NOERROR with no answer, so that clients go on with another.
    NoData,
    NxDomain,
    /// Not ours: ask the host's resolvers.
    Forward,
    /// The asker is no task of this node.
    Refused,
    /// Not ours, and the asker may not reach the outside.
    ServFail,
}

/// Answers one question. `seed` orders task lists: another seed, another order.
pub fn answer(zone: &Zone, question: Question, seed: u64) -> Answer {
    let Some(client) = zone.clients.get(&question.asker) else {
        return Answer::Refused;
    };
    let name = question.name.trim_end_matches('.').to_ascii_lowercase();
    let view = || zone.view(client);

    if let Some(addr) = reversed_addr(&name)
        && zone.networks.iter().any(|network| network.subnets.contain(addr))
    {
        let pointer = view().find_map(|network| network.reverse.get(&addr));
        return match (pointer, question.query_type) {
            (None, _) => Answer::NxDomain,
            (Some(pointer), QueryType::Ptr | QueryType::Any) => {
                Answer::Pointer { name: pointer.name.clone(), ttl_s: pointer.ttl_s }
            }
            (Some(_), _) => Answer::NoData,
        };
    }

    let found = candidates(&name, view()).fold(None, |best: Option<&Entry>, entry| match best {
        Some(better) if !better.addrs.is_empty() => best,
        _ => Some(entry),
    });
    match found {
        Some(entry) if entry.addrs.is_empty() => Answer::NxDomain,
        Some(entry) => {
            let addrs = entry.addrs.iter().copied().filter(|addr| question.query_type.is_for(addr));
            match shuffled(addrs.collect(), seed) {
                none if none.is_empty() => Answer::NoData,
                addrs => Answer::Addresses { addrs, ttl_s: entry.ttl_s },
            }
        }
        None if candidates(&name, zone.networks.iter()).any(|entry| entry.withheld) => Answer::NxDomain,
        None if !client.networks.is_empty() && view().all(|network| network.internal) => Answer::ServFail,
        None => Answer::Forward,
    }
}

/// What a name may stand for on these networks, best first.
fn candidates<'a, 'n>(
    name: &'n str,
    networks: impl Iterator<Item = &'a ZoneNetwork> + Clone + 'n,
) -> impl Iterator<Item = &'a Entry> + 'n
where
    'a: 'n,
{
    let whole = networks.clone().filter_map(move |network| network.names.get(name));
    let splits = name.rmatch_indices('.').map(move |(dot, _)| (&name[..dot], &name[dot + 1..]));
    let on_network = splits.flat_map(move |(left, right)| {
        networks.clone().filter(move |network| network.name == right).filter_map(move |network| network.names.get(left))
    });
    whole.chain(on_network)
}

/// `4.3.2.1.in-addr.arpa` → 1.2.3.4, 32 digits and `.ip6.arpa` → their address (RFC 3596, 2.5); nothing for other names, and for the reverse
/// names of prefixes.
fn reversed_addr(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = octets.split('.').map(|label| label.parse::<u8>().ok());
        let (d, c, b, a) = (octets.next()??, octets.next()??, octets.next()??, octets.next()??);
        return octets.next().is_none().then_some(Ipv4Addr::new(a, b, c, d).into());
    }
    let mut bits = 0u128;
    let mut count = 0;
    for label in name.strip_suffix(".ip6.arpa")?.rsplit('.') {
        let digit = u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?;
        bits = bits << 4 | digit;
        count += 1;
    }
    (count == 32).then_some(Ipv6Addr::from(bits).into())
}

/// Fisher–Yates with SplitMix64 as the source: every order is equally likely, and a seed gives one order.
fn shuffled(mut addrs: Vec<IpAddr>, seed: u64) -> Vec<IpAddr> {
    let mut state = seed;
    for last in (1..addrs.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        addrs.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
    addrs
}
