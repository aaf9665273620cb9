//! The rig itself: programs are handed on from test to test, and what one test left in the maps is not handed on with them.

use std::collections::BTreeMap;
use std::process::Command;

use mesh_common::schema::{AllowKey, AllowPrefix};
use mesh_packet::eth;
use mesh_tests::rig::Rig;
use mesh_tests::rig::mirror::six;
use serde_json::Value;

/// Every map but those of programs and events, which no reader can dump, by name; entries sorted.
fn dumped(rig: &Rig) -> BTreeMap<String, Vec<String>> {
    let names = rig.maps().into_iter().filter(|name| name != "PROGRAMS" && name != "EVENTS" && !name.starts_with('.'));
    let dump = |name: String| {
        let id = rig.map_data(&name).expect("the map").info().expect("the kernel knows its maps").id();
        let output = Command::new("bpftool").args(["-j", "map", "dump", "id", &id.to_string()]).output();
        let output = output.expect("bpftool runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        let entries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut entries: Vec<String> = entries.iter().map(Value::to_string).collect();
        entries.sort();
        (name, entries)
    };
    names.map(dump).collect()
}

/// Names of maps that differ.
fn changed(before: &BTreeMap<String, Vec<String>>, after: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    assert!(before.keys().eq(after.keys()));
    before.iter().filter(|(name, entries)| after[*name] != **entries).map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_test_finds_nothing_of_the_one_before_it() {
    let Some(mut rig) = Rig::new() else { return };
    if Command::new("bpftool").arg("version").output().is_err() {
        return mesh_lab::skip("maps between tests", "there is no bpftool: apt-get install bpftool");
    }
    let untouched = dumped(&rig);
    let config = rig.map_data("CONFIG").unwrap().info().unwrap().id();

    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service("10.0.16.2", &[&backend]);
    rig.publish(&service, 6, 8_080, 80);
    rig.set("OVERFLOWED", 0, 7u32);
    rig.flood_is_on();
    rig.from_task(&client, client.to("10.0.16.2").tcp(40_000, 80).syn());
    // From a MAC address that is not its own: a drop.
    rig.from_task(&client, eth([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]).ipv4(client.addr, "10.0.16.4").tcp(1, 2).syn());
    rig.flood_is_over();
    rig.from_task(&client, client.to("10.0.16.2").tcp(40_001, 80).syn());
    rig.mirror();
    let of = AllowKey { pool: service.pool, list: 1, addr: six(client.addr) };
    rig.allow6(AllowPrefix { prefix_len: 192, of });
    let used = changed(&untouched, &dumped(&rig));
    let expected = [
        "ADDRESSES6",
        "ALLOW6",
        "BACKENDS",
        "DROPS",
        "ENDPOINTS4",
        "ENDPOINTS6",
        "FLOODS",
        "FLOWS4",
        "FRONTENDS4",
        "FRONTENDS6",
        "OVERFLOW4",
        "OVERFLOWED",
        "RINGS",
        "TURNS",
    ];
    let missing: Vec<_> = expected.iter().filter(|name| !used.iter().any(|map| map == *name)).collect();
    assert!(missing.is_empty(), "not even this test touches {missing:?}: {used:?}");
    drop(rig);

    let rig = Rig::new().expect("it could be built before");
    assert_eq!(rig.map_data("CONFIG").unwrap().info().unwrap().id(), config, "these are the maps of the first rig");
    assert_eq!(changed(&untouched, &dumped(&rig)), Vec::<String>::new());
}
