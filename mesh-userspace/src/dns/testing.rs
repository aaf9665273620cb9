//! A DNS client, an upstream and zones made by hand, on loopback addresses that no other test uses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::zone::{Client, Entry, Zone, ZoneNetwork};
use crate::model::Id;

pub const PORT: u16 = 10053;
pub const UPSTREAM_PORT: u16 = 10054;

/// Loopback addresses of one test: 127.x.y.0/24, by process and order of asking.
#[derive(Clone, Copy)]
pub struct Loopback(u8, u8);

impl Loopback {
    pub fn claim() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        // 127.0.0.0/16 is left to what the machine itself runs there.
        Loopback((std::process::id() % 250) as u8 + 2, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn at(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0, self.1, last)
    }

    /// Network `demo` with gateway .1; the task at .10 sees it. `web` has a VIP, `tasks.web` is `tasks` long.
    /// Network `secret` with gateway .2 is internal; the task at .20 sees it alone.
    pub fn zone(self, tasks: usize) -> Zone {
        let entry = |addrs: Vec<Ipv4Addr>, ttl_s| {
            let addrs = addrs.into_iter().map(IpAddr::from).collect();
            Entry { addrs, ttl_s, withheld: true }
        };
        let list = (0..tasks).map(|at| Ipv4Addr::new(10, 0, (at / 250) as u8, (at % 250) as u8)).collect();
        let names = BTreeMap::from([
            ("web".to_string(), entry(vec![Ipv4Addr::new(10, 9, 9, 9)], 30)),
            ("tasks.web".to_string(), entry(list, 5)),
            ("gone".to_string(), entry(vec![], 30)),
        ]);
        let network = |name: &str, last, internal, names| ZoneNetwork {
            name: name.into(),
            subnets: format!("10.{last}.0.0/16").parse().unwrap(),
            gateways: self.at(last).into(),
            internal,
            names,
            reverse: BTreeMap::new(),
        };
        let client = |number: u8, network| Client { task_id: Id::from_bytes([number; 16]), networks: vec![network] };
        Zone {
            networks: vec![network("demo", 1, false, names), network("secret", 2, true, BTreeMap::new())],
            clients: BTreeMap::from([(self.at(10).into(), client(10, 0)), (self.at(20).into(), client(20, 1))]),
        }
    }
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

pub fn question(text: &str, record_type: RecordType, edns_payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), record_type));
    message.edns = edns_payload.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    message
}

/// Asks once over UDP; nothing if no answer comes within two seconds.
pub async fn ask_udp(from: Ipv4Addr, to: SocketAddrV4, message: &Message) -> Option<(Message, usize)> {
    let socket = UdpSocket::bind((from, 0)).await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), to).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (len, source) = timeout(Duration::from_secs(2), socket.recv_from(&mut buffer)).await.ok()?.ok()?;
    assert_eq!(source, SocketAddr::from(to), "the answer comes from the address that was asked");
    let answer = Message::from_vec(&buffer[..len]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.queries, message.queries);
    Some((answer, len))
}

pub async fn ask_tcp(from: Ipv4Addr, to: SocketAddrV4, message: &Message) -> Message {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to.into()).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let len = timeout(Duration::from_secs(5), stream.read_u16()).await.unwrap().unwrap();
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// Asks over UDP, with EDNS as glibc can: code and addresses.
pub async fn resolve(from: Ipv4Addr, gateway: Ipv4Addr, text: &str) -> Option<(ResponseCode, Vec<Ipv4Addr>)> {
    let message = question(text, RecordType::A, Some(4096));
    let (answer, _) = ask_udp(from, SocketAddrV4::new(gateway, PORT), &message).await?;
    Some((answer.response_code, addresses(&answer)))
}

pub fn addresses(answer: &Message) -> Vec<Ipv4Addr> {
    let a = |record: &Record| match record.data {
        RData::A(A(addr)) => Some(addr),
        _ => None,
    };
    answer.answers.iter().filter_map(a).collect()
}

pub fn write_resolv_conf(path: &Path, servers: &[Ipv4Addr]) {
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    std::fs::write(path, lines).unwrap();
}

/// An upstream that knows `outside.test` (by the given address) and says NXDOMAIN to `nx.test`, nothing-of-that-type
/// to `nodata.test` (both with an SOA), SERVFAIL to `broken.test`, and nothing at all to `silent.test`.
pub async fn upstream(at: Ipv4Addr, outside: Ipv4Addr) -> tokio::task::JoinHandle<()> {
    let socket = UdpSocket::bind((at, UPSTREAM_PORT)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let Ok(asked) = Message::from_vec(&buffer[..len]) else { continue };
            let query = asked.queries[0].clone();
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            let soa = SOA::new(name("ns.test"), name("admin.test"), 1, 60, 60, 60, 60);
            let soa = Record::from_rdata(name("test"), 60, RData::SOA(soa));
            match query.name().to_ascii().to_lowercase().as_str() {
                "outside.test." => {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A(outside))));
                }
                "nx.test." => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    answer.add_authority(soa);
                }
                "nodata.test." => {
                    answer.add_authority(soa);
                }
                "broken.test." => answer.metadata.response_code = ResponseCode::ServFail,
                _ => continue,
            }
            if socket.send_to(&answer.to_vec().unwrap(), from).await.is_err() {
                return;
            }
        }
    })
}
