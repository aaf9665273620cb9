//! A single look at this machine's Docker Engine: for `mesh doctor`, which must also work where no agent and no runtime is.
//!
//! Must not: change anything at the Engine, or wait for one to come.

use std::io::ErrorKind;

use bollard::models::LocalNodeState;
use tokio::net::UnixStream;

use super::engine::{Engine, words};

/// What an Engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: String,
    /// It is a member of a Docker Swarm, whose ports are ours too.
    pub is_in_swarm: bool,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    #[error("nobody listens there")]
    Absent,
    #[error("{0}")]
    Silent(String),
}

/// Where DOCKER_HOST says the Engine is, or its usual socket; and what answers there.
pub async fn look() -> (String, Result<Seen, Unseen>) {
    look_at(std::env::var("DOCKER_HOST").ok().as_deref()).await
}

async fn look_at(host: Option<&str>) -> (String, Result<Seen, Unseen>) {
    let engine = Engine::new(host);
    let socket = match engine.socket() {
        Ok(socket) => socket.to_owned(),
        Err(reason) => return (host.unwrap_or_default().to_owned(), Err(Unseen::Silent(reason.to_owned()))),
    };
    let at = format!("unix://{}", socket.display());
    if let Err(error) = UnixStream::connect(&socket).await {
        let is_absent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        return (at, Err(if is_absent { Unseen::Absent } else { Unseen::Silent(error.to_string()) }));
    }
    let seen = async {
        let connected = engine.connect().await?;
        let info = connected.docker.info().await.map_err(|error| words(&error))?;
        let state = info.swarm.and_then(|swarm| swarm.local_node_state);
        let is_in_swarm =
            matches!(state, Some(LocalNodeState::ACTIVE | LocalNodeState::PENDING | LocalNodeState::LOCKED));
        Ok(Seen { version: connected.version, is_in_swarm })
    };
    (at, seen.await.map_err(Unseen::Silent))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers every request by its path.
    fn serve(socket: &Path, answer: fn(&str) -> &'static str) {
        let listener = UnixListener::bind(socket).expect("a socket");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 2_048];
                    while let Ok(length) = stream.read(&mut request).await
                        && length > 0
                    {
                        let body = answer(&String::from_utf8_lossy(&request[..length]));
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
                        let _ = stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
                    }
                });
            }
        });
    }

    #[tokio::test]
    async fn an_engine_tells_its_version_and_its_swarm() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        serve(&socket, |request| {
            let is_info = request.lines().next().is_some_and(|line| line.contains("/info"));
            if is_info {
                r#"{"Swarm":{"LocalNodeState":"active"}}"#
            } else {
                r#"{"Version":"27.3.1","ApiVersion":"1.47","MinAPIVersion":"1.24"}"#
            }
        });
        let host = format!("unix://{}", socket.display());
        let (at, seen) = look_at(Some(&host)).await;
        assert_eq!((at, seen), (host, Ok(Seen { version: "27.3.1".into(), is_in_swarm: true })));
    }

    #[tokio::test]
    async fn nobody_there_nonsense_and_another_machine_are_three_things() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let host = format!("unix://{}", socket.display());
        assert_eq!(look_at(Some(&host)).await.1, Err(Unseen::Absent));
        serve(&socket, |_| "<html>");
        assert!(matches!(look_at(Some(&host)).await.1, Err(Unseen::Silent(_))));
        assert!(
            matches!(look_at(Some("tcp://10.0.0.1:2375")).await.1, Err(Unseen::Silent(why)) if why.contains("unix:///"))
        );
    }
}
