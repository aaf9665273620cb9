//! Whose address the server of a published port sees: the client's own, or that of somebody in between.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::server::CALLER;
use super::tool::Call;
use super::wanted::Way;
use crate::bench::{Row, Target};

/// Calls of a row.
const CALLS: usize = 100;
/// For one call.
const LIMIT: Duration = Duration::from_secs(5);

/// The ways that are asked.
pub fn ways() -> [Way; 2] {
    [Way::OurPort, Way::DockerPort]
}

pub fn name(way: Way) -> String {
    format!("published port: calls that show the client's address, {}", way.name())
}

/// How many of a hundred calls do.
pub fn row(way: Way, call: &Call) -> Result<Row> {
    let server = *call.web.first().context("a way has a web server")?;
    let inside = File::open(&call.namespace).with_context(|| format!("opening {}", call.namespace.display()))?;
    let calls = std::thread::spawn(move || -> Result<usize> {
        setns(inside, CloneFlags::CLONE_NEWNET)?;
        let mut kept = 0;
        for _ in 0..CALLS {
            kept += usize::from(is_kept(server)?);
        }
        Ok(kept)
    });
    let kept = calls.join().map_err(|_| anyhow::anyhow!("the calling thread panicked"))?;
    let kept = kept.with_context(|| format!("asking {server} from {}", Path::new(&call.namespace).display()))?;
    let row = Row::alone(name(way), "of 100", &[kept as f64]);
    Ok(if way.is_ours() { row.target(Target::ValueAtLeast(CALLS as f64)) } else { row })
}

/// The server sees the address that this end of the connection has.
fn is_kept(server: SocketAddrV4) -> Result<bool> {
    let mut connection = TcpStream::connect_timeout(&server.into(), LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    let own = connection.local_addr()?.ip();
    write!(connection, "GET {CALLER} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let seen: Ipv4Addr = answer.lines().last().unwrap_or_default().trim().parse().with_context(|| answer.clone())?;
    Ok(own == seen)
}
