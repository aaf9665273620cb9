//! DNAT by iptables, in chains as kube-proxy builds them: a service's chain picks a backend's chain by chance.

use anyhow::Result;

use super::routed::{self, BACKENDS, VIP};
use super::{Ground, run};
use crate::bench::e2e::server::{STREAM, WEB};
use crate::bench::e2e::tool::Call;

pub fn build(ground: Ground) -> Result<Call> {
    let routed = routed::build(ground, "iptables")?;
    run(&routed.router, &["iptables-restore"], &rules("PREROUTING"))?;
    Ok(routed.call())
}

/// The nat table: two backends for the web, one for streams and datagrams.
pub fn rules(hook: &str) -> String {
    rules_for(hook, &VIP.to_string(), BACKENDS.map(|backend| backend.to_string()))
}

/// As [`rules`], for any addresses.
pub fn rules_for(hook: &str, vip: &str, [one, two]: [String; 2]) -> String {
    format!(
        "*nat
:SERVICES - [0:0]
:WEB - [0:0]
:WEB-1 - [0:0]
:WEB-2 - [0:0]
:STREAM-1 - [0:0]
-A {hook} -j SERVICES
-A SERVICES -d {vip}/32 -p tcp -m tcp --dport {WEB} -j WEB
-A SERVICES -d {vip}/32 -p tcp -m tcp --dport {STREAM} -j STREAM-1
-A SERVICES -d {vip}/32 -p udp -m udp --dport {STREAM} -j STREAM-1
-A WEB -m statistic --mode random --probability 0.5 -j WEB-1
-A WEB -j WEB-2
-A WEB-1 -p tcp -m tcp -j DNAT --to-destination {one}:{WEB}
-A WEB-2 -p tcp -m tcp -j DNAT --to-destination {two}:{WEB}
-A STREAM-1 -p tcp -m tcp -j DNAT --to-destination {one}:{STREAM}
-A STREAM-1 -p udp -m udp -j DNAT --to-destination {one}:{STREAM}
COMMIT
"
    )
}
