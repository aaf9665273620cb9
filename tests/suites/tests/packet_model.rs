//! Random frames through the loaded programs and through a model of what the pages say: verdict, reason, every byte that leaves and all that is
//! remembered must agree. Beside it stand oracles that know neither.
//!
//! Each frame is judged by the model, then run. MODEL_SEED runs one world alone, and looks into the tables after each frame; MODEL_FRAMES runs more or fewer. The
//! seed is printed where they differ.

#[path = "differential/frames.rs"]
mod frames;
#[path = "differential/known.rs"]
mod known;
#[path = "model/mod.rs"]
mod model;
#[path = "differential/oracles.rs"]
mod oracles;
#[path = "differential/packet.rs"]
mod packet;
#[path = "explain/random.rs"]
mod random;
#[path = "differential/stage.rs"]
mod stage;
#[path = "differential/tables.rs"]
mod tables;
#[path = "differential/worlds.rs"]
mod worlds;

use random::Random;
use stage::Stage;

/// Frames of a run, and of one world.
const FRAMES: usize = 1_500_000;
const OF_A_WORLD: usize = 1_000;
/// How often each verdict and each reason must be met, in a whole run.
const OFTEN: usize = 1_000;
/// Any number: worlds and frames follow from it.
const FIRST_SEED: u64 = 1_181_000;

/// Reasons of docs/reference/drops.md that these hooks know, and what else becomes of frames.
const MET: [&str; 80] = [
    "malformed",
    "unsupported",
    "spoofed-source",
    "spoofed-mac",
    "multicast",
    "no-endpoint",
    "other-network",
    "no-backend",
    "closed-port",
    "data-port",
    "internal",
    "no-route",
    "no-snat-port",
    "unknown-peer",
    "wrong-peer",
    "unknown-vni",
    "wire-format",
    "endpoint-gone",
    "not-published",
    "forged-reply",
    "fragment",
    "backend-gone",
    "peer-unreachable",
    "helper-failed",
    "not-configured",
    "icmp-error",
    "from-outside",
    "table-full",
    "too-big",
    "hop-limit",
    "not-allowed",
    "from_task: refused",
    "from_task: sent",
    "from_task: sent, keyed",
    "from_task: sent, wrapped",
    "from_task: ignored",
    "from_task: others had waited",
    "from_uplink: refused",
    "from_uplink: left",
    "from_uplink: ignored",
    "from_uplink: others had waited",
    "from_uplink: sent",
    "from_uplink: sent, keyed",
    "from_uplink: sent, wrapped",
    "from_overlay: sent",
    "from_overlay: sent, keyed",
    "from_overlay: to the stack",
    "from_overlay: ignored",
    "from_host: sent",
    "from_host: sent, wrapped",
    "from_host: to the stack",
    "from_host: refused",
    "from_host: ignored",
    "xdp_uplink: left",
    "xdp_uplink: sent",
    "xdp_uplink: sent, wrapped",
    "IPv6: from_task: sent",
    "IPv6: from_task: sent, keyed",
    "IPv6: from_task: others had waited",
    "IPv6: from_uplink: left",
    "IPv6: from_uplink: sent",
    "IPv6: from_uplink: sent, keyed",
    "IPv6: from_overlay: sent",
    "IPv6: from_overlay: sent, keyed",
    "IPv6: from_host: sent",
    "IPv6: from_host: to the stack",
    "an answer undid its call",
    "an error spoke of what was sent",
    "a later fragment followed",
    "an SCTP port changed",
    "a port of one address",
    "a direct call kept clear of another's answers",
    "a direct call of the host kept clear of another's answers",
    "a call by a published port kept clear of another by its task",
    "IPv6: an error spoke of what was sent",
    "IPv6: a later fragment followed",
    "IPv6: an SCTP port changed",
    "IPv6: a direct call kept clear of another's answers",
    "IPv6: a direct call of the host kept clear of another's answers",
    "IPv6: a call by a published port kept clear of another by its task",
];

#[test]
fn the_programs_do_what_the_pages_say() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let frames = number("MODEL_FRAMES").map_or(FRAMES, |frames| frames as usize);
    let alone = number("MODEL_SEED");
    let worlds = alone.map_or(0..frames.div_ceil(OF_A_WORLD) as u64, |_| 0..1);
    let Some(mut stage) = Stage::new(alone.is_some()) else { return };
    for at in worlds {
        let seed = alone.unwrap_or(FIRST_SEED + at);
        stage.renew(Random::new(seed));
        let played = (0..OF_A_WORLD).try_for_each(|at| stage.play().map_err(|error| format!("frame {at}: {error}")));
        if let Err(difference) = played.and_then(|()| stage.end()) {
            panic!("MODEL_SEED={seed}: {difference}");
        }
    }
    println!("{} frames; met: {:#?}", stage.frames(), stage.met());
    if alone.is_none() {
        let wanted = (OFTEN * frames / FRAMES).max(1);
        for what in MET {
            let count = stage.met().get(what).copied().unwrap_or(0);
            assert!(count >= wanted, "'{what}' was met {count} times only, and wants {wanted}");
        }
    }
}
