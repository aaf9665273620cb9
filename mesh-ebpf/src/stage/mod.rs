//! What: each stage looks up, then decides by pure functions on values. A stage does not know its hook beyond what it is told.
//!
//! flow (what was decided before) → balance (who may call at all: allow; choose a backend; affinity where a client keeps its own) → vip, ingress, owner, direct, outside (decide a new flow) → nat (rewrite) →
//! deliver (send); answer, neighbours, refuse and tell make packets of their own, again takes back what a peer could not deliver,
//! reply lets out what a peer answers, icmp carries errors about flows, too_big knows what a path takes, fragment to which datagram a fragment belongs, early what comes before it can be known,
//! watch tells who listens.

pub mod affinity;
pub mod again;
pub mod allow;
pub mod answer;
pub mod arrival;
pub mod balance;
pub mod deliver;
pub mod direct;
pub mod early;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod ingress;
pub mod nat;
pub mod neighbours;
pub mod outside;
pub mod owner;
pub mod refuse;
pub mod reply;
pub mod tell;
pub mod too_big;
pub mod vip;
pub mod watch;
