//! Manifests that nobody means well with: the stacks of `tests/suites/stacks` damaged in every way a proptest finds, and named cases
//! (`*.yaml` beside this file). Whatever comes, there is an answer, it names a place, and a bomb costs no more than its own size.
//!
//! A case that broke something stays here as a file; its name says what it tries.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Words that mean something somewhere in a manifest, in places where they don't.
const TOKENS: [&str; 24] = [
    "${",
    "${A:-${B:-}",
    "$$",
    "<<: *x",
    "&x ",
    "*x",
    "!!binary ",
    "|\n",
    "\t",
    "\u{feff}",
    "\u{0}",
    "---\n",
    "- ",
    ": ",
    "? ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "1-65535:1-65535",
    "99999999999999999999999",
    "-1",
];

#[derive(Clone, Debug)]
enum Damage {
    /// Everything behind is gone.
    Cut(Index),
    /// One byte is another one.
    Byte(Index, u8),
    Token(Index, &'static str),
    /// A line stands at another place, too.
    Line(Index, Index),
    /// A line begins further right or left.
    Indent(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let token =
        (any::<Index>(), proptest::sample::select(&TOKENS[..])).prop_map(|(at, token)| Damage::Token(at, token));
    prop_oneof![
        1 => any::<Index>().prop_map(Damage::Cut),
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        4 => token,
        3 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Line(from, to)),
        2 => (any::<Index>(), 0..9u8).prop_map(|(line, spaces)| Damage::Indent(line, spaces)),
    ]
}

fn damaged(text: &str, damages: &[Damage]) -> String {
    let mut text = text.as_bytes().to_vec();
    for damage in damages {
        if text.is_empty() {
            break;
        }
        let mut lines: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        match damage {
            Damage::Cut(at) => text.truncate(at.index(text.len())),
            Damage::Byte(at, byte) => {
                let at = at.index(text.len());
                text[at] = *byte;
            }
            Damage::Token(at, token) => {
                let at = at.index(text.len());
                text.splice(at..at, token.bytes());
            }
            Damage::Line(from, to) => {
                let line = lines[from.index(lines.len())].clone();
                lines.insert(to.index(lines.len()), line);
                text = lines.join(&b'\n');
            }
            Damage::Indent(line, spaces) => {
                let at = line.index(lines.len());
                let bare = lines[at].iter().skip_while(|byte| **byte == b' ').copied();
                lines[at] = std::iter::repeat_n(b' ', usize::from(*spaces)).chain(bare).collect();
                text = lines.join(&b'\n');
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Every `*.yaml` of a folder, by name.
fn manifests(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).expect("a readable file"))).collect()
}

/// Understood, or refused in words that begin with a place in the text. What is understood means the same when it is printed and read again.
#[track_caller]
fn answered(text: &str) {
    // YAML ends a line by either (YAML 1.2.2, 5.4).
    let lines = text.split(['\r', '\n']).count() as u64;
    match parse("hostile.yaml", text, &|_| None) {
        Err(errors) => {
            assert!(!errors.problems.is_empty(), "refused without a word: {text:?}");
            for problem in &errors.problems {
                let place = problem.place;
                assert!(place.line >= 1 && place.line <= lines, "{errors}\nin a text of {lines} lines: {text:?}");
                assert!(!problem.message.trim().is_empty(), "{errors}");
            }
        }
        Ok(manifest) => {
            let printed = manifest.to_yaml();
            let again = parse("printed.yaml", &printed, &|_| None)
                .unwrap_or_else(|errors| panic!("{errors}\n{printed}\nprinted from: {text}"));
            assert_eq!(sorted(&manifest), sorted(&again), "{printed}\nprinted from: {text}");
        }
    }
}

/// What it means: the order of services says nothing.
fn sorted(manifest: &Manifest) -> Option<Stack> {
    let mut stack = manifest.stack("s").ok()?;
    stack.services.sort_by(|one, two| one.name.cmp(&two.name));
    Some(stack)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]
    #[test]
    fn a_damaged_manifest_is_answered(which in any::<Index>(), damages in proptest::collection::vec(damage(), 1..6)) {
        let stacks = manifests("../tests/suites/stacks");
        let (_, text) = which.get(&stacks);
        answered(&damaged(text, &damages));
    }

    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        answered(&text);
    }
}

#[test]
fn named_cases_are_answered() {
    let cases = manifests("src/manifest/hostile");
    assert!(cases.len() >= 12, "the cases are there: {}", cases.len());
    for (path, text) in cases {
        println!("{}", path.display());
        answered(&text);
    }
}

/// Too large for files: what is deep, long or many.
#[test]
fn bombs_are_answered() {
    let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + &close.repeat(depth);
    let ladder = |depth: usize| -> String { (0..depth).map(|at| format!("{}a:\n", "  ".repeat(at))).collect() };
    let laughs = {
        let first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
        let line = |n: usize| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
        first + &(1..12).map(line).collect::<String>() + "services: *a11\n"
    };
    let services: String =
        (0..3_000).map(|n| format!("  s{n}: {{image: x, ports: [\"{}:80\"]}}\n", 1_000 + n)).collect();
    let variables = format!("services: {{web: {{image: \"{}\"}}}}\n", nested("${A:-", "}", 20_000));
    let bombs = [
        nested("[", "]", 50_000),
        nested("{a: ", "}", 50_000),
        "- ".repeat(50_000),
        "? ".repeat(50_000),
        "[".repeat(200_000),
        "\"".to_string() + &"\\u0041".repeat(100_000),
        ladder(2_000),
        laughs,
        variables,
        format!("services:\n{services}"),
        format!("services: {{web: {{image: {}}}}}\n", "x".repeat(1 << 20)),
        format!("x: {}\nservices: {{web: {{image: x}}}}\n", "&a ".repeat(10_000)),
    ];
    for text in bombs {
        answered(&text);
    }
}
