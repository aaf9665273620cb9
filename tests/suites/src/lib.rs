//! What the suites share beyond tests/packet and tests/lab.

pub mod script;
