//! How a packet came, for the programs behind the hooks: a hook that can't go on itself hands it to one of them, with this.

use mesh_common::family::Family;
use mesh_common::schema::{origin, program};
use mesh_common::verdict::Hook;

use crate::outcome::{Code, Stop, go_on};
use crate::packet::tc::Tc;

/// Where a packet came in. Who sent it is judged, but of a first fragment, which comes back to its hook.
pub struct Arrival {
    pub hook: Hook,
    /// From where, as flow entries say it (`origin::*`).
    pub from: u32,
    /// The VNI that it came by, where it came through the tunnel.
    pub id: u32,
}

impl Arrival {
    /// This node's own stack.
    pub const FROM_HOST: Arrival = Arrival { hook: Hook::FromHost, from: origin::HOST, id: 0 };
    /// The world.
    pub const FROM_WIRE: Arrival = Arrival { hook: Hook::FromUplink, from: origin::WIRE, id: 0 };

    /// The task behind this link.
    #[inline(always)]
    pub fn from_task(ifindex: u32) -> Arrival {
        Arrival { hook: Hook::FromTask, from: ifindex, id: 0 }
    }

    /// The peer with this number.
    #[inline(always)]
    pub fn from_peer(node: u32, id: u32) -> Arrival {
        Arrival { hook: Hook::FromOverlay, from: origin::peer(node), id }
    }

    /// Goes on in the program that an outcome asks for ([`Stop::is_elsewhere`]), which is [`told`](Self::told). Called by the hook itself.
    #[inline(always)]
    pub fn go_on<F: Family>(&self, tc: &Tc, outcome: Code) -> Code {
        tc.leave([self.hook as u32, self.from, self.id]);
        let errors = if F::ADDR_LEN == 4 { program::ICMP_ERRORS } else { program::ICMP_ERRORS6 };
        go_on(
            tc,
            match outcome {
                code if Stop::is_about(code) => errors,
                code if Stop::is_beside(code) => program::BESIDE,
                _ => program::FRAGMENTS,
            },
        )
    }

    /// What the hook left with the packet.
    #[inline(always)]
    pub fn told(tc: &Tc) -> Arrival {
        let [hook, from, id] = tc.left();
        Arrival { hook: Hook::of_number(hook), from, id }
    }
}
