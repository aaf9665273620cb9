//! What the benchmark measures with and beside: Debian's wrk, iperf3, nginx, haproxy, nftables, iptables.
//!
//! Two of them are services that Debian starts when it installs them. The benchmark runs its own in namespaces; the machine gets none.

use std::path::Path;

use anyhow::Result;

use super::{Consent, debian};
use crate::process;

/// Program, Debian package.
const TOOLS: [(&str, &str); 6] = [
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("nft", "nftables"),
    ("iptables-restore", "iptables"),
];
/// Units that installing would start.
const UNITS: [(&str, &str); 3] =
    [("nginx", "nginx.service"), ("haproxy", "haproxy.service"), ("iperf3", "iperf3.service")];

/// Installs missing tools without starting anything.
pub fn ensure(consent: Consent) -> Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(program, _)| process::find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let purpose = "tools of the benchmark, and what it compares with";
    let units: Vec<&str> =
        UNITS.iter().filter(|(package, _)| missing.contains(package)).map(|(_, unit)| *unit).collect();
    if units.is_empty() || !Path::new("/run/systemd/system").is_dir() {
        return debian::ensure_installed(&missing, purpose, consent);
    }
    let say = |verb: &str| process::run(process::as_root("systemctl")?.args(["--quiet", verb]).args(&units));
    consent.obtain(
        "keeping the servers of the benchmark from being started",
        &format!("systemctl mask {}", units.join(" ")),
    )?;
    say("mask")?;
    let installed = debian::ensure_installed(&missing, purpose, consent);
    say("unmask")?;
    installed?;
    say("disable")
}
