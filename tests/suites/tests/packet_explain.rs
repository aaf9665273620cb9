//! `mesh explain` says what the programs do: random worlds and packets, each explained from the maps first and then run through the loaded
//! program. Verdict, reason, way, backend and the rewritten tuple must agree.
//!
//! The seed is printed where they don't; EXPLAIN_SEED runs one seed alone, EXPLAIN_PACKETS more packets.

#[path = "explain/packets.rs"]
mod packets;
#[path = "explain/random.rs"]
mod random;
#[path = "explain/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::os::fd::AsFd;

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, ETHERNET_LEN, ParseIp};
use mesh_common::schema::{Flow, FlowKey, flow_flag};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::outer;
use mesh_tests::rig::kernel::{self, Ran, Tunnelled};
use mesh_tests::rig::{Action, RunOptions};
use mesh_userspace::explain::{Entrance, Names, Outcome, Question, Tables, Verdict, Way, explain};
use mesh_userspace::kernel::bpf::Lookups;

use packets::Packet;
use random::Random;
use world::World;

/// Packets of a run, and of one world.
const PACKETS: usize = 250_000;
const OF_A_WORLD: usize = 500;
/// How often each kind of outcome must be met.
const OFTEN: usize = 10;

/// Reasons that a tuple, its frame and a world can lead to.
const REACHABLE: [DropReason; 28] = [
    DropReason::Unsupported,
    DropReason::SpoofedSource,
    DropReason::SpoofedMac,
    DropReason::Multicast,
    DropReason::NoEndpoint,
    DropReason::OtherNetwork,
    DropReason::NoBackend,
    DropReason::ClosedPort,
    DropReason::DataPort,
    DropReason::Internal,
    DropReason::NoRoute,
    DropReason::NoSnatPort,
    DropReason::UnknownPeer,
    DropReason::WrongPeer,
    DropReason::UnknownVni,
    DropReason::WireFormat,
    DropReason::EndpointGone,
    DropReason::NotPublished,
    DropReason::ForgedReply,
    DropReason::Fragment,
    DropReason::BackendGone,
    DropReason::PeerUnreachable,
    DropReason::NotConfigured,
    DropReason::IcmpError,
    DropReason::FromOutside,
    DropReason::TooBig,
    DropReason::HopLimit,
    DropReason::NotAllowed,
];

/// What of a family this test needs.
trait Tested: ParseIp {
    const NAME: &str;
    fn lookups(world: &World) -> &Lookups<Self>;
    /// The IPv4 address, or the one that is mirrored.
    fn four(addr: Self::Addr) -> [u8; 4] {
        let [.., a, b, c, d] = Self::to_16(addr);
        [a, b, c, d]
    }
}

impl Tested for V4 {
    const NAME: &str = "IPv4";
    fn lookups(world: &World) -> &Lookups<V4> {
        &world.lookups
    }
}

impl Tested for V6 {
    const NAME: &str = "IPv6";
    fn lookups(world: &World) -> &Lookups<V6> {
        &world.lookups6
    }
}

/// What came of a packet, to be counted.
struct Met {
    kind: String,
    /// Flags of the entry that it began.
    new_flags: u8,
    /// A task's call by a published port that its own node translates, for the sake of another.
    is_kept_clear: bool,
}

impl Met {
    fn of<F: Tested>(outcome: &Outcome<F>) -> Met {
        let new = outcome.flow.as_ref().filter(|_| outcome.is_new);
        Met {
            kind: format!("{}: {}", F::NAME, kind(outcome)),
            new_flags: new.map_or(0, |flow| flow.flags),
            is_kept_clear: outcome.steps.iter().any(|step| step.found.ends_with("by another way: translated here")),
        }
    }
}

fn reason_of<F: Family>(outcome: &Outcome<F>) -> Option<DropReason> {
    match outcome.verdict {
        Verdict::Dropped(reason) | Verdict::Refused(reason) => Some(reason),
        _ => None,
    }
}

/// What is rare about an entry.
const ODD: [(u8, &str); 2] = [(flow_flag::HAIRPIN, "hairpin"), (flow_flag::PORT_CHANGED, "source port changed")];

const KEPT_CLEAR: &str = "a call by a published port kept clear of another by its task";

/// A kind of outcome, to be counted.
fn kind<F: Family>(outcome: &Outcome<F>) -> String {
    let hook = outcome.hook.name();
    match outcome.verdict {
        Verdict::Delivered(way) => {
            let way = match way {
                Way::Task { .. } => "task",
                Way::Tunnel { is_fast: true, .. } => "fast",
                Way::Tunnel { .. } => "tunnel",
                Way::Uplink { .. } => "uplink",
                Way::Host => "host",
                Way::Outside { .. } => "outside",
                Way::Answer => "answer",
            };
            let age = match outcome.flow {
                None => "no flow",
                Some(_) if outcome.is_new => "new",
                Some(_) => "known",
            };
            format!("{hook}: {way}, {age}")
        }
        Verdict::Left => format!("{hook}: left"),
        Verdict::Ignored => format!("{hook}: ignored"),
        Verdict::Waits => format!("{hook}: waits"),
        Verdict::Dropped(reason) | Verdict::Refused(reason) => format!("{hook}: {}", reason.name()),
    }
}

/// Every kind of delivery that the four hooks know.
const DELIVERIES: [&str; 24] = [
    "from_task: task, no flow",
    "from_task: task, new",
    "from_task: task, known",
    "from_task: tunnel, no flow",
    "from_task: tunnel, new",
    "from_task: tunnel, known",
    "from_task: fast, new",
    "from_task: fast, known",
    "from_task: uplink, known",
    "from_task: host, no flow",
    "from_task: outside, new",
    "from_task: answer, no flow",
    "from_task: waits",
    "from_host: task, new",
    "from_host: tunnel, new",
    "from_host: ignored",
    "from_uplink: task, new",
    "from_uplink: task, known",
    "from_uplink: tunnel, new",
    "from_uplink: left",
    "from_uplink: waits",
    "from_overlay: task, new",
    "from_overlay: task, known",
    "from_overlay: uplink, no flow",
];

/// Any number: worlds and packets follow from it.
const FIRST_SEED: u64 = 20_785_000;

#[test]
fn what_is_explained_is_what_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let packets = number("EXPLAIN_PACKETS").unwrap_or(PACKETS as u64) as usize;
    let worlds: Vec<u64> = match number("EXPLAIN_SEED") {
        Some(seed) => vec![seed],
        // The same in every run: what fails here fails for everybody, and for the one who broke it first.
        None => (0..packets.div_ceil(OF_A_WORLD) as u64).map(|at| FIRST_SEED + at).collect(),
    };
    let is_whole = worlds.len() > 1;
    let Some(mut stage) = Stage::new() else { return };
    let mut met = BTreeMap::<String, usize>::new();
    for seed in worlds {
        let mut random = Random::new(seed);
        stage.world.renew(&mut random);
        for at in 0..OF_A_WORLD {
            let packet = packets::any(&mut random, &mut stage.world);
            let compared = if packet.is_ipv6() { stage.compare::<V6>(&packet) } else { stage.compare::<V4>(&packet) };
            let came = compared.unwrap_or_else(|difference| {
                panic!("EXPLAIN_SEED={seed}, packet {at}: {packet:#?}\n{difference}");
            });
            for (flag, word) in ODD {
                *met.entry(word.to_string()).or_default() += usize::from(came.new_flags & flag != 0);
            }
            *met.entry(KEPT_CLEAR.into()).or_default() += usize::from(came.is_kept_clear);
            *met.entry(came.kind).or_default() += 1;
        }
    }
    println!("met: {met:#?}");
    if !is_whole {
        return;
    }
    for family in [V4::NAME, V6::NAME] {
        for reason in REACHABLE {
            let is_it = |kind: &str| kind.starts_with(family) && kind.ends_with(&format!(": {}", reason.name()));
            let count: usize = met.iter().filter(|(kind, _)| is_it(kind)).map(|(_, n)| n).sum();
            assert!(count >= OFTEN, "{family}: {} was met {count} times only", reason.name());
        }
        for kind in DELIVERIES {
            let count = met.get(&format!("{family}: {kind}")).copied().unwrap_or(0);
            assert!(count >= OFTEN, "'{family}: {kind}' was met {count} times only");
        }
    }
    for word in ODD.map(|(_, word)| word).into_iter().chain([KEPT_CLEAR]) {
        let count = met.get(word).copied().unwrap_or(0);
        assert!(count >= OFTEN, "'{word}' was met {count} times only");
    }
}

#[test]
fn an_entry_that_was_removed_on_the_way_keeps_nothing_clear() {
    let Some(mut stage) = Stage::new() else { return };
    let mut random = Random::new(FIRST_SEED);
    stage.world.renew(&mut random);
    let packet = packets::to_itself(&mut random, &mut stage.world);
    let came = stage.compare::<V4>(&packet).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(came.kind, "IPv4: from_task: task, no flow");
}

/// A world with its programs.
struct Stage {
    world: World,
    tunnelled: Tunnelled,
}

impl Stage {
    fn new() -> Option<Stage> {
        let mut world = World::new()?;
        for hook in Hook::ALL {
            world.rig.load(hook.name());
        }
        let hook = world.rig.program(Hook::FromOverlay.name()).fd().expect("it is loaded").as_fd();
        let tunnelled = Tunnelled::new(hook, 0).expect("the tunnel wrapper loads");
        Some(Stage { world, tunnelled })
    }

    fn run(&self, packet: &Packet, hook: Hook) -> Ran {
        let rig = &self.world.rig;
        let ran = match packet.entrance {
            Entrance::Overlay { vni, .. } => {
                let program = self.tunnelled.from(packet.remote, vni).expect("the tunnel key is written");
                let options = RunOptions { ifindex: rig.devices().mesh0, ..RunOptions::default() };
                kernel::test_run(program, &packet.bytes, options)
            }
            Entrance::Task { ifindex, .. } | Entrance::Uplink { ifindex, .. } => self.run_at(packet, hook, ifindex),
            Entrance::Host => self.run_at(packet, hook, rig.devices().mesh0),
        };
        ran.expect("the test run works")
    }

    fn run_at(&self, packet: &Packet, hook: Hook, ifindex: u32) -> std::io::Result<Ran> {
        let program = self.world.rig.program(hook.name()).fd().expect("it is loaded");
        kernel::test_run(program.as_fd(), &packet.bytes, RunOptions { ifindex, ..RunOptions::default() })
    }

    /// Explains a packet, then sends it; what differs, in words.
    fn compare<F>(&mut self, packet: &Packet) -> Result<Met, String>
    where
        F: Tested + Debug,
        F::Addr: Debug,
        Lookups<F>: Tables<F>,
    {
        let parsed = parse::packet::<F>(&&packet.bytes[..]).expect("only whole packets are sent here");
        // How many wait already is not asked there.
        self.world.rig.nobody_waits();
        let (maps, names) = (F::lookups(&self.world), Names::default());
        let question = |chance| Question::<F> {
            entrance: packet.entrance,
            packet: parsed,
            len: packet.bytes.len() as u32,
            is_whole: packet.is_whole(),
            ttl: packet.ttl(),
            chance,
            route: self.world.route(packet.dst()),
        };
        // Chance can't be foreseen: what happens must be one of all that it may say.
        let mut outcomes = vec![explain(&question(0), maps, &names)];
        let is_random = |outcome: &Outcome<F>| outcome.steps.iter().any(|step| step.asked == "chance");
        if is_random(&outcomes[0]) {
            let most = self.world.most_backends() as u64;
            // Far more than there are backends, evenly: each is met.
            outcomes = (0..most * 8)
                .map(|at| explain(&question((at << 32).div_ceil(most * 8) as u32), maps, &names))
                .collect();
        }
        maps.check().map_err(|error| error.to_string())?;
        let hook = outcomes[0].hook;
        let counted = |outcome: &Outcome<F>| reason_of(outcome).map_or(0, |reason| self.world.drops_at(hook, reason));
        let before: Vec<u64> = outcomes.iter().map(counted).collect();
        let ran = self.run(packet, hook);
        let mut first = None;
        for (outcome, before) in outcomes.into_iter().zip(before) {
            let counted = counted(&outcome) - before;
            match self.agrees(&outcome, packet, &ran, counted) {
                Ok(()) => {
                    self.remember(&outcome, parsed.tuple);
                    return Ok(Met::of(&outcome));
                }
                Err(difference) => _ = first.get_or_insert((difference, outcome)),
            }
        }
        let (difference, outcome) = first.expect("there is one outcome at least");
        let flow = maps.flow(parsed.tuple);
        Err(format!(
            "{difference}\nexplained: {outcome:#?}\nthe program: {ran:02x?}\nits entry: {flow:?}\nparsed: {parsed:?}"
        ))
    }

    /// Keys of what a packet has begun: later ones are of it.
    fn remember<F: Tested>(&mut self, outcome: &Outcome<F>, called: FlowKey<F::Addr>) {
        let answers = outcome.reply.as_ref().map(|(key, _)| *key);
        let keys = [Some(called), answers].into_iter().flatten().filter(|_| outcome.is_new);
        self.world.known.extend(keys.map(|key| (key.with(F::four), F::ADDR_LEN == 16)));
    }

    fn agrees<F>(&self, outcome: &Outcome<F>, packet: &Packet, ran: &Ran, counted: u64) -> Result<(), String>
    where
        F: Tested + Debug,
        F::Addr: Debug,
        Lookups<F>: Tables<F>,
    {
        let action = Action::of_code(ran.code);
        let is_overlay = outcome.hook == Hook::FromOverlay;
        match outcome.verdict {
            Verdict::Dropped(_) | Verdict::Refused(_) => {
                let is_told = matches!(outcome.verdict, Verdict::Refused(_)) && !is_overlay;
                if counted != 1 || (action != Action::Shot && !is_told) {
                    return Err(format!("to be dropped and counted once: {action:?}, counted {counted} times"));
                }
                Ok(())
            }
            Verdict::Left if action == Action::Next && ran.frame == packet.bytes => Ok(()),
            Verdict::Ignored | Verdict::Waits if action == Action::Shot && counted == 0 => Ok(()),
            Verdict::Delivered(way) if matches!(action, Action::Redirect | Action::Ok) => {
                self.frame_agrees(outcome, way, ran)?;
                self.entry_agrees(outcome, packet)
            }
            verdict => Err(format!("{verdict:?}, but the program said {action:?}")),
        }
    }

    /// The frame that leaves: the tuple it has, and whom it is for.
    fn frame_agrees<F: Tested>(&self, outcome: &Outcome<F>, way: Way, ran: &Ran) -> Result<(), String>
    where
        F::Addr: Debug,
    {
        let is_keyed = ran.mark == 0x6d65_7368 || (outcome.hook == Hook::FromHost && ran.code == 0);
        let mut frame = &ran.frame[..];
        if let Way::Tunnel { node, vni, is_fast } = way {
            if is_fast == is_keyed {
                return Err(format!("is_fast is {is_fast}, and so is the tunnel key"));
            }
            if is_fast {
                let id = u32::from_be_bytes([0, frame[46], frame[47], frame[48]]);
                let to = [frame[30], frame[31], frame[32], frame[33]];
                if id != vni || to != world::address_of(node) {
                    return Err(format!("outer headers: VNI {id} to {to:?}"));
                }
                frame = &frame[outer::LEN..];
            }
        } else if is_keyed {
            return Err("it goes into the tunnel".into());
        }
        if way == Way::Answer {
            return Ok(());
        }
        let left = parse::packet::<F>(&frame).ok_or("what leaves is malformed")?;
        if left.tuple != outcome.tuple {
            return Err(format!("the tuple that leaves is {:?}", left.tuple));
        }
        let to = &frame[..6];
        let wanted = match (way, &outcome.flow) {
            (Way::Task { .. } | Way::Tunnel { .. } | Way::Uplink { .. }, Some(flow)) => Some(flow.mac),
            (Way::Task { ifindex }, None) => self.world.mac_at(F::four(outcome.tuple.dst), ifindex),
            _ => None,
        };
        if wanted.is_some_and(|wanted| to != wanted) || frame.len() < ETHERNET_LEN {
            return Err(format!("it is for {to:02x?}"));
        }
        Ok(())
    }

    /// The entries that are left behind.
    fn entry_agrees<F: Tested>(&self, outcome: &Outcome<F>, packet: &Packet) -> Result<(), String>
    where
        F::Addr: Debug,
        Lookups<F>: Tables<F>,
    {
        let parsed = parse::packet::<F>(&&packet.bytes[..]).expect("it was read before");
        let same = |key, wanted: &Flow<F::Addr>| -> Result<(), String> {
            let Some(found) = F::lookups(&self.world).flow(key) else {
                return Err(format!("no entry {key:?}, wanted {wanted:?}"));
            };
            let plain = |flow: &Flow<F::Addr>| Flow {
                last_seen_s: 0,
                packets: 0,
                bytes: 0,
                seen: 0,
                flags: flow.flags & !flow_flag::SPILLED,
                ..*flow
            };
            if plain(&found) == plain(wanted) {
                Ok(())
            } else {
                Err(format!("the entry {key:?} is {found:?}, wanted {wanted:?}"))
            }
        };
        if let Some(flow) = &outcome.flow {
            same(parsed.tuple, flow)?;
        }
        // A task that calls itself: its answers' entry may be the call's own key.
        match &outcome.reply {
            Some((key, flow)) if *key != parsed.tuple => same(*key, flow),
            _ => Ok(()),
        }
    }
}
