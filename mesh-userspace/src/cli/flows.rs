//! `mesh flows`: this node's flow table as it is walked, or in numbers.
//!
//! Rows are printed as they come, so that a million of them need neither memory nor patience: columns are as wide as what was seen so far.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Screen;
use super::fault::Fault;
use super::render::{Format, Table, parse_format, pretty};
use crate::api::{Client, FlowRequest, FlowRow, FlowState, FlowSummary};

#[derive(Debug, Args)]
pub(super) struct Flows {
    /// Only flows to or from the tasks of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only flows to or from this task (whoami.1, or its id)
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Only flows in this state
    #[arg(long, value_name = "STATE")]
    state: Option<StateWord>,
    /// Entries of answers as well, which otherwise stand with their calls
    #[arg(short, long)]
    all: bool,
    /// No more than N flows
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// How full the table is, and with what
    #[arg(long, conflicts_with_all = ["service", "task", "state", "all", "limit"])]
    summary: bool,
    /// 'table', or 'json' for one JSON array
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "table", hide_default_value = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateWord {
    /// Not answered so far
    Opening,
    Established,
    /// TCP: a FIN or RST was seen
    Closing,
    /// Its task is gone: the next packet is refused
    Dead,
}

impl From<StateWord> for FlowState {
    fn from(word: StateWord) -> Self {
        match word {
            StateWord::Opening => FlowState::Opening,
            StateWord::Established => FlowState::Established,
            StateWord::Closing => FlowState::Closing,
            StateWord::Dead => FlowState::Dead,
        }
    }
}

/// Rows that are printed at once.
const PIECE: usize = 256;

pub(super) async fn run(flags: Flows, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    if flags.summary {
        return summary(&client.flow_summary().await?, flags.format, screen);
    }
    let request = FlowRequest {
        service: flags.service,
        task: flags.task,
        state: flags.state.map(FlowState::from),
        replies: flags.all,
        limit: flags.limit,
    };
    let mut rows = client.flows(&request).await?;
    let mut printer = Printer::new(flags.format);
    let mut piece = Vec::with_capacity(PIECE);
    while rows.recv_many(&mut piece, PIECE).await != 0 {
        let mut text = String::new();
        for row in piece.drain(..) {
            match row {
                Ok(row) => printer.add(&row, &mut text),
                Err(error) => {
                    screen.print(text)?;
                    return Err(error.into());
                }
            }
        }
        screen.print(text)?;
    }
    screen.print(printer.end())
}

/// Headings and keys.
const COLUMNS: [(&str, &str); 10] = [
    ("PROTO", "Protocol"),
    ("SOURCE", "Source"),
    ("DESTINATION", "Destination"),
    ("SERVICE", "Service"),
    ("TASK", "Task"),
    ("NODE", "Node"),
    ("STATE", "State"),
    ("SILENT", "Silent"),
    ("PACKETS", "Packets"),
    ("BYTES", "Bytes"),
];

/// Text of one row after the other.
struct Printer {
    format: Format,
    /// Columns of the table so far.
    widths: [usize; COLUMNS.len()],
    count: usize,
}

impl Printer {
    fn new(format: Format) -> Self {
        // An address and a port are seldom longer, and seldom much shorter.
        let widths = [5, 19, 19, 10, 12, 8, 11, 6, 7, 5];
        Printer { format, widths, count: 0 }
    }

    fn add(&mut self, row: &FlowRow, text: &mut String) {
        self.count += 1;
        match self.format {
            Format::Table => {
                if self.count == 1 {
                    self.line(COLUMNS.map(|(heading, _)| heading.to_string()), text);
                }
                self.line(cells(row), text);
            }
            Format::Json => {
                text.push_str(if self.count == 1 { "[\n" } else { ",\n" });
                text.push_str(&object(row).to_string());
            }
        }
    }

    fn line(&mut self, cells: [String; COLUMNS.len()], text: &mut String) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            *width = (*width).max(cell.chars().count());
            line.push_str(&format!("{cell:<width$}   ", width = *width));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }

    /// What stands after the last row.
    fn end(&mut self) -> String {
        let mut text = String::new();
        match (self.format, self.count) {
            (Format::Table, 0) => self.line(COLUMNS.map(|(heading, _)| heading.to_string()), &mut text),
            (Format::Table, _) => {}
            (Format::Json, 0) => text.push_str("[]\n"),
            (Format::Json, _) => text.push_str("\n]\n"),
        }
        text
    }
}

fn cells(row: &FlowRow) -> [String; COLUMNS.len()] {
    let state = if row.is_beside { format!("{} (overflow)", row.state.name()) } else { row.state.name().to_string() };
    [
        row.protocol.clone(),
        row.source.to_string(),
        row.destination.to_string(),
        row.service.clone(),
        row.task.clone(),
        row.node.clone(),
        state,
        silence(row.silent_s),
        row.packets.to_string(),
        row.bytes.to_string(),
    ]
}

fn object(row: &FlowRow) -> Value {
    json!({
        "Protocol": row.protocol,
        "Source": row.source.to_string(),
        "Destination": row.destination.to_string(),
        "Service": row.service,
        "Task": row.task,
        "TaskID": row.task_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        "Node": row.node,
        "State": row.state.name(),
        "Reply": row.is_reply,
        "Overflow": row.is_beside,
        "Silent": row.silent_s,
        "Packets": row.packets,
        "Bytes": row.bytes,
    })
}

/// Short, for there are many: `8s`, `5m`, `3h`, `2d`.
fn silence(seconds: u32) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn summary(summary: &FlowSummary, format: Format, screen: &mut Screen<'_>) -> Result<(), Fault> {
    if format == Format::Json {
        let states = |counts: &std::collections::BTreeMap<FlowState, u64>| -> Value {
            counts.iter().map(|(state, count)| (state.name().to_string(), Value::from(*count))).collect()
        };
        let entries: Value = summary.entries.iter().map(|(name, counts)| (name.clone(), states(counts))).collect();
        return screen.print(pretty(&json!([{
            "Used": summary.ipv4.used,
            "Size": summary.ipv4.size,
            "OverflowUsed": summary.ipv4.overflow_used,
            "OverflowSize": summary.ipv4.overflow_size,
            "Used6": summary.ipv6.used,
            "Size6": summary.ipv6.size,
            "OverflowUsed6": summary.ipv6.overflow_used,
            "OverflowSize6": summary.ipv6.overflow_size,
            "GaveWay": summary.gave_way,
            "DropsTableFull": summary.drops_table_full,
            "Entries": entries,
        }])));
    }
    let percent = |used: u64, size: u64| used as f64 * 100.0 / size.max(1) as f64;
    let fill = |used, size| format!("{used} of {size} entries, {:.1} %", percent(used, size));
    for (family, table) in [("IPv4", &summary.ipv4), ("IPv6", &summary.ipv6)] {
        screen.line(format!("{family}:       {}", fill(table.used, table.size)))?;
        screen.line(format!("  overflow: {}", fill(table.overflow_used, table.overflow_size)))?;
    }
    screen.line(format!("Gave way:   {} entries since the agent began", summary.gave_way))?;
    screen.line(format!("No room:    {} packets dropped", summary.drops_table_full))?;
    screen.line("")?;
    let mut table = Table::new(&[
        ("PROTO", "Protocol"),
        ("ENTRIES", "Entries"),
        ("OPENING", "Opening"),
        ("ESTABLISHED", "Established"),
        ("CLOSING", "Closing"),
        ("DEAD", "Dead"),
    ]);
    for (protocol, counts) in &summary.entries {
        let of = |state| counts.get(&state).copied().unwrap_or(0).to_string();
        let cells = [
            protocol.clone(),
            counts.values().sum::<u64>().to_string(),
            of(FlowState::Opening),
            of(FlowState::Established),
            of(FlowState::Closing),
            of(FlowState::Dead),
        ];
        table.row(protocol.clone(), cells);
    }
    screen.print(table.text())
}
