//! A random world in a rig's maps: tasks, services, published ports and peers, some of it wrong.

use mesh_common::family::{V4, V6};
use mesh_common::schema::*;
use mesh_common::verdict::{DropReason, Hook, drop_index};
use mesh_common::wire::mac;
use mesh_tests::rig::{HERE, PEER_2, PEER_3, Rig, Task};
use mesh_userspace::kernel::bpf::{Lookups, clock};

use super::random::Random;

pub const PORTS: [u16; 4] = [8_000, 8_001, 8_002, 53];

pub struct World {
    pub rig: Rig,
    pub lookups: Lookups<V4>,
    pub lookups6: Lookups<V6>,
    pub tasks: Vec<Task>,
    pub vips: Vec<[u8; 4]>,
    /// Keys of entries in the order in which they came, by the addresses that they mirror, and whether they are of IPv6.
    pub known: Vec<(FlowKey<[u8; 4]>, bool)>,
    backends: usize,
    /// Whose maps are written: the tasks of this node have the rig's links.
    links: Vec<u32>,
}

/// The data path address of a node.
pub fn address_of(node: u32) -> [u8; 4] {
    match node {
        1 => HERE,
        2 => PEER_2,
        _ => PEER_3,
    }
}

impl World {
    pub fn new() -> Option<World> {
        let rig = Rig::with_flow_table(1 << 16)?;
        let lookups = Lookups::open(|name| rig.map_data(name)).expect("the maps are there");
        let lookups6 = Lookups::open(|name| rig.map_data(name)).expect("the maps are there");
        let links = rig.devices().tasks.clone();
        let (tasks, vips, known) = (Vec::new(), Vec::new(), Vec::new());
        Some(World { rig, lookups, lookups6, tasks, vips, known, backends: 1, links })
    }

    /// Another world: nothing is left of the last one.
    pub fn renew(&mut self, random: &mut Random) {
        self.rig.empty();
        self.tasks.clear();
        self.vips.clear();
        self.known.clear();
        self.backends = 1;
        let is_set_up = !random.one_in(20);
        self.rig.configure(|config| {
            if !is_set_up {
                config.mesh0 = 0;
            }
            config.mss6 = 1_390;
        });
        for (node, addr) in [(2, PEER_2), (3, PEER_3)] {
            match random.below(8) {
                0 => self.rig.unreachable(node, addr),
                // Nothing is known of it.
                1 => self.rig.set("PEERS", node, Peer::NONE),
                2..5 => self.rig.next_hop(node, addr, random.of(&[150, 1_500, 9_000])),
                _ => {}
            }
        }
        if random.one_in(12) {
            let uplink = self.rig.devices().uplink;
            self.rig.delete::<u32, Uplink>("UPLINKS", uplink);
        }
        self.people(random);
        for number in 0..4 {
            self.service(random, number);
        }
        self.rig.mirror();
    }

    fn people(&mut self, random: &mut Random) {
        for (at, link) in self.links.clone().into_iter().enumerate() {
            let third = random.of(&[16, 16, 32]);
            let flags = if random.one_in(5) { endpoint_flag::INTERNAL } else { 0 };
            self.task([10, 0, third, 10 + at as u8], 1, link, flags);
        }
        for at in 0..5 {
            let (third, node) = (random.of(&[16, 16, 32]), random.of(&[2, 3]));
            self.task([10, 0, third, 20 + at], node, 0, 0);
        }
    }

    fn task(&mut self, addr: [u8; 4], node: u32, ifindex: u32, flags: u8) {
        let number = self.tasks.len() as u32 + 1;
        let (vni, gateway) = if addr[2] == 16 { (4_097, [10, 0, 16, 1]) } else { (4_098, [10, 0, 32, 1]) };
        let task = Task { number, addr, mac: mac::of(mac::KIND_TASK, number), vni, node, ifindex };
        let endpoint = Endpoint {
            vni,
            number,
            node,
            ifindex,
            gateway,
            mac: task.mac,
            kind: endpoint::TASK,
            flags,
            prefix_len: 20,
            pad: [0; 3],
        };
        self.rig.put("ENDPOINTS4", addr, endpoint);
        self.rig.put_backend(&task, 0);
        self.tasks.push(task);
    }

    /// A service over some tasks of a network, perhaps none, perhaps one that is gone.
    fn service(&mut self, random: &mut Random, number: u8) {
        let third = random.of(&[16u8, 16, 32]);
        let of_network: Vec<Task> =
            self.tasks.iter().filter(|task| task.addr[2] == third && !random.one_in(3)).cloned().collect();
        let chosen: Vec<&Task> = if random.one_in(6) { Vec::new() } else { of_network.iter().collect() };
        let vip = [10, 0, third, 200 + number];
        let text = std::net::Ipv4Addr::from(vip).to_string();
        let mut service = self.rig.service(&text, &chosen);
        service.frontend.algorithm =
            random.of(&[algorithm::ROUND_ROBIN, algorithm::MAGLEV, algorithm::RANDOM, algorithm::CLIENT]);
        if service.frontend.algorithm == algorithm::CLIENT {
            service.frontend.affinity_s = 60;
            self.clients(random, service.pool);
        }
        self.rig.put("FRONTENDS4", FrontendKey::vip(vip), service.frontend);
        // Callers of list 7: tasks of one network, some of the world, or nobody.
        for (addr, bits) in [([10, 0, third, 0], 20), ([198, 51, 100, 0], 31), (HERE, 32)] {
            if random.one_in(2) {
                self.rig.allow(AllowPrefix::new(service.pool, 7, addr, bits));
            }
        }
        self.rig.set("TURNS", service.pool, random.next() >> random.below(64));
        for port in PORTS {
            if random.one_in(2) {
                let flags = if random.one_in(6) { frontend_flag::NOT_TAKEN } else { 0 };
                service.frontend.flags = flags;
                let target = random.of(&[0, port, 9_000]);
                service.frontend.allow = random.of(&[0, 0, 7]);
                let protocol = random.of(&[6, 17, 132]);
                if random.one_in(4) {
                    // Of a node, of this one, or one that the next service has it at as well.
                    let addr = random.of(&[HERE, HERE, PEER_2, PEER_3]);
                    self.rig.publish_at(&service, addr, protocol, port, target);
                } else {
                    self.rig.publish(&service, protocol, port, target);
                }
            }
        }
        self.vips.push(vip);
        self.backends = self.backends.max(chosen.len());
        if random.one_in(6)
            && let Some(task) = chosen.first()
        {
            // It has ended, and the lists don't know yet.
            self.rig.delete::<u32, Backend>("BACKENDS", task.number);
        }
    }

    /// Some clients keep a task of a service with affinity: lately, too long ago, or one that is not its.
    fn clients(&mut self, random: &mut Random, pool: u32) {
        let callers = self.tasks.iter().map(|task| task.addr).chain((0..4).map(|last| [198, 51, 100, last]));
        let callers: Vec<[u8; 4]> = callers.chain([HERE]).filter(|_| random.one_in(2)).collect();
        for addr in callers {
            let (backend, ago_s) = (random.below(self.tasks.len()) as u32 + 1, random.of(&[5, 5, 1_000]));
            let kept = Affinity { backend, last_new_s: clock::now_s().saturating_sub(ago_s) };
            self.rig.put("AFFINITY4", AffinityKey { addr, pool }, kept);
        }
    }

    pub fn most_backends(&self) -> usize {
        self.backends
    }

    /// What the kernel's routes say: everything by the uplink, but for one prefix.
    pub fn route(&self, dst: [u8; 4]) -> Option<u32> {
        (dst[..3] != [203, 0, 113]).then_some(self.rig.devices().uplink)
    }

    /// The MAC of the task with this address, or of whoever the entry of the link names.
    pub fn mac_at(&self, addr: [u8; 4], ifindex: u32) -> Option<[u8; 6]> {
        self.tasks.iter().find(|task| task.addr == addr && task.ifindex == ifindex).map(|task| task.mac)
    }

    /// How often packets were dropped for a reason.
    pub fn drops_at(&self, hook: Hook, reason: DropReason) -> u64 {
        self.rig.drops_of(drop_index(hook, reason))
    }
}
