//! Runtime exec on a live kernel: real namespaces, cgroups and processes, through the binary itself.

mod adoption;
mod ending;
mod entering;
mod health;
mod stage;
mod world;
