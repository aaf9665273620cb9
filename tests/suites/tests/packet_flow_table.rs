//! A crowded flow table: connections that live stay, those that have ended or were never answered give way.

use mesh_tests::bench::scale::crowd::{BACKEND_NUMBER, Crowd};
use mesh_userspace::kernel::bpf::{FlowSizes, clock};

const SIZES: FlowSizes = FlowSizes { table: 4_096, overflow: 1_024 };
/// Half of the table.
const LIVE: usize = 1_000;

fn crowd(what: &str) -> Option<Crowd> {
    match mesh_lab::cannot_run() {
        Some(reason) => {
            mesh_lab::skip(what, reason);
            None
        }
        None => Some(Crowd::new(SIZES).expect("a service with one task")),
    }
}

#[test]
fn no_live_connection_is_lost_beside_a_storm_of_new_ones() {
    let Some(mut crowd) = crowd("live flows in a crowded table") else { return };
    let table = crowd.table().unwrap();
    (0..LIVE).for_each(|n| crowd.open(n).unwrap());
    let (mut given_up, mut fullest) = (0, 0);
    // Five times the table, in portions of a tenth of it; each sweep is three seconds later, by its own clock.
    for n in LIVE..LIVE + 10_000 {
        crowd.open(n).unwrap();
        crowd.close(n).unwrap();
        if n % 200 == 0 {
            let swept = table.sweep(clock::now_s() + 3, |backend| backend == BACKEND_NUMBER).unwrap();
            given_up += swept.given_up;
            fullest = fullest.max(swept.entries);
        }
    }
    assert_eq!(crowd.lost(&table, LIVE).unwrap(), 0);
    assert_eq!(crowd.astray, 0, "every packet found its way");
    assert!(given_up > 10_000, "{given_up} entries gave way");
    assert_eq!(table.given_up(), given_up as u64);
    assert!(fullest <= 4_096, "{fullest} entries: nothing had to go beside the table");
    (0..LIVE).for_each(|n| crowd.use_it(n).unwrap());
    assert_eq!(crowd.astray, 0);
    drop(table);
    crowd.remove().unwrap();
}

#[test]
fn idle_connections_stay_and_ended_ones_go_after_their_time() {
    let Some(mut crowd) = crowd("the sweeper's times") else { return };
    let table = crowd.table().unwrap();
    (0..LIVE).for_each(|n| crowd.open(n).unwrap());
    for n in LIVE..LIVE + 100 {
        crowd.open(n).unwrap();
        crowd.close(n).unwrap();
    }
    let sweep = |after_s| table.sweep(clock::now_s() + after_s, |backend| backend == BACKEND_NUMBER).unwrap();
    assert_eq!(sweep(50).expired, 0, "a minute for the last packets of both sides");
    assert_eq!(sweep(62).expired, 200);
    assert_eq!(sweep(62).entries, 2 * LIVE);
    // Through every turn of the audit, three days later.
    for _ in 0..70 {
        assert_eq!(sweep(3 * 86_400).expired, 0);
    }
    assert_eq!(crowd.lost(&table, LIVE).unwrap(), 0);
    drop(table);
    crowd.remove().unwrap();
}

#[test]
fn flows_of_a_backend_that_went_are_marked_and_then_forgotten() {
    let Some(mut crowd) = crowd("flows of a backend that went") else { return };
    let table = crowd.table().unwrap();
    (0..LIVE).for_each(|n| crowd.open(n).unwrap());
    let swept = table.sweep(clock::now_s(), |_| false).unwrap();
    assert_eq!((swept.killed, swept.expired), (2 * LIVE, 0), "both entries of each");
    let swept = table.sweep(clock::now_s() + 12, |_| false).unwrap();
    assert_eq!((swept.killed, swept.expired), (0, 2 * LIVE));
    assert_eq!(table.sweep(clock::now_s(), |_| false).unwrap().entries, 0);
    drop(table);
    crowd.remove().unwrap();
}
