//! The supervisor's end of the log: cuts output into lines, stamps them, keeps the files within their size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::mark;
use crate::model::{LogStream, UnixMs};
use crate::runtime::exec::record::TaskDir;

/// A line longer than this becomes several: a task that never ends a line must not fill our memory.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Writes `log`, rotating it to `log.1`.
#[derive(Debug)]
pub struct LogWriter {
    dir: TaskDir,
    file: File,
    written_bytes: u64,
    max_bytes: u64,
    /// Begun lines of standard output and standard error.
    begun: [Vec<u8>; 2],
}

impl LogWriter {
    pub fn open(dir: TaskDir, max_bytes: u64) -> io::Result<Self> {
        let file = open_log(&dir)?;
        let written_bytes = file.metadata()?.len();
        Ok(LogWriter { dir, file, written_bytes, max_bytes, begun: [Vec::new(), Vec::new()] })
    }

    /// Takes what was read from one stream and writes the lines it completes.
    pub fn take(&mut self, stream: LogStream, now: UnixMs, mut bytes: &[u8]) -> io::Result<()> {
        let index = usize::from(stream == LogStream::Stderr);
        let mut out = Vec::new();
        let begun = &mut self.begun[index];
        while let Some(first) = bytes.first() {
            if begun.len() == MAX_LINE_BYTES && *first != b'\n' {
                stamp(&mut out, stream, now, begun);
                begun.clear();
            }
            let room = MAX_LINE_BYTES - begun.len();
            match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    begun.extend_from_slice(&bytes[..end]);
                    stamp(&mut out, stream, now, begun);
                    begun.clear();
                    bytes = &bytes[end + 1..];
                }
                None => {
                    let (piece, rest) = bytes.split_at(room.min(bytes.len()));
                    begun.extend_from_slice(piece);
                    bytes = rest;
                }
            }
        }
        self.append(&out)
    }

    /// Writes what was begun and will not be ended.
    pub fn finish(&mut self, now: UnixMs) -> io::Result<()> {
        let mut out = Vec::new();
        for (stream, begun) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(&mut self.begun) {
            if !begun.is_empty() {
                stamp(&mut out, stream, now, begun);
                begun.clear();
            }
        }
        self.append(&out)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.written_bytes > 0 && self.written_bytes + lines.len() as u64 > self.max_bytes {
            fs::rename(self.dir.log_file(), self.dir.old_log_file())?;
            self.file = open_log(&self.dir)?;
            self.written_bytes = 0;
        }
        self.file.write_all(lines)?;
        self.written_bytes += lines.len() as u64;
        Ok(())
    }
}

fn open_log(dir: &TaskDir) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(dir.log_file())
}

fn stamp(out: &mut Vec<u8>, stream: LogStream, now: UnixMs, text: &[u8]) {
    out.extend_from_slice(now.to_string().as_bytes());
    out.extend_from_slice(&[b' ', mark(stream), b' ']);
    out.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Id;

    fn writer(max_bytes: u64) -> (tempfile::TempDir, TaskDir, LogWriter) {
        let state = tempfile::tempdir().expect("temporary directory");
        let dir = TaskDir::of(state.path(), &Id::from_bytes([3; 16]));
        dir.create().expect("created");
        let writer = LogWriter::open(dir.clone(), max_bytes).expect("opened");
        (state, dir, writer)
    }

    #[test]
    fn lines_are_joined_over_reads_and_streams_kept_apart() {
        let (_state, dir, mut log) = writer(1 << 20);
        log.take(LogStream::Stdout, 1, b"hel").expect("written");
        log.take(LogStream::Stderr, 2, b"oops\n").expect("written");
        log.take(LogStream::Stdout, 3, b"lo\n\nrest").expect("written");
        log.finish(4).expect("written");
        let text = fs::read_to_string(dir.log_file()).expect("read");
        assert_eq!(text, "2 e oops\n3 o hello\n3 o \n4 o rest\n");
    }

    #[test]
    fn an_endless_line_is_cut_and_a_line_of_just_that_length_is_not_doubled() {
        let (_state, dir, mut log) = writer(1 << 20);
        log.take(LogStream::Stdout, 1, &vec![b'x'; MAX_LINE_BYTES + 1]).expect("written");
        log.take(LogStream::Stdout, 1, b"\n").expect("written");
        log.take(LogStream::Stdout, 1, &vec![b'y'; MAX_LINE_BYTES]).expect("written");
        log.take(LogStream::Stdout, 1, b"\nz\n").expect("written");
        let text = fs::read_to_string(dir.log_file()).expect("read");
        let lengths: Vec<_> = text.lines().map(|line| line.len() - 4).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, 1, MAX_LINE_BYTES, 1]);
    }

    #[test]
    fn rotation_keeps_one_old_file_and_whole_lines() {
        let (_state, dir, mut log) = writer(40);
        for number in 0..10 {
            log.take(LogStream::Stdout, 1, format!("line number {number}\n").as_bytes()).expect("written");
        }
        let old = fs::read_to_string(dir.old_log_file()).expect("old");
        let new = fs::read_to_string(dir.log_file()).expect("new");
        assert!(old.len() <= 40 && new.len() <= 40, "{old:?} {new:?}");
        assert_eq!(format!("{old}{new}").lines().last(), Some("1 o line number 9"));
        assert!(old.ends_with('\n') && new.starts_with("1 o line"));
    }
}
