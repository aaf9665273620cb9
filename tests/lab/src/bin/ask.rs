//! ask: the lab's client as a program, for the inside of a task, where the lab's own threads can't go.
//!
//! ```text
//! ask get HOST PORT [TIMES]       ask udp HOST PORT [TIMES]    a line each: task, caller as seen, own address
//! ask talk HOST PORT TIMES MS     the same by datagrams of one socket, one each MS milliseconds; one of all may be lost
//! ask connect HOST PORT           connected | refused | unreachable | silent, then milliseconds
//! ask upload HOST PORT BYTES      ask download HOST PORT BYTES
//! ask burst HOST PORT COUNT SIZE  so many datagrams in one go and back, every byte checked
//! ask names NAME                  its addresses, one a line
//! ask ping HOST COUNT             answered and sent
//! ```
//! Exits with 1 and a sentence where something is not as asked. Names are resolved by the C library, as a user's program does.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_lab::{Connection, PATIENCE, Whoami, let_pass, traffic};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match answer(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answer(words: &[&str]) -> Result<String> {
    match *words {
        ["get", host, port] => get(host, number(port)?, 1),
        ["get", host, port, times] => get(host, number(port)?, number(times)?),
        ["udp", host, port] => udp(host, number(port)?, 1),
        ["udp", host, port, times] => udp(host, number(port)?, number(times)?),
        ["talk", host, port, times, pace] => talk(host, number(port)?, number(times)?, number(pace)?),
        ["connect", host, port] => connect(host, number(port)?),
        ["upload", host, port, bytes] => traffic::upload(host, number(port)?, number(bytes)?, PATIENCE).map(took),
        ["download", host, port, bytes] => traffic::download(host, number(port)?, number(bytes)?, PATIENCE).map(took),
        ["burst", host, port, count, size] => {
            let to = first(host, number(port)?)?;
            traffic::burst(to, number(count)?, number(size)?, PATIENCE).map(|()| String::new())
        }
        ["names", name] => Ok(addresses(name, 0)?.iter().map(|address| format!("{}\n", address.ip())).collect()),
        ["ping", host, count] => ping(host, number(count)?),
        _ => bail!(
            "usage: ask get|udp HOST PORT [TIMES], talk HOST PORT TIMES MS, connect HOST PORT, upload|download HOST PORT BYTES, \
             burst HOST PORT COUNT SIZE, names NAME, ping HOST COUNT"
        ),
    }
}

fn get(host: &str, port: u16, times: usize) -> Result<String> {
    let mut text = String::new();
    for _ in 0..times {
        let answer = traffic::http_get(host, port, "/", PATIENCE)?;
        text += &seen(&answer.whoami()?, answer.local);
    }
    Ok(text)
}

fn udp(host: &str, port: u16, times: usize) -> Result<String> {
    let mut text = String::new();
    for _ in 0..times {
        let (told, local) = traffic::datagram(first(host, port)?, b"who?", PATIENCE)?;
        text += &seen(&Whoami::parse(&told)?, local);
    }
    Ok(text)
}

fn talk(host: &str, port: u16, times: usize, pace_ms: u64) -> Result<String> {
    let talk = traffic::Talk::to(first(host, port)?, Duration::from_secs(1))?;
    let (mut text, began, mut may_be_lost) = (String::new(), Instant::now(), 1);
    for turn in 1..=times {
        let answered = talk.ask(b"who?").or_else(|lost| {
            if may_be_lost == 0 {
                return Err(lost);
            }
            may_be_lost -= 1;
            talk.ask(b"who?")
        });
        let (told, local) = answered.with_context(|| format!("datagram {turn}"))?;
        text += &seen(&Whoami::parse(&told)?, local);
        let_pass((Duration::from_millis(pace_ms) * turn as u32).saturating_sub(began.elapsed()));
    }
    Ok(text)
}

fn seen(told: &Whoami, local: SocketAddr) -> String {
    format!("{} {} {local}\n", told.task, told.caller)
}

fn connect(host: &str, port: u16) -> Result<String> {
    let (word, time) = match traffic::tcp_connect(first(host, port)?, PATIENCE)? {
        Connection::Connected { took, .. } => ("connected", took),
        Connection::Refused { took } => ("refused", took),
        Connection::Unreachable { took, .. } => ("unreachable", took),
        Connection::TimedOut { after } => ("silent", after),
    };
    Ok(format!("{word} {}\n", time.as_millis()))
}

fn ping(host: &str, count: usize) -> Result<String> {
    let IpAddr::V4(address) = first(host, 0)?.ip() else { bail!("{host} has no IPv4 address") };
    let echoes = traffic::echo(address, count, Duration::from_secs(1))?;
    Ok(format!("{} {}\n", echoes.round_trips.len(), echoes.sent))
}

fn first(host: &str, port: u16) -> Result<SocketAddr> {
    addresses(host, port)?.first().copied().with_context(|| format!("{host} has no address"))
}

fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    // With port 0 the C library gives an address once per socket type no more: each is there once.
    Ok((host, port).to_socket_addrs().with_context(|| format!("can't resolve {host}"))?.collect())
}

fn took(answer: traffic::Answer) -> String {
    format!("{}\n", answer.took.as_millis())
}

fn number<T: FromStr>(word: &str) -> Result<T> {
    word.parse().ok().with_context(|| format!("{word} is no number that fits here"))
}
