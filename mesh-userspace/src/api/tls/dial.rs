//! Outgoing connections to other nodes: proven at both ends, kept open and used again.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::{Anchor, Expect, Rejected, Verifier};
use super::{TlsError, provider, roots};
use crate::membership::identity::NodeIdentity;

/// The proven byte stream; HTTP runs over it.
pub type PeerStream = TlsStream<TcpStream>;
/// One HTTP/1.1 connection: one request at a time, upgrades possible.
pub type PeerConnection = SendRequest<Body>;

/// For TCP, and again for the handshake.
const PATIENCE: Duration = Duration::from_secs(3);
/// An idle connection is kept this long. Shorter than the patience of [`super::serve`], so that we close first.
const KEEP: Duration = Duration::from_secs(8);
/// Idle connections kept to one node; more come from bursts.
const MAX_IDLE: usize = 4;

type Idle = HashMap<(SocketAddr, Expect), Vec<(Instant, PeerConnection)>>;

/// Connects to other nodes as this node. Clones share the connections.
#[derive(Clone)]
pub struct Dialer(Arc<Shared>);

struct Shared {
    identity: RwLock<Arc<NodeIdentity>>,
    idle: Mutex<Idle>,
}

impl Dialer {
    pub fn new(identity: Arc<NodeIdentity>) -> Self {
        Dialer(Arc::new(Shared { identity: RwLock::new(identity), idle: Mutex::default() }))
    }

    /// From now on connects with a renewed certificate; connections with the old one are not used again.
    pub fn renew(&self, identity: Arc<NodeIdentity>) {
        *self.0.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
        self.idle().clear();
    }

    /// A new proven stream. That the other side refuses *our* certificate shows on the first read only (TLS 1.3).
    pub async fn open(&self, addr: SocketAddr, expect: &Expect) -> Result<PeerStream, TlsError> {
        let identity = Arc::clone(&self.0.identity.read().unwrap_or_else(PoisonError::into_inner));
        let verifier = Verifier { anchor: Anchor::Ca(roots(&identity)?), expect: expect.clone(), provider: provider() };
        let config = client_builder(verifier)?
            .with_client_auth_cert(identity.chain(), identity.private_key())
            .map_err(|error| TlsError::Config(error.to_string()))?;
        handshake(addr, without_resumption(config)).await
    }

    /// A new HTTP connection, for callers that want one of their own (upgrades).
    pub async fn connect(&self, addr: SocketAddr, expect: &Expect) -> Result<PeerConnection, TlsError> {
        http(addr, self.open(addr, expect).await?).await
    }

    /// Sends one request over an idle connection or a new one. The answer's status is the caller's to judge.
    ///
    /// A kept connection may have died unnoticed; the request fails then, and is not repeated here: only the caller knows
    /// whether doing it twice is harmless. What a closed connection gives back unsent goes over a new one.
    pub async fn request(
        &self,
        addr: SocketAddr,
        expect: &Expect,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, TlsError> {
        if !request.headers().contains_key(HOST) {
            let host = addr.to_string().parse().expect("a socket address is a valid header value");
            request.headers_mut().insert(HOST, host);
        }
        let key = (addr, expect.clone());
        loop {
            let kept = self.kept(&key);
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(addr, expect).await?,
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    self.keep(key, connection);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(explain(addr, &failed.into_error())),
                },
            }
        }
    }

    /// Puts a connection back once its answer has been read.
    fn keep(&self, key: (SocketAddr, Expect), mut connection: PeerConnection) {
        let shared = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            if connection.ready().await.is_err() {
                return;
            }
            let Some(dialer) = shared.upgrade().map(Dialer) else { return };
            let mut idle = dialer.idle();
            idle.retain(|_, kept| {
                kept.retain(|(since, connection)| since.elapsed() < KEEP && connection.is_ready());
                !kept.is_empty()
            });
            let kept = idle.entry(key).or_default();
            if kept.len() < MAX_IDLE {
                kept.push((Instant::now(), connection));
            }
        });
    }

    /// A kept connection that the other side has not closed, as far as we know.
    fn kept(&self, key: &(SocketAddr, Expect)) -> Option<PeerConnection> {
        let mut idle = self.idle();
        let kept = idle.get_mut(key)?;
        while let Some((since, connection)) = kept.pop() {
            if since.elapsed() < KEEP && connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialer")
    }
}

type WantsIdentity = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

pub(super) fn client_builder(verifier: Verifier) -> Result<WantsIdentity, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Config(error.to_string()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

pub(super) fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

/// TCP and TLS to `addr`.
pub(super) async fn handshake(addr: SocketAddr, config: ClientConfig) -> Result<PeerStream, TlsError> {
    let timeout = TlsError::Timeout { addr, seconds: PATIENCE.as_secs() };
    let stream = match tokio::time::timeout(PATIENCE, TcpStream::connect(addr)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(TlsError::Unreachable { addr, source }),
        Err(_) => return Err(timeout),
    };
    let _ = stream.set_nodelay(true); // only latency is lost without
    let connector = TlsConnector::from(Arc::new(config));
    match tokio::time::timeout(PATIENCE, connector.connect(ServerName::IpAddress(addr.ip().into()), stream)).await {
        Ok(Ok(tls)) => Ok(tls),
        Ok(Err(error)) => Err(explain(addr, &error)),
        Err(_) => Err(timeout),
    }
}

/// HTTP/1.1 over a proven stream.
pub(super) async fn http(addr: SocketAddr, stream: PeerStream) -> Result<PeerConnection, TlsError> {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| explain(addr, &error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            log::debug!("cluster API connection to {addr}: {error}");
        }
    });
    Ok(sender)
}

/// Finds the TLS reason in a chain of causes and says what it means here.
pub(super) fn explain(addr: SocketAddr, error: &(dyn StdError + 'static)) -> TlsError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        // An io::Error made from another error hides it from source().
        let inner = current.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let current: &(dyn StdError + 'static) = match inner {
            Some(inner) => inner,
            None => current,
        };
        if let Some(reason) = current.downcast_ref::<rustls::Error>() {
            return from_rustls(addr, reason);
        }
        cause = current.source();
    }
    TlsError::Request { addr, detail: with_causes(error) }
}

fn from_rustls(addr: SocketAddr, reason: &rustls::Error) -> TlsError {
    use rustls::{AlertDescription as Alert, CertificateError, Error};
    match reason {
        Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<Rejected>() {
            Some(Rejected::WrongNode { wanted, found }) => {
                TlsError::WrongNode { addr, wanted: wanted.clone(), found: found.clone() }
            }
            Some(Rejected::OtherCluster) => TlsError::OtherCluster { addr },
            _ => TlsError::WrongCluster { addr, detail: reason.to_string() },
        },
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            TlsError::WrongCluster { addr, detail: "its certificate is signed by another CA".to_string() }
        }
        Error::InvalidCertificate(_) => TlsError::WrongCluster { addr, detail: reason.to_string() },
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::CertificateRequired),
        ) => TlsError::Refused { addr, detail: format!("{alert:?}") },
        other => TlsError::Handshake { addr, detail: other.to_string() },
    }
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}
