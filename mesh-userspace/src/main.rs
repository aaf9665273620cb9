//! The binary: chooses which of mesh's programs this process is.

use std::process::ExitCode;

use mesh_userspace::runtime::exec;

fn main() -> ExitCode {
    // The helpers of a task fork: they must be chosen before anything can start a thread.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|name| name.to_str()) {
        Some("supervise") => exec::supervise_main(arguments),
        Some("enter") => exec::enter_main(arguments),
        _ => ExitCode::SUCCESS,
    }
}
