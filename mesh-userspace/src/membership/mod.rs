//! Membership: who belongs to the cluster, who is alive, and what each node reports.
//!
//! ```text
//! identity  CA, certificates, tokens, keys on disk        join  who may become a member
//! envelope  seals every gossip message                    replay  each message counts once
//! swim      who is alive (pure)                           records  what nodes report (pure)
//! wire      what is in the envelopes                      exchange  records over TCP
//! roster    who should be there, who is (pure)            driver  the task that owns sockets and clocks
//! ```
//! Walk: agent → [`Membership::set_task_status`] → own record, next number → datagram to every live member → their books →
//! [`Membership::observed`] there. What a datagram lost, an exchange brings within about a second.
//!
//! Invariants: a malformed, forged or replayed message is dropped, counted, and changes nothing; every record has one
//! writer; no secret is logged. Must not: write the store, or decide what a dead agent means – that is the leader's.

mod counters;
mod driver;
pub mod envelope;
mod exchange;
pub mod identity;
pub mod join;
mod records;
mod replay;
mod roster;
mod seed;
mod swim;
#[cfg(test)]
mod tests;
mod wire;

pub use counters::GossipCounters;
pub use seed::Seed;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::model::{Id, NodeStatus, Observed, TaskStatus};
use counters::Counters;
use driver::{Cable, Command, Driver, Shared, State};
use envelope::GossipKeys;
use wire::RawId;

#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(
        "port {port}/{transport} at {ip} is in use by another program, and gossip needs it: \
         `ss -lnp 'sport = {port}'` shows whose it is", ip = addr.ip(), port = addr.port()
    )]
    PortInUse { addr: SocketAddr, transport: &'static str },
    #[error("can't listen for gossip at {addr} ({transport}): {source}; is it an address of this machine?")]
    Listen { addr: SocketAddr, transport: &'static str, source: std::io::Error },
}

/// Gossip's sockets, taken before anything else is begun: where they are in use, nothing has to be taken back.
#[derive(Debug)]
pub struct GossipSockets {
    bind: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl GossipSockets {
    /// At the advertise address, or the unspecified one. Needs a tokio runtime.
    pub async fn bind(addr: SocketAddr) -> Result<Self, MembershipError> {
        let refused = |transport| {
            move |source: std::io::Error| match source.kind() {
                std::io::ErrorKind::AddrInUse => MembershipError::PortInUse { addr, transport },
                _ => MembershipError::Listen { addr, transport, source },
            }
        };
        let udp = UdpSocket::bind(addr).await.map_err(refused("udp"))?;
        let tcp = TcpListener::bind(addr).await.map_err(refused("tcp"))?;
        // tokio learns of room to send from its first event; without this the first hello would be dropped.
        udp.writable().await.map_err(refused("udp"))?;
        Ok(GossipSockets { bind: addr, udp, tcp })
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub node_id: Id,
    /// Of this life; [`identity::next_generation`] makes it.
    pub generation: u64,
    /// Where others reach us.
    pub advertise: SocketAddr,
    pub keys: GossipKeys,
    /// Members to say hello to, until [`Membership::set_members`] knows better.
    pub seeds: Vec<Seed>,
}

/// The agent's handle on gossip. Clones are the same gossip; it ends when the last one is dropped.
#[derive(Clone)]
pub struct Membership {
    commands: mpsc::UnboundedSender<Command>,
    view: watch::Receiver<Arc<Observed>>,
    shared: Arc<Shared>,
}

impl Membership {
    /// Listens and says hello to the seeds. Needs a tokio runtime.
    pub fn start(config: Config, sockets: GossipSockets) -> Membership {
        Membership::start_with(config, sockets, Cable::default())
    }

    fn start_with(config: Config, GossipSockets { bind, udp, tcp }: GossipSockets, cable: Cable) -> Membership {
        let (me, now) = (RawId::from(&config.node_id), Instant::now());
        let shared = Arc::new(Shared {
            book: Mutex::new(records::Book::new(me, config.generation)),
            ring: RwLock::new(Arc::new(config.keys.ring())),
            counters: Counters::default(),
            changed: Notify::new(),
        });
        let (commands, orders) = mpsc::unbounded_channel();
        let (sender, view) = watch::channel(Arc::new(Observed::default()));
        let mut driver = Driver {
            me,
            generation: config.generation,
            bind,
            shared: Arc::clone(&shared),
            swim: swim::Swim::new(swim::Peer { id: me, addr: config.advertise, life: config.generation }),
            udp,
            tcp,
            commands: orders,
            view: sender,
            cable,
            state: State::new(now),
        };
        driver.set_known(&config.seeds, false);
        tokio::spawn(driver.run());
        Membership { commands, view, shared }
    }

    /// Reports about this node.
    pub fn set_node_status(&self, status: NodeStatus) {
        self.order(Command::Node(Box::new(status)));
    }

    /// Reports about a task of this node.
    pub fn set_task_status(&self, task: Id, status: TaskStatus) {
        self.order(Command::Task(task, Box::new(status)));
    }

    /// Forgets a task of this node, everywhere.
    pub fn remove_task(&self, task: Id) {
        self.order(Command::RemoveTask(task));
    }

    /// Says that every task this node has was reported in this life: what others still have from an earlier life is gone.
    /// Call it once, when adoption is done.
    pub fn inventory_done(&self) {
        self.order(Command::Inventory);
    }

    /// What all nodes report and who is alive, this node included. `unreachable_since` is left empty: that is not gossip's to
    /// know. The receiver is notified of each change.
    pub fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.view.clone()
    }

    /// The members by the store, whenever that list changes: those that are not alive here are said hello to, those
    /// that are not on it are not believed, and their records are dropped.
    pub fn set_members(&self, members: Vec<Seed>) {
        self.order(Command::Members(members));
    }

    /// Seals and opens with these keys from now on; see [`GossipKeys::staged`] for the order of a rotation.
    pub fn set_keys(&self, keys: GossipKeys) {
        self.order(Command::Keys(keys));
    }

    pub fn counters(&self) -> GossipCounters {
        self.shared.counters.read()
    }

    /// Tells the others that this agent ends, and ends gossip.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        self.order(Command::Leave(done));
        let _ = left.await; // an error means that gossip had ended before
    }

    fn order(&self, command: Command) {
        // The driver lives as long as a handle does, or until leave(): then there is nobody to tell.
        let _ = self.commands.send(command);
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Membership")
    }
}
