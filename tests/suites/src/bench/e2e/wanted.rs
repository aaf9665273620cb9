//! Which numbers the end-to-end part gives: a row is a way, what its client does, a number of that, and another way beside it.

use super::tool::{Kind, Reading};
use super::wire;
use crate::bench::{Row, Target};

use Kind::{Connections, Datagrams, Requests, Stream, Streams};
use Target::{RatioAtLeast, RatioAtMost};
use Way::{
    BareNode, Direct, DockerPort, Haproxy, Iptables, Nftables, OurPort, OurVip, OurVipAcross, OurVipMesh0, OurVips,
    OurVipsAcross, TcNode, TcPort, Vxlan, VxlanIptables, XdpNode, XdpPort,
};

/// A way from a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Direct,
    OurVip,
    /// A service for each server, as `direct` has them: nothing is left to balance.
    OurVips,
    Iptables,
    Nftables,
    Haproxy,
    Vxlan,
    OurVipAcross,
    OurVipsAcross,
    /// The same where agents were told to leave the tunnel's headers to the kernel.
    OurVipMesh0,
    VxlanIptables,
    DockerPort,
    OurPort,
    /// A published port by a node with XDP in its driver, and by one without.
    XdpPort,
    TcPort,
    /// To a node itself, past the programs in its driver: ours, none, a bare one.
    XdpNode,
    TcNode,
    BareNode,
}

impl Way {
    /// As rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Direct => "direct",
            OurVip | OurVipAcross | OurPort => "mesh",
            OurVips | OurVipsAcross => "mesh, a VIP a server",
            OurVipMesh0 => "mesh by mesh0",
            Iptables => "iptables",
            Nftables => "nftables",
            Haproxy => "haproxy",
            Vxlan => "bridge+vxlan",
            VxlanIptables => "bridge+vxlan+iptables",
            DockerPort => "docker's chain",
            XdpPort | XdpNode => "mesh with XDP",
            TcPort | TcNode => "mesh at TC",
            BareNode => "a bare program",
        }
    }

    /// First word of the row: where client and servers are.
    fn place(self) -> &'static str {
        match self {
            Direct | OurVip | OurVips | Iptables | Nftables | Haproxy => "same node",
            Vxlan | OurVipAcross | OurVipsAcross | OurVipMesh0 | VxlanIptables => "across nodes",
            DockerPort | OurPort => "published port",
            XdpPort | TcPort => "published port on a wire",
            XdpNode | TcNode | BareNode => "a node's own port on a wire",
        }
    }

    /// Which node of the wire shape is called; None elsewhere.
    pub fn node_on_wire(self) -> Option<&'static str> {
        match self {
            XdpPort | XdpNode => Some(wire::XDP),
            TcPort | TcNode => Some(wire::TC),
            BareNode => Some(wire::BARE),
            _ => None,
        }
    }

    pub fn is_on_wire(self) -> bool {
        self.node_on_wire().is_some()
    }

    pub fn is_ours(self) -> bool {
        matches!(self, OurVip | OurVips | OurVipAcross | OurVipsAcross | OurVipMesh0 | OurPort)
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Stream => "stream",
            Streams => "8 streams",
            Requests => "requests",
            Connections => "new connections",
            Datagrams => "datagrams",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Stream | Streams => "Gbit/s",
            Requests | Connections => "1/s",
            Datagrams => "1/s",
        }
    }
}

/// Which number of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Rate,
    P50,
    P99,
    P999,
    Cpu,
}

impl Number {
    pub fn of(self, reading: &Reading) -> f64 {
        match self {
            Number::Rate => reading.rate,
            Number::P50 => reading.p50_us,
            Number::P99 => reading.p99_us,
            Number::P999 => reading.p999_us,
            Number::Cpu => reading.cpu_us,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Number::Rate => "",
            Number::P50 => " p50",
            Number::P99 => " p99",
            Number::P999 => " p99.9",
            Number::Cpu => " CPU",
        }
    }
}

/// A row to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub way: Way,
    pub kind: Kind,
    pub number: Number,
    /// Read in the same turns.
    pub beside: Option<Way>,
    pub target: Option<Target>,
}

impl Wanted {
    fn new(way: Way, kind: Kind, number: Number, beside: Option<Way>, target: Option<Target>) -> Wanted {
        let versus = match (way, beside) {
            (way, Some(beside)) if way.is_ours() || way.is_on_wire() => format!(", {} : {}", way.name(), beside.name()),
            _ => format!(", {}", way.name()),
        };
        let name = format!("{}: {}{}{versus}", way.place(), kind.name(), number.suffix());
        Wanted { name, way, kind, number, beside, target }
    }

    /// The row of its readings in turns.
    pub fn row(&self, pairs: &[(f64, f64)]) -> Row {
        let unit = match self.number {
            Number::Rate => self.kind.unit(),
            Number::Cpu if matches!(self.kind, Stream | Streams) => "µs/Gbit",
            Number::Cpu => "µs each",
            _ => "µs",
        };
        let row = match self.beside {
            Some(beside) => Row::pairs(&self.name, unit, beside.name(), pairs),
            None => Row::alone(&self.name, unit, &pairs.iter().map(|(value, _)| *value).collect::<Vec<_>>()),
        };
        row.target(self.target)
    }
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Wanted> {
    same_node().into_iter().chain(across_nodes()).chain(published_port()).chain(on_a_wire()).collect()
}

/// The five kinds, and what the rate is to be at least.
type Rates = [(Kind, Option<f64>); 5];

fn same_node() -> Vec<Wanted> {
    let mut rows = Vec::new();
    let rates: Rates =
        [(Stream, Some(0.97)), (Streams, None), (Requests, Some(1.15)), (Connections, Some(1.12)), (Datagrams, None)];
    for (kind, least) in rates {
        rows.push(Wanted::new(Direct, kind, Number::Rate, None, None));
        rows.push(Wanted::new(OurVip, kind, Number::Rate, Some(Direct), least.map(RatioAtLeast)));
        for rival in [Iptables, Nftables, Haproxy] {
            if (rival, kind) != (Haproxy, Datagrams) {
                rows.push(Wanted::new(rival, kind, Number::Rate, Some(Direct), None));
            }
        }
    }
    for kind in [Requests, Connections] {
        for number in EFFORT {
            let target = ((kind, number) == (Requests, Number::P99)).then_some(RatioAtMost(0.8));
            rows.push(Wanted::new(OurVip, kind, number, Some(Iptables), target));
            rows.extend([Direct, Nftables, Haproxy].map(|way| Wanted::new(OurVip, kind, number, Some(way), None)));
        }
    }
    rows.extend(BULK.map(|kind| Wanted::new(OurVip, kind, Number::Cpu, Some(Direct), None)));
    rows.extend(like_for_like(OurVips, Direct));
    rows
}

/// What else a run of requests shows.
const EFFORT: [Number; 4] = [Number::P50, Number::P99, Number::P999, Number::Cpu];
/// What is sent one way, and has no latency to tell.
const BULK: [Kind; 3] = [Stream, Streams, Datagrams];

fn across_nodes() -> Vec<Wanted> {
    let mut rows = Vec::new();
    let rates: Rates =
        [(Stream, Some(1.08)), (Streams, None), (Requests, Some(1.22)), (Connections, Some(1.35)), (Datagrams, None)];
    for (kind, least) in rates {
        rows.push(Wanted::new(Vxlan, kind, Number::Rate, None, None));
        rows.push(Wanted::new(OurVipAcross, kind, Number::Rate, Some(Vxlan), least.map(RatioAtLeast)));
        rows.push(Wanted::new(OurVipMesh0, kind, Number::Rate, Some(Vxlan), least.map(|_| RatioAtLeast(0.95))));
        rows.push(Wanted::new(VxlanIptables, kind, Number::Rate, Some(Vxlan), None));
    }
    for kind in [Requests, Connections] {
        rows.extend(EFFORT.map(|number| Wanted::new(OurVipAcross, kind, number, Some(Vxlan), None)));
        rows.extend(EFFORT.map(|number| Wanted::new(OurVipMesh0, kind, number, Some(Vxlan), None)));
        rows.extend(EFFORT.map(|number| Wanted::new(OurVipAcross, kind, number, Some(VxlanIptables), None)));
    }
    rows.extend(BULK.map(|kind| Wanted::new(OurVipAcross, kind, Number::Cpu, Some(Vxlan), None)));
    rows.extend(like_for_like(OurVipsAcross, Vxlan));
    rows
}

/// What the way costs by itself: beside one that does not balance, a balancer's calls also wake servers on other CPUs than their clients'.
fn like_for_like(ours: Way, beside: Way) -> impl Iterator<Item = Wanted> {
    let numbers = [Requests, Connections].into_iter().flat_map(|kind| [Number::Rate, Number::Cpu].map(|it| (kind, it)));
    numbers.map(move |(kind, number)| Wanted::new(ours, kind, number, Some(beside), None))
}

fn published_port() -> Vec<Wanted> {
    let mut rows = Vec::new();
    let rates: Rates =
        [(Stream, Some(1.3)), (Streams, None), (Requests, Some(1.7)), (Connections, Some(2.2)), (Datagrams, None)];
    for (kind, least) in rates {
        rows.push(Wanted::new(DockerPort, kind, Number::Rate, None, None));
        rows.push(Wanted::new(OurPort, kind, Number::Rate, Some(DockerPort), least.map(RatioAtLeast)));
    }
    for kind in [Requests, Connections] {
        rows.extend(EFFORT.map(|number| Wanted::new(OurPort, kind, number, Some(DockerPort), None)));
    }
    rows.extend(BULK.map(|kind| Wanted::new(OurPort, kind, Number::Cpu, Some(DockerPort), None)));
    rows
}

fn on_a_wire() -> Vec<Wanted> {
    let requests = Wanted::new(XdpPort, Requests, Number::Rate, Some(TcPort), Some(RatioAtLeast(1.2)));
    let mut rows = vec![requests];
    rows.extend(EFFORT.map(|number| Wanted::new(XdpPort, Requests, number, Some(TcPort), None)));
    rows.push(Wanted::new(XdpPort, Connections, Number::Rate, Some(TcPort), None));
    // A veth copies packets for any program in its driver; against a bare one only ours is seen.
    rows.push(Wanted::new(XdpNode, Stream, Number::Rate, Some(BareNode), Some(RatioAtLeast(0.97))));
    rows.push(Wanted::new(XdpNode, Stream, Number::Rate, Some(TcNode), None));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rows_are_all_different() {
        let mut names: Vec<String> = all().into_iter().map(|wanted| wanted.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.contains(&"same node: requests p99, mesh : iptables".to_owned()), "{names:#?}");
    }

    #[test]
    fn what_is_judged_has_something_beside_it() {
        assert!(all().iter().all(|wanted| wanted.target.is_none() || wanted.beside.is_some()));
    }
}
