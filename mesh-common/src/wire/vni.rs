//! VXLAN network identifiers (RFC 7348, 24 bits). Below 4096 they are ours and name what a frame is for; from 4096 they name networks.

/// A packet for a frontend that entered the cluster from the wire: the inner source MAC is the neighbour it came from.
pub const REQUEST_WIRE: u32 = 2048;
/// A packet for a frontend from the ingress node's own host or task: the inner source MAC is one of ours.
pub const REQUEST_NODE: u32 = 2049;
/// The answer to [`REQUEST_WIRE`]: the inner destination MAC is the neighbour that shall get it.
pub const REPLY_WIRE: u32 = 2050;
/// The answer to [`REQUEST_NODE`]: the inner destination MAC names the host or the task that shall get it.
pub const REPLY_NODE: u32 = 2051;
/// A [`REQUEST_WIRE`] whose first choice was turned back: the second and last one.
pub const SECOND_CHANCE_WIRE: u32 = 2052;
/// A [`REQUEST_NODE`] whose first choice was turned back: the second and last one.
pub const SECOND_CHANCE_NODE: u32 = 2053;
/// A [`REQUEST_WIRE`], unchanged, back to the ingress node: the task it names is not here, choose again.
pub const TURNED_BACK_WIRE: u32 = 2054;
/// A [`REQUEST_NODE`], unchanged, back to the ingress node.
pub const TURNED_BACK_NODE: u32 = 2055;
/// A packet of a network, unchanged, back to the client's node: no task has its destination address any more.
pub const TURNED_BACK_TASK: u32 = 2056;
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
