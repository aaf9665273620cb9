//! What nodes ask of each other over TLS besides the API: to join, to hear the desired state, to list
//! containers that join by their labels, to leave.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::adoption::ADOPT_PATH;
use super::control::Control;
use super::member::{Member, seeds_of};
use super::renewal::{self, RENEW_PATH, RenewAnswer, RenewRequest};
use super::{Agent, desired, lead, now, peers, random};
use crate::api::server;
use crate::api::tls::CallerAddr;
use crate::api::{ApiError, Caller, ControlPlane};
use crate::leader::{Ctx, command};
use crate::membership::Seed;
use crate::membership::identity::CertifiedName;
use crate::membership::join::{JOIN_PATH, JoinAnswer, JoinRefused, JoinRequest};
use crate::model::{Cluster, Id, LabelledContainer, Node, NotAdopted};

/// Address of the node that joins, in a request that a manager passes on.
const JOINER: &str = "mesh-joiner";

/// The whole router of the cluster API. The member is held weakly: its own listener must not keep it alive.
pub fn router(agent: &Arc<Agent>, member: &Arc<Member>) -> Router {
    let control: Arc<dyn ControlPlane> = Arc::new(Control(agent.clone()));
    let own = Router::new()
        .route(JOIN_PATH, post(join))
        .route("/cluster/desired", get(desired_state))
        .route("/cluster/leave", post(leave))
        .route(RENEW_PATH, post(renew))
        .route(ADOPT_PATH, post(adopt))
        .with_state(Arc::downgrade(member));
    server::router(control).merge(own)
}

fn alive(member: &Weak<Member>) -> Result<Arc<Member>, ApiError> {
    member.upgrade().ok_or_else(|| ApiError::unavailable("this node is leaving the cluster; ask another one"))
}

#[derive(Deserialize)]
struct After {
    after: u64,
    wait_ms: u64,
}

/// News after a revision; waits for them. 204: none came.
async fn desired_state(
    State(member): State<Weak<Member>>,
    Extension(caller): Extension<Caller>,
    Query(After { after, wait_ms }): Query<After>,
) -> Result<Response, ApiError> {
    let member = alive(&member)?;
    if caller == Caller::Anonymous {
        return Err(ApiError::forbidden("only members of the cluster may read it"));
    }
    let wait = Duration::from_millis(wait_ms).min(desired::WAIT);
    let mut watch = member.desired.watch();
    let _ = tokio::time::timeout(wait, watch.wait_for(|cluster| cluster.revision > after)).await; // none is an answer too
    match member.desired.news(after) {
        Some(news) => Ok(Json(news).into_response()),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// A node with a token becomes a member. A manager without the store passes the request on.
async fn join(
    State(member): State<Weak<Member>>,
    Extension(caller): Extension<Caller>,
    Extension(CallerAddr(source)): Extension<CallerAddr>,
    headers: HeaderMap,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinAnswer>, ApiError> {
    let member = alive(&member)?;
    if !matches!(caller, Caller::Anonymous) && !caller.is_manager() {
        return Err(ApiError::forbidden("only a node without a certificate may join"));
    }
    let source = joiner(&caller, source.ip(), &headers);
    let Some(keeper) = &member.keeper else { return pass_on(&member, &request, source).await.map(Json) };
    let role = {
        let secrets = keeper.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut door = keeper.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.admit(&secrets.tokens, &request.secret, source, Instant::now()).map_err(|refused| match refused {
            JoinRefused::Token => ApiError::forbidden(refused.to_string()),
            JoinRefused::TooOften { .. } => ApiError::unavailable(refused.to_string()),
        })?
    };
    let node_id = Id::from_bytes(random());
    let name = CertifiedName { node_id: node_id.clone(), role };
    let (signed, ca, gossip_keys) = {
        let secrets = keeper.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let signed =
            secrets.ca.sign(&request.csr, &name, now()).map_err(|error| ApiError::bad_request(error.to_string()))?;
        (signed, secrets.ca.certificate_pem().to_string(), secrets.gossip_keys.clone())
    };
    let new = command::NewNode {
        id: node_id.clone(),
        name: request.name.clone(),
        role,
        advertise_addr: request.advertise_addr,
        ports: request.ports.clone(),
        data_path_addr: request.data_path_addr,
        cert_fingerprint: signed.fingerprint,
        runtimes: request.runtimes.clone(),
        routed_prefixes: request.routed_prefixes.clone(),
    };
    let joined = lead::command(&member, keeper, |cluster, ctx| command::join_node(cluster, new.clone(), ctx)).await?;
    joined.warnings.iter().for_each(|warning| log::warn!("node {}: {warning}", request.name));
    log::info!("node {} joined as {:?}", request.name, role);
    let cluster = member.desired.get();
    let settings =
        cluster.settings.clone().ok_or_else(|| ApiError::internal("this node keeps a store without settings"))?;
    let store = Seed { id: member.id.clone(), addr: store_addr(&cluster, &member.id) };
    Ok(Json(JoinAnswer {
        node_id,
        certificate: signed.pem,
        ca,
        gossip_keys,
        settings,
        members: seeds_of(&cluster),
        store,
    }))
}

fn store_addr(cluster: &Cluster, id: &Id) -> std::net::SocketAddr {
    let unspecified = std::net::SocketAddr::from(([0, 0, 0, 0], crate::model::API_PORT));
    cluster.nodes.get(id).map_or(unspecified, Node::api_addr)
}

/// Whose attempt it is: a manager that passes a request on says for whom; nobody else is believed.
fn joiner(caller: &Caller, source: IpAddr, headers: &HeaderMap) -> IpAddr {
    let said = headers.get(JOINER).filter(|_| caller.is_manager()).and_then(|value| value.to_str().ok()?.parse().ok());
    said.unwrap_or(source)
}

async fn pass_on(member: &Member, request: &JoinRequest, joiner: IpAddr) -> Result<JoinAnswer, ApiError> {
    let body = serde_json::to_vec(request).map_err(|error| ApiError::internal(error.to_string()))?;
    let passed = hyper::Request::post(JOIN_PATH)
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .header(JOINER, joiner.to_string())
        .body(axum::body::Body::from(body))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    peers::ask_store(&member.dialer, &member.desired.get(), passed).await
}

/// A member whose certificate grows old gets another one, for a key of its own; it is proven by the one it has.
async fn renew(
    State(member): State<Weak<Member>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<RenewRequest>,
) -> Result<Json<RenewAnswer>, ApiError> {
    let member = alive(&member)?;
    let Caller::Node { id, fingerprint, .. } = &caller else {
        return Err(ApiError::forbidden("only a member has a certificate to renew"));
    };
    let Some(keeper) = &member.keeper else { return Err(ApiError::conflict("ask the store's node")) };
    renewal::sign(&member, keeper, id, fingerprint, &request).await.map(Json)
}

/// A member lists the containers of its own that ask to join; who can't is answered why.
async fn adopt(
    State(member): State<Weak<Member>>,
    Extension(caller): Extension<Caller>,
    Json(listed): Json<Vec<LabelledContainer>>,
) -> Result<Json<Vec<NotAdopted>>, ApiError> {
    let member = alive(&member)?;
    let Caller::Node { id, .. } = &caller else {
        return Err(ApiError::forbidden("only a member has containers that can join"));
    };
    let Some(keeper) = &member.keeper else { return Err(ApiError::conflict("ask the store's node")) };
    let decide = |cluster: &Cluster, ctx: &mut Ctx| command::adopt_containers(cluster, id, &listed, ctx);
    lead::command(&member, keeper, decide).await.map(Json)
}

#[derive(Deserialize)]
struct Force {
    force: bool,
}

/// A node goes; it may only speak for itself.
async fn leave(
    State(member): State<Weak<Member>>,
    Extension(caller): Extension<Caller>,
    Query(Force { force }): Query<Force>,
) -> Result<Json<()>, ApiError> {
    let member = alive(&member)?;
    let Caller::Node { id, .. } = &caller else { return Err(ApiError::forbidden("only a member can leave")) };
    let Some(keeper) = &member.keeper else { return Err(ApiError::conflict("ask the store's node")) };
    lead::command(&member, keeper, |cluster, _| command::leave_node(cluster, id, force)).await?;
    log::info!("node {} left", id.short());
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;

    #[test]
    fn a_join_that_is_passed_on_counts_for_the_joiner_and_nobody_else_can_say_so() {
        let node = |role| Caller::Node { id: Id::from_bytes([1; 16]), role, fingerprint: String::new() };
        let source: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut headers = HeaderMap::new();
        assert_eq!(joiner(&node(Role::Manager), source, &headers), source);
        headers.insert(JOINER, "198.51.100.7".parse().expect("a value"));
        assert_eq!(joiner(&node(Role::Manager), source, &headers).to_string(), "198.51.100.7");
        assert_eq!(joiner(&node(Role::Worker), source, &headers), source);
        assert_eq!(joiner(&Caller::Anonymous, source, &headers), source);
    }
}
