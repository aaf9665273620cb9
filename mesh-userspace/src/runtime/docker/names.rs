//! Names for a container that joined by its label: its resolv.conf, on networks where Docker has no resolver of its own.
//!
//! ```text
//! give       record (former content) on disk ──► the file rewritten in place
//! take_back  the file rewritten in place     ──► record removed
//! ```
//! The file is bind-mounted into the container: it keeps its inode, whatever is written. Only our own resolver is in it, because
//! some C libraries ask all servers at once and take the first answer, even "no such name"; search domains and options stay.
//! Invariant: the former content is on disk before the file changes, and never is our own; what somebody else wrote meanwhile stays.
//! Must not: touch a file of networks that users made, where Docker's resolver knows names that ours does not.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::runtime::json_file::{read_if_there, write_json};

/// The first line of what we write, by which we know it again.
const MARK: &str = "# By mesh, while this container is on its networks.";

/// Below the state directory.
const FOLDER: &str = "guests";

/// What can go wrong with a container's resolv.conf.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {attempt} {path}: {source}: names of the container's mesh networks may not resolve in it, or its own not after it left"
)]
pub struct NamesError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What there was before.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    resolv_conf: PathBuf,
    former: String,
}

/// Where the former content of this container's file is kept: `<state-dir>/guests/<container>.json`.
pub fn kept_in(state_dir: &Path, container: &str) -> PathBuf {
    state_dir.join(FOLDER).join(format!("{container}.json"))
}

/// The containers whose former content is kept: those that have our names, and those that a former agent could not take them back from.
pub fn kept(state_dir: &Path) -> Result<Vec<String>, NamesError> {
    let folder = state_dir.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", &folder))?,
    };
    let container = |name: String| name.strip_suffix(".json").map(str::to_owned);
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut containers: Vec<String> = names.filter_map(container).collect();
    containers.sort();
    Ok(containers)
}

/// Makes `nameserver` the container's resolver; `search` comes before its own search domains. `kept_in` is the file that keeps the
/// former content until [`take_back`], one for each container. Repeating it does no harm; another `nameserver` replaces the first.
pub fn give(resolv_conf: &Path, kept_in: &Path, nameserver: IpAddr, search: &[String]) -> Result<(), NamesError> {
    let current = read(resolv_conf)?;
    let kept = read_kept(kept_in)?.filter(|kept| kept.resolv_conf == resolv_conf);
    let is_kept = kept.is_some();
    let former = match kept {
        // An empty file is what a machine may be left with that lost power while we wrote.
        Some(kept) if current.starts_with(MARK) || current.is_empty() => kept.former,
        // The record was lost: what is left of the former is better than nothing.
        None if current.starts_with(MARK) => without_ours(&current),
        _ => current.clone(),
    };
    let ours = content(&former, nameserver, search);
    if is_kept && current == ours {
        return Ok(());
    }
    keep(kept_in, &Kept { resolv_conf: resolv_conf.to_owned(), former })?;
    rewrite(resolv_conf, &ours)
}

/// Puts the former content back, unless somebody else wrote the file meanwhile (Docker does when the container gets a network with
/// names of Docker's own) or it is gone with its container. Without a record there is nothing to do.
pub fn take_back(kept_in: &Path) -> Result<(), NamesError> {
    let Some(kept) = read_kept(kept_in)? else { return Ok(()) };
    match std::fs::read_to_string(&kept.resolv_conf) {
        Ok(current) if current.starts_with(MARK) || current.is_empty() => rewrite(&kept.resolv_conf, &kept.former)?,
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(NamesError { attempt: "read", path: kept.resolv_conf, source }),
    }
    std::fs::remove_file(kept_in).map_err(failed("remove", kept_in))
}

/// resolv.conf(5). The last `search` line counts there, so there is one.
fn content(former: &str, nameserver: IpAddr, search: &[String]) -> String {
    let mut own_search: &str = "";
    let mut options = Vec::new();
    for line in former.lines() {
        match line.split_once(char::is_whitespace) {
            Some(("search" | "domain", domains)) => own_search = domains,
            Some(("options", words)) => {
                options.extend(words.split_whitespace().filter(|word| !word.starts_with("ndots:")));
            }
            _ => {}
        }
    }
    let own_search = own_search.split_whitespace().filter(|domain| *domain != ".");
    let domains: Vec<&str> = search.iter().map(String::as_str).chain(own_search).collect();
    options.push("ndots:0");
    let mut text = format!("{MARK}\nnameserver {nameserver}\n");
    if !domains.is_empty() {
        text += &format!("search {}\n", domains.join(" "));
    }
    text + &format!("options {}\n", options.join(" "))
}

fn without_ours(text: &str) -> String {
    let is_theirs = |line: &&str| !line.starts_with(MARK) && !line.starts_with("nameserver");
    text.lines().filter(is_theirs).map(|line| format!("{line}\n")).collect()
}

fn read(path: &Path) -> Result<String, NamesError> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

fn read_kept(path: &Path) -> Result<Option<Kept>, NamesError> {
    read_if_there(path).map_err(failed("read", path))
}

/// On disk when this returns, its name too.
fn keep(path: &Path, kept: &Kept) -> Result<(), NamesError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        std::fs::create_dir_all(folder)?;
        write_json(path, kept)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(failed("write", path))
}

/// The same file with another content. It is cut after writing, not before: a reader never meets an empty one.
fn rewrite(path: &Path, text: &str) -> Result<(), NamesError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NamesError {
    let path = path.to_owned();
    move |source| NamesError { attempt, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use std::net::Ipv4Addr;

    use super::*;

    const FORMER: &str =
        "# Generated by Docker Engine.\nnameserver 192.0.2.53\nsearch corp.example\noptions edns0 ndots:2\n";
    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 16, 1));

    struct Files {
        _folder: tempfile::TempDir,
        resolv_conf: PathBuf,
        kept_in: PathBuf,
    }

    impl Files {
        fn new() -> Files {
            let folder = tempfile::tempdir().unwrap();
            let (resolv_conf, kept_in) = (folder.path().join("resolv.conf"), folder.path().join("guests/one.json"));
            std::fs::write(&resolv_conf, FORMER).unwrap();
            Files { _folder: folder, resolv_conf, kept_in }
        }

        fn give(&self, nameserver: IpAddr) {
            give(&self.resolv_conf, &self.kept_in, nameserver, &[]).unwrap();
        }

        fn text(&self) -> String {
            std::fs::read_to_string(&self.resolv_conf).unwrap()
        }

        fn inode(&self) -> u64 {
            std::fs::metadata(&self.resolv_conf).unwrap().ino()
        }
    }

    #[test]
    fn the_same_file_is_given_and_taken_back_to_the_byte() {
        let files = Files::new();
        let inode = files.inode();
        give(&files.resolv_conf, &files.kept_in, GATEWAY, &["shop.example".into()]).unwrap();
        let wanted = format!("{MARK}\nnameserver 10.0.16.1\nsearch shop.example corp.example\noptions edns0 ndots:0\n");
        assert_eq!((files.text(), files.inode()), (wanted, inode));
        take_back(&files.kept_in).unwrap();
        assert_eq!((files.text().as_str(), files.inode()), (FORMER, inode));
        assert!(!files.kept_in.exists());
        take_back(&files.kept_in).expect("nothing to do");
    }

    #[test]
    fn those_that_have_our_names_are_known() {
        let (files, state) = (Files::new(), tempfile::tempdir().unwrap());
        assert_eq!(kept(state.path()).unwrap(), Vec::<String>::new());
        for container in ["bb", "aa"] {
            give(&files.resolv_conf, &kept_in(state.path(), container), GATEWAY, &[]).unwrap();
        }
        assert_eq!(kept(state.path()).unwrap(), ["aa", "bb"]);
        take_back(&kept_in(state.path(), "aa")).unwrap();
        assert_eq!(kept(state.path()).unwrap(), ["bb"]);
    }

    #[test]
    fn a_second_time_keeps_what_was_there_before_the_first() {
        let files = Files::new();
        files.give(GATEWAY);
        files.give(GATEWAY);
        files.give(Ipv4Addr::new(10, 0, 32, 1).into());
        assert_eq!(files.text().matches("nameserver").count(), 1);
        assert!(files.text().contains("nameserver 10.0.32.1\n"));
        take_back(&files.kept_in).unwrap();
        assert_eq!(files.text(), FORMER);
    }

    #[test]
    fn an_agent_that_died_between_the_two_writes_does_no_harm() {
        let files = Files::new();
        keep(&files.kept_in, &Kept { resolv_conf: files.resolv_conf.clone(), former: FORMER.into() }).unwrap();
        take_back(&files.kept_in).unwrap();
        assert_eq!(files.text(), FORMER);
        files.give(GATEWAY);
        std::fs::write(&files.resolv_conf, "").unwrap();
        files.give(GATEWAY);
        take_back(&files.kept_in).unwrap();
        assert_eq!(files.text(), FORMER);
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_stays() {
        let files = Files::new();
        files.give(GATEWAY);
        let dockers = "nameserver 127.0.0.11\noptions ndots:0\n";
        std::fs::write(&files.resolv_conf, dockers).unwrap();
        take_back(&files.kept_in).unwrap();
        assert_eq!(files.text(), dockers);
        // Started again, a container has a new content under the same path: that is the former one now.
        files.give(GATEWAY);
        std::fs::write(&files.resolv_conf, FORMER).unwrap();
        files.give(GATEWAY);
        take_back(&files.kept_in).unwrap();
        assert_eq!(files.text(), FORMER);
    }

    #[test]
    fn a_container_that_is_gone_takes_its_file_along() {
        let files = Files::new();
        files.give(GATEWAY);
        std::fs::remove_file(&files.resolv_conf).unwrap();
        take_back(&files.kept_in).unwrap();
        assert!(!files.kept_in.exists() && !files.resolv_conf.exists());
        let error = give(&files.resolv_conf, &files.kept_in, GATEWAY, &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("resolv.conf"), "{error}");
    }

    #[test]
    fn a_lost_record_is_not_replaced_by_our_own_content() {
        let files = Files::new();
        files.give(GATEWAY);
        std::fs::remove_file(&files.kept_in).unwrap();
        files.give(GATEWAY);
        take_back(&files.kept_in).unwrap();
        assert_eq!(files.text(), "search corp.example\noptions edns0 ndots:0\n");
    }
}
