//! What was there when a scenario failed, in one folder: logs, devices, routes, maps, captures, and how to look inside.
//!
//! Best effort throughout: a tool that is missing costs its file, never the rest. The folder lies in the build's own
//! `lab-failures` (or MESH_LAB_FAILURES), so that CI can keep it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::command;
use crate::host::Host;
use crate::lab::Lab;
use crate::node::Node;
use crate::{binaries, process};

const LIMIT: Duration = Duration::from_secs(10);
/// A log or state file above this is cut; nobody reads more.
const FILE_LIMIT: u64 = 4 << 20;

impl Lab {
    /// Writes everything that helps to understand a failure; gives the folder.
    pub fn save_failure(&self, reason: &str) -> Result<PathBuf> {
        let parent = std::env::var_os("MESH_LAB_FAILURES");
        let parent = parent.map_or_else(|| binaries::build_dir().join("lab-failures"), PathBuf::from);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let folder = parent.join(format!("{now}-{}", self.id()));
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        fs::write(folder.join("README.txt"), self.directions(reason))?;
        for host in self.hosts() {
            write(&folder, &format!("{}-network.txt", host.name()), &network_of(host));
        }
        for node in self.nodes() {
            write(&folder, &format!("{}-agent.log", node.name()), &node.log());
            write(&folder, &format!("{}-mesh.txt", node.name()), &views_of(node));
            if node.engine().is_running() {
                write(&folder, &format!("{}-docker.log", node.name()), &node.engine().log());
                write(&folder, &format!("{}-containers.txt", node.name()), &containers_of(node));
            }
            write(&folder, &format!("{}-processes.txt", node.name()), &processes_of(node));
            write(&folder, &format!("{}-maps.txt", node.name()), &maps_of(node));
            copy_tree(&node.state_dir().join("tasks"), &folder.join(format!("{}-tasks", node.name())));
        }
        copy_tree(&self.dir().join("captures"), &folder.join("captures"));
        Ok(folder)
    }

    fn directions(&self, reason: &str) -> String {
        let mut text = format!("{reason}\n\nWhile the lab is up (`MESH_LAB_KEEP=1` keeps it after a failure):\n");
        for host in self.hosts() {
            let _ = writeln!(text, "  {:8} {:16} {}", host.name(), host.address(), host.namespace().nsenter());
        }
        for node in self.nodes() {
            let _ = writeln!(text, "  mesh on {}: MESH_SOCKET={} mesh status", node.name(), node.socket().display());
        }
        text
    }
}

fn network_of(host: &Host) -> String {
    let views: [&[&str]; 8] = [
        &["ip", "-d", "-s", "link"],
        &["ip", "address"],
        &["ip", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "rule"],
        &["ip", "neighbour"],
        &["ss", "-tuanp"],
        &["nstat", "-az"],
    ];
    views.map(|words| shown(host, words)).join("\n")
}

fn views_of(node: &Node) -> String {
    let views: [&[&str]; 6] =
        [&["status"], &["node", "ls"], &["network", "ls"], &["service", "ls"], &["ps"], &["doctor"]];
    let mut text = String::new();
    for words in views {
        let output = node.mesh_command(words).and_then(|command| command::run(command, "", LIMIT));
        let _ = writeln!(text, "{}\n", output.map_or_else(|error| format!("{error:#}"), |output| output.describe()));
    }
    text
}

fn containers_of(node: &Node) -> String {
    let names = node.engine().containers().unwrap_or_default();
    let mut text = format!("{names:#?}\n");
    for name in &names {
        for words in [["logs", name.as_str()], ["inspect", name.as_str()]] {
            let output =
                node.engine().docker(words).map_or_else(|error| format!("{error:#}"), |output| output.describe());
            let _ = writeln!(text, "{output}\n");
        }
    }
    text
}

fn processes_of(node: &Node) -> String {
    let found = process::belonging_to(node.dir(), std::slice::from_ref(node.namespace()));
    found.iter().map(|process| format!("{:7} {:40} {}\n", process.pid, process.cgroup, process.command)).collect()
}

fn maps_of(node: &Node) -> String {
    let mut text = String::new();
    for pin in files_below(node.bpf_dir()) {
        let shown_pin = pin.display().to_string();
        // Only maps can be dumped; for programs and links bpftool says what they are instead.
        for words in
            [["bpftool", "map", "dump", "pinned", &shown_pin], ["bpftool", "link", "show", "pinned", &shown_pin]]
        {
            let output = node.command(words[0]).and_then(|mut command| {
                command.args(&words[1..]);
                command::run(command, "", LIMIT)
            });
            if let Ok(output) = output.as_ref()
                && output.success()
            {
                let _ = writeln!(text, "== {shown_pin}\n{}", output.stdout);
                break;
            }
        }
    }
    text
}

fn shown(host: &Host, words: &[&str]) -> String {
    let output = host.command(words[0]).and_then(|mut command| {
        command.args(&words[1..]);
        command::run(command, "", LIMIT)
    });
    let text = output.map_or_else(|error| format!("{error:#}"), |output| output.stdout + &output.stderr);
    format!("$ {}\n{text}", words.join(" "))
}

pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
    found.sort();
    found
}

fn copy_tree(from: &Path, to: &Path) {
    for file in files_below(from) {
        let small = fs::symlink_metadata(&file).is_ok_and(|data| data.is_file() && data.len() < FILE_LIMIT);
        let Some(target) = file.strip_prefix(from).ok().map(|rest| to.join(rest)).filter(|_| small) else { continue };
        let made = target.parent().map_or(Ok(()), fs::create_dir_all);
        // Best effort, as everything here.
        let _ = made.and_then(|()| fs::copy(&file, &target));
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    if let Err(error) = fs::write(folder.join(name), text) {
        eprintln!("lab: can't write {name}: {error}");
    }
}
