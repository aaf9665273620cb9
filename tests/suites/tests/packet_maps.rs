//! bpftool is a first-class reader (decision 15): every pinned map that it can dump shows fields by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::links::{FdLink, PinnedLink};
use mesh_common::schema::LAYOUT_VERSION;
use mesh_common::verdict::Hook;
use mesh_userspace::kernel::bpf::{Attachment, BpfError, Dataplane, FlowSizes, TcWay, XdpAttachment};
use mesh_userspace::kernel::net::filters::{self as filters_of, Clsact};
use serde_json::Value;

/// Structures and the fields that readers rely on, of keys and values; maps of plain numbers have none.
const FIELDS: [(&str, &[&str], &[&str]); 29] = [
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
];

/// Flow tables of these tests.
const SMALL: FlowSizes = FlowSizes { table: 4_096, overflow: 1_024 };

/// A data plane pinned beside everybody else's, and a cgroup of its own to hook; both are gone afterwards.
struct Beside {
    bpf: PathBuf,
    cgroup: PathBuf,
}

impl Beside {
    fn new(name: &str) -> Beside {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let cgroup2 =
            mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
        let name = format!("mesh-test-{name}-{}", std::process::id());
        let cgroup = Path::new(cgroup2.split(' ').nth(1).unwrap()).join(&name);
        std::fs::create_dir(&cgroup).unwrap();
        Beside { bpf: Path::new("/sys/fs/bpf").join(name), cgroup }
    }

    fn open(&self, flows: FlowSizes) -> Result<Dataplane, BpfError> {
        self.open_by(TcWay::Tcx, flows)
    }

    fn open_by(&self, way: TcWay, flows: FlowSizes) -> Result<Dataplane, BpfError> {
        Dataplane::open(&self.bpf, &self.cgroup, flows, way, Box::new(Clsact))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = Dataplane::purge(&self.bpf); // what is left is looked for by the test
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

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
        if name == "EVENTS" {
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
fn a_link_whose_device_went_does_not_keep_the_next_agent_from_starting() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("links of devices that went", reason);
    }
    // A network namespace of the thread's own: devices come and go without anybody noticing.
    let play = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |words: &str| {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
        };
        let beside = Beside::new("severed");
        let attached = |dataplane: &Dataplane| dataplane.attachments().len();
        let device = |name: &str| Attachment::new(Hook::FromTask, name, 770);
        ip("link add mvone index 770 type veth peer name one");
        let mut first = beside.open(SMALL).unwrap();
        first.ensure(&device("mvone")).unwrap();
        assert_eq!(attached(&first), 1);
        drop(first); // the agent is gone, its pins stay
        ip("link del mvone");
        ip("link add mvtwo index 770 type veth peer name two");
        let mut second = beside.open(SMALL).unwrap();
        assert_eq!(attached(&second), 0, "the link was another device's");
        second.ensure(&device("mvtwo")).unwrap();
        assert!(second.attachments().iter().all(|(_, is_live)| *is_live));
    };
    std::thread::scope(|scope| scope.spawn(play).join().unwrap());
}

#[test]
fn a_filter_is_found_again_swapped_looked_after_and_taken_away() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("filters of clsact", reason);
    }
    let play = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // In a word `_` is a space.
        let run = |words: &str| -> String {
            let mut words = words.split(' ');
            let program = words.next().unwrap();
            let output = Command::new(program).args(words.map(|word| word.replace('_', " "))).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let filters = |device: &str| run(&format!("tc filter show dev {device} ingress"));
        let qdiscs = |device: &str| run(&format!("tc qdisc show dev {device}"));
        let program = |device: &str| -> String {
            let shown = filters(device);
            shown.split_whitespace().skip_while(|word| *word != "id").nth(1).unwrap_or_default().to_owned()
        };
        let beside = Beside::new("filters");
        run("ip link add one index 780 type veth peer name far");
        run("ip link add two index 781 type veth peer name away");
        run("tc qdisc add dev two clsact");
        run("tc filter add dev two ingress prio 9 bpf bytecode 1,6_0_0_0,");
        let wanted: BTreeSet<Attachment> =
            [("one", 780), ("two", 781)].map(|(name, index)| Attachment::new(Hook::FromUplink, name, index)).into();
        let live = |dataplane: &Dataplane| dataplane.attachments().iter().filter(|(_, is_live)| *is_live).count();

        let mut first = beside.open_by(TcWay::Clsact, SMALL).unwrap();
        assert_eq!(first.attach(&wanted).len(), 0);
        assert_eq!(live(&first), 2);
        assert!(
            filters("one").contains("direct-action") && filters("one").contains("mesh:from_uplink"),
            "{}",
            filters("one")
        );
        assert_eq!(
            filters("two").matches(" bpf chain 0 handle").count(),
            2,
            "beside the other one: {}",
            filters("two")
        );
        let before = program("one");
        drop(first); // the agent is gone, its filters stay
        assert_eq!(program("one"), before);

        let mut second = beside.open_by(TcWay::Clsact, SMALL).unwrap();
        assert_ne!(program("one"), before, "the next agent's program is in the filter");
        assert_eq!(filters("one").matches(" bpf chain 0 handle").count(), 1, "{}", filters("one"));
        assert_eq!(second.attach(&wanted).len(), 0);
        assert_eq!(live(&second), 2);

        run("tc qdisc del dev one clsact");
        assert_eq!(live(&second), 1, "somebody took one away");
        assert_eq!(second.attach(&wanted).len(), 0);
        assert_eq!(live(&second), 2, "the next round puts it again");
        drop(second);

        let mut third = beside.open_by(TcWay::Tcx, SMALL).unwrap();
        assert_eq!(third.attach(&wanted).len(), 0);
        assert_eq!(live(&third), 2);
        assert!(filters("one").is_empty() && !qdiscs("one").contains("clsact"), "links took over: {}", qdiscs("one"));
        assert_eq!(filters("two").matches(" bpf chain 0 handle").count(), 1, "what was there before us stays");
        drop(third);

        let mut fourth = beside.open_by(TcWay::Clsact, SMALL).unwrap();
        assert_eq!(fourth.attach(&wanted).len(), 0);
        assert_eq!(live(&fourth), 2, "and back");
        let pins = std::fs::read_dir(fourth.dir().join("links")).unwrap().flatten();
        assert!(!pins.into_iter().any(|pin| pin.file_name().to_string_lossy().starts_with("from_uplink")));
        assert_eq!(fourth.attach(&BTreeSet::new()).len(), 0);
        assert!(!qdiscs("one").contains("clsact") && qdiscs("two").contains("clsact"), "{}", qdiscs("two"));

        run("tc filter add dev two ingress prio 3 handle 0x6d657368 bpf bytecode 1,6_0_0_0,");
        let refused = fourth.attach(&wanted);
        assert!(refused.len() == 1 && refused[0].to_string().contains("somebody else"), "{refused:?}");
        assert_eq!(live(&fourth), 1);
        let (removed, failed) = filters_of::remove_all();
        assert_eq!((removed.len(), failed.len()), (1, 0), "{removed:?} {failed:?}");
        assert_eq!(
            filters("two").matches(" bpf chain 0 handle").count(),
            2,
            "a stranger at our place is no filter of ours"
        );
    };
    std::thread::scope(|scope| scope.spawn(play).join().unwrap());
}

#[test]
fn an_xdp_link_follows_its_mode_and_its_device() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("links of XDP programs", reason);
    }
    let play = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |words: &str| -> String {
            let output = Command::new("ip").args(words.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {words}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let beside = Beside::new("xdp");
        let on = |name: &str, is_native| -> BTreeSet<XdpAttachment> {
            [XdpAttachment { interface: name.into(), ifindex: 771, is_native }].into()
        };
        let pins = || -> Vec<String> {
            let links = std::fs::read_dir(beside.bpf.join(format!("v{LAYOUT_VERSION}/links"))).unwrap();
            links.flatten().map(|pin| pin.file_name().to_string_lossy().into_owned()).collect()
        };
        let has = |name: &str| pins().iter().any(|pin| pin == name);
        ip("link add one index 771 type veth peer name far");
        let mut first = beside.open(SMALL).unwrap();
        assert_eq!(first.attach_xdp(&on("one", true)), []);
        assert!(ip("link show one").contains(" xdp ") && has("xdp_uplink-771"), "{:?}", pins());
        let pin = beside.bpf.join(format!("v{LAYOUT_VERSION}/links/xdp_uplink-771"));
        let detached = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&pin).status().unwrap();
        assert!(detached.success() && !ip("link show one").contains("xdp"), "somebody cuts it off by force");
        assert_eq!(first.attach_xdp(&on("one", true)), []);
        assert!(ip("link show one").contains(" xdp "), "the next round makes it anew");
        drop(first); // the agent is gone, its pins stay

        let mut second = beside.open(SMALL).unwrap();
        assert!(ip("link show one").contains(" xdp "), "the link is adopted");
        assert_eq!(second.attach_xdp(&on("one", false)), []);
        assert!(ip("link show one").contains(" xdpgeneric "), "{}", ip("link show one"));
        assert!(has("xdp_uplink_generic-771") && !has("xdp_uplink-771"), "{:?}", pins());
        for turn in 0..40 {
            let refused = second.attach_xdp(&on("one", turn % 2 == 0));
            assert_eq!(refused, [], "turn {turn}: the device is free as soon as the other link is taken away");
        }
        drop(second);

        ip("link del one");
        ip("link add two index 771 type veth peer name far");
        let mut third = beside.open(SMALL).unwrap();
        assert!(!has("xdp_uplink_generic-771"), "the link was another device's: {:?}", pins());
        assert_eq!(third.attach_xdp(&on("two", true)), []);
        assert_eq!(third.attach_xdp(&BTreeSet::new()), []);
        assert!(!ip("link show two").contains("xdp") && !has("xdp_uplink-771"), "{:?}", pins());
    };
    std::thread::scope(|scope| scope.spawn(play).join().unwrap());
}
