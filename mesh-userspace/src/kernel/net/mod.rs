//! The host's network, by netlink: what `plan::net` wants is put into the kernel here, one operation at a time.
//!
//! [`HostNet::converge`] is the whole way: observe → `plan::net::diff` → apply. A restart, a repair, an update and a purge (an
//! empty image) take the same way; nothing increments. Tasks' links may also be made at once, when a task is prepared, by
//! [`HostNet::add_task_link`]; the image has them too, so what the agent forgot is found and what nobody wants is removed.
//!
//! Invariant: links, routes and sysctls that are not ours are never changed, the host's firewall never read or written.
//! A `HostNet` belongs to the network namespace of the thread that opened it, and is to be used from threads of that namespace.

mod advertise;
mod changes;
mod error;
pub mod filters;
mod guest;
mod link;
mod list;
mod mesh0;
pub mod namespace;
mod next_hop;
mod observe;
mod on_mesh0;
mod policy;
mod ports;
mod survey;
mod sysctl;
mod task_link;
#[cfg(test)]
mod tests;
mod underlay;
mod way_out;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rtnetlink::Handle;

pub use changes::Changes;
pub use error::NetError;
pub use policy::Protection;
pub use survey::{LinkProgram, PortHolder};

use crate::model::Id;
use crate::plan::net::{HeldPort, MESH0, NetImage, NetOp, TaskLink, diff};
use ports::PlaceholderSockets;
use sysctl::Sysctls;

/// Where a task's network namespace is; None while the task has none.
pub type NamespaceOf<'a> = &'a (dyn Fn(&Id) -> Option<OwnedFd> + Send + Sync);

/// Attaches the programs to `mesh0`, by its index; an error in words. Called again whenever the device is set up: a program
/// that is attached already stays.
pub type Attach<'a> = &'a (dyn Fn(u32) -> Result<(), String> + Send + Sync);

/// The hold on this host's network.
pub struct HostNet {
    handle: Handle,
    sysctls: Sysctls,
    ports: Mutex<PlaceholderSockets>,
    /// One round at a time: a round that saw a link which is just being made would take it for a leftover.
    round: tokio::sync::Mutex<()>,
    /// Neighbours that next hops rest on.
    watched: next_hop::Watched,
}

/// How an operation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// What it is for is not here yet: a task's namespace (its runtime makes the link when it prepares the task), or a port's address. Asked again each round.
    NotYet,
}

/// What a round of [`HostNet::converge`] did.
#[derive(Debug, Default)]
pub struct Converged {
    pub done: Vec<NetOp>,
    pub not_yet: Vec<NetOp>,
    /// The rest was tried all the same; the next round tries these again.
    pub failed: Vec<(NetOp, NetError)>,
}

impl HostNet {
    /// Opens a netlink socket in the calling thread's namespace, driven by the current tokio runtime. `state_dir` keeps the
    /// record of changed sysctls.
    pub fn open(state_dir: &Path) -> Result<Self, NetError> {
        Ok(HostNet {
            handle: namespace::connect()?,
            sysctls: Sysctls::new(state_dir),
            ports: Mutex::default(),
            round: tokio::sync::Mutex::default(),
            watched: next_hop::Watched::default(),
        })
    }

    /// Makes the host's network as `wanted`; the answer says what had to be done. `attach` is called with `mesh0`'s index
    /// before the device goes up: it attaches the programs, and where it fails the device stays down.
    pub async fn converge(
        &self,
        wanted: &NetImage,
        namespace_of: NamespaceOf<'_>,
        attach: Attach<'_>,
    ) -> Result<Converged, NetError> {
        let _round = self.round.lock().await;
        let programmed = self.observe(wanted).await?;
        let mut converged = Converged::default();
        let mut mesh0_failed = false;
        for op in diff(&programmed, wanted) {
            if mesh0_failed && op.needs_mesh0() {
                continue;
            }
            let applied = match op {
                NetOp::SetMesh0(_) => self.attach_then_apply(&op, namespace_of, attach).await,
                _ => self.apply(&op, namespace_of).await,
            };
            match applied {
                Ok(Applied::Done) => converged.done.push(op),
                Ok(Applied::NotYet) => converged.not_yet.push(op),
                Err(error) => {
                    mesh0_failed |= matches!(op, NetOp::AddMesh0(_) | NetOp::SetMesh0(_));
                    converged.failed.push((op, error));
                }
            }
        }
        Ok(converged)
    }

    async fn attach_then_apply(
        &self,
        op: &NetOp,
        namespace_of: NamespaceOf<'_>,
        attach: Attach<'_>,
    ) -> Result<Applied, NetError> {
        if let Some(index) = self.ifindex(MESH0).await? {
            attach(index).map_err(NetError::Attach)?;
        }
        self.apply(op, namespace_of).await
    }

    /// One operation; repeating it does no harm. Not to be mixed with a round of [`HostNet::converge`] at the same time.
    pub async fn apply(&self, op: &NetOp, namespace_of: NamespaceOf<'_>) -> Result<Applied, NetError> {
        match op {
            NetOp::AddMesh0(wanted) => mesh0::add(&self.handle, wanted).await?,
            NetOp::SetMesh0(wanted) => mesh0::set(&self.handle, wanted).await?,
            NetOp::RemoveMesh0 => mesh0::remove(&self.handle).await?,
            NetOp::AddAddress(addr) => on_mesh0::add_address(&self.handle, *addr).await?,
            NetOp::RemoveAddress(addr) => on_mesh0::remove_address(&self.handle, *addr).await?,
            NetOp::SetRoute(subnet, route) => on_mesh0::set_route(&self.handle, *subnet, *route).await?,
            NetOp::RemoveRoute(subnet) => on_mesh0::remove_route(&self.handle, *subnet).await?,
            NetOp::AddTaskLink(wanted) => match namespace_of(&wanted.task_id) {
                Some(netns) => task_link::add(&self.handle, wanted, netns.as_fd()).await?,
                None => return Ok(Applied::NotYet),
            },
            NetOp::SetTaskLink(wanted) => {
                task_link::set(&self.handle, wanted).await?;
                if let Some(netns) = namespace_of(&wanted.task_id) {
                    task_link::set_mtu_inside(wanted, netns.as_fd()).await?;
                }
            }
            NetOp::RemoveTaskLink(name) => task_link::remove(&self.handle, name).await?,
            NetOp::HoldPort(port) => {
                if !self.ports().hold(*port)? {
                    return Ok(Applied::NotYet);
                }
            }
            NetOp::ReleasePort(port) => self.ports().release(*port),
            NetOp::SetSysctl { key, value } => self.sysctls.set(key, value)?,
            NetOp::RestoreSysctl(key) => self.sysctls.restore(key)?,
        }
        Ok(Applied::Done)
    }

    /// Joins this task's network namespace to the host: `eth0` (a guest's: `mesh0`) inside, `mv` and eight hex digits here. Complete or not there at all.
    pub async fn add_task_link(&self, wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
        let _round = self.round.lock().await;
        task_link::add(&self.handle, wanted, netns).await
    }

    /// Takes a task's link away, by the name of the host's end.
    pub async fn remove_task_link(&self, name: &str) -> Result<(), NetError> {
        let _round = self.round.lock().await;
        task_link::remove(&self.handle, name).await
    }

    /// Index of a link of this namespace, for programs to be attached to.
    pub async fn ifindex(&self, name: &str) -> Result<Option<u32>, NetError> {
        Ok(link::named(&self.handle, name).await?.map(|link| link.index))
    }

    /// Whether `mesh0` can have this UDP port; an error names who has it. A `mesh0` of ours that has it already is fine.
    pub async fn check_data_port(&self, port: u16) -> Result<(), NetError> {
        mesh0::check_port(&self.handle, port).await
    }

    /// Watches links, addresses, routes and the neighbours of [`HostNet::next_hops`] from now on.
    pub fn changes(&self) -> Result<Changes, NetError> {
        Changes::open(self.watched.clone())
    }

    /// Removes every trace of ours: links with what is on them, held ports, changed sysctls.
    pub async fn purge(&self) -> Result<Converged, NetError> {
        self.converge(&NetImage::default(), &|_| None, &|_| Ok(())).await
    }

    fn held_ports(&self) -> BTreeSet<HeldPort> {
        self.ports().held().collect()
    }

    /// The sockets are whole after every step, so a panic elsewhere has not harmed them.
    fn ports(&self) -> MutexGuard<'_, PlaceholderSockets> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
