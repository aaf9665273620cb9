//! `mesh explain`: where a packet would go now, step by step as the programs decide it, and what to do where it would be dropped.

use clap::Args;
use serde_json::{Value, json};

use super::Screen;
use super::fault::Fault;
use super::render::{Format, parse_format, pretty};
use crate::api::{Client, ExplainRequest};
use crate::explain::Explanation;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Who sends: a task (client.1, its id), a service, a node, 'host', or an address; with ':PORT' if the source port matters
    #[arg(value_name = "SRC")]
    from: String,
    /// Who is called: a service, a task, a node, 'host', or an address; without a port an echo request is meant
    #[arg(value_name = "DST[:PORT][/PROTO]")]
    to: String,
    /// A later packet of a connection, not its first
    #[arg(long)]
    later: bool,
    /// 'table' for lines, or 'json' for one JSON array
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "table", hide_default_value = true)]
    format: Format,
}

pub(super) async fn run(flags: Explain, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let Explain { from, to, later, format } = flags;
    let explanation = client.explain(&ExplainRequest { from, to, later }).await?;
    screen.print(match format {
        Format::Table => text(&explanation),
        Format::Json => pretty(&json!([object(&explanation)])),
    })?;
    if explanation.is_delivered() { Ok(()) } else { Err(Fault::Exit(1)) }
}

fn text(it: &Explanation) -> String {
    let mut text = format!("{}\n", it.packet);
    let widest = |of: fn(&crate::explain::Step) -> &String| it.steps.iter().map(|step| of(step).chars().count()).max();
    let (hook, asked) = (widest(|step| &step.hook).unwrap_or(0), widest(|step| &step.asked).unwrap_or(0));
    for step in &it.steps {
        text += &format!("  {:hook$}  {:asked$}  {}\n", step.hook, step.asked, step.found);
    }
    text += &format!("→ {}\n", it.sentence);
    for (word, line) in [("rewritten", &it.rewritten), ("answers", &it.answers), ("what to do", &it.remedy)] {
        if !line.is_empty() {
            text += &format!("  {word}: {line}\n");
        }
    }
    text
}

fn object(it: &Explanation) -> Value {
    let steps: Vec<Value> =
        it.steps.iter().map(|step| json!({"Hook": step.hook, "Asked": step.asked, "Found": step.found})).collect();
    json!({
        "Packet": it.packet,
        "Steps": steps,
        "Verdict": it.verdict,
        "Sentence": it.sentence,
        "Task": it.task,
        "Node": it.node,
        "Way": it.way,
        "Rewritten": it.rewritten,
        "Answers": it.answers,
        "Reason": it.reason,
        "Remedy": it.remedy,
    })
}
