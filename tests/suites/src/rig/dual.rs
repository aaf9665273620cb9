//! IPv6 beside IPv4: tasks and services of the world with an address of each family, and what the maps of IPv6 hold then.

use mesh_common::schema::{Address, Backend, Endpoint, Flow, FlowKey, Frontend, FrontendKey, address_flag, endpoint};
use mesh_common::wire::mac;
use mesh_packet::{Frame, eth};

use super::{Rig, Service, Task};

/// This node's address of IPv6, on its uplink.
pub const HERE6: &str = "2001:db8:1::1";
/// Gateway of the network 4097.
pub const GATEWAY6: &str = "fd00:16::1";

/// An IPv6 address from text; a text that is none is a mistake in the test.
pub fn ip6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap_or_else(|_| panic!("not an IPv6 address: {text}")).octets()
}

/// A task with an IPv6 address beside its other one.
#[derive(Clone, Debug)]
pub struct Dual {
    pub task: Task,
    pub addr: &'static str,
}

impl Dual {
    /// The head of a frame that it sends.
    pub fn to(&self, dst: &str) -> Frame {
        eth(self.task.mac, mac::GATEWAY).ipv6(self.addr, dst)
    }

    /// The head of a frame that reaches it.
    pub fn gets(&self, src: &str) -> Frame {
        eth(mac::GATEWAY, self.task.mac).ipv6(src, self.addr)
    }
}

fn endpoint_of(task: Option<&Task>, vni: u32) -> Endpoint<[u8; 16]> {
    Endpoint {
        vni,
        number: task.map_or(0, |task| task.number),
        node: task.map_or(1, |task| task.node),
        ifindex: task.map_or(0, |task| task.ifindex),
        gateway: ip6(GATEWAY6),
        mac: task.map_or(mac::GATEWAY, |task| task.mac),
        kind: if task.is_some() { endpoint::TASK } else { endpoint::GATEWAY },
        flags: 0,
        prefix_len: 64,
        pad: [0; 3],
    }
}

/// What FLOWS6 has.
type Flows6 = Vec<(FlowKey<[u8; 16]>, Flow<[u8; 16]>)>;

impl Rig {
    /// Gives a task an address of IPv6.
    pub fn dual(&mut self, task: Task, addr: &'static str) -> Dual {
        self.put("ENDPOINTS6", ip6(GATEWAY6), endpoint_of(None, 4_097));
        self.put("ENDPOINTS6", ip6(addr), endpoint_of(Some(&task), task.vni));
        let backend: Backend = self.read::<u32, Backend>("BACKENDS").get(&task.number, 0).expect("every task is one");
        self.put("BACKENDS", task.number, Backend { addr6: ip6(addr), ..backend });
        Dual { task, addr }
    }

    /// Gives a service a VIP of IPv6.
    pub fn vip6(&mut self, service: &Service, vip: &str) {
        self.put("FRONTENDS6", FrontendKey::vip(ip6(vip)), service.frontend.with(|_| ip6(vip)));
    }

    /// Publishes a port of a service over IPv6, at [`HERE6`] among others.
    pub fn publish6(&mut self, service: &Service, protocol: u8, port: u16, target_port: u16) {
        let frontend = Frontend { target_port, ..service.frontend.with(|_| [0; 16]) };
        self.put("FRONTENDS6", FrontendKey::<[u8; 16]>::published(port, protocol), frontend);
        self.own_address6(HERE6);
    }

    /// This node has this address of IPv6 on its uplink.
    pub fn own_address6(&mut self, addr: &str) {
        let ifindex = self.devices().uplink;
        self.put("ADDRESSES6", ip6(addr), Address { node: 1, ifindex, flags: address_flag::OWN, pad: [0; 3] });
    }

    /// The flow table of IPv6 now.
    pub fn flows6(&self) -> Flows6 {
        let table = self.read::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>("FLOWS6");
        table.iter().map(|entry| entry.expect("the flow table can be read")).collect()
    }
}
