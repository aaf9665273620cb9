//! `mesh flows`: its lines, its filters, its summary.

use super::{agent, mesh, ok};

#[test]
fn flows_stand_with_the_names_of_their_tasks() {
    let agent = agent();
    assert_eq!(
        ok(&agent.socket, &["flows"]),
        "PROTO   SOURCE                DESTINATION           SERVICE      TASK           NODE       STATE         SILENT   PACKETS   BYTES\n\
         tcp     10.0.16.9:40000       10.0.16.2:8000        whoami       whoami.1       n1         established   3s       10        4600\n\
         udp     10.0.16.9:5353        10.0.16.2:53          whoami       whoami.2       n2         opening       12s      1         70\n\
         tcp     10.0.16.9:40001       10.0.16.2:8000                                               dead          66m      6         600\n"
    );
    let lines = |words: &[&str]| ok(&agent.socket, words).lines().count() - 1;
    assert_eq!(lines(&["flows", "--all"]), 4, "the answer's entry too");
    assert_eq!(lines(&["flows", "--task", "whoami.2"]), 1);
    assert_eq!(lines(&["flows", "--service", "whoami"]), 3, "what was sent to its VIP and has no task any more, too");
    assert_eq!(lines(&["flows", "--service", "whoami", "--state", "established"]), 1);
    assert_eq!(lines(&["flows", "--limit", "2"]), 2);
    assert_eq!(lines(&["flows", "--state", "closing"]), 0, "the headings alone");
    let json = |words: &[&str]| -> serde_json::Value { serde_json::from_str(&ok(&agent.socket, words)).expect("JSON") };
    let flows = json(&["flows", "--all", "--format", "json"]);
    assert_eq!(flows.as_array().map(Vec::len), Some(4));
    assert_eq!((&flows[0]["Task"], &flows[0]["Silent"]), (&"whoami.1".into(), &3.into()));
    assert_eq!((&flows[1]["Reply"], &flows[1]["Source"]), (&true.into(), &"10.0.16.17:8000".into()));
    assert_eq!(json(&["flows", "--state", "closing", "--format", "json"]), serde_json::json!([]));
    let unknown = mesh(&agent.socket, &["flows", "--service", "nope"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (1, ""));
    assert!(unknown.err.starts_with("mesh: no such service: nope"), "{unknown:?}");
}

#[test]
fn the_flow_tables_fill_is_told_in_numbers() {
    let agent = agent();
    assert_eq!(
        ok(&agent.socket, &["flows", "--summary"]),
        "IPv4:       1500 of 3085510 entries, 0.0 %\n  overflow: 0 of 192844 entries, 0.0 %\n\
         IPv6:       2 of 3085510 entries, 0.0 %\n  overflow: 0 of 65536 entries, 0.0 %\n\
         Gave way:   40 entries since the agent began\n\
         No room:    0 packets dropped\n\
         \n\
         PROTO     ENTRIES   OPENING   ESTABLISHED   CLOSING   DEAD\n\
         tcp       1400      0         1200          200       0\n\
         udp       100       100       0             0         0\n"
    );
    let json = ok(&agent.socket, &["flows", "--summary", "--format", "json"]);
    let summary: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(summary[0]["Entries"]["tcp"]["closing"], 200);
    let said = mesh(&agent.socket, &["flows", "--summary", "--task", "whoami.1"]);
    assert_eq!(said.code, 2, "{said:?}");
}
