//! What agent and resolver say to each other through `resolver.sock`.
//!
//! A frame is its length (32 bits, big-endian) and that many bytes of JSON. The resolver speaks first, with its
//! [`Status`]: an agent that can't read it, or finds another version or another network namespace in it, replaces
//! the process. After that each [`Request`] is answered by one [`Status`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::server::QueryCounts;
use super::zone::Zone;

/// Raised with every change of the frames or of the zone that an older side would misread.
pub const PROTOCOL: u32 = 2;
/// What the agent wants a resolver to be; another one is replaced.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Far above the zone of thousands of services; a frame above it is no frame.
const MAX_FRAME_BYTES: u32 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request<'a> {
    /// Serve this from now on.
    Push {
        generation: u64,
        zone: std::borrow::Cow<'a, Zone>,
    },
    Status,
}

/// How the resolver fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub protocol: u32,
    pub version: String,
    pub pid: u32,
    /// Inode of the network namespace that the resolver listens in.
    pub netns: u64,
    /// Generation of the zone in force; 0: none yet. It survives a restart together with the zone.
    pub generation: u64,
    /// [`Zone::digest`] of the zone in force.
    pub zone_digest: String,
    /// Gateways that are listened on.
    pub gateways: BTreeSet<IpAddr>,
    /// Gateways that are not, and why.
    pub errors: BTreeMap<IpAddr, String>,
    /// What else is wrong: no upstream, the zone can't be kept on disk.
    pub warnings: Vec<String>,
    /// The host's resolvers in use.
    pub upstreams: Vec<IpAddr>,
    pub queries: QueryCounts,
}

/// Why talking failed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("a frame of {0} bytes is announced; at most {MAX_FRAME_BYTES} are taken")]
    TooLong(u32),
    #[error("a frame is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Sends one frame.
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), content: &impl Serialize) -> Result<(), FrameError> {
    let json = serde_json::to_vec(content)?;
    let len = u32::try_from(json.len()).ok().filter(|len| *len <= MAX_FRAME_BYTES);
    stream.write_u32(len.ok_or(FrameError::TooLong(u32::MAX))?).await?;
    stream.write_all(&json).await?;
    Ok(stream.flush().await?)
}

/// Receives one frame; nothing where the other side has hung up.
pub async fn read_frame<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, FrameError> {
    let len = match stream.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        len => len?,
    };
    if len > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(len));
    }
    // Grows with what arrives, not with what is announced.
    let mut json = Vec::new();
    if stream.take(len.into()).read_to_end(&mut json).await? < len as usize {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(Some(serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Request::Push { generation: 7, zone: Default::default() }).await.unwrap();
        let whole: Option<Request> = read_frame(&mut bytes.as_slice()).await.unwrap();
        assert!(matches!(whole, Some(Request::Push { generation: 7, .. })));
        assert!(read_frame::<Request>(&mut [0u8; 0].as_slice()).await.unwrap().is_none());
        assert!(matches!(read_frame::<Request>(&mut &bytes[..bytes.len() - 1]).await, Err(FrameError::Io(_))));
        assert!(matches!(read_frame::<Request>(&mut [0xff; 8].as_slice()).await, Err(FrameError::TooLong(_))));
        assert!(matches!(read_frame::<Request>(&mut b"\0\0\0\x02{]".as_slice()).await, Err(FrameError::Json(_))));
    }
}
