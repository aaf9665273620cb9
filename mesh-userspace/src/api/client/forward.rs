//! A request passed on to another agent as it is, upgrades included.

use axum::body::Body;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::Client;
use crate::api::ApiError;

/// Sends `request` over `client` and gives its answer; where that is an upgrade, bytes flow between both upgraded
/// connections until one ends. The far agent judges the caller by the connection it comes on, so the near one must
/// have checked its own caller before.
pub async fn forward(client: &Client, mut request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let near = hyper::upgrade::on(&mut request);
    // A request line between origin servers has no authority.
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = path.into();
    }
    let mut answer = client.send(request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let far = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            match tokio::try_join!(near, far) {
                Ok((near, far)) => {
                    // An error here is one side going away, which the other side sees as the end.
                    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
                }
                Err(error) => log::debug!("api: a forwarded session did not begin: {error}"),
            }
        });
    }
    Ok(answer.map(Body::new))
}
