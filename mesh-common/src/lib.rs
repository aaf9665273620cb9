//! What the packet programs and user space both must know, once: addresses, frame formats, arithmetic, verdicts
//! and the layouts of the BPF maps. Runs in the kernel and under `cargo test`, the very same code.
//!
//! Here may live only what has no I/O, no allocation, no clock and no panic on the packet path.

#![no_std]
#![deny(missing_docs)]

pub mod wire;
