//! `volumes` of a service: bind mounts. What would keep data elsewhere is refused, not dropped.

use super::errors::Problem;
use super::keys;
use super::reader::{Field, Reader};
use crate::model::Mount;

pub(super) fn read(field: &Field, reader: &mut Reader) -> Result<Vec<Mount>, Problem> {
    let mut mounts = Vec::new();
    for item in field.items()? {
        if item.is_map() {
            mounts.extend(read_long(&item, reader)?);
        } else {
            mounts.extend(reader.parsed(&item, parse_short)?);
        }
    }
    Ok(mounts)
}

/// `/host/path:/path[:ro]`.
fn parse_short(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(format!("'{text}' keeps data in a volume, which is not there yet; write /host/path:/path")),
    };
    if !source.starts_with('/') {
        return Err(format!(
            "'{source}' is a named volume or a relative path, which are not there; write /host/path:/path"
        ));
    }
    let read_only = match options {
        "" | "rw" | "z" | "Z" => false,
        "ro" => true,
        _ => return Err(format!("'{options}' in '{text}': allowed are ro, rw")),
    };
    absolute(Mount { kind: "bind".into(), source: source.into(), target: target.into(), read_only })
}

fn read_long(item: &Field, reader: &mut Reader) -> Result<Option<Mount>, Problem> {
    let fields = reader.fields(item.tree, &item.path, keys::VOLUME)?;
    let kind = fields.get("type").map(Field::text).transpose()?.unwrap_or("volume");
    if kind != "bind" {
        reader.problem(item.problem(format!("mounts of type {kind} are not there yet; allowed is: bind")));
        return Ok(None);
    }
    let source = fields.get("source").map(Field::text).transpose()?.unwrap_or_default().to_string();
    let target = fields.get("target").map(Field::text).transpose()?.unwrap_or_default().to_string();
    let read_only = fields.get("read_only").map(|field| reader.bool(field)).transpose()?.unwrap_or(false);
    match absolute(Mount { kind: kind.into(), source, target, read_only }) {
        Ok(mount) => Ok(Some(mount)),
        Err(told) => {
            reader.problem(item.problem(told));
            Ok(None)
        }
    }
}

fn absolute(mount: Mount) -> Result<Mount, String> {
    for (side, path) in [("source", &mount.source), ("target", &mount.target)] {
        if !path.starts_with('/') {
            return Err(format!("{side} '{path}' is not an absolute path"));
        }
    }
    Ok(mount)
}
