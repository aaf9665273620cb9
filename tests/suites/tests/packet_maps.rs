//! bpftool is a first-class reader (decision 15): every pinned map that it can dump shows fields by name.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, loaded_programs};
use mesh_common::schema::{LAYOUT_VERSION, program};
use mesh_common::verdict::DropReason;
use mesh_lab::eventually;
use mesh_packet::eth;
use mesh_tests::rig::beside::{Beside, SMALL};
use mesh_tests::rig::{RunOptions, kernel};
use mesh_userspace::kernel::bpf::{Dataplane, FlowSizes};
use serde_json::Value;

/// Structures and the fields that readers rely on, of keys and values; maps of plain numbers have none.
const FIELDS: [(&str, &[&str], &[&str]); 31] = [
    (
        "CONFIG",
        &[],
        &["netns_cookie", "node", "mesh0", "tunnel_addr4", "mesh0_mac", "data_port", "flood_threshold", "mss4"],
    ),
    ("ADDRESSES4", &[], &["node", "ifindex", "flags"]),
    ("ADDRESSES6", &[], &["node", "ifindex", "flags"]),
    ("ENDPOINTS4", &[], &["vni", "number", "node", "ifindex", "gateway", "mac", "kind", "flags"]),
    ("ENDPOINTS6", &[], &["vni", "number", "node", "ifindex", "gateway", "mac", "kind", "flags"]),
    ("FRONTENDS4", &["addr", "port", "protocol"], &["pool", "vni", "turns_at", "vip", "target_port", "algorithm"]),
    ("FRONTENDS6", &["addr", "port", "protocol"], &["pool", "vni", "turns_at", "vip", "target_port", "algorithm"]),
    ("ALLOW4", &["prefix_len", "data"], &[]),
    ("ALLOW6", &["prefix_len", "data"], &[]),
    ("BACKENDS", &[], &["addr6", "addr4", "vni", "pool", "node", "ifindex", "mac", "state"]),
    ("RINGS", &[], &["backend", "node"]),
    ("TURNS", &[], &[]),
    ("AFFINITY4", &["addr", "pool"], &["backend", "last_new_s"]),
    ("AFFINITY6", &["addr", "pool"], &["backend", "last_new_s"]),
    (
        "FLOWS4",
        &["src", "dst", "sport", "dport", "protocol"],
        &["addr", "rewrite", "deliver", "seen", "packets", "bytes"],
    ),
    (
        "FLOWS6",
        &["src", "dst", "sport", "dport", "protocol"],
        &["addr", "rewrite", "deliver", "seen", "packets", "bytes"],
    ),
    ("OVERFLOW6", &["src", "dst", "sport", "dport", "protocol"], &["addr", "rewrite", "deliver", "packets"]),
    ("OVERFLOW4", &["src", "dst", "sport", "dport", "protocol"], &["addr", "rewrite", "deliver", "packets"]),
    ("FRAGMENTS4", &["src", "dst", "from", "id", "protocol"], &["sport", "dport"]),
    ("FRAGMENTS6", &["src", "dst", "from", "id", "protocol"], &["sport", "dport"]),
    ("EARLY", &["src", "dst", "from", "id", "protocol", "place"], &["came_s", "len", "ifindex", "frame"]),
    ("OVERFLOWED", &[], &[]),
    ("FLOODS", &[], &["second", "count", "before", "spilled", "promoted"]),
    ("PEERS", &[], &["addr", "ifindex", "next_hop", "link_mac", "mtu", "flags"]),
    ("UPLINKS", &[], &["addr4", "mac", "addr6"]),
    ("ECHOES", &[], &["answered_ns", "sequence"]),
    ("SOCKETS", &["cookie", "addr", "port"], &["addr", "port"]),
    ("DROPS", &[], &[]),
    ("WATCHED", &[], &["second", "told", "lost"]),
    // A ring buffer has no entries to be dumped.
    ("EVENTS", &[], &[]),
    // Of programs bpftool shows the numbers.
    ("PROGRAMS", &[], &[]),
];

/// A TC program's verdict: dropped (TC_ACT_SHOT of linux/pkt_cls.h).
const SHOT: i32 = 2;

fn bpftool(arguments: &[&str]) -> Value {
    let output = Command::new("bpftool").arg("-j").args(arguments).output().expect("bpftool runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "bpftool {arguments:?}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Puts an entry of zeros into a map that has none: there is nothing to dump in an empty one.
fn put_zeros(path: &str) {
    let shape = bpftool(&["map", "show", "pinned", path]);
    let bytes = |key: &str| vec!["0"; shape[key].as_u64().unwrap() as usize];
    let words = [vec!["map", "update", "pinned", path, "key"], bytes("bytes_key"), vec!["value"], bytes("bytes_value")];
    bpftool(&words.concat());
}

fn has_fields(shown: &Value, names: &[&str]) -> bool {
    names.iter().all(|name| shown.get(name).is_some())
}

#[test]
fn pages_name_this_builds_layout() {
    let page = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let said = format!("**Layout version.** {LAYOUT_VERSION}. ");
    assert!(page("maps.md").contains(&said), "docs/reference/maps.md does not say \"{said}\"");
    let pinned = |text: &str| {
        text.split("/sys/fs/bpf/mesh/v")
            .skip(1)
            .map(|rest| rest.split('/').next() == Some(&LAYOUT_VERSION.to_string()))
            .collect::<Vec<_>>()
    };
    for name in ["maps.md", "drops.md"] {
        let paths = pinned(&page(name));
        assert!(!paths.is_empty() && !paths.contains(&false), "docs/reference/{name} shows pins of another layout");
    }
}

#[test]
fn bpftool_shows_the_fields_of_every_map_by_name() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("maps in bpftool", reason);
    }
    if Command::new("bpftool").arg("version").output().is_err() {
        return mesh_lab::skip("maps in bpftool", "there is no bpftool: apt-get install bpftool");
    }
    let beside = Beside::new("maps");
    let dataplane = beside.open(SMALL).unwrap();
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(dataplane.dir().join("maps")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let path = path.to_string_lossy().into_owned();
        assert!(name.len() <= 15, "{name}: the kernel would cut it");
        let (_, key_fields, value_fields) =
            FIELDS.iter().find(|(known, _, _)| *known == name).unwrap_or_else(|| panic!("{name} is not in the list"));
        if name == "EVENTS" || name == "PROGRAMS" {
            seen.push(name);
            continue;
        }
        let is_array = ["CONFIG", "WATCHED", "FLOODS", "RINGS", "PEERS", "DROPS"].contains(&name.as_str());
        if !is_array {
            put_zeros(&path);
        }
        // RINGS has a million slots: one says it all.
        let dump = if name == "RINGS" {
            Value::Array(vec![bpftool(&["map", "lookup", "pinned", &path, "key", "0", "0", "0", "0"])])
        } else {
            bpftool(&["map", "dump", "pinned", &path])
        };
        let first = &dump[0]["formatted"];
        assert!(has_fields(&first["key"], key_fields), "{name}: key {first}");
        // A value per CPU stands in a list.
        let value = match name.as_str() {
            "DROPS" => &first["values"],
            "FLOODS" | "WATCHED" => &first["values"][0]["value"],
            _ => &first["value"],
        };
        assert!(!value.is_null() && has_fields(value, value_fields), "{name}: value {first}");
        seen.push(name);
    }
    seen.sort();
    let mut wanted: Vec<&str> = FIELDS.iter().map(|(name, _, _)| *name).collect();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);

    drop(dataplane);
    let (bpf, cgroup) = (beside.bpf.clone(), beside.cgroup.clone());
    drop(beside);
    assert!(!bpf.exists() && !cgroup.exists(), "nothing is left");
}

#[test]
fn programs_of_another_layout_version_are_not_run_beside() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("pins of another version", reason);
    }
    let beside = Beside::new("version");
    let other = beside.bpf.join("v0");
    // Without links nothing of it is at work.
    std::fs::create_dir_all(other.join("maps")).unwrap();
    let dir = beside.open(SMALL).expect("an empty folder is nobody's").dir().to_owned();
    std::fs::remove_dir(other.join("maps")).and_then(|()| std::fs::remove_dir(&other)).unwrap();
    std::fs::rename(&dir, &other).unwrap();
    let refused = beside.open(SMALL).err().expect("another version's links are there").to_string();
    for word in ["v0", "'mesh purge'", "Nothing was changed"] {
        assert!(refused.contains(word), "{refused}");
    }
    assert_eq!(std::fs::read_dir(&beside.bpf).unwrap().count(), 1, "nothing of ours was made");
    Dataplane::purge(&beside.bpf).unwrap();
    assert!(!beside.bpf.exists(), "purge takes every version's");
}

#[test]
fn a_restart_hooks_the_hosts_sockets_at_every_moment() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("pins of a restart", reason);
    }
    let beside = Beside::new("pins");
    let first = beside.open(SMALL).unwrap();
    let links = first.dir().join("links");
    let pinned = || {
        let mut names: Vec<_> = std::fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let names = pinned();
    assert!(!names.is_empty(), "nothing is hooked");
    drop(first); // the agent is gone, its pins stay

    // An agent that died between pinning and renaming left this.
    let mut half_way = links.join(&names[0]).into_os_string();
    half_way.push("_next");
    PinnedLink::from_pin(links.join(&names[0])).map(FdLink::from).unwrap().pin(&half_way).unwrap();

    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let (mut looks, mut missing) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                looks += 1;
                missing += names.iter().filter(|name| !links.join(name).exists()).count();
            }
            (looks, missing)
        });
        for _ in 0..5 {
            drop(beside.open(SMALL).unwrap());
        }
        is_over.store(true, Ordering::Relaxed);
        let (looks, missing) = watched.join().unwrap();
        assert!(looks > 100, "{looks} looks say little");
        assert_eq!(missing, 0, "of {looks} looks");
    });
    assert_eq!(pinned(), names);
}

#[test]
fn a_restart_with_another_size_keeps_the_flow_table_and_its_flows() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("sizes of pinned maps", reason);
    }
    let beside = Beside::new("size");
    let entries = |dataplane: &Dataplane, name: &str| {
        let path = dataplane.dir().join("maps").join(name);
        aya::maps::MapInfo::from_pin(path).unwrap().max_entries()
    };
    let put = |dataplane: &Dataplane| {
        let pin = dataplane.dir().join("maps/FLOWS4");
        let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(pin).unwrap());
        let mut map = aya::maps::HashMap::<_, [u8; 16], [u8; 56]>::try_from(map).unwrap();
        map.insert([1; 16], [0; 56], 0).unwrap();
    };
    let first = beside.open(SMALL).unwrap();
    assert_eq!((entries(&first, "FLOWS4"), entries(&first, "OVERFLOW4")), (4_096, 1_024));
    assert_eq!((first.flow_table().unwrap().sizes(), first.flow_table().unwrap().sizes6()), (SMALL, SMALL));
    put(&first);
    drop(first); // the agent is gone, its pins stay

    let second = beside.open(FlowSizes::of_table(100_000)).expect("it is adopted");
    assert_eq!(entries(&second, "FLOWS4"), 4_096);
    assert_eq!(second.flow_table().unwrap().sizes(), SMALL, "the sweeper knows what there is");
    assert_eq!(
        bpftool(&["map", "dump", "pinned", second.dir().join("maps/FLOWS4").to_str().unwrap()])[0]["formatted"]["key"]
            ["protocol"],
        1
    );
    drop(second);
    Dataplane::purge(&beside.bpf).unwrap();

    let third = beside.open(FlowSizes::of_table(100_000)).unwrap();
    assert_eq!((entries(&third, "FLOWS4"), entries(&third, "OVERFLOW4")), (100_000, 65_536));
}

#[test]
fn a_restart_renews_the_programs_behind_the_hooks_and_no_packet_misses_one() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("programs behind the hooks", reason);
    }
    if Command::new("bpftool").arg("version").output().is_err() {
        return mesh_lab::skip("programs behind the hooks", "there is no bpftool: apt-get install bpftool");
    }
    let beside = Beside::new("behind");
    let first = beside.open(SMALL).unwrap();
    let (programs, map) = (first.dir().join("progs"), first.dir().join("maps/PROGRAMS"));
    let pinned = |name: &str| SchedClassifier::from_pin(programs.join(name)).unwrap();
    let ids = || program::ALL.map(|(_, name)| pinned(name).info().unwrap().id());
    // Of the program at an index of the map, as bpftool shows it.
    let at = |index: u32| -> u32 {
        let key = index.to_ne_bytes().map(|byte| byte.to_string());
        let words = ["map", "lookup", "pinned", map.to_str().unwrap(), "key"];
        let shown = bpftool(&words.into_iter().chain(key.iter().map(String::as_str)).collect::<Vec<_>>());
        let bytes = shown["value"].as_array().unwrap_or_else(|| panic!("nothing at {index}: {shown}")).iter();
        let byte = |byte: &Value| u8::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        u32::from_ne_bytes(bytes.map(byte).collect::<Vec<_>>().try_into().unwrap())
    };
    let behind = || program::ALL.map(|(index, _)| at(index));
    // A task looks for routers: that ends in the half for IPv6 without a word, whatever is in the tables.
    let task = [2, 0, 0, 0, 0, 2];
    let frame = eth(task, [0x33, 0x33, 0, 0, 0, 2]).ipv6("fe80::77", "ff02::2").ttl(255).icmp_error(133, 0, 0).bytes();
    let run = |hook: &SchedClassifier| {
        kernel::test_run(hook.fd().unwrap().as_fd(), &frame, RunOptions::default()).expect("it runs").code
    };
    let missed = |dataplane: &Dataplane| -> u64 {
        let drops = dataplane.drops().unwrap();
        drops.iter().filter(|(_, reason, _)| *reason == DropReason::HelperFailed).map(|(.., count)| count).sum()
    };
    let (hook, before) = (pinned("from_task"), ids());
    assert_eq!(behind(), before);
    drop(first); // the agent is gone, its pins stay
    assert_eq!((behind(), run(&hook)), (before, SHOT), "the kernel empties the map of whom nobody refers to");

    let is_over = AtomicBool::new(false);
    let second = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut runs = 0;
            while !is_over.load(Ordering::Relaxed) {
                run(&hook);
                runs += 1;
            }
            runs
        });
        for _ in 0..2 {
            drop(beside.open(SMALL).unwrap());
        }
        let last = beside.open(SMALL).unwrap();
        is_over.store(true, Ordering::Relaxed);
        let runs = watched.join().unwrap();
        assert!(runs > 1_000, "{runs} packets say little");
        assert_eq!(missed(&last), 0, "of {runs} packets");
        last
    });
    let after = ids();
    assert_eq!(behind(), after);
    assert!(after.iter().all(|id| !before.contains(id)), "{after:?} are the first agent's");

    let index = program::FROM_TASK6.to_ne_bytes().map(|byte| byte.to_string());
    let words = ["map", "delete", "pinned", map.to_str().unwrap(), "key"];
    bpftool(&words.into_iter().chain(index.iter().map(String::as_str)).collect::<Vec<_>>());
    assert_eq!((run(&hook), run(&pinned("from_task"))), (SHOT, SHOT), "who misses it lets nothing pass");
    assert_eq!(missed(&second), 2, "and says so");
    drop(second);
    let third = beside.open(SMALL).expect("it is put back");
    assert_eq!((run(&hook), missed(&third)), (SHOT, 2));

    let (hooks, last) = (pinned("from_task").info().unwrap().id(), ids());
    drop((third, hook, beside));
    let gone = || {
        let left = loaded_programs().flatten().map(|program| program.id());
        let left: Vec<u32> = left.filter(|id| *id == hooks || last.contains(id)).collect();
        anyhow::ensure!(left.is_empty(), "{left:?} are loaded still, of {last:?} behind {hooks}");
        Ok(())
    };
    eventually(Duration::from_secs(10), "the programs to go, although they are in a map that they use", gone).unwrap();
}
