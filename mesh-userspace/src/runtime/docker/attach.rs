//! The raw connection of a started command: HTTP up to the Engine's answer, then bytes in both directions.
//!
//! Not by the client library, whose reader takes bytes 0 to 2 at the beginning of a terminal's output for the head of a frame and then
//! waits for gigabytes (a program that clears the screen of an old terminal sends such bytes).
//!
//! Without a terminal output comes in frames (Engine API, "Stream format"): stream (1 output, 2 errors), three zero bytes, length in
//! network order, bytes. Invariant: [`Output::next`] may be dropped at any time without losing a byte.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;

use super::engine::Connected;
use crate::model::ExecEvent;

type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// The command's standard input.
pub type Input = WriteHalf<Connection>;

/// The command's output and errors.
pub struct Output<Source = ReadHalf<Connection>> {
    connection: Source,
    buffer: BytesMut,
    has_frames: bool,
}

const HEAD: usize = 8;
const READ_BYTES: usize = 16 * 1024;

/// Why a command was not started.
#[derive(Debug)]
pub enum AttachError {
    /// The Engine's words: the command can't run.
    Refused(String),
    Connection(io::Error),
}

/// Starts a command that was created at the Engine, and attaches to it.
pub async fn start(engine: &Connected, exec: &str, is_terminal: bool) -> Result<(Input, Output), AttachError> {
    let connection = UnixStream::connect(&engine.socket).await.map_err(AttachError::Connection)?;
    let other = |error: hyper::Error| AttachError::Connection(io::Error::other(error));
    let (mut sender, carrier) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(other)?;
    tokio::spawn(carrier.with_upgrades());
    let version = engine.docker.client_version();
    let body = serde_json::json!({ "Detach": false, "Tty": is_terminal }).to_string();
    let request = Request::post(format!("/v{}.{}/exec/{exec}/start", version.major_version, version.minor_version))
        .header(header::HOST, "docker")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| AttachError::Connection(io::Error::other(error)))?;
    let answer = sender.send_request(request).await.map_err(other)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(other)?.to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        return Err(AttachError::Refused(said["message"].as_str().map_or_else(|| status.to_string(), str::to_owned)));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(other)?;
    let (connection, input) = tokio::io::split(TokioIo::new(upgraded));
    Ok((input, Output::new(connection, is_terminal)))
}

impl<Source: AsyncRead + Unpin> Output<Source> {
    /// From what comes out of a connection that is up.
    pub fn new(connection: Source, is_terminal: bool) -> Self {
        Output { connection, buffer: BytesMut::new(), has_frames: !is_terminal }
    }

    /// The next piece; None at the end.
    pub async fn next(&mut self) -> io::Result<Option<ExecEvent>> {
        loop {
            let piece = if self.has_frames { take_frame(&mut self.buffer)? } else { take_all(&mut self.buffer) };
            if piece.is_some() {
                return Ok(piece);
            }
            self.buffer.reserve(READ_BYTES);
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

fn take_all(buffer: &mut BytesMut) -> Option<ExecEvent> {
    (!buffer.is_empty()).then(|| ExecEvent::Stdout(buffer.split().freeze()))
}

fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<ExecEvent>> {
    let Some(([stream, 0, 0, 0], length)) = buffer.first_chunk::<HEAD>().map(|head| head.split_at(4)).and_then(split)
    else {
        return if buffer.len() < HEAD {
            Ok(None)
        } else {
            Err(io::Error::other("not a frame of the Engine's stream"))
        };
    };
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let bytes = buffer.split_to(length).freeze();
    Ok(Some(if stream == 2 { ExecEvent::Stderr(bytes) } else { ExecEvent::Stdout(bytes) }))
}

fn split((kind, length): (&[u8], &[u8])) -> Option<([u8; 4], usize)> {
    Some((kind.try_into().ok()?, u32::from_be_bytes(length.try_into().ok()?) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_or_waited_for() {
        let mut buffer = BytesMut::from(&[1, 0, 0, 0, 0, 0, 0, 3, b'o', b'u'][..]);
        assert_eq!(take_frame(&mut buffer).expect("begun"), None);
        buffer.extend_from_slice(&[b't', 2, 0, 0, 0, 0, 0, 0, 1, b'!']);
        assert_eq!(take_frame(&mut buffer).expect("whole"), Some(ExecEvent::Stdout("out".into())));
        assert_eq!(take_frame(&mut buffer).expect("whole"), Some(ExecEvent::Stderr("!".into())));
        assert_eq!(take_frame(&mut buffer).expect("empty"), None);
        let mut buffer = BytesMut::from(&b"no frame"[..]);
        assert!(take_frame(&mut buffer).is_err());
    }

    #[test]
    fn a_terminals_bytes_are_only_bytes() {
        let mut buffer = BytesMut::from(&[1, 0, 0, 0, 255, 255, 255, 255][..]);
        assert_eq!(take_all(&mut buffer), Some(ExecEvent::Stdout(vec![1, 0, 0, 0, 255, 255, 255, 255].into())));
        assert_eq!(take_all(&mut buffer), None);
    }
}
