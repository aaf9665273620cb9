//! Filters of the queueing discipline `clsact`: listed, put, swapped, removed.
//!
//! Asked in one go on a socket of the moment, without waiting for others: `bpf` attaches programs where nothing can be awaited. The place of ours is a priority
//! and a handle; the filter's name tells the program, and whether the discipline was made for it: what the kernel keeps for us is gone exactly when it
//! should be. Must not: change or remove a filter of anybody else, or a discipline that was there before us.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};

use crate::kernel::filter::{Direction, Filter, Filters};

/// Early, as with TCX, but behind whoever asks to be the very first.
const PRIORITY: u16 = 3;
/// "mesh".
const HANDLE: u32 = 0x6d65_7368;
/// Begins the names of ours.
const NAME: &str = "mesh:";
/// Ends the name of one whose queueing discipline was made with it.
const MADE: &str = ":clsact";
/// All protocols (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;
/// The kernel answers at once; who waits longer waits for ever.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clsact;

/// A filter as it stands there, whoever's.
struct Found {
    direction: Direction,
    priority: u16,
    handle: u32,
    name: Option<String>,
    program_id: u32,
}

impl Found {
    fn is_at_our_place(&self, direction: Direction) -> bool {
        (self.direction, self.priority, self.handle) == (direction, PRIORITY, HANDLE)
    }

    /// The program's name, and whether the discipline is ours; None for a filter of somebody else.
    fn ours(&self) -> Option<(&str, bool)> {
        if !self.is_at_our_place(self.direction) {
            return None;
        }
        program_of(self.name.as_deref()?)
    }
}

/// The program that a name of ours tells, and whether the discipline was made with it.
fn program_of(name: &str) -> Option<(&str, bool)> {
    let program = name.strip_prefix(NAME)?;
    Some(match program.strip_suffix(MADE) {
        Some(program) => (program, true),
        None => (program, false),
    })
}

/// Whether a filter of this name is ours.
pub(super) fn is_ours(name: &str) -> bool {
    program_of(name).is_some()
}

impl Filters for Clsact {
    fn ours(&self, ifindex: u32) -> io::Result<Vec<Filter>> {
        let ours = |found: &Found| {
            let (program, _) = found.ours()?;
            Some(Filter { direction: found.direction, program: program.to_owned(), program_id: found.program_id })
        };
        Ok(all(ifindex)?.iter().filter_map(ours).collect())
    }

    fn put(&self, ifindex: u32, direction: Direction, program: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let there = all(ifindex)?;
        match there.iter().find(|found| found.is_at_our_place(direction)) {
            Some(found) => match found.ours() {
                // No flag: the kernel swaps the program of the filter that is there.
                Some((_, is_made)) => send_filter(ifindex, direction, &name(program, is_made), fd, 0),
                None => Err(told(
                    &io::Error::from_raw_os_error(libc::EEXIST),
                    format!(
                        "a filter of somebody else has priority {PRIORITY} and handle {HANDLE:#x} at its {}: `tc filter show` tells whose",
                        word(direction)
                    ),
                )),
            },
            None => {
                let is_made = add_clsact(ifindex)?;
                let put = send_filter(ifindex, direction, &name(program, is_made), fd, NLM_F_CREATE | NLM_F_EXCL);
                if put.is_err() && is_made {
                    let _ = remove_clsact(ifindex); // the error that is told is the first one
                }
                put
            }
        }
    }

    fn remove(&self, ifindex: u32, direction: Direction) -> io::Result<()> {
        let there = match all(ifindex) {
            Err(error) if is_gone(&error) => return Ok(()),
            there => there?,
        };
        let Some(found) = there.iter().find(|found| found.is_at_our_place(direction)) else { return Ok(()) };
        let Some((_, is_made)) = found.ours() else { return Ok(()) };
        let mut message = message(ifindex, direction);
        message.attributes.push(TcAttribute::Kind("bpf".into()));
        let removed = ask(RouteNetlinkMessage::DelTrafficFilter(message), 0);
        match removed {
            Err(error) if is_gone(&error) => return Ok(()),
            removed => drop(removed?),
        }
        if is_made && there.len() == 1 {
            return remove_clsact(ifindex);
        }
        Ok(())
    }
}

/// Takes every filter of ours away, in words what was; and what could not be.
pub fn remove_all() -> (Vec<String>, Vec<String>) {
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    let links = match nix::net::if_::if_nameindex() {
        Ok(links) => links,
        Err(errno) => return (removed, vec![format!("list the links whose filters are to go: {errno}")]),
    };
    for link in &links {
        let link_name = link.name().to_string_lossy();
        for filter in Clsact.ours(link.index()).unwrap_or_default() {
            let what = format!("the filter {} at the {} of {link_name}", filter.program, word(filter.direction));
            match Clsact.remove(link.index(), filter.direction) {
                Ok(()) => removed.push(what),
                Err(error) => failed.push(format!("remove {what}: {error}")),
            }
        }
    }
    (removed, failed)
}

/// Whether this kernel takes programs as filters: tried in a network namespace that is gone when it is done.
pub fn probe(program: impl FnOnce() -> io::Result<OwnedFd> + Send) -> Result<(), String> {
    use std::os::fd::AsFd;
    let try_it = || -> io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        // The loopback device, whose number is 1 in every namespace.
        Clsact.put(1, Direction::Ingress, "trial", program()?.as_fd())
    };
    let tried = std::thread::scope(|scope| scope.spawn(try_it).join());
    match tried {
        Ok(tried) => tried.map_err(|error| error.to_string()),
        Err(_) => Err("the trial's thread panicked".into()),
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn name(program: &str, is_made: bool) -> String {
    format!("{NAME}{program}{}", if is_made { MADE } else { "" })
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT))
}

/// A message about our place at this device.
fn message(ifindex: u32, direction: Direction) -> TcMessage {
    let mut header = TcHeader { index: ifindex as i32, handle: TcHandle::from(HANDLE), ..TcHeader::default() };
    header.parent = parent(direction);
    header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    TcMessage::from_parts(header, Vec::new())
}

fn parent(direction: Direction) -> TcHandle {
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: 0xffff, minor }
}

fn send_filter(ifindex: u32, direction: Direction, name: &str, program: BorrowedFd<'_>, flags: u16) -> io::Result<()> {
    let mut message = message(ifindex, direction);
    message.attributes.push(TcAttribute::Kind("bpf".into()));
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    let put = ask(RouteNetlinkMessage::NewTrafficFilter(message), flags);
    put.map(drop).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => told(&error, "the kernel has no filters of the kind bpf (CONFIG_NET_CLS_BPF)".into()),
        _ => error,
    })
}

/// Makes sure of the discipline: true where it was made, false where one was there.
fn add_clsact(ifindex: u32) -> io::Result<bool> {
    match ask(RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex)), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Err(told(&error, "the kernel has no queueing discipline clsact (CONFIG_NET_SCH_INGRESS)".into()))
        }
        Err(error) => Err(error),
    }
}

fn remove_clsact(ifindex: u32) -> io::Result<()> {
    match ask(RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex)), 0) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

fn clsact(ifindex: u32) -> TcMessage {
    let mut header =
        TcHeader { index: ifindex as i32, handle: TcHandle { major: 0xffff, minor: 0 }, ..TcHeader::default() };
    header.parent = TcHandle::CLSACT;
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".into())])
}

/// The same error with other words; its number stays in them.
fn told(error: &io::Error, words: String) -> io::Error {
    io::Error::new(error.kind(), format!("{words} ({error})"))
}

/// Every filter at both ends of a device.
fn all(ifindex: u32) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let header = TcHeader { index: ifindex as i32, parent: parent(direction), ..TcHeader::default() };
        let question = TcMessage::from_parts(header, Vec::new());
        let answers = ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_DUMP)?;
        // The head of a chain has no handle.
        let filters = answers.iter().filter(|answer| answer.header.handle != TcHandle::UNSPEC);
        found.extend(filters.map(|answer| read(direction, answer)));
    }
    Ok(found)
}

fn read(direction: Direction, message: &TcMessage) -> Found {
    let header = &message.header;
    let priority = (header.info >> 16) as u16;
    let mut found = Found { direction, priority, handle: header.handle.into(), name: None, program_id: 0 };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => found.name = Some(name.clone()),
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => found.program_id = *id,
                _ => {}
            }
        }
    }
    found
}

/// One question, and all that the kernel says to it.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<TcMessage>> {
    let socket = socket()?;
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | if flags & NLM_F_DUMP == NLM_F_DUMP { flags } else { flags | NLM_F_ACK };
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    nix::sys::socket::send(socket.as_raw_fd(), &bytes, nix::sys::socket::MsgFlags::empty())?;
    let mut answers = Vec::new();
    // A dump's parts are at most this long (NLMSG_GOODSIZE and what net/netlink/af_netlink.c makes of it).
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty())?;
        if parse(buffer.get(..length).unwrap_or_default(), &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Reads a part of the answer; true where it was the last.
fn parse(mut part: &[u8], answers: &mut Vec<TcMessage>) -> io::Result<bool> {
    let unreadable = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer about filters can't be read: {error}"))
    };
    while !part.is_empty() {
        let length = NetlinkBuffer::new_checked(part).map_err(|error| unreadable(&error))?.length() as usize;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(part).map_err(|error| unreadable(&error))?;
        match answer.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                };
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => answers.push(filter),
            _ => {}
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new and nobody else's.
    let socket =
        match unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) } {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            // SAFETY: see above.
            fd => unsafe { OwnedFd::from_raw_fd(fd) },
        };
    // SAFETY: `PATIENCE` outlives the call, which is told its size.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const PATIENCE).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_program_and_discipline() {
        for is_made in [true, false] {
            assert_eq!(program_of(&name("from_uplink", is_made)), Some(("from_uplink", is_made)));
        }
        for other in ["from_uplink", "cil_from_netdev", "", "bpf_host.o:[from-host]"] {
            assert_eq!(program_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_stands_at_our_place_and_has_our_name_is_ours() {
        let found = |priority, handle, name: &str| Found {
            direction: Direction::Ingress,
            priority,
            handle,
            name: Some(name.into()),
            program_id: 7,
        };
        assert_eq!(found(PRIORITY, HANDLE, "mesh:from_task").ours(), Some(("from_task", false)));
        for other in
            [found(1, HANDLE, "mesh:from_task"), found(PRIORITY, 1, "mesh:from_task"), found(PRIORITY, HANDLE, "x")]
        {
            assert_eq!(other.ours(), None);
        }
    }
}
