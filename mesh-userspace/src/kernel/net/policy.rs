//! IPsec policies that packets between nodes fall under: the packet programs go past them, and the kernel's routing (RTM_GETROUTE) says nothing of
//! them.
//!
//! Listed by netlink (NETLINK_XFRM, linux/xfrm.h) and judged as the kernel does (`xfrm_policy_lookup`, net/xfrm/xfrm_policy.c): of a direction's
//! policies that match, the one with the lowest priority decides, and of equals the older one. Invariant: where a doubt is left (a device, a user, a
//! source port in the selector) the policy counts as one that matches; the price is the slower way. Must not: change a policy.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use rtnetlink::sys::protocols::NETLINK_XFRM;
use rtnetlink::sys::{Socket, SocketAddr};

use super::HostNet;
use super::error::NetError;

// linux/netlink.h and linux/xfrm.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
const XFRM_POLICY_IN: u8 = 0;
const XFRM_POLICY_OUT: u8 = 1;
const XFRM_POLICY_BLOCK: u8 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct xfrm_userpolicy_id`.
const QUESTION: usize = 64;
/// `struct xfrm_userpolicy_info`, padded.
const POLICY: usize = 168;

/// What the host's policies do with packets between this node and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// They are to be encrypted or authenticated.
    Ipsec,
    /// They are to be dropped.
    Blocked,
}

impl HostNet {
    /// Which of these peers' tunnel packets (UDP to `port`, from and to `from`) fall under an IPsec policy.
    pub fn protected(
        &self,
        from: IpAddr,
        port: u16,
        peers: &[IpAddr],
    ) -> Result<BTreeMap<IpAddr, Protection>, NetError> {
        let policies = all().map_err(|error| NetError::os("list the host's IPsec policies", error))?;
        Ok(peers.iter().filter_map(|peer| Some((*peer, protection(&policies, from, port, *peer)?))).collect())
    }
}

/// An address in sixteen bytes (IPv4 as ::ffff:a.b.c.d) and how many of its bits count. None of them: every address of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix(u128, u8);

impl Prefix {
    fn covers(&self, addr: IpAddr) -> bool {
        (self.0 ^ wide(addr)).leading_zeros() >= u32::from(self.1)
    }
}

fn wide(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

/// One policy of either direction, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    is_out: bool,
    priority: u32,
    to: Prefix,
    from: Prefix,
    /// Port and mask.
    dport: (u16, u16),
    /// 0: any.
    protocol: u8,
    does: Option<Protection>,
    /// For packets of an xfrm interface, or with a mark that tunnel packets don't have.
    is_elsewhere: bool,
}

impl Policy {
    fn is_for(&self, is_out: bool, from: IpAddr, to: IpAddr, port: u16) -> bool {
        self.is_out == is_out
            && !self.is_elsewhere
            && self.to.covers(to)
            && self.from.covers(from)
            && (port ^ self.dport.0) & self.dport.1 == 0
            && [0, libc::IPPROTO_UDP as u8].contains(&self.protocol)
    }
}

/// `policies` in the order that the kernel tells them.
fn protection(policies: &[Policy], from: IpAddr, port: u16, peer: IpAddr) -> Option<Protection> {
    let verdict = |is_out, from, to| {
        let matching = policies.iter().filter(|policy| policy.is_for(is_out, from, to, port));
        matching.min_by_key(|policy| policy.priority)?.does
    };
    verdict(true, from, peer).max(verdict(false, peer, from))
}

/// None on a kernel without IPsec.
fn all() -> io::Result<Vec<Policy>> {
    let socket = match Socket::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        opened => opened?,
    };
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut question = Vec::with_capacity(HEADER + QUESTION);
    question.extend(((HEADER + QUESTION) as u32).to_ne_bytes());
    for word in [XFRM_MSG_GETPOLICY, NLM_F_REQUEST | NLM_F_DUMP] {
        question.extend(word.to_ne_bytes());
    }
    question.resize(HEADER + QUESTION, 0);
    socket.send(&question, 0)?;
    let mut policies = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if !read(&answer, &mut policies)? {
            return Ok(policies);
        }
    }
}

/// The messages of one datagram; false after the last.
fn read(mut datagram: &[u8], policies: &mut Vec<Policy>) -> io::Result<bool> {
    let cut_off = || io::Error::new(io::ErrorKind::InvalidData, "a message is cut off");
    while datagram.len() >= HEADER {
        let len = u32_at(datagram, 0).unwrap_or(0) as usize;
        let message = datagram.get(HEADER..len).ok_or_else(cut_off)?;
        match u16_at(datagram, 4) {
            Some(NLMSG_DONE) => return Ok(false),
            Some(NLMSG_ERROR) => {
                let error = u32_at(message, 0).ok_or_else(cut_off)? as i32;
                return Err(io::Error::from_raw_os_error(-error));
            }
            Some(XFRM_MSG_NEWPOLICY) => policies.extend(policy(message).ok_or_else(cut_off)?),
            _ => {}
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// `struct xfrm_userpolicy_info` and its attributes. The inner None: of another direction than ours (forwarding, or a socket's own).
fn policy(message: &[u8]) -> Option<Option<Policy>> {
    let family = u16_at(message, 40)?;
    let prefix = |at: usize, len: u8| -> Option<Prefix> {
        let bytes: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        Some(match i32::from(family) {
            libc::AF_INET => Prefix(wide([a, b, c, d].into()), 96 + len.min(32)),
            libc::AF_INET6 => Prefix(u128::from_be_bytes(bytes), len.min(128)),
            _ => Prefix(0, 0),
        })
    };
    let [prefix_to, prefix_from, protocol] = *message.get(42..45)? else { return None };
    let [direction, action] = *message.get(160..162)? else { return None };
    let mut attributes = message.get(POLICY..)?;
    let (mut has_template, mut is_elsewhere) = (false, false);
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let value = attributes.get(4..usize::from(len))?;
        match kind {
            XFRMA_TMPL => has_template = !value.is_empty(),
            // A packet's mark, as far as the mask goes, must be this value; ours have none.
            XFRMA_MARK => is_elsewhere |= u32_at(value, 0)? != 0,
            XFRMA_IF_ID => is_elsewhere |= u32_at(value, 0)? != 0,
            _ => {}
        }
        attributes = attributes.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
    }
    Some([XFRM_POLICY_IN, XFRM_POLICY_OUT].contains(&direction).then_some(Policy {
        is_out: direction == XFRM_POLICY_OUT,
        priority: u32_at(message, 152)?,
        to: prefix(0, prefix_to)?,
        from: prefix(16, prefix_from)?,
        dport: (u16_at(message, 32)?.to_be(), u16_at(message, 34)?.to_be()),
        protocol,
        does: match (action, has_template) {
            (XFRM_POLICY_BLOCK, _) => Some(Protection::Blocked),
            (_, true) => Some(Protection::Ipsec),
            _ => None,
        },
        is_elsewhere,
    }))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const ANY: Prefix = Prefix(0, 0);

    fn esp(is_out: bool) -> Policy {
        Policy {
            is_out,
            priority: 10,
            to: ANY,
            from: ANY,
            dport: (4789, 0xffff),
            protocol: 17,
            does: Some(Protection::Ipsec),
            is_elsewhere: false,
        }
    }

    fn said(policies: &[Policy]) -> Option<Protection> {
        protection(policies, HERE, 4789, PEER)
    }

    #[test]
    fn a_policy_of_either_direction_counts_and_the_stronger_word_wins() {
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[esp(true)]), Some(Protection::Ipsec));
        assert_eq!(said(&[esp(false)]), Some(Protection::Ipsec));
        assert_eq!(
            said(&[esp(true), Policy { does: Some(Protection::Blocked), ..esp(false) }]),
            Some(Protection::Blocked)
        );
    }

    #[test]
    fn only_what_selects_tunnel_packets_counts() {
        let subnet = |addr, len: u8| Prefix(wide(addr), 96 + len);
        for other in [
            Policy { to: subnet(HERE, 32), ..esp(true) },
            Policy { from: subnet(PEER, 32), ..esp(true) },
            Policy { dport: (500, 0xffff), ..esp(true) },
            Policy { protocol: 6, ..esp(true) },
            Policy { to: Prefix(0xfd << 120, 8), ..esp(true) },
            Policy { is_elsewhere: true, ..esp(true) },
        ] {
            assert_eq!(said(std::slice::from_ref(&other)), None, "{other:?}");
        }
        let narrow = Policy { to: subnet(PEER, 32), from: subnet(HERE, 24), dport: (0, 0), protocol: 0, ..esp(true) };
        assert_eq!(said(&[narrow]), Some(Protection::Ipsec));
    }

    #[test]
    fn prefixes_of_ipv6_select_peers_of_ipv6() {
        let [here, peer, far] = ["fd00::1", "fd00::2", "fd01::2"].map(|addr| addr.parse::<IpAddr>().unwrap());
        let policy = Policy { to: Prefix(wide(peer), 127), from: Prefix(wide(here), 16), ..esp(true) };
        let said = |peer| protection(std::slice::from_ref(&policy), here, 4789, peer);
        assert_eq!((said(peer), said(far)), (Some(Protection::Ipsec), None));
        assert_eq!(protection(&[esp(true)], here, 4789, far), Some(Protection::Ipsec), "every address");
    }

    #[test]
    fn the_policy_with_the_lowest_priority_decides() {
        let pass = Policy { does: None, priority: 5, ..esp(true) };
        assert_eq!(said(&[esp(true), pass.clone()]), None);
        assert_eq!(said(&[Policy { priority: 11, ..pass }, esp(true)]), Some(Protection::Ipsec));
    }

    #[test]
    fn a_message_that_is_cut_off_is_an_error_and_the_end_is_known() {
        let mut done = vec![0; 20];
        done[0] = 20;
        done[4] = NLMSG_DONE as u8;
        let mut policies = Vec::new();
        assert!(!read(&done, &mut policies).unwrap());
        assert!(read(&[], &mut policies).unwrap());
        done[0] = 40;
        assert!(read(&done, &mut policies).is_err());
    }
}
