//! YAML as a tree whose every key and value knows its place. Anchors, aliases and merge keys are resolved here.
//!
//! Scalars keep the text as written: `1.10` stays `1.10`, whatever YAML would make of it; the sections say what
//! they want to read it as.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use super::errors::{Place, Problem};

#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub place: Place,
    pub node: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    /// Text as written, quotes and escapes resolved.
    Scalar(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub place: Place,
    pub text: String,
}

impl Tree {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.node {
            Node::Null => "nothing",
            Node::Scalar(_) => "a single value",
            Node::List(_) => "a list",
            Node::Map(_) => "a mapping",
        }
    }
}

/// How deep lists and mappings may stand in each other. Compose needs eight; reading one takes up to 40 KiB of stack, of which a thread has 2 MiB.
const MAX_DEPTH: usize = 24;

/// The document's tree, or what is wrong with its YAML.
/// `file`: which of several, for the places.
pub(super) fn parse(file: usize, text: &str) -> Result<Tree, Problem> {
    let start = Place { file, ..Place::START };
    let options = serde_yaml::options! { budget: serde_yaml::budget! { max_depth: MAX_DEPTH } };
    match serde_yaml::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(locate(raw, file, text)),
        Err(error) => {
            let place = error.location().map_or(start, |at| Place { file, line: at.line(), column: at.column() });
            let told = error.without_snippet().to_string();
            let told = told.lines().next().unwrap_or_default();
            // The library repeats the place behind its words.
            let told = told.split(" at line ").next().unwrap_or(told);
            Err(Problem::new(place, "", format!("this is not YAML: {told}")))
        }
    }
}

/// As the YAML library gives it: numbers and booleans are typed, their text is looked up by its span.
enum Raw {
    Null,
    Typed(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn locate(raw: Spanned<Raw>, file: usize, text: &str) -> Tree {
    let at = raw.defined;
    let place = Place { file, line: at.line(), column: at.column() };
    let node = match raw.value {
        Raw::Null => Node::Null,
        Raw::Text(text) => Node::Scalar(text),
        Raw::Typed(value) => Node::Scalar(written(at, text).unwrap_or(value)),
        Raw::List(items) => Node::List(items.into_iter().map(|item| locate(item, file, text)).collect()),
        Raw::Map(entries) => {
            Node::Map(entries.into_iter().map(|(key, value)| (located(key, file), locate(value, file, text))).collect())
        }
    };
    Tree { place, node }
}

fn located(key: Spanned<String>, file: usize) -> Key {
    Key { place: Place { file, line: key.defined.line(), column: key.defined.column() }, text: key.value }
}

/// The scalar as it stands in the text; None where the library gives no bytes for it.
fn written(at: serde_yaml::Location, text: &str) -> Option<String> {
    let span = at.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let written = text.get(start..start.checked_add(length)?)?.trim();
    (!written.is_empty() && !written.contains(char::is_whitespace)).then(|| written.to_string())
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(tree: &Tree) -> String {
        match &tree.node {
            Node::Null => "~".into(),
            Node::Scalar(text) => text.clone(),
            Node::List(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(" ")),
            Node::Map(entries) => {
                let entry = |(key, value): &(Key, Tree)| format!("{}={}", key.text, flat(value));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn scalars_keep_their_text_and_merge_keys_merge() {
        let tree = parse(0, "a: 1.10\nb: yes\nc: 0x10\nd: '5'\ne:\nf: 8000:80\nt: true # said\n").expect("YAML");
        assert_eq!(flat(&tree), "{a=1.10 b=yes c=0x10 d=5 e=~ f=8000:80 t=true}");
        let tree = parse(0, "x: &x {k: 1, l: [2, 0.50]}\ny:\n  <<: *x\n  k: 3\nz: *x\n").expect("YAML");
        assert!(
            flat(&tree).contains("y={k=3 l=[2 0.50]}") || flat(&tree).contains("y={l=[2 0.50] k=3}"),
            "{}",
            flat(&tree)
        );
        assert!(flat(&tree).ends_with("z={k=1 l=[2 0.50]}}"), "{}", flat(&tree));
    }

    #[test]
    fn places_are_those_of_the_text() {
        let tree = parse(0, "a:\n  b:\n    - c: 1\n").expect("YAML");
        let Node::Map(top) = &tree.node else { panic!("a mapping") };
        let Node::Map(a) = &top[0].1.node else { panic!("a mapping") };
        assert_eq!(a[0].0.place, Place { file: 0, line: 2, column: 3 });
        let Node::List(b) = &a[0].1.node else { panic!("a list") };
        assert_eq!(b[0].place.line, 3);
    }

    #[test]
    fn what_is_not_yaml_is_told_with_its_place() {
        let problem = parse(0, "a: [1, 2\nb: 3\n").expect_err("an open list");
        assert!(problem.message.starts_with("this is not YAML: "), "{problem:?}");
        let problem = parse(0, "a: 1\na: 2\n").expect_err("a key twice");
        assert_eq!(problem.place.line, 2, "{problem:?}");
    }
}
