//! Real sockets on loopback addresses, a client made by hand, an upstream that is faked.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tempfile::TempDir;

use super::*;
use crate::dns::testing::{
    Loopback, PORT, UPSTREAM_PORT, addresses, ask_tcp, ask_udp, question, resolve, upstream, write_resolv_conf,
};

fn options(dir: &TempDir) -> ForwardOptions {
    ForwardOptions {
        resolv_conf: dir.path().join("resolv.conf"),
        port: UPSTREAM_PORT,
        patience: Duration::from_millis(100),
        deadline: Duration::from_millis(1_000),
        max_concurrent: 4,
    }
}

async fn server(net: Loopback, dir: &TempDir, tasks: usize) -> DnsServer {
    let mut server = DnsServer::new(PORT, options(dir));
    server.apply(net.zone(tasks)).await;
    assert_eq!(server.errors(), &BTreeMap::new());
    assert_eq!(server.gateways(), [net.at(1).into(), net.at(2).into()].into());
    server
}

#[tokio::test]
async fn truncation_then_tcp_and_sizes_by_edns() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let server = server(net, &dir, 200).await;
    let gateway = SocketAddrV4::new(net.at(1), PORT);
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(1232), 1232), (Some(4096), 1232)] {
        let message = question("tasks.web", RecordType::A, payload);
        let (answer, len) = ask_udp(net.at(10), gateway, &message).await.unwrap();
        assert!(answer.metadata.truncation, "{payload:?}");
        assert!(len <= limit && len + 16 > limit, "{payload:?}: {len} of {limit}");
        assert_eq!(answer.edns.is_some(), payload.is_some(), "OPT in the answer as in the query");
    }
    let message = question("tasks.web", RecordType::A, None);
    let answer = ask_tcp(net.at(10), gateway, &message).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(addresses(&answer).len(), 200);
    assert!(answer.answers.iter().all(|record| record.ttl == 5));
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(server.counts().answered, 6);
}

#[tokio::test]
async fn answers_from_the_zone() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let mut server = server(net, &dir, 2).await;
    let gateway = SocketAddrV4::new(net.at(1), PORT);
    let ask = async |from: u8, text: &str, record_type| {
        let (answer, _) = ask_udp(net.at(from), gateway, &question(text, record_type, None)).await.unwrap();
        (answer.response_code, addresses(&answer).len())
    };
    assert_eq!(ask(10, "WeB", RecordType::A).await, (ResponseCode::NoError, 1));
    assert_eq!(ask(10, "web", RecordType::AAAA).await, (ResponseCode::NoError, 0));
    assert_eq!(ask(10, "web", RecordType::MX).await, (ResponseCode::NoError, 0));
    assert_eq!(ask(10, "gone", RecordType::A).await, (ResponseCode::NXDomain, 0));
    assert_eq!(ask(20, "web", RecordType::A).await, (ResponseCode::NXDomain, 0));
    assert_eq!(ask(20, "outside.test", RecordType::A).await, (ResponseCode::ServFail, 0), "internal network");
    assert_eq!(ask(99, "web", RecordType::A).await, (ResponseCode::Refused, 0), "no task");
    assert_eq!(ask(10, "web", RecordType::AXFR).await, (ResponseCode::Refused, 0));
    // No resolv.conf at all.
    assert_eq!(ask(10, "outside.test", RecordType::A).await, (ResponseCode::ServFail, 0));
    let counts = server.counts();
    let expected = QueryCounts {
        answered: 1,
        no_data: 2,
        nx_domain: 2,
        internal: 1,
        refused: 1,
        unsupported: 1,
        forward_failed: 1,
        ..counts
    };
    assert_eq!(counts, expected);
    assert!(server.upstreams().1.unwrap().contains("resolv.conf can't be read"));

    // Spelling is given back as it came (asserted by ask_udp), and names change at once with the zone.
    server.apply(Zone { networks: vec![], ..net.zone(0) }).await;
    assert_eq!(server.gateways(), BTreeSet::new());
    let mut zone = net.zone(3);
    zone.networks[0].names.remove("web");
    server.apply(zone).await;
    assert_eq!(ask(10, "tasks.web", RecordType::A).await, (ResponseCode::NoError, 3));
}

#[tokio::test]
async fn garbage_is_survived() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let _server = server(net, &dir, 2).await;
    let socket = UdpSocket::bind((net.at(10), 0)).await.unwrap();
    let good = question("web", RecordType::A, None).to_vec().unwrap();
    for len in 0..good.len() {
        socket.send_to(&good[..len], (net.at(1), PORT)).await.unwrap();
    }
    let mut two_questions = question("web", RecordType::A, None);
    two_questions.add_query(two_questions.queries[0].clone());
    let (answer, _) = ask_udp(net.at(10), SocketAddrV4::new(net.at(1), PORT), &two_questions).await.unwrap();
    assert_eq!(answer.response_code, ResponseCode::FormErr);
    let mut future_edns = question("web", RecordType::A, Some(1232));
    future_edns.edns.as_mut().unwrap().set_version(1);
    let (answer, _) = ask_udp(net.at(10), SocketAddrV4::new(net.at(1), PORT), &future_edns).await.unwrap();
    assert_eq!(u16::from(answer.response_code), 16, "BADVERS, which shares its number with BADSIG");
    assert_eq!(resolve(net.at(10), net.at(1), "web").await.unwrap().0, ResponseCode::NoError);
}

#[tokio::test]
async fn forwards_what_is_not_ours() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let outside = Ipv4Addr::new(192, 0, 2, 1);
    let _upstream = upstream(net.at(200), outside).await;
    // The gateway itself is in the file: it must be left out, or a query would go round in circles.
    write_resolv_conf(&dir.path().join("resolv.conf"), &[net.at(1), net.at(200)]);
    let server = server(net, &dir, 2).await;
    assert_eq!(server.upstreams(), (vec![net.at(200).into()], None));

    let gateway = SocketAddrV4::new(net.at(1), PORT);
    let ask = async |text: &str| {
        let (answer, _) = ask_udp(net.at(10), gateway, &question(text, RecordType::A, None)).await.unwrap();
        answer
    };
    let answer = ask("Outside.TEST").await;
    assert_eq!((answer.response_code, addresses(&answer)), (ResponseCode::NoError, vec![outside]));
    assert!(!answer.metadata.authoritative);
    for (text, code) in [("nx.test", ResponseCode::NXDomain), ("nodata.test", ResponseCode::NoError)] {
        let answer = ask(text).await;
        assert_eq!((answer.response_code, answer.answers.len()), (code, 0), "{text}");
        assert_eq!(answer.authorities.len(), 1, "{text} comes with its SOA");
    }
    assert_eq!(ask("broken.test").await.response_code, ResponseCode::ServFail);
    let began = Instant::now();
    assert_eq!(ask("silent.test").await.response_code, ResponseCode::ServFail);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let counts = server.counts();
    assert_eq!((counts.forwarded, counts.forward_failed), (3, 2));

    // Reverse names of overlays stay here, others go out (and this upstream keeps silent about them).
    assert_eq!(ask("1.2.1.10.in-addr.arpa").await.response_code, ResponseCode::NXDomain);
    assert_eq!(server.counts().nx_domain, 1);
}

#[tokio::test]
async fn a_dead_or_failing_first_upstream_does_not_matter() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let outside = Ipv4Addr::new(192, 0, 2, 2);
    let _mute = UdpSocket::bind((net.at(200), UPSTREAM_PORT)).await.unwrap();
    let _second = upstream(net.at(201), outside).await;
    let resolv_conf = dir.path().join("resolv.conf");
    write_resolv_conf(&resolv_conf, &[net.at(200), net.at(201)]);
    let _server = server(net, &dir, 2).await;
    let began = Instant::now();
    assert_eq!(resolve(net.at(10), net.at(1), "outside.test").await.unwrap(), (ResponseCode::NoError, vec![outside]));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());

    // A changed resolv.conf counts without a restart.
    let third = Ipv4Addr::new(192, 0, 2, 3);
    let _third = upstream(net.at(202), third).await;
    write_resolv_conf(&resolv_conf, &[net.at(202)]);
    let until = Instant::now() + Duration::from_secs(5);
    while resolve(net.at(10), net.at(1), "outside.test").await.unwrap().1 != [third] {
        assert!(Instant::now() < until, "the new resolv.conf is not used");
    }
}

#[tokio::test]
async fn too_many_forwards_fail_at_once() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let _mute = UdpSocket::bind((net.at(200), UPSTREAM_PORT)).await.unwrap();
    write_resolv_conf(&dir.path().join("resolv.conf"), &[net.at(200)]);
    let server = server(net, &dir, 2).await;
    let asks = (0..10).map(|number| {
        let text = format!("silent{number}.test");
        async move { resolve(net.at(10), net.at(1), &text).await.unwrap().0 }
    });
    let codes = futures_util::future::join_all(asks).await;
    assert_eq!(codes, [ResponseCode::ServFail; 10]);
    assert_eq!((server.counts().forward_overload, server.counts().forward_failed), (6, 4));
}

#[tokio::test]
async fn a_busy_port_is_said_and_tried_again() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let blocker = std::net::UdpSocket::bind((net.at(1), PORT)).unwrap();
    let mut server = DnsServer::new(PORT, options(&dir));
    server.apply(net.zone(2)).await;
    assert_eq!(server.gateways(), [net.at(2).into()].into(), "the other network has its listener");
    let said = &server.errors()[&net.at(1).into()];
    assert!(
        said.starts_with(&format!("UDP port {PORT} on gateway {} is used by another program", net.at(1))),
        "{said}"
    );

    drop(blocker);
    server.listen();
    assert_eq!(server.errors(), &BTreeMap::new());
    assert_eq!(resolve(net.at(10), net.at(1), "web").await.unwrap().0, ResponseCode::NoError);
}

#[tokio::test]
async fn an_address_that_is_not_there_yet_can_be_listened_on() {
    let (net, dir) = (Loopback::claim(), TempDir::new().unwrap());
    let mut zone = net.zone(2);
    zone.networks[0].gateways = "192.0.2.77,2001:db8::77".parse().unwrap();
    let mut server = DnsServer::new(PORT, options(&dir));
    server.apply(zone).await;
    assert_eq!(server.errors(), &BTreeMap::new());
    assert_eq!(
        server.gateways(),
        ["192.0.2.77", "2001:db8::77", &net.at(2).to_string()].map(|addr| addr.parse().unwrap()).into()
    );
}
