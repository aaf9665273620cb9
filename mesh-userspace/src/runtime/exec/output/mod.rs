//! A task's output on disk: written by its supervisor, read by whichever agent is there.
//!
//! One line of output is one line of the file, `<milliseconds since 1970> <o|e> <text>`; `log` is written, `log.1` is
//! the one before. Invariant: a line is never torn by rotation. Must not: interpret what a task prints.

mod read;
mod write;

pub use read::stream;
pub use write::LogWriter;

use crate::model::{Id, LogLine, LogStream};

fn mark(stream: LogStream) -> u8 {
    match stream {
        LogStream::Stdout => b'o',
        LogStream::Stderr => b'e',
    }
}

/// A line of the file without its newline; None for one that is not ours (a torn write of a machine that lost power).
fn parse(task_id: &Id, line: &[u8]) -> Option<LogLine> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let at = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stream = match fields.next()? {
        b"o" => LogStream::Stdout,
        b"e" => LogStream::Stderr,
        _ => return None,
    };
    let text = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(LogLine { task_id: task_id.clone(), at, stream, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_time_stream_and_text() {
        let id = Id::from_bytes([1; 16]);
        let line = parse(&id, b"1700000000123 e a b  c").expect("parsed");
        assert_eq!((line.at, line.stream, line.text.as_str()), (1_700_000_000_123, LogStream::Stderr, "a b  c"));
        assert_eq!(parse(&id, b"5 o ").expect("empty text").text, "");
        assert_eq!(parse(&id, b"5 o \xff").expect("replaced").text, "\u{fffd}");
        assert!(parse(&id, b"").is_none() && parse(&id, b"x o y").is_none() && parse(&id, b"5 z y").is_none());
    }
}
