//! Files with secrets: written whole or not at all, 0600 in a 0700 folder, refused when others could read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{FOLDER, IdentityError};
use crate::model::UnixMs;

/// Our files have a few KiB; more is not ours.
const MAX_BYTES: u64 = 1 << 20;

pub(super) fn path(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join(FOLDER).join(name)
}

/// Writes a file that either has the old or the new content after a crash or power loss.
pub(super) fn write<T: Serialize>(state_dir: &Path, name: &str, content: &T) -> Result<(), IdentityError> {
    let folder = state_dir.join(FOLDER);
    let (target, draft) = (folder.join(name), folder.join(format!("{name}.new")));
    let file_error = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| IdentityError::File { action, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(file_error("create", &folder))?;
    let json = serde_json::to_vec_pretty(content)
        .map(Zeroizing::new)
        .map_err(|error| IdentityError::Corrupt { path: target.clone(), detail: error.to_string() })?;

    // A draft that a crash left behind is of no use, and its mode is not known.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file_error("remove", &draft)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(file_error("create", &draft))?;
    file.write_all(&json).and_then(|()| file.sync_all()).map_err(file_error("write", &draft))?;
    fs::rename(&draft, &target).map_err(file_error("replace", &target))?;
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(file_error("sync", &folder))
}

/// None where there is no such file.
pub(super) fn read<T: DeserializeOwned>(state_dir: &Path, name: &str) -> Result<Option<T>, IdentityError> {
    let path = path(state_dir, name);
    let file_error = |source| IdentityError::File { action: "read", path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(error)),
    };
    let mode = file.metadata().map_err(file_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path, mode });
    }
    // Enough room at once: a vector that grows leaves copies behind that nobody wipes.
    let mut json = Zeroizing::new(Vec::with_capacity(64 * 1024));
    file.take(MAX_BYTES).read_to_end(&mut json).map_err(file_error)?;
    match serde_json::from_slice(&json) {
        Ok(content) => Ok(Some(content)),
        // serde_json names the place and what was expected; it may quote a value, so only the place is kept.
        Err(error) => {
            let detail = format!("line {} column {}", error.line(), error.column());
            Err(IdentityError::Corrupt { path, detail })
        }
    }
}

pub(super) fn remove(state_dir: &Path, name: &str) -> Result<(), IdentityError> {
    let path = path(state_dir, name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(IdentityError::File { action: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// The generation of a new life of this agent: higher than every one before, also where the clock was set back.
///
/// Gossip orders lives by it; a life with a lower number than its predecessor would be taken for a replay.
pub fn next_generation(state_dir: &Path, now: UnixMs) -> Result<u64, IdentityError> {
    const NAME: &str = "generation.json";
    let last: u64 = read(state_dir, NAME)?.unwrap_or(0);
    let generation = now.max(last.saturating_add(1));
    write(state_dir, NAME, &generation)?;
    Ok(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_replaced_whole_and_refused_when_exposed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read::<String>(dir.path(), "a.json").unwrap(), None);
        write(dir.path(), "a.json", &"one").unwrap();
        fs::write(dir.path().join(FOLDER).join("a.json.new"), "left by a crash").unwrap();
        write(dir.path(), "a.json", &"two").unwrap();
        assert_eq!(read::<String>(dir.path(), "a.json").unwrap().as_deref(), Some("two"));
        let file = path(dir.path(), "a.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join(FOLDER)).unwrap().permissions().mode() & 0o777, 0o700);

        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read::<String>(dir.path(), "a.json"), Err(IdentityError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "\"hunter2").unwrap();
        let error = read::<u64>(dir.path(), "a.json").unwrap_err().to_string();
        assert!(error.contains("a.json") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn generations_grow_even_when_the_clock_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(next_generation(dir.path(), 1000).unwrap(), 1000);
        assert_eq!(next_generation(dir.path(), 10).unwrap(), 1001);
        assert_eq!(next_generation(dir.path(), 5000).unwrap(), 5000);
    }
}
