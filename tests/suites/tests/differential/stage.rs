//! One frame after another: judged by the model, run by the programs, compared; and the oracles asked.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use mesh_common::verdict::{self, DropReason, drop_index};
use mesh_tests::rig::kernel::{self, Ran, Tunnelled};
use mesh_tests::rig::{Rig, RunOptions};

use super::frames::{Frame, Speakers};
use super::model::read::{self, Form, SCTP};
use super::model::{Action, Change, Entrance, Hook, Judgement, Key, World, judge, mac, none_like, vni};
use super::oracles::{self, Came, Walls};
use super::packet::Said;
use super::random::Random;
use super::{tables, worlds};

/// Mark of frames with a tunnel key.
const KEYED: u32 = 0x6d65_7368;
/// First source port of outer headers.
const FIRST_OUTER_PORT: u16 = 49_152;
const HOOKS: [Hook; 4] = [Hook::Task, Hook::Overlay, Hook::Host, Hook::Uplink];
const OUTER: usize = super::model::deliver::OUTER;

pub struct Stage {
    rig: Rig,
    tunnelled: Tunnelled,
    driver: OwnedFd,
    random: Random,
    world: World,
    /// The uplink's driver has its program.
    has_driver: bool,
    known: Vec<Key>,
    walls: Walls,
    /// Drops so far, as the model counts them.
    dropped: BTreeMap<(Hook, &'static str), u64>,
    met: BTreeMap<String, usize>,
    frames: usize,
    /// The tables are compared after each frame.
    is_close: bool,
}

fn hook_of(hook: Hook) -> verdict::Hook {
    match hook {
        Hook::Task => verdict::Hook::FromTask,
        Hook::Overlay => verdict::Hook::FromOverlay,
        Hook::Host => verdict::Hook::FromHost,
        Hook::Uplink => verdict::Hook::FromUplink,
    }
}

impl Stage {
    pub fn new(is_close: bool) -> Option<Stage> {
        let mut rig = Rig::with_flow_table(1 << 14)?;
        for hook in HOOKS {
            rig.load(hook_of(hook).name());
        }
        let hook = rig.program(verdict::Hook::FromOverlay.name()).fd().expect("it is loaded").as_fd();
        let tunnelled = Tunnelled::new(hook, 0).expect("the tunnel wrapper loads");
        // A first run attaches it: without that the device takes no test run.
        rig.xdp_uplink(&vec![0; 64]).left_alone();
        let driver = rig.descriptor("xdp_uplink").expect("it loads").expect("the object has it");
        Some(Stage {
            rig,
            tunnelled,
            driver,
            random: Random::new(0),
            world: World::default(),
            has_driver: false,
            known: Vec::new(),
            walls: Walls::default(),
            dropped: BTreeMap::new(),
            met: BTreeMap::new(),
            frames: 0,
            is_close,
        })
    }

    pub fn frames(&self) -> usize {
        self.frames
    }

    pub fn met(&self) -> &BTreeMap<String, usize> {
        &self.met
    }

    /// Another world: nothing is left of the last one.
    pub fn renew(&mut self, random: Random) {
        self.random = random;
        self.world = worlds::any(&mut self.random, self.rig.devices());
        self.has_driver = self.random.one_in(2);
        tables::write(&self.world, &mut self.rig);
        self.known.clear();
        self.walls = Walls::default();
    }

    /// The tables at a world's end, and all counters.
    pub fn end(&mut self) -> Result<(), String> {
        self.tables()?;
        for hook in HOOKS {
            for reason in DropReason::ALL {
                let wanted = self.dropped.get(&(hook, reason.name())).copied().unwrap_or(0);
                let counted = self.rig.drops_of(drop_index(hook_of(hook), *reason));
                if counted != wanted {
                    return Err(format!("{hook:?}: {} counted {counted} times, not {wanted}", reason.name()));
                }
            }
        }
        Ok(())
    }

    fn tables(&self) -> Result<(), String> {
        match tables::differences(&self.world, &self.rig) {
            found if found.is_empty() => Ok(()),
            found => Err(format!("the tables differ:\n{}", found.join("\n"))),
        }
    }

    /// One more frame, and sometimes its answer.
    pub fn play(&mut self) -> Result<(), String> {
        self.disturb();
        let mut speakers = Speakers { random: &mut self.random, world: &self.world, known: &self.known };
        let crowd = speakers.random.one_in(150).then(|| speakers.crowd()).flatten();
        let frame = match crowd {
            Some((taken, frame)) => {
                taken.iter().for_each(|(key, flow)| tables::plant(*key, flow, &mut self.rig));
                self.world.flows.extend(taken);
                frame
            }
            None => speakers.any(),
        };
        let left = self.pass(&frame)?;
        match left {
            Some(left) if frame.is_sound && self.random.one_in(6) => self.answer(&frame, &left),
            _ => Ok(()),
        }
    }

    /// The task of a flow has ended: the sweeper marks all that it was part of.
    fn disturb(&mut self) {
        if self.known.is_empty() || !self.random.one_in(100) {
            return;
        }
        let key = self.known[self.random.below(self.known.len())];
        let Some(ended) = self.world.flows.get(&key).map(|flow| flow.backend) else { return };
        for (key, flow) in self.world.flows.iter_mut().filter(|(_, flow)| flow.backend == ended) {
            flow.flags.dead = true;
            tables::plant(*key, flow, &mut self.rig);
        }
    }

    /// A frame through its hooks; what left, without outer headers.
    fn pass(&mut self, frame: &Frame) -> Result<Option<Vec<u8>>, String> {
        if let (Entrance::Uplink { link }, true) = (frame.entrance, self.has_driver) {
            let in_driver = Frame { entrance: Entrance::Driver { link }, ..frame.clone() };
            let judged = self.run(&in_driver)?;
            if judged.action == Action::Redirect {
                return self.judged(&in_driver, judged);
            }
        }
        let judged = self.run(frame)?;
        self.judged(frame, judged)
    }

    /// Judges and runs a frame at one hook; they agree, and what is to be remembered is.
    fn run(&mut self, frame: &Frame) -> Result<Judgement, String> {
        self.frames += 1;
        let came = self.came(frame);
        self.walls.hear(&self.world, &came);
        let first = judge(&self.world, frame.entrance, &frame.bytes, 0);
        let ran = self.programs(frame).map_err(|error| format!("{frame:02x?}: the test run failed: {error}"))?;
        let lots = first.lots;
        let mut judged = first;
        let mut difference = self.differs(frame, &judged, &ran);
        for lot in 1..lots {
            if difference.is_none() {
                break;
            }
            let other = judge(&self.world, frame.entrance, &frame.bytes, lot);
            if self.differs(frame, &other, &ran).is_none() {
                (judged, difference) = (other, None);
            }
        }
        if let Some(difference) = difference {
            return Err(format!(
                "{difference}\nit is {frame:02x?}\nthe model    {judged:02x?}\nthe programs {ran:02x?}\nits flow {:?}",
                read::packet(&frame.bytes).and_then(|packet| self.world.flows.get(&packet.key))
            ));
        }
        if let Some(reason) = judged.reason {
            *self.dropped.entry(reason).or_default() += 1;
        }
        let changes = std::mem::take(&mut judged.changes);
        let written = changes.iter().filter_map(|change| match change {
            Change::Flow(key, Some(_)) if !self.world.flows.contains_key(key) => Some(*key),
            _ => None,
        });
        let written: Vec<Key> = written.collect();
        self.known.extend(written);
        let had_waited = changes.iter().any(|change| matches!(change, Change::Brought(_)));
        self.world.apply(changes);
        self.note(frame, &judged, had_waited);
        if self.is_close {
            self.tables().map_err(|error| format!("{error}\nafter {frame:02x?}\nwhich was judged {judged:02x?}"))?;
        }
        Ok(judged)
    }

    fn programs(&self, frame: &Frame) -> std::io::Result<Ran> {
        let at = |hook: verdict::Hook, ifindex| {
            let program = self.rig.program(hook.name()).fd().expect("it is loaded").as_fd();
            kernel::test_run(program, &frame.bytes, RunOptions { ifindex, ..RunOptions::default() })
        };
        match frame.entrance {
            Entrance::Task { link } => at(verdict::Hook::FromTask, link),
            Entrance::Uplink { link } => at(verdict::Hook::FromUplink, link),
            Entrance::Host => at(verdict::Hook::FromHost, self.rig.devices().mesh0),
            Entrance::Driver { link } => {
                let ran = kernel::test_run_xdp_at(self.driver.as_fd(), &frame.bytes, link)?;
                // In TC's words: pass, redirect.
                let code = match ran.code {
                    2 => -1,
                    4 => 7,
                    other => other + 100,
                };
                Ok(Ran { code, ..ran })
            }
            Entrance::Overlay { remote, vni } => {
                let program = self.tunnelled.from(tables::ip4(remote), vni)?;
                let options = RunOptions { ifindex: self.rig.devices().mesh0, ..RunOptions::default() };
                kernel::test_run(program, &frame.bytes, options)
            }
        }
    }

    fn differs(&self, frame: &Frame, judged: &Judgement, ran: &Ran) -> Option<String> {
        let code = match judged.action {
            Action::Next => -1,
            Action::Ok => 0,
            Action::Shot => 2,
            Action::Redirect => 7,
        };
        if ran.code != code {
            return Some(format!("the verdict: {:?} by the model, {} by the programs", judged.action, ran.code));
        }
        if let Some((hook, name)) = judged.reason {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name).expect("a reason of the page");
            let wanted = self.dropped.get(&(hook, name)).copied().unwrap_or(0) + 1;
            if self.rig.drops_of(drop_index(hook_of(hook), *reason)) != wanted {
                return Some(format!("the reason: {name} by the model at {hook:?}, another by the programs"));
            }
        }
        // What was drawn shows in what is remembered, and perhaps nowhere else.
        if judged.lots != 0 && !self.is_drawn(frame, judged) {
            return Some("the choice by lot".into());
        }
        match judged.action {
            Action::Shot => None,
            Action::Next if ran.frame != frame.bytes => Some("it was changed, and left to others".into()),
            Action::Next => None,
            _ if judged.is_keyed != (ran.mark == KEYED) => Some("the tunnel key".into()),
            _ => bytes_differ(judged, &ran.frame),
        }
    }

    fn is_drawn(&self, frame: &Frame, judged: &Judgement) -> bool {
        let untouched = read::packet(&frame.bytes)
            .filter(|packet| {
                !judged.changes.iter().any(|change| matches!(change, Change::Flow(key, _) if *key == packet.key))
            })
            .map(|packet| Change::Flow(packet.key, self.world.flows.get(&packet.key).cloned()));
        // Of several changes of one entry the last one stands.
        let mut last = BTreeMap::new();
        for change in judged.changes.iter().chain(&untouched) {
            if let Change::Flow(key, _) = change {
                last.insert(*key, change);
            }
        }
        last.values().all(|change| tables::holds(change, &self.rig))
    }

    fn note(&mut self, frame: &Frame, judged: &Judgement, had_waited: bool) {
        let hook = match frame.entrance {
            Entrance::Task { .. } => "from_task",
            Entrance::Uplink { .. } => "from_uplink",
            Entrance::Driver { .. } => "xdp_uplink",
            Entrance::Host => "from_host",
            Entrance::Overlay { .. } => "from_overlay",
        };
        let how = match judged.action {
            Action::Next => "left",
            Action::Ok => "to the stack",
            Action::Shot if judged.reason.is_none() => "ignored",
            Action::Shot => "dropped",
            Action::Redirect if judged.reason.is_some() => "refused",
            Action::Redirect if judged.is_keyed => "sent, keyed",
            Action::Redirect if judged.is_wrapped => "sent, wrapped",
            Action::Redirect => "sent",
        };
        *self.met.entry(format!("{hook}: {how}")).or_default() += 1;
        if inner(&frame.bytes).get(12..14) == Some(&[0x86, 0xdd]) {
            *self.met.entry(format!("IPv6: {hook}: {how}")).or_default() += 1;
        }
        if had_waited {
            let family = if inner(&frame.bytes).get(12..14) == Some(&[0x86, 0xdd]) { "IPv6: " } else { "" };
            *self.met.entry(format!("{family}{hook}: others had waited")).or_default() += 1;
        }
        if let Some((_, reason)) = judged.reason {
            *self.met.entry(reason.into()).or_default() += 1;
        } else if matches!(judged.action, Action::Ok | Action::Redirect)
            && let Some(what) = self.chapter(frame, judged)
        {
            *self.met.entry(what.into()).or_default() += 1;
            if inner(&frame.bytes).get(12..14) == Some(&[0x86, 0xdd]) {
                *self.met.entry(format!("IPv6: {what}")).or_default() += 1;
            }
        }
    }

    /// What is rare about a packet that went on.
    fn chapter(&self, frame: &Frame, judged: &Judgement) -> Option<&'static str> {
        let packet = read::packet(inner(&frame.bytes))?;
        let left = if judged.is_wrapped { &judged.frame[OUTER..] } else { &judged.frame };
        let after = read::packet(left)?;
        let is_changed = (after.key.src, after.key.dst) != (packet.key.src, packet.key.dst);
        let key = packet.key;
        let is_by_address = || {
            let all = (none_like(key.dst), key.dport, key.protocol);
            self.world.published.get(&all).is_some_and(|it| it.by_address)
        };
        match packet.form {
            Form::Error if is_changed => Some("an error spoke of what was sent"),
            Form::Fragment if is_changed => Some("a later fragment followed"),
            Form::Ports if key.protocol == SCTP && (after.key.sport, after.key.dport) != (key.sport, key.dport) => {
                Some("an SCTP port changed")
            }
            Form::Ports
                if matches!(frame.entrance, Entrance::Task { .. })
                    && self.world.addresses.contains_key(&key.dst)
                    && self.world.endpoints.get(&after.key.dst).is_some_and(|it| it.link == 0)
                    && after.key.sport != key.sport =>
            {
                Some("a call by a published port kept clear of another by its task")
            }
            Form::Ports if self.world.addresses.contains_key(&key.dst) && is_by_address() => {
                Some("a port of one address")
            }
            Form::Ports
                if !is_changed && self.world.endpoints.contains_key(&key.dst) && after.key.sport != key.sport =>
            {
                Some(match frame.entrance {
                    Entrance::Host => "a direct call of the host kept clear of another's answers",
                    _ => "a direct call kept clear of another's answers",
                })
            }
            _ => None,
        }
    }

    /// How a frame came, as far as walls go.
    fn came<'f>(&self, frame: &'f Frame) -> Came<'f> {
        let came = inner(&frame.bytes);
        let sender = oracles::ends(came).map(|(sender, _)| sender);
        let network = match frame.entrance {
            Entrance::Task { link } => self.world.endpoints.values().find(|it| it.link == link),
            // Whoever has an address of the host, a gateway's too, is the host.
            Entrance::Host => None,
            // What a peer's task is in was judged when it began: the sender counts, not what the frame says.
            _ => sender.and_then(|sender| self.world.endpoints.get(&sender)),
        };
        let id = id_of(frame);
        Came { frame: came, network: network.map(|it| it.vni), is_request: (1..4_096).contains(&id) }
    }

    /// The oracles' word on what left.
    fn judged(&mut self, frame: &Frame, judged: Judgement) -> Result<Option<Vec<u8>>, String> {
        let leaves = matches!(judged.action, Action::Ok | Action::Redirect) && judged.reason.is_none();
        if !leaves {
            return Ok(None);
        }
        let outer =
            judged.is_wrapped.then(|| u32::from_be_bytes([0, judged.frame[46], judged.frame[47], judged.frame[48]]));
        let is_keyed = judged.is_keyed;
        let left = if judged.is_wrapped { judged.frame[OUTER..].to_vec() } else { judged.frame };
        if frame.is_sound {
            oracles::checksums(&left).map_err(|error| format!("{error}\nof {left:02x?}\nafter {frame:02x?}"))?;
        }
        let came = self.came(frame);
        // Handed back to the peer as it came, whomever its MAC address names: nobody is reached.
        let is_handed_back = is_keyed && came.frame == left.as_slice();
        let passed = if is_handed_back { Ok(()) } else { self.walls.pass(&self.world, &came, &left, outer) };
        passed.map_err(|error| format!("{error}\nit left as {left:02x?}\nafter {frame:02x?}"))?;
        Ok(Some(left))
    }

    /// The task that a frame was delivered to answers: what leaves then is the answer to what came.
    fn answer(&mut self, frame: &Frame, left: &[u8]) -> Result<(), String> {
        let to = left[..6].try_into().expect("six bytes");
        let task = match mac::read(to) {
            Some((1, number)) => self.world.endpoints.values().find(|it| it.number == number && it.link != 0),
            _ => None,
        };
        let (Some(task), Some(came), Some(got)) = (task, oracles::tuple(inner(&frame.bytes)), oracles::tuple(left))
        else {
            return Ok(());
        };
        // One that a peer hands back has the task's address already, and another call's to that task may be remembered.
        if id_of(frame) == vni::TURNED_BACK_TASK {
            return Ok(());
        }
        // An answer itself, by an ingress node.
        if self.world.vips.contains_key(&came.src) || self.world.addresses.contains_key(&came.src) {
            return Ok(());
        }
        // Of a call that has just been remembered. Its tuple may begin another life later; and what is not rewritten is not remembered: in the midst of
        // such a call nobody asks whether its answers are taken for another's (docs/decisions/0038).
        let is_first = self.world.flows.get(&came).is_some_and(|call| call.packets == 1 && !call.flags.reply);
        if if came == got { self.world.flows.contains_key(&got.turned()) } else { !is_first } {
            return Ok(());
        }
        let packet = Said { flags: 0x12, ..Said::new(got.turned()) };
        let bytes = packet.bytes([mac::GATEWAY, task.mac], 0, &[], 8, &mut self.random);
        let entrance = Entrance::Task { link: task.link };
        let answer = Frame { bytes, entrance, is_sound: true };
        let Some(back) = self.pass(&answer)? else { return Ok(()) };
        let seen = oracles::tuple(&back);
        if seen != Some(came.turned()) {
            return Err(format!("called as {came:?}, answered as {seen:?}\n{frame:02x?}\nleft as {left:02x?}"));
        }
        *self.met.entry("an answer undid its call".into()).or_default() += 1;
        Ok(())
    }
}

/// The VNI by which a frame came; 0: by no tunnel.
fn id_of(frame: &Frame) -> u32 {
    match frame.entrance {
        Entrance::Overlay { vni, .. } => vni,
        _ if inner(&frame.bytes).len() < frame.bytes.len() => {
            u32::from_be_bytes([0, frame.bytes[46], frame.bytes[47], frame.bytes[48]])
        }
        _ => 0,
    }
}

/// The frame in a tunnel packet, or the frame itself.
fn inner(bytes: &[u8]) -> &[u8] {
    let is_tunnel =
        bytes.len() > OUTER + 34 && bytes[12..15] == [8, 0, 0x45] && bytes[36..38] == 4_789u16.to_be_bytes();
    if is_tunnel && bytes[23] == 17 { &bytes[OUTER..] } else { bytes }
}

fn bytes_differ(judged: &Judgement, left: &[u8]) -> Option<String> {
    let (mut wanted, mut left) = (judged.frame.clone(), left.to_vec());
    if wanted.len() != left.len() {
        return Some(format!("the length: {} by the model, {} by the programs", wanted.len(), left.len()));
    }
    for at in &judged.sums {
        for frame in [&mut wanted, &mut left] {
            if frame[*at..at + 2] == [0xff, 0xff] {
                frame[*at..at + 2].fill(0);
            }
        }
    }
    if judged.is_wrapped {
        let port = u16::from_be_bytes([left[34], left[35]]);
        if port < FIRST_OUTER_PORT {
            return Some(format!("the outer source port {port}"));
        }
        left[34..36].copy_from_slice(&wanted[34..36]);
        if wanted[OUTER + 12..OUTER + 14] == [0x86, 0xdd] {
            // Any identification, and the header's checksum for it.
            if mesh_packet::checksum::complete(0, &left[14..34]) != 0 {
                return Some("the outer header's checksum".into());
            }
            for at in [18, 24] {
                left[at..at + 2].copy_from_slice(&wanted[at..at + 2]);
            }
        }
    }
    let at = wanted.iter().zip(&left).position(|(wanted, left)| wanted != left)?;
    Some(format!("byte {at}"))
}
