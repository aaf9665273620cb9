//! What the suites share: the rig, which runs one packet through one loaded program, the measuring of those programs, and the
//! situations, which play a cluster as text.

pub mod bench;
pub mod rig;
pub mod script;
pub mod stranger;
