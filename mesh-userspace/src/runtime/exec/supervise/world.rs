//! What a task sees of the machine: its name, its loopback, and the kernel settings Docker gives a container.
//!
//! Called by init inside the new namespaces, before privileges are dropped. The file system is in [`super::mounts`].

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Settings of the task's own network namespace: `ping` without privileges, low ports for every user.
const SYSCTLS: [(&str, &str); 2] =
    [("ipv4/ping_group_range", "0 2147483647"), ("ipv4/ip_unprivileged_port_start", "0")];

/// Text of `/etc/hosts`.
pub fn hosts(hostname: &str, addresses: &[std::net::IpAddr], extra: &[(std::net::IpAddr, String)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (address, name) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for address in addresses {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    text
}

/// Text of `/etc/resolv.conf`. `ndots:0`, as Swarm: every name is first asked as it stands.
pub fn resolv_conf(nameservers: &[std::net::IpAddr], search: &[String]) -> String {
    let mut text = String::from("# Made by mesh for this task; resolves the names of its networks.\n");
    for server in nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    text.push_str("options ndots:0\n");
    text
}

/// Brings `lo` up, as every program expects it.
pub fn loopback_up() -> io::Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero is a valid ifreq (plain integers and characters).
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes the network settings; /proc must show this network namespace and be writable still.
pub fn network_settings() -> Result<(), (String, io::Error)> {
    for (name, value) in SYSCTLS {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).map_err(|error| (path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn files_are_as_docker_writes_them() {
        let hosts = hosts("abc", &["10.0.1.3", "fd00::3"].map(at), &[(at("1.2.3.4"), "db".into())]);
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(hosts.ends_with("1.2.3.4\tdb\n10.0.1.3\tabc\nfd00::3\tabc\n"));
        let resolv = resolv_conf(&[at("10.0.16.1")], &["lan".into(), "example.org".into()]);
        assert!(resolv.ends_with("nameserver 10.0.16.1\nsearch lan example.org\noptions ndots:0\n"));
    }
}
