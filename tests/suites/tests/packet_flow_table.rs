//! A crowded flow table: connections that live stay, those that have ended or were never answered give way.

use mesh_tests::bench::scale::crowd::{BACKEND_NUMBER, CALLER, Crowd, LINK};
use mesh_tests::rig::address_16;
use mesh_userspace::kernel::bpf::{End, FlowSizes, Standing, clock};

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

/// Both tasks are there, and no other.
fn serves(end: End) -> Standing {
    if matches!(end, End::Endpoint(BACKEND_NUMBER) | End::Link(_, LINK)) { Standing::Serves } else { Standing::Gone }
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
            let swept = table.sweep(clock::now_s() + 3, serves).unwrap();
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
    let sweep = |after_s| table.sweep(clock::now_s() + after_s, serves).unwrap();
    assert_eq!(sweep(50).expired, 0, "a minute for the last packets of both sides");
    assert_eq!(sweep(62).expired, 200);
    assert_eq!(sweep(62).entries, 2 * LIVE);
    assert_eq!(sweep(30 * 86_400).expired, 0, "a month later");
    assert_eq!(crowd.lost(&table, LIVE).unwrap(), 0);
    drop(table);
    crowd.remove().unwrap();
}

#[test]
fn flows_of_a_backend_that_went_are_marked_and_then_forgotten() {
    let Some(mut crowd) = crowd("flows of a backend that went") else { return };
    let table = crowd.table().unwrap();
    (0..LIVE).for_each(|n| crowd.open(n).unwrap());
    let swept = table.sweep(clock::now_s(), |_| Standing::Gone).unwrap();
    assert_eq!((swept.killed, swept.expired), (2 * LIVE, 0), "both entries of each");
    let swept = table.sweep(clock::now_s() + 12, |_| Standing::Gone).unwrap();
    assert_eq!((swept.killed, swept.expired), (0, 2 * LIVE));
    assert_eq!(table.sweep(clock::now_s(), |_| Standing::Gone).unwrap().entries, 0);
    drop(table);
    crowd.remove().unwrap();
}

#[test]
fn datagrams_choose_again_where_their_backend_leaves_and_connections_stay() {
    let Some(mut crowd) = crowd("flows of a backend that leaves") else { return };
    let table = crowd.table().unwrap();
    crowd.open(1).unwrap();
    let ask = |crowd: &mut Crowd| {
        crowd.ask(2).unwrap();
        crowd.answer(2).unwrap();
    };
    ask(&mut crowd);
    let sweep = |standing| {
        let how = |end| if matches!(end, End::Endpoint(_)) { standing } else { Standing::Serves };
        table.sweep(clock::now_s(), how).unwrap().killed
    };
    assert_eq!((sweep(Standing::Serves), sweep(Standing::Leaves)), (0, 1), "the datagram's calling entry");
    assert_eq!(sweep(Standing::Leaves), 0, "once is enough");
    // An answer that was on its way finds back; the next question is decided anew.
    crowd.answer(2).unwrap();
    ask(&mut crowd);
    crowd.use_it(1).unwrap();
    assert_eq!((crowd.astray, crowd.lost(&table, 3).unwrap()), (0, 1), "but connection 0, which never was");
    assert_eq!(sweep(Standing::Leaves), 1, "it was chosen anew");
    drop(table);
    crowd.remove().unwrap();
}

#[test]
fn flows_of_a_caller_that_went_do_not_wait_for_who_gets_its_address() {
    let Some(mut crowd) = crowd("flows of a caller that went") else { return };
    let table = crowd.table().unwrap();
    (0..10).for_each(|n| crowd.open(n).unwrap());
    // Its backend is there; the caller's address is another task's by now.
    let gone = |end| match end {
        End::Link(addr, _) if addr == address_16(CALLER) => Standing::Gone,
        end => serves(end),
    };
    let sweep = |after_s, how: &dyn Fn(End) -> Standing| table.sweep(clock::now_s() + after_s, how).unwrap();
    assert_eq!(sweep(0, &serves).killed, 0);
    assert_eq!(sweep(0, &gone).killed, 20, "both entries of each");
    assert_eq!(sweep(12, &gone).expired, 20);
    drop(table);
    crowd.remove().unwrap();
}
