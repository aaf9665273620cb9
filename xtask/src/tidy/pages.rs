//! Pages that name tests name tests that are there: `file.rs::function`, the file by the end of its path.

use super::{Finding, SourceFile};

/// Pages that say what covers what.
const PAGES: [&str; 1] = ["docs/reference/pitfalls.md"];

/// Every name on these pages that is no test.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let pages = files.iter().filter(|file| PAGES.contains(&file.path.as_str()));
    pages.flat_map(|page| names(&page.text).filter_map(|(line, name)| judge(page, line, name, files))).collect()
}

/// What stands in backticks and names a function of a file, with its line.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    let quoted = lines.flat_map(|(at, line)| line.split('`').skip(1).step_by(2).map(move |word| (at + 1, word)));
    quoted.filter(|(_, word)| word.contains(".rs::"))
}

fn judge(page: &SourceFile, line: usize, name: &str, files: &[SourceFile]) -> Option<Finding> {
    let (path, function) = name.split_once("::")?;
    let is_it =
        |file: &&SourceFile| file.path.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    let found: Vec<&SourceFile> = files.iter().filter(is_it).collect();
    let what = match found.as_slice() {
        [] => format!("`{path}` is no file here: correct the name"),
        [file] if is_test(&file.text, function) => return None,
        [file] => format!("`{}` has no test `{function}`: name the one that covers it now", file.path),
        [first, second, ..] => format!("`{path}` may be `{}` or `{}`: write more of the path", first.path, second.path),
    };
    Some(page.finding(line, what))
}

/// The function is declared under `#[test]`, as those of a `proptest!` are, too.
fn is_test(text: &str, function: &str) -> bool {
    let declared = format!("fn {function}(");
    let mut above = "";
    text.lines().map(str::trim).any(|line| {
        let is_it = line.contains(&declared) && above == "#[test]";
        if !line.starts_with("#[cfg") && !line.starts_with("//") {
            above = line;
        }
        is_it
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned(), test: false }
    }

    #[test]
    fn a_test_that_is_named_is_there() {
        let tests = "#[test]\nfn one() {}\n#[test]\n#[cfg(unix)]\nfn two() {}\nfn none() {}\n";
        let files = |page: &str| [file(PAGES[0], page), file("a/b.rs", tests), file("a/c.rs", ""), file("d/c.rs", "")];
        let found = |page: &str| check(&files(page)).iter().map(|finding| finding.to_string()).collect::<Vec<_>>();
        assert!(found("| `b.rs::one`, `a/b.rs::two` | `a` and `b.rs` are other words |").is_empty());
        for (page, word) in [
            ("`b.rs::none`", "no test `none`"),
            ("`b.rs::on`", "no test `on`"),
            ("`x.rs::one`", "no file"),
            ("`c.rs::one`", "write more"),
            ("`.rs::one`", "no file"),
        ] {
            let told = found(&format!("first line\n{page}"));
            assert!(told.len() == 1 && told[0].contains(":2: ") && told[0].contains(word), "{page}: {told:?}");
        }
        assert!(check(&[file("docs/other.md", "`x.rs::one`")]).is_empty());
    }
}
