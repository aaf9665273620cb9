//! Exchange of records over TCP: two nodes whose digests differ bring each other up to date.
//!
//! Caller → called: how far it has come. Back: what the caller lacks, and how far the called one has come. Then what
//! the called one lacks. Frames are length-prefixed envelopes. Before a peer has proved that it has a key it may make us
//! hold [`MAX_GREETING_BYTES`] for [`DEADLINE`], on a limited number of connections, and nothing more.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::driver::Shared;
use super::envelope::Channel;
use super::records::Snapshot;
use super::wire::{Frame, MAX_FRAME_BYTES, decode, encode};

/// For a whole exchange.
const DEADLINE: Duration = Duration::from_secs(5);
/// Marks of some thousand nodes.
const MAX_GREETING_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("connect: {0}")]
    Connect(std::io::Error),
    #[error("the stream broke: {0}")]
    Stream(std::io::Error),
    #[error("a frame of {0} bytes is more than is allowed here")]
    TooLong(usize),
    #[error("a frame was refused: {0}")]
    Refused(super::envelope::Refused),
    #[error("not the frame that was to come")]
    Unexpected,
    #[error("not done in {} s", DEADLINE.as_secs())]
    Late,
}

/// Calls the member at `addr`.
pub(super) async fn call(shared: Arc<Shared>, from: IpAddr, addr: SocketAddr) {
    let exchange = async {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(ExchangeError::Connect)?;
        if !from.is_unspecified() && from.is_ipv4() == addr.is_ipv4() {
            // Others know us by this address; the routing table may prefer another one.
            socket.bind(SocketAddr::new(from, 0)).map_err(ExchangeError::Connect)?;
        }
        let mut stream = socket.connect(addr).await.map_err(ExchangeError::Connect)?;
        let marks = shared.book().marks();
        write(&shared, &mut stream, &Frame::Marks(marks)).await?;
        let Frame::News { snapshots, marks } = read(&shared, &mut stream, MAX_FRAME_BYTES).await? else {
            return Err(ExchangeError::Unexpected);
        };
        take(&shared, snapshots);
        if shared.book().is_haunted(&marks) {
            log::error!(
                "other nodes have reports of a later life of this node: another agent runs under its identity, \
                 or its state directory was restored from a backup; what this agent reports is not heard"
            );
        }
        let news = shared.book().news_for(&marks);
        write(&shared, &mut stream, &Frame::Last(news)).await?;
        stream.shutdown().await.map_err(ExchangeError::Stream)
    };
    finish(&shared, addr, tokio::time::timeout(DEADLINE, exchange).await.unwrap_or(Err(ExchangeError::Late)));
}

/// Answers a caller.
pub(super) async fn answer(shared: Arc<Shared>, mut stream: TcpStream, addr: SocketAddr) {
    let exchange = async {
        let Frame::Marks(marks) = read(&shared, &mut stream, MAX_GREETING_BYTES).await? else {
            return Err(ExchangeError::Unexpected);
        };
        let news = {
            let book = shared.book();
            Frame::News { snapshots: book.news_for(&marks), marks: book.marks() }
        };
        write(&shared, &mut stream, &news).await?;
        let Frame::Last(snapshots) = read(&shared, &mut stream, MAX_FRAME_BYTES).await? else {
            return Err(ExchangeError::Unexpected);
        };
        take(&shared, snapshots);
        Ok(())
    };
    finish(&shared, addr, tokio::time::timeout(DEADLINE, exchange).await.unwrap_or(Err(ExchangeError::Late)));
}

fn take(shared: &Shared, snapshots: Vec<Snapshot>) {
    let mut changed = false;
    let mut book = shared.book();
    for snapshot in snapshots {
        match book.replace(snapshot) {
            Ok(visible) => changed |= visible,
            Err(_) => shared.counters.refused_records.bump(),
        }
    }
    drop(book);
    if changed {
        shared.changed.notify_one();
    }
}

fn finish(shared: &Shared, addr: SocketAddr, result: Result<(), ExchangeError>) {
    match result {
        Ok(()) => shared.counters.exchanges.bump(),
        Err(error) => {
            shared.counters.failed_exchanges.bump();
            log::debug!("exchange of records with {addr}: {error}");
        }
    }
}

async fn write(shared: &Shared, stream: &mut TcpStream, frame: &Frame) -> Result<(), ExchangeError> {
    let sealed = shared.ring().seal(Channel::Stream, &encode(frame));
    let length = u32::try_from(sealed.len()).ok().filter(|_| sealed.len() <= MAX_FRAME_BYTES);
    let length = length.ok_or(ExchangeError::TooLong(sealed.len()))?;
    stream.write_all(&length.to_be_bytes()).await.map_err(ExchangeError::Stream)?;
    stream.write_all(&sealed).await.map_err(ExchangeError::Stream)
}

async fn read(shared: &Shared, stream: &mut TcpStream, limit: usize) -> Result<Frame, ExchangeError> {
    let length = stream.read_u32().await.map_err(ExchangeError::Stream)? as usize;
    if length > limit {
        return Err(ExchangeError::TooLong(length));
    }
    // Grows with what really arrives: the announced length alone costs us nothing.
    let mut sealed = Vec::new();
    stream.take(length as u64).read_to_end(&mut sealed).await.map_err(ExchangeError::Stream)?;
    let frame = shared.ring().open(Channel::Stream, &sealed).map_err(|refused| {
        shared.count_refused(refused);
        ExchangeError::Refused(refused)
    })?;
    decode(&frame).ok_or_else(|| {
        shared.counters.malformed.bump();
        ExchangeError::Unexpected
    })
}

impl Shared {
    /// The records. Held for moments only, never across an await.
    pub(super) fn book(&self) -> std::sync::MutexGuard<'_, super::records::Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
