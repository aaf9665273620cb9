//! Reading a tree by keys: checks shapes, collects problems and warnings, keeps the path for messages.

use std::collections::BTreeMap;

use super::Around;
use super::errors::{Place, Problem, line};
use super::keys::{Fate, Keys};
use super::tree::{Node, Tree};

/// A value with the path of keys that leads to it.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub path: String,
    /// Where its key stands; for an item of a list the item itself.
    pub key: Place,
    pub tree: &'a Tree,
}

/// Collects what does not stop the reading.
pub(super) struct Reader<'a> {
    files: &'a [String],
    pub around: &'a Around<'a>,
    problems: Vec<Problem>,
    warnings: Vec<(Place, String)>,
}

impl<'a> Reader<'a> {
    pub fn new(files: &'a [String], around: &'a Around<'a>) -> Self {
        Reader { files, around, problems: Vec::new(), warnings: Vec::new() }
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        (self.around.variable)(name)
    }

    /// An error of meaning: told together with the others.
    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub fn warn(&mut self, problem: Problem) {
        let warning = (problem.place, line(self.files, &problem));
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// About a key that was understood and says nothing to us.
    pub fn ignored(&mut self, field: &Field, why: &str) {
        self.warn(Problem::new(field.tree.place, &field.path, format!("is ignored: {why}")));
    }

    /// Problems, and warnings in the order of the text.
    pub fn finish(mut self) -> (Vec<Problem>, Vec<String>) {
        self.warnings.sort_by_key(|(place, _)| *place);
        (self.problems, self.warnings.into_iter().map(|(_, warning)| warning).collect())
    }

    /// The entries of a mapping with known keys; nothing stands for an empty one.
    pub fn fields<'t>(
        &mut self,
        tree: &'t Tree,
        path: &str,
        keys: Keys,
    ) -> Result<BTreeMap<&'t str, Field<'t>>, Problem> {
        let mut fields = BTreeMap::new();
        for (name, field) in self.entries(tree, path)? {
            match keys.fate(name) {
                Fate::Read => drop(fields.insert(name, field)),
                Fate::Pass => {}
                Fate::Warn(_) | Fate::Refuse(_) if is_off(field.tree) => {}
                Fate::Warn(why) => self.ignored(&field, why),
                Fate::Refuse(why) => self.problem(Problem::new(field.tree.place, &field.path, why)),
                Fate::Unknown(told) => return Err(field.key_problem(told)),
            }
        }
        Ok(fields)
    }

    /// The entries of a mapping with names of the user's choosing.
    pub fn entries<'t>(&mut self, tree: &'t Tree, path: &str) -> Result<Vec<(&'t str, Field<'t>)>, Problem> {
        match &tree.node {
            Node::Null => Ok(Vec::new()),
            Node::Map(entries) => Ok(entries
                .iter()
                .map(|(key, tree)| {
                    let path = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
                    (key.text.as_str(), Field { path, key: key.place, tree })
                })
                .collect()),
            _ => Err(Problem::new(tree.place, path, format!("a mapping is wanted here, not {}", tree.kind()))),
        }
    }

    /// Reads a value by one of the parsers of notation; what it can't read is an error of meaning.
    pub fn parsed<T>(
        &mut self,
        field: &Field,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        match parse(field.text()?) {
            Ok(value) => Ok(Some(value)),
            Err(told) => {
                self.problem(Problem::new(field.tree.place, &field.path, told));
                Ok(None)
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, field: &Field, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let allowed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.parsed(field, |text| {
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            found.ok_or_else(|| format!("'{text}' is not allowed here: {}", allowed()))
        })
    }

    pub fn number(&mut self, field: &Field) -> Result<Option<u32>, Problem> {
        self.parsed(field, |text| text.parse::<u32>().map_err(|_| format!("'{text}' is not a whole number from 0")))
    }

    pub fn bool(&mut self, field: &Field) -> Result<bool, Problem> {
        let words = [("true", true), ("false", false), ("yes", true), ("no", false), ("on", true), ("off", false)];
        Ok(self.word(field, &words)?.unwrap_or(false))
    }
}

impl<'t> Field<'t> {
    /// A single value; nothing is none.
    pub fn text(&self) -> Result<&'t str, Problem> {
        match &self.tree.node {
            Node::Scalar(text) => Ok(text),
            _ => Err(Problem::new(
                self.tree.place,
                &self.path,
                format!("a single value is wanted here, not {}", self.tree.kind()),
            )),
        }
    }

    pub fn items(&self) -> Result<Vec<Field<'t>>, Problem> {
        match &self.tree.node {
            Node::Null => Ok(Vec::new()),
            Node::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, tree)| Field { path: format!("{}[{index}]", self.path), key: tree.place, tree })
                .collect()),
            _ => Err(Problem::new(
                self.tree.place,
                &self.path,
                format!("a list is wanted here, not {}", self.tree.kind()),
            )),
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self.tree.node, Node::List(_))
    }

    pub fn is_map(&self) -> bool {
        matches!(self.tree.node, Node::Map(_))
    }

    pub fn is_nothing(&self) -> bool {
        matches!(self.tree.node, Node::Null)
    }

    /// About the whole thing: shown at its key.
    pub fn key_problem(&self, told: impl Into<String>) -> Problem {
        Problem::new(self.key, &self.path, told)
    }

    /// About the value.
    pub fn problem(&self, told: impl Into<String>) -> Problem {
        Problem::new(self.tree.place, &self.path, told)
    }
}

/// `privileged: false`, `secrets: []`: nothing is asked for, so nothing is refused or said.
fn is_off(tree: &Tree) -> bool {
    match &tree.node {
        Node::Null => true,
        Node::Scalar(text) => text == "false",
        Node::List(items) => items.is_empty(),
        Node::Map(entries) => entries.is_empty(),
    }
}
