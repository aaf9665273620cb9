//! A packet explained: the maps are asked as they are, with the names that the cluster has for what they hold.

use std::net::IpAddr;

use mesh_common::family::{Family, V4, V6};

use crate::agent::member::Member;
use crate::api::{ApiError, ExplainQuery};
use crate::explain::{Asked, Explanation, Names, Tables, explain, prepare, words};
use crate::kernel::bpf::{BpfError, Lookups};

pub async fn explained(member: &Member, query: ExplainQuery) -> Result<Explanation, ApiError> {
    let (links, route) =
        member.kernel.ways(query.src, query.dst).await.map_err(|error| ApiError::internal(format!("{error:#}")))?;
    let query = ExplainQuery { names: Names { links, ..query.names }, ..query };
    match query.dst {
        IpAddr::V4(_) => in_family::<V4>(member, &query, route),
        IpAddr::V6(_) => in_family::<V6>(member, &query, route),
    }
}

/// The destination's family; the source must be of it, too.
fn in_family<F: Family>(member: &Member, query: &ExplainQuery, route: Option<u32>) -> Result<Explanation, ApiError>
where
    Lookups<F>: Tables<F>,
{
    let of_family = |addr: IpAddr| match (addr, query.dst) {
        (IpAddr::V4(addr), IpAddr::V4(_)) => Ok(F::from_16(addr.to_ipv6_mapped().octets())),
        (IpAddr::V6(addr), IpAddr::V6(_)) => Ok(F::from_16(addr.octets())),
        (addr, dst) => Err(ApiError::bad_request(format!(
            "no packet goes from {addr} to {dst}: one is IPv4 and the other IPv6; say the address of either family that is meant"
        ))),
    };
    let asked = Asked {
        src: query.src.map(of_family).transpose()?,
        own: query.own.map(of_family).transpose()?,
        sport: query.sport,
        dst: of_family(query.dst)?,
        dport: query.dport,
        protocol: query.protocol,
        is_later: query.is_later,
    };
    let failed = |error: BpfError| ApiError::internal(format!("the maps can't be read: {error}"));
    let tables = member.kernel.lookups::<F>().map_err(failed)?;
    let (question, before) = prepare::<F>(&asked, route, &tables, &query.names).map_err(ApiError::conflict)?;
    let outcome = explain(&question, &tables, &query.names);
    tables.check().map_err(failed)?;
    Ok(words(&question, before, outcome, &query.names, query.me))
}
