//! whoami: the test server that says which task answered and who asked.
//!
//! ```text
//! whoami [--port 8000] [--bind ADDR]
//! GET /          I'm <hostname>
//!                from <caller's address>:<port>
//! GET /bytes/N   N bytes of the pattern 0, 1, … 250, 0, 1, …
//! POST, PUT      the two lines, then `received N bytes` and `fnv1a <16 hex digits>` of the body
//! UDP            the two lines, as one datagram; but
//!   echo…        comes back as it is
//!   burst N SIZE N datagrams of SIZE bytes, handed to the kernel as one packet (UDP_SEGMENT, udp(7)): each its number in four bytes, big
//!                endian, then the pattern
//! ```
//! It stands behind published ports and VIPs in every scenario, so it does nothing clever: it binds the wildcard address, never
//! chooses a source address, and a datagram's answer leaves as the kernel routes it, as with most servers.
//! It must not import anything of mesh, nor log on the request path.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;

/// Longest request line or header we read; a longer one ends the connection.
const LINE_LIMIT: u64 = 16 * 1024;

fn main() -> ExitCode {
    let (bind, port) = match arguments(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(message) => {
            eprintln!("whoami: {message}\nusage: whoami [--port 8000] [--bind ADDR]");
            return ExitCode::from(2);
        }
    };
    end_at_sigterm();
    match open(bind, port) {
        Ok((tcp, udp)) => {
            eprintln!("whoami: listening on TCP and UDP {}", tcp.local_addr().map_or(port, |address| address.port()));
            thread::spawn(move || answer_datagrams(&udp));
            accept_forever(&tcp);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("whoami: can't listen on port {port}: {error}; choose another one with --port");
            ExitCode::FAILURE
        }
    }
}

/// The first process of a PID namespace ignores SIGTERM unless it has a handler: without one, stopping a task would take the
/// whole grace period.
fn end_at_sigterm() {
    extern "C" fn end(_signal: libc::c_int) {
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the handler only calls an async-signal-safe function.
    unsafe { libc::signal(libc::SIGTERM, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<(Option<IpAddr>, u16), String> {
    let (mut bind, mut port) = (None, 8000);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--port" => port = value()?.parse().map_err(|_| "--port is a number from 0 to 65535".to_owned())?,
            "--bind" => bind = Some(value()?.parse().map_err(|_| "--bind is an IP address".to_owned())?),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok((bind, port))
}

/// Both sockets on one port: on `::` where IPv6 is on (it takes IPv4 callers too), else on `0.0.0.0`.
fn open(bind: Option<IpAddr>, port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let both = |address: IpAddr| {
        let tcp = TcpListener::bind((address, port))?;
        let udp = UdpSocket::bind((address, tcp.local_addr()?.port()))?;
        Ok((tcp, udp))
    };
    match bind {
        Some(address) => both(address),
        None => both(Ipv6Addr::UNSPECIFIED.into()).or_else(|_: io::Error| both(Ipv4Addr::UNSPECIFIED.into())),
    }
}

/// A v4-mapped caller as the plain IPv4 address it is.
fn plain(caller: SocketAddr) -> SocketAddr {
    SocketAddr::new(caller.ip().to_canonical(), caller.port())
}

/// The two lines that every answer begins with.
fn introduction(caller: SocketAddr) -> String {
    // Read each time: the name belongs to the UTS namespace we are in, and a test may look before and after a change.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".into());
    format!("I'm {}\nfrom {}\n", name.trim_end(), plain(caller))
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut request = vec![0; 1 << 16];
    loop {
        // An error here is an ICMP answer to an earlier datagram of ours: nobody waits for it any more.
        if let Ok((size, caller)) = socket.recv_from(&mut request) {
            let _ = answer_datagram(socket, &request[..size], caller);
        }
    }
}

fn answer_datagram(socket: &UdpSocket, request: &[u8], caller: SocketAddr) -> io::Result<usize> {
    if request.starts_with(b"echo") {
        return socket.send_to(request, caller);
    }
    let words = std::str::from_utf8(request).unwrap_or_default().strip_prefix("burst ");
    let numbers = words.and_then(|words| words.trim().split_once(' '));
    match numbers.map(|(count, size)| (count.parse::<u32>(), size.parse::<u16>())) {
        Some((Ok(count), Ok(size))) => send_burst(socket, count, size, caller),
        _ => socket.send_to(introduction(caller).as_bytes(), caller),
    }
}

/// So many datagrams of one size in one call, for the kernel or a device to cut.
fn send_burst(socket: &UdpSocket, count: u32, size: u16, caller: SocketAddr) -> io::Result<usize> {
    let datagram = |n: u32| n.to_be_bytes().into_iter().chain((0..251u8).cycle()).take(usize::from(size));
    let all: Vec<u8> = (0..count).flat_map(datagram).collect();
    cut_at(socket, size)?;
    let sent = socket.send_to(&all, caller);
    cut_at(socket, 0)?;
    sent
}

/// What is sent from now on is cut into datagrams of this size; 0: as it is.
fn cut_at(socket: &UdpSocket, size: u16) -> io::Result<()> {
    let size = libc::c_int::from(size);
    // SAFETY: the kernel reads one int behind the pointer, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn accept_forever(listener: &TcpListener) {
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        // A caller that goes away in mid-answer concerns its own thread only.
        thread::spawn(move || serve(&connection));
    }
}

/// Requests of one connection, one after the other, until either side wants to end.
fn serve(connection: &TcpStream) -> io::Result<()> {
    let caller = connection.peer_addr()?;
    connection.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, connection);
    while let Some(request) = Request::read(&mut reader)? {
        if request.expects_continue {
            (&mut &*connection).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = request.drain_body(&mut reader)?;
        respond(&mut &*connection, &request, caller, body)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn respond(out: &mut impl Write, request: &Request, caller: SocketAddr, body: Received) -> io::Result<()> {
    let with_body = request.method != "HEAD";
    if let Some(size) = request.path.strip_prefix("/bytes/") {
        let Ok(size) = size.parse::<u64>() else {
            return head_and_text(out, request, "400 Bad Request", "GET /bytes/N: N is a number of bytes\n");
        };
        out.write_all(head(request, "200 OK", "application/octet-stream", size).as_bytes())?;
        return if with_body { write_pattern(out, size) } else { Ok(()) };
    }
    let mut text = introduction(caller);
    if matches!(request.method.as_str(), "POST" | "PUT") {
        text += &format!("received {} bytes\nfnv1a {:016x}\n", body.bytes, body.fnv1a);
    }
    head_and_text(out, request, "200 OK", &text)
}

fn head_and_text(out: &mut impl Write, request: &Request, status: &str, text: &str) -> io::Result<()> {
    let head = head(request, status, "text/plain; charset=utf-8", text.len() as u64);
    let body = if request.method == "HEAD" { "" } else { text };
    // One write, so that a small answer is one segment.
    out.write_all((head + body).as_bytes())
}

fn head(request: &Request, status: &str, kind: &str, length: u64) -> String {
    let connection = if request.close { "close" } else { "keep-alive" };
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n")
}

/// The pattern repeats every 251 bytes (a prime), so a lost or doubled block of any usual size shows.
fn write_pattern(out: &mut impl Write, size: u64) -> io::Result<()> {
    let block: Vec<u8> = (0..251u8).cycle().take(251 * 256).collect();
    let mut left = size;
    while left > 0 {
        let part = left.min(block.len() as u64);
        out.write_all(&block[..part as usize])?;
        left -= part;
    }
    Ok(())
}

/// What came in a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Received {
    bytes: u64,
    fnv1a: u64,
}

impl Received {
    const NOTHING: Received = Received { bytes: 0, fnv1a: 0xcbf2_9ce4_8422_2325 };

    fn take(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        for byte in part {
            self.fnv1a = (self.fnv1a ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The head of a request, as much of it as matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    length: u64,
    chunked: bool,
    close: bool,
    expects_continue: bool,
}

impl Request {
    /// None where the caller ended the connection between two requests.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
        let Some(first) = line(reader)? else { return Ok(None) };
        let mut words = first.split_whitespace();
        let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request line"));
        };
        let mut request = Request { method: method.into(), path: path.into(), ..Request::default() };
        request.close = version == "HTTP/1.0";
        while let Some(header) = line(reader)?.filter(|header| !header.is_empty()) {
            let Some((name, value)) = header.split_once(':') else { continue };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    request.length =
                        value.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                }
                "transfer-encoding" => request.chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" if value.eq_ignore_ascii_case("close") => request.close = true,
                "connection" if value.eq_ignore_ascii_case("keep-alive") => request.close = false,
                "expect" => request.expects_continue = value.eq_ignore_ascii_case("100-continue"),
                _ => {}
            }
        }
        Ok(Some(request))
    }

    fn drain_body(&self, reader: &mut impl BufRead) -> io::Result<Received> {
        let mut received = Received::NOTHING;
        if !self.chunked {
            drain(reader, self.length, &mut received)?;
            return Ok(received);
        }
        loop {
            let size = line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size =
                u64::from_str_radix(digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            drain(reader, size, &mut received)?;
            if size == 0 {
                // Trailers, if any, end with an empty line.
                while line(reader)?.is_some_and(|trailer| !trailer.is_empty()) {}
                return Ok(received);
            }
            line(reader)?;
        }
    }
}

fn drain(reader: &mut impl BufRead, size: u64, received: &mut Received) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let buffered = reader.fill_buf()?;
        if buffered.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let part = buffered.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        received.take(&buffered[..part]);
        reader.consume(part);
        left -= part as u64;
    }
    Ok(())
}

/// One line without its end; None at the end of the stream.
fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if reader.take(LINE_LIMIT).read_line(&mut text)? == 0 {
        return Ok(None);
    }
    if !text.ends_with('\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "line is cut short or too long"));
    }
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(port: u16, request: &[u8]) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.write_all(request).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    fn started() -> u16 {
        let (tcp, udp) = open(None, 0).unwrap();
        let port = tcp.local_addr().unwrap().port();
        thread::spawn(move || answer_datagrams(&udp));
        thread::spawn(move || accept_forever(&tcp));
        port
    }

    #[test]
    fn a_caller_over_ipv4_is_named_as_ipv4_over_tcp_and_udp() {
        let port = started();
        let answer = talk(port, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\n\r\nI'm ") && answer.contains("\nfrom 127.0.0.1:"), "{answer}");

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"?", ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 512];
        let size = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..size]);
        assert!(text.ends_with(&format!("\nfrom {}\n", socket.local_addr().unwrap())), "{text}");
    }

    #[test]
    fn datagrams_come_back_as_they_are_or_in_a_burst() {
        let (port, socket) = (started(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut buffer = [0; 2048];
        let mut ask = |request: &[u8]| {
            socket.send_to(request, ("127.0.0.1", port)).unwrap();
            let size = socket.recv(&mut buffer).unwrap();
            buffer[..size].to_vec()
        };
        assert_eq!(ask(b"echo 1 2 3"), b"echo 1 2 3");
        assert_eq!(ask(b"burst 3 8"), [0, 0, 0, 0, 0, 1, 2, 3]);
        for second in 1..3 {
            let size = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..size], [0, 0, 0, second, 0, 1, 2, 3]);
        }
    }

    #[test]
    fn one_connection_carries_several_requests() {
        let answer = talk(started(), b"GET / HTTP/1.1\r\n\r\nGET /bytes/100 HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n");
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    }

    #[test]
    fn uploads_are_counted_with_a_length_and_in_chunks() {
        let port = started();
        let sized = talk(port, b"POST / HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
        let chunked = talk(
            port,
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        );
        for answer in [sized, chunked] {
            // FNV-1a 64 of "abc", from the published test vectors.
            assert!(answer.ends_with("received 3 bytes\nfnv1a e71fa2190541574b\n"), "{answer}");
        }
    }

    #[test]
    fn arguments_are_checked() {
        let parse = |words: &[&str]| arguments(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(parse(&[]), Ok((None, 8000)));
        assert_eq!(parse(&["--port", "9", "--bind", "::1"]), Ok((Some(Ipv6Addr::LOCALHOST.into()), 9)));
        assert!(parse(&["--port"]).is_err() && parse(&["--port", "x"]).is_err() && parse(&["8000"]).is_err());
    }
}
