//! Bare programs by themselves: what a lookup, a header or a rewrite costs at best on this machine.

use super::programs::Kind;

/// One bare program.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Its name in the benchmark's object.
    pub program: &'static str,
    pub words: &'static str,
    pub kind: Kind,
    /// What it says of each packet.
    pub verdict: i32,
    /// Its cost depends on the number of flows.
    pub looks_up: bool,
}

impl Floor {
    /// Its table is the one that forgets.
    pub fn forgets(&self) -> bool {
        self.program.contains("lru")
    }

    pub fn row_name(&self, flows: u32) -> String {
        format!("bare {}: {}, {}", self.program, self.words, super::flows_in_words(flows))
    }
}

/// All of them that packets of established flows go through; those for new flows are compared with only.
pub fn floors() -> [Floor; 11] {
    let xdp = |program, words, looks_up| Floor { program, words, kind: Kind::Xdp, verdict: 3, looks_up };
    let tc = |program, words, verdict| Floor { program, words, kind: Kind::Tc, verdict, looks_up: true };
    [
        xdp("xdp_empty", "wrapper and test loop (not net)", false),
        xdp("xdp_head", "50 bytes of room", false),
        xdp("xdp_swap", "MAC swap", false),
        xdp("xdp_hash", "one hash lookup", false),
        xdp("xdp_lru_vxlan", "service, flow (LRU), VXLAN header", true),
        xdp("xdp_forward", "service, flow, VXLAN header", true),
        xdp("xdp_ring_vxlan", "service, ring, VXLAN header", true),
        tc("tc_hash", "one flow lookup", 0),
        tc("tc_dnat", "flow, DNAT that is right", 7),
        tc("tc_dnat_tunnel", "flow, DNAT, tunnel key", 7),
        tc("tc_tunnel", "flow, tunnel key", 7),
    ]
}
