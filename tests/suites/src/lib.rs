//! What the suites share: the rig, which runs one packet through one loaded program, the measuring of those programs, the
//! situations, which play a cluster as text, and the stage for the runtime of containers.

pub mod bench;
pub mod containers;
pub mod rig;
pub mod script;
pub mod verifier;
