//! What: each stage looks up, then decides by pure functions on values. A stage does not know its hook beyond what it is told.
//!
//! flow (what was decided before) → balance (who may call at all: allow; choose a backend; affinity where a client keeps its own) → vip, ingress, owner, outside (decide a new flow) → nat (rewrite) →
//! deliver (send); answer, neighbours and refuse make packets of their own, again takes back what a peer could not deliver,
//! reply lets out what a peer answers.

pub mod affinity;
pub mod again;
pub mod allow;
pub mod answer;
pub mod balance;
pub mod deliver;
pub mod flow;
pub mod ingress;
pub mod nat;
pub mod neighbours;
pub mod outside;
pub mod owner;
pub mod refuse;
pub mod reply;
pub mod vip;
pub mod watch;
