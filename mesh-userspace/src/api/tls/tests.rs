//! Handshakes on loopback: who gets in, who does not, and what they are told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Extension;
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use hyper::Request;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::api::{ApiError, Caller};
use crate::membership::Seed;
use crate::membership::identity::{CertifiedName, ClusterSecrets, NodeKey};
use crate::membership::join::{JOIN_PATH, JoinAnswer, JoinDoor, JoinRequest};
use crate::model::{Id, Role, Runtime, Settings, UnixMs};

fn now() -> UnixMs {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as UnixMs
}

fn id(byte: u8) -> Id {
    Id::from_bytes([byte; 16])
}

fn cluster(byte: u8) -> ClusterSecrets {
    ClusterSecrets::create(&id(byte), now()).unwrap()
}

fn member(secrets: &ClusterSecrets, byte: u8, role: Role, at: UnixMs) -> Arc<NodeIdentity> {
    let key = NodeKey::generate().unwrap();
    let name = CertifiedName { node_id: id(byte), role };
    let signed = secrets.ca.sign(&key.csr_pem().unwrap(), &name, at).unwrap();
    Arc::new(key.certified(&signed.pem, secrets.ca.certificate_pem(), secrets.gossip_keys.clone()).unwrap())
}

/// A server for one test; ends when dropped.
struct Server {
    addr: SocketAddr,
    revoked: Arc<AtomicBool>,
    config: watch::Sender<Arc<rustls::ServerConfig>>,
    _end: oneshot::Sender<()>,
}

async fn server(identity: &NodeIdentity, join: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (config, source) = watch::channel(server_config(identity).unwrap());
    let whoami = get(|Extension(caller): Extension<Caller>| async move { format!("{caller:?}") });
    let router = Router::new().route("/whoami", whoami).merge(join);
    let revoked = Arc::new(AtomicBool::new(false));
    let (end, ended) = oneshot::channel::<()>();
    let is_revoked = {
        let revoked = Arc::clone(&revoked);
        move |_: &Id, _: &str| revoked.load(Ordering::Relaxed)
    };
    let limits = ServeLimits { connections: 8, patience: Duration::from_millis(500) };
    let shutdown = async {
        let _ = ended.await; // dropped or sent: the end
    };
    tokio::spawn(serve(listener, source, router, is_revoked, limits, shutdown));
    Server { addr, revoked, config, _end: end }
}

async fn whoami(dialer: &Dialer, addr: SocketAddr, expect: &Expect) -> Result<(u16, String), TlsError> {
    let request = Request::get("/whoami").body(Body::empty()).unwrap();
    let response = dialer.request(addr, expect, request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn members_prove_themselves_to_each_other() {
    let secrets = cluster(9);
    let server = server(&member(&secrets, 1, Role::Manager, now()), Router::new()).await;
    let worker = member(&secrets, 2, Role::Worker, now());
    let dialer = Dialer::new(Arc::clone(&worker));
    let caller = Caller::Node { id: id(2), role: Role::Worker, fingerprint: worker.fingerprint().to_string() };
    for expect in [Expect::Node(id(1)), Expect::AnyManager, Expect::AnyMember, Expect::AnyManager] {
        assert_eq!(whoami(&dialer, server.addr, &expect).await.unwrap(), (200, format!("{caller:?}")));
    }
    let wrong = whoami(&dialer, server.addr, &Expect::Node(id(7))).await.unwrap_err();
    assert!(matches!(&wrong, TlsError::WrongNode { found, .. } if found.contains("manager 0101")), "{wrong}");
}

#[tokio::test]
async fn a_worker_is_no_manager() {
    let secrets = cluster(9);
    let server = server(&member(&secrets, 1, Role::Worker, now()), Router::new()).await;
    let dialer = Dialer::new(member(&secrets, 2, Role::Worker, now()));
    let error = whoami(&dialer, server.addr, &Expect::AnyManager).await.unwrap_err();
    assert!(matches!(error, TlsError::WrongNode { .. }), "{error}");
}

#[tokio::test]
async fn strangers_and_expired_certificates_are_refused() {
    let secrets = cluster(9);
    let server_identity = member(&secrets, 1, Role::Manager, now());
    let server = server(&server_identity, Router::new()).await;

    // Another cluster: we refuse its server.
    let stranger = Dialer::new(member(&cluster(8), 2, Role::Manager, now()));
    let error = whoami(&stranger, server.addr, &Expect::AnyMember).await.unwrap_err();
    assert!(matches!(error, TlsError::WrongCluster { .. }), "{error}");

    // An own certificate that ran out: the server refuses us, which shows on the first request.
    let expired = Dialer::new(member(&secrets, 2, Role::Manager, now() - 91 * 24 * 3600 * 1000));
    let error = whoami(&expired, server.addr, &Expect::AnyMember).await.unwrap_err();
    assert!(matches!(error, TlsError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("join again"), "{error}");

    // Somebody who trusts our CA but shows a certificate of his own making.
    let forger = {
        let other = cluster(7);
        let identity = member(&other, 2, Role::Manager, now());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(secrets.ca.certificate().clone()).unwrap();
        let anchor = verify::Anchor::Ca(Arc::new(roots));
        let verifier = verify::Verifier { anchor, expect: Expect::AnyMember, provider: provider() };
        let config = dial::client_builder(verifier)
            .unwrap()
            .with_client_auth_cert(identity.chain(), identity.private_key())
            .unwrap();
        let stream = dial::handshake(server.addr, config).await.unwrap();
        let mut http = dial::http(server.addr, stream).await.unwrap();
        let error = http.send_request(Request::get("/whoami").body(Body::empty()).unwrap()).await.unwrap_err();
        dial::explain(server.addr, &error)
    };
    assert!(matches!(forger, TlsError::Refused { .. }), "{forger}");
}

#[tokio::test]
async fn a_removed_node_is_refused_on_its_open_connection_too() {
    let secrets = cluster(9);
    let server = server(&member(&secrets, 1, Role::Manager, now()), Router::new()).await;
    let dialer = Dialer::new(member(&secrets, 2, Role::Manager, now()));
    assert_eq!(whoami(&dialer, server.addr, &Expect::AnyMember).await.unwrap().0, 200);
    server.revoked.store(true, Ordering::Relaxed);
    let (status, body) = whoami(&dialer, server.addr, &Expect::AnyMember).await.unwrap();
    let error: ApiError = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 403);
    assert!(error.message.contains("removed from the cluster"), "{error}");
}

#[tokio::test]
async fn nobody_there_and_no_tls_there_are_told_apart() {
    let secrets = cluster(9);
    let dialer = Dialer::new(member(&secrets, 2, Role::Manager, now()));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = closed.local_addr().unwrap();
    drop(closed);
    let error = whoami(&dialer, addr, &Expect::AnyMember).await.unwrap_err();
    assert!(matches!(error, TlsError::Unreachable { .. }), "{error}");

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let error = whoami(&dialer, addr, &Expect::AnyMember).await.unwrap_err();
    assert!(matches!(error, TlsError::Handshake { .. }), "{error}");
}

/// The time in which the other side gives an idle connection up.
async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test]
async fn a_dead_kept_connection_is_replaced() {
    let secrets = cluster(9);
    let identity = member(&secrets, 1, Role::Manager, now());
    let server = server(&identity, Router::new()).await;
    let dialer = Dialer::new(member(&secrets, 2, Role::Manager, now()));
    // The server closes idle connections after 500 ms here: kept, used again, found closed and replaced.
    for pause_ms in [0, 0, 1000] {
        let_pass(Duration::from_millis(pause_ms)).await;
        let answer = whoami(&dialer, server.addr, &Expect::AnyMember).await;
        assert!(answer.is_ok(), "after {pause_ms} ms: {answer:?}");
    }
    // A renewed server certificate is shown to the next connection, without a restart.
    server.config.send(server_config(&member(&secrets, 5, Role::Manager, now())).unwrap()).unwrap();
    dialer.renew(member(&secrets, 2, Role::Manager, now()));
    assert_eq!(whoami(&dialer, server.addr, &Expect::Node(id(5))).await.unwrap().0, 200);
}

/// The server's side of a join as the agent will have it, without a store.
fn join_route(secrets: Arc<Mutex<ClusterSecrets>>, store: SocketAddr) -> Router {
    let door = Arc::new(Mutex::new(JoinDoor::default()));
    let handler = move |Extension(caller): Extension<Caller>,
                        Extension(CallerAddr(source)): Extension<CallerAddr>,
                        Json(request): Json<JoinRequest>| async move {
        assert_eq!(caller, Caller::Anonymous);
        let secrets = secrets.lock().unwrap();
        let admitted = door.lock().unwrap().admit(&secrets.tokens, &request.secret, source.ip(), Instant::now());
        let role = admitted.map_err(|refused| Json(ApiError::forbidden(refused.to_string())))?;
        let name = CertifiedName { node_id: id(3), role };
        let signed = secrets.ca.sign(&request.csr, &name, now()).unwrap();
        Ok::<_, Json<ApiError>>(Json(JoinAnswer {
            node_id: id(3),
            certificate: signed.pem,
            ca: secrets.ca.certificate_pem().to_string(),
            gossip_keys: secrets.gossip_keys.clone(),
            settings: Settings {
                cluster_id: id(9),
                address_pool: "10.0.0.0/8".parse().unwrap(),
                subnet_len: 20,
                address_pool6: None,
                data_path_port: 4789,
            },
            members: vec![],
            store: Seed { id: id(1), addr: store },
        }))
    };
    Router::new().route(
        JOIN_PATH,
        post(async move |caller, source, body| {
            use axum::response::IntoResponse;
            match handler(caller, source, body).await {
                Ok(answer) => answer.into_response(),
                Err(error) => (hyper::StatusCode::FORBIDDEN, error).into_response(),
            }
        }),
    )
}

fn request(key: &NodeKey, token: &crate::membership::identity::JoinToken) -> JoinRequest {
    JoinRequest {
        secret: token.secret().clone(),
        csr: key.csr_pem().unwrap(),
        name: "n3".to_string(),
        advertise_addr: "127.0.0.1".parse().unwrap(),
        ports: Default::default(),
        data_path_addr: "127.0.0.1".parse().unwrap(),
        runtimes: vec![Runtime::Exec],
        routed_prefixes: vec![],
    }
}

#[tokio::test]
async fn a_node_joins_with_the_right_token_only_and_anonymous_callers_get_nothing_else() {
    let secrets = Arc::new(Mutex::new(cluster(9)));
    let manager = member(&secrets.lock().unwrap(), 1, Role::Manager, now());
    let server = server(&manager, join_route(Arc::clone(&secrets), "127.0.0.1:7946".parse().unwrap())).await;

    // Joined, the new node is a member like any other.
    let token = secrets.lock().unwrap().join_token(Role::Worker);
    let key = NodeKey::generate().unwrap();
    let answer = join(server.addr, &token, &request(&key, &token)).await.unwrap();
    let identity = key.certified(&answer.certificate, &answer.ca, answer.gossip_keys).unwrap();
    assert_eq!(identity.name(), &CertifiedName { node_id: id(3), role: Role::Worker });
    let dialer = Dialer::new(Arc::new(identity));
    assert_eq!(whoami(&dialer, server.addr, &Expect::Node(id(1))).await.unwrap().0, 200);

    // A token of another cluster, recognised before the secret is sent; a rotated one.
    let key = NodeKey::generate().unwrap();
    let foreign = cluster(8).join_token(Role::Worker);
    let error = join(server.addr, &foreign, &request(&key, &foreign)).await.unwrap_err();
    assert!(matches!(error, TlsError::OtherCluster { .. }), "{error}");
    assert!(error.to_string().starts_with("token refused"), "{error}");
    secrets.lock().unwrap().tokens.rotate(Role::Worker);
    let error = join(server.addr, &token, &request(&key, &token)).await.unwrap_err();
    assert!(matches!(&error, TlsError::Answer { status: 403, message } if message.contains("rotated")), "{error}");

    // Without a certificate there is nothing but /join.
    let anchor = verify::Anchor::Digest(*token.ca_digest());
    let verifier = verify::Verifier { anchor, expect: Expect::AnyManager, provider: provider() };
    let config = dial::client_builder(verifier).unwrap().with_no_client_auth();
    let mut http = dial::http(server.addr, dial::handshake(server.addr, config).await.unwrap()).await.unwrap();
    for path in ["/whoami", "/join", "/join/../whoami", "//join"] {
        let response = http.send_request(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 401, "GET {path}");
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn an_upgraded_request_is_a_stream_both_ways() {
    use hyper::header::{CONNECTION, UPGRADE};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let secrets = cluster(9);
    let echo = get(async |mut request: axum::extract::Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut line = [0; 5];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(&line).await.unwrap();
        });
        let headers = [(CONNECTION, "upgrade"), (UPGRADE, "mesh-test")];
        (hyper::StatusCode::SWITCHING_PROTOCOLS, headers)
    });
    let server = server(&member(&secrets, 1, Role::Manager, now()), Router::new().route("/echo", echo)).await;
    let dialer = Dialer::new(member(&secrets, 2, Role::Manager, now()));
    let mut connection = dialer.connect(server.addr, &Expect::Node(id(1))).await.unwrap();
    let request = Request::get("/echo").header(CONNECTION, "upgrade").header(UPGRADE, "mesh-test");
    let response = connection.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), hyper::StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut line = [0; 5];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"hello");
}
