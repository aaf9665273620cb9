//! `cargo xtask demo`: sets up, builds, starts the three-node lab and plays the Swarm tutorial on it.
//!
//! Every command is shown as typed, with its real output and a word on what to look at; every step is checked, and the first
//! that is not as it should be ends the demo with exit code 1 and a folder of evidence. The lab is taken down however it ends, by Ctrl-C too.

mod cluster;
mod containers;
mod faults;
mod stage;
mod traffic;

use std::time::Instant;

use anyhow::{Context, Result};
use mesh_lab::{Footprint, Lab};

use crate::build;
use crate::setup::Consent;
use crate::workspace::Workspace;
use stage::Stage;

const NAME: &str = "demo";

#[derive(clap::Args)]
pub struct Options {
    /// Nothing is to be set up or built any more: root's half of this verb
    #[arg(long, hide = true)]
    built: bool,
}

/// One chapter of the tutorial: what it shows, what to look at, and its commands with their checks.
struct Chapter {
    title: &'static str,
    look: &'static str,
    play: fn(&Stage) -> Result<()>,
}

const CHAPTERS: [Chapter; 12] = [
    Chapter {
        title: "Three nodes become a swarm",
        look: "`init` prints the command for the others; a wrong token is refused in words",
        play: cluster::swarm,
    },
    Chapter {
        title: "An overlay network",
        look: "the subnet comes from the pool, the VNI is 4097 or above",
        play: cluster::network,
    },
    Chapter {
        title: "A service, by flags and by Compose manifest",
        look: "1/1 replicas, the node it runs on, its virtual address",
        play: cluster::service,
    },
    Chapter {
        title: "The same with images, where a node has a Docker Engine",
        look: "refused in words without one; with one on each node the tutorial's own line works, on the same network",
        play: containers::images,
    },
    Chapter {
        title: "A client finds it by name, on another node",
        look: "`whoami` resolves to the virtual address, and that answers echoes through the tunnel",
        play: traffic::client,
    },
    Chapter {
        title: "Two replicas take turns",
        look: "same virtual address, two task addresses, strictly alternating ids",
        play: traffic::balance,
    },
    Chapter {
        title: "The published port answers everywhere",
        look: "on each node, by each address, from each place, and `from` is always the caller's own address and port",
        play: traffic::published,
    },
    Chapter {
        title: "Zero replicas, then five",
        look: "with none, connections are refused at once and the name is gone",
        play: traffic::scale,
    },
    Chapter {
        title: "Tasks reach the outside",
        look: "with ip_forward off and a firewall that drops what is forwarded; not from an internal network",
        play: traffic::outside,
    },
    Chapter {
        title: "A node's cable is cut, then the store's",
        look: "traffic moves within 5 s, replacements run within 15 s, and a mended cable is all it takes",
        play: faults::cable,
    },
    Chapter {
        title: "An agent is killed for 30 seconds",
        look: "packets go on, names resolve, the same tasks run after it is back",
        play: faults::agent,
    },
    Chapter {
        title: "Everything goes, nothing stays",
        look: "after `purge` the kernel holds what it held before the first agent started",
        play: faults::nothing_left,
    },
];

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    if !options.built {
        build::everything(workspace, consent)?;
    }
    build::become_root(&["demo", "--built"])?;
    let started = Instant::now();
    take_down_on_interrupt();
    let lab = Lab::builder().name(NAME).mesh_binary(workspace.binary("mesh")).up()?;
    let played = play(workspace, &lab);
    if let Err(error) = &played {
        println!("\nNot as it should be: {error:#}");
        match lab.save_failure(&format!("{error:#}")) {
            Ok(folder) => println!("What was there is in {}", folder.display()),
            Err(error) => println!("What was there can't be saved: {error:#}"),
        }
    }
    let down = lab.down().context("taking the lab down");
    played.context("the demo failed")?;
    down?;
    println!("\nAll {} chapters as they should be ({} s).", CHAPTERS.len(), started.elapsed().as_secs());
    Ok(())
}

fn play(workspace: &Workspace, lab: &Lab) -> Result<()> {
    println!(
        "\nThe lab: three nodes and a client on one switch, a host outside behind a router; all network namespaces."
    );
    for host in lab.hosts() {
        println!("  {:8} {}", host.name(), host.address());
    }
    let untouched = lab.nodes().iter().map(Footprint::of).collect::<Result<_>>()?;
    println!("\nOn each node an agent, as root:\n  n1$ {}", lab.node("n1").agent_command().join(" "));
    lab.start_agents()?;
    let stage = Stage::new(workspace, lab, untouched);
    for (at, chapter) in CHAPTERS.iter().enumerate() {
        println!("\n━━ {}. {}\n   Look at: {}", at + 1, chapter.title, chapter.look);
        (chapter.play)(&stage).with_context(|| format!("chapter {} ({})", at + 1, chapter.title))?;
    }
    Ok(())
}

/// Ctrl-C and SIGTERM take the lab down before we end. Signals are blocked here, before any other thread begins, and taken by one
/// thread of their own; programs that we start get them as usual, because std empties the mask of a child.
fn take_down_on_interrupt() {
    // SAFETY: the set is initialised by sigemptyset before it is used, and lives through the calls.
    let set = unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of this thread.
        unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        println!("\nInterrupted: taking the lab down");
        let done = Lab::attach(NAME).and_then(Lab::down);
        if let Err(error) = done {
            eprintln!("error: {error:#}");
        }
        std::process::exit(128 + signal);
    });
}
