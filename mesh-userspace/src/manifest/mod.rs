//! A manifest – a Compose file as `docker stack deploy` takes it – from text to a [`Stack`]. Pure: variables and files
//! come through an argument ([`Around`]).
//!
//! Walk: text → [`tree`] (YAML with places) → [`expand`] (`${VAR}`) → [`merge`] (of several) → sections ([`services`] and what belongs to one,
//! [`networks`], [`volumes`]) → [`Manifest`] → [`Manifest::stack`] (names get the stack's prefix).
//! Invariant: a key is understood, warned of by name or refused; none is dropped in silence. A shape error (wrong
//! type, unknown key) stops at once; errors of meaning come all together, each with file, line, column and key.

mod around;
mod attachments;
mod container;
mod deploy;
mod environment;
mod errors;
mod expand;
mod health;
mod keys;
mod merge;
mod mounts;
mod networks;
mod notation;
mod ports;
mod print;
mod published;
mod reader;
mod services;
mod tree;
mod volumes;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::model::{NetworkAttachment, NetworkSpec, ServiceSpec, Stack};

pub use around::Around;
pub use environment::parse_env_file;
pub use errors::{Errors, Place, Problem};
pub use notation::{parse_affinity, parse_bytes, parse_duration_ms, parse_nano_cpus, parse_weight_by, split_words};
pub use ports::{parse_protocol, parse_publish};

use reader::Reader;
use volumes::DeclaredVolume;

/// Name of the network that services are on which name none.
const DEFAULT_NETWORK: &str = "default";

/// A manifest as understood, before a stack's name is known: services and networks under their short names.
#[derive(Clone, Debug)]
pub struct Manifest {
    files: Vec<String>,
    services: Vec<ServiceSpec>,
    networks: BTreeMap<String, DeclaredNetwork>,
    volumes: BTreeMap<String, DeclaredVolume>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
enum DeclaredNetwork {
    /// Belongs to the stack; with a name of its own where the manifest gives one.
    Own { spec: NetworkSpec, name: Option<String> },
    /// Made by someone else, under this name.
    External { name: String },
}

/// Understands a manifest that asks nothing of where it is read but variables. `file` is the name that errors show.
pub fn parse(file: &str, text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Manifest, Errors> {
    let read = |path: &std::path::Path| Err(format!("{}: files are not read here", path.display()));
    parse_in(file, text, &Around { folder: None, variable, read: &read })
}

/// Understands a manifest where it is.
pub fn parse_in(file: &str, text: &str, around: &Around) -> Result<Manifest, Errors> {
    parse_all(&[(file, text)], around)
}

/// Understands several manifests as one: a later one says more, and wins where both speak.
///
/// # Errors
/// What is wrong, each with file, line, column and key; without a manifest there is nothing to read either.
pub fn parse_all(manifests: &[(&str, &str)], around: &Around) -> Result<Manifest, Errors> {
    let files: Vec<String> = manifests.iter().map(|(file, _)| file.to_string()).collect();
    let mut reader = Reader::new(&files, around);
    let read = read_all(manifests, &mut reader);
    let document = match read {
        Ok(document) => document,
        // Meaning errors found before the shape broke are true as well, but may be its consequence.
        Err(stop) => return Err(Errors::new(&files, vec![stop])),
    };
    let (problems, warnings) = reader.finish();
    if !problems.is_empty() {
        return Err(Errors::new(&files, problems));
    }
    let Document { services, networks, volumes } = document;
    Ok(Manifest { files, services, networks, volumes, warnings })
}

fn read_all(manifests: &[(&str, &str)], reader: &mut Reader) -> Result<Document, Problem> {
    let mut merged: Option<tree::Tree> = None;
    for (file, (_, text)) in manifests.iter().enumerate() {
        let tree = expand::expand(tree::parse(file, text)?, reader);
        merged = Some(match merged {
            Some(base) => merge::merge(base, tree),
            None => tree,
        });
    }
    let tree = merged.ok_or_else(|| Problem::new(Place::START, "", "there is no manifest"))?;
    read_document(&tree, reader)
}

struct Document {
    services: Vec<ServiceSpec>,
    networks: BTreeMap<String, DeclaredNetwork>,
    volumes: BTreeMap<String, DeclaredVolume>,
}

fn read_document(tree: &tree::Tree, reader: &mut Reader) -> Result<Document, Problem> {
    let top = reader.fields(tree, "", keys::TOP)?;
    let networks = top.get("networks").map(|field| networks::read(field, reader)).transpose()?;
    let mut networks = networks.unwrap_or_default();
    let volumes = top.get("volumes").map(|field| volumes::read(field, reader)).transpose()?.unwrap_or_default();
    let Some(field) = top.get("services") else {
        return Err(Problem::new(tree.place, "services", "is missing: a manifest without services does nothing"));
    };
    let declared = services::Declarations { networks: &networks, volumes: &volumes };
    let services = services::read(field, declared, reader)?;
    published::check(&services, reader);
    networks
        .entry(DEFAULT_NETWORK.to_string())
        .or_insert_with(|| DeclaredNetwork::Own { spec: NetworkSpec::named(DEFAULT_NETWORK), name: None });
    let services = services.into_iter().map(|(_, spec)| spec).collect();
    Ok(Document { services, networks, volumes })
}

impl Manifest {
    /// Keys that were understood to be ignored, each with its place.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The stack of this name: networks that services use and that belong to it, services with prefixed names.
    pub fn stack(&self, name: &str) -> Result<Stack, Errors> {
        let mut problems = Vec::new();
        if !is_name(name) {
            let told =
                format!("'{name}' is no name for a stack: letters, digits, '-', '_', beginning with a letter or digit");
            problems.push(Problem::new(Place::START, "", told));
        }
        let label = |labels: &mut BTreeMap<String, String>| labels.insert(Stack::LABEL.into(), name.to_string());
        let mut used: Vec<&str> = Vec::new();
        let mut services = Vec::new();
        for spec in &self.services {
            let mut service = spec.clone();
            service.name = format!("{name}_{}", spec.name);
            label(&mut service.labels);
            for attachment in &mut service.networks {
                let Some((short, network)) = self.networks.get_key_value(&attachment.network) else { continue };
                used.push(short);
                attachment.network = network.name_in(name, short);
            }
            for mount in service.task.mounts.iter_mut().filter(|mount| mount.kind == "volume") {
                if let Some(volume) = self.volumes.get(&mount.source) {
                    volume.applied_to(mount, name);
                }
            }
            services.push(service);
        }
        if !problems.is_empty() {
            return Err(Errors::new(&self.files, problems));
        }
        let own = self.networks.iter().filter(|(short, _)| used.contains(&short.as_str()));
        let networks = own.filter_map(|(short, network)| match network {
            DeclaredNetwork::Own { spec, .. } => {
                let mut spec = NetworkSpec { name: network.name_in(name, short), ..spec.clone() };
                label(&mut spec.labels);
                Some(spec)
            }
            DeclaredNetwork::External { .. } => None,
        });
        Ok(Stack { name: name.to_string(), networks: networks.collect(), services })
    }
}

impl DeclaredNetwork {
    fn name_in(&self, stack: &str, short: &str) -> String {
        match self {
            DeclaredNetwork::Own { name: Some(name), .. } | DeclaredNetwork::External { name } => name.clone(),
            DeclaredNetwork::Own { name: None, .. } => format!("{stack}_{short}"),
        }
    }
}

/// The short name of a service is an alias of it on each of its networks.
fn with_short_name(mut attachment: NetworkAttachment, service: &str) -> NetworkAttachment {
    if !attachment.aliases.iter().any(|alias| alias == service) {
        attachment.aliases.insert(0, service.to_string());
    }
    attachment
}

/// Fit for a name of a stack, service or network: it becomes part of DNS names.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && name.len() <= 63
}
