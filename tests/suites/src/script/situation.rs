//! One file: played, written down as it went, compared with what it says.

use std::path::Path;

use mesh_userspace::plan::maps::Kind;

use super::cluster::{Cluster, Ids};
use super::command;

/// Begins what a command says.
const SAYS: &str = "---";

/// Plays a file and compares. With `UPDATE=1` in the environment the file is rewritten instead, for a person to read the difference.
///
/// # Panics
/// Where the text differs, a promise of the product is broken, or something is left in the end.
pub fn check(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (played, kept) = play(&text, Ids::Counted);
    let is_update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    if is_update && kept.is_ok() {
        std::fs::write(path, &played).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    // A broken promise first: the text up to there often says why.
    if let Err(error) = kept {
        panic!("{}:{error}\nIt went:\n{played}", path.display());
    }
    if played != text && !is_update {
        let advice = "if this is right, UPDATE=1 writes it down";
        panic!("{}\n{}\n{advice}", path.display(), difference(&text, &played));
    }
    // Identities in another order may give another text, but the same promises hold.
    if let (_, Err(error)) = play(&text, Ids::Scattered) {
        panic!("{}, with identities in no order:{error}", path.display());
    }
}

/// The file as it should be, as far as it went, and whether all promises were kept. The error begins with a line number.
pub fn play(text: &str, ids: Ids) -> (String, Result<(), String>) {
    let mut written = String::new();
    let kept = play_into(&mut written, text, ids);
    (written, kept)
}

fn play_into(written: &mut String, text: &str, ids: Ids) -> Result<(), String> {
    let mut cluster = Cluster::new(ids);
    let mut lines = text.lines().enumerate().peekable();
    let mut last = "";
    while let Some((at, line)) = lines.next() {
        push(written, line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (command, input) = match line.split_once("<<") {
            None => (line, None),
            Some((command, end)) => {
                let mut input = String::new();
                loop {
                    let (_, line) = lines.next().ok_or_else(|| format!("{}: no closing {end}", at + 1))?;
                    push(written, line);
                    if line == end {
                        break;
                    }
                    push(&mut input, line);
                }
                (command, Some(input))
            }
        };
        let outcome = command::run(&mut cluster, command.trim(), input.as_deref());
        let said = outcome.map_err(|error| format!("{}: {error}", at + 1))?;
        // What it said the last time.
        if lines.next_if(|(_, line)| *line == SAYS).is_some() {
            while lines.next_if(|(_, line)| !line.is_empty()).is_some() {}
            lines.next();
        }
        if !said.is_empty() {
            push(written, SAYS);
            said.iter().for_each(|line| push(written, line));
            // An empty line ends it; one that is there already does.
            if lines.peek().is_some_and(|(_, line)| !line.is_empty()) {
                push(written, "");
            }
        }
        last = command;
    }
    if !last.starts_with("maps ") {
        return Err(format!("{}: a situation ends with `maps`, after everything is removed", text.lines().count()));
    }
    left_over(&cluster)
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// In the end there are nodes and nothing else.
fn left_over(cluster: &Cluster) -> Result<(), String> {
    let end = "in the end";
    if let Some(task) = cluster.facts.tasks.values().next() {
        return Err(format!("{end}: task {} is left", cluster.name_of(task)));
    }
    for node in &cluster.nodes {
        let tables = node.maps.tables();
        let of_services = [Kind::Frontend, Kind::Allow, Kind::Ring, Kind::Backend].into_iter();
        let mut left: Vec<String> = of_services.flat_map(|kind| tables.lines(kind)).collect();
        // The gateway of the network `ingress` stays as long as the cluster.
        left.extend(tables.lines(Kind::Endpoint).into_iter().skip(1));
        left.extend(node.image.task_links.keys().cloned());
        left.extend(node.image.held_ports.iter().map(|port| format!("port {port}")));
        if let Some(left) = left.first() {
            return Err(format!("{end}: {left} is left on {}", node.name));
        }
    }
    Ok(())
}

/// The lines that differ, with a few around.
fn difference(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let tail = old[same..].iter().rev().zip(new[same..].iter().rev()).take_while(|(old, new)| old == new).count();
    let around = same.saturating_sub(3)..same;
    let mut lines: Vec<String> = old[around].iter().map(|line| format!("  {line}")).collect();
    lines.extend(old[same..old.len() - tail].iter().map(|line| format!("- {line}")));
    lines.extend(new[same..new.len() - tail].iter().map(|line| format!("+ {line}")));
    format!("from line {}:\n{}", same + 1, lines.join("\n"))
}
