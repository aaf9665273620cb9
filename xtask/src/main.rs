//! The project's verbs: `cargo xtask VERB`. One verb a file.
//!
//! Sits beside the product, never inside it: nothing here is linked into `mesh`. Every verb checks for what it needs and
//! calls [`setup`] where something is missing, so that a fresh clone works with any of them as the first command.

mod bench;
mod build;
mod build_ebpf;
mod demo;
mod lab;
mod package;
mod process;
mod setup;
mod test;
mod tidy;
mod verify;
mod workspace;

use clap::{Parser, Subcommand};
use workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's verbs",
    disable_help_subcommand = true
)]
struct Arguments {
    /// Install missing system packages without asking
    #[arg(long, short, global = true)]
    yes: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what building eBPF in Rust and running the tests needs
    Setup(setup::Options),
    /// Build the packet programs into the object that the agent embeds
    BuildEbpf(build_ebpf::Options),
    /// Build and run the tests: the fast tier, or everything with --all
    Test(test::Options),
    /// Play the Swarm tutorial on a lab of three nodes, each step shown and checked
    Demo(demo::Options),
    /// A lab of three nodes, left to you
    Lab(lab::Options),
    /// Measure: packets by hook and walk, beside bare programs of the same work
    Bench(bench::Options),
    /// Make the Debian package: binary, unit, manual pages, completions
    Package(package::Options),
    /// Load the programs on this kernel and on Debian 12's in an emulated machine, play the core walks there, compare the verifiers' counts
    Verify(verify::Options),
    /// Check the house's rules: layers, names, openings, waiting in tests
    Tidy(tidy::Options),
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let consent = setup::Consent::new(arguments.yes);
    let done = Workspace::find().and_then(|workspace| match arguments.verb {
        Verb::Setup(options) => setup::run(&workspace, &options, consent),
        Verb::BuildEbpf(options) => build_ebpf::run(&workspace, &options, consent),
        Verb::Test(options) => test::run(&workspace, &options, consent),
        Verb::Demo(options) => demo::run(&workspace, &options, consent),
        Verb::Lab(options) => lab::run(&workspace, &options, consent),
        Verb::Bench(options) => bench::run(&workspace, &options, consent),
        Verb::Package(options) => package::run(&workspace, &options, consent),
        Verb::Verify(options) => verify::run(&workspace, &options, consent),
        Verb::Tidy(options) => tidy::run(&workspace, &options),
    });
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
