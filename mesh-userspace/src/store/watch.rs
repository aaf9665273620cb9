//! A watch: transactions in order, read from the store's log and not from a queue, so a slow reader loses nothing silently.

use std::future::Future;

use tokio::sync::{mpsc, watch};

use super::{Batch, StoreError};

/// Batches that wait for a slow reader; what is behind them stays in the log.
const AHEAD: usize = 16;

/// The transactions after a revision. Ends with an error once the reader is so slow that the log has been compacted past it.
pub struct Watch {
    batches: mpsc::Receiver<Result<Batch, StoreError>>,
}

impl Watch {
    /// The next transaction. None: the store is closed, or an error was delivered before.
    pub async fn next(&mut self) -> Option<Result<Batch, StoreError>> {
        self.batches.recv().await
    }

    /// Watches a log: `read(from)` gives what is known after a revision, `newest` says when there is more.
    pub(super) fn over<F, R>(mut from: u64, mut newest: watch::Receiver<u64>, read: F) -> Self
    where
        F: Fn(u64) -> R + Send + 'static,
        R: Future<Output = Result<Vec<Batch>, StoreError>> + Send,
    {
        let (sender, batches) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                newest.mark_unchanged();
                let read = tokio::select! {
                    read = read(from) => read,
                    () = sender.closed() => return,
                };
                let (batches, error) = match read {
                    Ok(batches) => (batches, None),
                    Err(error) => (Vec::new(), Some(error)),
                };
                if let Some(error) = error {
                    // Whoever listens hears it last; whoever doesn't needs no word.
                    sender.send(Err(error)).await.ok();
                    return;
                }
                let quiet = batches.is_empty();
                for batch in batches {
                    from = batch.revision;
                    if sender.send(Ok(batch)).await.is_err() {
                        return;
                    }
                }
                if quiet {
                    tokio::select! {
                        changed = newest.changed() => if changed.is_err() { return },
                        () = sender.closed() => return,
                    }
                }
            }
        });
        Watch { batches }
    }
}
