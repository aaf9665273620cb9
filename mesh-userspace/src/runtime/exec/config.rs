//! This node's settings for tasks of the runtime `exec`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::model::Id;

/// The running binary, also after its file was replaced.
const OWN_BINARY: &str = "/proc/self/exe";
/// Directories whose files belong to many: never masked as a whole.
const SHARED_DIRS: [&str; 10] =
    ["/", "/run", "/var", "/var/run", "/var/lib", "/tmp", "/var/tmp", "/etc", "/usr", "/home"];

/// Where tasks live, what they do not see, and who supervises them.
#[derive(Clone, Debug)]
pub struct ExecConfig {
    /// The agent's `--state-dir`; tasks live in `tasks/` below it.
    pub state_dir: PathBuf,
    /// Short id of this node: names the cgroup of its tasks.
    pub node: String,
    /// A cgroup2 directory, as [`cgroup2_root`] finds it or `--cgroup` names it.
    pub cgroup_root: PathBuf,
    /// Directories that tasks find empty; see [`masked_dirs`].
    pub masked: Vec<PathBuf>,
    /// This binary and the arguments that go before `supervise` and `enter`; `/proc/self/exe` alone is right for the agent,
    /// also after the file was replaced by a newer one.
    pub program: Vec<OsString>,
    /// Size at which a task's log is rotated; one old file is kept beside it.
    pub log_max_bytes: u64,
}

impl ExecConfig {
    /// Settings of an agent: its own binary, logs of at most twice 10 MiB.
    pub fn new(state_dir: PathBuf, node: &Id, cgroup_root: PathBuf, masked: Vec<PathBuf>) -> Self {
        ExecConfig {
            state_dir,
            node: node.short().to_owned(),
            cgroup_root,
            masked,
            program: vec![OWN_BINARY.into()],
            log_max_bytes: 10 << 20,
        }
    }

    /// One of our helpers, `supervise` or `enter`, with nothing of the agent's environment.
    pub(super) fn helper(&self, name: &str) -> Command {
        let mut program = self.program.iter();
        let first = program.next().map_or(OsStr::new(OWN_BINARY), OsString::as_os_str);
        let mut command = Command::new(first);
        if first == OWN_BINARY {
            // Listings of processes shall show what it is.
            command.arg0("mesh");
        }
        command.args(program).arg(name).env_clear();
        command
    }
}

/// What of ours a task must not see: state, the socket's directory unless it is shared with others, our part of bpffs.
/// (Every bpffs and the host's resolver sockets are masked in any case.)
pub fn masked_dirs(state_dir: &Path, socket: &Path, bpf_dir: &Path) -> Vec<PathBuf> {
    let run_dir = socket.parent().unwrap_or(Path::new("/"));
    let candidates = [state_dir, run_dir, bpf_dir];
    let is_ours = |dir: &PathBuf| !SHARED_DIRS.iter().any(|shared| Path::new(shared) == dir);
    // Tasks are made from `/`, whatever directory the agent was started in.
    candidates.iter().filter_map(|dir| std::path::absolute(dir).ok()).filter(is_ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_shared_with_others_are_not_masked() {
        let masked = |socket| masked_dirs(Path::new("/var/lib/mesh"), Path::new(socket), Path::new("/sys/fs/bpf/mesh"));
        assert_eq!(masked("/run/mesh/mesh.sock").len(), 3);
        assert_eq!(masked("/tmp/mesh.sock"), [PathBuf::from("/var/lib/mesh"), PathBuf::from("/sys/fs/bpf/mesh")]);
    }
}
