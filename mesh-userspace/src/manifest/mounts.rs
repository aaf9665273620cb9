//! `volumes` and `tmpfs` of a service: short and long entries, mixed.

use std::collections::BTreeMap;

use super::errors::Problem;
use super::reader::{Field, Reader};
use super::volumes::DeclaredVolume;
use super::{keys, networks, parse_bytes};
use crate::model::{Mount, MountOptions};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

pub(super) fn read(
    field: &Field,
    volumes: &BTreeMap<String, DeclaredVolume>,
    reader: &mut Reader,
) -> Result<Vec<Mount>, Problem> {
    let mut mounts: Vec<Mount> = Vec::new();
    for item in field.items()? {
        let mount = if item.is_map() { read_long(&item, reader)? } else { reader.parsed(&item, parse_short)? };
        let Some(mut mount) = mount else { continue };
        let told = settle(&mut mount, volumes, reader).err().or_else(|| {
            let twice = mounts.iter().any(|other| other.target == mount.target);
            twice.then(|| format!("something is mounted at '{}' already", mount.target))
        });
        match told {
            Some(told) => reader.problem(item.problem(told)),
            None => mounts.push(mount),
        }
    }
    Ok(mounts)
}

/// `tmpfs`: one path or a list, each with options behind a colon.
pub(super) fn read_tmpfs(field: &Field, reader: &mut Reader) -> Result<Vec<Mount>, Problem> {
    let items = if field.is_list() { field.items()? } else { vec![field.clone()] };
    let mut mounts = Vec::new();
    for item in items {
        mounts.extend(reader.parsed(&item, parse_tmpfs)?);
    }
    Ok(mounts)
}

/// `[SOURCE:]TARGET[:OPTION,…]`; what the source is shows by its first character.
fn parse_short(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [target, options] if !options.starts_with('/') => ("", *target, *options),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(format!("'{text}' is not a mount: write SOURCE:/path, SOURCE:/path:ro or /path")),
    };
    let kind = if source.starts_with(['/', '.', '~']) { "bind" } else { "volume" };
    let mut mount = Mount { kind: kind.into(), source: source.into(), target: target.into(), ..Mount::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            // SELinux labels and macOS' caches say nothing to tasks here.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" if kind == "volume" => mount.options.no_copy = true,
            word if kind == "bind" && PROPAGATIONS.contains(&word) => mount.options.propagation = Some(word.into()),
            _ => {
                return Err(format!(
                    "'{option}' in '{text}' is not allowed here: ro, rw, nocopy (of a volume), {} (of a bind)",
                    PROPAGATIONS.join(", ")
                ));
            }
        }
    }
    Ok(mount)
}

fn parse_tmpfs(text: &str) -> Result<Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = Mount { kind: "tmpfs".into(), target: target.into(), ..Mount::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => mount.options.tmpfs_size_bytes = Some(parse_bytes(size)?),
            ("mode", mode) => mount.options.tmpfs_mode = Some(parse_mode(mode)?),
            ("ro", "") => mount.read_only = true,
            ("rw" | "nosuid" | "nodev", "") => {}
            _ => return Err(format!("'{option}' in '{text}' is not allowed here: size=, mode=, ro, rw")),
        }
    }
    absolute(&mount.target)?;
    Ok(mount)
}

/// Permission bits, octal as everywhere.
fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("'{text}' is not a mode: write octal digits, e.g. 1777")),
    }
}

fn read_long(item: &Field, reader: &mut Reader) -> Result<Option<Mount>, Problem> {
    let fields = reader.fields(item.tree, &item.path, keys::MOUNT)?;
    let kinds = [("bind", "bind"), ("volume", "volume"), ("tmpfs", "tmpfs")];
    let Some(field) = fields.get("type") else {
        reader.problem(item.problem("'type' is missing; allowed are: bind, volume, tmpfs"));
        return Ok(None);
    };
    let Some(kind) = reader.word(field, &kinds)? else { return Ok(None) };
    let mut mount = Mount { kind: kind.into(), ..Mount::default() };
    for (key, place) in [("source", &mut mount.source), ("target", &mut mount.target)] {
        if let Some(field) = fields.get(key).filter(|field| !field.is_nothing()) {
            *place = field.text()?.to_string();
        }
    }
    mount.read_only = fields.get("read_only").map(|field| reader.bool(field)).transpose()?.unwrap_or(false);
    for part in ["bind", "volume", "tmpfs"] {
        let Some(field) = fields.get(part) else { continue };
        if part != kind {
            reader.problem(
                field.problem(format!("this belongs to mounts of type {part}, and this one is of type {kind}")),
            );
            continue;
        }
        read_options(field, part, &mut mount.options, reader)?;
    }
    if kind == "tmpfs" && !mount.source.is_empty() {
        reader.problem(item.problem("a tmpfs has no source"));
    }
    Ok(Some(mount))
}

fn read_options(field: &Field, kind: &str, options: &mut MountOptions, reader: &mut Reader) -> Result<(), Problem> {
    let known = match kind {
        "bind" => keys::MOUNT_BIND,
        "volume" => keys::MOUNT_VOLUME,
        _ => keys::MOUNT_TMPFS,
    };
    let fields = reader.fields(field.tree, &field.path, known)?;
    if let Some(field) = fields.get("propagation") {
        let words = PROPAGATIONS.map(|word| (word, word));
        options.propagation = reader.word(field, &words)?.map(str::to_string);
    }
    if let Some(field) = fields.get("nocopy") {
        options.no_copy = reader.bool(field)?;
    }
    if let Some(field) = fields.get("subpath") {
        options.subpath = Some(field.text()?.to_string());
    }
    if let Some(field) = fields.get("labels") {
        options.labels = networks::labels(field, reader)?;
    }
    if let Some(field) = fields.get("size") {
        options.tmpfs_size_bytes = reader.parsed(field, parse_bytes)?;
    }
    if let Some(field) = fields.get("mode") {
        options.tmpfs_mode = reader.parsed(field, parse_mode)?;
    }
    Ok(())
}

/// Paths become absolute; names must be declared.
fn settle(mount: &mut Mount, volumes: &BTreeMap<String, DeclaredVolume>, reader: &Reader) -> Result<(), String> {
    absolute(&mount.target)?;
    match mount.kind.as_str() {
        "bind" if mount.source.is_empty() => return Err("a bind mount needs a 'source': a path of the host".into()),
        "bind" => mount.source = reader.around.path(&mount.source)?,
        "volume" if !mount.source.is_empty() && !volumes.contains_key(&mount.source) => {
            let known = volumes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none is".to_string() } else { format!("declared are: {known}") };
            return Err(format!(
                "the volume '{}' is not declared under 'volumes'; {known}; a path of the host begins with / or ./",
                mount.source
            ));
        }
        _ => {}
    }
    Ok(())
}

fn absolute(target: &str) -> Result<(), String> {
    match target {
        "/" => Err("the target '/' would hide everything".into()),
        path if path.starts_with('/') => Ok(()),
        path => Err(format!("the target '{path}' is not an absolute path")),
    }
}
