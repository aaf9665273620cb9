//! The uplink's driver hook: what it sends on by itself, byte by byte, and what it leaves to TC, untouched and uncounted. Each test plays for calls over
//! IPv4 and over IPv6, between nodes whose own addresses are of IPv4; where one does not, it says why.

use mesh_common::parse::protocol;
use mesh_common::schema::{Address, address_flag, algorithm, flow_flag, frontend_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{Action, Dual, HERE, PEER_2, PEER_3, ROUTER_MAC, Rig, UPLINK_MAC, next_hop_mac};

#[path = "xdp/over.rs"]
mod over;
#[path = "packet_ingress.rs"]
mod with_tc_behind;

use over::*;

#[test]
fn a_call_to_a_task_elsewhere_is_wrapped_and_sent() {
    both(|rig, over| {
        let (_, task) = published(rig);
        let outcome = rig.xdp_uplink(over.call().udp(40000, 8080).payload(b"?"));
        let outcome = outcome.sent(&over.to(2, PEER_2, &task).udp(40000, 8080).payload(b"?"));
        let entry = over.entry(rig);
        assert_eq!((entry.node, entry.vni, entry.packets), (2, vni::REQUEST_WIRE, 1));
        let sport = u16::from_be_bytes([outcome.frame[34], outcome.frame[35]]);
        assert!(sport >= 49_152, "RFC 7348 recommends the dynamic ports: {sport}");
    });
}

#[test]
fn later_packets_go_by_the_entry_and_are_counted_once() {
    both(|rig, over| {
        let (_, task) = published(rig);
        let syn = over.call().tcp(40000, 8080).syn();
        rig.xdp_uplink(&syn);
        let data = over.call().tcp(40000, 8080).seq(1).ack(1).payload(b"GET /");
        let wanted = over.to(2, PEER_2, &task).tcp(40000, 8080).seq(1).ack(1).payload(b"GET /");
        let first = without_entries(rig, &data).sent(&wanted);
        let second = rig.xdp_uplink(&data).sent(&wanted);
        assert_eq!(first.frame[34..36], second.frame[34..36], "a flow has one source port outside");
        let entry = over.entry(rig);
        assert_eq!((entry.packets, entry.bytes), (3, (syn.bytes().len() + 2 * data.bytes().len()) as u64));
    });
}

#[test]
fn congestion_marks_are_told_outside() {
    both(|rig, over| {
        let (_, task) = published(rig);
        let inner = |frame: Frame| over.asks(frame).tos(0xb9).udp(40000, 8080).payload(b"?");
        let outer = eth(UPLINK_MAC, next_hop_mac(2)).ipv4(HERE, PEER_2).id(any()).tos(1).udp(any(), 4789);
        let head =
            outer.no_checksum().vxlan(vni::REQUEST_WIRE).eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, task.task.number));
        rig.xdp_uplink(inner(eth(ROUTER_MAC, UPLINK_MAC))).sent(&inner(head));
    });
}

#[test]
fn a_syn_is_clamped_with_a_right_checksum_wherever_the_option_stands() {
    both(|rig, over| {
        let (_, task) = published(rig);
        let options: [&[u8]; 4] = [&[], &[1], &[3, 3, 7], &[8, 10, 1, 2, 3, 4, 0, 0, 0, 0]];
        for (n, before) in options.into_iter().enumerate() {
            let port = 40000 + n as u16;
            let syn = |frame: Frame, mss| frame.tcp(port, 8080).syn().tcp_option(before).mss(mss);
            rig.xdp_uplink(syn(over.call(), 1460)).sent(&syn(over.to(2, PEER_2, &task), over.mss()));
        }
        let small = |frame: Frame| frame.tcp(40010, 8080).syn().mss(536);
        rig.xdp_uplink(small(over.call())).sent(&small(over.to(2, PEER_2, &task)));
    });
}

#[test]
fn a_first_call_to_an_address_of_another_link_is_left_alone() {
    both(|rig, over| {
        published(rig);
        let syn = over.call().tcp(40000, 8080).syn().mss(1460);
        if over == V4 {
            // CONFIG knows the link of the data path address; of any other ADDRESSES tells.
            rig.configure(|config| config.tunnel_link = 1);
            without_entries(rig, &syn).left_alone();
        }
        rig.configure(|config| config.tunnel_link = 0);
        over.put_address(rig, over.here(), OTHER_LINK);
        without_entries(rig, &syn).left_alone();
    });
}

#[test]
fn what_is_not_plainly_a_call_is_left_alone() {
    both(|rig, over| {
        published(rig);
        let other_here = if over == V4 { "192.0.2.100" } else { "2001:db8:1::100" };
        over.put_address(rig, other_here, OTHER_LINK);
        let syn = |frame: Frame| frame.tcp(40000, 8080).syn().mss(1460);
        let to_us = || eth(ROUTER_MAC, UPLINK_MAC);
        let to = |dst: &str| over.between(to_us(), (over.client(), dst));
        let mut longer_than_itself = syn(over.call()).bytes();
        longer_than_itself[if over == V4 { 17 } else { 19 }] += 1;
        let mut frames = vec![
            over.call().tcp(40000, 22).syn().bytes(),
            over.call().icmp_echo(1, 1).payload_of(56).bytes(),
            over.call().icmp_error(3, 4, 1400).payload_of(28).bytes(),
            over.call().protocol(47).payload_of(20).bytes(),
            syn(to(other_here)).bytes(),
            syn(over.asks(to_us().vlan(5))).bytes(),
            eth(ROUTER_MAC, "ff:ff:ff:ff:ff:ff").arp_request(ROUTER_MAC, "192.0.2.254", HERE).bytes(),
            syn(over.call()).bytes()[..if over == V4 { 40 } else { 60 }].to_vec(),
            longer_than_itself,
        ];
        match over {
            V4 => {
                let whole = over.call().udp(40000, 8080).payload_of(2_000);
                frames.extend(mesh_packet::fragments(&whole, 1_400));
                frames.push(syn(over.call().ip_options(&[1, 1, 1, 1])).bytes());
                frames.extend(["198.51.100.77", "192.0.2.2", "10.0.16.4"].map(|dst| syn(to(dst)).bytes()));
            }
            V6 => {
                // The first fragment of two has its ports behind a header of its own; so have hop-by-hop options (RFC 8200, 4.3 and 4.5).
                frames.push(over.call().fragment(0, true).protocol(17).payload_of(1_400).bytes());
                let mut options = over.call().protocol(0).payload([6, 0, 1, 4, 0, 0, 0, 0].repeat(4)).bytes();
                options.truncate(90);
                frames.push(options);
                frames
                    .extend(["2001:db8:9::77", "::ffff:192.0.2.2", "fd00:16::4", "::"].map(|dst| syn(to(dst)).bytes()));
            }
        }
        for frame in &frames {
            without_entries(rig, frame).left_alone();
        }
        rig.xdp_uplink(syn(over.call())).acted_as(Action::Redirect);
        rig.configure(|config| config.mesh0 = 0);
        rig.xdp_uplink(syn(over.call())).left_alone();
    });
}

#[test]
fn a_port_of_the_hosts_own_and_one_without_tasks_are_left_to_tc() {
    both(|rig, over| {
        let (mut service, _) = published(rig);
        let empty = rig.service("10.0.16.9", &[]);
        rig.publish(&empty, protocol::TCP, 9090, 80);
        rig.publish6(&empty, protocol::TCP, 9090, 80);
        service.frontend.flags = frontend_flag::NOT_TAKEN;
        rig.publish(&service, protocol::TCP, 8081, 80);
        rig.publish6(&service, protocol::TCP, 8081, 80);
        for port in [9090, 8081] {
            without_entries(rig, over.call().tcp(40000, port).syn()).left_alone();
        }
    });
}

#[test]
fn an_unreachable_node_is_refused_by_tc() {
    both(|rig, over| {
        published(rig);
        rig.unreachable(2, PEER_2);
        // What the caller is told is TC's.
        rig.xdp_uplink(over.call().tcp(40000, 8080).syn()).left_alone();
        if over == V4 {
            let rst = over.answers(eth(UPLINK_MAC, ROUTER_MAC)).id(any()).dont_fragment();
            let rst = rst.tcp(8080, 40000).rst().ack(1).window(any());
            rig.from_uplink(over.call().tcp(40000, 8080).syn()).refused(DropReason::PeerUnreachable, &rst);
        }
    });
}

#[test]
fn a_node_without_a_next_hop_on_this_link_is_reached_by_tc_and_the_packet_counted_once() {
    for ifindex in [0, 1] {
        both(|rig, over| {
            published(rig);
            let peer = mesh_common::schema::Peer { ifindex, ..rig.peer(2) };
            rig.set("PEERS", 2, peer);
            for packets in [1, 2] {
                let (outcome, by_xdp) = rig.from_wire_with_xdp(over.call().udp(40000, 8080).payload(b"?"));
                outcome.acted_as(Action::Redirect);
                assert_eq!((by_xdp, over.entry(rig).packets), (false, packets));
            }
        });
    }
}

#[test]
fn what_does_not_fit_the_path_is_left_to_tc() {
    both(|rig, over| {
        published(rig);
        // 1500 less the outer 36 (IP, UDP, VXLAN) and the inner 14 and its IP and UDP.
        let most = 1_500 - 36 - 14 - if over == V4 { 28 } else { 48 };
        let of = |size| over.call().udp(40000, 8080).payload_of(size);
        assert!(rig.from_wire_with_xdp(of(most)).1);
        assert_eq!(over.entry(rig).packets, 1);
        let (outcome, by_xdp) = rig.from_wire_with_xdp(of(most + 1));
        // IPv4 may be cut outside; over IPv6 the caller is told.
        if over == V4 {
            outcome.acted_as(Action::Redirect);
        } else {
            let told = over.answers(eth(UPLINK_MAC, ROUTER_MAC)).icmp_error(2, 0, 1_450).about(&of(most + 1));
            outcome.refused(DropReason::TooBig, &told);
        }
        assert_eq!((by_xdp, over.entry(rig).packets), (false, 2));
    });
}

#[test]
fn a_jumbo_frame_in_several_buffers_is_wrapped_whole() {
    both(|rig, over| {
        let (_, task) = published(rig);
        rig.next_hop(2, PEER_2, 9_000);
        let long = |frame: Frame| frame.udp(40000, 8080).payload_of(8_000);
        rig.xdp_uplink(long(over.call())).sent(&long(over.to(2, PEER_2, &task)));
    });
}

#[test]
fn a_task_here_is_served_by_tc_and_its_packets_counted_once() {
    both(|rig, over| {
        let task = here(rig, "10.0.16.4", "fd00:16::4");
        publish(rig, &[&task], |_| {});
        let syn = |frame: Frame, port| frame.tcp(40000, port).syn().mss(1_300);
        let (outcome, by_xdp) = rig.from_wire_with_xdp(syn(over.call(), 8080));
        outcome.sent(&syn(over.gets(&task), 80));
        assert!(!by_xdp);
        // One for each direction.
        let seen = |rig: &Rig| over.entries(rig).iter().map(|entry| entry.packets).max();
        assert_eq!((over.entries(rig).len(), seen(rig)), (2, Some(1)));
        let data = |frame: Frame, port| frame.tcp(40000, port).seq(1).ack(1).payload(b"GET /");
        let (outcome, _) = rig.from_wire_with_xdp(data(over.call(), 8080));
        outcome.sent(&data(over.gets(&task), 80));
        assert_eq!(seen(rig), Some(2));
    });
}

/// Three tasks, of which one is here.
fn three(rig: &mut Rig) -> [Dual; 3] {
    [
        there(rig, 2, "10.0.16.4", "fd00:16::4"),
        there(rig, 3, "10.0.16.6", "fd00:16::6"),
        here(rig, "10.0.16.5", "fd00:16::5"),
    ]
}

#[test]
fn turns_are_taken_strictly_by_both_hooks_and_families_together() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = three(&mut rig);
    publish(&mut rig, &tasks.each_ref(), |_| {});
    let mut chosen = Vec::new();
    for n in 0..24u16 {
        let over = BOTH[usize::from(n / 3 % 2)];
        let before: Vec<u32> = over.entries(&rig).iter().map(|entry| entry.backend).collect();
        let syn = over.call().tcp(40000 + n, 8080).syn();
        if n % 5 == 4 {
            rig.from_uplink(&syn)
        } else {
            rig.from_wire_with_xdp(&syn).0
        };
        let mut after: Vec<u32> = over.entries(&rig).iter().map(|entry| entry.backend).collect();
        for known in before {
            after.swap_remove(after.iter().position(|backend| *backend == known).expect("entries stay"));
        }
        after.dedup();
        assert_eq!(after.len(), 1, "one choice");
        chosen.extend(after);
    }
    let in_turn: Vec<u32> = tasks.iter().map(|task| task.task.number).cycle().take(24).collect();
    assert_eq!(chosen, in_turn);
}

#[test]
fn maglev_needs_no_entry_and_chooses_as_tc_does() {
    both(|rig, over| {
        let tasks = three(rig);
        publish(rig, &tasks.each_ref(), |service| service.frontend.algorithm = algorithm::MAGLEV);
        let mut served = [0; 3];
        for port in 40000..40040 {
            let syn = over.call().tcp(port, 8080).syn();
            let data = over.call().tcp(port, 8080).seq(1).ack(1).payload(b"GET /");
            let (by_xdp, later) = (without_entries(rig, &syn), without_entries(rig, &data));
            rig.from_uplink(&syn);
            let chosen = over.entry_of(rig, port);
            let at = tasks.iter().position(|task| task.task.number == chosen).expect("one of the tasks");
            served[at] += 1;
            match at {
                0 => by_xdp.sent(&over.to(2, PEER_2, &tasks[0]).tcp(port, 8080).syn()),
                1 => by_xdp.sent(&over.to(3, PEER_3, &tasks[1]).tcp(port, 8080).syn()),
                _ => by_xdp.left_alone(),
            };
            later.acted_as(if at == 2 { Action::Next } else { Action::Redirect });
        }
        assert!(served.iter().all(|n| *n > 0), "each task has a part of the ring: {served:?}");
    });
}

#[test]
fn a_flow_whose_task_is_gone_is_refused_by_tc() {
    both(|rig, over| {
        published(rig);
        rig.xdp_uplink(over.call().tcp(40000, 8080).syn());
        over.change(rig, |flags, _| *flags |= flow_flag::DEAD);
        let data = over.call().tcp(40000, 8080).seq(1).ack(1);
        without_entries(rig, &data).left_alone();
        if over == V4 {
            let rst = over.answers(eth(UPLINK_MAC, ROUTER_MAC)).id(any()).dont_fragment();
            let rst = rst.tcp(8080, 40000).seq(1).rst().window(any());
            rig.from_uplink(&data).refused(DropReason::BackendGone, &rst);
        }
    });
}

#[test]
fn a_closing_tuple_opens_again_with_another_turn() {
    both(|rig, over| {
        let tasks = [there(rig, 2, "10.0.16.4", "fd00:16::4"), there(rig, 3, "10.0.16.6", "fd00:16::6")];
        publish(rig, &tasks.each_ref(), |_| {});
        let syn = |frame: Frame| frame.tcp(40000, 8080).syn();
        rig.xdp_uplink(syn(over.call())).sent(&syn(over.to(2, PEER_2, &tasks[0])));
        rig.xdp_uplink(over.call().tcp(40000, 8080).seq(1).ack(1).rst()).acted_as(Action::Redirect);
        rig.xdp_uplink(syn(over.call())).sent(&syn(over.to(3, PEER_3, &tasks[1])));
    });
}

#[test]
fn an_answer_is_unwrapped_and_sent_to_the_neighbour_it_names() {
    both(|rig, over| {
        published(rig);
        let answer = |frame: Frame, mss| over.answers(frame).tcp(8080, 40000).syn().ack(1).mss(mss);
        let outcome = without_entries(rig, answer(from_2(vni::REPLY_WIRE), 1_460));
        outcome.sent(&answer(eth(UPLINK_MAC, ROUTER_MAC), over.mss()));
        rig.xdp_uplink(over.call().tcp(40000, 8080).syn());
        let outcome = rig.xdp_uplink(answer(from_2(vni::REPLY_WIRE), 1_300));
        outcome.sent(&answer(eth(UPLINK_MAC, ROUTER_MAC), 1_300));
        assert_eq!(over.entry(rig).packets, 1, "the call's entry counts calls");
    });
}

#[test]
fn a_jumbo_answer_is_unwrapped_whole() {
    both(|rig, over| {
        published(rig);
        let answer = |frame: Frame| over.answers(frame).udp(8080, 40000).payload_of(8_000);
        rig.xdp_uplink(answer(from_2(vni::REPLY_WIRE))).sent(&answer(eth(UPLINK_MAC, ROUTER_MAC)));
    });
}

#[test]
fn what_is_not_plainly_an_answer_is_left_to_tc() {
    both(|rig, over| {
        published(rig);
        let good = |frame: Frame| over.answers(frame).tcp(8080, 40000).ack(1);
        let reply = || from_2(vni::REPLY_WIRE);
        let from = |src| over.between(reply(), (src, over.client()));
        let outer = |src: [u8; 4], dst: [u8; 4]| eth(next_hop_mac(2), UPLINK_MAC).ipv4(src, dst);
        let head = |outer: Frame| outer.udp(50_000, 4789).no_checksum().vxlan(vni::REPLY_WIRE);
        let inside = |outer: Frame| good(head(outer).eth(mac::GATEWAY, ROUTER_MAC));
        let mut more_than_a_vni = good(reply()).bytes();
        more_than_a_vni[42] |= 0x80;
        let [peer, task] = if over == V4 { ["192.0.2.2", "10.0.16.4"] } else { ["2001:db8:1::2", "fd00:16::4"] };
        for frame in [
            over.answers(reply()).tcp(22, 40000).ack(1).bytes(),
            good(reply()).fin().bytes(),
            good(reply()).rst().bytes(),
            from(peer).tcp(8080, 40000).ack(1).bytes(),
            from(task).tcp(8080, 40000).ack(1).bytes(),
            over.answers(reply()).icmp_echo_reply(1, 1).bytes(),
            reply().arp_request(ROUTER_MAC, "192.0.2.254", HERE).bytes(),
            good(from_2(vni::REPLY_NODE)).bytes(),
            good(from_2(vni::REQUEST_WIRE)).bytes(),
            good(from_2(4_097)).bytes(),
            inside(outer([192, 0, 2, 77], HERE)).bytes(),
            inside(outer(PEER_2, [192, 0, 2, 100])).bytes(),
            inside(outer(PEER_2, HERE).tos(3)).bytes(),
            more_than_a_vni,
            good(reply()).bytes()[..if over == V4 { 80 } else { 100 }].to_vec(),
        ] {
            without_entries(rig, &frame).left_alone();
        }
        rig.xdp_uplink(inside(outer(PEER_2, HERE))).acted_as(Action::Redirect);
        // A peer whose packets the host's stack has to judge first.
        let flags = address_flag::TUNNEL | address_flag::BY_MESH0;
        rig.put("ADDRESSES4", PEER_2, Address { node: 2, ifindex: 0, flags, pad: [0; 3] });
        rig.xdp_uplink(inside(outer(PEER_2, HERE))).left_alone();
    });
}

#[test]
fn an_answer_whose_call_came_by_another_link_leaves_by_tc() {
    both(|rig, over| {
        published(rig);
        rig.xdp_uplink(over.call().tcp(40000, 8080).syn());
        over.change(rig, |_, ifindex| *ifindex = 1);
        let answer = over.answers(from_2(vni::REPLY_WIRE)).tcp(8080, 40000).syn().ack(1);
        rig.xdp_uplink(&answer).left_alone();
        rig.xdp_uplink(over.call().tcp(40000, 8080).seq(1).ack(1)).left_alone();
        assert_eq!(over.entry(rig).packets, 1);
    });
}
