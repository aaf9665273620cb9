//! Processes that share the host's cgroups and not its network: the hooks of the host's sockets leave them alone.

use mesh_common::parse::protocol;
use mesh_common::schema::FrontendKey;
use mesh_tests::rig::address;
use mesh_tests::rig::beside::{self, Beside};
use mesh_userspace::plan::maps::{Entry, MapOp};

#[test]
fn a_socket_of_another_namespace_is_not_redirected() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("calls of a sandbox", reason);
    }
    let (beside, mut dataplane) = Beside::in_a_namespace("sandbox");
    let key = FrontendKey::<[u8; 4]>::published(8_080, protocol::TCP).with(address);
    let frontend = beside::frontend([10, 0, 16, 2]);
    for op in [MapOp::Put(Entry::Frontend(key, frontend)), MapOp::Config(Some(beside::config()))] {
        dataplane.apply(&op).expect("it is written");
    }
    // The host's own is on its way to the VIP, whose network this namespace has no route to.
    let told = beside.call("127.0.0.1");
    assert!(told.contains("Network is unreachable"), "{told}");
    let told = beside.call_from_a_sandbox("127.0.0.1");
    assert!(told.contains("Connection refused"), "by its own loopback: {told}");
}
