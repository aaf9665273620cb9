//! The uplink's driver hook, alone and with TC behind it.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use mesh_common::verdict::Hook;

use super::{Action, Outcome, Packet, Rig, kernel};

/// The program in an uplink's driver.
const XDP: &str = "xdp_uplink";
/// Actions (`enum xdp_action` of include/uapi/linux/bpf.h, and `TC_ACT_*` of include/uapi/linux/pkt_cls.h).
const PASS: i32 = 2;
const REDIRECT: i32 = 4;
const NEXT: i32 = -1;
const TC_REDIRECT: i32 = 7;

impl Rig {
    /// As [`Rig::new`], with the driver's hook on the uplink: what arrives there passes it first. Nobody is a next hop away, so it sends
    /// nothing by itself.
    pub fn with_xdp() -> Option<Rig> {
        Rig::new().map(|rig| Rig { xdp_first: true, ..rig })
    }

    /// What arrives at the uplink, in its driver's hands: redirected, or left alone for [`Rig::from_uplink`]. There is no drop.
    #[track_caller]
    pub fn xdp_uplink(&mut self, packet: impl Packet) -> Outcome {
        let program = self.attached_xdp();
        let (frame, uplink) = (packet.bytes(), self.devices.uplink);
        self.judge(Hook::FromUplink, &frame, || {
            let ran = kernel::test_run_xdp_at(program.as_fd(), &frame, uplink)?;
            // In TC's words, so that one kind of outcome serves both.
            let code = match ran.code {
                PASS => NEXT,
                REDIRECT => TC_REDIRECT,
                other => return Err(std::io::Error::other(format!("{other} is no action of this program"))),
            };
            Ok(kernel::Ran { code, ..ran })
        })
    }

    /// What arrives at the uplink of a node with XDP: what the driver's hook leaves alone goes to TC. True: the first sent it on.
    #[track_caller]
    pub fn from_wire_with_xdp(&mut self, packet: impl Packet) -> (Outcome, bool) {
        let outcome = self.xdp_uplink(&packet.bytes());
        if outcome.action == Action::Redirect {
            return (outcome, true);
        }
        (self.after_xdp(outcome.left_alone()), false)
    }

    /// What the driver's hook left alone; entries that it wrote belong to the outcome.
    #[track_caller]
    pub(super) fn after_xdp(&mut self, left: Outcome) -> Outcome {
        let mut last = self.by_tc(&left.frame);
        let flows = self.flows();
        let still = left.new_flows.iter().filter_map(|(key, _)| flows.get_key_value(key));
        last.new_flows.extend(still.map(|(key, flow)| (*key, *flow)));
        last
    }

    /// The XDP program, attached to the uplink: a test run takes only a device whose queues are ready for XDP.
    fn attached_xdp(&mut self) -> OwnedFd {
        let program = self.descriptor(XDP).and_then(|fd| fd.context("the object has none")).expect("xdp_uplink loads");
        if self.xdp.is_none() {
            let link = kernel::attach(program.as_fd(), self.devices.uplink, kernel::Place::Xdp);
            self.xdp = Some(link.expect("a veth takes XDP"));
        }
        program
    }
}
