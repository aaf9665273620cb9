//! Rows as text: what `cargo xtask bench` prints, and the same as a page of Markdown.
//!
//! Columns are as wide as their widest cell, counted in characters. Invariant: every row of the run is a line, missing ones with
//! their reason.

use super::row::{Row, Target};

const HEAD: [&str; 9] = ["WHAT", "MIN", "MEDIAN", "MAX", "UNIT", "BESIDE", "RATIO", "TARGET", "MET"];
/// Columns that are read from the left; the others are numbers.
const LEFT: [usize; 3] = [0, 4, 8];

/// The table of one part.
pub fn table(title: &str, rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = format!("{title}\n");
    for (line, note) in lines.iter().zip(std::iter::once(&None).chain(rows.iter().map(|row| &row.note))) {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let gap = " ".repeat(width - cell.chars().count());
            if LEFT.contains(&column) { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text += &note.as_ref().map(|note| format!("  ({note})")).unwrap_or_default();
        text += "\n";
    }
    text + &summary(rows) + "\n"
}

/// The table of one part in Markdown, for docs/performance.md and for whoever compares two runs.
pub fn page(title: &str, rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("{title}\n\n");
    text += &line(HEAD.iter().map(|head| head.to_lowercase()).chain(["note".to_owned()]).collect());
    text += &line(vec!["---".to_owned(); HEAD.len() + 1]);
    for row in rows {
        let note = row.note.clone().unwrap_or_default();
        text += &line(cells(row).into_iter().chain([note]).map(|cell| cell.replace('|', "\\|")).collect());
    }
    text + "\n" + &summary(rows) + "\n"
}

fn cells(row: &Row) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let ratio = row.ratio.map(|ratio| match ratio.interval {
        Some((low, high)) => format!("{:.2} [{low:.2}, {high:.2}]", ratio.median),
        None => format!("{:.2}", ratio.median),
    });
    let met = row.judgement().map(|judgement| {
        let word = if judgement.met { "yes" } else { "no" };
        format!("{word}{}", if judgement.sure { "" } else { "?" })
    });
    vec![
        row.name.clone(),
        or_dash(row.value.map(|value| number(value.min))),
        or_dash(row.value.map(|value| number(value.median))),
        or_dash(row.value.map(|value| number(value.max))),
        row.unit.to_owned(),
        or_dash(row.reference.as_ref().map(|(name, summary)| format!("{} {name}", number(summary.median)))),
        or_dash(ratio),
        or_dash(row.target.map(target)),
        or_dash(met),
    ]
}

/// A target as the table has it.
pub fn target(target: Target) -> String {
    let sign = if target.is_at_most() { '≤' } else { '≥' };
    let of = if target.is_of_ratio() { "×" } else { "" };
    format!("{sign} {}{of}", number(target.bound()))
}

/// Three digits that matter; whole numbers from 100.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        _ => {
            let text = format!("{value:.2}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            if text == "-0" { "0".to_owned() } else { text.to_owned() }
        }
    }
}

fn summary(rows: &[Row]) -> String {
    let judged: Vec<_> = rows.iter().filter_map(Row::judgement).collect();
    let aimed = rows.iter().filter(|row| row.target.is_some()).count();
    let met = judged.iter().filter(|judgement| judgement.met).count();
    let unsure = judged.iter().filter(|judgement| !judgement.sure).count();
    format!("{met} of {aimed} targets met, {unsure} not surely (?), {} not measured", aimed - judged.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_line_and_a_missing_one_says_why() {
        let pairs: Vec<(f64, f64)> = (0..11).map(|n| (80.0 + f64::from(n), 73.0)).collect();
        let rows = [
            Row::pairs("forward", "ns", "bare", &pairs).target(Target::RatioAtMost(1.25)),
            Row::missing("new flow", "ns", "no program xdp_uplink").target(Target::ValueAtMost(400.0)),
        ];
        let expected = "\
micro
WHAT      MIN  MEDIAN  MAX  UNIT   BESIDE              RATIO   TARGET  MET
forward    80      85   90  ns    73 bare  1.16 [1.11, 1.22]  ≤ 1.25×  yes
new flow    -       -    -  ns          -                  -    ≤ 400  -  (no program xdp_uplink)
1 of 2 targets met, 0 not surely (?), 1 not measured
";
        assert_eq!(table("micro", &rows), expected);
        let expected = "\
# micro

| what | min | median | max | unit | beside | ratio | target | met | note |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| forward | 80 | 85 | 90 | ns | 73 bare | 1.16 [1.11, 1.22] | ≤ 1.25× | yes |  |
| new flow | - | - | - | ns | - | - | ≤ 400 | - | no program xdp_uplink |

1 of 2 targets met, 0 not surely (?), 1 not measured
";
        assert_eq!(page("# micro", &rows), expected);
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let shown = [0.0, -0.001, 1.25, 9.999, 42.5, 73.0, 99.97, 638.4, 99_867.0].map(number);
        assert_eq!(shown, ["0", "0", "1.25", "10", "42.5", "73", "100", "638", "99867"]);
    }
}
