//! `mesh explain`: its lines and its exit code; drops in `mesh status`.

use mesh_common::verdict::{DropReason, Hook};

use super::{agent, agent_that_knows, mesh, ok};
use crate::api::view::fixture;

#[test]
fn a_packet_is_explained_line_by_line() {
    let agent = agent();
    assert_eq!(
        ok(&agent.socket, &["explain", "whoami.1", "whoami"]),
        "10.0.16.2:8000\n  \
         from_task  TURNS[1]      turn 4: place 0 of 2\n  \
         from_task  BACKENDS[18]  whoami.2 at 10.0.16.18 on n2\n\
         → delivered to whoami.2 on n2\n  \
         rewritten: 10.0.16.17:49152 → 10.0.16.18:8000 tcp\n"
    );
    let json = ok(&agent.socket, &["explain", "whoami.1", "whoami", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json[0]["Task"], &json[0]["Steps"][0]["Asked"]), (&"whoami.2".into(), &"TURNS[1]".into()));
}

#[test]
fn what_would_be_dropped_exits_1_and_says_what_to_do() {
    let agent = agent();
    let dropped = mesh(&agent.socket, &["explain", "whoami.1", "whoami:9/tcp"]);
    assert_eq!((dropped.code, dropped.err.as_str()), (1, ""), "{dropped:?}");
    assert!(dropped.out.contains("→ refused, and the sender is told: no-backend"), "{dropped:?}");
    assert!(dropped.out.ends_with("  what to do: mesh service ps NAME\n"), "{dropped:?}");
    let unknown = mesh(&agent.socket, &["explain", "nobody", "whoami"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.starts_with("mesh: no task, service or node is called nobody"), "{unknown:?}");
}

#[test]
fn the_status_has_drops_with_what_to_do_the_most_first() {
    let mut facts = fixture::facts();
    facts.drops = vec![(Hook::FromTask, DropReason::Multicast, 4), (Hook::FromUplink, DropReason::NoBackend, 12)];
    let agent = agent_that_knows(facts);
    let said = ok(&agent.socket, &["status"]);
    let lines = "DROPS since the packet programs were loaded\n  \
         12 no-backend at from_uplink: `mesh service ps NAME`\n  \
         4 multicast at from_task: use names (`tasks.SERVICE`) instead of discovery by multicast\n";
    assert!(said.contains(lines), "{said}");
    assert!(!ok(&super::agent().socket, &["status"]).contains("DROPS"), "none, no heading");
}
