//! Orders to the program `sweep`, and the walk that finds out which to give: what may be over, the program looks at again, then acts.
//!
//! Invariant: a call of the program obeys at most `order::MOST` orders. Must not: delete anything itself.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::Duration;

use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_common::ageing::least_silence_s;
use mesh_common::family::Bytes;
use mesh_common::flow::{order, twin};
use mesh_common::schema::{Flow, FlowKey, deliver, flow_flag};
use nix::time::{ClockId, clock_gettime};

use super::ends::{self, End, Standing};
use super::flows::{CHUNK, Swept, unread};
use super::pin::chain;
use super::{BpfError, batch};

/// One walk that asks the program about whatever may be over.
pub(super) struct Pass<'p, A, S> {
    expire: Orders<'p, A>,
    kill: Orders<'p, A>,
    ask: S,
    /// How ends stood that were there when this pass asked; one that goes meanwhile brings about another pass.
    known: HashMap<End, Standing>,
    now_s: u32,
    slowest_read: Duration,
}

impl<'p, A: Bytes + aya::Pod, S: Fn(End) -> Standing> Pass<'p, A, S> {
    pub(super) fn new(program: &'p SchedClassifier, now_s: u32, ask: S) -> Self {
        let (expire, kill) = (Orders::new(program), Orders::new(program));
        Pass { expire, kill, ask, known: HashMap::new(), now_s, slowest_read: Duration::ZERO }
    }

    pub(super) fn over(
        &mut self,
        map: &MapData,
        name: &'static str,
        mut each: impl FnMut(&FlowKey<A>, &Flow<A>),
    ) -> Result<(), BpfError> {
        let mut walk = batch::Walk::<FlowKey<A>, Flow<A>>::new(map, CHUNK);
        loop {
            let began = thread_time();
            let step = walk.step().map_err(unread(name))?;
            self.slowest_read = self.slowest_read.max(thread_time().saturating_sub(began));
            let Some((keys, flows)) = step else { return Ok(()) };
            for (key, flow) in keys.iter().zip(flows) {
                each(key, flow);
                if flow.flags & flow_flag::DEAD == 0 && ends::ends(key, flow, |end| self.standing(end)) {
                    self.kill.give(key, order::KILL, 0)?;
                    // Of a caller elsewhere the calling entry says nothing.
                    if let (deliver::TUNNEL, Some(call)) = (flow.deliver, twin(key, flow)) {
                        self.kill.give(&call, order::KILL, 0)?;
                    }
                } else if self.is_witness(key, flow) {
                    self.expire.give(key, order::EXPIRE, self.now_s)?;
                }
            }
        }
    }

    fn standing(&mut self, end: End) -> Standing {
        if let Some(known) = self.known.get(&end) {
            return *known;
        }
        let standing = (self.ask)(end);
        if standing != Standing::Gone {
            self.known.insert(end, standing);
        }
        standing
    }

    /// The program is to look at this flow.
    fn is_witness(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let silent_s = self.now_s.saturating_sub(flow.last_seen_s);
        least_silence_s(key, flow).is_some_and(|least_s| silent_s > least_s)
    }

    /// Entries removed so far.
    pub(super) fn expired(&mut self) -> Result<usize, BpfError> {
        self.expire.send()?;
        Ok(self.expire.acted)
    }

    pub(super) fn end(mut self) -> Result<Swept, BpfError> {
        self.expire.send()?;
        self.kill.send()?;
        Ok(Swept {
            expired: self.expire.acted,
            killed: self.kill.acted,
            slowest_call: self.expire.slowest.max(self.kill.slowest),
            slowest_read: self.slowest_read,
            ..Swept::default()
        })
    }
}

/// Orders on their way to the program, about flows of one family.
pub(super) struct Orders<'p, A> {
    program: &'p SchedClassifier,
    packet: Vec<u8>,
    pub(super) acted: usize,
    /// The longest call.
    pub(super) slowest: Duration,
    of: PhantomData<A>,
}

impl<'p, A: Bytes> Orders<'p, A> {
    pub(super) fn new(program: &'p SchedClassifier) -> Self {
        let mut packet = Vec::with_capacity(order::FIRST_AT + order::MOST * order::RECORD);
        packet.resize(order::FIRST_AT - 2, 0);
        packet.extend_from_slice(&A::ETHERTYPE.to_be_bytes());
        Orders { program, packet, acted: 0, slowest: Duration::ZERO, of: PhantomData }
    }

    pub(super) fn give(&mut self, key: &FlowKey<A>, order: u8, second: u32) -> Result<(), BpfError> {
        self.packet.extend_from_slice(&key.src.to_16());
        self.packet.extend_from_slice(&key.dst.to_16());
        self.packet.extend_from_slice(&key.sport.to_ne_bytes());
        self.packet.extend_from_slice(&key.dport.to_ne_bytes());
        self.packet.extend_from_slice(&[key.protocol, 0, 0, 0, order, 0, 0, 0]);
        self.packet.extend_from_slice(&second.to_ne_bytes());
        if self.packet.len() < order::FIRST_AT + order::MOST * order::RECORD { Ok(()) } else { self.send() }
    }

    /// Has the program look at what was ordered.
    pub(super) fn send(&mut self) -> Result<(), BpfError> {
        if self.packet.len() == order::FIRST_AT {
            return Ok(());
        }
        let failed = |reason: String| BpfError::Map { attempt: "sweep", map: "FLOWS4", reason };
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.packet);
        let began = thread_time();
        let result = self.program.test_run(options).map_err(|error| failed(chain(&error)))?;
        self.slowest = self.slowest.max(thread_time().saturating_sub(began));
        self.acted += result.return_value as usize;
        self.packet.truncate(order::FIRST_AT);
        Ok(())
    }
}

/// What this thread has had of a CPU: another's turn is no part of a call.
pub(super) fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
