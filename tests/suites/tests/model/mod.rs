//! A model of the packet hooks, written from the pages: docs/packet-walk.md, docs/reference/{wire,maps,drops}.md and the decisions that they name.
//!
//! It says of a frame what becomes of it (verdict, reason, every byte that leaves) and what is remembered of it, and changes nothing itself. Slow and plain
//! on purpose: it knows no map, helper or verifier. A file a page's chapter; a feature that comes to the programs comes here as a page has it.
//! Must not: use any crate of mesh (`cargo xtask tidy` looks), for it would share the bug that it is there to find.

pub mod again;
pub mod choose;
pub mod deliver;
pub mod early;
pub mod errors;
pub mod facts;
pub mod flow;
pub mod from_host;
pub mod from_overlay;
pub mod from_task;
pub mod from_uplink;
pub mod ingress;
pub mod read;
pub mod refuse;
pub mod rewrite;
pub mod sums;
pub mod xdp_uplink;

pub use facts::*;

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A task's link.
    Task { link: u32 },
    /// An uplink, behind its driver.
    Uplink { link: u32 },
    /// An uplink's driver.
    Driver { link: u32 },
    /// This node's own stack, into mesh0.
    Host,
    /// mesh0: the outer source, and the VNI.
    Overlay { remote: Ip, vni: u32 },
}

/// The hooks that count drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Task,
    Overlay,
    Host,
    Uplink,
}

/// What becomes of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Left to whoever comes next.
    Next,
    /// Up the stack.
    Ok,
    /// Nothing leaves.
    Shot,
    /// To another device.
    Redirect,
}

/// The whole verdict.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub action: Action,
    /// Counted once, at this hook: the name in docs/reference/drops.md.
    pub reason: Option<(Hook, &'static str)>,
    /// What leaves, where something does.
    pub frame: Vec<u8>,
    /// Offsets of checksums in it, for which 0 and 0xffff are the same number (RFC 1624, 3).
    pub sums: Vec<usize>,
    /// With a tunnel key, into mesh0.
    pub is_keyed: bool,
    /// The outer headers stand in the frame; their source port is anything from 49152 on.
    pub is_wrapped: bool,
    pub changes: Vec<Change>,
    /// The choice was drawn by lot, from so many.
    pub lots: usize,
}

/// What is remembered, or forgotten.
#[derive(Clone, Debug)]
pub enum Change {
    Flow(Key, Option<Flow>),
    Turn(u32),
    Datagram(Datagram, (u16, u16)),
    /// A fragment waits.
    Wait(Datagram, Vec<u8>),
    /// Those that waited go with the first one.
    Brought(Datagram),
    Kept((Ip, u32), Kept),
}

/// Why a walk stops before delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Not ours.
    Pass,
    /// Dropped, and not counted.
    Ignored,
    Drop(&'static str),
    /// And the sender is told.
    Refuse(&'static str),
    /// Likewise: it is too big, and may be so long.
    TooBig(u16),
}

pub type Step<T> = Result<T, Stop>;

/// One frame on its way.
pub struct Case<'a> {
    pub world: &'a World,
    pub hook: Hook,
    /// The device it arrived at.
    pub link: u32,
    pub frame: Vec<u8>,
    pub sums: Vec<usize>,
    pub is_keyed: bool,
    pub is_wrapped: bool,
    pub changes: Vec<Change>,
    pub lot: usize,
    pub lots: usize,
}

/// Says what becomes of a frame. `lot` is what is drawn where a choice is by lot.
pub fn judge(world: &World, entrance: Entrance, frame: &[u8], lot: usize) -> Judgement {
    let (hook, link) = match entrance {
        Entrance::Task { link } => (Hook::Task, link),
        Entrance::Uplink { link } | Entrance::Driver { link } => (Hook::Uplink, link),
        Entrance::Overlay { .. } => (Hook::Overlay, world.mesh0),
        Entrance::Host => (Hook::Host, world.mesh0),
    };
    let mut case = Case {
        world,
        hook,
        link,
        frame: frame.to_vec(),
        sums: Vec::new(),
        is_keyed: false,
        is_wrapped: false,
        changes: Vec::new(),
        lot,
        lots: 0,
    };
    let done = match entrance {
        Entrance::Task { .. } => case.at_task(),
        Entrance::Uplink { .. } => case.at_uplink(),
        Entrance::Driver { .. } => case.xdp_uplink(),
        Entrance::Host => case.at_host(),
        Entrance::Overlay { remote, vni } => case.at_overlay(remote, vni),
    };
    case.judged(done)
}

impl Case<'_> {
    fn judged(mut self, done: Step<Action>) -> Judgement {
        let (action, reason) = match done {
            Ok(action) => (action, None),
            Err(Stop::Pass) => (Action::Next, None),
            Err(Stop::Ignored) => (Action::Shot, None),
            Err(Stop::Drop(reason)) => (Action::Shot, Some((self.hook, reason))),
            Err(stop @ (Stop::Refuse(_) | Stop::TooBig(_))) => {
                let (reason, size) = match stop {
                    Stop::Refuse(reason) => (reason, 0),
                    Stop::TooBig(size) => ("too-big", size),
                    _ => unreachable!("no other is matched"),
                };
                // What a peer sent is never answered.
                let is_told = self.hook != Hook::Overlay && self.refuse(reason, size);
                (if is_told { Action::Redirect } else { Action::Shot }, Some((self.hook, reason)))
            }
        };
        Judgement {
            action,
            reason,
            frame: self.frame,
            sums: self.sums,
            is_keyed: self.is_keyed,
            is_wrapped: self.is_wrapped,
            changes: self.changes,
            lots: self.lots,
        }
    }
}

impl World {
    /// What has been remembered is so from now on.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Flow(key, Some(flow)) => drop(self.flows.insert(key, flow)),
                Change::Flow(key, None) => drop(self.flows.remove(&key)),
                Change::Datagram(datagram, ports) => drop(self.datagrams.insert(datagram, ports)),
                Change::Wait(datagram, frame) => self.early.entry(datagram).or_default().push(frame),
                Change::Brought(datagram) => drop(self.early.remove(&datagram)),
                Change::Turn(pool) => *self.turns.entry(pool).or_default() += 1,
                Change::Kept(key, kept) => drop(self.kept.insert(key, kept)),
            }
        }
    }
}
