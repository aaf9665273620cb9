//! The room against the running kernel, in network namespaces that live and die with the test's thread.
//!
//! Needs root; elsewhere it says so and passes, unless MESH_MUST_RUN=1. No namespace is named or mounted, so nothing can be left.

mod bed;
mod guests;
mod host;
mod tasks;
