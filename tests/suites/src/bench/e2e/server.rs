//! The servers that every way has alike: nginx with one worker and an answer of 128 bytes, and iperf3.
//!
//! Tasks of ours run these same words. Invariant: a server writes only below the benchmark's own folder, and nginx neither logs a request
//! nor ends a connection that the client keeps.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use mesh_lab::Namespace;

/// Port of the web servers.
pub const WEB: u16 = 80;
/// Port of iperf3.
pub const STREAM: u16 = 5201;

/// What the web servers answer with the address they were called from.
pub const CALLER: &str = "/caller";

const CONFIGURATION: &str = "nginx.conf";

/// Writes nginx's configuration into the benchmark's folder.
pub fn prepare(folder: &Path) -> Result<()> {
    let answer = "x".repeat(127) + "\\n";
    let text = format!(
        "worker_processes 1;
user root;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  server {{
    listen {WEB} backlog=4096;
    location / {{ return 200 \"{answer}\"; }}
    location {CALLER} {{ return 200 \"$remote_addr\"; }}
  }}
}}
"
    );
    let file = folder.join(CONFIGURATION);
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// The web server as a command; `name` is its alone, and may be an expression of the shell.
pub fn web(folder: &Path, name: &str) -> Vec<String> {
    let folder = folder.display();
    let script =
        format!("exec nginx -c {folder}/{CONFIGURATION} -g \"daemon off; pid {folder}/nginx-{name}.pid;\" 2>&1");
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

/// The iperf3 server as a command.
pub fn stream() -> Vec<String> {
    ["iperf3", "--server", "--port", &STREAM.to_string()].map(str::to_owned).to_vec()
}

/// Starts a server in a namespace of the lab, with which it ends.
pub fn start(namespace: &Namespace, words: &[String], folder: &Path) -> Result<()> {
    let log = folder.join(format!("{}.log", namespace.name()));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
    let mut command = namespace.command(&words[0])?;
    command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A session of its own, as every task of ours and of Docker's has: the scheduler shares the CPUs among sessions first (autogroup, sched(7)),
    // and a server in the client's own is woken at other moments. And Ctrl-C ends the benchmark, which ends its servers in order.
    // SAFETY: setsid(2) may be called between fork and exec.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            nix::unistd::setsid().map(drop).map_err(Into::into)
        });
    }
    let mut child = command.spawn().with_context(|| format!("starting {}: is it installed?", words[0]))?;
    // Reaped as soon as it ends; it is found by its namespace when the lab is taken down.
    std::thread::spawn(move || child.wait());
    Ok(())
}
