//! bpf(2) by hand, for what aya has no words for: test runs with a context and flags, and the small programs that stand before a hook.
//!
//! A test run carries no tunnel metadata; a wrapper that sets a tunnel key whose *local* address is the peer's, and then jumps to the
//! hook, lets the hook read that peer as the remote end. The wrapper is assembled here, so nothing of it is in the product's object.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use mesh_common::schema::EARLY_BYTES;

/// Commands of bpf(2), and types (include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const TYPE_ARRAY: u32 = 2;
const TYPE_PROG_ARRAY: u32 = 3;
const TYPE_SCHED_CLS: u32 = 3;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (Linux 6.15): the packet comes with its sum, and the kernel checks that it is still true after.
pub const CHECKSUM_COMPLETE: u32 = 1 << 2;
/// Size of `struct __sk_buff`.
const SKB_LEN: usize = 192;
/// Offsets in `struct __sk_buff`.
const SKB_MARK: usize = 8;
const SKB_IFINDEX: usize = 40;
const SKB_CB: usize = 48;
const SKB_GSO_SEGS: usize = 164;
const SKB_GSO_SIZE: usize = 176;

pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: every pointer in the attribute names a buffer that outlives the call; its size is passed along.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn new_fd(result: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(result) }
}

/// The `test` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// What a test run is given besides the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Device the packet arrives at (or leaves by), in the namespace of the calling thread; 0 or 1: loopback.
    pub ifindex: u32,
    pub mark: u32,
    /// What the program before it left with the packet (`cb`).
    pub left: [u32; 3],
    pub flags: u32,
    /// 0 counts as 1.
    pub repeat: u32,
    /// Bytes of data in each segment, of a packet that is several; 0: it is one.
    pub gso_size: u32,
}

/// What came of a test run.
#[derive(Clone, Debug)]
pub struct Ran {
    pub code: i32,
    pub frame: Vec<u8>,
    pub mark: u32,
    /// Nanoseconds a run, on average, as the kernel counts them.
    pub duration_ns: u32,
}

/// Runs a program on a copy of `frame`.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], options: RunOptions) -> io::Result<Ran> {
    // Outer headers come in front of it, or it becomes one that has waited.
    let mut out = vec![0u8; frame.len() + EARLY_BYTES];
    let mut context = [0u8; SKB_LEN];
    context[SKB_MARK..SKB_MARK + 4].copy_from_slice(&options.mark.to_ne_bytes());
    context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&options.ifindex.to_ne_bytes());
    for (word, at) in options.left.iter().zip((SKB_CB..).step_by(4)) {
        context[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    if options.gso_size != 0 {
        let segments = (frame.len() as u32).div_ceil(options.gso_size);
        context[SKB_GSO_SEGS..SKB_GSO_SEGS + 4].copy_from_slice(&segments.to_ne_bytes());
        context[SKB_GSO_SIZE..SKB_GSO_SIZE + 4].copy_from_slice(&options.gso_size.to_ne_bytes());
    }
    let mut context_out = [0u8; SKB_LEN];
    let mut attr = TestAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: options.repeat,
        ctx_size_in: SKB_LEN as u32,
        ctx_size_out: SKB_LEN as u32,
        ctx_in: context.as_ptr() as u64,
        ctx_out: context_out.as_mut_ptr() as u64,
        flags: options.flags,
        ..TestAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    let mark = [context_out[SKB_MARK], context_out[SKB_MARK + 1], context_out[SKB_MARK + 2], context_out[SKB_MARK + 3]];
    Ok(Ran { code: attr.retval as i32, frame: out, mark: u32::from_ne_bytes(mark), duration_ns: attr.duration })
}

/// Offset in `struct xdp_md`, and its size.
const XDP_DATA_END: usize = 4;
const XDP_INGRESS_IFINDEX: usize = 12;
const XDP_MD_LEN: usize = 24;

/// Runs an XDP program on a copy of `frame`, which arrives at the loopback device: a test run gives XDP no other without a driver behind it.
pub fn test_run_xdp(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<Ran> {
    run_xdp(program, frame, &mut TestAttr { repeat, ..TestAttr::default() })
}

/// The same, at a device that has an XDP program. What exceeds a page of the frame lies in further buffers.
pub fn test_run_xdp_at(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32) -> io::Result<Ran> {
    let mut context = [0u8; XDP_MD_LEN];
    context[XDP_DATA_END..XDP_DATA_END + 4].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[XDP_INGRESS_IFINDEX..XDP_INGRESS_IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let (ctx_in, ctx_size_in) = (context.as_ptr() as u64, XDP_MD_LEN as u32);
    run_xdp(program, frame, &mut TestAttr { ctx_in, ctx_size_in, ..TestAttr::default() })
}

fn run_xdp(program: BorrowedFd<'_>, frame: &[u8], attr: &mut TestAttr) -> io::Result<Ran> {
    let mut out = vec![0u8; frame.len() + 256];
    attr.prog_fd = program.as_raw_fd() as u32;
    attr.data_size_in = frame.len() as u32;
    attr.data_size_out = out.len() as u32;
    attr.data_in = frame.as_ptr() as u64;
    attr.data_out = out.as_mut_ptr() as u64;
    bpf(PROG_TEST_RUN, attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(Ran { code: attr.retval as i32, frame: out, mark: 0, duration_ns: attr.duration })
}

/// `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18).
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames that go to the stack at once: a driver's poll.
const BATCH: u32 = 64;

/// Lets frames arrive at a device as if its driver had received them: the XDP program runs on each, and what it passes goes up the stack. Says
/// what one took on average, stack included. The device must have receive queues for XDP: a veth has them while a program is attached.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<u32> {
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: [u32; 6] = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let mut attr = TestAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        flags: LIVE_FRAMES,
        batch_size: BATCH,
        ..TestAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.duration)
}

/// Where a program can be attached by a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The driver's XDP hook.
    Xdp,
    /// TC, by TCX (Linux 6.6).
    Ingress,
    Egress,
}

/// Attaches a program to a device of the calling thread's namespace for as long as the descriptor is open.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, place: Place) -> io::Result<OwnedFd> {
    // `enum bpf_attach_type`, and `XDP_FLAGS_DRV_MODE`.
    let (kind, flags) = match place {
        Place::Xdp => (37, 1 << 2),
        Place::Ingress => (46, 0),
        Place::Egress => (47, 0),
    };
    let mut attr: [u32; 8] = [program.as_raw_fd() as u32, ifindex, kind, flags, 0, 0, 0, 0];
    bpf(LINK_CREATE, &mut attr).map(new_fd)
}

/// A map made here.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
}

impl RawMap {
    /// An array of `len` values of `size` bytes.
    pub fn array(len: u32, size: u32) -> io::Result<RawMap> {
        RawMap::create(TYPE_ARRAY, len, size)
    }

    /// Targets of a tail call.
    pub fn programs(len: u32) -> io::Result<RawMap> {
        RawMap::create(TYPE_PROG_ARRAY, len, 4)
    }

    fn create(kind: u32, len: u32, size: u32) -> io::Result<RawMap> {
        let mut attr = [kind, 4, size, len, 0, 0, 0, 0, 0, 0, 0, 0];
        Ok(RawMap { fd: new_fd(bpf(MAP_CREATE, &mut attr)?) })
    }

    /// Writes one value.
    pub fn set(&self, index: u32, value: &[u8]) -> io::Result<()> {
        set(self.fd.as_fd(), index, value)
    }

    /// Writes one tail call target.
    pub fn set_program(&self, index: u32, program: BorrowedFd<'_>) -> io::Result<()> {
        self.set(index, &(program.as_raw_fd() as u32).to_ne_bytes())
    }
}

/// Writes one value of an array that somebody else made.
pub fn set(map: BorrowedFd<'_>, index: u32, value: &[u8]) -> io::Result<()> {
    let mut attr = [u64::from(map.as_raw_fd() as u32), &raw const index as u64, value.as_ptr() as u64, 0];
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

/// The `prog_load` member of `union bpf_attr`, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// A few instructions of BPF (RFC 9669), in the order they run.
#[derive(Debug, Default)]
pub struct Assembly {
    code: Vec<u64>,
}

/// Helper numbers (include/uapi/linux/bpf.h).
pub mod helper {
    pub const TAIL_CALL: i32 = 12;
    pub const SET_TUNNEL_KEY: i32 = 21;
}

impl Assembly {
    fn put(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, value: i32) {
        let low = u64::from(opcode) | u64::from(dst) << 8 | u64::from(src) << 12 | u64::from(offset as u16) << 16;
        self.code.push(low | u64::from(value as u32) << 32);
    }

    /// `dst = src`
    pub fn mov(&mut self, dst: u8, src: u8) -> &mut Self {
        self.put(0xbf, dst, src, 0, 0);
        self
    }

    /// `dst = value`
    pub fn set(&mut self, dst: u8, value: i32) -> &mut Self {
        self.put(0xb7, dst, 0, 0, value);
        self
    }

    /// `dst = map`, for helpers.
    pub fn map(&mut self, dst: u8, map: &RawMap) -> &mut Self {
        self.put(0x18, dst, 1, 0, map.fd.as_raw_fd());
        self.put(0, 0, 0, 0, 0);
        self
    }

    /// `dst = &map[0]`, for an array of one.
    pub fn value(&mut self, dst: u8, map: &RawMap) -> &mut Self {
        self.put(0x18, dst, 2, 0, map.fd.as_raw_fd());
        self.put(0, 0, 0, 0, 0);
        self
    }

    pub fn call(&mut self, helper: i32) -> &mut Self {
        self.put(0x85, 0, 0, 0, helper);
        self
    }

    pub fn exit(&mut self) -> &mut Self {
        self.put(0x95, 0, 0, 0, 0);
        self
    }

    /// Jumps to the program at index 0 of `targets` with the context in r6; returns `code` where there is none.
    pub fn jump(&mut self, targets: &RawMap, code: i32) -> &mut Self {
        self.mov(1, 6).map(2, targets).set(3, 0).call(helper::TAIL_CALL).set(0, code).exit()
    }

    /// Loads it as a TC classifier.
    pub fn load(&self) -> io::Result<OwnedFd> {
        let mut log = vec![0u8; 1 << 16];
        let mut attr = LoadAttr {
            prog_type: TYPE_SCHED_CLS,
            insn_cnt: self.code.len() as u32,
            insns: self.code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log_buf: log.as_mut_ptr() as u64,
            ..LoadAttr::default()
        };
        match bpf(PROG_LOAD, &mut attr) {
            Ok(fd) => Ok(new_fd(fd)),
            Err(error) => {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                Err(io::Error::other(format!("{error}: {}", String::from_utf8_lossy(&log[..end]))))
            }
        }
    }
}

/// Size of `struct bpf_tunnel_key`.
pub const TUNNEL_KEY_LEN: u32 = 44;
/// `BPF_F_TUNINFO_IPV6`
pub const TUNNEL_IPV6: i32 = 1;

/// The bytes of a `struct bpf_tunnel_key` whose local address is `peer`: what a hook then reads as the remote end.
pub fn tunnel_key(peer: [u8; 4], vni: u32) -> [u8; TUNNEL_KEY_LEN as usize] {
    let mut key = [0; TUNNEL_KEY_LEN as usize];
    key[0..4].copy_from_slice(&vni.to_ne_bytes());
    // IPv4 addresses of a key are in host order.
    key[28..32].copy_from_slice(&u32::from_be_bytes(peer).to_ne_bytes());
    key
}

/// The same of a tunnel over IPv6, whose addresses lie there as in a packet.
pub fn tunnel_key6(peer: [u8; 16], vni: u32) -> [u8; TUNNEL_KEY_LEN as usize] {
    let mut key = [0; TUNNEL_KEY_LEN as usize];
    key[0..4].copy_from_slice(&vni.to_ne_bytes());
    key[28..44].copy_from_slice(&peer);
    key
}

/// The wrapper that gives a packet a tunnel key and jumps to a hook.
#[derive(Debug)]
pub struct Tunnelled {
    key: RawMap,
    targets: RawMap,
    program: OwnedFd,
}

impl Tunnelled {
    /// In front of `hook`. `flags` are those of `bpf_skb_set_tunnel_key`.
    pub fn new(hook: BorrowedFd<'_>, flags: i32) -> io::Result<Tunnelled> {
        let (key, targets) = (RawMap::array(1, TUNNEL_KEY_LEN)?, RawMap::programs(1)?);
        targets.set_program(0, hook)?;
        let mut code = Assembly::default();
        code.mov(6, 1).value(2, &key).set(3, TUNNEL_KEY_LEN as i32).set(4, flags).call(helper::SET_TUNNEL_KEY);
        let program = code.jump(&targets, -99).load()?;
        Ok(Tunnelled { key, targets, program })
    }

    /// The program to run, for a packet from `peer` with `vni`.
    pub fn from(&self, peer: [u8; 4], vni: u32) -> io::Result<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.key.set(0, &tunnel_key(peer, vni))?;
        Ok(self.program.as_fd())
    }

    /// The same of one made with [`TUNNEL_IPV6`].
    pub fn from6(&self, peer: [u8; 16], vni: u32) -> io::Result<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.key.set(0, &tunnel_key6(peer, vni))?;
        Ok(self.program.as_fd())
    }

    /// Where it jumps to.
    pub fn targets(&self) -> &RawMap {
        &self.targets
    }
}
