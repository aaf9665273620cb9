//! `mesh monitor`: a line a packet, drops with their reason, what was lost on standard error.

use super::{agent, mesh};

#[test]
fn a_line_has_the_packet_and_the_names_of_its_ends() {
    let agent = agent();
    let said = mesh(&agent.socket, &["monitor", "-n", "2"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.err, "3 events lost: more than could be told or read\n");
    assert_eq!(
        said.out,
        "13:46:40.000  from_task     tunnel                    tcp 10.0.16.17:40000 (whoami.1) → 10.0.16.2:8000 (whoami.2) on n2 [S], 74 bytes\n\
         13:46:40.000  from_task     dropped no-backend        tcp 10.0.16.17:40000 (whoami.1) → 10.0.16.2:8000 (whoami) [S], 74 bytes\n"
    );
    let drops = mesh(&agent.socket, &["monitor", "--drops", "--service", "whoami", "--format", "json"]).out;
    let lines: Vec<serde_json::Value> = drops.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1, "{drops}");
    assert_eq!((&lines[0]["Reason"], &lines[0]["To"]), (&"no-backend".into(), &"whoami".into()));
}

#[test]
fn drops_alone_and_a_sample_exclude_each_other() {
    let agent = agent();
    assert_eq!(mesh(&agent.socket, &["monitor", "--drops", "--sample", "5"]).code, 2);
    assert_eq!(mesh(&agent.socket, &["monitor", "--sample", "0"]).code, 2);
    assert_eq!(mesh(&agent.socket, &["monitor", "--task", "nobody"]).code, 1);
}
