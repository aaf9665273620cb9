//! What the suites share: the rig, which runs one packet through one loaded program, and the measuring of those programs.

pub mod bench;
pub mod rig;
