//! Readings: a program behind the wrapper, the bare one behind the wrapper, and the wrapper alone, in turns.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};

use super::floors::Floor;
use super::frames::{Bytes, Template, Tuple, shuffled};
use super::programs::{self, Kind, Programs, clear, count};
use super::walks::{Opener, Stream, Walk, World, walks};
use crate::bench::{PAIRS, Row, Wish};
use crate::rig::Rig;
use crate::rig::kernel::Ran;

/// Shares of the flows that one reading of new flows opens, before the table is emptied.
const SHARES: u32 = 5;
/// Flows from which such a share is enough for a reading.
const SHARED_FROM: u32 = 100_000;

/// Most flows that a reading is preceded by one silent round of: what was measured in between has thrown them out of the caches, and they
/// would fit. More don't, and a node with that many has them cold each time.
const WARMED: u32 = 10_000;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Packets a reading.
    pub repeats: u32,
    /// Pairs of readings.
    pub pairs: usize,
}

impl Effort {
    pub fn of(wish: &Wish) -> Effort {
        Effort { repeats: if wish.quick { 20_000 } else { 100_000 }, pairs: PAIRS }
    }
}

/// One node's programs and tables, and the bare programs beside them.
pub struct Bench {
    pub(super) rig: Rig,
    pub(super) programs: Programs,
    pub(super) world: World,
    pub(super) effort: Effort,
    order: Vec<u32>,
    /// Packets before each reading that are not counted.
    warm: u32,
}

/// What is timed, and what it must say.
struct Subject<'a> {
    program: OwnedFd,
    name: &'a str,
    kind: Kind,
    ifindex: u32,
    verdicts: &'a [i32],
}

impl Bench {
    /// For so many flows at most, in tables of so many entries.
    pub fn new(flows: u32, entries: u32, effort: Effort) -> Result<Bench> {
        let mut rig = Rig::with_flow_table(entries).context("measuring needs root")?;
        let world = World::furnish(&mut rig);
        Ok(Bench { rig, programs: Programs::load(flows, entries)?, world, effort, order: Vec::new(), warm: 0 })
    }

    pub fn walks(&self) -> Vec<Walk> {
        walks(&self.world)
    }

    /// A walk's packets, after their flows were opened.
    pub fn established(&mut self, walk: &Walk, flows: u32) -> Result<Row> {
        let name = walk.row_name(walk.sort, flows);
        let Some(ours) = self.subject(&walk.stream)? else { return Ok(missing(walk, name).target(walk.target(flows))) };
        let opened = self.open(walk, flows).with_context(|| format!("{name}: opening its flows"))?;
        let tuples = self.tuples(&walk.stream, flows);
        // In the order of their numbers, as ours were opened.
        let known: Vec<Tuple> = (0..flows).map(|n| walk.stream.tuple(&self.world, n)).collect();
        self.programs.know(programs::FLOWS, &known, walk.entries > 1, self.world.client_ifindex())?;
        let first = self.load(&walk.stream.data(), &tuples)?;
        self.warm = warm(flows);
        let bare = self.bare(walk.bare, &ours)?;
        let drops = self.rig.drops();
        let mut pairs = Vec::new();
        // The first pair fills caches and is thrown away.
        for pair in 0..=self.effort.pairs {
            let floor = self.floor_of(&ours, walk.makes_room(), &first, self.effort.repeats)?;
            let value = self.run(&ours, &first, self.effort.repeats)?;
            let reference = self.run(&bare, &first, self.effort.repeats)?;
            if pair > 0 {
                pairs.push((value - floor, reference - floor));
            }
        }
        ensure!(self.rig.drops() == drops, "{name}: packets were dropped: {:?}", self.rig.drops());
        let entries = count(self.rig.map("FLOWS4"))?;
        ensure!(entries == opened, "{name}: the flow table went from {opened} entries to {entries} meanwhile");
        Ok(Row::pairs(name, "ns", walk.bare, &pairs).target(walk.target(flows)))
    }

    /// A walk's first packets: each opens a flow, none of which is known.
    pub fn new_flows(&mut self, walk: &Walk, flows: u32) -> Result<Row> {
        let name = walk.row_name("new flow", flows);
        let Some(ours) = self.subject(&walk.stream)? else {
            return Ok(missing(walk, name).target(walk.target_new(flows)));
        };
        let tuples = self.tuples(&walk.stream, flows);
        let first = self.load(&walk.stream.syn(), &tuples)?;
        self.warm = 0;
        let bare = self.bare(walk.bare_new, &ours)?;
        let drops = self.rig.drops();
        let shares = if flows >= SHARED_FROM { SHARES } else { 1 };
        let repeats = flows / shares;
        let mut pairs = Vec::new();
        for pair in 0..=self.effort.pairs as u32 {
            let share = pair % shares;
            if share == 0 {
                clear(self.rig.map("FLOWS4"))?;
                self.programs.forget(programs::FLOWS)?;
            }
            let floor = self.floor_of(&ours, walk.makes_room(), &first, repeats)?;
            self.programs.start_at(share * repeats, flows)?;
            let value = self.run(&ours, &first, repeats)?;
            self.programs.start_at(share * repeats, flows)?;
            let reference = self.run(&bare, &first, repeats)?;
            if pair > 0 {
                pairs.push((value - floor, reference - floor));
            }
            if share + 1 < shares && pair < self.effort.pairs as u32 {
                continue;
            }
            let written = (share + 1) as usize * repeats as usize * walk.entries;
            let [of_ours, of_bare] = [count(self.rig.map("FLOWS4"))?, self.programs.known()?];
            ensure!(of_ours == written, "{name}: {of_ours} flow entries were written, not {written}");
            ensure!(of_bare >= written, "{name}: the bare program wrote {of_bare} entries, not {written}");
        }
        ensure!(self.rig.drops() == drops, "{name}: packets were dropped: {:?}", self.rig.drops());
        Ok(Row::pairs(name, "ns", walk.bare_new, &pairs).target(walk.target_new(flows)))
    }

    /// The same in a flood: beside the table, by the ring, the longest silent giving way; the bare program writes its entries as ever.
    pub fn new_flows_in_flood(&mut self, walk: &Walk, flows: u32) -> Result<Row> {
        let name = walk.row_name("new flow in flood mode", flows);
        let Some(ours) = self.subject(&walk.stream)? else { return Ok(missing(walk, name)) };
        let tuples = self.tuples(&walk.stream, flows);
        let first = self.load(&walk.stream.syn(), &tuples)?;
        self.warm = 0;
        let bare = self.bare(walk.bare_new, &ours)?;
        let drops = self.rig.drops();
        clear(self.rig.map("FLOWS4"))?;
        let mut pairs = Vec::new();
        for pair in 0..=self.effort.pairs {
            clear(self.rig.map("OVERFLOW4"))?;
            self.programs.forget(programs::FLOWS)?;
            let floor = self.floor_of(&ours, walk.makes_room(), &first, flows)?;
            let (before, _) = self.rig.spilled_and_promoted();
            self.rig.flood_is_on();
            self.programs.start_at(0, flows)?;
            let value = self.run(&ours, &first, flows)?;
            let (after, _) = self.rig.spilled_and_promoted();
            self.programs.start_at(0, flows)?;
            let reference = self.run(&bare, &first, flows)?;
            if pair > 0 {
                pairs.push((value - floor, reference - floor));
            }
            // An ingress node may leave no trace of a SYN; whoever translates has to.
            let (written, most) = ((after - before) as usize, flows as usize * walk.entries);
            ensure!(
                written == most || (walk.entries == 1 && written == 0),
                "{name}: {written} entries were written beside the table, not {most}"
            );
        }
        let entries = count(self.rig.map("FLOWS4"))?;
        ensure!(entries == 0, "{name}: {entries} entries came into the table");
        ensure!(self.rig.drops() == drops, "{name}: packets were dropped: {:?}", self.rig.drops());
        self.rig.configure(|_| {});
        clear(self.rig.map("OVERFLOW4"))?;
        self.rig.set("OVERFLOWED", 0, 0u32);
        Ok(Row::pairs(name, "ns", walk.bare_new, &pairs))
    }

    /// A bare program alone.
    pub fn floor(&mut self, floor: &Floor, flows: u32) -> Result<Row> {
        let walk =
            self.walks().into_iter().find(|walk| walk.stream.kind == floor.kind).context("a walk of this kind")?;
        let tuples = self.tuples(&walk.stream, flows);
        let known: Vec<Tuple> = (0..flows).map(|n| walk.stream.tuple(&self.world, n)).collect();
        let table = if floor.forgets() { programs::LRU } else { programs::FLOWS };
        self.programs.know(table, &known, false, self.world.client_ifindex())?;
        let first = self.load(&walk.stream.data(), &tuples)?;
        self.warm = warm(flows);
        let verdicts = [floor.verdict];
        let program = self.programs.program(floor.program)?;
        let subject = Subject { program, name: floor.program, kind: floor.kind, ifindex: 0, verdicts: &verdicts };
        let is_empty = floor.program == floor.kind.empty();
        let mut net = Vec::new();
        for reading in 0..=self.effort.pairs {
            let makes_room = floor.program.ends_with("vxlan") || floor.program == "xdp_forward";
            let below = if is_empty { 0.0 } else { self.floor_of(&subject, makes_room, &first, self.effort.repeats)? };
            let value = self.run(&subject, &first, self.effort.repeats)?;
            if reading > 0 {
                net.push(value - below);
            }
        }
        Ok(Row::alone(floor.row_name(flows), "ns", &net))
    }

    /// What a walk's hook says of one packet of each flow after they were opened, and what its bare program says; nothing is timed.
    pub fn verdicts(&mut self, walk: &Walk, flows: u32) -> Result<Option<Vec<(i32, i32)>>> {
        let Some(ours) = self.subject(&walk.stream)? else { return Ok(None) };
        self.open(walk, flows)?;
        let tuples = self.tuples(&walk.stream, flows);
        self.programs.know(programs::FLOWS, &tuples, walk.entries > 1, self.world.client_ifindex())?;
        let first = self.load(&walk.stream.data(), &tuples)?;
        let bare = self.bare(walk.bare, &ours)?;
        let mut verdicts = Vec::new();
        for number in 0..flows {
            let mut said = |subject: &Subject<'_>| {
                self.programs.start_at(number, flows)?;
                anyhow::Ok(self.programs.run(subject.kind, subject.program.as_fd(), subject.ifindex, &first, 1)?.code)
            };
            verdicts.push((said(&ours)?, said(&bare)?));
        }
        Ok(Some(verdicts))
    }

    /// What a bare program makes of a packet in the second run, and who that packet was from and to; nothing is timed.
    pub fn made_of(&mut self, floor: &Floor) -> Result<(Tuple, Ran)> {
        let walk =
            self.walks().into_iter().find(|walk| walk.stream.kind == floor.kind).context("a walk of this kind")?;
        let tuple = walk.stream.tuple(&self.world, 0);
        for table in [programs::FLOWS, programs::LRU] {
            self.programs.know(table, &[tuple], false, self.world.client_ifindex())?;
        }
        let first = self.load(&walk.stream.data(), &[tuple])?;
        let program = self.programs.program(floor.program)?;
        Ok((tuple, self.programs.run(floor.kind, program.as_fd(), 0, &first, 2)?))
    }

    /// Opens a walk's flows in an empty table; says how many entries that made.
    pub(super) fn open(&mut self, walk: &Walk, flows: u32) -> Result<usize> {
        clear(self.rig.map("FLOWS4"))?;
        let stream = match &walk.opener {
            Opener::None => return Ok(0),
            Opener::Own => &walk.stream,
            Opener::Other(stream) => stream,
        };
        let opener = self.subject(stream)?.with_context(|| format!("there is no {}", stream.program))?;
        // In the order of their numbers, in which entries lie in memory; they are visited in another.
        let tuples: Vec<Tuple> = (0..flows).map(|n| stream.tuple(&self.world, n)).collect();
        let first = self.load(&stream.syn(), &tuples)?;
        self.warm = 0;
        self.run(&opener, &first, flows)?;
        let entries = count(self.rig.map("FLOWS4"))?;
        let expected = walk.entries * flows as usize;
        ensure!(entries == expected, "{flows} flows left {entries} entries, not {expected}");
        Ok(entries)
    }

    /// None where the product has no such program.
    fn subject<'a>(&mut self, stream: &'a Stream) -> Result<Option<Subject<'a>>> {
        let Stream { program: name, kind, ifindex, verdicts, .. } = stream;
        let program = self.rig.descriptor(name)?;
        Ok(program.map(|program| Subject { program, name, kind: *kind, ifindex: *ifindex, verdicts }))
    }

    /// The bare program that stands beside `ours`.
    fn bare<'a>(&mut self, name: &'a str, ours: &Subject<'_>) -> Result<Subject<'a>> {
        let verdicts: &[i32] = if ours.kind == Kind::Xdp { &[3] } else { &[0, 7] };
        Ok(Subject { program: self.programs.program(name)?, name, kind: ours.kind, ifindex: ours.ifindex, verdicts })
    }

    /// The flows in the order they are visited.
    pub(super) fn tuples(&mut self, stream: &Stream, flows: u32) -> Vec<Tuple> {
        if self.order.len() != flows as usize {
            self.order = shuffled(flows);
        }
        self.order.iter().map(|n| stream.tuple(&self.world, *n)).collect()
    }

    /// The wrapper goes through these frames; the first of them.
    pub(super) fn load(&mut self, template: &Template, tuples: &[Tuple]) -> Result<Bytes> {
        let frames: Vec<Bytes> = tuples.iter().map(|tuple| template.of(*tuple)).collect();
        self.programs.frames(&frames)?;
        Ok(frames[0])
    }

    /// Nanoseconds a run, as the kernel counts them.
    fn run(&mut self, subject: &Subject<'_>, first: &Bytes, repeats: u32) -> Result<f64> {
        let Subject { program, name, kind, ifindex, verdicts } = subject;
        if self.warm > 0 {
            self.programs.run(*kind, program.as_fd(), *ifindex, first, self.warm)?;
        }
        let ran = self.programs.run(*kind, program.as_fd(), *ifindex, first, repeats)?;
        ensure!(verdicts.contains(&ran.code), "{name}: the last packet ended in {}, not in {verdicts:?}", ran.code);
        Ok(f64::from(ran.duration_ns))
    }

    /// The wrapper alone; where the program lengthens the packet, with half of what a program costs that does only that: the other half is
    /// its own.
    fn floor_of(&mut self, subject: &Subject<'_>, makes_room: bool, first: &Bytes, repeats: u32) -> Result<f64> {
        let verdicts: &[i32] = if subject.kind == Kind::Xdp { &[3] } else { &[0] };
        let name = subject.kind.empty();
        let (kind, ifindex) = (subject.kind, subject.ifindex);
        let empty = Subject { program: self.programs.program(name)?, name, kind, ifindex, verdicts };
        let wrapper = self.run(&empty, first, repeats)?;
        if !makes_room {
            return Ok(wrapper);
        }
        let head = Subject { program: self.programs.program("xdp_head")?, name: "xdp_head", ..empty };
        Ok(wrapper + (self.run(&head, first, repeats)? - wrapper).max(0.0) / 2.0)
    }
}

fn warm(flows: u32) -> u32 {
    if flows <= WARMED { flows } else { 0 }
}

fn missing(walk: &Walk, name: String) -> Row {
    Row::missing(name, "ns", format!("the packet programs have no {}", walk.stream.program))
}
