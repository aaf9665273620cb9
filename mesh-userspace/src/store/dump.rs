//! The cluster's objects as a file of JSON that people can read: written from any store, read into an empty one.

use serde::{Deserialize, Serialize};

use super::{Outcome, Store, StoreError, objects};
use crate::model::{Change, Cluster};

/// Format of the dump.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Dump {
    format: u32,
    cluster: Cluster,
}

/// The store's cluster as JSON.
pub async fn export(store: &dyn Store) -> Result<String, StoreError> {
    let dump = Dump { format: FORMAT, cluster: objects::load_cluster(store).await? };
    serde_json::to_string_pretty(&dump).map_err(|error| StoreError::BadDump { reason: error.to_string() })
}

/// Puts an exported cluster into a store that has none yet.
pub async fn import(store: &dyn Store, text: &str) -> Result<(), StoreError> {
    let bad = |reason: String| Err(StoreError::BadDump { reason });
    let dump: Dump = match serde_json::from_str(text) {
        Ok(dump) => dump,
        Err(error) => return bad(format!("{error}: give a file that export wrote")),
    };
    if dump.format != FORMAT {
        return bad(format!("it has format {}, this mesh knows {FORMAT}: use the version that wrote it", dump.format));
    }
    let changes = Change::between(&Cluster::default(), &dump.cluster);
    match objects::commit(store, &changes, 0).await? {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Conflict => bad("the store has a cluster already: import into an empty one".to_string()),
    }
}
