//! Which uplinks get the XDP program, by the user's word and the device's kind, and what is said of the outcome. Pure; the round acts.
//!
//! Invariant: with `auto` nothing that may harm packets is done and nothing is complained of. Must not: attach.

use std::collections::BTreeSet;

use super::XdpMode;
use crate::doctor::Xdp;
use crate::kernel::bpf::{XdpAttachment, XdpError};
use crate::plan::net::Uplink;

/// What to attach, and which uplinks are left to TC from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub wanted: BTreeSet<XdpAttachment>,
    left: Vec<Left>,
}

/// An uplink without the program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    interface: String,
    why: &'static str,
}

/// Sorts the uplinks.
pub fn choose(mode: XdpMode, uplinks: &[Uplink]) -> Choice {
    let mut choice = Choice::default();
    for uplink in uplinks {
        match why_not(mode, &uplink.kind) {
            Some(why) => choice.left.push(Left { interface: uplink.name.clone(), why }),
            None => drop(choice.wanted.insert(XdpAttachment {
                interface: uplink.name.clone(),
                ifindex: uplink.ifindex,
                is_native: mode != XdpMode::Generic,
            })),
        }
    }
    choice
}

/// `kind` as `ip link add type` has it; empty for a NIC.
fn why_not(mode: XdpMode, kind: &str) -> Option<&'static str> {
    match (mode, kind) {
        (XdpMode::Off, _) => Some("--xdp off"),
        // A bond's driver hands XDP the frames as its ports', whose addresses they are not: all would pass, at a cost.
        (XdpMode::Auto | XdpMode::Native, "bond") => {
            Some("a bond: in its ports' drivers a frame is not the bond's yet")
        }
        (XdpMode::Auto | XdpMode::Native, "vlan") => Some("a VLAN: its frames pass the driver of the device below"),
        // Frames out of software may have unfinished checksums, above all on a veth; whoever sees to that may say `native`.
        (XdpMode::Auto, kind) if !kind.is_empty() => Some("no NIC"),
        _ => None,
    }
}

/// What the round came to.
pub fn report(mode: XdpMode, choice: &Choice, refused: &[(XdpAttachment, XdpError)]) -> Xdp {
    let is_refused = |one: &&XdpAttachment| !refused.iter().any(|(attachment, _)| attachment == *one);
    let on: Vec<&str> = choice.wanted.iter().filter(is_refused).map(|one| one.interface.as_str()).collect();
    let name = if mode == XdpMode::Generic { "generic" } else { "native" };
    let mut parts = Vec::new();
    if !on.is_empty() {
        parts.push(format!("{name} on {}", on.join(", ")));
    }
    parts.extend(choice.left.iter().map(|left| format!("off on {} ({})", left.interface, left.why)));
    parts.extend(refused.iter().map(|(one, error)| format!("off on {} ({error})", one.interface)));
    if parts.is_empty() {
        parts.push("no uplink".to_string());
    }
    // Who said neither is content with what can be had.
    let is_asked = matches!(mode, XdpMode::Native | XdpMode::Generic);
    let by_kind = choice.left.iter().map(|left| {
        let what = format!("--xdp {name}: {} is {}", left.interface, left.why);
        (what, "start the agent with --xdp off or --xdp auto".to_string())
    });
    let by_kernel = refused.iter().map(|(_, error)| (format!("--xdp {name}: {error}"), error.remedy()));
    Xdp { summary: parts.join("; "), refused: by_kind.chain(by_kernel).filter(|_| is_asked).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(name: &str, kind: &str, ifindex: u32) -> Uplink {
        let addrs = vec!["192.0.2.1/24".parse().unwrap()];
        let (name, kind) = (name.to_string(), kind.to_string());
        Uplink { ifindex, name, kind, mac: [2; 6], mtu: 1500, addrs, has_ethernet: true, up: true }
    }

    fn uplinks() -> Vec<Uplink> {
        [("eth0", ""), ("bond0", "bond"), ("eth0.5", "vlan"), ("veth0", "veth")]
            .iter()
            .zip(2..)
            .map(|((name, kind), ifindex)| uplink(name, kind, ifindex))
            .collect()
    }

    fn names(mode: XdpMode) -> Vec<(String, bool)> {
        choose(mode, &uplinks()).wanted.into_iter().map(|one| (one.interface, one.is_native)).collect()
    }

    #[test]
    fn auto_takes_nics_alone_and_never_the_stack() {
        assert_eq!(names(XdpMode::Auto), [("eth0".to_string(), true)]);
        assert_eq!(names(XdpMode::Off), []);
        let native: Vec<String> = names(XdpMode::Native).into_iter().map(|(name, _)| name).collect();
        assert_eq!(native, ["eth0", "veth0"]);
        assert!(names(XdpMode::Generic).iter().all(|(_, is_native)| !is_native));
    }

    #[test]
    fn who_asked_is_told_and_who_did_not_is_left_in_peace() {
        let taken = |mode| {
            let choice = choose(mode, &uplinks()[..2]);
            let eth0 = choice.wanted.iter().next().expect("eth0 is a NIC").clone();
            report(mode, &choice, &[(eth0, XdpError::Taken { interface: "eth0".into() })])
        };
        let auto = taken(XdpMode::Auto);
        assert_eq!(auto.refused, []);
        assert!(auto.summary.contains("off on eth0 (another XDP program"), "{auto:?}");
        let native = taken(XdpMode::Native);
        let said: Vec<String> = native.complaints().collect();
        assert!(said.iter().any(|one| one.contains("bond0 is a bond")), "{said:?}");
        assert!(said.iter().any(|one| one.contains("bpftool net show dev eth0")), "{said:?}");
        let all = choose(XdpMode::Native, &uplinks()[..1]);
        assert_eq!(report(XdpMode::Native, &all, &[]).summary, "native on eth0");
    }
}
