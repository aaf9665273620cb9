//! What the packet programs and user space both must know, once: addresses, frame formats, arithmetic, verdicts
//! and the layouts of the BPF maps. Runs in the kernel and under `cargo test`, the very same code.
//!
//! Here may live only what has no I/O, no allocation, no clock and no panic on the packet path.

#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod addr;
pub mod affinity;
pub mod ageing;
pub mod checksum;
pub mod clock;
pub mod crc32c;
pub mod family;
pub mod flood;
pub mod flow;
pub mod hash;
mod ipv6;
pub mod maglev;
pub mod parse;
pub mod quoted;
pub mod schema;
pub mod snat;
pub mod verdict;
pub mod wire;
pub mod word;
