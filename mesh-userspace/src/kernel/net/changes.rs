//! "Something changed in the host's network": links, addresses, routes, forwarding switches.
//!
//! Says only that it is time to look again, not what happened: the reconciler compares everything anyway, so messages are not
//! even parsed. A burst counts once. Must not: lose a change that comes while the receiver is busy, or starve it under a steady
//! stream.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::error::NetError;

/// Quiet time that ends a burst.
const QUIET: Duration = Duration::from_millis(100);
/// A burst is reported after this time at the latest.
const LONGEST: Duration = Duration::from_secs(1);

/// Forwarding switches are among them: `sysctl net.ipv4.ip_forward=…` resets every link's own, mesh0's too.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Netconf,
];

/// Changes since it was opened.
pub struct Changes {
    bursts: mpsc::Receiver<()>,
    watcher: JoinHandle<()>,
}

impl Changes {
    /// Watches the calling thread's namespace, on the current runtime.
    pub(super) fn open() -> Result<Self, NetError> {
        let socket =
            listen().map_err(|error| NetError::os("watch the host's links, addresses and routes by netlink", error))?;
        // One place: a change while another waits to be taken is the same news.
        let (news, bursts) = mpsc::channel(1);
        let watcher = tokio::spawn(async move {
            while heard(&socket).await {
                let latest = Instant::now() + LONGEST;
                while let Ok(true) = timeout_at(latest.min(Instant::now() + QUIET), heard(&socket)).await {}
                if let Err(mpsc::error::TrySendError::Closed(())) = news.try_send(()) {
                    return;
                }
            }
        });
        Ok(Changes { bursts, watcher })
    }

    /// The next burst's end; safe to cancel. None when the socket is broken: open another.
    pub async fn next(&mut self) -> Option<()> {
        self.bursts.recv().await
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

fn listen() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// Waits for a message. ENOBUFS says that some were lost: then it is time to look, too.
async fn heard(socket: &TokioSocket) -> bool {
    let mut message = BytesMut::with_capacity(4096);
    match socket.recv(&mut message).await {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(libc::ENOBUFS),
    }
}
