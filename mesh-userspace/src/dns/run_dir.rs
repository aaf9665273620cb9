//! The resolver's files in the run directory, and who owns them.
//!
//! One resolver a run directory: it holds a POSIX lock on `resolver.lock` for its life. The kernel drops the lock when
//! the process ends, however it ends, and tells its holder's pid to whoever asks (fcntl(2), F_GETLK); so there is no
//! stale pid file to be believed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::Pid;

/// A run directory as the resolver uses it.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    pub fn new(path: &Path) -> Self {
        RunDir(path.to_path_buf())
    }

    /// Where the agent connects.
    pub fn socket(&self) -> PathBuf {
        self.0.join("resolver.sock")
    }

    /// The zone last pushed, for a resolver that starts while no agent is there.
    pub fn zone(&self) -> PathBuf {
        self.0.join("resolver-zone.json")
    }

    /// Standard output and error of the process.
    pub fn log(&self) -> PathBuf {
        self.0.join("resolver.log")
    }

    fn lock(&self) -> PathBuf {
        self.0.join("resolver.lock")
    }

    /// Takes the lock for as long as the file returned is open.
    pub fn claim(&self) -> io::Result<File> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.lock())?;
        fcntl(&file, FcntlArg::F_SETLK(&whole_file()))?;
        Ok(file)
    }

    /// The process that holds the lock.
    pub fn owner(&self) -> io::Result<Option<Pid>> {
        let file = match OpenOptions::new().write(true).open(self.lock()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut found = whole_file();
        fcntl(&file, FcntlArg::F_GETLK(&mut found))?;
        Ok((i32::from(found.l_type) != libc::F_UNLCK && found.l_pid > 0).then(|| Pid::from_raw(found.l_pid)))
    }

    /// Writes a file so that a reader finds the old content or the new one, whole, and nobody but us reads it.
    pub fn write_whole(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        std::fs::rename(&unfinished, path)
    }

    /// Removes every file of the resolver. Call it when no resolver runs.
    pub fn clear(&self) -> io::Result<()> {
        for path in [self.socket(), self.zone(), self.zone().with_extension("new"), self.log(), self.lock()] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether taking the lock failed because somebody else has it.
pub fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EAGAIN | Errno::EACCES))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
