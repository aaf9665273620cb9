//! Who belongs to the cluster, as users change it: join tokens, nodes' settings, nodes that go.

use std::sync::PoisonError;

use super::seat::{Seat, caught_up, seat};
use crate::agent::lead;
use crate::agent::member::Member;
use crate::api::{ApiError, JoinTokenAnswer, JoinTokenRequest, NodeUpdate};
use crate::leader::{Ctx, command};
use crate::model::{Cluster, Id};

pub async fn join_token(member: &Member, request: JoinTokenRequest) -> Result<JoinTokenAnswer, ApiError> {
    match seat(member).await? {
        Seat::There(client) => client.join_token(&request).await,
        Seat::Here(keeper) => {
            let cluster = member.desired.get();
            let addr = cluster.nodes.get(&member.id).map(|node| node.api_addr().to_string()).unwrap_or_default();
            let mut secrets = keeper.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            if request.rotate {
                secrets.tokens.rotate(request.role);
                secrets.save(member.state_dir()).map_err(|error| ApiError::internal(error.to_string()))?;
            }
            let token = secrets.join_token(request.role).reveal().to_string();
            Ok(JoinTokenAnswer { role: request.role, token, join_addr: addr })
        }
    }
}

pub async fn update_node(member: &Member, node: &Id, update: NodeUpdate) -> Result<(), ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.node_update(node.as_str(), &update).await).await,
        Seat::Here(keeper) => {
            let update = command::NodeUpdate {
                availability: update.availability,
                role: None,
                label_add: update.label_add,
                label_rm: update.label_rm,
            };
            lead::command(member, keeper, |cluster, _| command::update_node(cluster, node.as_str(), &update))
                .await
                .map(drop)
        }
    }
}

pub async fn remove_node(member: &Member, node: &Id, force: bool) -> Result<(), ApiError> {
    match seat(member).await? {
        Seat::There(client) => caught_up(member, client.node_remove(node.as_str(), force).await).await,
        Seat::Here(keeper) => {
            let observed = member.observed();
            let decide =
                |cluster: &Cluster, ctx: &mut Ctx| command::remove_node(cluster, &observed, node.as_str(), force, ctx);
            lead::command(member, keeper, decide).await.map(drop)
        }
    }
}
