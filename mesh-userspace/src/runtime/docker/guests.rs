//! Containers of others that are tasks now: what this node writes down about them, and what it takes back when they leave.
//!
//! ```text
//! <state-dir>/joined/<task id>.json         which process it is: a restarted agent finds it without the Engine
//! <state-dir>/guests/<container>.json       its former resolv.conf, see names
//! ```
//! Invariant: what is on record is a guest or was one, and letting it go takes everything back. Must not: stop, signal, pause or remove a
//! container; nothing here speaks with the Engine.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Adoptable, names};
use crate::model::{Id, TaskHealth, UnixMs};
use crate::runtime::json_file::{read_json, write_json};
use crate::runtime::process::ProcessRef;

/// A container that is a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    pub task_id: Id,
    /// The container's id, 64 hexadecimal digits.
    pub container: String,
    process: ProcessRef,
    /// The Engine's last verdict; None: it has no healthcheck.
    pub health: Option<TaskHealth>,
    pub joined_at: UnixMs,
}

impl Guest {
    /// The container's first process.
    pub fn pid(&self) -> u32 {
        self.process.pid.unsigned_abs()
    }

    /// Its network namespace, while it lives.
    pub fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.process.pid).into()
    }

    /// Waits until its first process has ended; for ever where that can't be watched.
    pub async fn end(&self) {
        let watched = self.process.pidfd().and_then(|fd| {
            // SAFETY: the owned descriptor stays open, and the same, until the AsyncFd is dropped.
            let fd = fd.map(|fd| unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }).transpose()?;
            Ok(fd)
        });
        let ended = match watched {
            Ok(None) => Ok(()),
            Ok(Some(process)) => process.readable().await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            log::warn!("watch container {:.12}: {error}: its end is known as soon as the Engine tells", self.container);
            std::future::pending::<()>().await;
        }
    }

    /// It runs since it joined, and was not started anew.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }
}

/// The records of this node.
#[derive(Clone, Debug)]
pub struct Guests {
    state_dir: PathBuf,
}

impl Guests {
    pub fn of(state_dir: &Path) -> Self {
        Guests { state_dir: state_dir.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.state_dir.join("joined")
    }

    fn file(&self, task_id: &Id) -> PathBuf {
        self.folder().join(format!("{}.json", task_id.as_str()))
    }

    fn names_file(&self, container: &str) -> PathBuf {
        self.state_dir.join("guests").join(format!("{container}.json"))
    }

    /// A container becomes a task; on record when this returns.
    pub fn take_in(&self, task_id: &Id, found: &Adoptable, now: UnixMs) -> io::Result<Guest> {
        let guest = Guest {
            task_id: task_id.clone(),
            container: found.container.clone(),
            process: ProcessRef::of(found.pid)?,
            health: found.health,
            joined_at: now,
        };
        DirBuilder::new().recursive(true).mode(0o700).create(self.folder())?;
        self.keep(&guest)?;
        Ok(guest)
    }

    /// A changed record.
    pub fn keep(&self, guest: &Guest) -> io::Result<()> {
        write_json(&self.file(&guest.task_id), guest)
    }

    /// Its questions go to this resolver, where its resolv.conf is ours to write.
    pub fn give_names(&self, found: &Adoptable, nameserver: IpAddr) -> Result<(), names::NamesError> {
        let kept_in = self.names_file(&found.container);
        found.resolv_conf.as_deref().map_or(Ok(()), |file| names::give(file, &kept_in, nameserver, &[]))
    }

    /// All on record; one that can't be read is said and passed over.
    pub fn list(&self) -> io::Result<Vec<Guest>> {
        let entries = match fs::read_dir(self.folder()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let files = entries.filter_map(Result::ok).map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let read = |path: PathBuf| {
            let guest = read_json(&path);
            guest.inspect_err(|error| log::warn!("read {}: {error}: its container joins anew", path.display())).ok()
        };
        Ok(files.filter_map(read).collect())
    }

    /// Its names are its own again, and it is on record no more. The container runs on.
    pub fn let_go(&self, guest: &Guest) {
        if let Err(error) = names::take_back(&self.names_file(&guest.container)) {
            log::warn!("{error}");
        }
        match fs::remove_file(self.file(&guest.task_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("remove {}: {error}", self.file(&guest.task_id).display());
            }
            _ => {}
        }
    }

    /// As leaving and purging do; how many there were.
    pub fn let_all_go(&self) -> io::Result<usize> {
        let guests = self.list()?;
        guests.iter().for_each(|guest| self.let_go(guest));
        Ok(guests.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_on_record_until_it_is_let_go_and_gets_its_names_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let guests = Guests::of(folder.path());
        assert_eq!(guests.list().expect("listed"), []);
        let resolv_conf = folder.path().join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 192.0.2.53\n").expect("written");
        let found = Adoptable {
            container: "ab".repeat(32),
            pid: std::process::id().cast_signed(),
            resolv_conf: Some(resolv_conf.clone()),
            ..Adoptable::default()
        };
        let guest = guests.take_in(&Id::from_bytes([7; 16]), &found, 5).expect("on record");
        guests.give_names(&found, "10.0.16.1".parse().expect("an address")).expect("given");
        assert!(fs::read_to_string(&resolv_conf).expect("read").contains("10.0.16.1"));
        let mut changed = guest.clone();
        changed.health = Some(TaskHealth::Healthy);
        guests.keep(&changed).expect("kept");
        assert_eq!(Guests::of(folder.path()).list().expect("listed").as_slice(), std::slice::from_ref(&changed));
        assert!(changed.is_alive());

        assert_eq!(guests.let_all_go().expect("gone"), 1);
        assert_eq!(fs::read_to_string(&resolv_conf).expect("read"), "nameserver 192.0.2.53\n");
        assert_eq!(guests.list().expect("listed"), []);
        assert!(guests.take_in(&guest.task_id, &Adoptable { pid: i32::MAX, ..found }, 6).is_err(), "no such process");
    }
}
