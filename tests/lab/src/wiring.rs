//! The lab's cables: which host has which address, and how they are joined.
//!
//! ```text
//!   n1 .11   n2 .12   n3 .13   client .100          192.168.77.0/24, MTU as asked
//!     └────────┴────────┴────────┴── switch ──┐     a bridge in a namespace of its own,
//!                                   .1 router ┘     which also routes (no NAT) to
//!                                        └── outside 203.0.113.10
//! ```
//! Nodes have a default route by the router, and ip_forward off. `outside` knows the way back to 192.168.77.0/24 and to nothing
//! else, so a task's packet that leaves with the task's own address is never answered. MACs name the host: 02:00 and its
//! address. None of the addresses lies in 10.0.0.0/8, which is mesh's pool.
//! The cables are veth pairs, and come in two shapes ([`Shape`]): as the kernel has them, or made like a wire.
//! Invariant: one lab's namespaces share the prefix `mesh-lab-<id>-`; devices have plain names, for they live inside.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::offload::{self, Offloads};
use crate::{command, stranger};

/// First word of everything the lab makes outside its own namespaces.
pub const PREFIX: &str = "mesh-lab";
/// The one interface of a node, of the client and of `outside`.
pub const DEVICE: &str = "eth0";
pub const SUBNET: &str = "192.168.77.0/24";
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const OUTSIDE_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const BRIDGE: &str = "br0";
/// One `ip` command.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes that the tunnel adds to a frame (RFC 7348 over IPv4).
pub(crate) const TUNNEL: u32 = 50;

/// What frames on the lab's cables are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As veth pairs are: segments of up to 64 KB cross uncut and with unfinished checksums, and everything is fast. For all that does not
    /// ask what is on the wire; its numbers compare ways of one machine.
    Kernel,
    /// As cables between machines are: frames fit the MTU, have whole checksums and hold their VLAN tags, and each port of the switch can take a frame from a
    /// driver's hands. For XDP, which on the other shape would forward unfinished checksums or nothing at all. Nodes' cables carry
    /// 50 bytes more than the client's, so that its largest packets fit the tunnel.
    Wire,
}

/// The address of the node in this place, counted from 0.
pub fn node_address(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, u8::try_from(11 + place).expect("a lab has at most 80 nodes"))
}

/// 02:00 and the address: a capture reads as a list of hosts.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [2, 0, a, b, c, d]
}

fn mac_text(address: Ipv4Addr) -> String {
    mac_of(address).map(|byte| format!("{byte:02x}")).join(":")
}

/// Name of the namespace of `host` in the lab `id`.
pub fn namespace_name(id: &str, host: &str) -> String {
    format!("{PREFIX}-{id}-{host}")
}

/// The switch and the way outside.
pub(crate) fn build_switch(id: &str) -> Result<(Namespace, Namespace)> {
    let switch = Namespace::create(&namespace_name(id, "switch"))?;
    switch.ip(&format!(
        "link add {BRIDGE} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
         address add {ROUTER}/24 dev {BRIDGE}
         link set {BRIDGE} up",
        mac = mac_text(ROUTER)
    ))?;
    switch.set_sysctl("net.ipv4.ip_forward", "1")?;
    let outside = Namespace::create(&namespace_name(id, "outside"))?;
    switch.ip(&format!(
        "link add outside address {} type veth peer name {DEVICE} address {} netns {}
         address add {OUTSIDE_ROUTER}/24 dev outside
         link set outside up",
        mac_text(OUTSIDE_ROUTER),
        mac_text(OUTSIDE),
        outside.name()
    ))?;
    outside.ip(&format!(
        "address add {OUTSIDE}/24 dev {DEVICE}
         link set {DEVICE} up
         route add {SUBNET} via {OUTSIDE_ROUTER}"
    ))?;
    Ok((switch, outside))
}

/// A host on the switch; its port there bears the host's name.
pub(crate) fn plug_in(id: &str, switch: &Namespace, host: &str, address: Ipv4Addr, mtu: u32) -> Result<Namespace> {
    let inside = Namespace::create(&namespace_name(id, host))?;
    // A new namespace copies the machine's own IPv4 settings; the lab's are always the same.
    inside.set_sysctl("net.ipv4.ip_forward", "0")?;
    // Link-local addresses are there at once, not a second later: a footprint must not change by itself.
    inside.set_sysctl("net.ipv6.conf.default.accept_dad", "0")?;
    switch.ip(&format!(
        "link add {host} mtu {mtu} type veth peer name {DEVICE} address {mac} mtu {mtu} netns {ns}
         link set {host} master {BRIDGE}
         link set {host} up",
        mac = mac_text(address),
        ns = inside.name()
    ))?;
    inside.ip(&format!(
        "address add {address}/24 dev {DEVICE}
         link set {DEVICE} up
         route add default via {ROUTER}"
    ))?;
    Ok(inside)
}

/// Makes a wire of the cable between the switch's `port` and `host`.
///
/// A veth takes frames from its peer's XDP program (ndo_xdp_xmit) only while it has a receive queue polled by NAPI, as a NIC has: an
/// XDP program of its own gives it one (veth_xdp_xmit in drivers/net/veth.c). It lets everything pass, and stays with the device.
pub(crate) fn make_wire(id: &str, switch: &Namespace, port: &str, host: &Namespace) -> Result<()> {
    host.run(|| offload::set(DEVICE, Offloads::TransmitOff).and_then(|()| offload::keep_tags_in_frames(DEVICE)))??;
    // Nothing is merged on the switch either.
    switch.run(|| offload::set(port, Offloads::AllOff).and_then(|()| offload::keep_tags_in_frames(port)))??;
    let pin = Path::new("/sys/fs/bpf").join(format!("{PREFIX}-{id}-{port}-pass"));
    stranger::pin_xdp_pass("lab_pass", &pin)?;
    // Not by `ip -n`, which would mount a /sys without the pin.
    let attached = switch.command("ip").and_then(|mut command| {
        command.args(["link", "set", "dev", port, "xdpdrv", "pinned"]).arg(&pin);
        command::run(command, "", LIMIT)?.ok()
    });
    std::fs::remove_file(&pin)?;
    attached.map(drop)
}

/// Pulls the cable of `host`, or plugs it in again. Its link goes down at both ends, as with a real cable.
pub(crate) fn set_cable(switch: &Namespace, host: &str, plugged: bool) -> Result<()> {
    switch.ip(&format!("link set {host} {}", if plugged { "up" } else { "down" }))
}

/// Lets the switch swallow what `host` sends and gets while its link stays up: a broken switch instead of a pulled cable.
pub(crate) fn set_swallowed(switch: &Namespace, host: &str, swallowed: bool) -> Result<()> {
    let membership = if swallowed { "nomaster".to_owned() } else { format!("master {BRIDGE}") };
    switch.ip(&format!("link set {host} {membership}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_predictable() {
        assert_eq!(node_address(0), Ipv4Addr::new(192, 168, 77, 11));
        assert_eq!(mac_text(node_address(2)), "02:00:c0:a8:4d:0d");
        assert_eq!(namespace_name("p7-0", "n1"), "mesh-lab-p7-0-n1");
    }
}
