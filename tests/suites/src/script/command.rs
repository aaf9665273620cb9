//! The words of a situation and what each does.

use std::net::SocketAddr;

use mesh_userspace::leader::command::{self, NodeUpdate};
use mesh_userspace::manifest;
use mesh_userspace::model::{Availability, NetworkSpec, Runtime, TaskHealth, TaskState};
use mesh_userspace::plan::maps::Kind;
use mesh_userspace::plan::net::{HeldPort, Transport};

use super::cluster::{Cluster, words};
use super::show;

/// Runs one line; the answer is what it says, a refusal included. The error is a broken promise of the product or a line that makes no sense: the situation ends there.
pub fn run(cluster: &mut Cluster, line: &str, input: Option<&str>) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    if let Some(shown) = look(cluster, &parts) {
        return shown;
    }
    for node in &mut cluster.nodes {
        node.ops.clear();
        node.net_ops.clear();
    }
    let said = change(cluster, &parts, input)?;
    cluster.spread()?;
    Ok(said)
}

/// None: not a word that only looks.
fn look(cluster: &Cluster, parts: &[&str]) -> Option<Result<Vec<String>, String>> {
    let shown = match parts {
        ["maps", node] => cluster.node(node).map(|node| show::maps(node, &show::USUAL)),
        ["maps", node, kinds @ ..] => cluster.node(node).and_then(|node| {
            let kinds: Result<Vec<Kind>, String> = kinds.iter().map(|word| kind(word)).collect();
            Ok(show::maps(node, &kinds?))
        }),
        ["ops", node] => cluster.node(node).map(show::ops),
        ["net", node] => cluster.node(node).map(show::net),
        ["netops", node] => cluster.node(node).map(show::net_ops),
        ["names", node] => cluster.node(node).map(|node| show::names(cluster, node)),
        ["ask", task, name] => show::ask(cluster, task, name),
        ["ps"] => Ok(show::ps(cluster)),
        ["services"] => Ok(show::services(cluster)),
        _ => return None,
    };
    Some(shown)
}

fn kind(word: &str) -> Result<Kind, String> {
    let is_it = |kind: &Kind| matches!(word.strip_prefix(kind.name()), Some("" | "s" | "es"));
    let known = Kind::ALL.into_iter().find(is_it);
    known.ok_or_else(|| format!("there is no map of {word}"))
}

/// Does what the line says; what a user of the command line would be told is the answer.
fn change(cluster: &mut Cluster, parts: &[&str], input: Option<&str>) -> Result<Vec<String>, String> {
    let asked = match parts {
        ["nodes", count] => return cluster.form(number(count)? as u8, &[Runtime::Exec]).map(silent),
        ["nodes", count, "docker"] => {
            return cluster.form(number(count)? as u8, &[Runtime::Docker, Runtime::Exec]).map(silent);
        }
        ["network", "create", name] => {
            let spec = NetworkSpec::named(name);
            cluster.run(|facts, ctx| command::create_network(facts, spec, ctx)).map(quiet).map_err(words)
        }
        ["network", "rm", name] => {
            cluster.run(|facts, _| command::remove_network(facts, name)).map(quiet).map_err(words)
        }
        ["tick"] => {
            cluster.tick();
            return Ok(Vec::new());
        }
        ["act"] => {
            cluster.act();
            return Ok(Vec::new());
        }
        ["settle"] => return cluster.settle().map(silent),
        ["wait", time] => {
            return cluster.wait(number(time.strip_suffix('s').ok_or("a time such as 5s")?)?.into()).map(silent);
        }
        ["report", task, state] => {
            let (state, ready, health) = match *state {
                "running" => (TaskState::Running, false, None),
                "ready" => (TaskState::Running, true, None),
                "healthy" => (TaskState::Running, true, Some(TaskHealth::Healthy)),
                "unhealthy" => (TaskState::Running, false, Some(TaskHealth::Unhealthy)),
                "failed" => (TaskState::Failed, false, None),
                "complete" => (TaskState::Complete, false, None),
                "rejected" => (TaskState::Rejected, false, None),
                other => return Err(format!("{other} is no state to report")),
            };
            return cluster.report(task, state, ready, health).map(silent);
        }
        ["cut", node] => return cluster.cut(node).map(silent),
        ["mend", node] => return cluster.mend(node).map(silent),
        ["kill", node] => {
            cluster.node_mut(node)?.kill_agent();
            return Ok(Vec::new());
        }
        ["start", node] => {
            cluster.node_mut(node)?.start_agent();
            return Ok(Vec::new());
        }
        ["interface", node, name, addresses @ ..] => {
            let addresses: Result<_, _> = addresses.iter().map(|text| text.parse()).collect();
            let addresses = addresses.map_err(|_| "interface NODE NAME ADDRESS…")?;
            cluster.node_mut(node)?.interfaces.insert(name.to_string(), addresses);
            return Ok(Vec::new());
        }
        ["occupy", node, used] => {
            let port = port(used)?;
            cluster.node_mut(node)?.occupied.insert(port);
            return Ok(Vec::new());
        }
        ["vacate", node, used] => {
            let port = port(used)?;
            cluster.node_mut(node)?.occupied.remove(&port);
            return Ok(Vec::new());
        }
        ["stack", "deploy", name] => deploy(cluster, name, false, input.ok_or("a manifest, <<EOF … EOF")?),
        ["stack", "deploy", "--prune", name] => deploy(cluster, name, true, input.ok_or("a manifest, <<EOF … EOF")?),
        ["stack", "rm", name] => cluster.run(|facts, _| command::remove_stack(facts, name)).map(quiet).map_err(words),
        ["service", "scale", wanted @ ..] => {
            let wanted: Option<Vec<(String, u32)>> = (wanted.iter())
                .map(|one| one.split_once('=').and_then(|(name, count)| Some((name.to_string(), count.parse().ok()?))))
                .collect();
            let wanted = wanted.ok_or("service scale NAME=N…")?;
            cluster.run(|facts, ctx| command::scale_services(facts, &wanted, ctx)).map(quiet).map_err(words)
        }
        ["service", "rm", name] => {
            cluster.run(|facts, _| command::remove_service(facts, name)).map(quiet).map_err(words)
        }
        ["service", "rollback", name] => {
            cluster.run(|facts, ctx| command::rollback_service(facts, name, ctx)).map(quiet).map_err(words)
        }
        ["node", "update", "--availability", availability, node] => {
            let availability = match *availability {
                "active" => Availability::Active,
                "pause" => Availability::Pause,
                "drain" => Availability::Drain,
                other => return Err(format!("{other} is no availability")),
            };
            let update = NodeUpdate { availability: Some(availability), ..NodeUpdate::default() };
            cluster.run(|facts, _| command::update_node(facts, node, &update)).map(quiet).map_err(words)
        }
        ["node", "update", "--label-add", label, node] => {
            let (key, value) = label.split_once('=').ok_or("a label such as size=4")?;
            let label_add = [(key.to_string(), value.to_string())].into();
            let update = NodeUpdate { label_add, ..NodeUpdate::default() };
            cluster.run(|facts, _| command::update_node(facts, node, &update)).map(quiet).map_err(words)
        }
        ["node", "rm", rest @ ..] => {
            let (node, force) = match rest {
                [node] => (node, false),
                ["--force", node] => (node, true),
                _ => return Err("node rm [--force] NODE".to_string()),
            };
            let observed = cluster.observed();
            let removed = cluster.run(|facts, ctx| command::remove_node(facts, &observed, node, force, ctx));
            removed.map(quiet).map_err(words)
        }
        ["swarm", "leave", node] => cluster.leave(node, false)?.map(quiet),
        ["swarm", "leave", "--force", node] => cluster.leave(node, true)?.map(quiet),
        _ => return Err("no such command".to_string()),
    };
    Ok(asked.unwrap_or_else(|refusal| vec![format!("error: {refusal}")]))
}

/// `stack deploy`: the answer tells warnings of the manifest and what was done, unless everything is new.
fn deploy(cluster: &mut Cluster, name: &str, prune: bool, text: &str) -> Result<Vec<String>, String> {
    let manifest = manifest::parse("stack.yaml", text, &|_| None).map_err(|errors| errors.to_string())?;
    let mut said: Vec<String> = manifest.warnings().iter().map(|warning| format!("warning: {warning}")).collect();
    let stack = manifest.stack(name).map_err(|errors| errors.to_string())?;
    let done = cluster.run(|facts, ctx| command::deploy_stack(facts, stack, prune, ctx)).map_err(words)?;
    let lists = [("updated", done.updated_services), ("unchanged", done.unchanged_services), ("removed", done.removed)];
    said.extend(
        lists.iter().filter(|(_, names)| !names.is_empty()).map(|(word, names)| format!("{word} {}", names.join(" "))),
    );
    Ok(said)
}

fn silent((): ()) -> Vec<String> {
    Vec::new()
}

fn quiet<T>(_: T) -> Vec<String> {
    Vec::new()
}

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn port(word: &str) -> Result<HeldPort, String> {
    let (port, transport) = word.split_once('/').ok_or("a port such as 8000/tcp")?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        other => return Err(format!("{other} is no transport")),
    };
    let (port, address) = match port.parse::<SocketAddr>() {
        Ok(at) => (at.port(), Some(at.ip())),
        Err(_) => (number(port)? as u16, None),
    };
    Ok(HeldPort { transport, port, address })
}
