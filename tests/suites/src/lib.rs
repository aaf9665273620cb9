//! What the suites share: the rig, which runs one packet through one loaded program.

pub mod rig;
