//! Frames of an exec session on an upgraded connection: type u8, length u32 big-endian, payload.
//!
//! | type | to the task        | payload             | type | from the task | payload           |
//! |------|--------------------|---------------------|------|---------------|-------------------|
//! | 1    | stdin              | bytes               | 16   | stdout        | bytes             |
//! | 2    | close stdin        | none                | 17   | stderr        | bytes             |
//! | 3    | resize             | rows u16, cols u16  | 18   | exit          | code i32          |
//! | 4    | signal             | number i32          |      |               |                   |
//!
//! All numbers big-endian. Unknown types and payloads over 1 MiB end the session: both ends are the same binary.

use std::io::{Error, ErrorKind, Result};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::model::{ExecEvent, ExecInput, WindowSize};

/// Name of the protocol in the `Upgrade` header.
pub const PROTOCOL: &str = "mesh-exec";

/// Largest payload that is accepted.
pub const MAX_PAYLOAD: usize = 1 << 20;

const STDIN: u8 = 1;
const CLOSE_STDIN: u8 = 2;
const RESIZE: u8 = 3;
const SIGNAL: u8 = 4;
const STDOUT: u8 = 16;
const STDERR: u8 = 17;
const EXIT: u8 = 18;

pub async fn write_input(to: &mut (impl AsyncWrite + Unpin), input: &ExecInput) -> Result<()> {
    match input {
        ExecInput::Stdin(bytes) => write_frame(to, STDIN, bytes).await,
        ExecInput::CloseStdin => write_frame(to, CLOSE_STDIN, &[]).await,
        ExecInput::Resize(size) => {
            let [a, b] = size.rows.to_be_bytes();
            let [c, d] = size.columns.to_be_bytes();
            write_frame(to, RESIZE, &[a, b, c, d]).await
        }
        ExecInput::Signal(number) => write_frame(to, SIGNAL, &number.to_be_bytes()).await,
    }
}

pub async fn write_event(to: &mut (impl AsyncWrite + Unpin), event: &ExecEvent) -> Result<()> {
    match event {
        ExecEvent::Stdout(bytes) => write_frame(to, STDOUT, bytes).await,
        ExecEvent::Stderr(bytes) => write_frame(to, STDERR, bytes).await,
        ExecEvent::Exit(code) => write_frame(to, EXIT, &code.to_be_bytes()).await,
    }
}

/// None at the end of the stream between frames.
pub async fn read_input(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<ExecInput>> {
    let Some((kind, payload)) = read_frame(from).await? else { return Ok(None) };
    let input = match (kind, payload.as_ref()) {
        (STDIN, _) => ExecInput::Stdin(payload),
        (CLOSE_STDIN, []) => ExecInput::CloseStdin,
        (RESIZE, &[a, b, c, d]) => {
            ExecInput::Resize(WindowSize { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) })
        }
        (SIGNAL, &[a, b, c, d]) => ExecInput::Signal(i32::from_be_bytes([a, b, c, d])),
        _ => return Err(malformed(kind, payload.len())),
    };
    Ok(Some(input))
}

/// None at the end of the stream between frames.
pub async fn read_event(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<ExecEvent>> {
    let Some((kind, payload)) = read_frame(from).await? else { return Ok(None) };
    let event = match (kind, payload.as_ref()) {
        (STDOUT, _) => ExecEvent::Stdout(payload),
        (STDERR, _) => ExecEvent::Stderr(payload),
        (EXIT, &[a, b, c, d]) => ExecEvent::Exit(i32::from_be_bytes([a, b, c, d])),
        _ => return Err(malformed(kind, payload.len())),
    };
    Ok(Some(event))
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> Result<()> {
    for chunk in chunks(payload) {
        let [a, b, c, d] = (chunk.len() as u32).to_be_bytes();
        to.write_all(&[kind, a, b, c, d]).await?;
        to.write_all(chunk).await?;
    }
    to.flush().await
}

/// At least one chunk: an empty payload is a frame too.
fn chunks(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = payload.is_empty().then_some(payload);
    empty.into_iter().chain(payload.chunks(MAX_PAYLOAD))
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<(u8, Bytes)>> {
    let kind = match from.read_u8().await {
        Ok(kind) => kind,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = from.read_u32().await? as usize;
    if length > MAX_PAYLOAD {
        return Err(malformed(kind, length));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Some((kind, payload.into())))
}

fn malformed(kind: u8, length: usize) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("exec session: frame of type {kind} with {length} bytes is not in the protocol"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let inputs = [
            ExecInput::Stdin(Bytes::from_static(b"ls\n")),
            ExecInput::Stdin(Bytes::new()),
            ExecInput::Resize(WindowSize { rows: 24, columns: 300 }),
            ExecInput::Signal(15),
            ExecInput::CloseStdin,
        ];
        let mut wire = Vec::new();
        for input in &inputs {
            write_input(&mut wire, input).await.expect("a vector takes all");
        }
        assert_eq!(wire[..8], [1, 0, 0, 0, 3, b'l', b's', b'\n']);
        let mut rest = wire.as_slice();
        for input in &inputs {
            assert_eq!(read_input(&mut rest).await.expect("well formed").as_ref(), Some(input));
        }
        assert_eq!(read_input(&mut rest).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn a_forged_length_or_type_is_refused_before_it_is_read() {
        let mut huge: &[u8] = &[STDOUT, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(read_event(&mut huge).await.expect_err("too long").kind(), ErrorKind::InvalidData);
        let mut unknown: &[u8] = &[99, 0, 0, 0, 0];
        assert_eq!(read_event(&mut unknown).await.expect_err("unknown").kind(), ErrorKind::InvalidData);
        let mut cut: &[u8] = &[EXIT, 0, 0];
        assert_eq!(read_event(&mut cut).await.expect_err("cut off").kind(), ErrorKind::UnexpectedEof);
    }
}
