//! The list of drop reasons is one list: the table of docs/reference/drops.md is made of it, and each has a packet test that provokes it.

use std::path::{Path, PathBuf};

use mesh_common::verdict::{DropReason, Hook};

fn clone() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> PathBuf {
    clone().join("docs/reference/drops.md")
}

/// The page's table as the list of reasons has it.
fn table() -> String {
    let mut table = String::from("| number | name | hooks | meaning | what to do |\n|---|---|---|---|---|\n");
    for reason in DropReason::ALL {
        let cells = [reason.name(), reason.hooks(), reason.meaning(), reason.remedy()];
        assert!(cells.iter().all(|cell| !cell.is_empty() && !cell.contains(['|', '\n'])), "{reason:?}: {cells:?}");
        table += &format!("| {} | {} |\n", *reason as u8, cells.join(" | "));
    }
    table
}

/// `WRITE_PAGES=1` writes the table into the page instead.
#[test]
fn the_page_has_the_list_of_reasons_as_its_table() {
    let text = std::fs::read_to_string(page()).unwrap();
    let from = text.find("| number | name |").expect("the page has the table");
    let len = text[from..].find("\n\n").expect("text goes on behind it") + 1;
    if std::env::var_os("WRITE_PAGES").is_some() {
        std::fs::write(page(), format!("{}{}{}", &text[..from], table(), &text[from + len..])).unwrap();
        return;
    }
    for (found, wanted) in text[from..from + len].lines().zip(table().lines()) {
        assert_eq!(found, wanted, "the page is behind mesh-common/src/verdict.rs: run this test with WRITE_PAGES=1");
    }
    assert_eq!(text[from..from + len].lines().count(), table().lines().count());
}

#[test]
fn reasons_name_hooks_by_their_names() {
    for reason in DropReason::ALL {
        for hook in reason.hooks().replace('*', "").split(", ") {
            assert!(hook == "all" || Hook::ALL.iter().any(|known| known.name() == hook), "{reason:?}: {hook}");
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
