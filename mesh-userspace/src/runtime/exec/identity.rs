//! Whom a command runs as: `user[:group]` resolved by /etc/passwd and /etc/group, as Docker does it.
//!
//! The files are read directly: a name service switch could ask a daemon, and the process that forks must stay small
//! and single-threaded. Pure but for the two files.

use std::fs;

use nix::unistd::{Gid, Uid};

/// User, groups and home of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: Uid,
    pub gid: Gid,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
    pub home: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("user '{0}' is not in /etc/passwd of this node: add it, or give a number")]
    NoUser(String),
    #[error("group '{0}' is not in /etc/group of this node: add it, or give a number")]
    NoGroup(String),
}

impl Identity {
    /// `None` is root.
    pub fn resolve(user: Option<&str>) -> Result<Self, IdentityError> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::from_files(user.unwrap_or("0"), &read("/etc/passwd"), &read("/etc/group"))
    }

    fn from_files(wanted: &str, passwd: &str, group: &str) -> Result<Self, IdentityError> {
        let (user, chosen_group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (wanted, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        // A name wins over a number, as with Docker and chown.
        let entry = passwd_entries(passwd)
            .find(|entry| entry.name == user)
            .or_else(|| passwd_entries(passwd).find(|entry| user.parse() == Ok(entry.uid)));
        let (uid, primary, home, name) = match entry {
            Some(entry) => (entry.uid, entry.gid, entry.home, Some(entry.name)),
            None => {
                let uid = user.parse().map_err(|_| IdentityError::NoUser(user.to_owned()))?;
                (uid, 0, "/", None)
            }
        };
        let (gid, groups) = match chosen_group {
            Some(chosen) => (group_number(chosen, group)?, Vec::new()),
            None => (primary, name.map(|name| groups_of(name, group)).unwrap_or_default()),
        };
        Ok(Identity {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.into_iter().map(Gid::from_raw).collect(),
            home: home.to_owned(),
        })
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Lines that are not passwd(5) are skipped.
fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// group(5) as (name, number, members).
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        Some((name, gid.parse().ok()?, members))
    })
}

fn group_number(wanted: &str, group: &str) -> Result<u32, IdentityError> {
    let named = group_entries(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
    named.or_else(|| wanted.parse().ok()).ok_or_else(|| IdentityError::NoGroup(wanted.to_owned()))
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let is_member = |members: &str| members.split(',').any(|member| member == user);
    group_entries(group).filter(|(.., members)| is_member(members)).map(|(_, gid, _)| gid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\n# comment\nweb:x:33:34:www:/var/www:/bin/false\n1000:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nmail:x:8:web,other\nadm:x:4:web\ntty:x:5:\n";

    fn resolve(user: &str) -> Result<(u32, u32, Vec<u32>, String), IdentityError> {
        let id = Identity::from_files(user, PASSWD, GROUP)?;
        Ok((id.uid.as_raw(), id.gid.as_raw(), id.groups.iter().map(|gid| gid.as_raw()).collect(), id.home))
    }

    #[test]
    fn names_numbers_and_groups_as_docker_has_them() {
        assert_eq!(resolve("web"), Ok((33, 34, vec![8, 4], "/var/www".into())));
        assert_eq!(resolve("33"), Ok((33, 34, vec![8, 4], "/var/www".into())));
        assert_eq!(resolve("web:tty"), Ok((33, 5, vec![], "/var/www".into())));
        assert_eq!(resolve("4242:4243"), Ok((4242, 4243, vec![], "/".into())));
        assert_eq!(resolve("1000"), Ok((7, 8, vec![], "/odd".into())), "a name wins over a number");
        assert_eq!(resolve(""), Ok((0, 0, vec![], "/root".into())));
        assert_eq!(resolve("nobody-here"), Err(IdentityError::NoUser("nobody-here".into())));
        assert_eq!(resolve("web:nogroup"), Err(IdentityError::NoGroup("nogroup".into())));
    }
}
