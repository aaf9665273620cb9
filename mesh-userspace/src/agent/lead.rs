//! The leader at work, on the store's node: decide on a snapshot, commit under its revision, decide again after a conflict.

use std::time::Duration;

use super::member::{Keeper, Member};
use super::{now, random};
use crate::api::ApiError;
use crate::leader::command::{CommandError, Commit};
use crate::leader::{Ctx, Timing, due, tick};
use crate::model::Cluster;
use crate::store::{Outcome, objects};

/// Looks at least so often, whatever is due: a clock that was set, a commit that failed.
const EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the mirror of one's own commit, and before a commit that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A command gives up after so many conflicts; the leader's own ticks make few.
const TRIES: u32 = 20;

/// Decides whenever something changed.
pub async fn run(member: &Member, keeper: &Keeper) {
    let (mut desired, mut observed) = (member.desired.watch(), member.observed_watch());
    loop {
        let cluster = desired.borrow_and_update().clone();
        let seen = observed.borrow_and_update().clone();
        let at = now();
        let changes = tick(&cluster, &seen, &mut Ctx::new(at, &mut random));
        let due = due(&cluster, &seen, at, Timing::default());
        // A task's delay must be over when it is looked at, not about to be.
        let mut wait = due.map_or(EVERY, |due| Duration::from_millis(due.saturating_sub(now()) + 1)).min(EVERY);
        if !changes.is_empty() {
            match objects::commit(&keeper.store, &changes, cluster.revision).await {
                Ok(Outcome::Committed { .. } | Outcome::Conflict) => {
                    // The mirror brings the new revision; deciding on the old one again would only conflict.
                    let _ = tokio::time::timeout(RETRY, desired.wait_for(|now| now.revision > cluster.revision)).await;
                    continue;
                }
                Err(error) => {
                    log::error!("commit {} changes of the leader: {error}", changes.len());
                    wait = RETRY;
                }
            }
        }
        tokio::select! {
            _ = desired.changed() => {}
            _ = observed.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A user's command: decided and committed, and seen by this node before it is answered.
pub async fn command<T>(
    member: &Member,
    keeper: &Keeper,
    decide: impl Fn(&Cluster, &mut Ctx) -> Result<Commit<T>, CommandError>,
) -> Result<T, ApiError> {
    let stored = |error: crate::store::StoreError| ApiError::unavailable(error.to_string());
    for _ in 0..TRIES {
        let cluster = objects::load_cluster(&keeper.store).await.map_err(stored)?;
        let Commit { changes, answer } = decide(&cluster, &mut Ctx::new(now(), &mut random)).map_err(refusal)?;
        match objects::commit(&keeper.store, &changes, cluster.revision).await.map_err(stored)? {
            Outcome::Committed { revision } => {
                let mut desired = member.desired.watch();
                let seen = desired.wait_for(|cluster| cluster.revision >= revision);
                let _ = tokio::time::timeout(Duration::from_secs(5), seen).await; // committed is committed
                return Ok(answer);
            }
            Outcome::Conflict => {}
        }
    }
    Err(ApiError::conflict("the cluster changes faster than this command can be decided; try it again"))
}

fn refusal(error: CommandError) -> ApiError {
    let message = error.to_string();
    match error {
        CommandError::NotFound { .. } | CommandError::NoSuchStack { .. } => ApiError::not_found(message),
        CommandError::Ambiguous { .. } | CommandError::BadName { .. } => ApiError::bad_request(message),
        _ => ApiError::conflict(message),
    }
}
