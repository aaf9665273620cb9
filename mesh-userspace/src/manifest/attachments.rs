//! `networks` of a service.

use std::collections::BTreeMap;

use super::container::texts;
use super::errors::Problem;
use super::reader::{Field, Reader};
use super::{DEFAULT_NETWORK, DeclaredNetwork, keys, with_short_name};
use crate::model::NetworkAttachment;

/// A list of names, the first of which leads out, or a mapping of names to what the service wants there. The order of a mapping
/// says nothing, so it must change nothing: it is sorted by name.
pub(super) fn read(
    service: &str,
    field: Option<&Field>,
    networks: &BTreeMap<String, DeclaredNetwork>,
    reader: &mut Reader,
) -> Result<Vec<NetworkAttachment>, Problem> {
    let mut wanted: Vec<NetworkAttachment> = Vec::new();
    for (at, network, aliases) in asked(field, reader)? {
        if !networks.contains_key(&network) && network != DEFAULT_NETWORK {
            let known = networks.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none is".to_string() } else { format!("declared are: {known}") };
            reader.problem(at.problem(format!("the network '{network}' is not declared under 'networks'; {known}")));
        }
        if wanted.iter().any(|other| other.network == network) {
            reader.problem(at.problem(format!("the network '{network}' is named twice: once is enough")));
            continue;
        }
        wanted.push(NetworkAttachment { network, aliases });
    }
    if wanted.is_empty() {
        wanted.push(NetworkAttachment { network: DEFAULT_NETWORK.to_string(), aliases: Vec::new() });
    }
    if field.is_some_and(Field::is_map) {
        wanted.sort_by(|a, b| a.network.cmp(&b.network));
    }
    Ok(wanted.into_iter().map(|attachment| with_short_name(attachment, service)).collect())
}

type Asked<'t> = (Field<'t>, String, Vec<String>);

fn asked<'t>(field: Option<&Field<'t>>, reader: &mut Reader) -> Result<Vec<Asked<'t>>, Problem> {
    let Some(field) = field else { return Ok(Vec::new()) };
    let mut asked = Vec::new();
    if field.is_list() {
        for item in field.items()? {
            let name = item.text()?.to_string();
            asked.push((item, name, Vec::new()));
        }
        return Ok(asked);
    }
    for (name, at) in reader.entries(field.tree, &field.path)? {
        let fields = reader.fields(at.tree, &at.path, keys::ATTACHMENT)?;
        let aliases = fields.get("aliases").map(texts).transpose()?.unwrap_or_default();
        asked.push((at, name.to_string(), aliases));
    }
    Ok(asked)
}
