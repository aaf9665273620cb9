//! Kernel settings below `/proc/sys`: read, write, and put back.
//!
//! Before the first change of a setting of the host its value goes to a file in the state directory; whoever runs last (purge, or
//! an agent whose image no longer names it) puts it back. Settings of links of our own need no record, they vanish with the link.
//! Invariant: the record is on disk before the setting changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::NetError;
use crate::plan::net::dies_with_our_link;

/// Key → value before we changed it.
type Record = BTreeMap<String, String>;

pub(super) struct Sysctls {
    record: PathBuf,
}

impl Sysctls {
    /// `state_dir/sysctl.json` is the record.
    pub fn new(state_dir: &Path) -> Self {
        Sysctls { record: state_dir.join("sysctl.json") }
    }

    /// Keys that are to be put back one day.
    pub fn recorded(&self) -> Result<Record, NetError> {
        let failed = |source| self.failed("read", source);
        match fs::read(&self.record) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::new()),
            Err(error) => Err(failed(error)),
        }
    }

    pub fn set(&self, key: &str, value: &str) -> Result<(), NetError> {
        if !dies_with_our_link(key) {
            let mut record = self.recorded()?;
            if let (false, Some(former)) = (record.contains_key(key), read(key)) {
                record.insert(key.to_string(), former);
                self.save(&record)?;
            }
        }
        write(key, value)
    }

    /// Nothing to do for a key that is not on record.
    pub fn restore(&self, key: &str) -> Result<(), NetError> {
        let mut record = self.recorded()?;
        let Some(former) = record.remove(key) else { return Ok(()) };
        write(key, &former)?;
        self.save(&record)
    }

    /// Replaced as a whole, and on disk when this returns; an empty record is no file.
    fn save(&self, record: &Record) -> Result<(), NetError> {
        let failed = |source| self.failed("written", source);
        if record.is_empty() {
            return match fs::remove_file(&self.record) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let fresh = self.record.with_extension("json.new");
        let write_all = || -> io::Result<()> {
            if let Some(dir) = self.record.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.record)
        };
        write_all().map_err(failed)
    }

    fn failed(&self, verb: &'static str, source: io::Error) -> NetError {
        NetError::SysctlRecord { path: self.record.display().to_string(), verb, source }
    }
}

/// The value of the moment; None where the key does not exist. On a kernel without IPv6, IPv6 is as good as disabled.
pub(super) fn read(key: &str) -> Option<String> {
    match fs::read_to_string(path(key)) {
        Ok(value) => Some(value.trim().to_string()),
        Err(_) if is_moot(key) && key.ends_with("/disable_ipv6") => Some("1".into()),
        Err(_) => None,
    }
}

/// Writes in the calling thread's namespace.
pub(super) fn write(key: &str, value: &str) -> Result<(), NetError> {
    match fs::write(path(key), value) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_moot(key) => Ok(()),
        Err(error) => Err(NetError::os(format!("set {} to {value}", key.replace('/', ".")), error)),
    }
}

/// A kernel without IPv6 has none of its settings.
fn is_moot(key: &str) -> bool {
    key.starts_with("net/ipv6/") && !has_ipv6()
}

/// The kernel knows IPv6 at all; whether a link has it is another question.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}
