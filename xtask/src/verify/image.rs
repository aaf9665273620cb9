//! The guest's root file system: an initramfs in cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An archive in the making. Folders of a path are made with what lies in them.
#[derive(Default)]
pub struct Image {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Image {
    pub fn folder(&mut self, path: &str) {
        let mut whole = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            whole = if whole.is_empty() { part.to_owned() } else { format!("{whole}/{part}") };
            if self.folders.insert(whole.clone()) {
                self.entry(&whole, FOLDER, &[]);
            }
        }
    }

    pub fn text(&mut self, path: &str, text: &str, mode: u32) {
        self.place(path);
        self.entry(path.trim_start_matches('/'), FILE | mode, text.as_bytes());
    }

    pub fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        if self.files.insert(path.to_owned()) {
            let bytes = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
            let mode = from.metadata().with_context(|| format!("reading {}", from.display()))?.permissions().mode();
            self.place(path);
            self.entry(path.trim_start_matches('/'), FILE | (mode & 0o777), &bytes);
        }
        Ok(())
    }

    /// A program with the shared libraries that it needs, at their places.
    pub fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.file(path, from)?;
        // A static program has none, which ldd calls an error.
        let needs = process::read(Command::new("ldd").arg(from)).unwrap_or_default();
        for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(library, Path::new(library))?;
        }
        Ok(())
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn place(&mut self, path: &str) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        let (length, name_length) = (data.len(), name.len() + 1);
        // Magic, inode, mode, uid, gid, links, time, size, four device numbers, length of the name, checksum (unused).
        let numbers = [0, mode, 0, 0, 1, 0, length as u32, 0, 0, 0, 0, name_length as u32, 0];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_folders_before_files_and_ends_with_the_trailer() {
        let mut image = Image::default();
        image.text("/etc/hosts", "x", 0o644);
        image.text("/etc/passwd", "yz", 0o644);
        let bytes = image.finish();
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<usize> = ["etc\0", "etc/hosts\0", "etc/passwd\0", "TRAILER!!!\0"]
            .iter()
            .map(|name| text.find(name).unwrap())
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(text.matches("070701").count(), 4, "a folder once");
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.starts_with("07070100000000000041ed"), "{text}");
    }
}
