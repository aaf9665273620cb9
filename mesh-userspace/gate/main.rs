//! The gate: the first program of a container that mesh starts. It waits until the task's interface is there, then becomes the command.
//!
//! The Engine runs a container's command the moment it has made the network namespace; a service would come up without `eth0`. So the
//! agent puts this program, a read-only file, before the command: `/.mesh-gate COMMAND ARG…`. It blocks one signal, waits for it, gives
//! the mask back as it found it, and `execve`s: process id, user, environment, descriptors and terminal are the command's own.
//!
//! Built by build.rs with the compiler alone: no libc, no allocation, because it must run in any image, an empty one too.
//! Invariant: it never starts the command unasked. Must not: need /proc, a writable root, or any file of the image but the command.

#![no_std]
#![no_main]

use core::arch::global_asm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use core::arch::asm;

/// SIGUSR2: the agent's word to go on. `runtime::docker::gate` in the agent says the same number.
const RELEASE: u64 = 1 << (12 - 1);
/// SIGUSR1, blocked beside it and never waited for: the agent sees by it that we are ready. While we wait, the kernel shows the signal
/// that we wait for as not blocked.
const READY: u64 = 1 << (10 - 1);
const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
const EINTR: isize = -4;
const ENOENT: isize = -2;
const E2BIG: isize = -7;
const ENOEXEC: isize = -8;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;
const EISDIR: isize = -21;
const ELOOP: isize = -40;
/// As PATH_MAX; a longer path can't be opened anyway.
const PATH_BYTES: usize = 4096;

#[cfg(target_arch = "x86_64")]
mod call {
    pub const WRITE: usize = 1;
    pub const SIGPROCMASK: usize = 14;
    pub const EXECVE: usize = 59;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const EXECVE: usize = 221;
}

// The kernel leaves argc, argv, 0, envp, 0 on the stack; the rest wants a stack aligned to 16 bytes.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {run}", "ud2", run = sym run);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "and sp, x0, #-16", "bl {run}", "brk #1", run = sym run);

/// # Safety
/// The arguments must be what this system call takes; pointers must be good for it.
#[cfg(target_arch = "x86_64")]
unsafe fn system(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's convention; it clobbers rcx and r11 and nothing else.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// The arguments must be what this system call takes; pointers must be good for it.
#[cfg(target_arch = "aarch64")]
unsafe fn system(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's convention; it changes x0 and nothing else.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

/// # Safety
/// `stack` must be the stack pointer a new program gets.
unsafe extern "C" fn run(stack: *const usize) -> ! {
    let (blocked, waited, mut before) = (RELEASE | READY, RELEASE, 0u64);
    // SAFETY: both masks live on; 8 is the size of the kernel's.
    unsafe { system(call::SIGPROCMASK, SIG_BLOCK, &raw const blocked as usize, &raw mut before as usize, 8) };
    // SAFETY: the mask lives on; no information wanted, no time limit. Anything else than the signal is waited past.
    while unsafe { system(call::SIGTIMEDWAIT, &raw const waited as usize, 0, 0, 8) } == EINTR {}
    // SAFETY: as above.
    unsafe { system(call::SIGPROCMASK, SIG_SETMASK, &raw const before as usize, 0, 8) };

    // SAFETY: the kernel put argc, argv with its 0, then envp there.
    let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    // SAFETY: within the same block.
    let envp = unsafe { argv.add(argc + 1) };
    if argc < 2 {
        say(&[b"mesh-gate: no command\n"]);
        exit(127);
    }
    // SAFETY: argc says that it is there; C strings from the kernel.
    let command = unsafe { text(*argv.add(1)) };
    // SAFETY: argv and envp end with 0.
    let error = unsafe { execute(command, argv.add(1), envp) };
    let (code, reason): (usize, &[u8]) = match error {
        ENOENT | ENOTDIR if contains_slash(command) => (127, b"no such file or directory (or its interpreter is missing)"),
        ENOENT | ENOTDIR => (127, b"executable file not found in $PATH"),
        EACCES | EISDIR => (126, b"permission denied (is it executable for this user?)"),
        ENOEXEC => (126, b"exec format error (another architecture, or a script without #!)"),
        E2BIG => (126, b"argument list too long"),
        ELOOP => (126, b"too many symbolic links"),
        _ => (126, b"the kernel refuses to run it (out of memory, or its file is being written or is no program)"),
    };
    say(&[b"mesh-gate: cannot run '", command, b"': ", reason, b"\n"]);
    exit(code)
}

/// Becomes the command; only comes back with an error. Looks through $PATH as execvp(3) does.
///
/// # Safety
/// `argv` and `envp` must be lists of C strings that end with 0; `command` must be followed by a zero byte.
unsafe fn execute(command: &[u8], argv: *const *const u8, envp: *const *const u8) -> isize {
    // SAFETY: as the caller says.
    let become_file = |path: *const u8| unsafe { system(call::EXECVE, path as usize, argv as usize, envp as usize, 0) };
    if command.is_empty() {
        return ENOENT;
    }
    if contains_slash(command) {
        return become_file(command.as_ptr());
    }
    // SAFETY: as the caller says.
    let mut rest = unsafe { search_path(envp) };
    let mut worst = ENOENT;
    let mut path = [0u8; PATH_BYTES];
    loop {
        let (folder, next) = split(rest, b':');
        if folder.len() + command.len() + 2 <= PATH_BYTES {
            let mut length = 0;
            // An empty entry is the working directory.
            for byte in if folder.is_empty() { b"." } else { folder } {
                put(&mut path, &mut length, *byte);
            }
            put(&mut path, &mut length, b'/');
            for byte in command {
                put(&mut path, &mut length, *byte);
            }
            put(&mut path, &mut length, 0);
            match become_file(path.as_ptr()) {
                ENOENT | ENOTDIR => {}
                EACCES => worst = EACCES,
                other => return other,
            }
        }
        match next {
            Some(next) => rest = next,
            None => return worst,
        }
    }
}

fn put(path: &mut [u8; PATH_BYTES], length: &mut usize, byte: u8) {
    if let Some(place) = path.get_mut(*length) {
        *place = byte;
        *length += 1;
    }
}

/// # Safety
/// `envp` must be a list of C strings that ends with 0.
unsafe fn search_path<'a>(mut envp: *const *const u8) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe {
        while !(*envp).is_null() {
            if let Some(value) = text(*envp).strip_prefix(b"PATH=") {
                return value;
            }
            envp = envp.add(1);
        }
    }
    b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

fn split(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let mut length = 0;
    for byte in text {
        if *byte == at {
            return (text.get(..length).unwrap_or_default(), text.get(length + 1..));
        }
        length += 1;
    }
    (text, None)
}

fn contains_slash(text: &[u8]) -> bool {
    split(text, b'/').1.is_some()
}

/// # Safety
/// A C string that lives for ever.
unsafe fn text<'a>(start: *const u8) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: not beyond its zero byte; read one by one, so that no strlen of a libc is wanted.
    unsafe {
        while core::ptr::read_volatile(start.add(length)) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(start, length)
    }
}

fn say(parts: &[&[u8]]) {
    for part in parts {
        // SAFETY: reads the slice. Nobody to tell where it fails.
        unsafe { system(call::WRITE, 2, part.as_ptr() as usize, part.len(), 0) };
    }
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: does not come back.
        unsafe { system(call::EXIT_GROUP, code, 0, 0, 0) };
    }
}

/// The compiler asks for these where it clears or copies; without a libc they are ours.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: as memset(3); volatile, or the compiler makes a call of memset out of it.
        unsafe { core::ptr::write_volatile(to.add(at), byte as u8) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: as memcpy(3); volatile for the same reason.
        unsafe { core::ptr::write_volatile(to.add(at), core::ptr::read_volatile(from.add(at))) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: as memcmp(3), which says more than is asked here.
    unsafe { memcmp(a, b, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: as memcmp(3).
        let (a, b) = unsafe { (core::ptr::read_volatile(a.add(at)), core::ptr::read_volatile(b.add(at))) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}
