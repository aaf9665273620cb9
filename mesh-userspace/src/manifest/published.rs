//! `ports` of a service: short and long entries, mixed.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::errors::{Place, Problem};
use super::ports::{MAX_PORTS, ONE_PLACE, parse_address, parse_allow, parse_interface};
use super::reader::{Field, Reader};
use super::{keys, parse_protocol, parse_publish};
use crate::model::{PortSpec, Protocol, PublishMode, ServiceSpec};

pub(super) fn read(field: &Field, reader: &mut Reader) -> Result<Vec<PortSpec>, Problem> {
    let mut ports = Vec::new();
    for item in field.items()? {
        if item.is_map() {
            ports.extend(read_long(&item, reader)?);
        } else {
            ports.extend(reader.parsed(&item, parse_publish)?.unwrap_or_default());
        }
    }
    if ports.len() > MAX_PORTS {
        let told = format!("{} ports: {MAX_PORTS} are the most that a service can publish", ports.len());
        reader.problem(field.problem(told));
        ports.truncate(MAX_PORTS);
    }
    // The order in which they were written says nothing.
    ports.sort_by(|a: &PortSpec, b| a.order().cmp(&b.order()).then_with(|| a.allow.cmp(&b.allow)));
    Ok(ports)
}

fn read_long(item: &Field, reader: &mut Reader) -> Result<Option<PortSpec>, Problem> {
    let fields = reader.fields(item.tree, &item.path, keys::PORT)?;
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("'{text}' is not a port: 1 to 65535 are allowed")),
    };
    let target = match fields.get("target") {
        Some(field) => reader.parsed(field, port)?,
        None => {
            reader.problem(item.problem("'target' is missing: the port that tasks listen on"));
            None
        }
    };
    let address =
        fields.get("host_ip").map(|field| reader.parsed(field, parse_address)).transpose()?.flatten().flatten();
    let published = fields.get("published").map(|field| reader.parsed(field, port)).transpose()?.flatten();
    let protocol = fields.get("protocol").map(|field| reader.parsed(field, parse_protocol)).transpose()?.flatten();
    let (mut interface, mut allow) = (None, Vec::new());
    if let Some(field) = fields.get("x-mesh") {
        let fields = reader.fields(field.tree, &field.path, keys::PORT_X_MESH)?;
        interface = fields.get("interface").map(|field| reader.parsed(field, parse_interface)).transpose()?.flatten();
        allow = fields.get("allow").map(|field| read_allow(field, reader)).transpose()?.unwrap_or_default();
    }
    if address.is_some() && interface.is_some() {
        reader.problem(item.problem(ONE_PLACE));
    }
    let modes = [("ingress", PublishMode::Ingress), ("host", PublishMode::Host)];
    let mode = fields.get("mode").map(|field| reader.word(field, &modes)).transpose()?.flatten();
    Ok(target.map(|target| PortSpec {
        protocol: protocol.unwrap_or(Protocol::Tcp),
        target,
        published: published.unwrap_or(0),
        mode: mode.unwrap_or(PublishMode::Ingress),
        address,
        interface,
        allow,
    }))
}

/// A list of prefixes, or one.
pub(super) fn read_allow(field: &Field, reader: &mut Reader) -> Result<Vec<IpNet>, Problem> {
    if !field.is_list() {
        return Ok(reader.parsed(field, |text| parse_allow([text].into_iter()))?.unwrap_or_default());
    }
    let items = field.items()?;
    if items.is_empty() {
        reader.problem(field.problem("an empty list lets nobody in: leave 'allow' out, or name who may call"));
    }
    let words: Vec<&str> = items.iter().map(Field::text).collect::<Result<_, _>>()?;
    Ok(parse_allow(words.into_iter()).unwrap_or_else(|told| {
        reader.problem(field.problem(told));
        Vec::new()
    }))
}

/// A port of all nodes, or of one address, can belong to one service only.
pub(super) fn check(services: &[(Place, ServiceSpec)], reader: &mut Reader) {
    let mut owners: BTreeMap<(Protocol, u16), Vec<(&str, &PortSpec)>> = BTreeMap::new();
    for (place, spec) in services {
        for port in spec.ports.iter().filter(|port| port.published > 0) {
            let there = owners.entry((port.protocol, port.published)).or_default();
            // Two services may both publish it on the hosts of their own tasks: the scheduler keeps those apart.
            let is_apart = |name: &str, other: &PortSpec| {
                name != spec.name && other.mode == PublishMode::Host && port.mode == PublishMode::Host
            };
            if let Some((owner, _)) = there.iter().find(|(name, other)| port.meets(other) && !is_apart(name, other)) {
                let at = match port.place() {
                    (Some(addr), _) => format!(" of {addr}"),
                    (_, Some(interface)) => format!(" of {interface}"),
                    _ => String::new(),
                };
                let told = format!("port {}{at} is published by service '{owner}' already", port.published);
                reader.problem(Problem::new(*place, &format!("services.{}.ports", spec.name), told));
            }
            there.push((spec.name.as_str(), port));
        }
    }
}
