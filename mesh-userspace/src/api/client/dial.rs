//! How a client reaches its agent.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::api::ApiError;

/// A byte stream that HTTP can run over.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for C {}

/// Opens connections to one agent.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A new connection, ready for HTTP; the error says what was dialled and what to do.
    async fn dial(&self) -> Result<Box<dyn Connection>, ApiError>;

    /// The agent as error messages name it.
    fn name(&self) -> String;
}

/// The agent's unix socket.
pub(super) struct Unix(pub PathBuf);

#[async_trait]
impl Dial for Unix {
    async fn dial(&self) -> Result<Box<dyn Connection>, ApiError> {
        match UnixStream::connect(&self.0).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                let (problem, remedy) = match error.kind() {
                    ErrorKind::NotFound => {
                        ("no such file".into(), "start it with 'mesh agent' as root, or name its socket with --socket")
                    }
                    ErrorKind::ConnectionRefused => {
                        ("nobody listens there".into(), "the agent has ended; start it again with 'mesh agent' as root")
                    }
                    ErrorKind::PermissionDenied => {
                        ("permission denied".into(), "run as root, or as a member of the group 'mesh'")
                    }
                    _ => (error.to_string(), "is 'mesh agent' running?"),
                };
                let path = self.0.display();
                Err(ApiError::unavailable(format!("cannot reach the agent at {path}: {problem}; {remedy}")))
            }
        }
    }

    fn name(&self) -> String {
        format!("the agent at {}", self.0.display())
    }
}

/// One connection, made by someone else.
pub(super) struct Once(Mutex<Option<Box<dyn Connection>>>);

impl Once {
    pub(super) fn new(connection: impl Connection) -> Self {
        Once(Mutex::new(Some(Box::new(connection))))
    }
}

#[async_trait]
impl Dial for Once {
    async fn dial(&self) -> Result<Box<dyn Connection>, ApiError> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        connection.ok_or_else(|| ApiError::internal("this connection has served its one call already"))
    }

    fn name(&self) -> String {
        "the other agent".into()
    }
}
