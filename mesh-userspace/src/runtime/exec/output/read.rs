//! The agent's end of the log: the last lines, and what follows until the task has ended.
//!
//! Following waits on inotify for the task's folder, which also tells of rotation and of the end. No polling.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::parse;
use crate::model::{Id, LogLine};
use crate::runtime::exec::record::TaskDir;
use crate::runtime::{LogRequest, Phase};

/// Lines that wait for a slow reader before we wait for it.
const BUFFERED_LINES: usize = 256;
const CHUNK_BYTES: usize = 32 * 1024;

/// Sends the task's output until it is all there (or, following, until the task has ended and all is sent).
pub fn stream(task_id: Id, dir: TaskDir, request: LogRequest) -> io::Result<mpsc::Receiver<LogLine>> {
    // Watched before the first read, so that nothing written in between is missed.
    let watch = if request.follow { Some(FolderWatch::on(dir.path())?) } else { None };
    let (sender, receiver) = mpsc::channel(BUFFERED_LINES);
    tokio::spawn(async move {
        let reading = read_all(&task_id, &dir, request, watch, &sender);
        if let Err(error) = reading.await {
            log::warn!("log of task {}: {error}", task_id.short());
        }
    });
    Ok(receiver)
}

async fn read_all(
    task_id: &Id,
    dir: &TaskDir,
    request: LogRequest,
    watch: Option<FolderWatch>,
    sender: &mpsc::Sender<LogLine>,
) -> io::Result<()> {
    let mut cursor = Cursor::default();
    let mut last_lines = VecDeque::new();
    // The end is looked for before the last read: what was written before it is then sent.
    let mut has_ended = !request.follow || ended(dir);
    let mut files = VecDeque::from([open(&dir.old_log_file())?, open(&dir.log_file())?]);
    let mut is_history = true;
    loop {
        while let Some(file) = files.pop_front() {
            cursor.enter(file);
            while let Some(lines) = cursor.next_lines()? {
                for line in lines.iter().filter_map(|line| parse(task_id, line)) {
                    match request.tail {
                        Some(count) if is_history => {
                            last_lines.push_back(line);
                            if last_lines.len() > count {
                                last_lines.pop_front();
                            }
                        }
                        _ if sender.send(line).await.is_err() => return Ok(()),
                        _ => {}
                    }
                }
            }
        }
        is_history = false;
        for line in last_lines.drain(..) {
            if sender.send(line).await.is_err() {
                return Ok(());
            }
        }
        if cursor.is_behind_rotation(&dir.log_file()) {
            files.push_back(cursor.rest()?);
            files.push_back(open(&dir.log_file())?);
            continue;
        }
        let (false, Some(watch)) = (has_ended, &watch) else { return Ok(()) };
        tokio::select! {
            is_there = watch.changed() => has_ended = !is_there? || ended(dir),
            () = sender.closed() => return Ok(()),
        }
        files.push_back(cursor.rest()?);
    }
}

fn ended(dir: &TaskDir) -> bool {
    !matches!(dir.read_state(), Ok(Some(state)) if !matches!(state.phase, Phase::Exited(_)) && state.supervisor.is_alive())
}

/// None: there is no such file (yet).
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A place in one log file, which may be renamed meanwhile.
#[derive(Default)]
struct Cursor {
    file: Option<File>,
    /// Begin of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Cursor {
    fn enter(&mut self, file: Option<File>) {
        if file.is_some() {
            self.file = file;
        }
    }

    /// The file we are in, to be read on.
    fn rest(&self) -> io::Result<Option<File>> {
        self.file.as_ref().map(File::try_clone).transpose()
    }

    /// Whole lines of the next chunk; None at the end of what is written.
    fn next_lines(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let mut chunk = vec![0; CHUNK_BYTES];
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(None);
        }
        self.begun.extend_from_slice(&chunk[..length]);
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else { return Ok(Some(Vec::new())) };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        Ok(Some(whole[..end].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()))
    }

    fn is_behind_rotation(&self, current: &Path) -> bool {
        let Ok(current) = std::fs::metadata(current) else { return false };
        match self.file.as_ref().map(File::metadata) {
            Some(Ok(ours)) => ours.ino() != current.ino(),
            Some(Err(_)) => false,
            None => true,
        }
    }
}

/// Wakes when a file of a folder is written, made or renamed.
struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    fn on(folder: &Path) -> io::Result<Self> {
        // SAFETY: integers only; the result is checked.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_DELETE_SELF;
        // SAFETY: `path` is a C string that lives during the call.
        if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the owned descriptor stays open, and the same, until the AsyncFd is dropped.
        Ok(FolderWatch(unsafe { AsyncFd::register(fd) }?))
    }

    /// Waits for a change; false if the folder is gone.
    async fn changed(&self) -> io::Result<bool> {
        let mut buffer = [0u8; 4096];
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|fd| nix::unistd::read(fd, &mut buffer).map_err(io::Error::from)) {
                // inotify_event: wd, mask, cookie, length, each 4 bytes; the mask tells all we want to know.
                Ok(Ok(length)) => return Ok(!masks(&buffer[..length]).any(|mask| mask & libc::IN_IGNORED != 0)),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// The event masks of a buffer read from inotify.
fn masks(mut buffer: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let word = |at: usize| buffer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let (mask, name_length) = (word(4)?, word(12)? as usize);
        buffer = buffer.get(16 + name_length..).unwrap_or_default();
        Some(mask)
    })
}
