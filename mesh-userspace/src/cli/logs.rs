//! `mesh logs`, `mesh service logs`: each line after the task and node it comes from.

use clap::Args;

use super::Screen;
use super::age;
use super::fault::Fault;
use crate::api::{Client, LogRequest};
use crate::manifest::parse_duration_ms;
use crate::model::LogStream;

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Go on with new lines until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines of each task ('all' for all)
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = parse_tail)]
    tail: Tail,
    /// Only lines younger than this (10m, 1h30m)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    since: Option<u64>,
    /// Each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Without the task's name before each line
    #[arg(long)]
    raw: bool,
    /// A service, or a task (whoami.1, or its id)
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

#[derive(Clone, Copy, Debug)]
struct Tail(Option<u32>);

fn parse_tail(word: &str) -> Result<Tail, String> {
    match word {
        "all" => Ok(Tail(None)),
        number => number.parse().map(|lines| Tail(Some(lines))).map_err(|_| "a number, or 'all'".to_string()),
    }
}

pub(super) async fn run(flags: Logs, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let since = match flags.since {
        None => None,
        // Counted back from the agent's clock, which stamped the lines.
        Some(back) => Some(client.status().await?.at.saturating_sub(back)),
    };
    let request = LogRequest { target: flags.target, follow: flags.follow, tail: flags.tail.0, since };
    let mut records = client.logs(&request).await?;
    let mut width = 0;
    while let Some(record) = records.recv().await {
        let record = record?;
        let mut text = String::new();
        if flags.timestamps {
            text.push_str(&format!("{} ", age::rfc3339(record.line.at)));
        }
        if !flags.raw {
            let name = format!("{}.{}@{}", record.task, record.line.task_id.short(), record.node);
            width = width.max(name.len());
            text.push_str(&format!("{name:<width$}    | "));
        }
        text.push_str(&record.line.text);
        match record.line.stream {
            LogStream::Stdout => screen.line(text)?,
            LogStream::Stderr => screen.remark(text),
        }
    }
    Ok(())
}
