//! Events of the programs with names.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mesh_common::parse::tcp_flag;
use mesh_common::schema::{Event, deliver};
use mesh_common::verdict::{DropReason, Hook};

use super::Facts;
use super::flows::wanted_ends;
use crate::api::ApiError;
use crate::api::flows::protocol_name;
use crate::api::monitor::{MonitorQuery, MonitorRequest, MonitorRow, Told};

/// Finds what a request names.
pub fn monitor_query(facts: &Facts, request: MonitorRequest) -> Result<MonitorQuery, ApiError> {
    let MonitorRequest { service, task, sample } = request;
    Ok(MonitorQuery { ends: wanted_ends(facts, service, task)?, sample })
}

/// Names of addresses, endpoints and nodes, made once for a whole listing.
pub struct EventNames {
    addrs: HashMap<IpAddr, String>,
    vips: HashSet<IpAddr>,
    /// Of tasks.
    endpoints: HashMap<IpAddr, u32>,
    services: HashMap<u32, String>,
    tasks: HashMap<u32, String>,
    nodes: HashMap<u16, String>,
}

impl EventNames {
    pub fn of(facts: &Facts) -> EventNames {
        let cluster = &facts.cluster;
        let mut names = EventNames {
            addrs: HashMap::new(),
            vips: HashSet::new(),
            endpoints: HashMap::new(),
            services: HashMap::new(),
            tasks: HashMap::new(),
            nodes: HashMap::new(),
        };
        for node in cluster.nodes.values() {
            names.nodes.insert(node.number as u16, node.name.clone());
            names.addrs.insert(node.data_path_addr, node.name.clone());
            names.addrs.insert(node.advertise_addr, node.name.clone());
        }
        for service in cluster.services.values() {
            for vip in &service.vips {
                names.addrs.extend(vip.addrs.each().map(|addr| (addr, service.spec.name.clone())));
                names.vips.extend(vip.addrs.each());
            }
        }
        for task in cluster.tasks.values() {
            for at in &task.attachments {
                names.addrs.extend(at.addrs.each().map(|addr| (addr, task.name())));
                names.endpoints.extend(at.addrs.each().map(|addr| (addr, at.endpoint)));
                names.tasks.insert(at.endpoint, task.name());
                names.services.insert(at.endpoint, task.service_name.clone());
            }
        }
        names
    }

    pub fn row(&self, told: &Told) -> MonitorRow {
        let (event, at) = match told {
            Told::Lost(lost) => return MonitorRow { lost: *lost, ..MonitorRow::default() },
            Told::Event { event, at } => (event, *at),
        };
        let hook = Hook::ALL.iter().find(|hook| **hook as u8 == event.hook).map_or("?", |hook| hook.name());
        let reason = DropReason::ALL.iter().find(|reason| **reason as u8 == event.reason);
        let (src, dst) = (addr(&event.src), addr(&event.dst));
        let name = |addr: &IpAddr| self.addrs.get(addr).cloned().unwrap_or_default();
        MonitorRow {
            at,
            hook: hook.to_string(),
            verdict: if event.reason != 0 { "dropped".into() } else { way(event.deliver).into() },
            reason: reason.map(|reason| reason.name().to_string()).unwrap_or_default(),
            protocol: protocol_name(event.protocol),
            source: SocketAddr::new(src, event.sport).to_string(),
            destination: SocketAddr::new(dst, event.dport).to_string(),
            flags: flags(event),
            bytes: event.len,
            from: name(&src),
            to: self.chosen(event, &src, &dst).cloned().unwrap_or_else(|| name(&dst)),
            service: self.services.get(&event.backend).cloned().unwrap_or_default(),
            node: self.nodes.get(&event.node).cloned().unwrap_or_default(),
            lost: 0,
        }
    }

    /// The task that a call to a service goes to. Of an answer, and of what names its receiver, the address says who gets it.
    fn chosen(&self, event: &Event, src: &IpAddr, dst: &IpAddr) -> Option<&String> {
        let is_answer = self.endpoints.get(src) == Some(&event.backend) && !self.vips.contains(dst);
        if is_answer || self.endpoints.contains_key(dst) { None } else { self.tasks.get(&event.backend) }
    }
}

fn addr(bytes: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*bytes).to_canonical()
}

fn way(number: u8) -> &'static str {
    match number {
        deliver::TASK => "task",
        deliver::TUNNEL => "tunnel",
        deliver::UPLINK => "uplink",
        deliver::HOST => "host",
        deliver::OUTSIDE => "outside",
        _ => "?",
    }
}

/// As tcpdump writes them.
fn flags(event: &Event) -> String {
    let letters = [(tcp_flag::SYN, 'S'), (tcp_flag::FIN, 'F'), (tcp_flag::RST, 'R'), (tcp_flag::ACK, '.')];
    letters.iter().filter(|(bit, _)| event.tcp_flags & bit != 0).map(|(_, letter)| letter).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn mapped(last: u8) -> [u8; 16] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 16, last]
    }

    fn event(reason: u8) -> Event {
        Event {
            src: mapped(0x11),
            dst: mapped(2),
            len: 74,
            backend: 0x12,
            node: 2,
            sport: 40_000,
            dport: 8_000,
            protocol: 6,
            deliver: deliver::TUNNEL,
            tcp_flags: tcp_flag::SYN,
            reason,
            ..Event::default()
        }
    }

    #[test]
    fn an_event_has_the_names_of_its_ends() {
        let names = EventNames::of(&fixture::facts());
        let row = names.row(&Told::Event { event: event(0), at: 7 });
        assert_eq!((row.hook.as_str(), row.verdict.as_str(), row.flags.as_str()), ("from_task", "tunnel", "S"));
        assert_eq!((row.source.as_str(), row.destination.as_str()), ("10.0.16.17:40000", "10.0.16.2:8000"));
        assert_eq!((row.from.as_str(), row.to.as_str(), row.node.as_str()), ("whoami.1", "whoami.2", "n2"));
        let answer = Event { src: mapped(0x12), dst: mapped(0x11), ..event(0) };
        let answer = names.row(&Told::Event { event: answer, at: 7 });
        assert_eq!((answer.from.as_str(), answer.to.as_str()), ("whoami.2", "whoami.1"), "who called gets the answer");
        let outside = Event { src: mapped(0x12), dst: [0xfd; 16], ..event(0) };
        assert_eq!(names.row(&Told::Event { event: outside, at: 7 }).to, "", "nobody of the cluster");
        let to_itself = names.row(&Told::Event { event: Event { src: mapped(0x12), ..event(0) }, at: 7 });
        assert_eq!((to_itself.from.as_str(), to_itself.to.as_str()), ("whoami.2", "whoami.2"), "by the VIP");
        let dropped = names.row(&Told::Event { event: Event { backend: 0, ..event(8) }, at: 7 });
        assert_eq!((dropped.verdict.as_str(), dropped.reason.as_str()), ("dropped", "no-backend"));
        assert_eq!(dropped.to, "whoami", "the VIP's service");
        assert_eq!(names.row(&Told::Lost(9)).lost, 9);
    }

    #[test]
    fn a_query_wants_what_its_tasks_have_part_in() {
        let facts = fixture::facts();
        let query = |service: Option<&str>, task: Option<&str>, sample| {
            let request =
                MonitorRequest { service: service.map(str::to_string), task: task.map(str::to_string), sample };
            monitor_query(&facts, request).expect("known names")
        };
        assert!(query(None, None, 1).wants(&event(0)) && query(None, Some("whoami.1"), 1).wants(&event(0)));
        assert!(!query(None, None, 0).wants(&event(0)), "drops alone");
        assert!(query(None, None, 0).wants(&event(8)));
        let by_vip = Event { src: [0; 16], backend: 0, ..event(8) };
        assert!(query(Some("whoami"), None, 0).wants(&by_vip), "whom a service without tasks was meant for");
        let foreign = Event { dst: [0; 16], ..by_vip };
        assert!(!query(Some("whoami"), None, 0).wants(&foreign) && !query(None, Some("whoami.1"), 0).wants(&by_vip));
    }
}
