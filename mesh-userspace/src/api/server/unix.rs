//! The agent's unix socket: mode 0660, group `mesh` if there is one. Whoever may open it is as good as root.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Router;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::serve_connection;
use crate::api::{ApiError, Caller};

/// Binds the socket: makes its folder, takes the place of a dead agent's socket, refuses a living one's.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ApiError> {
    let fail = |what: &str, error: std::io::Error| {
        ApiError::internal(format!("cannot {what} {}: {error}; is another --socket wanted?", path.display()))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| fail("make the folder of the socket", error))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ApiError::conflict(format!(
            "another agent answers at {}: stop it first, or give this one its own --socket, --state-dir and --bpf-dir",
            path.display()
        )));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("replace the socket", error)),
    }
    let listener = UnixListener::bind(path).map_err(|error| fail("listen at", error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|error| fail("set the mode of", error))?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("mesh")
        && let Err(error) = nix::unistd::chown(path, None, Some(group.gid))
    {
        log::warn!("api: {} stays with its group: {error}", path.display());
    }
    Ok(listener)
}

/// Serves local callers until `shutdown` is done; sessions that still run end with it.
pub async fn serve_unix(listener: UnixListener, router: Router, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => {
                    connections.spawn(serve_connection(connection, router.clone(), Caller::Local));
                }
                Err(error) => {
                    // Out of descriptors, most likely: give those who hold them time to end.
                    log::warn!("api: a connection could not be accepted: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
}
