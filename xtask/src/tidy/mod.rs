//! `cargo xtask tidy`: the house's rules that a compiler doesn't know (docs/architecture.md tells them to people).
//!
//! Reads the files that git has or would take, judges each for itself and pages by the tests that they name, prints `path:line: what is wrong; what to do`.
//! Changes nothing.

mod habits;
mod layers;
mod pages;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// A file of the clone, by its path in it.
struct SourceFile {
    path: String,
    text: String,
    /// Compiled for tests alone: it stands in a module that is declared under `#[cfg(test)]`.
    test: bool,
}

/// One breach of a rule.
#[derive(Clone)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl SourceFile {
    fn finding(&self, line: usize, what: String) -> Finding {
        Finding { path: self.path.clone(), line, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

#[derive(clap::Args)]
pub struct Options {
    /// Another clone to check
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let files = files(options.root.as_ref().unwrap_or(&workspace.root))?;
    let of_each = files.iter().flat_map(|file| [layers_of(file), habits::check(file)].concat());
    let findings: Vec<Finding> = of_each.chain(pages::check(&files)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} breaches of the house's rules in {} files", findings.len(), files.len());
    }
    println!("tidy: {} files, all in order", files.len());
    Ok(())
}

fn layers_of(file: &SourceFile) -> Vec<Finding> {
    if file.path.ends_with(".rs") { layers::check(file) } else { Vec::new() }
}

/// What is committed or would be; files that are not text have no words to judge.
fn files(root: &Path) -> Result<Vec<SourceFile>> {
    let list = process::read(
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root),
    )
    .context("listing the clone's files")?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        let place = root.join(path);
        // A file that was deleted but not yet committed is still listed; a link is judged where it leads.
        if !place.is_file() || place.is_symlink() {
            continue;
        }
        let bytes = std::fs::read(&place).with_context(|| format!("reading {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path: path.to_owned(), text, test: false });
        }
    }
    mark_tests(&mut files);
    Ok(files)
}

/// Finds the files of modules that another file declares under `#[cfg(test)]`.
fn mark_tests(files: &mut [SourceFile]) {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    let modules: Vec<String> = rust
        .flat_map(|file| {
            let folder = module_folder(&file.path);
            source::test_modules(&file.text).into_iter().map(move |name| format!("{folder}{name}"))
        })
        .collect();
    for file in files {
        file.test = modules.iter().any(|module| {
            file.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

/// Where the modules that a file declares are.
fn module_folder(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "mod.rs" | "lib.rs" | "main.rs" => format!("{folder}/"),
        other => format!("{folder}/{}/", other.trim_end_matches(".rs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned(), test: false }
    }

    #[test]
    fn files_of_test_modules_are_marked() {
        let mut files = [
            file("a/src/plan/mod.rs", "mod diff;\n#[cfg(test)]\nmod properties;"),
            file("a/src/plan/diff.rs", "#[cfg(test)] mod examples;"),
            file("a/src/plan/properties.rs", ""),
            file("a/src/plan/diff/examples.rs", ""),
            file("a/src/plan/properties_of_all.rs", ""),
        ];
        mark_tests(&mut files);
        assert_eq!(files.map(|file| file.test), [false, false, true, true, false]);
    }
}
