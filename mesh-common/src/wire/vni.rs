//! VXLAN network identifiers (RFC 7348, 24 bits). Below 4096 they are ours and name what a frame is for; from 4096 they name networks.

/// A packet for a frontend that entered the cluster from the wire: the inner source MAC is the neighbour it came from.
pub const REQUEST_WIRE: u32 = 2048;
/// A packet for a frontend from the ingress node's own host or task: the inner source MAC is one of ours.
pub const REQUEST_NODE: u32 = 2049;
/// The answer to [`REQUEST_WIRE`]: the inner destination MAC is the neighbour that shall get it.
pub const REPLY_WIRE: u32 = 2050;
/// The answer to [`REQUEST_NODE`]: the inner destination MAC names the host or the task that shall get it.
pub const REPLY_NODE: u32 = 2051;
/// A [`REQUEST_WIRE`] handed on, once, to the owner that an older ring names.
pub const SECOND_CHANCE_WIRE: u32 = 2052;
/// A [`REQUEST_NODE`] handed on, once, to the owner that an older ring names.
pub const SECOND_CHANCE_NODE: u32 = 2053;
/// Reachability: "are you there", answered by the peer's from_overlay program.
pub const ECHO: u32 = 2064;
/// Reachability: the answer.
pub const ECHO_REPLY: u32 = 2065;

/// The network of published services that name no network.
pub const INGRESS: u32 = 4096;
/// First VNI of a user's network.
pub const FIRST_NETWORK: u32 = 4097;
/// Last VNI that VXLAN can carry.
pub const LAST_NETWORK: u32 = (1 << 24) - 1;
