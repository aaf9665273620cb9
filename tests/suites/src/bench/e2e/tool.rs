//! The measuring tools, wrk and iperf3: how they are called, and what their output says.
//!
//! Every way is measured by the same words from its own client's network namespace. Reading the output is pure and tested on texts the
//! tools printed. Invariant: a run in which the tool saw an error, a lost connection or a bad status is no reading.

use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Output, run_command};

/// Connections that wrk keeps busy, over all its threads.
const CONNECTIONS: u32 = 32;
/// Threads of wrk: one for each backend, so that the way without balancing uses both too.
const THREADS: usize = 2;
/// Payload of a UDP datagram: fits below a tunnel's MTU.
const DATAGRAM: u32 = 1_200;
/// Beyond the time that a tool was told to take.
const GRACE: Duration = Duration::from_secs(15);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes of one TCP connection.
    Stream,
    /// Bytes of eight.
    Streams,
    /// Requests on kept connections.
    Requests,
    /// A connection for each request.
    Connections,
    /// Datagrams that arrive.
    Datagrams,
}

/// What one run showed. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Gbit/s, requests/s or datagrams/s.
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    /// Busy time of all CPUs, kernel and programs, for one request or datagram, or for one gigabit.
    pub cpu_us: f64,
}

/// Where a client stands and whom it calls.
#[derive(Clone, Debug)]
pub struct Call {
    /// The client's network namespace: a name below /run/netns, or /proc/PID/ns/net.
    pub namespace: PathBuf,
    /// Web servers. Without balancing it is each of them, else one address twice is the same as once.
    pub web: Vec<SocketAddrV4>,
    /// The iperf3 server; datagrams go there too.
    pub stream: SocketAddrV4,
}

impl Call {
    /// A program that starts in the client's namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display())).arg(program);
        command
    }

    /// One run of about `seconds`; `folder` is for wrk's script.
    pub fn measure(&self, kind: Kind, seconds: u32, folder: &Path) -> Result<Reading> {
        let limit = Duration::from_secs(u64::from(seconds)) + GRACE;
        let command = match kind {
            Kind::Requests | Kind::Connections => self.wrk(kind, seconds, folder)?,
            Kind::Stream | Kind::Streams | Kind::Datagrams => self.iperf3(kind, seconds),
        };
        let before = busy_us(&std::fs::read_to_string("/proc/stat")?)?;
        let output = run_command(command, "", limit)?;
        let busy = busy_us(&std::fs::read_to_string("/proc/stat")?)? - before;
        let (mut reading, work) = read(kind, &output).with_context(|| output.describe())?;
        reading.cpu_us = busy / work;
        Ok(reading)
    }

    fn wrk(&self, kind: Kind, seconds: u32, folder: &Path) -> Result<Command> {
        let script = folder.join("wrk.lua");
        std::fs::write(&script, lua(&self.web)).with_context(|| format!("writing {}", script.display()))?;
        let mut command = self.command("wrk");
        command.args([format!("-t{THREADS}"), format!("-c{CONNECTIONS}"), format!("-d{seconds}s")]);
        command.arg("--script").arg(script);
        if kind == Kind::Connections {
            command.args(["--header", "Connection: close"]);
        }
        command.arg(format!("http://{}/", self.web.first().context("a way has a web server")?));
        Ok(command)
    }

    fn iperf3(&self, kind: Kind, seconds: u32) -> Command {
        let mut command = self.command("iperf3");
        command.args(["--client", &self.stream.ip().to_string(), "--port", &self.stream.port().to_string()]);
        command.args(["--json", "--time", &seconds.to_string()]);
        match kind {
            Kind::Streams => drop(command.args(["--parallel", "8"])),
            Kind::Datagrams => drop(command.args(["--udp", "--bitrate", "0", "--length", &DATAGRAM.to_string()])),
            _ => {}
        }
        command
    }
}

/// What the tool said, and how much work it did (see [`Reading::cpu_us`]).
fn read(kind: Kind, output: &Output) -> Result<(Reading, f64)> {
    ensure!(output.success(), "it failed");
    match kind {
        Kind::Requests | Kind::Connections => requests(&output.stdout),
        Kind::Stream | Kind::Streams => stream(&output.stdout),
        Kind::Datagrams => datagrams(&output.stdout),
    }
}

/// A script for wrk: threads take the servers in turn, and the end is one line of numbers. It has nothing to do a request.
fn lua(web: &[SocketAddrV4]) -> String {
    let mut text = "local servers = {\n".to_owned();
    for server in web {
        let _ = writeln!(text, "  {{\"{}\", {}}},", server.ip(), server.port());
    }
    text + "}
local count = 0
function setup(thread)
  local server = servers[count % #servers + 1]
  count = count + 1
  thread.addr = wrk.lookup(server[1], server[2])[1]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('mesh-bench requests=%d us=%d connect=%d read=%d write=%d status=%d timeout=%d p50=%d p99=%d p999=%d\\n',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"
}

/// The line of our script in what wrk printed.
fn requests(text: &str) -> Result<(Reading, f64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("mesh-bench ")).context("wrk printed no result")?;
    let number = |key: &str| -> Result<f64> {
        let word = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        word.and_then(|word| word.parse().ok()).with_context(|| format!("wrk's result has no {key}: {line}"))
    };
    for error in ["connect", "read", "write", "status", "timeout"] {
        ensure!(number(error)? == 0.0, "wrk saw errors: {line}");
    }
    let (count, us) = (number("requests")?, number("us")?);
    ensure!(count > 0.0 && us > 0.0, "wrk did nothing: {line}");
    let reading = Reading {
        rate: count / us * 1e6,
        p50_us: number("p50")?,
        p99_us: number("p99")?,
        p999_us: number("p999")?,
        cpu_us: 0.0,
    };
    Ok((reading, count))
}

/// What the receiver got, of iperf3's JSON.
fn stream(text: &str) -> Result<(Reading, f64)> {
    let json = iperf3_json(text)?;
    let received = &json["end"]["sum_received"];
    let number = |key: &str| received[key].as_f64().with_context(|| format!("iperf3's sum_received has no {key}"));
    let (bits, seconds) = (number("bytes")? * 8.0, number("seconds")?);
    ensure!(bits > 0.0 && seconds > 0.0, "iperf3 moved nothing");
    Ok((Reading { rate: bits / seconds / 1e9, ..Reading::default() }, bits / 1e9))
}

/// Datagrams that the receiver counted.
fn datagrams(text: &str) -> Result<(Reading, f64)> {
    let json = iperf3_json(text)?;
    let sum = &json["end"]["sum"];
    let number = |key: &str| sum[key].as_f64().with_context(|| format!("iperf3's sum has no {key}"));
    let (arrived, seconds) = (number("packets")? - number("lost_packets")?, number("seconds")?);
    ensure!(arrived > 0.0 && seconds > 0.0, "no datagram arrived");
    Ok((Reading { rate: arrived / seconds, ..Reading::default() }, arrived))
}

fn iperf3_json(text: &str) -> Result<serde_json::Value> {
    let json: serde_json::Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    ensure!(json["error"].is_null(), "iperf3: {}", json["error"]);
    Ok(json)
}

/// Busy time of all CPUs since boot, of /proc/stat: all but idle, iowait and stolen time (proc(5)).
fn busy_us(stat: &str) -> Result<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).context("/proc/stat has no line of all CPUs")?;
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(ticks.len() >= 8, "/proc/stat has too few columns: {line}");
    // user, nice, system, irq, softirq; guest time is in user already. A tick is 1/100 s on every architecture.
    Ok([0, 1, 2, 5, 6].map(|column| ticks[column]).iter().sum::<f64>() * 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 1s test @ http://172.20.1.2:80/
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   430.10us  212.31us   4.30ms   77.39%
    Req/Sec    36.10k     2.22k   40.85k    63.64%
  79001 requests in 1.10s, 21.85MB read
Requests/sec:  71883.11
Transfer/sec:     19.88MB
mesh-bench requests=79001 us=1099020 connect=0 read=0 write=0 status=0 timeout=0 p50=401 p99=1120 p999=2210
";

    #[test]
    fn wrks_line_is_read() {
        let (reading, work) = requests(WRK).unwrap();
        assert_eq!((reading.rate.round(), work), (71_883.0, 79_001.0));
        assert_eq!((reading.p50_us, reading.p99_us, reading.p999_us), (401.0, 1_120.0, 2_210.0));
    }

    #[test]
    fn a_run_with_errors_is_no_reading() {
        for error in ["connect", "read", "write", "status", "timeout"] {
            let text = WRK.replace(&format!(" {error}=0"), &format!(" {error}=3"));
            assert!(requests(&text).unwrap_err().to_string().contains("errors"), "{error}");
        }
        assert!(requests("Running 1s test").is_err());
    }

    #[test]
    fn iperf3_is_read_at_the_receiver() {
        let text = r#"{"end": {"sum_sent": {"seconds": 1.0, "bytes": 2000000000},
            "sum_received": {"seconds": 1.0, "bytes": 1000000000}}}"#;
        let (reading, work) = stream(text).unwrap();
        assert_eq!((reading.rate, work), (8.0, 8.0));
        let error = stream(r#"{"start": {}, "error": "unable to connect to server: Connection refused"}"#).unwrap_err();
        assert!(error.to_string().contains("Connection refused"), "{error}");
    }

    #[test]
    fn lost_datagrams_do_not_count() {
        let text = r#"{"end": {"sum": {"seconds": 2.0, "packets": 1000, "lost_packets": 400, "lost_percent": 40}}}"#;
        let (reading, work) = datagrams(text).unwrap();
        assert_eq!((reading.rate, work), (300.0, 600.0));
    }

    #[test]
    fn busy_is_all_but_idle_waiting_and_stolen() {
        let stat = "cpu  100 20 300 5000 70 8 90 11 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
        assert_eq!(busy_us(stat).unwrap(), 5_180_000.0);
        assert!(busy_us("intr 5\n").is_err());
    }

    #[test]
    fn threads_share_the_servers() {
        let web = ["172.20.1.2:80", "172.20.2.2:80"].map(|server| server.parse().unwrap());
        let text = lua(&web);
        assert!(text.starts_with("local servers = {\n  {\"172.20.1.2\", 80},\n  {\"172.20.2.2\", 80},\n}\n"), "{text}");
    }
}
