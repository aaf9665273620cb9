//! The Internet checksum (RFC 1071), and packets whose checksum is not finished.
//!
//! A packet that a local socket sends usually carries, in its TCP or UDP checksum field, only the folded sum of the pseudo-header, *not
//! complemented*; the device adds the rest (CHECKSUM_PARTIAL in Linux). A program that rewrites such a packet must keep exactly
//! this property. [`unfinish`] and [`finish`] go back and forth between the two forms.

/// Folded one's complement sum of big-endian 16-bit words; an odd last byte counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0)));
    // A frame has less than 2^15 words, so 32 bits never overflow.
    fold(words.sum())
}

/// Sum of the pseudo-header of either family (RFC 793, RFC 8200 8.1).
pub fn pseudo_header(source: &[u8], destination: &[u8], protocol: u8, length: usize) -> u16 {
    let length = u32::try_from(length).expect("a packet is shorter than 4 GiB");
    let parts = [sum(source), sum(destination), u16::from(protocol), sum(&length.to_be_bytes())];
    fold(parts.iter().map(|part| u32::from(*part)).sum())
}

/// The checksum of a message whose field is zero: the complement of pseudo-header and message.
pub fn complete(pseudo: u16, message: &[u8]) -> u16 {
    !fold(u32::from(pseudo) + u32::from(sum(message)))
}

/// The same frame as a program sees it when the device is to finish the checksum of its (outermost) TCP or UDP message.
///
/// # Panics
/// If the frame holds no whole TCP or UDP message: a mistake in the test.
pub fn unfinish(frame: &[u8]) -> Vec<u8> {
    let place = Place::find(frame).expect("the frame holds a whole TCP or UDP message");
    let mut frame = frame.to_vec();
    frame[place.field..place.field + 2].copy_from_slice(&place.pseudo.to_be_bytes());
    frame
}

/// The checksum of the frame's (outermost) TCP or UDP message holds the pseudo-header's sum, as where a device is to finish it. By chance, one time in
/// 65,536, that is also what it would be when finished.
pub fn may_be_unfinished(frame: &[u8]) -> bool {
    Place::find(frame).is_some_and(|place| frame[place.field..place.field + 2] == place.pseudo.to_be_bytes())
}

/// What the device makes of a frame with an unfinished checksum when it sends it.
///
/// # Panics
/// As [`unfinish`].
pub fn finish(frame: &[u8]) -> Vec<u8> {
    let place = Place::find(frame).expect("the frame holds a whole TCP or UDP message");
    let mut frame = frame.to_vec();
    // The device sums the message with whatever the field holds: right only if that is the pseudo-header's sum.
    let finished = match !sum(&frame[place.message..place.end]) {
        0 if place.is_udp => 0xffff,
        sum => sum,
    };
    frame[place.field..place.field + 2].copy_from_slice(&finished.to_be_bytes());
    frame
}

/// Where the checksum of a frame's message is, and what its pseudo-header sums to.
struct Place {
    message: usize,
    end: usize,
    field: usize,
    pseudo: u16,
    is_udp: bool,
}

impl Place {
    fn find(frame: &[u8]) -> Option<Place> {
        let mut ip = 14;
        while frame.get(ip - 2..ip)? == [0x81, 0x00] {
            ip += 4;
        }
        let header = frame.get(ip..)?;
        let (protocol, size, length, source, destination) = match header.first()? >> 4 {
            4 if header.len() >= 20 && u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0 => {
                let size = usize::from(header[0] & 15) * 4;
                let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
                (header[9], size, length.checked_sub(size)?, &header[12..16], &header[16..20])
            }
            6 if header.len() >= 40 => {
                let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
                (header[6], 40, length, &header[8..24], &header[24..40])
            }
            _ => return None,
        };
        let offset = match protocol {
            6 => 16,
            17 => 6,
            _ => return None,
        };
        let (message, end) = (ip + size, ip + size + length);
        let pseudo = pseudo_header(source, destination, protocol, length);
        let fits = end <= frame.len() && message + offset + 2 <= end;
        fits.then_some(Place { message, end, field: message + offset, pseudo, is_udp: protocol == 17 })
    }
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eth;

    #[test]
    fn the_sum_of_rfc_1071() {
        // Section 3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
    }

    #[test]
    fn a_device_finishes_what_is_unfinished() {
        for whole in [
            eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2).syn().bytes(),
            eth("02:00:00:00:00:01", "02:00:00:00:00:02")
                .vlan(7)
                .ipv4("10.0.0.1", "10.0.0.2")
                .udp(1, 2)
                .payload(b"odd")
                .bytes(),
            eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv6("fd00::1", "fd00::2").udp(1, 2).payload(b"even").bytes(),
        ] {
            let unfinished = unfinish(&whole);
            assert_ne!(unfinished, whole);
            assert_eq!(finish(&unfinished), whole);
        }
    }

    #[test]
    fn what_is_unfinished_may_be_right_as_well() {
        let from = |port: u16| {
            eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("10.0.0.1", "10.0.0.2").udp(port, 53).bytes()
        };
        let both =
            (1..=u16::MAX).map(from).find(|frame| unfinish(frame) == *frame).expect("a port for which both agree");
        assert!(may_be_unfinished(&both) && may_be_unfinished(&unfinish(&from(7))) && !may_be_unfinished(&from(7)));
        assert!(!may_be_unfinished(&both[..20]));
    }

    #[test]
    fn an_unfinished_field_holds_the_pseudo_headers_sum() {
        let frame =
            eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("10.0.0.1", "10.0.0.2").tcp(1, 2).unfinished_checksum();
        // 0a00 + 0001 + 0a00 + 0002 + protocol 6 + length 20, not complemented.
        assert_eq!(frame.bytes()[14 + 20 + 16..][..2], (0x0a00u16 + 1 + 0x0a00 + 2 + 6 + 20).to_be_bytes());
    }
}
