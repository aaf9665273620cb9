//! Keys of a service that only a container has: entrypoint, rights, limits, labels.

use std::collections::BTreeMap;

use super::errors::Problem;
use super::reader::{Field, Reader};
use super::services::Fields;
use super::{keys, networks, parse_bytes};
use crate::model::{Container, Ulimit};

pub(super) fn read(fields: &Fields, container: &mut Container, reader: &mut Reader) -> Result<(), Problem> {
    let mut flag =
        |key: &str| -> Result<Option<bool>, Problem> { fields.get(key).map(|field| reader.bool(field)).transpose() };
    container.tty = flag("tty")?.unwrap_or(false);
    container.stdin_open = flag("stdin_open")?.unwrap_or(false);
    container.read_only = flag("read_only")?.unwrap_or(false);
    container.init = flag("init")?;
    for (key, place) in [
        ("cap_add", &mut container.cap_add),
        ("cap_drop", &mut container.cap_drop),
        ("group_add", &mut container.group_add),
    ] {
        if let Some(field) = fields.get(key) {
            *place = texts(field)?;
        }
    }
    for (key, place) in [("labels", &mut container.labels), ("sysctls", &mut container.sysctls)] {
        if let Some(field) = fields.get(key) {
            *place = networks::labels(field, reader)?;
        }
    }
    if let Some(field) = fields.get("extra_hosts") {
        container.extra_hosts = extra_hosts(field, reader)?;
    }
    if let Some(field) = fields.get("ulimits") {
        container.ulimits = ulimits(field, reader)?;
    }
    if let Some(field) = fields.get("shm_size") {
        container.shm_size_bytes = reader.parsed(field, parse_bytes)?;
    }
    if let Some(field) = fields.get("pids_limit") {
        container.pids_limit = reader.parsed(field, parse_pids)?.flatten();
    }
    if let Some(field) = fields.get("security_opt") {
        container.no_new_privileges = security(field, reader)?;
    }
    if let Some(field) = fields.get("network_mode") {
        match field.text()? {
            "none" => reader.problem(field.problem(
                "tasks without any network are not there; put the service on a network with 'internal: true'",
            )),
            _ => {
                reader.ignored(field, "tasks have a network of their own, as in Swarm; 'networks' names those it is on")
            }
        }
    }
    Ok(())
}

pub(super) fn texts(field: &Field) -> Result<Vec<String>, Problem> {
    field.items()?.iter().map(|item| item.text().map(str::to_string)).collect()
}

/// Most processes of a task; -1 and 0 are none.
pub(super) fn parse_pids(text: &str) -> Result<Option<u64>, String> {
    match text.parse::<i64>() {
        Ok(-1 | 0) => Ok(None),
        Ok(pids @ 1..) => Ok(Some(pids.unsigned_abs())),
        _ => Err(format!("'{text}' is not a number of processes: from 1, or -1 for no limit")),
    }
}

/// What takes protection away is left where it is; what adds some must be done.
fn security(field: &Field, reader: &mut Reader) -> Result<bool, Problem> {
    let mut no_new_privileges = false;
    for item in field.items()? {
        let text = item.text()?;
        let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => no_new_privileges = true,
            ("no-new-privileges", "false") => no_new_privileges = false,
            (_, "unconfined" | "disable") => {
                reader.ignored(&item, "the task stays as protected as the Engine makes it");
            }
            _ => reader.problem(item.problem(format!(
                "'{text}' is not there yet, and without it the service would be less protected than asked; allowed \
                 is: no-new-privileges"
            ))),
        }
    }
    Ok(no_new_privileges)
}

/// `name:address` or `name=address` in a list, or a mapping; as `name:address`.
fn extra_hosts(field: &Field, reader: &mut Reader) -> Result<Vec<String>, Problem> {
    let mut hosts = Vec::new();
    if field.is_list() {
        for item in field.items()? {
            let text = item.text()?;
            let cut = text.split_once('=').or_else(|| text.split_once(':'));
            match cut.filter(|(name, address)| !name.is_empty() && !address.is_empty()) {
                Some((name, address)) => hosts.push(format!("{}:{}", name.trim(), address.trim())),
                None => reader.problem(item.problem(format!("'{text}' is not NAME:ADDRESS"))),
            }
        }
        return Ok(hosts);
    }
    for (name, address) in reader.entries(field.tree, &field.path)? {
        let addresses = if address.is_list() { texts(&address)? } else { vec![address.text()?.to_string()] };
        hosts.extend(addresses.iter().map(|address| format!("{name}:{address}")));
    }
    hosts.sort();
    Ok(hosts)
}

fn ulimits(field: &Field, reader: &mut Reader) -> Result<BTreeMap<String, Ulimit>, Problem> {
    let limit = |text: &str| match text.parse::<i64>() {
        Ok(limit @ -1..) => Ok(limit),
        _ => Err(format!("'{text}' is not a limit: a number, or -1 for none")),
    };
    let mut ulimits = BTreeMap::new();
    for (name, value) in reader.entries(field.tree, &field.path)? {
        let both = if value.is_map() {
            let sides = reader.fields(value.tree, &value.path, keys::ULIMIT)?;
            let mut side = |key: &str| -> Result<Option<i64>, Problem> {
                match sides.get(key) {
                    Some(field) => reader.parsed(field, limit),
                    None => {
                        reader.problem(
                            value.problem(format!("'{key}' is missing: a limit is a number, or soft and hard")),
                        );
                        Ok(None)
                    }
                }
            };
            (side("soft")?, side("hard")?)
        } else {
            let both = reader.parsed(&value, limit)?;
            (both, both)
        };
        if let (Some(soft), Some(hard)) = both {
            if hard >= 0 && (soft < 0 || soft > hard) {
                reader.problem(value.problem(format!("the soft limit {soft} is above the hard limit {hard}")));
            }
            ulimits.insert(name.to_string(), Ulimit { soft, hard });
        }
    }
    Ok(ulimits)
}
