//! A small HTTP/1.1 client: one request on a new connection, many on a kept one, uploads and downloads.
//!
//! It keeps what the tests ask about: both addresses of the connection, and how long things took. Bodies are the pattern of
//! `whoami` (0, 1, … 250, again), so a mangled byte is an error and not only a wrong count.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::connect::connect_any;
use super::whoami::Whoami;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Our end of the connection: what the server should have seen.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// From the start of connecting (or of the request, on a kept connection) to the last byte.
    pub took: Duration,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer of the lab's test server.
    pub fn whoami(&self) -> Result<Whoami> {
        ensure!(self.status == 200, "status {}: {}", self.status, self.text());
        Whoami::parse(&self.text())
    }
}

/// A kept connection.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Session {
    /// `limit` is for connecting, and later for each silence of the other side.
    pub fn open(host: &str, port: u16, limit: Duration) -> Result<Session> {
        let stream = connect_any(host, port, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Session { stream: BufReader::new(stream), host: format!("{host}:{port}") })
    }

    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.request("GET", path, 0, false)
    }

    fn request(&mut self, method: &str, path: &str, upload: u64, close: bool) -> Result<Answer> {
        let what = || format!("{method} http://{}{path}", self.host);
        let context = what();
        self.exchange(method, path, upload, close).context(context)
    }

    fn exchange(&mut self, method: &str, path: &str, upload: u64, close: bool) -> Result<Answer> {
        let started = Instant::now();
        let ending = if close { "Connection: close\r\n" } else { "" };
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {upload}\r\n{ending}\r\n", self.host);
        self.stream.get_mut().write_all(head.as_bytes()).context("can't send the request")?;
        send_pattern(self.stream.get_mut(), upload).context("can't send the body")?;
        let (status, length) = self.read_head().context("no answer")?;
        let mut body = Vec::with_capacity(usize::try_from(length)?);
        (&mut self.stream)
            .take(length)
            .read_to_end(&mut body)
            .with_context(|| format!("body stopped early, of {length} bytes"))?;
        ensure!(body.len() as u64 == length, "body ended after {} of {length} bytes", body.len());
        let (local, peer) = (self.stream.get_ref().local_addr()?, self.stream.get_ref().peer_addr()?);
        Ok(Answer { status, body, local, peer, took: started.elapsed() })
    }

    /// Status and length of the body.
    fn read_head(&mut self) -> Result<(u16, u64)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("not a status line: {first:?}"))?;
        let mut length = None;
        loop {
            let header = self.line()?;
            if header.is_empty() {
                return Ok((status, length.context("answer without Content-Length")?));
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the other side closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One request on a connection of its own. `took` includes connecting.
pub fn http_get(host: &str, port: u16, path: &str, limit: Duration) -> Result<Answer> {
    let started = Instant::now();
    let mut answer = Session::open(host, port, limit)?.request("GET", path, 0, true)?;
    answer.took = started.elapsed();
    Ok(answer)
}

/// Sends `bytes` bytes in a POST and checks that the server got exactly these.
pub fn upload(host: &str, port: u16, bytes: u64, limit: Duration) -> Result<Answer> {
    let started = Instant::now();
    let mut answer = Session::open(host, port, limit)?.request("POST", "/", bytes, true)?;
    answer.took = started.elapsed();
    let wanted = format!("received {bytes} bytes\nfnv1a {:016x}\n", pattern_hash(bytes));
    ensure!(answer.text().ends_with(&wanted), "sent {bytes} bytes, wanted {wanted:?}, but: {}", answer.text());
    Ok(answer)
}

/// Gets `bytes` bytes and checks every one.
pub fn download(host: &str, port: u16, bytes: u64, limit: Duration) -> Result<Answer> {
    let answer = http_get(host, port, &format!("/bytes/{bytes}"), limit)?;
    ensure!(answer.body.len() as u64 == bytes, "asked for {bytes} bytes, got {}", answer.body.len());
    if let Some(wrong) = answer.body.iter().zip((0..251u8).cycle()).position(|(got, wanted)| *got != wanted) {
        bail!("byte {wrong} of {bytes} arrived wrong");
    }
    Ok(answer)
}

fn pattern() -> impl Iterator<Item = u8> {
    (0..251u8).cycle()
}

fn send_pattern(out: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    let block: Vec<u8> = pattern().take(251 * 256).collect();
    let mut left = bytes;
    while left > 0 {
        let part = left.min(block.len() as u64);
        out.write_all(&block[..part as usize])?;
        left -= part;
    }
    Ok(())
}

fn pattern_hash(bytes: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut place = 0u8;
    for _ in 0..bytes {
        hash = (hash ^ u64::from(place)).wrapping_mul(0x0100_0000_01b3);
        place = if place == 250 { 0 } else { place + 1 };
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers each connection with `answer`, once it has read the end of a head.
    fn server(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| !line.unwrap_or_default().is_empty()) {}
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn an_answer_is_read_with_both_addresses() {
        let port = server("HTTP/1.1 200 OK\r\ncontent-length: 33\r\n\r\nI'm x\nfrom 127.0.0.1:1\n0123456789");
        let answer = http_get("127.0.0.1", port, "/", Duration::from_secs(2)).unwrap();
        assert_eq!((answer.status, answer.peer.port()), (200, port));
        assert_eq!(answer.whoami().unwrap().task, "x");
    }

    #[test]
    fn a_body_that_stops_early_is_an_error() {
        let port = server("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
        let error = http_get("127.0.0.1", port, "/", Duration::from_secs(2)).unwrap_err();
        assert!(format!("{error:#}").contains("ended after 5 of 100 bytes"), "{error:#}");
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(pattern_hash(0), 0xcbf2_9ce4_8422_2325);
        // FNV-1a 64 of the one byte 0, from the published test vectors.
        assert_eq!(pattern_hash(1), 0xaf63_bd4c_8601_b7df);
    }
}
