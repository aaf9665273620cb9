//! Half a million frames that differ in addresses and ports alone: one is written by the tests' packet builder, the others are it with these
//! fields and the checksums changed.

use mesh_packet::Frame;

/// Length of every frame, without frame check sequence.
pub const FRAME_LEN: usize = 64;
/// Bytes of a frame.
pub type Bytes = [u8; FRAME_LEN];

const SRC: usize = 26;
const DST: usize = 30;
const SPORT: usize = 34;
const DPORT: usize = 36;
const IP_SUM: usize = 24;
const TCP_SUM: usize = 50;

/// Who calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub sport: u16,
    pub dport: u16,
}

impl Tuple {
    /// The answer's.
    pub fn turned(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Template(Bytes);

impl Template {
    /// Of a TCP frame over IPv4 of the right length.
    pub fn new(frame: &Frame) -> Template {
        let fit = |bytes: Vec<u8>| panic!("a frame of {} bytes", bytes.len());
        Template(frame.bytes().try_into().unwrap_or_else(fit))
    }

    /// The frame of one flow.
    pub fn of(&self, tuple: Tuple) -> Bytes {
        let mut bytes = self.0;
        let (mut ip, mut tcp) = (0, 0);
        for (offset, word) in [(SRC, tuple.src), (DST, tuple.dst)] {
            for (at, new) in [(offset, [word[0], word[1]]), (offset + 2, [word[2], word[3]])] {
                let change = put(&mut bytes, at, u16::from_be_bytes(new));
                ip += change;
                tcp += change;
            }
        }
        tcp += put(&mut bytes, SPORT, tuple.sport) + put(&mut bytes, DPORT, tuple.dport);
        for (offset, change) in [(IP_SUM, ip), (TCP_SUM, tcp)] {
            let sum = u32::from(!u16::from_be_bytes([bytes[offset], bytes[offset + 1]])) + change;
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            bytes[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// Writes a word; what that adds to a sum in one's complement (RFC 1624).
fn put(bytes: &mut Bytes, offset: usize, new: u16) -> u32 {
    let old = u16::from_be_bytes([bytes[offset], bytes[offset + 1]]);
    bytes[offset..offset + 2].copy_from_slice(&new.to_be_bytes());
    u32::from(!old) + u32::from(new)
}

/// The numbers below `count` in an order that no table was filled in: shuffled (Fisher and Yates) by a fixed generator (Knuth's MMIX
/// constants), the same in every run.
pub fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut state = 0x6d65_7368u64;
    for last in (1..count as usize).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chosen = (u128::from(state) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use mesh_packet::eth;

    use super::*;

    #[test]
    fn a_frame_of_a_template_is_the_frame_that_would_be_written_anew() {
        let head = || eth([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let frame = |t: Tuple| head().ipv4(t.src, t.dst).tcp(t.sport, t.dport).seq(1).ack(1).payload_of(10);
        let first = Tuple { src: [10, 0, 16, 3], dst: [10, 0, 16, 2], sport: 10_000, dport: 80 };
        let template = Template::new(&frame(first));
        for n in 0..1_000u32 {
            let [a, b, c, d] = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
            let other = Tuple { src: [a, b, c, d], dst: [d, a, c, b], sport: n as u16 * 61, dport: 65_535 - n as u16 };
            assert_eq!(template.of(other).as_slice(), frame(other).bytes(), "{other:?}");
        }
    }

    #[test]
    fn every_number_is_visited_once_and_not_in_its_place() {
        let order = shuffled(10_000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10_000).collect::<Vec<_>>());
        let in_place = (0u32..).zip(&order).filter(|(place, number)| place == *number).count();
        assert!(in_place < 20, "{in_place} of 10,000 are where they were");
    }
}
