//! Placement constraints: `node.role == manager`, `node.labels.zone != b`, `node.ip == 10.1.0.0/16`.
//!
//! Parsed when a service is created, so that a wrong one is refused with words, and again by the scheduler. Values compare
//! without regard to case, as Swarm has it.

use ipnet::IpNet;

use crate::model::{Node, Role};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Id,
    Hostname,
    Ip,
    Role,
    /// `linux` everywhere: mesh runs on nothing else.
    Os,
    Label(String),
}

/// One parsed constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    key: Key,
    equal: bool,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    #[error("constraint '{0}' has neither == nor !=: write for example node.role==manager")]
    NoOperator(String),
    #[error(
        "constraint '{text}' asks for '{key}', which nodes don't have: use node.id, node.hostname, node.ip, node.role, node.platform.os or node.labels.NAME"
    )]
    UnknownKey { text: String, key: String },
    #[error("constraint '{0}' compares with nothing: write a value after the operator")]
    NoValue(String),
    #[error("constraint '{0}' compares node.ip with something that is neither an address nor a prefix")]
    BadAddress(String),
    #[error("constraint '{0}' compares node.role with something else than manager or worker")]
    BadRole(String),
}

impl Constraint {
    /// Reads one constraint as the user writes it.
    pub fn parse(text: &str) -> Result<Self, ConstraintError> {
        let own = || text.to_string();
        let (key, equal, value) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((key, value)), None) => (key, true, value),
            (None, Some((key, value))) => (key, false, value),
            (Some((key, value)), Some((other, _))) if key.len() < other.len() => (key, true, value),
            (Some(_), Some((key, value))) => (key, false, value),
            (None, None) => return Err(ConstraintError::NoOperator(own())),
        };
        let (key, value) = (key.trim(), value.trim().to_string());
        if value.is_empty() {
            return Err(ConstraintError::NoValue(own()));
        }
        let key = match key {
            "node.id" => Key::Id,
            "node.hostname" => Key::Hostname,
            "node.ip" if prefix(&value).is_none() => return Err(ConstraintError::BadAddress(own())),
            "node.ip" => Key::Ip,
            "node.role" if !["manager", "worker"].contains(&value.to_lowercase().as_str()) => {
                return Err(ConstraintError::BadRole(own()));
            }
            "node.role" => Key::Role,
            "node.platform.os" => Key::Os,
            other => match other.strip_prefix("node.labels.") {
                Some(label) if !label.is_empty() => Key::Label(label.to_string()),
                _ => return Err(ConstraintError::UnknownKey { text: own(), key: other.to_string() }),
            },
        };
        Ok(Constraint { key, equal, value })
    }

    /// Whether tasks under this constraint may run on the node.
    pub fn allows(&self, node: &Node) -> bool {
        let same = |actual: &str| actual.eq_ignore_ascii_case(&self.value);
        let matches = match &self.key {
            Key::Id => same(node.id.as_str()),
            Key::Hostname => same(&node.name),
            Key::Ip => prefix(&self.value).is_some_and(|prefix| prefix.contains(&node.advertise_addr)),
            Key::Role => same(match node.role {
                Role::Manager => "manager",
                Role::Worker => "worker",
            }),
            Key::Os => same("linux"),
            Key::Label(name) => same(node.labels.get(name).map_or("", String::as_str)),
        };
        matches == self.equal
    }
}

/// An address is the prefix of itself alone.
fn prefix(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world::node;

    fn allows(text: &str) -> bool {
        let mut node = node(2);
        node.labels.insert("zone".into(), "b".into());
        Constraint::parse(text).unwrap_or_else(|error| panic!("{error}")).allows(&node)
    }

    #[test]
    fn constraints_compare_what_a_node_is() {
        for yes in [
            "node.hostname==n2",
            "node.hostname != n1",
            "node.role == Worker",
            "node.labels.zone==B",
            "node.labels.rack!=1",
            "node.ip==192.0.2.2",
            "node.ip == 192.0.2.0/24",
            "node.id!=abc",
            "node.platform.os == Linux",
        ] {
            assert!(allows(yes), "{yes}");
        }
        for no in [
            "node.role==manager",
            "node.labels.zone!=b",
            "node.labels.rack==1",
            "node.ip!=192.0.2.0/24",
            "node.platform.os==windows",
        ] {
            assert!(!allows(no), "{no}");
        }
    }

    #[test]
    fn a_constraint_that_can_not_be_meant_is_refused() {
        for wrong in
            ["node.role=manager", "engine.x==1", "node.labels.==1", "node.ip==here", "node.role==boss", "node.id=="]
        {
            assert!(Constraint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
