//! What is wrong with a manifest, where, and what is allowed there.

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which of several manifests, from 0.
    pub file: usize,
    pub line: u64,
    pub column: u64,
}

impl Place {
    pub const START: Place = Place { file: 0, line: 1, column: 1 };
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// Path of keys: `services.whoami.ports[0]`; empty for the document.
    pub key: String,
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: Place, key: &str, message: impl Into<String>) -> Self {
        Problem { place, key: key.to_string(), message: message.into() }
    }
}

/// Why a manifest was not accepted; one line each when shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines().join("\n"))]
pub struct Errors {
    files: Vec<String>,
    pub problems: Vec<Problem>,
}

impl Errors {
    pub(super) fn new(files: &[String], mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        Errors { files: files.to_vec(), problems }
    }

    fn lines(&self) -> Vec<String> {
        self.problems.iter().map(|problem| line(&self.files, problem)).collect()
    }
}

pub(super) fn line(files: &[String], problem: &Problem) -> String {
    let Problem { place: Place { file, line, column }, key, message } = problem;
    let file = files.get(*file).map_or("", String::as_str);
    match key.as_str() {
        "" => format!("{file}:{line}:{column}: {message}"),
        key => format!("{file}:{line}:{column}: {key}: {message}"),
    }
}
