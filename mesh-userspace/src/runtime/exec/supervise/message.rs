//! What supervisor and init say to each other, one JSON message a packet over a socket pair.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message: a reason with a long path in it.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// Run the command.
    Start,
    /// Pass this signal on to it.
    Signal(i32),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The namespaces are as the task shall see them.
    Prepared,
    /// They could not be made so.
    NotPrepared {
        reason: String,
    },
    Started,
    NotStarted {
        code: i32,
        reason: String,
    },
    /// The command has ended; init ends next, and everything else in the task with it.
    Exited {
        code: i32,
        signal: Option<i32>,
    },
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel(pub OwnedFd);

impl Channel {
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel(a), Channel(b)))
    }

    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        nix::unistd::write(&self.0, &bytes)?;
        Ok(())
    }

    /// Waits for a message; None when the other end is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
                Ok(length) => return serde_json::from_slice(&buffer[..length]).map(Some).map_err(io::Error::other),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_a_closed_end_is_seen() {
        let (a, b) = Channel::pair().expect("pair");
        a.send(&FromInit::Started).expect("sent");
        a.send(&FromInit::Exited { code: 137, signal: Some(9) }).expect("sent");
        assert_eq!(b.receive().expect("received"), Some(FromInit::Started));
        assert_eq!(b.receive().expect("received"), Some(FromInit::Exited { code: 137, signal: Some(9) }));
        drop(a);
        assert_eq!(b.receive::<FromInit>().expect("closed"), None);
    }
}
