//! Packets of IPv6 that go between nodes past mesh0, whose tunnel is IPv4's (`rig::Family`, `rig::Way`). Not again here: connections, services, tasks and
//! flood, whose packets to peers are of the same kinds (`packet_over_ipv6` has them by mesh0, `packet_fast` past it over IPv4).

#[path = "packet_again.rs"]
mod again;
#[path = "packet_apart.rs"]
mod apart;
#[path = "packet_checksums.rs"]
mod checksums;
#[path = "packet_direct.rs"]
mod direct;
#[path = "packet_fragments.rs"]
mod fragments;
#[path = "packet_icmp.rs"]
mod icmp;
#[path = "packet_icmp_forged.rs"]
mod icmp_forged;
#[path = "packet_ingress.rs"]
mod ingress;
#[path = "packet_mtu.rs"]
mod mtu;
#[path = "packet_overlay.rs"]
mod overlay;
#[path = "packet_sctp.rs"]
mod sctp;
