//! A node's certificate is renewed when half of its life is over: a new key, signed by the store's node, in use at once.
//!
//! The old certificate proves the request and stays good until it ends, so a lost answer or a crash in between costs nothing: it is asked for
//! again. Invariant: the key never leaves the node, and what is on disk is in use or about to be. Must not: hurry; there are weeks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::member::{Keeper, Member};
use super::{lead, now, peers};
use crate::api::ApiError;
use crate::api::tls;
use crate::leader::command;
use crate::membership::identity::{CertifiedName, NodeIdentity, NodeKey};
use crate::model::{Id, UnixMs};

pub const RENEW_PATH: &str = "/cluster/renew";
/// The longest sleep: clocks are set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// A request for a certificate in PEM, as in a join.
#[derive(Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    pub csr: String,
}

/// The certificate in PEM.
#[derive(Debug, Serialize, Deserialize)]
pub struct RenewAnswer {
    pub certificate: String,
}

/// Renews for ever. `config` is what this node's listener speaks TLS with.
pub async fn run(member: &Member, mut identity: Arc<NodeIdentity>, config: watch::Sender<Arc<ServerConfig>>) {
    let mut has_tried = false;
    loop {
        tokio::time::sleep(pause(identity.renew_at(), now(), has_tried)).await;
        if now() < identity.renew_at() {
            continue;
        }
        has_tried = true;
        match renewed(member, &identity).await {
            Ok(new) => {
                log::info!("this node's certificate is renewed: {}", new.fingerprint());
                identity = new;
                member.dialer.renew(identity.clone());
                match tls::server_config(&identity) {
                    Ok(new) => drop(config.send_replace(new)),
                    Err(error) => log::error!("the renewed certificate: {error}"),
                }
            }
            Err(error) => {
                let days = identity.not_after().saturating_sub(now()) / (24 * 3_600 * 1_000);
                log::warn!("renew this node's certificate, which is good for {days} more days: {error:#}; tried again");
            }
        }
    }
}

/// Until the next look. At most one attempt an hour, whatever came of the last: to a clock that is far ahead of the signer's even a new
/// certificate seems due.
fn pause(renew_at: UnixMs, now: UnixMs, has_tried: bool) -> Duration {
    if has_tried { LOOK_EVERY } else { Duration::from_millis(renew_at.saturating_sub(now)).min(LOOK_EVERY) }
}

async fn renewed(member: &Member, identity: &NodeIdentity) -> anyhow::Result<Arc<NodeIdentity>> {
    let key = NodeKey::generate()?;
    let request = RenewRequest { csr: key.csr_pem()? };
    let answer = match &member.keeper {
        Some(keeper) => sign(member, keeper, &member.id, identity.fingerprint(), &request).await?,
        None => {
            let asked = hyper::Request::post(RENEW_PATH)
                .header(hyper::header::CONTENT_TYPE, "application/json")
                .body(Body::from(serde_json::to_vec(&request)?))?;
            peers::ask_store(&member.dialer, &member.desired.get(), asked).await?
        }
    };
    let new = identity.renewed(key, &answer.certificate)?;
    new.save(member.state_dir()).context("keep the renewed certificate")?;
    Ok(Arc::new(new))
}

/// The signer's part, on the store's node: the role is the store's word, not the old certificate's.
pub async fn sign(
    member: &Member,
    keeper: &Keeper,
    id: &Id,
    shown: &str,
    request: &RenewRequest,
) -> Result<RenewAnswer, ApiError> {
    let cluster = member.desired.get();
    let node = cluster.nodes.get(id).ok_or_else(|| ApiError::forbidden("this node is no member of the cluster"))?;
    let name = CertifiedName { node_id: id.clone(), role: node.role };
    let signed = {
        let secrets = keeper.secrets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        secrets.ca.sign(&request.csr, &name, now()).map_err(|error| ApiError::bad_request(error.to_string()))?
    };
    lead::command(member, keeper, |cluster, _| command::renew_certificate(cluster, id, shown, &signed.fingerprint))
        .await?;
    log::info!("node {} has a renewed certificate", node.name);
    Ok(RenewAnswer { certificate: signed.pem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_when_it_is_due_and_within_the_hour() {
        assert_eq!(pause(5_000, 2_000, false), Duration::from_secs(3));
        assert_eq!(pause(2_000, 5_000, false), Duration::ZERO);
        assert_eq!(pause(UnixMs::MAX, 0, false), LOOK_EVERY);
    }

    #[test]
    fn a_clock_far_ahead_does_not_renew_without_end() {
        let signed_at = 1_000;
        assert_eq!(pause(signed_at + 1, UnixMs::MAX, true), LOOK_EVERY);
    }
}
