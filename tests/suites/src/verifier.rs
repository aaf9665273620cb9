//! What the kernel's verifier says of each packet program: instructions walked, size of the machine code, or why it refuses.
//!
//! For `cargo xtask verify`, which asks this on several kernels and keeps the answers in docs/reference/verifier.md. Each program is loaded by itself, so
//! that one refusal does not hide the others. Must not: judge; what is too much is xtask's to say.

use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::{Program, ProgramInfo};
use aya::{EbpfLoader, VerifierLogLevel};
use mesh_userspace::kernel::bpf::clock;
use serde_json::{Value, json};

/// The last lines of the verifier's log, where the reason stands.
const LINES_OF_A_REFUSAL: usize = 6;

/// A program's name with what the kernel made of it, for each program of the object.
pub fn ask(object: &Path) -> Result<Vec<Value>> {
    let clock = clock::of_this_kernel();
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("CLOCK", &clock, true)
        .map_max_entries("FLOWS4", 4_096)
        .map_max_entries("OVERFLOW4", 1_024)
        .map_max_entries("FLOWS6", 4_096)
        .map_max_entries("OVERFLOW6", 1_024)
        .load_file(object)
        .with_context(|| format!("loading {}", object.display()))?;
    Ok(ebpf
        .programs_mut()
        .map(|(name, program)| match load(program) {
            Ok(info) => json!({
                "program": name,
                "walked": info.verified_instruction_count(),
                "machine_bytes": info.size_jitted(),
            }),
            Err(error) => json!({ "program": name, "refused": reason(&error) }),
        })
        .collect())
}

fn load(program: &mut Program) -> Result<ProgramInfo> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        other => anyhow::bail!("nobody loads programs of the kind {:?}", other.prog_type()),
    }
    Ok(program.info()?)
}

fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_OF_A_REFUSAL)..].join("\n")
}
