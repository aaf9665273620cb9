//! From facts to a wanted image: pure functions from desired and observed state to what the kernel and the resolver shall hold.
//!
//! The funnel is `compile` (facts → image) → `diff` (programmed, image → operations) → `apply` (an edge's, thin).
//! Nothing here has a clock, a socket, a file or an await.

pub mod maps;
pub mod net;
