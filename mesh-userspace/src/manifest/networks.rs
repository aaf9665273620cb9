//! The section `networks`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::errors::Problem;
use super::reader::{Field, Reader};
use super::{DeclaredNetwork, is_name, keys};
use crate::model::NetworkSpec;

pub(super) fn read(field: &Field, reader: &mut Reader) -> Result<BTreeMap<String, DeclaredNetwork>, Problem> {
    let mut networks = BTreeMap::new();
    for (short, network) in reader.entries(field.tree, &field.path)? {
        if !is_name(short) {
            let told = "this is no name for a network: letters, digits, '-', '_', beginning with a letter or digit";
            reader.problem(network.key_problem(told));
        }
        networks.insert(short.to_string(), read_network(short, &network, reader)?);
    }
    Ok(networks)
}

fn read_network(short: &str, network: &Field, reader: &mut Reader) -> Result<DeclaredNetwork, Problem> {
    let fields = reader.fields(network.tree, &network.path, keys::NETWORK)?;
    let name = fields.get("name").filter(|field| !field.is_nothing()).map(Field::text).transpose()?;
    if let Some(name) = external(&fields, short, name, reader)? {
        if matches!(name.as_str(), "host" | "bridge" | "none" | "ingress") {
            let told = format!("the network '{name}' is not one that services can be on; make one with driver overlay");
            reader.problem(network.key_problem(told));
        }
        return Ok(DeclaredNetwork::External { name });
    }
    let name = name.map(str::to_string);
    let mut spec = NetworkSpec::named(short);
    if let Some(field) = fields.get("driver") {
        reader.word(field, &[("overlay", ())])?;
    }
    for (key, place) in [
        ("internal", &mut spec.internal),
        ("attachable", &mut spec.attachable),
        ("enable_ipv4", &mut spec.ipv4),
        ("enable_ipv6", &mut spec.ipv6),
    ] {
        if let Some(field) = fields.get(key) {
            *place = reader.bool(field)?;
        }
    }
    if let Some(field) = fields.get("labels") {
        spec.labels = labels(field, reader)?;
    }
    if let Some(field) = fields.get("driver_opts") {
        for (key, option) in reader.entries(field.tree, &field.path)? {
            let value = if option.is_nothing() { "" } else { option.text()? };
            match key {
                "mtu" => spec.mtu = reader.parsed(&option, parse_mtu)?,
                "encrypted" if value != "false" => reader.problem(option.problem(
                    "encryption between nodes is not there yet, and without it the network could be read; take it out",
                )),
                "encrypted" => {}
                _ => {
                    reader.ignored(&option, "only mtu and encrypted say something; it is kept for 'network inspect'");
                    spec.options.insert(key.to_string(), value.to_string());
                }
            }
        }
    }
    if let Some(field) = fields.get("ipam") {
        ipam(field, &mut spec, reader)?;
    }
    if !spec.ipv4
        && let Some(field) = fields.get("enable_ipv4")
    {
        if spec.subnets.v4.is_some() {
            reader.problem(field.problem("the network has a subnet of IPv4; leave one of both out"));
        } else if !spec.wants_ipv6() {
            reader.problem(field.problem("without IPv4 a network needs enable_ipv6: true, or a subnet of IPv6"));
        }
    }
    Ok(DeclaredNetwork::Own { spec, name })
}

/// The full name of something that somebody else has made, if this is one; `external: {name: x}` is the old spelling.
pub(super) fn external(
    fields: &BTreeMap<&str, Field>,
    short: &str,
    name: Option<&str>,
    reader: &mut Reader,
) -> Result<Option<String>, Problem> {
    let Some(external) = fields.get("external") else { return Ok(None) };
    let (is_external, old_name) = if external.is_map() {
        let inner = reader.fields(external.tree, &external.path, keys::EXTERNAL)?;
        (true, inner.get("name").map(Field::text).transpose()?.map(str::to_string))
    } else {
        (reader.bool(external)?, None)
    };
    if !is_external {
        return Ok(None);
    }
    for (key, field) in fields.iter().filter(|(key, _)| !matches!(**key, "external" | "name")) {
        reader.ignored(field, &format!("'{short}' is external, so '{key}' was decided by who made it"));
    }
    Ok(Some(name.map(str::to_string).or(old_name).unwrap_or_else(|| short.to_string())))
}

fn parse_mtu(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(mtu) if (576..=65_535).contains(&mtu) => Ok(mtu),
        _ => Err(format!("'{text}' is not an MTU: 576 to 65535 are allowed")),
    }
}

fn ipam(field: &Field, spec: &mut NetworkSpec, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::IPAM)?;
    if let Some(field) = fields.get("driver")
        && field.text()? != "default"
    {
        reader.ignored(field, "addresses are handed out by mesh itself");
    }
    let configs = fields.get("config").map(Field::items).transpose()?.unwrap_or_default();
    for config in configs {
        let fields = reader.fields(config.tree, &config.path, keys::IPAM_CONFIG)?;
        let subnet = match fields.get("subnet") {
            Some(field) => reader.parsed(field, parse_subnet)?,
            None => None,
        };
        if let Some(subnet) = subnet {
            if spec.subnets.each().any(|other| other.addr().is_ipv4() == subnet.addr().is_ipv4()) {
                reader.problem(config.problem("a network has one subnet of each family"));
            }
            spec.subnets.set(subnet);
        }
        let Some(field) = fields.get("gateway") else { continue };
        let parse =
            |text: &str| text.parse::<IpAddr>().map_err(|_| format!("'{text}' is not an address: write e.g. 10.1.0.1"));
        let Some(gateway) = reader.parsed(field, parse)? else { continue };
        spec.gateways.set(gateway);
        if let Some(subnet) = subnet.filter(|subnet| !subnet.contains(&gateway)) {
            reader.problem(field.problem(format!("{gateway} is not in the subnet {subnet}")));
        }
    }
    Ok(())
}

fn parse_subnet(text: &str) -> Result<IpNet, String> {
    let subnet: IpNet =
        text.parse().map_err(|_| format!("'{text}' is not a subnet: write e.g. 10.1.0.0/20 or fd00:1::/64"))?;
    if subnet.trunc() == subnet {
        Ok(subnet)
    } else {
        Err(format!("'{text}' has bits set behind the prefix; did you mean {}?", subnet.trunc()))
    }
}

/// A mapping, or a list of `K=V`.
pub(super) fn labels(field: &Field, reader: &mut Reader) -> Result<BTreeMap<String, String>, Problem> {
    if field.is_list() {
        let pair = |item: &Field| {
            let (key, value) = item.text()?.split_once('=').unwrap_or((item.text()?, ""));
            Ok((key.to_string(), value.to_string()))
        };
        return field.items()?.iter().map(pair).collect();
    }
    let entries = reader.entries(field.tree, &field.path)?;
    let pair = |(key, value): &(&str, Field)| {
        let text = if value.is_nothing() { "" } else { value.text()? };
        Ok((key.to_string(), text.to_string()))
    };
    entries.iter().map(pair).collect()
}
