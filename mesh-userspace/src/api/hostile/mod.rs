//! Request bodies and exec frames that nobody means well with: the stacks of `tests/suites/stacks` as requests, damaged in every way a proptest finds, and named
//! cases (`*.json` beside this file). Whatever comes is read as what it says, or refused in words; nothing panics, and a bomb costs no more than its own size.
//!
//! A case that broke something stays here as a file; its name says what it tries.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stream::{read_event, read_input, write_event, write_input};
use super::{
    InitRequest, JoinRequest, JoinTokenRequest, LeaveRequest, LogRequest, NodeUpdate, ScaleItem, ServiceUpdate,
    StackDeploy,
};
use crate::manifest;

/// Pieces of JSON at places where they don't belong.
const TOKENS: [&str; 14] =
    ["{", "}", "[", "]", "\"", "\\u0000", "\\ud800", "null", "-1", "1e999", "18446744073709551616", ",", ":", "\u{0}"];

/// Read and said again, or refused in words.
fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) -> Result<(), String> {
    let value: T = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let said = serde_json::to_vec(&value).expect("what was read can be said");
    let again: T = serde_json::from_slice(&said).expect("what was said can be read");
    assert_eq!(again, value, "{}", String::from_utf8_lossy(body));
    Ok(())
}

/// By every kind of request.
fn by_all(body: &[u8]) -> Vec<Result<(), String>> {
    vec![
        read::<StackDeploy>(body),
        read::<ServiceUpdate>(body),
        read::<InitRequest>(body),
        read::<JoinRequest>(body),
        read::<JoinTokenRequest>(body),
        read::<LeaveRequest>(body),
        read::<LogRequest>(body),
        read::<NodeUpdate>(body),
        read::<Vec<ScaleItem>>(body),
    ]
}

/// `mesh stack deploy` of every stack that the suites know.
static DEPLOYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/suites/stacks");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the stacks").flatten().map(|file| file.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let read = |path| std::fs::read_to_string(path).expect("a readable stack");
    let understood = files.iter().map(read).filter_map(|text| manifest::parse("s.yaml", &text, &|_| None).ok());
    let stacks = understood.filter_map(|manifest| manifest.stack("s").ok());
    stacks.map(|stack| serde_json::to_vec(&StackDeploy { stack, prune: true }).expect("a request")).collect()
});

#[test]
fn named_cases_are_refused_in_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/hostile");
    let mut cases = 0;
    for path in std::fs::read_dir(folder).expect("the cases").flatten().map(|file| file.path()) {
        if path.extension().is_some_and(|extension| extension == "json") {
            cases += 1;
            let body = std::fs::read(&path).expect("a readable case");
            let answers = by_all(&body);
            let refused: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
            // A request that needs nothing takes an object of things that it does not know; no more than one does.
            assert!(refused.len() + 1 >= answers.len(), "{}: {answers:?}", path.display());
            assert!(refused.iter().all(|words| !words.trim().is_empty()), "{}: refused without a word", path.display());
        }
    }
    assert!(cases >= 10, "the cases are there: {cases}");
}

/// Too large for files.
#[test]
fn bombs_are_refused() {
    let bombs = ["[".repeat(200_000), "{\"stack\":".repeat(50_000), format!("\"{}\"", "\\u0041".repeat(100_000))];
    for bomb in bombs {
        assert!(by_all(bomb.as_bytes()).iter().all(Result::is_err));
    }
}

fn damaged(body: &mut Vec<u8>, damages: &[(Index, u8, Index, u8)]) {
    for (at, kind, other, byte) in damages {
        let at = at.index(body.len());
        match kind % 4 {
            0 => body.truncate(at.max(1)),
            1 => body[at] = *byte,
            2 => drop(body.splice(at..at, other.get(&TOKENS).bytes())),
            _ => {
                let piece = body[at.min(other.index(body.len()))..at].to_vec();
                body.splice(at..at, piece);
            }
        }
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn a_damaged_request_is_answered(
        which in any::<Index>(),
        damages in proptest::collection::vec(any::<(Index, u8, Index, u8)>(), 1..5),
    ) {
        prop_assert!(DEPLOYS.len() >= 3);
        let mut body = which.get(&DEPLOYS).clone();
        damaged(&mut body, &damages);
        by_all(&body);
    }

    /// Each frame that is read is the one that was there: written again it gives the same bytes.
    #[test]
    fn any_bytes_of_an_exec_session_are_frames_or_its_end(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        lengths in proptest::collection::vec((0usize..200, 0u8..20, 0u8..12), 0..6),
    ) {
        for (at, kind, length) in lengths {
            // What looks like the head of a frame, or random bytes would hardly ever be one.
            if let Some(head) = bytes.get_mut(at..at + 5) {
                head.copy_from_slice(&[kind, 0, 0, 0, length]);
            }
        }
        let mut rest = &bytes[..];
        loop {
            let before = rest;
            let Ok(Some(input)) = block(read_input(&mut rest)) else { break };
            let mut again = Vec::new();
            block(write_input(&mut again, &input)).expect("a vector takes all");
            prop_assert_eq!(&before[..before.len() - rest.len()], &again[..]);
        }
        let mut rest = &bytes[..];
        loop {
            let before = rest;
            let Ok(Some(event)) = block(read_event(&mut rest)) else { break };
            let mut again = Vec::new();
            block(write_event(&mut again, &event)).expect("a vector takes all");
            prop_assert_eq!(&before[..before.len() - rest.len()], &again[..]);
        }
    }
}
