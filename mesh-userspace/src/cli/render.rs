//! The one renderer: what a listing prints, as a table for people, JSON for programs, or ids.
//!
//! Tables are Docker's: upper-case headings, columns at least 10 wide, three spaces between them, no borders.
//! JSON is one array of objects whose values are the cells, under Docker's keys.

use clap::Args;
use serde_json::{Map, Value};

use super::Screen;
use super::fault::Fault;

/// Docker's tab writer: a cell with its gap is at least this wide…
const MIN_WIDTH: usize = 10;
/// …and the gap this.
const GAP: usize = 3;

/// How a listing is to look; flattened into every verb that lists.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Look {
    /// 'table', or 'json' for one JSON array
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Only ids, one a line
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
}

/// A Go template is refused with words.
pub(super) fn parse_format(word: &str) -> Result<Format, String> {
    match word {
        "table" => Ok(Format::Table),
        "json" | "{{json .}}" | "{{ json . }}" => Ok(Format::Json),
        template if template.contains("{{") => {
            Err("Go templates are not understood; take 'json' and pick fields with jq".into())
        }
        _ => Err("allowed are: table, json".into()),
    }
}

impl Look {
    pub(super) fn id(&self, id: &crate::model::Id) -> String {
        if self.no_trunc { id.to_string() } else { id.short().to_string() }
    }

    /// Nothing is to be cut.
    pub(super) fn is_whole(&self) -> bool {
        self.no_trunc
    }

    pub(super) fn show(&self, table: &Table, screen: &mut Screen) -> Result<(), Fault> {
        screen.print(match (self.quiet, self.format) {
            (true, _) => table.ids(),
            (false, Format::Json) => table.json(),
            (false, Format::Table) => table.text(),
        })
    }
}

/// A column's heading and its key in JSON.
type Column = (&'static str, &'static str);

pub(super) struct Table {
    columns: &'static [Column],
    rows: Vec<Row>,
}

struct Row {
    id: String,
    cells: Vec<String>,
    /// Keys that JSON alone has, or has otherwise.
    extra: Vec<(&'static str, Value)>,
}

impl Table {
    pub(super) fn new(columns: &'static [Column]) -> Self {
        Table { columns, rows: Vec::new() }
    }

    /// `id` is what `-q` shows.
    pub(super) fn row<const N: usize>(&mut self, id: String, cells: [String; N]) -> &mut Self {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(Row { id, cells: cells.into(), extra: Vec::new() });
        self
    }

    /// For the last row, in JSON.
    pub(super) fn json_only(&mut self, key: &'static str, value: impl Into<Value>) -> &mut Self {
        if let Some(row) = self.rows.last_mut() {
            row.extra.push((key, value.into()));
        }
        self
    }

    pub(super) fn text(&self) -> String {
        let headings: Vec<&str> = self.columns.iter().map(|(heading, _)| *heading).collect();
        let lines = std::iter::once(headings)
            .chain(self.rows.iter().map(|row| row.cells.iter().map(String::as_str).collect()))
            .collect::<Vec<Vec<&str>>>();
        let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0) + GAP;
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).max(MIN_WIDTH)).collect();
        let mut text = String::new();
        for cells in &lines {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}"));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn ids(&self) -> String {
        self.rows.iter().map(|row| format!("{}\n", row.id)).collect()
    }

    pub(super) fn json(&self) -> String {
        let objects = self.rows.iter().map(|row| {
            let cells = self.columns.iter().zip(&row.cells);
            let mut object: Map<String, Value> =
                cells.map(|((_, key), cell)| (key.to_string(), Value::from(cell.trim()))).collect();
            object.extend(row.extra.iter().map(|(key, value)| (key.to_string(), value.clone())));
            Value::from(object)
        });
        pretty(&objects.collect())
    }
}

/// JSON as `inspect` prints it: four spaces, a newline at the end.
pub(super) fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value is always writable to memory");
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_dockers() {
        let mut table = Table::new(&[("ID", "ID"), ("NAME", "Name"), ("PORTS", "Ports")]);
        table.row("1".into(), ["abababababab".into(), "web".into(), String::new()]).json_only("Self", true);
        assert_eq!(table.text(), "ID             NAME      PORTS\nabababababab   web\n");
        assert_eq!(table.ids(), "1\n");
        assert!(table.json().contains("\"Self\": true"), "{}", table.json());
    }

    #[test]
    fn a_go_template_is_refused_with_words() {
        let refused = parse_format("{{.ID}}").expect_err("a template");
        assert_eq!(refused, "Go templates are not understood; take 'json' and pick fields with jq");
    }
}
