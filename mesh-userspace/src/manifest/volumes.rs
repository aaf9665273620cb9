//! The section `volumes`: named volumes that the Docker Engines of the nodes keep.

use std::collections::BTreeMap;

use super::errors::Problem;
use super::reader::{Field, Reader};
use super::{keys, networks};
use crate::model::{Mount, Stack};

#[derive(Clone, Debug)]
pub(super) enum DeclaredVolume {
    /// Made by the Engine of each node that runs a task with it.
    Own {
        name: Option<String>,
        driver: Option<String>,
        driver_opts: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    },
    /// Made by someone else, under this name.
    External { name: String },
}

pub(super) fn read(field: &Field, reader: &mut Reader) -> Result<BTreeMap<String, DeclaredVolume>, Problem> {
    let mut volumes = BTreeMap::new();
    for (short, volume) in reader.entries(field.tree, &field.path)? {
        if !is_name(short) {
            let told = "this is no name for a volume: letters, digits, '-', '_', '.', beginning with a letter or digit";
            reader.problem(volume.key_problem(told));
        }
        volumes.insert(short.to_string(), read_volume(short, &volume, reader)?);
    }
    Ok(volumes)
}

/// As the Engine has it.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn read_volume(short: &str, volume: &Field, reader: &mut Reader) -> Result<DeclaredVolume, Problem> {
    let fields = reader.fields(volume.tree, &volume.path, keys::VOLUME)?;
    let text = |key: &str| fields.get(key).filter(|field| !field.is_nothing()).map(Field::text).transpose();
    let name = text("name")?.map(str::to_string);
    if let Some(name) = networks::external(&fields, short, name.as_deref(), reader)? {
        return Ok(DeclaredVolume::External { name });
    }
    let driver_opts = fields.get("driver_opts").map(|field| networks::labels(field, reader)).transpose()?;
    let labels = fields.get("labels").map(|field| networks::labels(field, reader)).transpose()?;
    Ok(DeclaredVolume::Own {
        name,
        driver: text("driver")?.map(str::to_string),
        driver_opts: driver_opts.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
    })
}

impl DeclaredVolume {
    /// The mount with the volume's full name, and with what the Engine needs to make it.
    pub(super) fn applied_to(&self, mount: &mut Mount, stack: &str) {
        match self {
            DeclaredVolume::External { name } => mount.source = name.clone(),
            DeclaredVolume::Own { name, driver, driver_opts, labels } => {
                mount.source = name.clone().unwrap_or_else(|| format!("{stack}_{}", mount.source));
                mount.options.driver = driver.clone();
                mount.options.driver_opts = driver_opts.clone();
                mount.options.labels.extend(labels.clone());
                mount.options.labels.insert(Stack::LABEL.to_string(), stack.to_string());
            }
        }
    }
}
