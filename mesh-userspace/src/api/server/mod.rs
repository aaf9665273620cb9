//! The serving side of the API: one router, whatever the transport.
//!
//! A listener decides the [`Caller`] of a connection and hands the connection to [`serve_connection`]; the routes
//! check what that caller may do ([`access`]) and ask the [`ControlPlane`].
//! Must not: know which transport it serves, or change anything itself.

mod access;
mod body;
mod exec;
mod flows;
mod logs;
mod monitor;
mod reads;
mod unix;
mod writes;

use std::sync::Arc;

use axum::Router;
use axum::http::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;

use super::{ApiError, Caller, ControlPlane};

pub(crate) use logs::Record;
pub use unix::{bind_unix, serve_unix};

/// The control plane as the routes hold it.
pub type Control = Arc<dyn ControlPlane>;

/// All routes of the API. The caller may merge routes of its own (join, store) before serving.
pub fn router(control: Control) -> Router {
    let member = Router::new().merge(reads::routes()).merge(exec::routes()).merge(logs::routes());
    let change = writes::change_routes().route_layer(from_fn_with_state(control.clone(), access::changes));
    let local =
        writes::local_routes().merge(flows::routes()).merge(monitor::routes()).route_layer(from_fn(access::local));
    Router::new()
        .merge(member.route_layer(from_fn(access::members)))
        .merge(change)
        .merge(local)
        .fallback(no_such_route)
        .with_state(control)
}

async fn no_such_route(request: axum::extract::Request) -> ApiError {
    ApiError::not_found(format!(
        "the agent has no route {} {}: the command and the agent are of different versions; restart the agent",
        request.method(),
        request.uri().path()
    ))
}

/// Serves one connection until it ends; upgrades included. `caller` is who the listener found at its other end.
pub async fn serve_connection<C>(connection: C, router: Router, caller: Caller)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.clone().oneshot(request)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        log::debug!("api: a connection ended early: {error}");
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
