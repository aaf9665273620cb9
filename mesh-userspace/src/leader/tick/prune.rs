//! The history of ended tasks: a few per slot, for `service ps` and for counting restarts. And networks that only waited for their last
//! task.

use crate::leader::command::{forget, is_vacant};
use crate::model::{Id, Mode, Network, Service, Task, TaskState};

use super::Work;
use super::slots::wanted;

/// Deletes ended tasks beyond the history, and those of slots that are gone. A task that may still hold an address stays, and so does the
/// removed network that it holds it in.
pub(super) fn prune(work: &mut Work) {
    let services: Vec<Service> = work.after.services.values().cloned().collect();
    for service in services {
        let kept = work.ctx.timing.history.max(service.spec.task.restart.max_attempts as usize + 1);
        let wanted = wanted(&work.after, &service.spec);
        for (slot, tasks) in work.slots(&service) {
            let over =
                |task: &&Task| task.leader_state.is_some_and(TaskState::is_terminal) && task.attachments.is_empty();
            let ended: Vec<&Task> = tasks.iter().filter(over).collect();
            // A slot of containers that joined is free as soon as the container is gone: its end is shown all the same.
            let of_gone = usize::from(service.spec.mode == Mode::Adopted);
            let kept = if wanted.contains(&slot) { kept } else { of_gone };
            let surplus = ended.len().saturating_sub(kept);
            let surplus: Vec<Id> = ended[..surplus].iter().map(|task| task.id.clone()).collect();
            surplus.iter().for_each(|id| drop(work.after.tasks.remove(id)));
        }
    }
    let vacant = |network: &&Network| network.removing && is_vacant(&work.after, &network.id);
    let vacant: Vec<Id> = work.after.networks.values().filter(vacant).map(|network| network.id.clone()).collect();
    vacant.iter().for_each(|id| forget(&mut work.after, id));
}
