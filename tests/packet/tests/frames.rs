//! Frames byte by byte, from published captures and by hand, and how differences read.

use mesh_packet::{any, checksum, decode, eth, fragments};

const A: &str = "02:00:00:00:00:0a";
const B: &str = "02:00:00:00:00:0b";

/// The bytes of a hex text; blanks and line ends don't count.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn the_ipv4_header_that_everybody_knows() {
    // The worked example of the IPv4 header checksum (b861), as in the encyclopedia; its UDP message is cut off.
    let frame = eth(A, B).ipv4("192.168.0.1", "192.168.0.199").dont_fragment().protocol(17).payload_of(95).bytes();
    assert_eq!(frame[14..34], hex("45000073 00004000 4011b861 c0a80001 c0a800c7")[..]);
}

#[test]
fn an_arp_request_and_its_reply() {
    let request = eth(A, "ff:ff:ff:ff:ff:ff").arp_request(A, "10.0.0.2", "10.0.0.1").bytes();
    let wanted = hex("ffffffffffff 02000000000a 0806
         0001 0800 06 04 0001 02000000000a 0a000002 000000000000 0a000001");
    assert_eq!(request, wanted);
    let reply = eth(B, A).arp_reply(B, "10.0.0.1", A, "10.0.0.2").bytes();
    assert_eq!(reply[14..], hex("0001 0800 06 04 0002 02000000000b 0a000001 02000000000a 0a000002")[..]);
}

#[test]
fn a_tcp_syn_with_options() {
    let frame = eth(A, B).ipv4("10.0.0.2", "10.0.0.1").tcp(40000, 80).seq(1).syn().mss(1460).window(64240).bytes();
    // Both checksums were computed apart from this code.
    let wanted = hex("02000000000b 02000000000a 0800
         4500002c 00000000 400666ca 0a000002 0a000001
         9c40 0050 00000001 00000000 6002 faf0 eca1 0000 020405b4");
    assert_eq!(frame, wanted);
}

#[test]
fn an_echo_of_each_family() {
    let v4 = eth(A, B).ipv4("10.0.0.2", "10.0.0.1").icmp_echo(1, 2).payload(b"hi").bytes();
    // 0800 + 0001 + 0002 + 6869 = 706c, complemented 8f93.
    assert_eq!(v4[34..], hex("08 00 8f93 0001 0002 6869")[..]);
    let v6 = eth(A, B).ipv6("fd00::2", "fd00::1").icmp_echo_reply(1, 2).bytes();
    // 8100 + 0001 + 0002 + fd00 + 0002 + fd00 + 0001 + length 0008 + next header 003a = 27b48 → 7b4a, complemented 84b5.
    assert_eq!(
        v6[14..],
        hex(
            "60000000 0008 3a 40 fd000000000000000000000000000002 fd000000000000000000000000000001 8100 84b5 0001 0002"
        )[..]
    );
}

#[test]
fn a_tunnelled_frame_is_read_back_through_vxlan() {
    let frame = eth(A, B)
        .ipv4("192.0.2.1", "192.0.2.2")
        .udp(50000, 4789)
        .no_checksum()
        .vxlan(4097u32)
        .eth(B, A)
        .ipv4("10.0.0.2", "10.0.0.3")
        .udp(1, 2)
        .payload(b"inside")
        .bytes();
    assert_eq!(frame[42..50], hex("08000000 00100100")[..]);
    let names: Vec<&str> = decode(&frame).iter().map(|layer| layer.name).collect();
    assert_eq!(names, ["eth", "ipv4", "udp", "vxlan", "eth", "ipv4", "udp", "payload"]);
}

#[test]
fn every_built_frame_is_right_in_the_eyes_of_etherparse() {
    let frames = [
        eth(A, B)
            .ipv4("10.0.0.2", "10.0.0.1")
            .tos(0xb8)
            .id(7)
            .ttl(3)
            .tcp(1, 2)
            .seq(9)
            .ack(8)
            .psh()
            .fin()
            .rst()
            .payload(b"x"),
        eth(A, B).ipv4("10.0.0.2", "10.0.0.1").ip_options(&[1, 1, 1]).udp(1, 2).payload(b"odd"),
        eth(A, B)
            .vlan(100)
            .ipv6("fd00::2", "fd00::1")
            .ttl(9)
            .tos(4)
            .tcp(1, 2)
            .syn()
            .mss(1440)
            .tcp_option(&[1])
            .payload(b"odd"),
        eth(A, B).ipv6("fd00::2", "fd00::1").udp(1, 2).payload(b""),
        eth(A, B).ipv6("fd00::2", "fd00::1").icmp_error(2, 0, 1400).payload_of(40),
        eth(A, B).ipv4("10.0.0.2", "10.0.0.1").icmp_error(3, 4, 1400).payload_of(28),
        eth(A, B).arp_request(A, "10.0.0.2", "10.0.0.1"),
    ];
    for frame in frames {
        let bytes = frame.bytes();
        let layers = decode(&bytes);
        let worths: Vec<&String> = layers
            .iter()
            .flat_map(|layer| &layer.fields)
            .filter(|(name, _)| *name == "checksum")
            .map(|(_, text)| text)
            .collect();
        assert!(worths.iter().all(|text| *text == "right"), "{layers:#?}");
        assert!(etherparse::SlicedPacket::from_ethernet(&bytes).is_ok(), "{frame:?}");
        frame.assert_matches(&bytes);
    }
}

#[test]
fn a_checksum_is_shown_by_its_worth() {
    let udp = || eth(A, B).ipv4("10.0.0.2", "10.0.0.1").udp(1, 2).payload(b"abc");
    let worth = |bytes: &[u8]| decode(bytes)[2].fields.last().unwrap().1.clone();
    assert_eq!(worth(&udp().bytes()), "right");
    assert_eq!(worth(&udp().bad_checksum().bytes()), "wrong");
    assert_eq!(worth(&udp().no_checksum().bytes()), "none");
    assert_eq!(worth(&udp().unfinished_checksum().bytes()), "unfinished");
    assert_eq!(udp().unfinished_checksum().bytes(), checksum::unfinish(&udp().bytes()));
}

#[test]
fn both_zeros_of_a_checksum_are_right() {
    let worth = |bytes: &[u8]| decode(bytes)[2].fields.last().unwrap().1.clone();
    let from = |port: u16| eth(A, B).ipv4("10.0.0.2", "10.0.0.1").tcp(port, 80).ack(1).bytes();
    let mut bytes = (1..=u16::MAX).map(from).find(|bytes| bytes[50..52] == [0, 0]).expect("a port that sums to zero");
    assert_eq!(worth(&bytes), "right");
    bytes[50..52].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(worth(&bytes), "right", "as Linux writes it");
    bytes[50..52].copy_from_slice(&[0xff, 0xfe]);
    assert_eq!(worth(&bytes), "wrong");
}

#[test]
fn a_difference_names_header_and_field() {
    let got = eth(A, B).ipv4("10.0.0.2", "10.0.0.9").ttl(63).tcp(40000, 80).syn().bad_checksum().bytes();
    let text = eth(A, B).ipv4("10.0.0.2", "10.0.0.1").tcp(40000, 80).syn().differences(&got).unwrap();
    let lines: Vec<String> =
        text.lines().skip(1).take(3).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "ipv4 destination expected 10.0.0.1 got 10.0.0.9",
            "ipv4 ttl expected 64 got 63",
            "tcp checksum expected right got wrong"
        ]
    );
}

#[test]
fn what_the_test_does_not_own_is_not_compared() {
    let got = eth(A, B)
        .ipv4("10.0.0.2", "10.0.0.1")
        .ttl(9)
        .id(5)
        .tcp(40000, 80)
        .seq(77)
        .ack(5)
        .window(1)
        .payload(b"hello")
        .bytes();
    let ip = || eth(any(), B).ipv4(any(), "10.0.0.1").ttl(any()).id(any());
    ip().tcp(any(), 80).seq(any()).ack(any()).window(any()).payload(b"hello").assert_matches(&got);
    ip().tcp(any(), 80).seq(any()).ack(any()).window(any()).any_payload().assert_matches(&got);
    assert!(ip().tcp(any(), 81).seq(any()).ack(any()).window(any()).any_payload().differences(&got).is_some());
    assert!(
        ip().tcp(any(), 80)
            .seq(any())
            .ack(any())
            .window(any())
            .payload(b"hallo")
            .differences(&got)
            .unwrap()
            .contains("bytes from 1")
    );
}

#[test]
fn wildcards_of_a_tunnel_belong_to_their_own_header() {
    let frame = |inner_ttl: u8| {
        let outer = eth(A, B).ipv4("192.0.2.1", "192.0.2.2").ttl(200).udp(50000, 4789).no_checksum().vxlan(7u32);
        outer.eth(B, A).ipv4("10.0.0.2", "10.0.0.3").ttl(inner_ttl).udp(1, 2).bytes()
    };
    let wanted = |outer_any: bool| {
        let outer = eth(A, B).ipv4("192.0.2.1", "192.0.2.2");
        let outer = if outer_any { outer.ttl(any()) } else { outer.ttl(200) };
        outer.udp(any(), 4789).no_checksum().vxlan(7u32).eth(B, A).ipv4("10.0.0.2", "10.0.0.3").ttl(64).udp(1, 2)
    };
    wanted(true).assert_matches(&frame(64));
    wanted(false).assert_matches(&frame(64));
    assert!(wanted(true).differences(&frame(63)).is_some());
}

#[test]
fn a_router_cuts_a_datagram_into_fragments() {
    let whole = eth(A, B).ipv4("10.0.0.2", "10.0.0.1").id(9).udp(1, 2).payload_of(2000);
    let pieces = fragments(&whole, 1500);
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 562]);
    let field =
        |piece: &[u8], name: &str| decode(piece)[1].fields.iter().find(|(field, _)| *field == name).unwrap().1.clone();
    assert_eq!(
        (field(&pieces[0], "fragment offset"), field(&pieces[0], "more fragments")),
        ("0".into(), "true".into())
    );
    assert_eq!(
        (field(&pieces[1], "fragment offset"), field(&pieces[1], "more fragments")),
        ("1480".into(), "false".into())
    );
    assert!(pieces.iter().all(|piece| field(piece, "checksum") == "right"));
    assert_eq!(decode(&pieces[0])[2].fields.last().unwrap().1, "of the whole datagram");
    assert_eq!(decode(&pieces[1])[2].name, "payload");

    let same = eth(A, B)
        .ipv4("10.0.0.2", "10.0.0.1")
        .id(9)
        .fragment(1480, false)
        .protocol(17)
        .payload(&pieces[1][34..])
        .bytes();
    assert_eq!(same, pieces[1]);
    let v6 = eth(A, B).ipv6("fd00::2", "fd00::1").fragment(1480, true).id(9).protocol(17).payload_of(64);
    v6.assert_matches(&v6.bytes());
    assert_eq!(field(&v6.bytes(), "fragment offset"), "1480");
}

#[test]
fn padding_behind_a_short_packet_is_told_apart() {
    let mut frame = eth(A, B).ipv4("10.0.0.2", "10.0.0.1").udp(1, 2).payload(b"x").bytes();
    frame.resize(60, 0);
    assert_eq!(decode(&frame).last().unwrap().name, "trailer");
}
