//! The list of drop reasons is one list: each has a line in docs/reference/drops.md and a packet test that provokes it.

use std::path::{Path, PathBuf};

use mesh_common::verdict::{DropReason, Hook};

fn clone() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the table: number, name, the cell with the hooks.
fn documented() -> Vec<(u8, String, String)> {
    let text = std::fs::read_to_string(clone().join("docs/reference/drops.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, name, hooks, meaning, remedy, _] = cells[..] else { return None };
        let number = number.parse().ok()?;
        assert!(!meaning.is_empty() && !remedy.is_empty(), "{name} says what it means and what to do");
        Some((number, name.to_owned(), hooks.to_owned()))
    });
    rows.collect()
}

#[test]
fn the_page_lists_every_reason_and_no_other() {
    let wanted: Vec<(u8, String)> = DropReason::ALL.iter().map(|r| (*r as u8, r.name().to_owned())).collect();
    let found: Vec<(u8, String)> = documented().into_iter().map(|(number, name, _)| (number, name)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn the_page_names_hooks_by_their_names() {
    for (_, name, hooks) in documented() {
        for hook in hooks.replace('*', "").split(", ") {
            assert!(hook == "all" || Hook::ALL.iter().any(|known| known.name() == hook), "{name}: {hook}");
        }
    }
}

#[test]
fn every_reason_is_provoked_by_a_packet_test() {
    let mut tests = String::new();
    for entry in std::fs::read_dir(clone().join("tests/suites/tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("packet_") && name != "packet_drops.rs" {
            tests += &std::fs::read_to_string(path).unwrap();
        }
    }
    let expected = |reason: &DropReason| {
        let variant = format!("DropReason::{reason:?}");
        ["dropped(", "refused("].iter().any(|word| tests.contains(&format!("{word}{variant}")))
            // Tables name the reason apart from the sentence.
            || tests.contains(&format!("{variant}),"))
            || tests.contains(&format!("{variant})]"))
    };
    let missing: Vec<&DropReason> = DropReason::ALL.iter().filter(|reason| !expected(reason)).collect();
    assert!(missing.is_empty(), "no packet test expects {missing:?}");
}
