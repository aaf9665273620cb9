//! A container's output, as lines with their times: what the Engine's logging driver kept, and what follows.
//!
//! The Engine puts a time before each piece it sends. Without a terminal a piece is a line, or a part of a very long one, of one
//! stream; with a terminal pieces are cut anywhere and lines have to be found.
//! An Engine that restarts ends the stream: following goes on with what is newer, so that no line comes twice.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Inner;
use super::engine::{Connected, has_status, words};
use crate::model::{Id, LogLine, LogStream};
use crate::runtime::LogRequest;

/// Lines that wait for a slow reader before we wait for it.
const BUFFERED_LINES: usize = 256;
/// How long an Engine may be away before a follower is told that this was all.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
/// A program that never ends its line must not fill our memory.
const LONGEST_LINE: usize = 1 << 20;

/// Sends the output of `container`; following, until its process has ended and all is sent.
pub fn stream(inner: Arc<Inner>, task_id: Id, container: String, request: LogRequest) -> mpsc::Receiver<LogLine> {
    let (sender, receiver) = mpsc::channel(BUFFERED_LINES);
    tokio::spawn(async move {
        tokio::select! {
            () = relay(&inner, task_id, &container, request, &sender) => {}
            // A quiet task, or an Engine that is away, must not keep what nobody reads any more.
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn relay(inner: &Inner, task_id: Id, container: &str, request: LogRequest, sender: &mpsc::Sender<LogLine>) {
    let mut lines = Lines::new(task_id.clone());
    let mut tail = request.tail;
    while let Ok(engine) = inner.engine.within(AWAY_LIMIT).await {
        // Asked before reading: what the process wrote last is there when the stream ends.
        let is_over = !request.follow || !inner.is_alive(&task_id);
        let tail_text = tail.map_or_else(|| "all".to_owned(), |count| count.to_string());
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).follow(request.follow);
        let options = options.tail(&tail_text).since(lines.since_s()).build();
        let mut pieces = std::pin::pin!(engine.docker.logs(container, Some(options)));
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    for line in lines.take(piece) {
                        if sender.send(line).await.is_err() {
                            return; // nobody reads any more
                        }
                    }
                }
                Err(error) => {
                    log::warn!("output of task {}: {}", task_id.short(), words(&error));
                    if is_refusal(&error) {
                        return;
                    }
                }
            }
        }
        if is_over || !inner.is_alive(&task_id) {
            break;
        }
        // The Engine ended the stream, not the task: on with what is newer, all of it.
        tail = None;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for line in lines.rest() {
        if sender.send(line).await.is_err() {
            return;
        }
    }
}

/// Whether there is output to read; else the Engine's words why not: its logging driver may keep none.
pub async fn readable(engine: &Connected, container: &str) -> Result<(), String> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("0").build();
    let mut pieces = std::pin::pin!(engine.docker.logs(container, Some(options)));
    match pieces.next().await {
        // A container that is gone, or about to be, has no output any more: no reason to withhold that of others.
        Some(Err(error)) if has_status(&error, 404) || has_status(&error, 409) => Ok(()),
        Some(Err(error)) if is_refusal(&error) => Err(words(&error)),
        _ => Ok(()),
    }
}

/// The Engine has understood and does not do it: asking again changes nothing.
fn is_refusal(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { .. })
}

/// The last line of standard error, where there is one: what a command that could not run has left.
pub async fn last_complaint(docker: &bollard::Docker, task_id: &Id, container: &str) -> Option<String> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).tail("1").build();
    let mut pieces = std::pin::pin!(docker.logs(container, Some(options)));
    let (mut lines, mut last) = (Lines::new(task_id.clone()), None);
    while let Some(Ok(piece)) = pieces.next().await {
        last = lines.take(piece).pop().or(last);
    }
    lines.rest().pop().or(last).map(|line| line.text)
}

/// Pieces to lines.
struct Lines {
    task_id: Id,
    stdout: Pending,
    stderr: Pending,
    /// Time of the last line, for going on after it.
    last: Option<Timestamp>,
    /// Lines up to here were sent before the Engine restarted.
    known: Option<Timestamp>,
}

/// A line that is not whole yet.
#[derive(Default)]
struct Pending {
    at: Option<Timestamp>,
    text: Vec<u8>,
}

impl Lines {
    fn new(task_id: Id) -> Self {
        Lines { task_id, stdout: Pending::default(), stderr: Pending::default(), last: None, known: None }
    }

    /// The second of the last line; the Engine's `since` is no finer here. Lines up to the last are skipped when they come again.
    fn since_s(&mut self) -> i32 {
        self.known = self.last;
        // A part of a line comes again, too.
        (self.stdout, self.stderr) = (Pending::default(), Pending::default());
        self.last.and_then(|at| i32::try_from(at.as_second()).ok()).unwrap_or(0)
    }

    fn take(&mut self, piece: LogOutput) -> Vec<LogLine> {
        match piece {
            LogOutput::StdErr { message } => self.framed(LogStream::Stderr, &message),
            LogOutput::Console { message } => self.terminal(&message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } => self.framed(LogStream::Stdout, &message),
        }
    }

    /// One piece of one stream, with its time before it.
    fn framed(&mut self, stream: LogStream, piece: &[u8]) -> Vec<LogLine> {
        let (at, text) = split_time(piece);
        let pending = if stream == LogStream::Stderr { &mut self.stderr } else { &mut self.stdout };
        pending.at = pending.at.or(at);
        pending.text.extend_from_slice(text);
        if !text.ends_with(b"\n") && pending.text.len() < LONGEST_LINE {
            return Vec::new();
        }
        let whole = std::mem::take(pending);
        self.line(stream, whole.at, &whole.text).into_iter().collect()
    }

    /// Any bytes of a terminal's output: each line begins with its time.
    fn terminal(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.stdout.text.extend_from_slice(piece);
            if !piece.ends_with(b"\n") && self.stdout.text.len() < LONGEST_LINE {
                continue;
            }
            let whole = std::mem::take(&mut self.stdout);
            let (at, text) = match whole.at {
                // What follows a part of a line has no time of its own.
                Some(at) => (Some(at), whole.text.as_slice()),
                None => split_time(&whole.text),
            };
            lines.extend(self.line(LogStream::Stdout, at, text));
            if !piece.ends_with(b"\n") {
                self.stdout.at = at.or(self.last);
            }
        }
        lines
    }

    /// What is left without a newline at the very end.
    fn rest(&mut self) -> Vec<LogLine> {
        let (out, err) = (std::mem::take(&mut self.stdout), std::mem::take(&mut self.stderr));
        let mut lines = Vec::new();
        for (stream, pending) in [(LogStream::Stdout, out), (LogStream::Stderr, err)] {
            if !pending.text.is_empty() {
                let (at, text) = match pending.at {
                    Some(at) => (Some(at), pending.text.as_slice()),
                    None => split_time(&pending.text),
                };
                lines.extend(self.line(stream, at, text));
            }
        }
        lines
    }

    fn line(&mut self, stream: LogStream, at: Option<Timestamp>, text: &[u8]) -> Option<LogLine> {
        let at = at.or(self.last).unwrap_or(Timestamp::UNIX_EPOCH);
        if self.known.is_some_and(|known| at <= known) {
            return None;
        }
        self.last = self.last.max(Some(at));
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Some(LogLine {
            task_id: self.task_id.clone(),
            at: u64::try_from(at.as_millisecond()).unwrap_or(0),
            stream,
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

/// `2026-11-22T10:00:00.123456789Z text`
fn split_time(piece: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let end = piece.iter().position(|byte| *byte == b' ').unwrap_or(piece.len());
    let time = piece.get(..end).and_then(|word| std::str::from_utf8(word).ok()).and_then(|word| word.parse().ok());
    match time {
        Some(time) => (Some(time), piece.get(end + 1..).unwrap_or_default()),
        None => (None, piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut { message: text.to_owned().into() }
    }

    fn texts(lines: &[LogLine]) -> Vec<(u64, LogStream, &str)> {
        lines.iter().map(|line| (line.at, line.stream, line.text.as_str())).collect()
    }

    #[test]
    fn a_long_line_in_pieces_is_one_line_and_streams_keep_apart() {
        let mut lines = Lines::new(Id::from_bytes([1; 16]));
        assert!(lines.take(out("1970-01-01T00:00:01.5Z begun ")).is_empty());
        let err = LogOutput::StdErr { message: "1970-01-01T00:00:02Z oh\n".into() };
        assert_eq!(texts(&lines.take(err)), [(2_000, LogStream::Stderr, "oh")]);
        let whole = lines.take(out("1970-01-01T00:00:01.6Z ended\n"));
        assert_eq!(texts(&whole), [(1_500, LogStream::Stdout, "begun ended")]);
        assert!(lines.take(out("1970-01-01T00:00:03Z no newline")).is_empty());
        assert_eq!(texts(&lines.rest()), [(3_000, LogStream::Stdout, "no newline")]);
    }

    #[test]
    fn a_terminals_output_is_cut_into_lines() {
        let mut lines = Lines::new(Id::from_bytes([1; 16]));
        let piece = |text: &str| LogOutput::Console { message: text.to_owned().into() };
        assert!(lines.take(piece("1970-01-01T00:00:01Z a")).is_empty());
        let both = lines.take(piece(" b\r\n1970-01-01T00:00:02Z c\r\n1970-"));
        assert_eq!(texts(&both), [(1_000, LogStream::Stdout, "a b"), (2_000, LogStream::Stdout, "c")]);
    }

    #[test]
    fn a_terminals_line_without_an_end_is_passed_on_in_parts() {
        let mut lines = Lines::new(Id::from_bytes([1; 16]));
        let piece = |text: &str| LogOutput::Console { message: text.to_owned().into() };
        let progress = "\r42 % ".repeat(4_096);
        assert!(lines.take(piece("1970-01-01T00:00:01Z ")).is_empty());
        let parts: Vec<_> = (0..200).flat_map(|_| lines.take(piece(&progress))).collect();
        assert!(parts.len() >= 2 && parts.iter().all(|part| part.at == 1_000), "{}", parts.len());
        assert!(lines.stdout.text.len() < LONGEST_LINE);
        let last = lines.take(piece("5 done\r\n1970-01-01T00:00:02Z next\r\n"));
        assert!(last[0].at == 1_000 && last[0].text.ends_with("5 done"));
        assert_eq!(texts(&last[1..]), [(2_000, LogStream::Stdout, "next")]);
        let sent: usize = parts.iter().chain(&last[..1]).map(|line| line.text.len()).sum();
        assert!(sent > 200 * progress.len() - 2 * parts.len(), "nothing but the ends of parts is cut: {sent}");
    }

    #[test]
    fn after_a_restart_of_the_engine_nothing_comes_twice() {
        let mut lines = Lines::new(Id::from_bytes([1; 16]));
        lines.take(out("1970-01-01T00:00:05.1Z one\n"));
        assert_eq!(lines.since_s(), 5);
        assert!(lines.take(out("1970-01-01T00:00:05.1Z one\n")).is_empty());
        assert_eq!(lines.take(out("1970-01-01T00:00:05.2Z two\n")).len(), 1);
    }
}
