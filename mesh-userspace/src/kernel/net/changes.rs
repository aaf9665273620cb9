//! "Something changed in the host's network": links, addresses, routes, rules, forwarding switches, neighbours of next hops.
//!
//! Says only that it is time to look again, not what happened: the reconciler compares everything anyway. A burst counts once. Only
//! neighbours are read: the kernel tells every step of every one of them, and next to none matters; one that does is told at once,
//! since packets go nowhere meanwhile. Must not: lose a change that comes while the receiver is busy, or starve it under a steady stream.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::error::NetError;
use super::next_hop::{Watched, mac_of, neighbour_of};

/// Quiet time that ends a burst.
const QUIET: Duration = Duration::from_millis(100);
/// A neighbour's burst is short: its next hop is waited for.
const NEIGHBOUR_QUIET: Duration = Duration::from_millis(5);
/// A burst is reported after this time at the latest.
const LONGEST: Duration = Duration::from_secs(1);

/// Forwarding switches are among them: `sysctl net.ipv4.ip_forward=…` resets every link's own, mesh0's too.
const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Nexthop,
    MulticastGroup::Neigh,
];

/// Changes since it was opened.
pub struct Changes {
    bursts: mpsc::Receiver<()>,
    watcher: JoinHandle<()>,
}

impl Changes {
    /// Watches the calling thread's namespace, on the current runtime.
    pub(super) fn open(watched: Watched) -> Result<Self, NetError> {
        let socket =
            listen().map_err(|error| NetError::os("watch the host's links, addresses and routes by netlink", error))?;
        // One place: a change while another waits to be taken is the same news.
        let (news, bursts) = mpsc::channel(1);
        let watcher = tokio::spawn(async move {
            while let Some(mut last) = heard(&socket, &watched).await {
                let mut latest = Instant::now() + LONGEST;
                loop {
                    if last == News::Neighbour {
                        latest = latest.min(Instant::now() + NEIGHBOUR_QUIET);
                    }
                    match timeout_at(latest.min(Instant::now() + QUIET), heard(&socket, &watched)).await {
                        Ok(Some(news)) => last = news,
                        Ok(None) | Err(_) => break,
                    }
                }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// A next hop's MAC address is another, or none.
    Neighbour,
    Other,
}

/// Waits for news; None when the socket is broken. ENOBUFS says that some were lost: then it is time to look, too.
async fn heard(socket: &TokioSocket, watched: &Watched) -> Option<News> {
    let mut message = BytesMut::with_capacity(4096);
    loop {
        message.clear();
        match socket.recv(&mut message).await {
            Ok(()) => {
                if let Some(news) = news_of(&message, watched) {
                    return Some(news);
                }
            }
            Err(error) => return (error.raw_os_error() == Some(libc::ENOBUFS)).then_some(News::Other),
        }
    }
}

/// What a message is to us; None: nothing.
fn news_of(message: &[u8], watched: &Watched) -> Option<News> {
    /// Of a message in its header (linux/netlink.h).
    const TYPE: std::ops::Range<usize> = 4..6;
    let kind = message.get(TYPE).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
    if !(libc::RTM_NEWNEIGH..=libc::RTM_GETNEIGH).contains(&kind) {
        return Some(News::Other);
    }
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
    let (about, mac) = match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(about)) => {
            (neighbour_of(&about)?, mac_of(&about))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(about)) => (neighbour_of(&about)?, None),
        _ => return None,
    };
    watched.is_news(about, mac).then_some(News::Neighbour)
}
