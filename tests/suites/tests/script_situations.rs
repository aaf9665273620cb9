//! The situations of tests/suites/scripts, one test each: manifest and events in, text of maps, network and names out.

use std::collections::BTreeSet;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

macro_rules! situations {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                mesh_tests::script::check(&folder().join(concat!(stringify!($name), ".mesh").replace('_', "-")));
            }
        )+
        const NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

situations! {
    a_failed_update_pauses
    a_global_service
    a_healthcheck_is_the_gate
    a_list_of_callers
    a_node_is_lost
    a_port_the_host_uses
    a_removed_node_comes_back
    a_task_fails
    affinity_goes_by_the_client
    an_agent_is_away
    an_unready_task_gets_no_calls
    dnsrr_has_no_vip
    drain_then_leave
    internal_network
    one_port_two_addresses
    one_port_two_interfaces
    publish_a_port
    restart_keeps_places
    rolling_update
    scale_to_zero_and_back
    stack_deploy_twice
    start_first_update
    the_stores_node_is_cut
    two_networks_keep_apart
    weights_follow_a_label
}

#[test]
fn no_situation_is_forgotten() {
    let files = std::fs::read_dir(folder()).expect("the folder of situations");
    let names =
        files.map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned());
    let listed: BTreeSet<String> = NAMES.iter().map(|name| name.replace('_', "-")).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), listed);
}
