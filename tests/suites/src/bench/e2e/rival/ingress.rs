//! A published port in Docker's chain: the host's DNAT to the ingress sandbox, there DNAT and SNAT, then bridge + VXLAN to a backend.
//!
//! iptables stands for IPVS in the sandbox, which costs about the same (docs/performance.md says where from). The client is the lab's
//! own, on the switch, and asks the host that has no task. The client's address is lost in the sandbox, as with Docker.

use std::net::SocketAddrV4;

use anyhow::Result;

use super::overlay::{self, HOSTS};
use super::{Ground, iptables, run};
use crate::bench::e2e::server::{STREAM, WEB};
use crate::bench::e2e::tool::Call;

const SANDBOX: &str = "172.18.0.2";
const GATEWAY: &str = "172.18.0.1";

pub fn build(ground: Ground) -> Result<Call> {
    let overlay = overlay::build(ground, "vpub", 3)?;
    let (host, sandbox) = (ground.lab.node(HOSTS[0]), &overlay.near);
    host.set_sysctl("net.ipv4.ip_forward", "1")?;
    sandbox.set_sysctl("net.ipv4.ip_forward", "1")?;
    host.namespace().ip(&format!(
        "link add gwbridge type bridge stp_state 0 forward_delay 0
         address add {GATEWAY}/16 dev gwbridge
         link set gwbridge up
         link add sandbox type veth peer name eth1 netns {}
         link set sandbox master gwbridge
         link set sandbox up",
        sandbox.name()
    ))?;
    sandbox.ip(&format!(
        "address add {SANDBOX}/16 dev eth1
         link set eth1 up
         route add default via {GATEWAY}"
    ))?;
    run(host.namespace(), &["iptables-restore"], &host_rules())?;
    let backends = overlay.backends.map(|backend| backend.to_string());
    let balance = iptables::rules_for("PREROUTING", SANDBOX, backends);
    let own = "172.21.3.2";
    let snat = format!("-A POSTROUTING -d 172.21.3.0/24 -o eth0 -j SNAT --to-source {own}\nCOMMIT\n");
    run(sandbox, &["iptables-restore"], &balance.replace("COMMIT\n", &snat))?;
    Ok(Call {
        namespace: ground.lab.client().namespace().path(),
        web: vec![SocketAddrV4::new(host.address(), WEB)],
        stream: SocketAddrV4::new(host.address(), STREAM),
    })
}

/// As dockerd writes them for published ports.
fn host_rules() -> String {
    format!(
        "*nat
:DOCKER-INGRESS - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS
-A DOCKER-INGRESS -p tcp -m tcp --dport {WEB} -j DNAT --to-destination {SANDBOX}:{WEB}
-A DOCKER-INGRESS -p tcp -m tcp --dport {STREAM} -j DNAT --to-destination {SANDBOX}:{STREAM}
-A DOCKER-INGRESS -p udp -m udp --dport {STREAM} -j DNAT --to-destination {SANDBOX}:{STREAM}
-A DOCKER-INGRESS -j RETURN
-A POSTROUTING -o gwbridge -m addrtype --src-type LOCAL -j MASQUERADE
-A POSTROUTING -s 172.18.0.0/16 ! -o gwbridge -j MASQUERADE
COMMIT
"
    )
}
