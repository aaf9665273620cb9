//! Several manifests as one, as `docker stack deploy -c a.yaml -c b.yaml` has it: the later one says more, and wins where both speak.
//!
//! Mappings are merged key by key; lists are put together; a command is replaced as a whole; of two mounts at one target the later
//! one counts. Works on trees, so that every place still tells the file that it is in.

use super::tree::{Key, Node, Tree};

pub(super) fn merge(base: Tree, over: Tree) -> Tree {
    merge_at(base, over, "")
}

/// `key`: under which both stand.
fn merge_at(base: Tree, over: Tree, key: &str) -> Tree {
    let place = over.place;
    let (base, over) = match key {
        // Each may be a list of `K=V` or a mapping.
        "environment" | "labels" | "sysctls" | "driver_opts" => (as_map(base, true), as_map(over, true)),
        "networks" => (as_map(base, false), as_map(over, false)),
        _ => (base, over),
    };
    let node = match (base.node, over.node) {
        (_, over @ Node::List(_)) if matches!(key, "command" | "entrypoint" | "test") => over,
        (Node::Map(base), Node::Map(over)) => Node::Map(merge_maps(base, over, key)),
        (Node::List(base), Node::List(over)) => Node::List(merge_lists(base, over, key)),
        // What is empty in the later one says nothing.
        (base @ (Node::Map(_) | Node::List(_)), Node::Null) => base,
        (_, over) => over,
    };
    Tree { place, node }
}

fn merge_maps(mut base: Vec<(Key, Tree)>, over: Vec<(Key, Tree)>, key: &str) -> Vec<(Key, Tree)> {
    for (name, value) in over {
        match base.iter().position(|(there, _)| there.text == name.text) {
            Some(at) => {
                let (_, there) = base.remove(at);
                // A variable without a value asks for the one of the environment.
                let merged = if key == "environment" { value } else { merge_at(there, value, &name.text) };
                base.insert(at, (name, merged));
            }
            None => base.push((name, value)),
        }
    }
    base
}

fn merge_lists(mut base: Vec<Tree>, over: Vec<Tree>, key: &str) -> Vec<Tree> {
    for item in over {
        if key == "volumes" {
            base.retain(|there| target(there) != target(&item));
        } else {
            base.retain(|there| !same(there, &item));
        }
        base.push(item);
    }
    base
}

/// Where a mount goes to, in either notation.
fn target(mount: &Tree) -> Option<&str> {
    match &mount.node {
        Node::Scalar(text) => text.split(':').nth(1).or(Some(text)),
        Node::Map(entries) => match &entries.iter().find(|(key, _)| key.text == "target")?.1.node {
            Node::Scalar(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn same(one: &Tree, other: &Tree) -> bool {
    match (&one.node, &other.node) {
        (Node::Null, Node::Null) => true,
        (Node::Scalar(one), Node::Scalar(other)) => one == other,
        (Node::List(one), Node::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Node::Map(one), Node::Map(other)) => {
            let has = |(key, value): &(Key, Tree)| {
                other.iter().any(|(name, there)| name.text == key.text && same(value, there))
            };
            one.len() == other.len() && one.iter().all(has)
        }
        _ => false,
    }
}

/// A list of names, or of names with values, as the mapping that says the same.
fn as_map(tree: Tree, with_values: bool) -> Tree {
    let Node::List(items) = &tree.node else { return tree };
    let mut entries = Vec::new();
    for item in items {
        let Node::Scalar(text) = &item.node else { return tree };
        let (name, value) = match text.split_once('=').filter(|_| with_values) {
            Some((name, value)) => (name, Node::Scalar(value.to_string())),
            None => (text.as_str(), Node::Null),
        };
        entries.retain(|(key, _): &(Key, Tree)| key.text != name);
        let key = Key { place: item.place, text: name.to_string() };
        entries.push((key, Tree { place: item.place, node: value }));
    }
    Tree { place: tree.place, node: Node::Map(entries) }
}
