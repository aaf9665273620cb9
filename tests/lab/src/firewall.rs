//! A forward chain that drops everything, as Docker and ufw leave it – set by netlink, so that no nft needs to be installed.
//!
//! Some machines of our users forward nothing; mesh must not care. The chain is the one nft makes of
//! `table inet lab { chain forward { type filter hook forward priority 0; policy drop; } }`.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, ensure};

// linux/netfilter/nfnetlink.h and nf_tables.h; libc has only a part of them.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = (NFTABLES << 8) | 3;
const FAMILY_INET: u8 = 1;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
const NESTED: u16 = 0x8000;

/// Sets the chain in the namespace of the calling thread. An error says what the kernel lacks.
pub(crate) fn drop_forwarded() -> Result<()> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) with constants; the result is checked before use.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_NETFILTER) };
    ensure!(fd >= 0, "this kernel has no netfilter: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = request();
    // SAFETY: the buffer lives through the call and its length is right.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    ensure!(sent > 0, "netfilter: {}", std::io::Error::last_os_error());
    // One acknowledgement for the table, one for the chain; an error ends the batch.
    for what in ["table", "chain"] {
        let mut answer = [0u8; 1024];
        // SAFETY: the buffer lives through the call and its length is right.
        let size = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        ensure!(size >= 20, "netfilter: {}", std::io::Error::last_os_error());
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        let why = std::io::Error::from_raw_os_error(-code);
        ensure!(code == 0, "FORWARD DROP: the {what} is refused: {why}; does this kernel have nf_tables?");
    }
    Ok(())
}

fn request() -> Vec<u8> {
    let table = attribute(1, b"lab\0");
    let hook = [attribute(1, &HOOK_FORWARD.to_be_bytes()), attribute(2, &0u32.to_be_bytes())].concat();
    let chain = [
        attribute(1, b"lab\0"),
        attribute(3, b"forward\0"),
        attribute(4 | NESTED, &hook),
        attribute(5, &POLICY_DROP.to_be_bytes()),
        attribute(7, b"filter\0"),
    ]
    .concat();
    let create = (libc::NLM_F_REQUEST | libc::NLM_F_CREATE | libc::NLM_F_ACK) as u16;
    let bare = libc::NLM_F_REQUEST as u16;
    [
        message(BATCH_BEGIN, bare, 0, NFTABLES, &[]),
        message(NEW_TABLE, create, FAMILY_INET, 0, &table),
        message(NEW_CHAIN, create, FAMILY_INET, 0, &chain),
        message(BATCH_END, bare, 0, NFTABLES, &[]),
    ]
    .concat()
}

/// nlmsghdr and nfgenmsg, then attributes.
fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = 16 + 4 + attributes.len() as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence and port: one question, one answer
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
