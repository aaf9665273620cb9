//! An outcome in words, for people and for programs.

use mesh_common::family::Family;
use mesh_common::schema::{Flow, deliver, flow_flag, rewrite};
use mesh_common::verdict::{DropReason, Hook};
use serde::{Deserialize, Serialize};

use super::trace::{Names, Step, socket, tuple};
use super::{Entrance, Outcome, Question, Verdict, Way};

/// What `mesh explain` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet as it comes.
    pub packet: String,
    pub steps: Vec<Step>,
    /// `delivered`, `dropped`, or `left` to the host.
    pub verdict: String,
    /// The same in a sentence.
    pub sentence: String,
    /// The task that gets it; empty where it is nobody's.
    pub task: String,
    pub node: String,
    /// `task`, `tunnel`, `fast`, `uplink`, `host`, `outside`, `answer`; empty where it is not delivered.
    pub way: String,
    /// The packet as it is delivered, where that differs.
    pub rewritten: String,
    /// How answers come back.
    pub answers: String,
    /// Name of the drop reason, and what to do about it.
    pub reason: String,
    pub remedy: String,
}

impl Explanation {
    pub fn is_delivered(&self) -> bool {
        self.verdict != "dropped"
    }
}

/// Puts an outcome into words. `before` is what happened before the packet was one.
pub fn words<F: Family>(
    question: &Question<F>,
    before: Vec<Step>,
    outcome: Outcome<F>,
    names: &Names,
    me: u32,
) -> Explanation {
    let mut answer = Explanation {
        packet: format!("{} ({})", tuple::<F>(&question.packet.tuple), place(&question.entrance, names)),
        ..Explanation::default()
    };
    if outcome.tuple != question.packet.tuple {
        answer.rewritten = tuple::<F>(&outcome.tuple);
    }
    match outcome.verdict {
        Verdict::Delivered(way) => deliver_words(&mut answer, &outcome, way, names, me),
        Verdict::Left => {
            answer.verdict = "left".into();
            answer.sentence = "left to this host's stack: no published port, task or flow of ours".into();
        }
        Verdict::Ignored => {
            answer.verdict = "dropped".into();
            answer.sentence = "dropped without a count: no packet of an overlay".into();
        }
        Verdict::Waits => {
            answer.verdict = "waits".into();
            answer.sentence = "waits for the first fragment of its datagram, which has the ports".into();
        }
        Verdict::Dropped(reason) => drop_words(&mut answer, reason, false),
        Verdict::Refused(reason) => drop_words(&mut answer, reason, outcome.hook != Hook::FromOverlay),
    }
    answer.answers = outcome.reply.as_ref().map_or(String::new(), |(key, flow)| {
        let (from, way) = (tuple::<F>(key), back(flow, names, me));
        format!("{from}: source becomes {}, {way}", socket::<F>(flow.addr, flow.port))
    });
    if let (true, Some(flow), None) = (answer.answers.is_empty(), &outcome.flow, &outcome.reply)
        && flow.deliver == deliver::TUNNEL
        && flow.rewrite == rewrite::NONE
    {
        let node = names.node(u32::from(flow.node));
        answer.answers = format!("{node} rewrites and remembers; its answers come back through this node");
    }
    answer.steps = before;
    answer.steps.extend(outcome.steps);
    answer
}

fn place(entrance: &Entrance, names: &Names) -> String {
    match entrance {
        Entrance::Task { .. } => "a task of this node sends it".to_string(),
        Entrance::Host => "this host sends it".to_string(),
        Entrance::Uplink { ifindex, .. } => format!("it comes in by {}", names.link(*ifindex)),
        Entrance::Overlay { peer, .. } => {
            format!("{} sends it through the tunnel", peer.map_or("a stranger".into(), |peer| names.node(peer.node)))
        }
    }
}

fn deliver_words<F: Family>(answer: &mut Explanation, outcome: &Outcome<F>, way: Way, names: &Names, me: u32) {
    answer.verdict = "delivered".into();
    if let Some(flow) = &outcome.flow
        && flow.backend != 0
        && flow.deliver != deliver::OUTSIDE
    {
        answer.task = names.task(flow.backend);
    }
    let whom =
        if answer.task.is_empty() { socket::<F>(outcome.tuple.dst, outcome.tuple.dport) } else { answer.task.clone() };
    let (word, node, sentence) = match way {
        Way::Task { ifindex } => {
            ("task", names.node(me), format!("to {whom} on this node, by {}", names.link(ifindex)))
        }
        Way::Tunnel { node, vni, is_fast } => {
            let (word, how) = if is_fast { ("fast", "the fast way past mesh0") } else { ("tunnel", "through mesh0") };
            let node = names.node(node);
            let sentence = format!("to {whom} on {node}, {how}, {}", vni_words(vni, names));
            (word, node, sentence)
        }
        Way::Uplink { ifindex } => (
            "uplink",
            String::new(),
            format!("out of {}, to the neighbour that the call came from", names.link(ifindex)),
        ),
        Way::Host => ("host", names.node(me), "up this host's own stack".to_string()),
        Way::Outside { ifindex } => {
            ("outside", String::new(), format!("to {whom} outside, by {}", names.link(ifindex)))
        }
        Way::Answer => {
            ("answer", names.node(me), "answered by the program itself: an echo reply goes back".to_string())
        }
    };
    (answer.way, answer.node) = (word.to_string(), node);
    let mut sentence = format!("delivered {sentence}");
    if let Some(flow) = &outcome.flow {
        if flow.flags & flow_flag::HAIRPIN != 0 {
            sentence += "; the task reaches itself, and sees the gateway as its caller";
        }
        if flow.flags & flow_flag::PORT_CHANGED != 0 {
            sentence += "; its source port is changed, since another flow has that tuple at the task";
        }
    }
    answer.sentence = sentence;
}

fn vni_words(vni: u32, names: &Names) -> String {
    use mesh_common::wire::vni as of;
    match vni {
        of::INGRESS..=of::LAST_NETWORK => format!("network {}", names.network(vni)),
        of::REQUEST_WIRE | of::REQUEST_NODE => "unchanged, as a call of this node's".to_string(),
        of::REPLY_WIRE | of::REPLY_NODE => "as an answer to the node that the call entered".to_string(),
        _ => format!("turned back (VNI {vni}): that node chooses again"),
    }
}

fn drop_words(answer: &mut Explanation, reason: DropReason, is_told: bool) {
    answer.verdict = "dropped".into();
    let told = if is_told { "refused, and the sender is told" } else { "dropped" };
    answer.sentence = format!("{told}: {} – {}", reason.name(), reason.meaning());
    answer.reason = reason.name().into();
    answer.remedy = reason.remedy().into();
}

/// Where answers go.
fn back<A>(flow: &Flow<A>, names: &Names, me: u32) -> String {
    match flow.deliver {
        deliver::TASK => format!("delivered to the caller by {}", names.link(flow.ifindex)),
        deliver::TUNNEL => format!("back through {}", names.node(u32::from(flow.node))),
        deliver::UPLINK => format!("out of {} to the neighbour that the call came from", names.link(flow.ifindex)),
        deliver::HOST => format!("up the stack of {}", names.node(me)),
        _ => "outside".to_string(),
    }
}
