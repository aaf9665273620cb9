//! The listener of the cluster API: reads the caller out of each connection's certificate and hands requests to the router.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::api::{ApiError, Caller};
use crate::membership::identity::{CertifiedName, fingerprint};
use crate::membership::join::JOIN_PATH;
use crate::model::Id;

/// Address of the other end, in the request's extensions: the source that join attempts are counted by.
#[derive(Clone, Copy, Debug)]
pub struct CallerAddr(pub SocketAddr);

/// How much of this node others may take.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Connections at once; more wait in the listen queue.
    pub connections: usize,
    /// For the handshake, and again for the headers of each request.
    pub patience: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        ServeLimits { connections: 1024, patience: Duration::from_secs(10) }
    }
}

/// What every connection shares.
struct Desk<R> {
    router: Router,
    is_revoked: R,
    patience: Duration,
}

/// Serves until `shutdown` completes; open requests then get the time of `patience` to end.
///
/// `config` is looked at for each new connection, so a renewed certificate needs no restart. `is_revoked` (node id,
/// fingerprint of its certificate) is asked for every request: a removed node's open connections are refused as well. A
/// stream that a request was upgraded to (an exec session) is not looked at again.
///
/// The role in [`Caller::Node`] is the certificate's; after `node promote` or `demote` the store's record counts.
pub async fn serve<R>(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    is_revoked: R,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) where
    R: Fn(&Id, &str) -> bool + Send + Sync + 'static,
{
    let desk = Arc::new(Desk { router, is_revoked, patience: limits.patience });
    let places = Arc::new(Semaphore::new(limits.connections));
    let (ending, ended) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            // The place first: a connection that has none stays in the kernel's queue.
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (stream, addr, place) = tokio::select! {
            () = &mut shutdown => break,
            (accepted, place) = accepted => match accepted {
                Ok((stream, addr)) => (stream, addr, place),
                Err(error) => {
                    // Out of file descriptors, or the caller hung up already: neither ends the service.
                    log::warn!("accept a cluster API connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
        let (desk, ended) = (Arc::clone(&desk), ended.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(reason) = desk.connection(acceptor, stream, addr, ended).await {
                log::debug!("cluster API connection from {addr}: {reason}");
            }
        });
    }
    let _ = ending.send(true); // no receivers: no connection is open
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(limits.patience, places.acquire_many(all)).await;
}

impl<R: Fn(&Id, &str) -> bool + Send + Sync + 'static> Desk<R> {
    async fn connection(
        self: Arc<Self>,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        addr: SocketAddr,
        mut ended: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let _ = stream.set_nodelay(true); // only latency is lost without
        let tls = match tokio::time::timeout(self.patience, acceptor.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no TLS handshake in time".to_string()),
        };
        let caller = match tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
            None => Caller::Anonymous,
            Some(certificate) => {
                let name = CertifiedName::of(certificate).map_err(|error| error.to_string())?;
                Caller::Node { id: name.node_id, role: name.role, fingerprint: fingerprint(certificate) }
            }
        };
        let patience = self.patience;
        let service = service_fn(move |request| {
            let (desk, caller) = (Arc::clone(&self), caller.clone());
            async move { Ok::<_, Infallible>(desk.request(request, caller, addr).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .serve_connection(TokioIo::new(tls), service)
            .with_upgrades();
        tokio::pin!(connection);
        tokio::select! {
            result = &mut connection => result.map_err(|error| error.to_string()),
            () = until(&mut ended) => {
                connection.as_mut().graceful_shutdown();
                connection.await.map_err(|error| error.to_string())
            }
        }
    }

    async fn request(&self, request: Request<Incoming>, caller: Caller, addr: SocketAddr) -> Response<Body> {
        match &caller {
            Caller::Anonymous if request.method() != Method::POST || request.uri().path() != JOIN_PATH => {
                let message =
                    "this node's certificate is missing: only members of the cluster may ask that; join first";
                return refusal(StatusCode::UNAUTHORIZED, message);
            }
            Caller::Node { id, fingerprint, .. } if (self.is_revoked)(id, fingerprint) => {
                let message = format!(
                    "node {} was removed from the cluster or has a newer certificate; \
                     `mesh swarm leave --force` there and join again",
                    id.short()
                );
                return refusal(StatusCode::FORBIDDEN, &message);
            }
            _ => {}
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(CallerAddr(addr));
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

async fn until(ended: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = ended.wait_for(|ended| *ended).await;
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    (status, axum::Json(ApiError::forbidden(message))).into_response()
}
