//! Facts about the other nodes: each is called, asked the time, and sent a packet of full size; all at once.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::path;
use crate::agent::member::Member;
use crate::agent::{now, peers};
use crate::doctor::{Api, PathMtu, Peer, Peers};
use crate::kernel::net::{NetError, namespace};
use crate::model::{Node, Task};
use crate::plan::net::overhead;

/// A node that is away does not refuse: it is silent.
const API_PATIENCE: Duration = Duration::from_secs(3);
const DNS_PATIENCE: Duration = Duration::from_secs(2);
const DNS_PORT: u16 = 53;

/// None where the cluster's facts have not come yet.
pub async fn gather(member: &Arc<Member>) -> Option<Peers> {
    let cluster = member.desired.get();
    let settings = cluster.settings.as_ref()?;
    let data_path = cluster.nodes.get(&member.id).map(|node| node.data_path_addr);
    let overlay_mtu = data_path.and_then(|addr| member.kernel.overlay_mtu(addr));
    let mut asking = JoinSet::new();
    for node in cluster.nodes.values().filter(|node| node.id != member.id) {
        let (member, node) = (member.clone(), node.clone());
        asking.spawn(async move { ask(&member, node, overlay_mtu).await });
    }
    let mut found: Vec<Peer> = asking.join_all().await;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Peers {
        overlay_mtu,
        outer_mtu: overlay_mtu.zip(data_path).map(|(mtu, addr)| mtu + overhead(addr)),
        data_port: settings.data_path_port,
        peers: found,
        names: names(member).await,
    })
}

async fn ask(member: &Member, node: Node, overlay_mtu: Option<u32>) -> Peer {
    let observed = member.observed();
    let is_reached = !observed.unreachable_since.contains_key(&node.id);
    let path = async {
        match overlay_mtu {
            Some(mtu) if is_reached => path::largest(&member.kernel, node.number, mtu).await,
            _ => PathMtu::NotTried,
        }
    };
    let (api, path) = tokio::join!(call(member, &node), path);
    Peer {
        api_addr: node.api_addr(),
        gossip_addr: node.gossip_addr(),
        data_path_addr: node.data_path_addr,
        is_alive: observed.agent_alive.get(&node.id).copied(),
        is_reached,
        api,
        path,
        name: node.name,
    }
}

async fn call(member: &Member, node: &Node) -> Api {
    let client = peers::client(&member.dialer, node);
    let (sent_ms, started) = (now(), Instant::now());
    match timeout(API_PATIENCE, client.status()).await {
        Err(_) => Api::Failed(format!("silent for {} s", API_PATIENCE.as_secs())),
        Ok(Err(error)) => Api::Failed(error.message),
        Ok(Ok(status)) => {
            let took_ms = started.elapsed().as_millis() as u64;
            // Its clock was read somewhere in between; the middle is the best guess.
            let ours = sent_ms + took_ms / 2;
            Api::Answered { ahead_ms: status.at as i64 - ours as i64, took_ms }
        }
    }
}

/// Asks the name server from inside a task of this node, as the task would.
async fn names(member: &Member) -> Option<(String, Result<(), String>)> {
    let cluster = member.desired.get();
    let here = member.kernel.namespaces();
    let found = here.iter().find_map(|(id, netns)| {
        let task: &Task = cluster.tasks.get(id)?;
        let network = cluster.networks.get(&task.attachments.first()?.network_id)?;
        Some((task.name(), task.service_name.clone(), network.gateways.first()?, File::open(netns).ok()?))
    });
    let (task, service, gateway, netns) = found?;
    let question = question(&service);
    let asked = namespace::enter(OwnedFd::from(netns), move || async move { Ok(ask_name(gateway, question).await) });
    let said = asked.await.map_err(|error: NetError| error.to_string()).and_then(|said| said);
    Some((task, said))
}

async fn ask_name(gateway: IpAddr, question: Vec<u8>) -> Result<(), String> {
    let asked = async {
        let socket = UdpSocket::bind(any_of(gateway)).await?;
        socket.connect(SocketAddr::from((gateway, DNS_PORT))).await?;
        let mut answer = [0; 512];
        loop {
            socket.send(&question).await?;
            // Datagrams may be lost; asked again, as resolvers do.
            match timeout(DNS_PATIENCE / 4, socket.recv(&mut answer)).await {
                Ok(received) => return received.map(drop),
                Err(_) => continue,
            }
        }
    };
    match timeout(DNS_PATIENCE, asked).await {
        Ok(received) => received.map_err(|error| format!("{gateway}: {error}")),
        Err(_) => Err(format!("{gateway} is silent for {} s", DNS_PATIENCE.as_secs())),
    }
}

/// Any address and port of this one's family.
fn any_of(addr: IpAddr) -> SocketAddr {
    match addr {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// "Which IPv4 address has this name?" (RFC 1035, 4.1). Any answer will do, so the number of the question does not matter.
fn question(name: &str) -> Vec<u8> {
    const HEADER: [u8; 12] = [0x6d, 0x65, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    const TYPE_A_CLASS_IN: [u8; 4] = [0, 1, 0, 1];
    let mut message = HEADER.to_vec();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        message.push(label.len() as u8);
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend_from_slice(&TYPE_A_CLASS_IN);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_that_a_name_server_reads() {
        use hickory_proto::op::Message;
        use hickory_proto::rr::RecordType;
        let message = Message::from_vec(&question("web.demo")).expect("a DNS message");
        let asked = &message.queries[0];
        assert_eq!((asked.name().to_string().as_str(), asked.query_type()), ("web.demo.", RecordType::A));
    }
}
