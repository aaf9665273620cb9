//! DNAT by nftables as its users write it today: one map for services, one for backends, drawn by chance.

use anyhow::Result;

use super::routed::{self, BACKENDS, VIP};
use super::{Ground, run};
use crate::bench::e2e::server::{STREAM, WEB};
use crate::bench::e2e::tool::Call;

pub fn build(ground: Ground) -> Result<Call> {
    let routed = routed::build(ground, "nftables")?;
    run(&routed.router, &["nft", "-f", "-"], &rules())?;
    Ok(routed.call())
}

fn rules() -> String {
    let [one, two] = BACKENDS;
    format!(
        "table ip services {{
  chain web {{ dnat to numgen random mod 2 map {{ 0 : {one}, 1 : {two} }}; }}
  chain stream {{ dnat to {one}; }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr . meta l4proto . th dport vmap {{
      {VIP} . tcp . {WEB} : goto web, {VIP} . tcp . {STREAM} : goto stream, {VIP} . udp . {STREAM} : goto stream
    }}
  }}
}}
"
    )
}
