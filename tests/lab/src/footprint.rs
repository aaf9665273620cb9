//! The traces a node leaves in the kernel, as comparable lines: "nothing is left" is an empty difference.
//!
//! Taken before the agent first starts and after `mesh purge`. Lines name the kind of thing, so that a difference reads as a sentence:
//! `+ link mesh0 …`. What changes by itself (counters, ages, generated keys) is left out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::eventually::eventually;
use crate::failure::files_below;
use crate::namespace;
use crate::node::Node;
use crate::process;
use crate::teardown::cgroup_root;

/// What is there of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    lines: BTreeSet<String>,
}

/// What came and what went between two footprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers {
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Leftovers {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.added.iter().try_for_each(|line| writeln!(f, "+ {line}"))?;
        self.removed.iter().try_for_each(|line| writeln!(f, "- {line}"))
    }
}

impl Footprint {
    /// Links, addresses, routes, rules, queueing disciplines, sockets and sysctls of the node's namespace; pins, named
    /// namespaces and cgroups of the machine that mesh may have made; processes of the node.
    pub fn of(node: &Node) -> Result<Footprint> {
        let mut lines = BTreeSet::new();
        for (kind, words) in [
            ("link", &["-o", "link"][..]),
            ("address", &["-o", "address"]),
            ("route", &["route", "show", "table", "all"]),
            ("route", &["-6", "route", "show", "table", "all"]),
            ("rule", &["rule"]),
            ("rule", &["-6", "rule"]),
            ("neighbour", &["neighbour", "show", "nud", "permanent"]),
        ] {
            let text = node.namespace().ip_show(words)?.ok()?;
            lines.extend(text.lines().map(|line| format!("{kind} {}", lasting(line))));
        }
        // What carries filters; others come and go with their links.
        let disciplines = node.run(["tc", "qdisc", "show"])?.ok()?;
        let carriers = disciplines.lines().filter(|line| line.contains("clsact") || line.contains("ingress"));
        lines.extend(carriers.map(|line| format!("queueing discipline {}", line.trim())));
        lines.extend(node.run_inside(sockets_and_sysctls)?);
        lines.extend(files_below(node.bpf_dir()).iter().map(|pin| format!("pin {}", pin.display())));
        lines.extend(node.bpf_dir().exists().then(|| format!("pin directory {}", node.bpf_dir().display())));
        lines.extend(namespaces().map(|name| format!("namespace {name}")));
        lines.extend(cgroups().into_iter().map(|path| format!("cgroup {path}")));
        let processes = process::belonging_to(node.dir(), std::slice::from_ref(node.namespace()));
        lines.extend(processes.into_iter().map(|process| format!("process {} {}", process.pid, process.command)));
        Ok(Footprint { lines })
    }

    /// The footprint once it no longer changes by itself: a namespace that was just built takes a moment.
    pub fn settled(node: &Node) -> Result<Footprint> {
        let mut last = Footprint::of(node)?;
        eventually(Duration::from_secs(10), "a footprint that does not change", || {
            let before = std::mem::replace(&mut last, Footprint::of(node)?);
            let change = last.since(&before);
            ensure!(change.is_empty(), "{change}");
            Ok(last.clone())
        })
    }

    /// What is there now and was not before, and the reverse.
    pub fn since(&self, before: &Footprint) -> Leftovers {
        let minus = |a: &Footprint, b: &Footprint| a.lines.difference(&b.lines).cloned().collect();
        Leftovers { added: minus(self, before), removed: minus(before, self) }
    }
}

/// A line of `ip` without what changes by itself.
fn lasting(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().filter(|word| *word != "\\").collect();
    for changing in ["expires", "valid_lft", "preferred_lft"] {
        if let Some(place) = words.iter().position(|word| *word == changing) {
            words.drain(place..(place + 2).min(words.len()));
        }
    }
    words.join(" ")
}

/// Of the calling thread's namespace.
fn sockets_and_sysctls() -> Vec<String> {
    let mut lines = Vec::new();
    for (protocol, listening) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07"), ("raw", "07")] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{protocol}")).unwrap_or_default();
        let bound = text.lines().skip(1).filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.get(3)? == &listening).then(|| format!("socket {protocol} {}", words[1]))
        });
        lines.extend(bound);
    }
    for tree in ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6", "/proc/sys/net/core"] {
        for file in files_below(Path::new(tree)) {
            let name = file.display().to_string();
            // Keys made on first use, and files that are there to be written only.
            if ["stable_secret", "fastopen_key", "/flush"].iter().any(|part| name.contains(part)) {
                continue;
            }
            if let Ok(value) = fs::read_to_string(&file) {
                lines.push(format!("sysctl {name} = {}", value.trim_end()));
            }
        }
    }
    lines
}

/// Named namespaces other than labs' own.
fn namespaces() -> impl Iterator<Item = String> {
    let entries = fs::read_dir(namespace::DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with(crate::wiring::PREFIX))
}

/// Cgroups that bear mesh's name.
fn cgroups() -> Vec<String> {
    fn below(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.to_string_lossy().contains("mesh") {
                    found.push(path.display().to_string());
                }
                below(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    if let Some(root) = cgroup_root() {
        below(&root, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(lines: &[&str]) -> Footprint {
        Footprint { lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn a_difference_reads_as_what_came_and_went() {
        let before = footprint(&["link lo", "route default"]);
        let left = footprint(&["link lo", "link mesh0"]).since(&before);
        assert_eq!(left.to_string(), "+ link mesh0\n- route default\n");
        assert!(before.since(&before).is_empty());
    }

    #[test]
    fn ages_are_left_out() {
        assert_eq!(
            lasting("fe80::/64 dev eth0 proto kernel expires 30sec pref medium"),
            "fe80::/64 dev eth0 proto kernel pref medium"
        );
    }
}
