//! HAProxy in TCP mode on the router: a program between two connections. It has no datagrams.

use anyhow::Result;

use super::Ground;
use super::routed::{self, BACKENDS, VIP};
use crate::bench::e2e::server::{self, STREAM, WEB};
use crate::bench::e2e::tool::Call;

pub fn build(ground: Ground) -> Result<Call> {
    let routed = routed::build(ground, "haproxy")?;
    routed.router.ip(&format!("address add {VIP}/32 dev lo"))?;
    let file = ground.folder.join("haproxy.cfg");
    std::fs::write(&file, configuration())?;
    let words = ["haproxy", "-db", "-f", &file.display().to_string()].map(str::to_owned);
    server::start(&routed.router, &words, ground.folder)?;
    Ok(routed.call())
}

fn configuration() -> String {
    let [one, two] = BACKENDS;
    format!(
        "global
  nbthread 2
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend web
  bind {VIP}:{WEB}
  default_backend web
backend web
  balance roundrobin
  server one {one}:{WEB}
  server two {two}:{WEB}
frontend stream
  bind {VIP}:{STREAM}
  default_backend stream
backend stream
  server one {one}:{STREAM}
"
    )
}
