//! What can go wrong in the host's network, in words that say what to do.

use std::io;

use ipnet::IpNet;
use rtnetlink::packet_core::ErrorMessage;

use crate::plan::net::{HeldPort, MESH0};

/// Each names what was attempted, on what, why it failed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("cannot {attempt}: {source}")]
    Refused {
        attempt: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot {attempt}: operation not permitted: run mesh as root (it needs CAP_NET_ADMIN and CAP_SYS_ADMIN)")]
    NotRoot { attempt: String },
    #[error(
        "a link named {MESH0} exists that mesh did not make (type {kind}): rename it, or remove it with \
         `ip link delete {MESH0}`"
    )]
    ForeignMesh0 { kind: String },
    #[error(
        "UDP port {port}, which carries the tunnel, is in use by {owner}: stop it, or start the cluster on another port \
         with `mesh swarm init --data-path-port`"
    )]
    DataPortInUse { port: u16, owner: String },
    #[error(
        "this host reaches {subnet} by {by} already, so a network there can't be routed to the overlay: remove that route, \
         or remove the network and create it with another --subnet"
    )]
    RouteTaken { subnet: IpNet, by: String },
    #[error(
        "the route to {subnet} can't have source address {src}: this host does not have it (any more); give it back, or \
         leave the cluster and join again with --advertise-addr"
    )]
    SourceNotLocal { subnet: IpNet, src: std::net::IpAddr },
    #[error("port {port} is in use on this host{}: this node does not publish it until it is free", owner.as_deref().map(|o| format!(" by {o}")).unwrap_or_default())]
    PortInUse { port: HeldPort, owner: Option<String> },
    #[error("the namespace of task {task} has an interface {name} already: it is in use by something else than mesh")]
    TaskInterfaceTaken { task: String, name: String },
    #[error("{MESH0} stays down, because its packet programs could not be attached: {0}")]
    Attach(String),
    #[error("{0}")]
    Advertise(String),
    #[error("the record of changed sysctls, {path}, can't be {verb}: {source}")]
    SysctlRecord {
        path: String,
        verb: &'static str,
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// The operating system's answer to `attempt`.
    pub(super) fn os(attempt: impl Into<String>, source: io::Error) -> Self {
        let attempt = attempt.into();
        match source.raw_os_error() {
            Some(libc::EPERM) => NetError::NotRoot { attempt },
            _ => NetError::Refused { attempt, source },
        }
    }

    /// Netlink's answer to `attempt`.
    pub(super) fn netlink(attempt: impl Into<String>, error: rtnetlink::Error) -> Self {
        NetError::os(attempt, into_io(error))
    }
}

/// The errno that netlink answered with; 0 where it did not get that far.
pub(super) fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => code.get().abs(),
        _ => 0,
    }
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    match errno(&error) {
        0 => io::Error::other(error.to_string()),
        errno => io::Error::from_raw_os_error(errno),
    }
}

/// Success where the kernel says that there is nothing (left) to do.
pub(super) fn unless(
    result: Result<(), rtnetlink::Error>,
    harmless: &[i32],
    attempt: impl FnOnce() -> String,
) -> Result<(), NetError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if harmless.contains(&errno(&error)) => Ok(()),
        Err(error) => Err(NetError::netlink(attempt(), error)),
    }
}
