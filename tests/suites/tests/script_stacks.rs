//! Stack files in the shapes that people publish (tests/suites/stacks): what each is understood as, or why it is refused; and those
//! that are understood are deployed, deployed again, which changes nothing, and removed, which leaves nothing.
//!
//! `NN-name.yaml` is the file, `NN-name.expect` what is said: errors, or warnings and what `mesh stack config` prints. `UPDATE=1`
//! rewrites the latter, for a person to read the difference.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use mesh_tests::script::{Ids, play};
use mesh_userspace::manifest::{Around, Manifest, parse_in};
use mesh_userspace::model::Stack;

/// Where the files are said to be: what is expected names paths.
const FOLDER: &str = "/srv/stacks";

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("stacks")
}

fn stacks() -> Vec<String> {
    let files = std::fs::read_dir(corpus()).expect("the folder of stacks").map(|file| file.expect("a file").path());
    let is_stack = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml");
    let mut names: Vec<String> =
        files.filter(is_stack).map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(name: &str) -> String {
    let path = corpus().join(format!("{name}.yaml"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "DOMAIN" => "example.org",
        "COOKIE" => "0123456789",
        "TZ" => "UTC",
        _ => return None,
    };
    Some(value.to_string())
}

/// What `mesh stack config -c NAME.yaml` says: standard output, or the errors.
fn understood(file: &str, text: &str) -> Result<Manifest, String> {
    let read = |path: &Path| {
        let name = path.strip_prefix(FOLDER).map_err(|_| format!("{}: no such file", path.display()))?;
        std::fs::read_to_string(corpus().join(name)).map_err(|_| format!("{}: no such file", path.display()))
    };
    let around = Around { folder: Some(FOLDER.into()), variable: &variable, read: &read };
    parse_in(file, text, &around).map_err(|errors| errors.to_string())
}

fn said(name: &str) -> String {
    let mut said = String::new();
    match understood(&format!("{name}.yaml"), &text(name)) {
        Err(errors) => errors.lines().for_each(|line| writeln!(said, "error: {line}").expect("to memory")),
        Ok(manifest) => {
            manifest.warnings().iter().for_each(|line| writeln!(said, "warning: {line}").expect("to memory"));
            said.push_str("---\n");
            said.push_str(&manifest.to_yaml());
        }
    }
    said
}

fn stack_of(manifest: &Manifest) -> Stack {
    let mut stack = manifest.stack("demo").unwrap_or_else(|errors| panic!("{errors}"));
    // The order in which services stand in a file says nothing.
    stack.services.sort_by(|a, b| a.name.cmp(&b.name));
    stack
}

#[test]
fn every_stack_is_understood_or_refused_as_written_down() {
    let is_update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let (mut wrong, mut refused) = (Vec::new(), 0);
    let names = stacks();
    for name in &names {
        let path = corpus().join(format!("{name}.expect"));
        let said = said(name);
        refused += usize::from(said.starts_with("error: "));
        if is_update {
            std::fs::write(&path, &said).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        } else if std::fs::read_to_string(&path).unwrap_or_default() != said {
            wrong.push(format!("{}: it says\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nif this is right, UPDATE=1 writes it down", wrong.join("\n"));
    assert!(
        names.len() >= 40 && refused >= 10 && names.len() - refused >= 30,
        "{} stacks, {refused} refused",
        names.len()
    );
}

#[test]
fn every_error_and_warning_has_a_place() {
    for name in stacks() {
        let said = said(&name);
        for line in said.lines().take_while(|line| *line != "---") {
            let place = line.split_once(": ").and_then(|(_, rest)| rest.strip_prefix(&format!("{name}.yaml:")));
            let numbers: Option<Vec<u32>> =
                place.map(|place| place.split(':').take(2).filter_map(|number| number.parse().ok()).collect());
            assert_eq!(numbers.map(|numbers| numbers.len()), Some(2), "{name}: {line}");
        }
    }
}

#[test]
fn what_is_printed_means_the_same_and_needs_nothing_around_it() {
    for name in stacks() {
        let Ok(manifest) = understood(&name, &text(&name)) else { continue };
        let printed = manifest.to_yaml();
        let again = mesh_userspace::manifest::parse("printed.yaml", &printed, &|_| None);
        let again = again.unwrap_or_else(|errors| panic!("{name}: {errors}\n{printed}"));
        assert_eq!(stack_of(&manifest), stack_of(&again), "{name}\n{printed}");
        assert_eq!(again.to_yaml(), printed, "{name}");
        let kept = "is kept for 'network inspect'";
        let warnings: Vec<_> = again.warnings().iter().filter(|line| !line.contains(kept)).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:?}\n{printed}");
    }
}

#[test]
fn a_stack_deployed_twice_changes_nothing_and_removed_leaves_nothing() {
    let mut deployed = 0;
    for name in stacks() {
        let Ok(manifest) = understood(&name, &text(&name)) else { continue };
        let printed = manifest.to_yaml();
        let services: Vec<String> =
            manifest.stack("demo").expect("a stack").services.into_iter().map(|one| one.name).collect();
        let own: Vec<String> =
            manifest.stack("demo").expect("a stack").networks.into_iter().map(|one| one.name).collect();
        let stack = manifest.stack("demo").expect("a stack");
        let mut others: Vec<&str> =
            stack.services.iter().flat_map(|one| &one.networks).map(|at| at.network.as_str()).collect();
        others.retain(|network| !own.iter().any(|own| own == network));
        others.sort_unstable();
        others.dedup();
        let each = |verb: &str| others.iter().map(|network| format!("network {verb} {network}\n")).collect::<String>();
        let deploy = format!("stack deploy demo <<END-OF-STACK\n{printed}END-OF-STACK\n");
        let file = format!(
            "nodes 3 docker\n{}{deploy}settle\n\n{deploy}settle\nops n1\nnetops n1\nstack rm demo\nwait 1s\n{}maps n1\n",
            each("create"),
            each("rm"),
        );
        let (played, kept) = play(&file, Ids::Counted);
        kept.unwrap_or_else(|error| panic!("{name}: {error}\n{played}"));
        // What the second deployment says, and what the node of the store did about it.
        let second = played.split("END-OF-STACK\n").nth(4).unwrap_or_default();
        let mut unchanged = services.clone();
        unchanged.sort();
        let wanted = format!("---\nunchanged {}\n", unchanged.join(" "));
        let (answer, rest) = second.split_once("\nsettle\n").unwrap_or_else(|| panic!("{name}: {second}"));
        let answer: Vec<&str> = answer.lines().filter(|line| !line.starts_with("warning: ")).collect();
        assert_eq!(answer.join("\n").trim_end(), wanted.trim_end(), "{name}");
        assert!(rest.starts_with("ops n1\n---\n(nothing)\n\nnetops n1\n---\n(nothing)\n"), "{name}: {rest}");
        assert!(!played.contains("error: "), "{name}: {played}");
        deployed += 1;
    }
    assert!(deployed >= 30, "{deployed} stacks were deployed");
}
