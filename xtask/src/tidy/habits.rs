//! Habits of the house that a machine can see: openings, sizes, names, words, waiting, and who judges whom.

use super::source;
use super::{Finding, SourceFile};

/// Lines from which on a file must say why it is that long.
const LONG: usize = 600;
const REASON: &str = "// long: ";
/// File and folder names that say nothing about what is inside.
const VAGUE: [&str; 8] = ["utils", "util", "helpers", "helper", "misc", "manager", "managers", "types"];
/// Where `types` does say something: the shapes of the API's requests and answers.
const TYPES: &str = "mesh-userspace/src/api/types.rs";
/// What is never committed. Cut in two, so that this file may be.
const UNFINISHED: [&str; 3] = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("FIX", "ME")];
/// Rooms that judge the product and so must not share code with it.
const JUDGES: [&str; 3] = ["tests/packet/", "tests/lab/", "tests/suites/tests/model/"];
const PRODUCT: [&str; 3] = ["mesh_common", "mesh_userspace", "mesh_ebpf"];
/// BPF_OBJ_NAME_LEN (include/uapi/linux/bpf.h) is 16 with the closing NUL; the kernel's name of a longer one is cut.
const MAP_NAME: usize = 15;

/// All habits, on one file of any kind.
pub fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = [name(file), unfinished(file)].concat();
    if file.path.ends_with(".rs") {
        findings.extend([opening(file), length(file), waiting(file), judges(file), map_names(file)].concat());
    } else if file.path.ends_with("Cargo.toml") {
        findings.extend(judges_manifest(file));
    }
    findings
}

fn name(file: &SourceFile) -> Vec<Finding> {
    let vague = file.path.split('/').map(|part| part.trim_end_matches(".rs")).find(|part| VAGUE.contains(part));
    match vague {
        Some(part) if file.path != TYPES => {
            vec![file.finding(1, format!("the name `{part}` says nothing: name the file for what is inside"))]
        }
        _ => Vec::new(),
    }
}

fn unfinished(file: &SourceFile) -> Vec<Finding> {
    let lines = file.text.lines().enumerate();
    let found =
        lines.filter_map(|(at, line)| UNFINISHED.iter().find(|word| line.contains(**word)).map(|word| (at, word)));
    found
        .map(|(at, word)| file.finding(at + 1, format!("`{word}` is committed: finish it, or file an issue")))
        .collect()
}

fn opening(file: &SourceFile) -> Vec<Finding> {
    let mut lines = file.text.lines().skip_while(|line| line.starts_with(REASON));
    if lines.next().is_some_and(|line| line.starts_with("//!")) {
        return Vec::new();
    }
    vec![file.finding(
        1,
        "the module doesn't open with `//!`: what it is for, where it sits, its invariant, what it must not do".into(),
    )]
}

fn length(file: &SourceFile) -> Vec<Finding> {
    let count = file.text.lines().count();
    if count <= LONG || file.text.starts_with(REASON) {
        return Vec::new();
    }
    vec![file.finding(1, format!("{count} lines: split the file, or give the reason on line 1 (`{REASON}…`)"))]
}

/// Tests wait for what they want to see, not for a time: a sleep is too short on a slow machine, too long on all others.
/// The one place that sleeps is `eventually` itself, between two looks; and `let_pass`, where passing time is what is tested.
fn waiting(file: &SourceFile) -> Vec<Finding> {
    let tests = file.path.starts_with("tests/") && !file.path.contains("/src/bin/");
    if file.path.ends_with("/eventually.rs") {
        return Vec::new();
    }
    source::paths(&file.text)
        .iter()
        .filter(|path| {
            path.called && path.segments.last().is_some_and(|name| matches!(name.as_str(), "sleep" | "sleep_until"))
        })
        .filter(|path| tests || file.test || path.scope.test)
        .filter(|path| !path.scope.functions.iter().any(|name| name.contains("eventually") || name == "let_pass"))
        .map(|path| {
            file.finding(path.line, "a sleep in a test: wait with `eventually(…)` for what must come true".into())
        })
        .collect()
}

fn judges(file: &SourceFile) -> Vec<Finding> {
    if !JUDGES.iter().any(|room| file.path.starts_with(room)) {
        return Vec::new();
    }
    source::paths(&file.text)
        .iter()
        .filter(|path| PRODUCT.contains(&path.segments[0].as_str()))
        .map(|path| file.finding(path.line, independent(&path.segments[0])))
        .collect()
}

fn judges_manifest(file: &SourceFile) -> Vec<Finding> {
    if !JUDGES.iter().any(|room| file.path.starts_with(room)) {
        return Vec::new();
    }
    let mut section = "";
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let depends =
            section.contains("dependencies") && PRODUCT.iter().any(|name| line.starts_with(&name.replace('_', "-")));
        if depends {
            findings.push(file.finding(at + 1, independent(line.split(['.', ' ', '=']).next().unwrap_or(line))));
        }
    }
    findings
}

fn independent(name: &str) -> String {
    format!("imports `{name}`: what judges mesh must not share a bug with it; write it anew from the specification")
}

fn map_names(file: &SourceFile) -> Vec<Finding> {
    if !file.path.starts_with("mesh-ebpf/") {
        return Vec::new();
    }
    let mut is_map = false;
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().map(str::trim).enumerate() {
        let attribute = ["#[map", "#[btf_map"].iter().any(|opening| line.starts_with(opening));
        let named = attribute.then(|| line.split('"').nth(1)).flatten();
        let words = line.split_once("static ").map(|(_, rest)| rest.trim_start_matches("mut "));
        let declared = words.filter(|_| is_map).and_then(|rest| rest.split([':', ' ']).next());
        for name in [named, declared].into_iter().flatten().filter(|name| name.len() > MAP_NAME) {
            findings.push(
                file.finding(
                    at + 1,
                    format!("map name `{name}` has {} letters; the kernel keeps {MAP_NAME}", name.len()),
                ),
            );
        }
        is_map = attribute || (is_map && words.is_none());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&SourceFile { path: path.to_owned(), text: text.to_owned(), test: false })
            .into_iter()
            .map(|f| f.to_string())
            .collect()
    }

    #[test]
    fn a_module_opens_with_what_it_is_for() {
        assert!(findings("xtask/src/a.rs", "//! For this.\n").is_empty());
        assert!(findings("xtask/src/a.rs", "// long: generated table\n//! For this.\n").is_empty());
        assert_eq!(findings("xtask/src/a.rs", "use a::b;\n").len(), 1);
    }

    #[test]
    fn a_long_file_says_why() {
        let body = "//! x\n".repeat(LONG + 1);
        assert_eq!(findings("xtask/src/a.rs", &body).len(), 1);
        assert!(findings("xtask/src/a.rs", &format!("{REASON}one table\n{body}")).is_empty());
    }

    #[test]
    fn vague_names_are_refused() {
        for path in ["a/src/utils.rs", "a/src/helpers/mod.rs", "a/src/manager.rs", "mesh-userspace/src/cli/types.rs"] {
            assert_eq!(findings(path, "//! x").len(), 1, "{path}");
        }
        assert!(findings(TYPES, "//! x").is_empty());
    }

    #[test]
    fn unfinished_work_is_refused_in_any_file() {
        let text = format!("a\n# {}: later\n", UNFINISHED[2]);
        assert!(findings("docs/a.md", &text)[0].starts_with("docs/a.md:2: "));
    }

    #[test]
    fn tests_wait_for_events_not_for_time() {
        let sleep = "//! x\nfn a() { std::thread::sleep(D); }";
        assert_eq!(findings("tests/suites/tests/lab_a.rs", sleep).len(), 1);
        assert!(findings("tests/lab/src/bin/whoami.rs", sleep).is_empty());
        assert!(findings("xtask/src/a.rs", sleep).is_empty());
        assert_eq!(
            findings("xtask/src/a.rs", "//! x\n#[cfg(test)] mod tests { async fn a() { sleep(D).await } }").len(),
            1
        );
        assert!(findings("tests/lab/src/eventually.rs", sleep).is_empty());
        assert!(findings("tests/lab/src/a.rs", "//! x\npub fn eventually() { loop { thread::sleep(D) } }").is_empty());
        assert!(findings("tests/suites/tests/a.rs", "//! x\nfn a() { exec(\"sleep 3600\") }").is_empty());
    }

    #[test]
    fn judges_share_no_code_with_the_judged() {
        assert_eq!(findings("tests/packet/src/a.rs", "//! x\nuse mesh_common::wire;").len(), 1);
        assert!(findings("tests/suites/tests/a.rs", "//! x\nuse mesh_common::wire;").is_empty());
        let manifest = "[package]\nname = \"mesh-packet\"\n[dev-dependencies]\nmesh-common.workspace = true\n";
        assert!(findings("tests/packet/Cargo.toml", manifest)[0].contains("Cargo.toml:4: imports `mesh-common`"));
    }

    #[test]
    fn map_names_fit_the_kernel() {
        let long =
            "//! x\n#[btf_map]\npub static SERVICES_OF_THE_NODE: M = M::new();\nstatic A_LONG_CONSTANT_NAME: u8 = 0;";
        assert_eq!(findings("mesh-ebpf/src/maps.rs", long).len(), 1);
        assert_eq!(
            findings("mesh-ebpf/src/maps.rs", "//! x\n#[map(name = \"sixteen_letters_\")]\nstatic A: M = M::new();")
                .len(),
            1
        );
        assert!(
            findings("mesh-ebpf/src/maps.rs", "//! x\n#[btf_map]\nstatic FIFTEEN_LETTERS: M = M::new();").is_empty()
        );
    }
}
