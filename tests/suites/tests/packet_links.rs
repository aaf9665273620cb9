//! What holds programs at devices: pinned links, filters of clsact, links of XDP. They are found again, follow their device, and go with it.

use std::collections::BTreeSet;
use std::process::Command;

use mesh_common::schema::LAYOUT_VERSION;
use mesh_common::verdict::Hook;
use mesh_tests::rig::beside::{Beside, SMALL};
use mesh_userspace::kernel::bpf::{Attachment, Dataplane, TcWay, XdpAttachment};
use mesh_userspace::kernel::net::filters as filters_of;

#[test]
fn a_link_whose_device_went_does_not_keep_the_next_agent_from_starting() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("links of devices that went", reason);
    }
    // A network namespace of the thread's own: devices come and go without anybody noticing.
    let play = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |words: &str| {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
        };
        let beside = Beside::new("severed");
        let attached = |dataplane: &Dataplane| dataplane.attachments().len();
        let device = |name: &str| Attachment::new(Hook::FromTask, name, 770);
        ip("link add mvone index 770 type veth peer name one");
        let mut first = beside.open(SMALL).unwrap();
        first.ensure(&device("mvone")).unwrap();
        assert_eq!(attached(&first), 1);
        drop(first); // the agent is gone, its pins stay
        ip("link del mvone");
        ip("link add mvtwo index 770 type veth peer name two");
        let mut second = beside.open(SMALL).unwrap();
        assert_eq!(attached(&second), 0, "the link was another device's");
        second.ensure(&device("mvtwo")).unwrap();
        assert!(second.attachments().iter().all(|(_, is_live)| *is_live));
    };
    std::thread::scope(|scope| scope.spawn(play).join().unwrap());
}

#[test]
fn a_filter_is_found_again_swapped_looked_after_and_taken_away() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("filters of clsact", reason);
    }
    let play = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // In a word `_` is a space.
        let run = |words: &str| -> String {
            let mut words = words.split(' ');
            let program = words.next().unwrap();
            let output = Command::new(program).args(words.map(|word| word.replace('_', " "))).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let filters = |device: &str| run(&format!("tc filter show dev {device} ingress"));
        let qdiscs = |device: &str| run(&format!("tc qdisc show dev {device}"));
        let program = |device: &str| -> String {
            let shown = filters(device);
            shown.split_whitespace().skip_while(|word| *word != "id").nth(1).unwrap_or_default().to_owned()
        };
        let beside = Beside::new("filters");
        run("ip link add one index 780 type veth peer name far");
        run("ip link add two index 781 type veth peer name away");
        run("tc qdisc add dev two clsact");
        run("tc filter add dev two ingress prio 9 bpf bytecode 1,6_0_0_0,");
        let wanted: BTreeSet<Attachment> =
            [("one", 780), ("two", 781)].map(|(name, index)| Attachment::new(Hook::FromUplink, name, index)).into();
        let live = |dataplane: &Dataplane| dataplane.attachments().iter().filter(|(_, is_live)| *is_live).count();

        let mut first = beside.open_by(TcWay::Clsact, SMALL).unwrap();
        assert_eq!(first.attach(&wanted).len(), 0);
        assert_eq!(live(&first), 2);
        assert!(
            filters("one").contains("direct-action") && filters("one").contains("mesh:from_uplink"),
            "{}",
            filters("one")
        );
        assert_eq!(
            filters("two").matches(" bpf chain 0 handle").count(),
            2,
            "beside the other one: {}",
            filters("two")
        );
        let before = program("one");
        drop(first); // the agent is gone, its filters stay
        assert_eq!(program("one"), before);

        let mut second = beside.open_by(TcWay::Clsact, SMALL).unwrap();
        assert_ne!(program("one"), before, "the next agent's program is in the filter");
        assert_eq!(filters("one").matches(" bpf chain 0 handle").count(), 1, "{}", filters("one"));
        assert_eq!(second.attach(&wanted).len(), 0);
        assert_eq!(live(&second), 2);

        run("tc qdisc del dev one clsact");
        assert_eq!(live(&second), 1, "somebody took one away");
        assert_eq!(second.attach(&wanted).len(), 0);
        assert_eq!(live(&second), 2, "the next round puts it again");
        drop(second);

        let mut third = beside.open_by(TcWay::Tcx, SMALL).unwrap();
        assert_eq!(third.attach(&wanted).len(), 0);
        assert_eq!(live(&third), 2);
        assert!(filters("one").is_empty() && !qdiscs("one").contains("clsact"), "links took over: {}", qdiscs("one"));
        assert_eq!(filters("two").matches(" bpf chain 0 handle").count(), 1, "what was there before us stays");
        drop(third);

        let mut fourth = beside.open_by(TcWay::Clsact, SMALL).unwrap();
        assert_eq!(fourth.attach(&wanted).len(), 0);
        assert_eq!(live(&fourth), 2, "and back");
        let pins = std::fs::read_dir(fourth.dir().join("links")).unwrap().flatten();
        assert!(!pins.into_iter().any(|pin| pin.file_name().to_string_lossy().starts_with("from_uplink")));
        assert_eq!(fourth.attach(&BTreeSet::new()).len(), 0);
        assert!(!qdiscs("one").contains("clsact") && qdiscs("two").contains("clsact"), "{}", qdiscs("two"));

        run("tc filter add dev two ingress prio 3 handle 0x6d657368 bpf bytecode 1,6_0_0_0,");
        let refused = fourth.attach(&wanted);
        assert!(refused.len() == 1 && refused[0].to_string().contains("somebody else"), "{refused:?}");
        assert_eq!(live(&fourth), 1);
        let (removed, failed) = filters_of::remove_all();
        assert_eq!((removed.len(), failed.len()), (1, 0), "{removed:?} {failed:?}");
        assert_eq!(
            filters("two").matches(" bpf chain 0 handle").count(),
            2,
            "a stranger at our place is no filter of ours"
        );
    };
    std::thread::scope(|scope| scope.spawn(play).join().unwrap());
}

#[test]
fn an_xdp_link_follows_its_mode_and_its_device() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("links of XDP programs", reason);
    }
    let play = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |words: &str| -> String {
            let output = Command::new("ip").args(words.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {words}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let beside = Beside::new("xdp");
        let on = |name: &str, is_native| -> BTreeSet<XdpAttachment> {
            [XdpAttachment { interface: name.into(), ifindex: 771, is_native }].into()
        };
        let pins = || -> Vec<String> {
            let links = std::fs::read_dir(beside.bpf.join(format!("v{LAYOUT_VERSION}/links"))).unwrap();
            links.flatten().map(|pin| pin.file_name().to_string_lossy().into_owned()).collect()
        };
        let has = |name: &str| pins().iter().any(|pin| pin == name);
        ip("link add one index 771 type veth peer name far");
        let mut first = beside.open(SMALL).unwrap();
        assert_eq!(first.attach_xdp(&on("one", true)), []);
        assert!(ip("link show one").contains(" xdp ") && has("xdp_uplink-771"), "{:?}", pins());
        let pin = beside.bpf.join(format!("v{LAYOUT_VERSION}/links/xdp_uplink-771"));
        let detached = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&pin).status().unwrap();
        assert!(detached.success() && !ip("link show one").contains("xdp"), "somebody cuts it off by force");
        assert_eq!(first.attach_xdp(&on("one", true)), []);
        assert!(ip("link show one").contains(" xdp "), "the next round makes it anew");
        drop(first); // the agent is gone, its pins stay

        let mut second = beside.open(SMALL).unwrap();
        assert!(ip("link show one").contains(" xdp "), "the link is adopted");
        assert_eq!(second.attach_xdp(&on("one", false)), []);
        assert!(ip("link show one").contains(" xdpgeneric "), "{}", ip("link show one"));
        assert!(has("xdp_uplink_generic-771") && !has("xdp_uplink-771"), "{:?}", pins());
        for turn in 0..40 {
            let refused = second.attach_xdp(&on("one", turn % 2 == 0));
            assert_eq!(refused, [], "turn {turn}: the device is free as soon as the other link is taken away");
        }
        drop(second);

        ip("link del one");
        ip("link add two index 771 type veth peer name far");
        let mut third = beside.open(SMALL).unwrap();
        assert!(!has("xdp_uplink_generic-771"), "the link was another device's: {:?}", pins());
        assert_eq!(third.attach_xdp(&on("two", true)), []);
        assert_eq!(third.attach_xdp(&BTreeSet::new()), []);
        assert!(!ip("link show two").contains("xdp") && !has("xdp_uplink-771"), "{:?}", pins());
    };
    std::thread::scope(|scope| scope.spawn(play).join().unwrap());
}
