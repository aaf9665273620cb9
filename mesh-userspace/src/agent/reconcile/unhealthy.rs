//! Tasks that are called unhealthy and are out of every table, followed change by change.

use std::collections::BTreeSet;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::model::{Id, TaskHealth, TaskStatus};

/// Tasks that are called unhealthy and are in no table for it; their nodes wait for this word before they end them.
#[derive(Default)]
pub struct Unhealthy {
    /// What was looked at.
    tasks: OrdMap<Id, TaskStatus>,
    ids: BTreeSet<Id>,
}

impl Unhealthy {
    /// Looks at what changed.
    pub fn follow(&mut self, tasks: &OrdMap<Id, TaskStatus>) -> BTreeSet<Id> {
        let is_out = |status: &TaskStatus| {
            status.health == Some(TaskHealth::Unhealthy) && !status.ready && !status.state.is_terminal()
        };
        for item in self.tasks.diff(tasks) {
            match item {
                DiffItem::Add(id, status) | DiffItem::Update { new: (id, status), .. } if is_out(status) => {
                    self.ids.insert(id.clone());
                }
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => {
                    self.ids.remove(id);
                }
            }
        }
        self.tasks = tasks.clone();
        self.ids.clone()
    }
}
