//! The connection to the Docker Engine: where it is, whether it answers, and its errors in words.
//!
//! An Engine may come later, go, and return as another version; so there is no connection for ever but a state that is watched
//! ([`Engine::now`], [`Engine::within`]), kept by the loop in `watch`. Each connection has negotiated its version anew.
//!
//! Invariant: what is [`State::Here`] answered when it was connected. Must not: know tasks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::watch;

/// Where the Engine listens unless DOCKER_HOST says otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// A request that has no answer by then has none; pulls and logs answer at once and then go on.
const REQUEST_TIMEOUT_S: u64 = 60;
/// The first word of an Engine; one that is starting up accepts connections before it answers.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that answered.
#[derive(Clone)]
pub struct Connected {
    pub docker: Docker,
    pub socket: PathBuf,
    /// The Engine's version, as `docker version` shows it.
    pub version: String,
}

#[derive(Clone)]
pub enum State {
    /// Not tried yet.
    Unknown,
    /// Why it does not answer.
    Away(String),
    Here(Arc<Connected>),
}

/// The Engine of this node.
pub struct Engine {
    /// Or what DOCKER_HOST says, where that is none.
    socket: Result<PathBuf, String>,
    state: watch::Sender<State>,
}

impl Engine {
    /// The Engine that `host` names, as DOCKER_HOST does for Docker's own command line.
    pub fn new(host: Option<&str>) -> Self {
        Engine { socket: parse_host(host), state: watch::Sender::new(State::Unknown) }
    }

    /// Where it is; the error is a sentence.
    pub fn socket(&self) -> Result<&Path, &str> {
        self.socket.as_deref().map_err(String::as_str)
    }

    pub fn now(&self) -> Option<Arc<Connected>> {
        match &*self.state.borrow() {
            State::Here(connected) => Some(connected.clone()),
            _ => None,
        }
    }

    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The Engine, waited for; the error says why there is none and what to do.
    pub async fn within(&self, patience: Duration) -> Result<Arc<Connected>, String> {
        let mut state = self.state.subscribe();
        let here = state.wait_for(|state| matches!(state, State::Here(_)));
        // Without an answer in time the last state says why.
        let _ = tokio::time::timeout(patience, here).await;
        self.now().ok_or_else(|| self.absence())
    }

    /// The Engine if it is there, after the first attempt to reach it has ended.
    pub async fn after_first_attempt(&self) -> Option<Arc<Connected>> {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, State::Unknown)).await; // the sender lives as long as we
        self.now()
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// One attempt.
    pub async fn connect(&self) -> Result<Connected, String> {
        let path = self.socket.as_ref().map_err(Clone::clone)?;
        let hello = async {
            let socket = path.to_string_lossy();
            let docker = Docker::connect_with_unix(&socket, REQUEST_TIMEOUT_S, API_DEFAULT_VERSION)?;
            let docker = docker.negotiate_version().await?;
            let version = docker.version().await?.version.unwrap_or_default();
            Ok::<_, Error>(Connected { docker, socket: path.clone(), version })
        };
        match tokio::time::timeout(HELLO_TIMEOUT, hello).await {
            Ok(answer) => answer.map_err(|error| words(&error)),
            Err(_) => Err(format!("no answer within {} s", HELLO_TIMEOUT.as_secs())),
        }
    }

    /// Why there is no Engine, and what to do about it.
    pub fn absence(&self) -> String {
        let reason = match &*self.state.borrow() {
            State::Away(reason) => reason.clone(),
            State::Unknown => "not tried yet".to_owned(),
            State::Here(_) => "it was away for a moment: try again".to_owned(),
        };
        match &self.socket {
            Ok(path) => format!(
                "no Docker Engine answers at {} ({reason}): start it (systemctl start docker) or install it (apt-get \
                 install docker.io); or run a command of the host with --runtime exec",
                path.display()
            ),
            Err(error) => error.clone(),
        }
    }
}

/// `unix:///path`, or nothing for the default.
fn parse_host(host: Option<&str>) -> Result<PathBuf, String> {
    match host {
        None | Some("") => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if Path::new(path).is_absolute() => Ok(PathBuf::from(path)),
            _ => Err(format!(
                "DOCKER_HOST is '{host}': mesh needs the Engine of this machine, whose containers are processes of this \
                 kernel; give the agent unix:///PATH, or unset it for unix://{DEFAULT_SOCKET}"
            )),
        },
    }
}

/// An error as the Engine says it.
pub fn words(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        Error::RequestTimeoutError => format!("no answer within {REQUEST_TIMEOUT_S} s"),
        other => {
            // The cause (connection refused) is deeper than the library's own sentence.
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(deeper) = cause {
                let words = deeper.to_string();
                if !text.contains(&words) {
                    text = format!("{text}: {words}");
                }
                cause = deeper.source();
            }
            text
        }
    }
}

/// The Engine's answer has this status (404: there is none; 409: it conflicts; 304: it is so already).
pub fn has_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_of_this_machine_will_do() {
        assert_eq!(parse_host(None), Ok(PathBuf::from("/var/run/docker.sock")));
        assert_eq!(parse_host(Some("")), Ok(PathBuf::from("/var/run/docker.sock")));
        assert_eq!(parse_host(Some("unix:///run/other.sock")), Ok(PathBuf::from("/run/other.sock")));
        let refused = parse_host(Some("tcp://10.0.0.1:2375")).expect_err("another machine's");
        assert!(refused.contains("tcp://10.0.0.1:2375") && refused.contains("unix:///PATH"), "{refused}");
        assert!(parse_host(Some("unix://relative")).is_err());
    }

    #[tokio::test]
    async fn an_absent_engine_is_explained() {
        let engine =
            Engine { socket: Ok("/nonexistent/docker.sock".into()), state: watch::Sender::new(State::Unknown) };
        let error = engine.connect().await.err().expect("nobody there");
        engine.set(State::Away(error));
        let said = engine.within(Duration::ZERO).await.err().expect("nobody there");
        assert!(said.contains("/nonexistent/docker.sock") && said.contains("--runtime exec"), "{said}");
    }
}
