//! The resolver's zone follows the facts: compiled when something changed that names depend on, pushed when its content did.
//!
//! A zone is pushed whole, so its cost is that of all names. That of a usual cluster is made within the round, so that a task that starts
//! finds its zone. A large one is made beside the rounds, and then not more often than a tenth of the time allows: calls of a VIP don't wait
//! for names, and rounds must not either. Must not: touch maps or links.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dns::{ResolverHandle, zone};
use crate::model::{Cluster, Id, Observed};

/// Zones of clusters with more tasks than this are made beside the rounds: above, a zone takes longer than some 50 ms.
const LARGE: usize = 5_000;
/// Rest after a large zone, in multiples of the time that it took.
const REST: u32 = 10;

/// The resolver, and what it was told.
pub struct Names {
    resolver: tokio::sync::Mutex<Resolver>,
    /// A large zone is to be looked at.
    due: Notify,
    /// What was last found wrong with a large zone.
    troubles: Mutex<Vec<String>>,
}

struct Resolver {
    handle: ResolverHandle,
    /// Digest of the zone that it has.
    pushed: Option<String>,
    /// What the zone that it has was made of.
    basis: Option<(Arc<Cluster>, Arc<Observed>)>,
}

impl Names {
    pub fn new(handle: ResolverHandle) -> Self {
        let resolver = Resolver { handle, pushed: None, basis: None };
        Names { resolver: tokio::sync::Mutex::new(resolver), due: Notify::new(), troubles: Mutex::default() }
    }

    /// Brings the zone to the resolver, or sees to it that it is brought soon; what is wrong.
    pub async fn round(&self, cluster: &Arc<Cluster>, observed: &Arc<Observed>, this_node: &Id) -> Vec<String> {
        if cluster.tasks.len() > LARGE {
            self.due.notify_one();
            return self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        self.push(cluster, observed, this_node).await
    }

    /// Makes large zones for ever; `facts` are asked for each.
    pub async fn run(&self, this_node: &Id, facts: impl Fn() -> (Arc<Cluster>, Arc<Observed>)) {
        loop {
            self.due.notified().await;
            let began = Instant::now();
            let (cluster, observed) = facts();
            let troubles = self.push(&cluster, &observed, this_node).await;
            *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) = troubles;
            let rest: Duration = began.elapsed() * REST;
            tokio::time::sleep(rest).await;
        }
    }

    async fn push(&self, cluster: &Arc<Cluster>, observed: &Arc<Observed>, this_node: &Id) -> Vec<String> {
        let mut resolver = self.resolver.lock().await;
        let Resolver { handle, pushed, basis } = &mut *resolver;
        let is_same = pushed.is_some() && basis.as_ref().is_some_and(|basis| makes_the_same(basis, cluster, observed));
        let asked = if is_same {
            handle.status().await
        } else {
            let (facts, node) = ((cluster.clone(), observed.clone()), this_node.clone());
            // A thread's own affair: a large zone must not hold up what else the agent does.
            let made = tokio::task::spawn_blocking(move || {
                let zone = zone::compile(&facts.0, &facts.1, &node);
                let digest = zone.digest();
                (zone, digest)
            });
            let (zone, digest) = match made.await {
                Ok(made) => made,
                Err(error) => return vec![format!("names are not up to date: making the zone failed: {error}")],
            };
            *basis = Some((cluster.clone(), observed.clone()));
            match *pushed == Some(digest.clone()) {
                true => handle.status().await,
                false => {
                    let asked = handle.push(&zone).await;
                    *pushed = Some(digest);
                    asked
                }
            }
        };
        match asked {
            Ok(status) => {
                if pushed.as_ref() != Some(&status.zone_digest) {
                    *pushed = None;
                }
                let errors = status.errors.iter().map(|(gateway, error)| format!("resolver at {gateway}: {error}"));
                errors.chain(status.warnings.clone()).collect()
            }
            Err(error) => {
                *pushed = None;
                vec![format!("names don't resolve: {error}")]
            }
        }
    }

    /// Ends the resolver, as leaving and purging do.
    pub async fn stop(&self) -> anyhow::Result<()> {
        Ok(self.resolver.lock().await.handle.stop().await?)
    }
}

/// Nothing that names depend on differs, as far as that is seen at a glance.
fn makes_the_same(basis: &(Arc<Cluster>, Arc<Observed>), cluster: &Cluster, observed: &Observed) -> bool {
    let (had, saw) = basis;
    had.tasks.ptr_eq(&cluster.tasks)
        && had.services.ptr_eq(&cluster.services)
        && had.networks == cluster.networks
        && saw.tasks.ptr_eq(&observed.tasks)
        && saw.unreachable_since.keys().eq(observed.unreachable_since.keys())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TaskState, TaskStatus};

    #[test]
    fn a_zone_is_made_again_for_what_names_depend_on_and_for_nothing_else() {
        let id = |byte: u8| Id::from_bytes([byte; 16]);
        let mut observed = Observed::default();
        let status = TaskStatus::new(TaskState::Running, true, 1);
        observed.tasks.insert(id(1), status);
        let cluster = Cluster::default();
        let basis = (Arc::new(cluster.clone()), Arc::new(observed.clone()));
        let is_same = |cluster: &Cluster, observed: &Observed| makes_the_same(&basis, cluster, observed);
        observed.agent_alive.insert(id(2), true);
        assert!(is_same(&Cluster { revision: 7, ..cluster.clone() }, &observed));
        let mut unreachable = observed.clone();
        unreachable.unreachable_since.insert(id(2), 1);
        assert!(!is_same(&cluster, &unreachable));
        observed.tasks[&id(1)].ready = false;
        assert!(!is_same(&cluster, &observed));
    }
}
