//! What is there, what shall be there → what to do.
//!
//! Order: what stands in the way goes first, then `mesh0` (its sysctls before it is set up, so that it never has a link-local address),
//! its addresses and routes, tasks' links, ports. So each operation finds what it needs, and a failure half-way leaves a state from which the next diff goes on.
//! Must not: emit anything for what is as wanted (a diff that is never empty would make the agent spin).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{NetImage, NetOp, Programmed, dies_with_our_link};

/// The operations that turn `programmed` into `wanted`'s footprint.
pub fn diff(programmed: &Programmed, wanted: &NetImage) -> Vec<NetOp> {
    let mut ops = Vec::new();
    let replaced = mesh0_must_be_replaced(programmed, wanted);
    let on_mesh0 = if replaced { without_mesh0(programmed) } else { programmed.clone() };

    for port in programmed.held_ports.difference(&wanted.held_ports) {
        ops.push(NetOp::ReleasePort(*port));
    }
    for name in programmed.task_links.keys().filter(|name| !link_is_wanted(programmed, wanted, name)) {
        ops.push(NetOp::RemoveTaskLink(name.clone()));
    }
    if replaced {
        ops.push(NetOp::RemoveMesh0);
    } else {
        remove_from_mesh0(programmed, wanted, &mut ops);
    }
    for key in programmed.recorded_sysctls.iter().filter(|key| !wanted.sysctls.contains_key(*key)) {
        ops.push(NetOp::RestoreSysctl(key.clone()));
    }

    if on_mesh0.mesh0.is_none() {
        ops.extend(wanted.mesh0.map(NetOp::AddMesh0));
    }
    for (key, value) in wanted.sysctls.iter().filter(|(key, value)| on_mesh0.sysctls.get(*key) != Some(value)) {
        ops.push(NetOp::SetSysctl { key: key.clone(), value: value.clone() });
    }
    if on_mesh0.mesh0 != wanted.mesh0 || !on_mesh0.mesh0_running {
        ops.extend(wanted.mesh0.map(NetOp::SetMesh0));
    }
    for addr in wanted.addrs().filter(|addr| !on_mesh0.addrs.contains(addr)) {
        ops.push(NetOp::AddAddress(addr));
    }
    for (subnet, route) in wanted.routes.iter().filter(|(subnet, route)| on_mesh0.routes.get(*subnet) != Some(route)) {
        ops.push(NetOp::SetRoute(*subnet, *route));
    }
    for (name, link) in &wanted.task_links {
        match programmed.task_links.get(name) {
            Some(end) if *end == link.end() => {}
            Some(_) if link_is_wanted(programmed, wanted, name) => ops.push(NetOp::SetTaskLink(link.clone())),
            _ => ops.push(NetOp::AddTaskLink(link.clone())),
        }
    }
    for port in wanted.held_ports.difference(&programmed.held_ports) {
        ops.push(NetOp::HoldPort(*port));
    }
    ops
}

/// A VXLAN device can't change its port.
fn mesh0_must_be_replaced(programmed: &Programmed, wanted: &NetImage) -> bool {
    match (&programmed.mesh0, &wanted.mesh0) {
        (Some(there), Some(mesh0)) => there.port != mesh0.port,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Addresses, routes and sysctls of the device go with it.
fn without_mesh0(programmed: &Programmed) -> Programmed {
    Programmed {
        mesh0: None,
        mesh0_running: false,
        addrs: Default::default(),
        routes: BTreeMap::new(),
        sysctls: programmed.sysctls.clone().into_iter().filter(|(key, _)| !dies_with_our_link(key)).collect(),
        ..programmed.clone()
    }
}

fn remove_from_mesh0(programmed: &Programmed, wanted: &NetImage, ops: &mut Vec<NetOp>) {
    for subnet in programmed.routes.keys().filter(|subnet| !wanted.routes.contains_key(*subnet)) {
        ops.push(NetOp::RemoveRoute(*subnet));
    }
    let wanted: BTreeSet<IpAddr> = wanted.addrs().collect();
    for addr in programmed.addrs.difference(&wanted) {
        ops.push(NetOp::RemoveAddress(*addr));
    }
}

/// Same name and same task. Names are 8 digits of an id, so another task may have had this one; and a link without a task id
/// was left half-made: nobody knows what is inside.
fn link_is_wanted(programmed: &Programmed, wanted: &NetImage, name: &str) -> bool {
    match (programmed.task_links.get(name), wanted.task_links.get(name)) {
        (Some(end), Some(link)) => end.task_id.as_ref() == Some(&link.task_id),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeldPort, Mesh0, Route, Transport};
    use super::*;

    fn image() -> NetImage {
        NetImage {
            mesh0: Some(Mesh0 { port: 4789, mac: [0xe6, 0x12, 0, 0, 0, 1], mtu: 1450 }),
            gateways: ["10.0.0.1".parse().unwrap()].into(),
            routes: [("10.0.0.0/20".parse().unwrap(), Route { src: None, mtu: 1450 })].into(),
            held_ports: [HeldPort { transport: Transport::Tcp, port: 8000, address: None }].into(),
            sysctls: [("net/ipv4/conf/mesh0/rp_filter".to_string(), "0".to_string())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn from_nothing_the_device_comes_before_what_is_on_it() {
        let ops = diff(&Programmed::default(), &image());
        assert!(matches!(
            ops.as_slice(),
            [
                NetOp::AddMesh0(_),
                NetOp::SetSysctl { .. },
                NetOp::SetMesh0(_),
                NetOp::AddAddress(_),
                NetOp::SetRoute(..),
                NetOp::HoldPort(_)
            ]
        ));
    }

    #[test]
    fn another_port_replaces_the_device_and_puts_everything_back_on_it() {
        let there = image().footprint();
        let mut wanted = image();
        wanted.mesh0.as_mut().unwrap().port = 4790;
        assert!(matches!(
            diff(&there, &wanted).as_slice(),
            [
                NetOp::RemoveMesh0,
                NetOp::AddMesh0(_),
                NetOp::SetSysctl { .. },
                NetOp::SetMesh0(_),
                NetOp::AddAddress(_),
                NetOp::SetRoute(..)
            ]
        ));
    }

    #[test]
    fn a_device_that_went_down_is_set_up_again() {
        let mut there = image().footprint();
        there.mesh0_running = false;
        there.routes.clear();
        assert!(matches!(diff(&there, &image()).as_slice(), [NetOp::SetMesh0(_), NetOp::SetRoute(..)]));
    }

    #[test]
    fn an_empty_image_takes_everything_away() {
        let mut there = image().footprint();
        there.recorded_sysctls.insert("net/ipv4/ip_local_reserved_ports".into());
        assert!(matches!(
            diff(&there, &NetImage::default()).as_slice(),
            [NetOp::ReleasePort(_), NetOp::RemoveMesh0, NetOp::RestoreSysctl(_)]
        ));
    }
}
