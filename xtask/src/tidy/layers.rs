//! Which room of mesh-userspace may name which: imports go down only, and what must not happen in a pure room.
//!
//! The table below is the picture in docs/architecture.md; a change here is a change there.

use super::source::{self, Path};
use super::{Finding, SourceFile};

/// A module of mesh-userspace that has a place in the layers.
struct Room {
    /// Below the crate; the longest that fits a module is its room.
    module: &'static str,
    layer: u8,
    /// No clock, no socket, no file, no await: its tests need nothing but values.
    pure: bool,
}

const fn pure(module: &'static str, layer: u8) -> Room {
    Room { module, layer, pure: true }
}

const fn edge(module: &'static str, layer: u8) -> Room {
    Room { module, layer, pure: false }
}

/// Rooms of one layer don't know each other.
const ROOMS: [Room; 17] = [
    pure("model", 0),
    pure("manifest", 1),
    pure("leader", 1),
    pure("dns::zone", 1),
    pure("doctor", 1),
    pure("explain", 1),
    pure("plan", 2),
    edge("store", 3),
    edge("membership", 3),
    edge("runtime", 3),
    edge("kernel", 3),
    edge("kernel::bpf", 3),
    edge("kernel::net", 3),
    edge("dns", 3),
    edge("api", 4),
    edge("agent", 5),
    edge("cli", 5),
];

/// Downward imports that are refused all the same: from, to, why.
const REFUSED: [(&str, &str, &str); 2] = [
    ("cli", "api::server", "the command line is a client: it speaks through api::client"),
    ("store", "leader", "the store keeps facts; what a change is lives in model"),
];

/// Crates that one room alone may name: crate prefix, room, why.
const RESERVED: [(&str, &str, &str); 4] = [
    ("aya", "kernel::bpf", "only it loads and writes to the kernel's BPF objects"),
    ("aya_log", "kernel::bpf", "only it loads and writes to the kernel's BPF objects"),
    ("rtnetlink", "kernel::net", "only it speaks netlink"),
    ("netlink_packet_route", "kernel::net", "only it speaks netlink"),
];

/// What a pure room may not name, and what it does instead.
const IMPURE: [(&str, &str); 15] = [
    ("tokio", "leave waiting to an edge"),
    ("libc", "leave system calls to an edge"),
    ("nix", "leave system calls to an edge"),
    ("std::fs", "take the text as an argument"),
    ("std::env", "take the variables as an argument"),
    ("std::io::stdin", "take the text as an argument"),
    ("std::process", "leave processes to an edge"),
    ("std::thread", "leave threads to an edge"),
    ("std::net::TcpListener", "leave sockets to an edge"),
    ("std::net::TcpStream", "leave sockets to an edge"),
    ("std::net::UdpSocket", "leave sockets to an edge"),
    ("std::os::unix::net", "leave sockets to an edge"),
    ("std::time::SystemTime", "take `now` as an argument"),
    ("rand::rng", "take the random source as an argument"),
    ("rand::random", "take the random source as an argument"),
];

/// The crate whose layers these are, below the clone.
const CRATE: &str = "mesh-userspace/src/";

pub fn check(file: &SourceFile) -> Vec<Finding> {
    let Some(inside) = file.path.strip_prefix(CRATE) else { return Vec::new() };
    let module = module_of(inside);
    let Some(room) = room_of(&module) else {
        // The crate's root wires rooms and main.rs starts them.
        return match module.first() {
            None => Vec::new(),
            Some(name) => vec![file.finding(
                1,
                format!("`{name}` is no room of the house: give it a layer in xtask/src/tidy/layers.rs and a line in docs/architecture.md"),
            )],
        };
    };
    source::paths(&file.text).iter().filter_map(|path| judge(file, room, &module, path)).collect()
}

/// What is wrong with one path in this room, if anything.
fn judge(file: &SourceFile, room: &Room, module: &[String], path: &Path) -> Option<Finding> {
    let written = path.segments.join("::");
    let found = |what: String| Some(file.finding(path.line, what));
    if let Some(target) = resolve(module, path) {
        let other = room_of(&target)?;
        let target = target.join("::");
        for (from, to, why) in REFUSED {
            // A test may put the other side up against itself.
            let is_test = (file.path.ends_with("/tests.rs") || file.path.contains("/tests/")) && room.module == "cli";
            if !is_test && below(room.module, from) && below(&target, to) {
                return found(format!("{from} imports `{target}`: {why}"));
            }
        }
        let outward = other.module != room.module && !family(room, other) && other.layer >= room.layer;
        return if outward {
            let direction = if other.layer == room.layer { "sideways" } else { "upward" };
            found(format!(
                "{direction} import: {} (layer {}) names `{target}` of {} (layer {}); move what both need down, or hand it in from above",
                room.module, room.layer, other.module, other.layer
            ))
        } else {
            None
        };
    }
    for (name, owner, why) in RESERVED {
        if path.segments[0] == name && path.segments.len() > 1 && !below(room.module, owner) {
            return found(format!("`{written}` outside {owner}: {why}"));
        }
    }
    if !room.pure || file.test || path.scope.test {
        return None;
    }
    for (name, instead) in IMPURE {
        if below(&written, name) && (name.contains("::") || path.segments.len() > 1) {
            return found(format!("{} is pure and names `{written}`: {instead}", room.module));
        }
    }
    if matches!(written.as_str(), "async" | "await") {
        return found(format!("{} is pure and waits (`{written}`): leave waiting to an edge", room.module));
    }
    let clock = path.segments.windows(2).any(|pair| pair == ["Instant", "now"]) || path.segments[0] == "SystemTime";
    clock.then(|| {
        file.finding(
            path.line,
            format!("{} is pure and reads a clock (`{written}`): take `now` as an argument", room.module),
        )
    })
}

/// A room and the room it is inside of, other than the pure part of an edge, are one household.
fn family(a: &Room, b: &Room) -> bool {
    a.layer == b.layer && (below(a.module, b.module) || below(b.module, a.module))
}

/// The module a path leads to, for paths inside the crate.
fn resolve(module: &[String], path: &Path) -> Option<Vec<String>> {
    let mut base: Vec<String> = module.iter().chain(&path.scope.modules).cloned().collect();
    let mut rest = path.segments.as_slice();
    match rest.first()?.as_str() {
        "crate" | "mesh_userspace" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    base.extend(rest.iter().filter(|segment| !matches!(segment.as_str(), "self" | "*")).cloned());
    Some(base)
}

/// The module that a file below `src/` is.
fn module_of(inside: &str) -> Vec<String> {
    let mut parts: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn room_of(module: &[String]) -> Option<&'static Room> {
    let module = module.join("::");
    ROOMS.iter().filter(|room| below(&module, room.module)).max_by_key(|room| room.module.len())
}

/// Whether a path is `prefix` or something in it.
fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = SourceFile { path: format!("mesh-userspace/src/{path}"), text: text.to_owned(), test: false };
        check(&file).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn imports_go_down() {
        assert!(findings("agent/mod.rs", "use crate::{api::server, plan, store::Store, model::Node};").is_empty());
        assert!(findings("plan/maps.rs", "use super::net::Links;\nuse crate::dns::zone::Zone;").is_empty());
        assert!(findings("kernel/bpf/mod.rs", "use crate::plan::maps::Image;\nuse aya::Ebpf;").is_empty());
        assert!(findings("dns/server.rs", "use super::zone::Zone;").is_empty());
    }

    #[test]
    fn an_upward_import_is_found_where_it_stands() {
        let found = findings("leader/command/mod.rs", "//! x\nuse crate::{\n    model::Node,\n    store::Store,\n};");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("mesh-userspace/src/leader/command/mod.rs:4: upward import: leader"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn an_upward_path_without_a_use_is_found() {
        assert_eq!(findings("store/mod.rs", "fn f() { crate::api::client::get() }").len(), 1);
        assert_eq!(findings("store/embedded.rs", "fn f() { super::super::agent::run() }").len(), 1);
        assert_eq!(findings("store/mod.rs", "mod inner { use super::super::agent::Agent; }").len(), 1);
    }

    #[test]
    fn edges_do_not_know_each_other() {
        assert!(findings("runtime/exec/mod.rs", "use crate::kernel::net::Veth;")[0].contains("sideways"));
        assert!(findings("kernel/bpf/mod.rs", "use crate::kernel::net::Veth;")[0].contains("sideways"));
        assert!(findings("kernel/mod.rs", "pub use self::net::Veth;").is_empty());
        assert!(findings("dns/zone.rs", "use super::server::Server;")[0].contains("upward"));
    }

    #[test]
    fn the_command_line_does_not_know_the_server() {
        let text = "use crate::api::{client, server::Router};";
        assert_eq!(findings("cli/mod.rs", text).len(), 1);
        for test in ["cli/tests.rs", "cli/tests/mod.rs"] {
            assert!(findings(test, text).is_empty(), "{test}");
        }
    }

    #[test]
    fn one_room_alone_names_aya_and_one_netlink() {
        assert_eq!(findings("agent/mod.rs", "use aya::Ebpf;").len(), 1);
        assert_eq!(findings("runtime/mod.rs", "fn f() { rtnetlink::new_connection() }").len(), 1);
        assert!(findings("kernel/net/mod.rs", "use rtnetlink::Handle;").is_empty());
    }

    #[test]
    fn a_pure_room_has_no_clock_no_file_no_socket_no_await() {
        for text in [
            "use std::{collections::BTreeMap, fs};",
            "use tokio::sync::watch;",
            "fn f() { std::time::Instant::now() }",
            "use std::time::Instant; fn f() { Instant::now() }",
            "use std::net::{Ipv4Addr, UdpSocket};",
            "async fn f() {}",
        ] {
            assert_eq!(findings("plan/mod.rs", text).len(), 1, "{text}");
        }
        assert!(findings("leader/mod.rs", "use std::net::Ipv4Addr; use std::time::{Duration, Instant};").is_empty());
        assert!(findings("leader/mod.rs", "#[cfg(test)] mod tests { use std::fs; }").is_empty());
        assert!(findings("store/mod.rs", "use std::fs;").is_empty());
    }

    #[test]
    fn a_new_top_level_module_must_be_given_a_place() {
        assert!(findings("cache/mod.rs", "")[0].contains("no room of the house"));
        assert!(findings("lib.rs", "pub mod cache;").is_empty());
    }
}
