//! Tasks' links.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::bed::*;
use crate::kernel::net::{HostNet, NetError};
use crate::plan::net::*;

#[test]
fn a_task_and_its_host_reach_each_other() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let netns = empty_namespace();
        host.add_task_link(&task_link(), netns.as_fd()).await.unwrap();

        let outside = link_json("mvabababab");
        assert_eq!((&outside["address"], &outside["mtu"]), (&"e6:10:00:00:00:00".into(), &1450.into()));
        assert_eq!(outside["ifalias"], format!("mesh task {}", task_id()));
        assert_eq!(ip("addr show dev mvabababab").matches("inet").count(), 0, "no address of either family");

        let (eth0, routes) = inside(&netns, || (link_json("eth0"), ip("route")));
        assert_eq!((&eth0["address"], &eth0["mtu"]), (&"e6:11:00:00:00:4d".into(), &1450.into()));
        for route in [
            "default via 10.0.16.1 dev eth0",
            "10.0.16.0/20 dev eth0 proto kernel scope link src 10.0.16.5",
            "10.0.32.0/20 dev eth0 proto kernel scope link src 10.0.32.9",
        ] {
            assert!(routes.contains(route), "{route} is not among\n{routes}");
        }
        let (six, routes) = inside(&netns, || (ip("-6 addr show dev eth0"), ip("-6 route")));
        assert!(six.contains("inet6 fd00:16::5/64 scope global nodad") && six.contains("inet6 fd00:32::9/64"), "{six}");
        assert!(!six.contains("fe80") && !six.contains("tentative"), "{six}");
        for route in [
            "default via fd00:16::1 dev eth0 proto static src fd00:16::5",
            "fd00:16::/64 dev eth0",
            "fd00:32::/64 dev eth0",
        ] {
            assert!(routes.contains(route), "{route} is not among\n{routes}");
        }

        // The programs answer ARP; without them the host's end plays the gateway.
        ip("addr add 10.0.16.1/20 dev mvabababab");
        std::fs::write("/proc/sys/net/ipv6/conf/mvabababab/disable_ipv6", "0").unwrap();
        ip("addr add fd00:16::1/64 dev mvabababab nodad");
        for at in ["10.0.16.5:8000", "[fd00:16::5]:8000"] {
            let listener = inside(&netns, || TcpListener::bind(at).unwrap());
            let caller = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
            let (_, seen) = listener.accept().unwrap();
            assert_eq!(seen, caller.local_addr().unwrap());
        }

        // localhost never hangs inside.
        let at: SocketAddr = "[::1]:8000".parse().unwrap();
        let refused = inside(&netns, || TcpStream::connect_timeout(&at, PATIENCE).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_link_is_adopted_completed_and_removed_by_the_image() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let netns = empty_namespace();
        let wanted = NetImage { task_links: [("mvabababab".into(), task_link())].into(), ..Default::default() };
        let later = host.converge(&wanted, &|_| None, &|_| Ok(())).await.unwrap();
        assert_eq!(later.not_yet, vec![NetOp::AddTaskLink(task_link())]);

        host.add_task_link(&task_link(), netns.as_fd()).await.unwrap();
        let index = host.ifindex("mvabababab").await.unwrap();
        host.add_task_link(&task_link(), netns.as_fd()).await.unwrap();
        let fresh = HostNet::open(state.path()).unwrap();
        let adopted = fresh.converge(&wanted, &|_| None, &|_| Ok(())).await.unwrap();
        assert!(adopted.done.is_empty() && adopted.failed.is_empty(), "{adopted:?}");
        assert_eq!(fresh.ifindex("mvabababab").await.unwrap(), index, "the same link throughout");

        let mut smaller = wanted.clone();
        smaller.task_links.values_mut().for_each(|link| link.mtu = 1400);
        fresh.converge(&smaller, &|_| netns.try_clone().ok(), &|_| Ok(())).await.unwrap();
        assert_eq!(link_json("mvabababab")["mtu"], 1400);
        assert_eq!(inside(&netns, || link_json("eth0"))["mtu"], 1400);

        // Another task of the same first digits takes the name over.
        let mut other = smaller.clone();
        let link = other.task_links.get_mut("mvabababab").unwrap();
        link.task_id = serde_json::from_str(&format!("\"{}{}\"", "ab".repeat(15), "00")).unwrap();
        let others = empty_namespace();
        let taken_over = fresh.converge(&other, &|_| others.try_clone().ok(), &|_| Ok(())).await.unwrap();
        assert!(
            matches!(taken_over.done.as_slice(), [NetOp::RemoveTaskLink(_), NetOp::AddTaskLink(_)]),
            "{taken_over:?}"
        );

        let leftover = fresh.converge(&NetImage::default(), &|_| None, &|_| Ok(())).await.unwrap();
        assert_eq!(leftover.done, vec![NetOp::RemoveTaskLink("mvabababab".into())]);
        assert!(!inside(&others, || ip("link")).contains("eth0"), "the task's end went with it");
    });
}

#[test]
fn a_namespace_that_has_an_eth0_is_refused_and_nothing_is_left() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let netns = empty_namespace();
        inside(&netns, || ip("link add eth0 type veth peer name other"));
        let error = host.add_task_link(&task_link(), netns.as_fd()).await.unwrap_err();
        assert!(matches!(error, NetError::TaskInterfaceTaken { .. }), "{error}");
        assert_eq!(host.ifindex("mvabababab").await.unwrap(), None);
    });
}

#[test]
fn a_link_that_somebody_else_named_like_ours_is_left_alone() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        ip("link add mvabababab type veth peer name other");
        assert_eq!(host.observe(&NetImage::default()).await.unwrap(), Programmed::default());
        host.purge().await.unwrap();
        assert!(ip("link").contains("mvabababab"));
    });
}

#[test]
fn a_link_in_the_making_is_no_leftover() {
    on_a_host(|| async {
        let state = tempfile::tempdir().unwrap();
        let host = HostNet::open(state.path()).unwrap();
        let netns = empty_namespace();
        let wanted = NetImage { task_links: [("mvabababab".into(), task_link())].into(), ..Default::default() };
        let (link, namespace_of) = (task_link(), |_: &_| netns.try_clone().ok());
        let (made, round) =
            tokio::join!(host.add_task_link(&link, netns.as_fd()), host.converge(&wanted, &namespace_of, &|_| Ok(())));
        made.unwrap();
        assert_eq!(round.unwrap().done, vec![]);
    });
}
