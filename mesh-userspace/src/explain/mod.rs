//! Why a packet goes where it goes: the decision of the packet programs replayed for one tuple, over the maps as they are.
//!
//! The same recipe as the programs', hook by hook: parse (done: a [`Packet`]) → look up → decide → rewrite → deliver, with mesh-common's own hash,
//! NAT and verdict code, and every question to a map written down as a [`Step`]. Nothing is written: a turn that is told is not taken.
//! Invariant: over the same maps the outcome is the programs'; `packet_explain` holds the two together, tuple by tuple.
//! Must not: know desired state, or read a map itself ([`Tables`] are handed in).
#![expect(clippy::wrong_self_convention, reason = "walks are named after the hooks and stages that they replay")]

mod answer;
mod ask;
mod carry;
mod choose;
mod fields;
mod from_host;
mod from_overlay;
mod from_task;
mod from_uplink;
mod tables;
mod trace;
mod walk;

use mesh_common::family::Family;
use mesh_common::parse::Packet;
use mesh_common::schema::{Address, Flow, FlowKey};
use mesh_common::verdict::{DropReason, Hook};

pub use answer::{Explanation, words};
pub use ask::{Asked, Prepared, prepare};
pub use tables::Tables;
pub use trace::{Names, Step, ip, protocol, socket, tuple};
use walk::{End, Going, Walk};

/// MAC addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub dst: [u8; 6],
    pub src: [u8; 6],
}

/// How a packet comes to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A task of this node sends it.
    Task { ifindex: u32, mac: [u8; 6] },
    /// This node's own stack sends it into the overlay.
    Host,
    /// It comes in by an uplink, from the neighbour with this MAC address.
    Uplink { ifindex: u32, mac: [u8; 6] },
    /// A peer sends it through the tunnel; `peer` is what ADDRESSES says of the outer source.
    Overlay { peer: Option<Address>, vni: u32, frame: Frame },
}

impl Entrance {
    fn hook(&self) -> Hook {
        match self {
            Entrance::Task { .. } => Hook::FromTask,
            Entrance::Host => Hook::FromHost,
            Entrance::Uplink { .. } => Hook::FromUplink,
            Entrance::Overlay { .. } => Hook::FromOverlay,
        }
    }
}

/// What is to be explained.
#[derive(Clone, Copy)]
pub struct Question<F: Family> {
    pub entrance: Entrance,
    pub packet: Packet<F>,
    /// Bytes of the frame.
    pub len: u32,
    /// It says "don't fragment", as all of IPv6 does.
    pub is_whole: bool,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// What chance says where it is asked.
    pub chance: u32,
    /// Link by which the kernel's routes lead to the destination, asked as the programs ask; None: no route.
    pub route: Option<u32>,
}

/// How a packet leaves the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into a task of this node.
    Task { ifindex: u32 },
    /// Through the tunnel; `is_fast`: past mesh0.
    Tunnel { node: u32, vni: u32, is_fast: bool },
    /// Out of an uplink, to a neighbour whose MAC is known.
    Uplink { ifindex: u32 },
    /// Up this node's own stack.
    Host,
    /// Out of an uplink; the kernel finds the neighbour.
    Outside { ifindex: u32 },
    /// The program itself answers the sender.
    Answer,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered(Way),
    /// No business of ours: the host's stack has it.
    Left,
    /// Dropped without a count.
    Ignored,
    /// A later fragment of a datagram that is not known: the first one brings it along, if it comes soon and there is a place to wait.
    Waits,
    Dropped(DropReason),
    /// Dropped, and the sender is told.
    Refused(DropReason),
}

/// A packet explained.
#[derive(Clone, Debug)]
pub struct Outcome<F: Family> {
    pub hook: Hook,
    pub steps: Vec<Step>,
    pub verdict: Verdict,
    /// The tuple with which it is delivered.
    pub tuple: FlowKey<F::Addr>,
    /// The entry it goes by.
    pub flow: Option<Flow<F::Addr>>,
    /// That entry is written by this packet.
    pub is_new: bool,
    /// The entry that is written for its answers.
    pub reply: Option<Remembered<F::Addr>>,
}

/// An entry of the flow table, and the key it stands at.
pub type Remembered<A> = (FlowKey<A>, Flow<A>);

/// Replays the decision.
pub fn explain<F: Family>(question: &Question<F>, tables: &impl Tables<F>, names: &Names) -> Outcome<F> {
    let hook = question.entrance.hook();
    let trace = trace::Trace { hook, steps: Vec::new() };
    let mut walk = Walk { tables, names, question, trace, has_removed: false };
    let decided = match question.entrance {
        Entrance::Task { ifindex, mac } => walk.from_task(ifindex, mac),
        Entrance::Host => walk.from_host(),
        Entrance::Uplink { ifindex, mac } => walk.from_uplink(ifindex, mac),
        Entrance::Overlay { peer, vni, frame } => walk.from_overlay(peer, vni, frame),
    };
    let mut outcome = Outcome {
        hook,
        steps: Vec::new(),
        verdict: Verdict::Left,
        tuple: question.packet.tuple,
        flow: None,
        is_new: false,
        reply: None,
    };
    let carried = decided.and_then(|going| {
        let carried = walk.carry(&going);
        let Going { flow, reply, is_new, .. } = going;
        (outcome.flow, outcome.reply, outcome.is_new) = (Some(flow), reply, is_new);
        carried
    });
    outcome.verdict = match carried {
        Ok((way, tuple)) => {
            outcome.tuple = tuple;
            Verdict::Delivered(way)
        }
        Err(End::Sent(way)) => Verdict::Delivered(way),
        Err(End::Pass) => Verdict::Left,
        Err(End::Ignore) => Verdict::Ignored,
        Err(End::Wait) => Verdict::Waits,
        Err(End::Drop(reason)) => Verdict::Dropped(reason),
        Err(End::Refuse(reason)) => Verdict::Refused(reason),
    };
    outcome.steps = walk.trace.steps;
    outcome
}
