//! The same frame over IPv6: what a test says in IPv4's words is said once, and tried over both.
//!
//! An address a.b.c.d becomes fd00::a.b.c.d, 127.0.0.1 becomes ::1 and a group one of IPv6; an ICMP error becomes its counterpart (RFC 7915, 4.2), and what it
//! quotes goes along. What a tunnel carries becomes IPv6, the tunnel stays. Must not: guess; what IPv4 alone has (options) is a mistake in the
//! test.

use crate::field::Field;
use crate::frame::Frame;
use crate::layer::{Icmp, Ip, Layer};

/// IPv6's ICMP and IPv4's.
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// An address over IPv6.
pub fn over_ipv6([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    match a {
        0 if [b, c, d] == [0; 3] => [0; 16],
        127 => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        224.. => [0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d],
        _ => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d],
    }
}

impl Frame {
    /// See the module.
    ///
    /// # Panics
    /// If it has IPv4 options, or an ICMP message that IPv6 does not know.
    pub fn over_ipv6(&self) -> Frame {
        Frame { layers: over(&self.layers) }
    }
}

fn over(layers: &[Layer]) -> Vec<Layer> {
    let outer = layers.iter().position(|layer| matches!(layer, Layer::Vxlan { .. })).map_or(0, |place| place + 1);
    let (tunnel, inside) = layers.split_at(outer);
    if !inside.iter().any(|layer| matches!(layer, Layer::Ipv4(_))) {
        return layers.to_vec();
    }
    tunnel.iter().cloned().chain(inside.iter().cloned().map(layer)).collect()
}

fn layer(layer: Layer) -> Layer {
    match layer {
        Layer::Ipv4(it) => {
            assert!(it.options.is_empty(), "over_ipv6: IPv6 has no options in its header");
            Layer::Ipv6(Ip {
                source: address(it.source),
                destination: address(it.destination),
                ttl: it.ttl,
                tos: it.tos,
                id: it.id,
                dont_fragment: false,
                fragment: it.fragment,
                options: Vec::new(),
                protocol: it.protocol.map(|protocol| if protocol == ICMP { ICMP6 } else { protocol }),
                checksum: it.checksum,
            })
        }
        Layer::Icmp(it) => {
            let (kind, code) = message(it.kind, it.code);
            Layer::Icmp(Icmp { kind, code, ..it })
        }
        Layer::Quoted { layers, most } => Layer::Quoted { layers: over(&layers), most },
        other => other,
    }
}

fn address(field: Field<[u8; 4]>) -> Field<[u8; 16]> {
    match field {
        Field::Is(address) => Field::Is(over_ipv6(address)),
        Field::Any => Field::Any,
    }
}

/// Type and code of the counterpart.
fn message(kind: u8, code: u8) -> (u8, u8) {
    match (kind, code) {
        (8, code) => (128, code),
        (0, code) => (129, code),
        (3, 1) => (1, 3),
        (3, 3) => (1, 4),
        (3, 4) => (2, 0),
        (11, code) => (3, code),
        (12, code) => (4, code),
        // A redirect, which is for one link in either family.
        (5, _) => (137, 0),
        _ => panic!("over_ipv6: what is ICMP {kind}/{code} over IPv6?"),
    }
}

#[cfg(test)]
mod tests {
    use crate::{any, eth};

    #[test]
    fn headers_errors_and_what_they_quote_become_ipv6() {
        let head = |src, dst| eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4(src, dst);
        let packet = head("10.0.0.1", "10.0.0.2").dont_fragment().ttl(7).udp(1, 2).payload(b"quoted");
        let error = head("10.0.0.2", "10.0.0.1").icmp_error(3, 3, 0).quoting(&packet, 8);
        let over = error.over_ipv6().bytes();
        let head6 = |src, dst| eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv6(src, dst);
        let packet6 = head6("fd00::10.0.0.1", "fd00::10.0.0.2").ttl(7).udp(1, 2).payload(b"quoted");
        let wanted = head6("fd00::10.0.0.2", "fd00::10.0.0.1").icmp_error(1, 4, 0).payload(&packet6.bytes()[14..62]);
        assert_eq!(over, wanted.bytes());
    }

    #[test]
    fn a_tunnel_stays_what_it_is() {
        let inner = eth(any(), any()).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2);
        let outer = eth(any(), any()).ipv4("192.0.2.1", "192.0.2.2").udp(3, 4_789).no_checksum().vxlan(7);
        let over = outer.clone().carrying(&inner).over_ipv6();
        assert_eq!(over, outer.carrying(&inner.over_ipv6()));
    }
}
