//! Who may do what, decided in one place before any route runs.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Control;
use crate::api::{ApiError, Caller};

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or(Caller::Anonymous))
    }
}

/// Reading: the local socket and members.
pub(super) async fn members(caller: Caller, request: Request, next: Next) -> Response {
    match caller {
        Caller::Anonymous => refuse(&caller, "only members of the cluster may read it"),
        _ => next.run(request).await,
    }
}

/// Changing the cluster: a manager's right, on a manager.
pub(super) async fn changes(State(control): State<Control>, caller: Caller, request: Request, next: Next) -> Response {
    if !caller.is_manager() {
        return refuse(&caller, "only managers may change the cluster");
    }
    match control.facts().await.manager() {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// About this machine itself: its own socket only.
pub(super) async fn local(caller: Caller, request: Request, next: Next) -> Response {
    match caller {
        Caller::Local => next.run(request).await,
        _ => refuse(&caller, "only the node's own socket may ask this"),
    }
}

fn refuse(caller: &Caller, rule: &str) -> Response {
    ApiError::forbidden(format!("refused for {caller}: {rule}")).into_response()
}
