//! Naming a process so that nobody else can be meant: process ids are re-used, a pid with its start time is not.
//!
//! Used by the agent (is this supervisor, this container's process still the one we started?) and by the supervisor itself.
//! Invariant: a [`ProcessRef`] that [`is_alive`](ProcessRef::is_alive) is the very process that was recorded.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// One process of this boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    pub start_ticks: u64,
    /// /proc/sys/kernel/random/boot_id: ticks of another boot mean nothing.
    pub boot_id: String,
}

impl ProcessRef {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, start_ticks) = parse_stat(&stat).ok_or_else(|| io::Error::other("unreadable /proc/PID/stat"))?;
        Ok(ProcessRef { pid, start_ticks, boot_id: boot_id()? })
    }

    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// It exists and has not ended: a zombie does not count.
    pub fn is_alive(&self) -> bool {
        let same_boot = boot_id().is_ok_and(|id| id == self.boot_id);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        same_boot
            && parse_stat(&stat)
                .is_some_and(|(state, ticks)| ticks == self.start_ticks && !matches!(state, b'Z' | b'X'))
    }

    /// A descriptor that stays with this process; None if it has ended.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        match pidfd_open(self.pid) {
            // Asked after opening: now the pid can't be re-used behind our back.
            Ok(fd) if self.is_alive() => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A descriptor that becomes readable when the process has ended (Linux 5.3).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; the result is checked before it is used.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to exactly the process behind `pidfd`; one that has ended is no error.
pub fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: integers and a null siginfo, which the kernel fills as for kill(2).
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).or_else(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            _ => Err(error),
        }),
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// State and start time. The name in parentheses may hold spaces and parentheses itself, so count from the last one.
fn parse_stat(stat: &str) -> Option<(u8, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // Field 3 was the state; 22 is the start time.
    let ticks = fields.nth(22 - 4)?.parse().ok()?;
    Some((state, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_name() {
        let stat = "42 (a) R (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2";
        assert_eq!(parse_stat(stat), Some((b'S', 987_654)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn this_process_is_alive_and_its_double_is_not() {
        let own = ProcessRef::own().expect("own /proc entry");
        assert!(own.is_alive());
        assert!(own.pidfd().expect("pidfd").is_some());
        let double = ProcessRef { start_ticks: own.start_ticks + 1, ..own.clone() };
        assert!(!double.is_alive());
        let other_boot = ProcessRef { boot_id: "elsewhere".into(), ..own };
        assert!(other_boot.pidfd().expect("pidfd").is_none());
    }
}
