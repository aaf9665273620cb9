//! `${VAR}` in values, as Compose has it: `$VAR`, `${VAR}`, `:-` `-` (default), `:?` `?` (required), `:+` `+`
//! (replacement), `$$` for a dollar. Keys are left alone.

use super::errors::{Place, Problem};
use super::reader::Reader;
use super::tree::{Node, Tree};

/// How deep a default may stand in a default: nobody writes three, and each costs stack.
const MAX_DEPTH: u32 = 16;

/// The tree with every value expanded; problems are errors of meaning.
pub(super) fn expand(tree: Tree, reader: &mut Reader) -> Tree {
    let place = tree.place;
    let node = match tree.node {
        Node::Scalar(text) if text.contains('$') => match expand_text(&text, 0, place, reader) {
            Ok(expanded) => Node::Scalar(expanded),
            Err(told) => {
                reader.problem(Problem::new(place, "", told));
                Node::Scalar(text)
            }
        },
        Node::List(items) => Node::List(items.into_iter().map(|item| expand(item, reader)).collect()),
        Node::Map(entries) => Node::Map(entries.into_iter().map(|(key, value)| (key, expand(value, reader))).collect()),
        other => other,
    };
    Tree { place, node }
}

fn expand_text(text: &str, depth: u32, place: Place, reader: &mut Reader) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err(format!("'${{' within '${{' more than {MAX_DEPTH} times: write the default itself"));
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        rest = if let Some(tail) = tail.strip_prefix('$') {
            expanded.push('$');
            tail
        } else if let Some(inside) = tail.strip_prefix('{') {
            let end = closing(inside).ok_or_else(|| format!("'${{' in '{text}' is not closed"))?;
            expanded.push_str(&braced(&inside[..end], text, depth, place, reader)?);
            &inside[end + 1..]
        } else {
            let end = name_end(tail);
            if end == 0 {
                return Err(format!("a lone '$' in '{text}'; write '$$' for a dollar"));
            }
            expanded.push_str(&plain(&tail[..end], place, reader));
            &tail[end..]
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// What stands between the braces.
fn braced(inside: &str, text: &str, depth: u32, place: Place, reader: &mut Reader) -> Result<String, String> {
    let (name, operation) = inside.split_at(name_end(inside));
    if name.is_empty() {
        return Err(format!("'${{{inside}}}' in '{text}' names no variable"));
    }
    let value = reader.variable(name);
    // With a colon an empty variable counts as unset.
    let (operator, word, value_if_set) = match operation.strip_prefix(':') {
        Some(rest) => (rest.chars().next(), rest.get(1..), value.clone().filter(|value| !value.is_empty())),
        None => (operation.chars().next(), operation.get(1..), value.clone()),
    };
    let word = word.unwrap_or_default();
    match operator {
        None if operation.is_empty() => Ok(plain(name, place, reader)),
        Some('-') => value_if_set.map_or_else(|| expand_text(word, depth + 1, place, reader), Ok),
        Some('+') if value_if_set.is_some() => expand_text(word, depth + 1, place, reader),
        Some('+') => Ok(String::new()),
        Some('?') => match (value_if_set, word) {
            (Some(value), _) => Ok(value),
            (None, "") => Err(format!("the variable {name} is required and not set")),
            (None, word) => Err(format!("the variable {name} is required and not set: {word}")),
        },
        _ => Err(format!("'${{{inside}}}' in '{text}': allowed behind a name are :- - :? ? :+ +")),
    }
}

fn plain(name: &str, place: Place, reader: &mut Reader) -> String {
    reader.variable(name).unwrap_or_else(|| {
        reader.warn(Problem::new(place, "", format!("the variable {name} is not set: it is taken as empty")));
        String::new()
    })
}

fn name_end(text: &str) -> usize {
    let is_part = |(at, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
    text.char_indices().find(|pair| !is_part(*pair)).map_or(text.len(), |(at, _)| at)
}

/// The brace that closes what was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Around;

    fn expanded(text: &str) -> String {
        let variable = |name: &str| match name {
            "SET" => Some("v".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let around = Around { folder: None, variable: &variable, read: &|_| Err(String::new()) };
        let mut reader = Reader::new(&[], &around);
        expand_text(text, 0, Place::START, &mut reader).unwrap_or_else(|told| format!("error: {told}"))
    }

    #[test]
    fn every_form_of_compose() {
        let table = [
            ("$SET-$$SET", "v-$SET"),
            ("a${SET}b", "avb"),
            ("${UNSET:-d}", "d"),
            ("${EMPTY:-d}${EMPTY-e}", "d"),
            ("${UNSET:-${SET}}", "v"),
            ("${SET:+yes}${UNSET+no}", "yes"),
            ("${UNSET}", ""),
            ("${SET:?why}", "v"),
            ("${UNSET:?say it}", "error: the variable UNSET is required and not set: say it"),
            ("${SET", "error: '${' in '${SET' is not closed"),
            ("5$", "error: a lone '$' in '5$'; write '$$' for a dollar"),
            ("${SET!x}", "error: '${SET!x}' in '${SET!x}': allowed behind a name are :- - :? ? :+ +"),
        ];
        for (text, wanted) in table {
            assert_eq!(expanded(text), wanted, "{text}");
        }
    }
}
