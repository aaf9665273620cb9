//! Where a change is made: at the store, on this node or through the agent of the node that keeps it. After a change elsewhere this node
//! waits for its news, so that the user's next question is answered with it.

use std::sync::Arc;

use crate::agent::member::{Keeper, Member};
use crate::agent::{Agent, now, peers};
use crate::api::client::Client;
use crate::api::{ApiError, ErrorKind};

/// Where the store is.
pub enum Seat<'a> {
    Here(&'a Keeper),
    There(Client),
}

/// This node as a member, or what to do to make it one.
pub async fn member_of(agent: &Agent) -> Result<Arc<Member>, ApiError> {
    agent.member.read().await.clone().ok_or_else(|| {
        ApiError::conflict(
            "this node is in no cluster; run 'mesh swarm init' to start one or 'mesh swarm join' to enter one",
        )
    })
}

/// The store's node, for a change. That it is away was true when it was last asked, so it is asked again before a change is refused.
pub async fn seat(member: &Member) -> Result<Seat<'_>, ApiError> {
    if let Some(keeper) = &member.keeper {
        return Ok(Seat::Here(keeper));
    }
    if store_away(member).is_some()
        && !member.desired.is_back(&member.dialer).await
        && let Some(away) = store_away(member)
    {
        return Err(ApiError::unavailable(format!("{away}; changes wait until it is back")));
    }
    let cluster = member.desired.get();
    let store = cluster.nodes.values().find(|node| node.holds_store);
    let store =
        store.ok_or_else(|| ApiError::unavailable("the store's node is not known yet; try again in a moment"))?;
    Ok(Seat::There(peers::client(&member.dialer, store)))
}

/// After a change made elsewhere: this node shows it before it is answered.
pub async fn caught_up<T>(member: &Member, answer: Result<T, ApiError>) -> Result<T, ApiError> {
    let answer = answer.map_err(|error| match (error.kind, store_away(member)) {
        (ErrorKind::Unavailable, Some(away)) => ApiError::unavailable(format!("{away}; {}", error.message)),
        _ => error,
    })?;
    let cluster = member.desired.get();
    if let Some(store) = cluster.nodes.values().find(|node| node.holds_store) {
        let fetched = member.desired.fetch(&member.dialer, store, cluster.revision, std::time::Duration::ZERO).await;
        if let Err(error) = fetched {
            log::debug!("the change is made, its news are late: {error:#}");
        }
    }
    Ok(answer)
}

/// "store on n1 is away since …", if it is.
pub fn store_away(member: &Member) -> Option<String> {
    let since = member.desired.away_since()?;
    let cluster = member.desired.get();
    let name = cluster.nodes.values().find(|node| node.holds_store).map_or("?", |node| node.name.as_str());
    let seconds = now().saturating_sub(since) / 1000;
    Some(format!("store on {name} is away since {seconds} s: bring that node back, or its network"))
}
