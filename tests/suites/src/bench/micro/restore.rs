//! The wrapper that gives a program a fresh packet each time: the next flow's frame, no mark, the tunnel key.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::rig::kernel::{Assembly, Ran, RawMap, RunOptions, TUNNEL_KEY_LEN, helper, test_run, tunnel_key};

/// Length of every frame, without frame check sequence.
pub const FRAME_LEN: usize = 64;
/// Offset of `mark` in `struct __sk_buff`.
const MARK: i16 = 8;

/// A wrapper before a program.
#[derive(Debug)]
pub struct Restore {
    frames: RawMap,
    program: OwnedFd,
    /// Maps and programs that the wrapper uses live as long as it does.
    _parts: (RawMap, RawMap, RawMap, Option<OwnedFd>),
}

impl Restore {
    /// Before `target`; packets come from the tunnel `(peer, vni)` where there is one.
    pub fn before(target: BorrowedFd<'_>, flows: u32, tunnel: Option<([u8; 4], u32)>) -> io::Result<Restore> {
        Restore::build(target, flows, tunnel, None)
    }

    /// Before a program that only ends: what the wrapper itself costs.
    pub fn before_nothing(flows: u32, tunnel: Option<([u8; 4], u32)>) -> io::Result<Restore> {
        let empty = Assembly::default().set(0, 0).exit().load()?;
        let target = empty.try_clone()?;
        Restore::build(target.as_fd(), flows, tunnel, Some(empty))
    }

    fn build(
        target: BorrowedFd<'_>,
        flows: u32,
        tunnel: Option<([u8; 4], u32)>,
        kept: Option<OwnedFd>,
    ) -> io::Result<Restore> {
        let frames = RawMap::array(flows, FRAME_LEN as u32)?;
        let (next, key, targets) = (RawMap::array(1, 8)?, RawMap::array(1, TUNNEL_KEY_LEN)?, RawMap::programs(1)?);
        targets.set_program(0, target)?;
        let mut code = Assembly::default();
        // r8: this packet's flow; the counter goes round.
        code.mov(6, 1).value(7, &next).load32(8, 7, 0).mov(1, 8).add(1, 1);
        code.skip_if_less(1, flows as i32, 1).set(1, 0).store32(7, 0, 1);
        code.store32(10, -4, 8).mov(2, 10).add(2, -4).map(1, &frames).call(helper::MAP_LOOKUP);
        code.skip_if_not_zero(0, 2).set(0, -98).exit();
        code.mov(3, 0).mov(1, 6).set(2, 0).set(4, FRAME_LEN as i32).set(5, 0).call(helper::SKB_STORE_BYTES);
        code.set(1, 0).store32(6, MARK, 1);
        if let Some((peer, vni)) = tunnel {
            key.set(0, &tunnel_key(peer, vni))?;
            code.mov(1, 6).value(2, &key).set(3, TUNNEL_KEY_LEN as i32).set(4, 0).call(helper::SET_TUNNEL_KEY);
        }
        let program = code.jump(&targets, -99).load()?;
        Ok(Restore { frames, program, _parts: (next, key, targets, kept) })
    }

    /// The frames to go through, one a flow.
    pub fn frames(&self, frames: &[[u8; FRAME_LEN]]) -> io::Result<()> {
        for (index, frame) in (0u32..).zip(frames) {
            self.frames.set(index, frame)?;
        }
        Ok(())
    }

    /// Sends `repeats` packets that arrive at this device.
    pub fn run(&self, ifindex: u32, repeats: u32) -> io::Result<Ran> {
        let options = RunOptions { ifindex, repeat: repeats, ..RunOptions::default() };
        test_run(self.program.as_fd(), &[0; FRAME_LEN], options)
    }
}
