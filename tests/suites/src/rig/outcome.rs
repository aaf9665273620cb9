//! What a hook did with one packet, and sentences to judge it by. Each says what action, which drop counters moved, and what left.

use mesh_common::schema::{Flow, FlowKey};
use mesh_common::verdict::{DropReason, Hook};
use mesh_packet::Frame;

use super::family::spoken;
use super::kernel::Ran;
use super::way::{self, Way};
use super::{Drops, Flows};

/// Mark of frames that carry their tunnel key already ("mesh"): the programs send them into mesh0.
pub const KEYED: u32 = 0x6d65_7368;

/// What can be sent: bytes, or a frame said field by field.
pub trait Packet {
    fn bytes(&self) -> Vec<u8>;
}

impl Packet for &Frame {
    fn bytes(&self) -> Vec<u8> {
        spoken(self).bytes()
    }
}

impl Packet for Frame {
    fn bytes(&self) -> Vec<u8> {
        spoken(self).bytes()
    }
}

impl Packet for &[u8] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Packet for &Vec<u8> {
    fn bytes(&self) -> Vec<u8> {
        (*self).clone()
    }
}

/// A hook's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not ours: the next program or the stack.
    Next,
    /// On its way.
    Ok,
    /// Dropped.
    Shot,
    /// To another device.
    Redirect,
}

impl Action {
    /// Of what a TC program returned.
    #[track_caller]
    pub fn of_code(code: i32) -> Action {
        match code {
            -1 => Action::Next,
            0 => Action::Ok,
            2 => Action::Shot,
            7 => Action::Redirect,
            other => panic!("no verdict is {other}"),
        }
    }
}

/// A flow and its key.
pub type FlowEntry = (FlowKey<[u8; 4]>, Flow<[u8; 4]>);

/// What came of one packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub hook: Hook,
    pub action: Action,
    pub sent: Vec<u8>,
    pub frame: Vec<u8>,
    /// The packet carries a tunnel key for mesh0.
    pub is_keyed: bool,
    /// Reasons whose counter moved, at any hook.
    pub drops: Vec<(u8, u8, u64)>,
    /// Flow entries that are new.
    pub new_flows: Vec<FlowEntry>,
    /// Keys of flow entries that are gone.
    pub lost_flows: Vec<FlowKey<[u8; 4]>>,
}

impl Outcome {
    #[track_caller]
    pub(super) fn new(hook: Hook, sent: &[u8], ran: Ran, drops: (&Drops, &Drops), flows: (&Flows, &Flows)) -> Self {
        let action = Action::of_code(ran.code);
        let moved = drops.1.iter().filter_map(|(key, now)| {
            let before = drops.0.get(key).copied().unwrap_or(0);
            (*now != before).then_some((key.0, key.1, now - before))
        });
        Outcome {
            hook,
            action,
            sent: sent.to_vec(),
            frame: ran.frame,
            is_keyed: ran.mark == KEYED,
            drops: moved.collect(),
            new_flows: flows.1.iter().filter(|(key, _)| !flows.0.contains_key(key)).map(|(k, f)| (*k, *f)).collect(),
            lost_flows: flows.0.keys().filter(|key| !flows.1.contains_key(key)).copied().collect(),
        }
    }

    /// Sent to another device as `wanted`, nothing counted as dropped. Gives the outcome back for more.
    #[track_caller]
    pub fn sent(self, wanted: &Frame) -> Self {
        self.acted(Action::Redirect, &[]);
        spoken(wanted).assert_matches(&self.frame);
        self
    }

    /// As [`Outcome::sent`], into the tunnel: with a tunnel key, to mesh0.
    #[track_caller]
    pub fn tunnelled(self, wanted: &Frame) -> Self {
        if self.action == Action::Redirect && !self.is_keyed && Way::of_this_test() == Way::Fast {
            self.acted(Action::Redirect, &[]);
            way::wrapped(&spoken(wanted)).assert_matches(&self.frame);
            return self;
        }
        // What leaves mesh0 itself needs no redirect and no mark.
        let (action, is_keyed) =
            if self.hook == Hook::FromHost { (Action::Ok, false) } else { (Action::Redirect, true) };
        self.acted(action, &[]);
        assert_eq!(self.is_keyed, is_keyed, "tunnel key: {self:?}");
        spoken(wanted).assert_matches(&self.frame);
        self
    }

    /// On its way up the stack (or out of the device) as `wanted`.
    #[track_caller]
    pub fn passed(self, wanted: &Frame) -> Self {
        // What came the fast way has to get to mesh0 first.
        let is_fast = self.hook == Hook::FromOverlay && Way::of_this_test() == Way::Fast;
        self.acted(if is_fast { Action::Redirect } else { Action::Ok }, &[]);
        spoken(wanted).assert_matches(&self.frame);
        self
    }

    /// Left to others, not a byte changed.
    #[track_caller]
    pub fn left_alone(self) -> Self {
        self.acted(Action::Next, &[]);
        assert_eq!(self.frame, self.sent, "not a byte is to change");
        self
    }

    /// Dropped and counted once, for this reason.
    #[track_caller]
    pub fn dropped(self, reason: DropReason) -> Self {
        self.acted(Action::Shot, &[reason]);
        self
    }

    /// Dropped without being counted: not worth a word (gratuitous ARP, the stack's own chatter).
    #[track_caller]
    pub fn ignored(self) -> Self {
        self.acted(Action::Shot, &[]);
        self
    }

    /// Counted once, for this reason, and the sender gets `answer`.
    #[track_caller]
    pub fn refused(self, reason: DropReason, answer: &Frame) -> Self {
        self.acted(Action::Redirect, &[reason]);
        spoken(answer).assert_matches(&self.frame);
        self
    }

    /// This action, and nothing counted as dropped.
    #[track_caller]
    pub fn acted_as(self, action: Action) -> Self {
        self.acted(action, &[]);
        self
    }

    #[track_caller]
    fn acted(&self, action: Action, reasons: &[DropReason]) {
        let wanted: Vec<(u8, u8, u64)> = reasons.iter().map(|reason| (self.hook as u8, *reason as u8, 1)).collect();
        let named = |drops: &[(u8, u8, u64)]| -> Vec<String> {
            let name = |number: u8| DropReason::ALL.iter().find(|r| **r as u8 == number).map_or("?", |r| r.name());
            drops.iter().map(|(hook, reason, n)| format!("{n} {} at hook {hook}", name(*reason))).collect()
        };
        assert_eq!(
            (self.action, named(&self.drops)),
            (action, named(&wanted)),
            "{}: verdict and drops\nframe sent {:02x?}\nframe out  {:02x?}",
            self.hook.name(),
            &self.sent[..self.sent.len().min(80)],
            &self.frame[..self.frame.len().min(80)]
        );
    }

    /// The one new flow entry that is not a reply's.
    #[track_caller]
    pub fn new_flow(&self) -> FlowEntry {
        let reverse = mesh_common::schema::flow_flag::REVERSE;
        let forward: Vec<_> = self.new_flows.iter().filter(|(_, flow)| flow.flags & reverse == 0).collect();
        assert_eq!(forward.len(), 1, "one new flow: {:#?}", self.new_flows);
        *forward[0]
    }
}
