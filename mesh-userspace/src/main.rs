//! `mesh`: the command line, the agent, and the agent's helper processes, in one binary.
//!
//! The helpers are dispatched before anything else. They outlive the agent, so they must not carry an event loop,
//! threads or descriptors that they don't need; `supervise` and `enter` fork and enter namespaces, which wants a
//! process with one thread.

use std::process::ExitCode;

use clap::Parser;
use mesh_userspace::agent;
use mesh_userspace::cli::{self, AgentArgs, Entries, FastPath, TcMode, XdpMode};
use mesh_userspace::dns::{ResolverOptions, resolver_main};
use mesh_userspace::runtime::exec::{enter_main, supervise_main};

/// The resolver's own command line; the agent writes it.
#[derive(Parser)]
struct Resolver {
    #[command(flatten)]
    options: ResolverOptions,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next().and_then(|word| word.into_string().ok()).unwrap_or_default();
    match verb.as_str() {
        "supervise" => supervise_main(arguments),
        "enter" => enter_main(arguments),
        "resolver" => resolver(std::env::args_os().skip(1)),
        _ => cli::run(&Entries {
            agent: |arguments| agent::run(settings(arguments)),
            doctor: |arguments| agent::doctor(settings(arguments)),
            purge: |arguments| agent::purge(settings(arguments)),
        }),
    }
}

/// `arguments` begin with the verb, which stands where clap expects the program's name.
fn resolver(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    agent::start_log(0);
    match resolver_main(&Resolver::parse_from(arguments).options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh resolver: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line's words as the agent's settings.
fn settings(arguments: AgentArgs) -> agent::Settings {
    agent::Settings {
        name: arguments.name,
        socket: arguments.socket,
        state_dir: arguments.state_dir,
        bpf_dir: arguments.bpf_dir,
        cgroup: arguments.cgroup,
        advertise_addr: arguments.advertise_addr,
        listen_addr: arguments.listen_addr,
        gossip_port: arguments.gossip_port,
        data_path_addr: arguments.data_path_addr,
        publish_interfaces: arguments.publish_interfaces,
        fast_path: arguments.fast_path == FastPath::Auto,
        tc: match arguments.tc {
            TcMode::Auto => agent::TcMode::Auto,
            TcMode::Tcx => agent::TcMode::Tcx,
            TcMode::Clsact => agent::TcMode::Clsact,
        },
        xdp: match arguments.xdp {
            XdpMode::Off => agent::XdpMode::Off,
            XdpMode::Auto => agent::XdpMode::Auto,
            XdpMode::Native => agent::XdpMode::Native,
            XdpMode::Generic => agent::XdpMode::Generic,
        },
        flow_entries: arguments.flow_entries,
        flood_threshold: arguments.flood_threshold,
        runtimes: arguments.runtimes,
        verbose: arguments.verbose,
    }
}
