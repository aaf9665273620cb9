//! What a manifest asks of the place where it is read: variables, files of variables, the folder that paths begin at.

use std::path::{Component, Path, PathBuf};

/// The surroundings of a manifest; its reading stays pure, the caller looks things up.
pub struct Around<'a> {
    /// Where relative paths begin: the manifest's folder, absolute; None: relative paths can't be had.
    pub folder: Option<PathBuf>,
    /// Value of `${VAR}`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Text of a file (`env_file`); the error says why it can't be read.
    pub read: &'a dyn Fn(&Path) -> Result<String, String>,
}

impl Around<'_> {
    /// An absolute path without `.` and `..`; `~` is the user's home, as Compose has it.
    pub(super) fn path(&self, text: &str) -> Result<String, String> {
        let home =
            || (self.variable)("HOME").ok_or_else(|| format!("'{text}': HOME is not set, so '~' names no folder"));
        let path = match text.strip_prefix('~') {
            Some("") => PathBuf::from(home()?),
            Some(rest) if rest.starts_with('/') => PathBuf::from(format!("{}{rest}", home()?)),
            _ => PathBuf::from(text),
        };
        let path = match &self.folder {
            _ if path.is_absolute() => path,
            Some(folder) => folder.join(path),
            None => return Err(format!("'{text}' is relative, and the manifest has no folder: write /host/path")),
        };
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => drop(plain.pop()),
                part => plain.push(part),
            }
        }
        Ok(plain.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_manifests_folder() {
        let variable = |name: &str| (name == "HOME").then(|| "/home/u".to_string());
        let read = |_: &Path| Err(String::new());
        let mut around = Around { folder: Some("/srv/shop".into()), variable: &variable, read: &read };
        let table = [
            ("./db", "/srv/shop/db"),
            ("../x/./y", "/srv/x/y"),
            ("/abs/../a", "/a"),
            ("~/c", "/home/u/c"),
            (".", "/srv/shop"),
        ];
        for (text, path) in table {
            assert_eq!(around.path(text).as_deref(), Ok(path), "{text}");
        }
        around.folder = None;
        assert!(around.path("./db").is_err_and(|told| told.contains("no folder")));
    }
}
