//! Situations as text: `tests/suites/scripts/*.mesh`, played on a simulated cluster that is made of the product's own pure functions.
//!
//! ```text
//!   file ──situation──▶ commands ──command──▶ Cluster: leader::{command, tick}          show ──▶ text, compared exactly
//!                                                │ desired, reports, cables                ▲
//!                                                ▼                                         │
//!                                      Node: plan::net, plan::maps, dns::zone ──▶ Maps: the kernel's part, checked op by op
//! ```
//! Invariant: the same file gives the same text. Nothing here decides anything that the product decides; what it adds is time, cables, hosts
//! and the behaviour of agent and runtime, as agent/{reconcile.rs,tasks/} have it. Must not: sleep, or touch the machine.
//!
//! A file is comments (`#`), commands and, after a command that says something, `---` and what it says up to an empty line:
//!
//! | command | what happens |
//! |---|---|
//! | `nodes 3`, `nodes 3 docker` | n1 makes the cluster and keeps its store, n2 and n3 join; with a Docker Engine on each |
//! | `network create NAME`, `network rm NAME` | as the command line |
//! | `stack deploy demo <<EOF` … `EOF`, `stack rm`, `service scale NAME=N`, `service rm`, `service rollback`, `node update --availability drain n2`, `node rm --force n2`, `swarm leave n2` | as the command line |
//! | `tick` | the leader decides once; who can hear of it applies it |
//! | `act` | every node brings each of its tasks one step further |
//! | `settle` | both, until nothing moves |
//! | `wait 5s` | time passes second by second, and everything settles meanwhile |
//! | `report demo_web.1 failed` | a task's state: running, ready, healthy, unhealthy, failed, complete, rejected |
//! | `cut n2`, `mend n2` | the node's cable |
//! | `kill n2`, `start n2` | the node's agent; its kernel and its tasks go on |
//! | `occupy n2 8000/tcp`, `vacate n2 8000/tcp` | a program of the host itself uses the port |
//! | `maps n1 [KIND…]`, `ops n1`, `net n1`, `netops n1`, `names n1`, `ask TASK NAME`, `ps`, `services` | show; `ops` and `netops` are those of the last command that did something |

mod cluster;
mod command;
mod maps;
mod node;
mod show;
mod situation;

pub use cluster::Ids;
pub use maps::Maps;
pub use situation::{check, play};
