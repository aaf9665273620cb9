//! Programs through the kernel's verifier, several at once.
//!
//! It walks three million instructions for ours, which takes seconds, one program on one CPU; it holds no lock for who has CAP_BPF
//! (kernel/bpf/verifier.c: `bpf_check`). An agent starts as fast as it can be had. Must not: pin or attach.

use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use aya::Ebpf;
use aya::programs::Program;

use super::BpfError;
use super::pin::chain;

/// At most: each walk remembers megabytes, which newer kernels count as the agent's memory.
const AT_ONCE: usize = 4;

/// Loads every program but those of XDP, which may be refused (`xdp.rs`). Of several errors one is told.
pub(super) fn all(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(AT_ONCE);
    let waiting = Mutex::new(ebpf.programs_mut());
    let next = || waiting.lock().ok()?.next();
    let load = || {
        while let Some((name, program)) = next() {
            one(program).map_err(|error| BpfError::Load(format!("{name}: {}", chain(&error))))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // A thread that can't be had is no loss: this one loads all that is left.
        let others: Vec<_> =
            (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, load).ok()).collect();
        let ours = load();
        let theirs =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        theirs.fold(ours, Result::and)
    })
}

fn one(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Ok(()),
    }
}
