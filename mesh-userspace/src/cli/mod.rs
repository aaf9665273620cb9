//! The command line: Swarm's nouns, verbs, flags, headings and states, asked of an agent through its API.
//!
//! Walk: arguments → clap tree ([`Cli`]) → one verb a file → [`crate::api::Client`] → tables and JSON ([`render`]).
//! Invariant: what a person reads goes to standard output through [`Screen`], so that golden tests see it all; an error
//! is one line on standard error; exit 1, for usage errors 2.
//! Must not: know the agent's insides; whatever a verb does, a program could do through the API.

mod age;
mod agent;
mod arguments;
mod completions;
mod doctor;
mod exec;
mod explain;
mod fault;
mod flows;
mod inspect;
mod logs;
mod monitor;
mod network;
mod node;
mod ports;
mod progress;
mod purge;
mod render;
mod service;
mod stack;
mod status;
mod swarm;
mod task;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use agent::{AgentArgs, FastPath, TcMode, XdpMode};
pub use arguments::Cli;
use arguments::Command;
use fault::Fault;

use crate::api::Client;
use crate::doctor::Finding;

/// Where output goes: the process's own streams, or a test's buffers.
struct Screen<'a> {
    out: &'a mut (dyn std::io::Write + Send),
    err: &'a mut (dyn std::io::Write + Send),
    /// Standard error is a terminal: progress may redraw itself.
    live: bool,
}

impl Screen<'_> {
    fn print(&mut self, text: impl AsRef<str>) -> Result<(), Fault> {
        self.out.write_all(text.as_ref().as_bytes()).and_then(|()| self.out.flush()).map_err(Fault::from_output)
    }

    fn line(&mut self, text: impl AsRef<str>) -> Result<(), Fault> {
        self.print(format!("{}\n", text.as_ref()))
    }

    /// A remark that is no answer; a closed standard error hides it.
    fn remark(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.err, "{}", text.as_ref());
    }
}

/// What main.rs hands in, so that this room needs to know neither the agent nor the kernel.
pub struct Entries {
    /// `mesh agent`: runs until it is told to end.
    pub agent: fn(AgentArgs) -> anyhow::Result<()>,
    /// `mesh doctor` where no agent answers: this machine alone.
    pub doctor: fn(AgentArgs) -> anyhow::Result<Vec<Finding>>,
    /// `mesh purge` where no agent answers: the same clean-up without one; gives a line for each thing removed.
    pub purge: fn(AgentArgs) -> anyhow::Result<Vec<String>>,
}

/// The whole command line; what `main` returns.
pub fn run(entries: &Entries) -> ExitCode {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let live = std::io::IsTerminal::is_terminal(&err);
    let screen = &mut Screen { out: &mut out, err: &mut err, live };
    ExitCode::from(run_with(std::env::args_os().collect(), entries, screen))
}

fn run_with(arguments: Vec<OsString>, entries: &Entries, screen: &mut Screen) -> u8 {
    let outcome = parse(arguments, screen).and_then(|cli| match cli {
        Some(cli) => dispatch(cli, entries, screen),
        None => Ok(()),
    });
    match outcome {
        Ok(()) => 0,
        Err(fault) => {
            if let Some(line) = fault.line() {
                screen.remark(line);
            }
            fault.code()
        }
    }
}

/// None where clap has answered already (`--help`, `--version`).
fn parse(arguments: Vec<OsString>, screen: &mut Screen) -> Result<Option<Cli>, Fault> {
    let command = understood(&arguments);
    let parsed = Cli::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if !error.use_stderr() => screen.print(error.render().to_string()).map(|()| None),
        Err(error) => Err(Fault::from_clap(&error, &command)),
    }
}

/// The verbs among the arguments: whose help an error points at.
fn understood(arguments: &[OsString]) -> String {
    let root = Cli::command();
    let (mut tree, mut words) = (&root, vec!["mesh"]);
    for argument in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
        if let Some(verb) = tree.find_subcommand(argument) {
            words.push(verb.get_name());
            tree = verb;
        }
    }
    words.join(" ")
}

fn dispatch(cli: Cli, entries: &Entries, screen: &mut Screen) -> Result<(), Fault> {
    let Cli { socket, command } = cli;
    match command {
        Command::Agent(flags) => (entries.agent)(flags.resolve(socket)?).map_err(|error| Fault::failed(chain(&error))),
        Command::Doctor(flags) => doctor::run(flags, socket, entries, screen),
        Command::Purge(flags) => purge::run(flags, socket, entries, screen),
        Command::Completions(flags) => completions::run(&flags, screen),
        Command::ManualPages(flags) => completions::manual_pages(&flags),
        command => on_runtime(ask(command, socket, screen)),
    }
}

/// A small runtime for one command; the agent makes its own.
fn on_runtime<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::failed(format!("no event loop: {error}")))?;
    let outcome = runtime.block_on(work);
    // A thread may still sit in a read of standard input: it ends with the process.
    runtime.shutdown_background();
    outcome
}

async fn ask(command: Command, socket: PathBuf, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let client = Client::unix(socket);
    match command {
        Command::Agent(_)
        | Command::Doctor(_)
        | Command::Purge(_)
        | Command::Completions(_)
        | Command::ManualPages(_) => Err(Fault::failed("this command does not ask an agent")),
        Command::Swarm(verb) => swarm::run(verb, &client, screen).await,
        Command::Init(flags) => swarm::init(flags, &client, screen).await,
        Command::Join(flags) => swarm::join(flags, &client, screen).await,
        Command::Leave(flags) => swarm::leave(flags, &client, screen).await,
        Command::JoinToken(flags) => swarm::join_token(flags, &client, screen).await,
        Command::Node(verb) => node::run(verb, &client, screen).await,
        Command::Network(verb) => network::run(verb, &client, screen).await,
        Command::Service(verb) => service::run(verb, &client, screen).await,
        Command::Stack(verb) => stack::run(verb, &client, screen).await,
        Command::Ps(flags) => task::ps(flags, &client, screen).await,
        Command::Exec(flags) => exec::run(flags, &client, screen).await,
        Command::Logs(flags) => logs::run(flags, &client, screen).await,
        Command::Explain(flags) => explain::run(flags, &client, screen).await,
        Command::Monitor(flags) => monitor::run(flags, &client, screen).await,
        Command::Flows(flags) => flows::run(flags, &client, screen).await,
        Command::Status(flags) => status::run(flags, &client, screen).await,
    }
}

/// An error with its causes, on one line.
fn chain(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

#[cfg(test)]
mod tests;
