//! The difference between an expected frame and one that came, in words: header, field, expected, got.

use std::fmt::Write as _;

use crate::decode::{Layer, decode};
use crate::frame::Frame;

/// Payloads differ in one place as a rule; more bytes than this around it help nobody.
const SHOWN_BYTES: usize = 24;

/// How `got` differs from `wanted`; None where it does not. Fields said as `any()` are not compared, nor are lengths and the
/// payload where the payload may be anything.
pub fn differences(wanted: &Frame, got: &[u8]) -> Option<String> {
    let expected = decode(&wanted.bytes());
    let found = decode(got);
    let free = wildcards(wanted);
    let any_payload = free.iter().any(|(name, fields)| *name == "payload" && fields.contains(&"bytes"));
    let mut text = String::new();
    let places = expected.len().max(found.len());
    for place in 0..places {
        match (expected.get(place), found.get(place)) {
            (None, Some(layer)) if any_payload && layer.name == "payload" => {}
            (Some(layer), None) => line(&mut text, layer.name, "", "to be there", "nothing"),
            (None, Some(layer)) => line(&mut text, layer.name, "", "nothing", &summary(layer)),
            (Some(one), Some(other)) if one.name != other.name => {
                line(&mut text, one.name, "", &summary(one), &format!("{} {}", other.name, summary(other)));
            }
            (Some(one), Some(other)) => {
                let fields = free.iter().filter(|(name, _)| *name == one.name);
                // Tunnelled frames have two headers of a name: the wildcards of the n-th belong to the n-th.
                let nth = expected[..place].iter().filter(|layer| layer.name == one.name).count();
                let mut skipped = fields.clone().nth(nth).map(|(_, fields)| fields.clone()).unwrap_or_default();
                if any_payload {
                    skipped.push("length");
                }
                compare(one, other, &skipped, &mut text);
            }
            (None, None) => {}
        }
    }
    (!text.is_empty()).then(|| report(&text, &expected, &found, got))
}

/// Per layer with a counterpart in the decoded frame: its name there and its free fields.
fn wildcards(wanted: &Frame) -> Vec<(&'static str, Vec<&'static str>)> {
    use crate::layer::Layer as Said;
    let name = |layer: &Said| match layer {
        Said::Eth { .. } => "eth",
        Said::Vlan { .. } => "vlan",
        Said::Arp(_) => "arp",
        Said::Ipv4(_) => "ipv4",
        Said::Ipv6(_) => "ipv6",
        Said::Tcp(_) => "tcp",
        Said::Udp(_) => "udp",
        Said::Icmp(_) => "icmp",
        Said::Vxlan { .. } => "vxlan",
        Said::Payload { .. } | Said::Quoted { .. } => "payload",
    };
    wanted.layers.iter().map(|layer| (name(layer), layer.wildcards())).collect()
}

fn compare(wanted: &Layer, found: &Layer, skipped: &[&str], text: &mut String) {
    for ((field, expected), (_, got)) in wanted.fields.iter().zip(&found.fields) {
        if expected == got || skipped.contains(field) {
            continue;
        }
        if *field == "bytes" {
            bytes_line(text, wanted.name, expected, got);
        } else {
            line(text, wanted.name, field, expected, got);
        }
    }
}

fn line(text: &mut String, layer: &str, field: &str, expected: &str, got: &str) {
    let _ = writeln!(text, "  {layer:8} {field:18} expected {expected:28} got {got}");
}

/// From the first byte that differs.
fn bytes_line(text: &mut String, layer: &str, expected: &str, got: &str) {
    let (one, other): (Vec<&str>, Vec<&str>) = (expected.split(' ').collect(), got.split(' ').collect());
    let place = one.iter().zip(&other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
    let shown = |bytes: &[&str]| bytes.iter().skip(place).take(SHOWN_BYTES).copied().collect::<Vec<_>>().join(" ");
    line(text, layer, &format!("bytes from {place}"), &shown(&one), &shown(&other));
}

fn summary(layer: &Layer) -> String {
    let fields = layer.fields.iter().map(|(name, value)| {
        let shown: String = value.chars().take(SHOWN_BYTES * 3).collect();
        format!("{name}={shown}")
    });
    fields.collect::<Vec<_>>().join(" ")
}

fn report(differences: &str, expected: &[Layer], found: &[Layer], got: &[u8]) -> String {
    let names = |layers: &[Layer]| layers.iter().map(|layer| layer.name).collect::<Vec<_>>().join(" / ");
    let mut text =
        format!("frame is not as expected:\n{differences}expected {}\ngot      {}\n", names(expected), names(found));
    for layer in found {
        let _ = writeln!(text, "    {:8} {}", layer.name, summary(layer));
    }
    for (row, bytes) in got.chunks(16).take(16).enumerate() {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "    {:04x}  {hex}", row * 16);
    }
    text
}
