//! What a service may ask for and this build does not do yet: refused in words, never forgotten in silence.

use crate::api::ApiError;
use crate::model::{Protocol, PublishMode, ServiceSpec};

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
