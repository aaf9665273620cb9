//! What the test server says: which task answered, and whom it saw calling.

use std::net::SocketAddr;

use anyhow::{Context, Result};

/// The two lines of an answer of `whoami`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whoami {
    /// Host name of the task: its short id.
    pub task: String,
    /// The caller as the task saw it.
    pub caller: SocketAddr,
}

impl Whoami {
    pub fn parse(text: &str) -> Result<Whoami> {
        let read = || {
            let mut lines = text.lines();
            let task = lines.next()?.strip_prefix("I'm ")?.to_owned();
            let caller = lines.next()?.strip_prefix("from ")?.parse().ok()?;
            Some(Whoami { task, caller })
        };
        read().with_context(|| format!("not an answer of whoami: {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lines_are_read() {
        let told = Whoami::parse("I'm 0123456789ab\nfrom 192.168.77.100:40000\nmore\n").unwrap();
        assert_eq!((told.task.as_str(), told.caller.port()), ("0123456789ab", 40000));
        assert!(Whoami::parse("I'm x\n").is_err() && Whoami::parse("hello\nfrom 1.2.3.4:5").is_err());
    }
}
