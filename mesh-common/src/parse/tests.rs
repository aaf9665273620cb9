//! Headers by literal bytes, and both ways of reading against each other.

use core::fmt::Debug;

use super::*;
use crate::family::V6;
use proptest::prelude::*;

/// 192.0.2.1:40000 → 198.51.100.7:80, SYN.
const SYN: [u8; 54] = [
    0xe6, 0x10, 0, 0, 0, 0, 0xe6, 0x11, 0, 0, 0, 7, 0x08, 0x00, // Ethernet
    0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7, // IPv4
    0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0, // TCP
];

#[test]
fn a_syn_is_read() {
    let frame: &[u8] = &SYN;
    let eth = ethernet(&frame).unwrap();
    assert_eq!((eth.dst, eth.ethertype), (crate::wire::mac::GATEWAY, 0x0800));
    let p = packet::<V4>(&frame).unwrap();
    assert_eq!((p.src, p.dst, p.sport, p.dport), ([192, 0, 2, 1].into(), [198, 51, 100, 7].into(), 40_000, 80));
    assert_eq!((p.form, p.l4, p.l4_len, p.may_open()), (Form::Ports, 34, 20, true));
}

#[test]
fn a_later_fragment_has_no_ports_and_the_first_one_has() {
    let mut frame = SYN;
    (frame[19], frame[21]) = (7, 1);
    let later = packet::<V4>(&&frame[..]).unwrap();
    assert_eq!((later.form, later.is_piece, V4::fragment_id(&&frame[..])), (Form::Fragment, true, Some(7)));
    // "More fragments", no offset.
    (frame[20], frame[21]) = (0x20, 0);
    let first = packet::<V4>(&&frame[..]).unwrap();
    assert_eq!((first.form, first.is_piece, first.dport), (Form::Ports, true, 80));
    assert!(!packet::<V4>(&&SYN[..]).unwrap().is_piece);
}

#[test]
fn headers_that_contradict_each_other_are_malformed() {
    for (at, value) in [(14, 0x65), (14, 0x44), (17, 19), (46, 0x40)] {
        let mut frame = SYN;
        frame[at] = value;
        assert_eq!(packet::<V4>(&&frame[..]), None, "byte {at}");
    }
    assert_eq!(packet::<V4>(&&SYN[..40]), None);
}

#[test]
fn echo_carries_its_identifier_as_a_port() {
    let mut frame = SYN;
    frame[23] = protocol::ICMP;
    frame[34] = 8;
    frame[38..40].copy_from_slice(&[0x12, 0x34]);
    let p = packet::<V4>(&&frame[..]).unwrap();
    assert_eq!((p.form, p.sport, p.dport), (Form::EchoRequest, 0x1234, 0));
    frame[34] = 0;
    let p = packet::<V4>(&&frame[..]).unwrap();
    assert_eq!((p.form, p.sport, p.dport), (Form::EchoReply, 0, 0x1234));
}

/// Both ways of reading say the same.
fn check_both<F: ParseIp<Addr: Debug> + Debug + PartialEq>(frame: &[u8]) {
    let (mut room, mut plain_room) = (Room::<F>::uninit(), Room::<F>::uninit());
    let closely = packet::<F>(&frame);
    assert_eq!(read(&frame, &mut room).map(|packet| *packet), closely);
    let plainly = plain(&frame, &mut plain_room);
    assert!(plainly.is_none() || plainly == closely.as_ref(), "{plainly:?} {closely:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let frame: &[u8] = &bytes;
        let _ = ethernet(&frame);
        check_both::<V4>(frame);
        check_both::<V6>(frame);
    }

    #[test]
    fn the_short_way_reads_what_the_long_one_does(
        len in 34..=74usize, changes in proptest::collection::vec((12..60usize, any::<u8>()), 0..3),
        protocol in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), Just(132)], is_v6 in any::<bool>(),
    ) {
        let mut frame = [0; 74];
        frame[..54].copy_from_slice(&SYN);
        if is_v6 {
            (frame[14], frame[19], frame[20]) = (0x60, 20, protocol);
            frame.copy_within(34..54, 54);
        } else {
            frame[23] = protocol;
        }
        changes.into_iter().for_each(|(at, value)| frame[at] = value);
        check_both::<V4>(&frame[..len]);
        check_both::<V6>(&frame[..len]);
    }
}

#[test]
fn the_usual_packet_is_read_the_short_way() {
    let mut room = Room::<V4>::uninit();
    assert_eq!(plain(&&SYN[..], &mut room).map(|p| (p.sport, p.dport, p.tcp_flags)), Some((40_000, 80, 2)));
    let mut frame = SYN;
    frame[14] = 0x46;
    assert!(plain(&&frame[..], &mut Room::<V4>::uninit()).is_none(), "options are looked at closely");
}
