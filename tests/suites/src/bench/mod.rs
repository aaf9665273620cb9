//! The benchmark behind `cargo xtask bench`: parts that measure, and the frame that judges and shows what they measured.
//!
//! A part makes [`Row`]s (`row.rs`); what a series of readings says is `statistics.rs`' alone; `table.rs`, `json.rs` and `plot.rs` show
//! rows, `machine.rs` says where they come from. Invariant: value and reference of a row are read in turns (A B A B), so that a noisy
//! machine harms both alike, and their ratio is judged pair by pair. No test asserts a time.

pub mod e2e;
mod json;
mod machine;
pub mod micro;
mod plot;
mod row;
pub mod scale;
mod statistics;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use machine::{Machine, stay_on_last_cpu};
pub use row::{Judgement, Row, Target};
pub use statistics::{PAIRS, Summary, ratio};

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Fewer and shorter readings: does it work, not how fast is it.
    pub quick: bool,
    /// Also what takes ten minutes and more.
    pub long: bool,
    /// Only rows whose name contains this.
    pub only: Option<String>,
}

impl Wish {
    /// A row of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}

/// The text for people.
pub fn show(part: &str, machine: &Machine, rows: &[Row]) -> String {
    table::table(&format!("{part}: {}", machine.line()), rows)
}

/// Writes `PART.json`, `PART.md` and `PART.svg` of this run into a folder; the last run's are replaced.
pub fn write(folder: &Path, part: &str, machine: &Machine, rows: &[Row]) -> Result<[PathBuf; 3]> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let paths = ["json", "md", "svg"].map(|ending| folder.join(format!("{part}.{ending}")));
    let record = serde_json::to_string_pretty(&json::record(part, machine, rows))? + "\n";
    let page = table::page(&format!("# {part}\n\n{}", machine.line()), rows);
    for (path, text) in paths.iter().zip([record, page, plot::plot(part, &machine.line(), rows)]) {
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(paths)
}
