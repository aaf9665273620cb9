//! `mesh monitor`: packets' verdicts as they happen, until interrupted.

use clap::Args;
use serde_json::json;

use super::Screen;
use super::fault::Fault;
use super::render::{Format, parse_format};
use crate::api::{Client, MonitorRequest, MonitorRow};

#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// Drops alone
    #[arg(long, conflicts_with = "sample")]
    drops: bool,
    /// Only packets to or from the tasks of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only packets to or from this task (whoami.1, or its id)
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Besides drops the verdict on each Nth packet that a CPU sees
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// End after COUNT packets
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// 'table', or 'json' for one JSON object a line
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "table", hide_default_value = true)]
    format: Format,
}

pub(super) async fn run(flags: Monitor, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let request =
        MonitorRequest { service: flags.service, task: flags.task, sample: if flags.drops { 0 } else { flags.sample } };
    let mut rows = client.monitor(&request).await?;
    let mut left = flags.count.unwrap_or(u64::MAX);
    while left != 0
        && let Some(row) = rows.recv().await
    {
        let row = row?;
        if row.lost != 0 {
            screen.remark(format!("{} events lost: more than could be told or read", row.lost));
            continue;
        }
        screen.line(match flags.format {
            Format::Table => line(&row),
            Format::Json => object(&row),
        })?;
        left -= 1;
    }
    Ok(())
}

fn line(row: &MonitorRow) -> String {
    let verdict = if row.reason.is_empty() { row.verdict.clone() } else { format!("dropped {}", row.reason) };
    let named = |addr: &str, name: &str| if name.is_empty() { addr.to_string() } else { format!("{addr} ({name})") };
    let node = if row.node.is_empty() { String::new() } else { format!(" on {}", row.node) };
    let flags = if row.flags.is_empty() { String::new() } else { format!(" [{}]", row.flags) };
    format!(
        "{}  {:12}  {:24}  {} {} → {}{node}{flags}, {} bytes",
        super::age::rfc3339(row.at).get(11..23).unwrap_or_default(),
        row.hook,
        verdict,
        row.protocol,
        named(&row.source, &row.from),
        named(&row.destination, &row.to),
        row.bytes
    )
}

fn object(row: &MonitorRow) -> String {
    json!({
        "Time": super::age::rfc3339(row.at),
        "Hook": row.hook,
        "Verdict": row.verdict,
        "Reason": row.reason,
        "Protocol": row.protocol,
        "Source": row.source,
        "Destination": row.destination,
        "Flags": row.flags,
        "Bytes": row.bytes,
        "From": row.from,
        "To": row.to,
        "Service": row.service,
        "Node": row.node,
    })
    .to_string()
}
