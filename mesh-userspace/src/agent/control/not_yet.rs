//! What a service or a network may ask for and this build does not do yet: refused in words, never forgotten in silence.

use crate::api::ApiError;
use crate::model::{NetworkSpec, Protocol, PublishMode, ServiceSpec};

/// The packet programs carry IPv4 alone so far.
pub fn refuse_ipv6(spec: &NetworkSpec) -> Result<(), ApiError> {
    if !spec.wants_ipv6() && spec.gateways.v6.is_none() {
        return Ok(());
    }
    let name = &spec.name;
    Err(ApiError::bad_request(format!(
        "network '{name}': IPv6 inside networks is not there yet: leave its subnets out"
    )))
}

/// What a spec may say and this build does not do yet is refused, not forgotten.
pub fn refuse_not_yet(spec: &ServiceSpec) -> Result<(), ApiError> {
    let refuse = |what: &str, instead: &str| {
        Err(ApiError::bad_request(format!("service '{}': {what} is not there yet: {instead}", spec.name)))
    };
    if spec.ports.iter().any(|port| port.mode == PublishMode::Host) {
        return refuse(
            "publishing with mode=host",
            "leave the mode out; tasks see their callers' own addresses all the same",
        );
    }
    if spec.ports.iter().any(|port| port.protocol == Protocol::Sctp) {
        return refuse("publishing an SCTP port", "publish TCP or UDP");
    }
    Ok(())
}
