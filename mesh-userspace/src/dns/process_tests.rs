//! Agent's end and resolver process together: real processes, sockets and files.
//!
//! The process is this test binary, called through a script that stands in for `mesh`: `child` below is its main.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use hickory_proto::op::ResponseCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getsid};
use tempfile::TempDir;

use super::protocol::{Request, VERSION, write_frame};
use super::run_dir::RunDir;
use super::testing::{Loopback, PORT, UPSTREAM_PORT, resolve, write_resolv_conf};
use super::*;

const CHILD_ARGS: &str = "MESH_TEST_RESOLVER_ARGS";

#[derive(Parser)]
struct Called {
    #[command(flatten)]
    options: ResolverOptions,
}

/// Not a test: what a spawned resolver runs.
#[test]
fn child() {
    let Ok(args) = std::env::var(CHILD_ARGS) else { return };
    let called = Called::parse_from(args.split(' '));
    if let Err(error) = resolver_main(&called.options) {
        eprintln!("Error: {error}");
        std::process::exit(1);
    }
}

struct Lab {
    dir: TempDir,
    net: Loopback,
}

impl Lab {
    fn new() -> Self {
        let lab = Lab { dir: TempDir::new().unwrap(), net: Loopback::claim() };
        write_resolv_conf(&lab.dir.path().join("resolv.conf"), &[lab.net.at(200)]);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        std::fs::write(self.path(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        self.path(name)
    }

    fn handle(&self) -> ResolverHandle {
        let test = std::env::current_exe().unwrap();
        let body = format!("{CHILD_ARGS}=\"$*\" exec {} --exact dns::process_tests::child --nocapture", test.display());
        self.handle_for(self.script("mesh", &body))
    }

    fn handle_for(&self, program: PathBuf) -> ResolverHandle {
        let options = ResolverOptions {
            run_dir: self.dir.path().to_path_buf(),
            port: PORT,
            resolv_conf: self.path("resolv.conf"),
            upstream_port: UPSTREAM_PORT,
        };
        ResolverHandle::new(program, options)
    }

    async fn code(&self, text: &str) -> Option<ResponseCode> {
        Some(resolve(self.net.at(10), self.net.at(1), text).await?.0)
    }
}

/// A test that fails leaves no process behind.
impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(Some(pid)) = RunDir::new(self.dir.path()).owner() {
            let _ended_by_itself = kill(pid, Signal::SIGKILL);
        }
    }
}

fn alive(pid: u32) -> bool {
    // A zombie has no executable any more.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn pushed_adopted_killed_restarted_stopped() {
    let lab = Lab::new();
    let mut first = lab.handle();
    assert_eq!(first.ensure().await.unwrap(), Found::Started);
    let status = first.push(&lab.net.zone(2)).await.unwrap();
    assert_eq!((status.generation, status.version.as_str()), (1, VERSION));
    assert_eq!(status.gateways, [lab.net.at(1).into(), lab.net.at(2).into()].into());
    assert_eq!((status.errors.len(), status.warnings.len()), (0, 0), "{status:?}");
    assert_eq!(status.upstreams, [std::net::IpAddr::from(lab.net.at(200))]);
    assert_eq!(lab.code("web").await, Some(ResponseCode::NoError));
    assert_eq!(first.status().await.unwrap().queries.answered, 1);
    assert_eq!(mode(&lab.path("resolver.sock")), 0o600);
    assert_eq!(mode(&lab.path("resolver-zone.json")), 0o600);

    // A session of its own: no terminal's end is its end.
    let pid = Pid::from_raw(status.pid as i32);
    assert_eq!(getsid(Some(pid)).unwrap(), pid);
    assert_eq!(getpgid(Some(pid)).unwrap(), pid);
    kill(pid, Signal::SIGHUP).unwrap();

    // The agent goes, names stay; the next agent adopts the process and counts on.
    drop(first);
    assert_eq!(lab.code("web").await, Some(ResponseCode::NoError));
    let mut second = lab.handle();
    assert_eq!(second.ensure().await.unwrap(), Found::Adopted);
    let mut zone = lab.net.zone(2);
    zone.networks[0].names.remove("web");
    zone.networks[0].names.insert("new".into(), lab.net.zone(2).networks[0].names["web"].clone());
    let adopted = second.push(&zone).await.unwrap();
    assert_eq!((adopted.pid, adopted.generation), (status.pid, 2));
    assert_eq!(lab.code("new").await, Some(ResponseCode::NoError));

    // Killed and started without an agent: the zone is on disk.
    kill(pid, Signal::SIGKILL).unwrap();
    eventually("the killed resolver is gone", async || !alive(status.pid)).await;
    let mut by_hand = std::process::Command::new(lab.path("mesh"));
    by_hand.arg("resolver").arg("--run-dir").arg(lab.dir.path()).arg("--port").arg(PORT.to_string());
    let mut by_hand = by_hand.stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("names are back without an agent", async || lab.code("new").await == Some(ResponseCode::NoError)).await;

    // The agent's broken connection mends itself, and finds that one.
    let status = second.status().await.unwrap();
    assert_eq!((status.pid, status.generation), (by_hand.id(), 2));
    assert_eq!(status.zone_digest, zone.digest(), "the kept zone is the one that was pushed");

    second.stop().await.unwrap();
    assert!(by_hand.wait().is_ok());
    let left: Vec<OsString> =
        std::fs::read_dir(lab.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.iter().filter(|name| name.to_string_lossy().starts_with("resolver")).count(), 0, "{left:?}");
    assert_eq!(lab.code("new").await, None);
}

#[tokio::test]
async fn a_resolver_that_died_is_started_again() {
    let lab = Lab::new();
    let mut handle = lab.handle();
    let before = handle.push(&lab.net.zone(2)).await.unwrap();
    kill(Pid::from_raw(before.pid as i32), Signal::SIGKILL).unwrap();
    eventually("it is gone", async || !alive(before.pid)).await;
    let after = handle.push(&lab.net.zone(3)).await.unwrap();
    assert_ne!(after.pid, before.pid);
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(lab.code("web").await, Some(ResponseCode::NoError));
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn what_can_not_be_adopted_is_replaced() {
    let lab = Lab::new();
    let mut handle = lab.handle();
    let before = handle.push(&lab.net.zone(2)).await.unwrap();
    // Stopped, it holds the lock and its socket takes connections, but it says nothing; SIGTERM waits until it runs.
    kill(Pid::from_raw(before.pid as i32), Signal::SIGSTOP).unwrap();
    let stat = format!("/proc/{}/stat", before.pid);
    eventually("it is stopped", async || std::fs::read_to_string(&stat).unwrap().contains(") T ")).await;
    drop(handle);
    let mut handle = lab.handle();
    assert_eq!(handle.ensure().await.unwrap(), Found::Started);
    let after = handle.status().await.unwrap();
    assert_ne!(after.pid, before.pid);
    assert_eq!(after.generation, before.generation);
    assert!(!alive(before.pid));
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn two_resolvers_do_not_share_a_run_directory() {
    let lab = Lab::new();
    let mut handle = lab.handle();
    handle.push(&lab.net.zone(2)).await.unwrap();
    let mut second = std::process::Command::new(lab.path("mesh"));
    let output = second.arg("resolver").arg("--run-dir").arg(lab.dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another resolver runs in") && said.contains("mesh purge"), "{said}");
    assert_eq!(lab.code("web").await, Some(ResponseCode::NoError), "the first is not harmed");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn a_resolver_that_does_not_come_up_is_explained() {
    let lab = Lab::new();
    let program = lab.script("broken", "echo no luck today >&2; exit 3");
    let error = lab.handle_for(program).ensure().await.unwrap_err().to_string();
    assert!(error.contains("no luck today") && error.contains("resolver.log"), "{error}");
    let error = lab.handle_for(lab.path("missing")).ensure().await.unwrap_err().to_string();
    assert!(error.contains("missing can't be started"), "{error}");
}

#[tokio::test]
async fn a_forged_or_broken_conversation_harms_nothing() {
    let lab = Lab::new();
    let mut handle = lab.handle();
    handle.push(&lab.net.zone(2)).await.unwrap();
    for bytes in [b"\xff\xff\xff\xff".as_slice(), b"\0\0\0\x02{]", b"\0\0\0\x10{", b""] {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::UnixStream::connect(lab.path("resolver.sock")).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }
    // An agent that dies in the middle of a push.
    let mut push = Vec::new();
    write_frame(&mut push, &Request::Push { generation: 9, zone: Default::default() }).await.unwrap();
    let mut stream = tokio::net::UnixStream::connect(lab.path("resolver.sock")).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &push[..push.len() / 2]).await.unwrap();
    drop(stream);
    assert_eq!(handle.status().await.unwrap().generation, 1);
    assert_eq!(lab.code("web").await, Some(ResponseCode::NoError));

    // A damaged zone on disk: the resolver comes up without names, and takes the next push.
    handle.stop().await.unwrap();
    std::fs::write(lab.path("resolver-zone.json"), b"{\"protocol\":1,").unwrap();
    assert_eq!(handle.status().await.unwrap().generation, 0);
    handle.push(&lab.net.zone(2)).await.unwrap();
    assert_eq!(lab.code("web").await, Some(ResponseCode::NoError));
    handle.stop().await.unwrap();
}
