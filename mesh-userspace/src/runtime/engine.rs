//! Whether a Docker Engine answers on this machine, and what it says of itself.
//!
//! Two plain requests of the Engine's HTTP API, with a deadline; nothing is changed there. For `mesh doctor`, which must also work
//! where no agent and no runtime is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// An Engine under load answers `/version` within a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an Engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    pub version: String,
    /// It is a member of a Swarm.
    pub is_in_swarm: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("nobody listens at {0}")]
    Absent(String),
    #[error("{0}")]
    Silent(String),
}

/// Where the Engine is: DOCKER_HOST, else its usual socket.
pub fn address() -> String {
    std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()).unwrap_or(format!("unix://{DEFAULT_SOCKET}"))
}

/// Asks the Engine at `address` (`unix://…`, a path, or `tcp://HOST:PORT` without TLS).
pub async fn ask(address: &str) -> Result<Engine, EngineError> {
    let version = get(address, "/version").await?;
    let version = version["Version"].as_str().ok_or_else(|| EngineError::Silent("it names no version".into()))?;
    // An Engine that does not tell (rootless, restricted by a proxy) is in no Swarm that could be in our way.
    let info = get(address, "/info").await.unwrap_or_default();
    let is_in_swarm = matches!(info["Swarm"]["LocalNodeState"].as_str(), Some("active" | "pending" | "locked"));
    Ok(Engine { version: version.to_string(), is_in_swarm })
}

async fn get(address: &str, path: &str) -> Result<serde_json::Value, EngineError> {
    let silent = |why: String| EngineError::Silent(why);
    let absent = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            EngineError::Absent(address.to_string())
        }
        _ => silent(error.to_string()),
    };
    let asked = async {
        if let Some(host) = address.strip_prefix("tcp://") {
            let stream = TcpStream::connect(host).await.map_err(absent)?;
            return request(stream, path).await.map_err(silent);
        }
        let socket: PathBuf = Path::new(address.strip_prefix("unix://").unwrap_or(address)).into();
        let stream = UnixStream::connect(socket).await.map_err(absent)?;
        request(stream, path).await.map_err(silent)
    };
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(silent(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

async fn request<S>(stream: S, path: &str) -> Result<serde_json::Value, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(driver);
    let request = Request::get(path).header(header::HOST, "docker").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("GET {path} was answered {status}"));
    }
    let bytes = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| format!("GET {path} was not answered in JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers each connection with the next of these bodies.
    fn serve(socket: &Path, answers: Vec<&'static str>) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
                stream.write_all((head + answer).as_bytes()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn an_engine_tells_its_version_and_its_swarm() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        serve(&socket, vec![r#"{"Version":"27.3.1"}"#, r#"{"Swarm":{"LocalNodeState":"active"}}"#]);
        let engine = ask(&format!("unix://{}", socket.display())).await.unwrap();
        assert_eq!(engine, Engine { version: "27.3.1".into(), is_in_swarm: true });
    }

    #[tokio::test]
    async fn nobody_there_and_nonsense_are_two_things() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let address = socket.display().to_string();
        assert!(matches!(ask(&address).await, Err(EngineError::Absent(_))));
        serve(&socket, vec!["<html>"]);
        assert!(matches!(ask(&address).await, Err(EngineError::Silent(why)) if why.contains("JSON")));
    }
}
