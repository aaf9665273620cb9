//! `mesh`: the command line, the agent, and the agent's helper processes, in one binary.
//!
//! The helpers are dispatched before anything else. They outlive the agent, so they must not carry an event loop,
//! threads or descriptors that they don't need; `supervise` and `enter` fork and enter namespaces, which wants a
//! process with one thread.

use std::process::ExitCode;

use mesh_userspace::cli::{self, AgentArgs, Entries};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next().and_then(|word| word.into_string().ok()).unwrap_or_default();
    match verb.as_str() {
        // runtime::exec::supervise_main, runtime::exec::enter_main and dns::resolver_main take `arguments` here.
        "supervise" | "enter" | "resolver" => absent(&verb),
        _ => cli::run(&Entries { agent, purge }),
    }
}

/// agent::run goes here.
fn agent(_: AgentArgs) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not part of this build")
}

/// The agent's clean-up without an agent goes here.
fn purge(_: AgentArgs) -> anyhow::Result<Vec<String>> {
    anyhow::bail!("no agent answers, and the agent is not part of this build")
}

fn absent(helper: &str) -> ExitCode {
    eprintln!("mesh: the helper '{helper}' is not part of this build");
    ExitCode::FAILURE
}
