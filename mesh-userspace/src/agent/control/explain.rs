//! A packet explained: the maps are asked as they are, with the names that the cluster has for what they hold.

use std::net::IpAddr;

use mesh_common::family::{Family, V4};

use crate::agent::member::Member;
use crate::api::{ApiError, ExplainQuery};
use crate::explain::{Asked, Explanation, Names, explain, prepare, words};
use crate::kernel::bpf::BpfError;

pub async fn explained(member: &Member, query: ExplainQuery) -> Result<Explanation, ApiError> {
    let failed = |error: BpfError| ApiError::internal(format!("the maps can't be read: {error}"));
    let kernel = &member.kernel;
    let (links, route) =
        kernel.ways(query.src, query.dst).await.map_err(|error| ApiError::internal(format!("{error:#}")))?;
    let names = Names { links, ..query.names };
    let of_v4 = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => Ok(addr.octets().into()),
        IpAddr::V6(addr) => Err(ApiError::conflict(format!(
            "{addr}: the programs carry IPv6, but 'mesh explain' does not follow it yet; 'mesh flows' and 'mesh monitor' show it"
        ))),
    };
    let asked = Asked {
        src: query.src.map(of_v4).transpose()?,
        sport: query.sport,
        dst: of_v4(query.dst)?,
        dport: query.dport,
        protocol: query.protocol,
        is_later: query.is_later,
    };
    let tables = kernel.lookups::<V4>().map_err(failed)?;
    let (question, before) = prepare::<V4>(&asked, route, &tables, &names).map_err(ApiError::conflict)?;
    let outcome = explain(&question, &tables, &names);
    tables.check().map_err(failed)?;
    Ok(words(&question, before, outcome, &names, query.me))
}

/// The family that is asked about is the programs'.
const _: () = assert!(V4::ADDR_LEN == 4);
