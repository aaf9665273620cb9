//! Rows as a picture (SVG 1.1): a bar a row, its interval as a whisker, its target as a line across the bar.
//!
//! Rows with a ratio stand in one panel, around the line of 1; the others in a panel for each unit. Written by hand: a dozen
//! elements are no reason for a drawing library. Invariant: nothing but numbers of rows is drawn, and a missing row has no bar.

use super::row::Row;
use super::statistics::Summary;
use super::table::number;

const WIDTH: f64 = 1_320.0;
const LABELS: f64 = 640.0;
const BARS: f64 = 560.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 34.0;

/// What a panel shows of a row.
struct Bar<'a> {
    row: &'a Row,
    shown: Summary,
    target: Option<f64>,
}

/// The picture of one part; `line` says of which machine and when.
pub fn plot(title: &str, line: &str, rows: &[Row]) -> String {
    let ratios: Vec<Bar<'_>> = rows.iter().filter_map(|row| Some(bar(row, row.ratio?, true))).collect();
    let mut panels = vec![("ratio to the reference".to_owned(), ratios)];
    for row in rows.iter().filter(|row| row.ratio.is_none()) {
        let Some(value) = row.value else { continue };
        let (name, bar) = (row.unit.to_owned(), bar(row, value, false));
        match panels.iter_mut().find(|(panel, _)| *panel == name) {
            Some((_, bars)) => bars.push(bar),
            None => panels.push((name, vec![bar])),
        }
    }
    panels.retain(|(_, bars)| !bars.is_empty());
    let mut body = String::new();
    let mut y = 2.0 * HEAD;
    for (name, bars) in &panels {
        y += HEAD;
        body += &text(10.0, y - 10.0, "bold", name);
        body += &panel(&mut y, bars, name.starts_with("ratio"));
    }
    let height = y + LINE;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}{}{body}</svg>\n",
        text(10.0, 24.0, "bold", title),
        text(10.0, 46.0, "normal", line),
    )
}

fn bar(row: &Row, shown: Summary, is_ratio: bool) -> Bar<'_> {
    let target = row.target.filter(|target| target.is_of_ratio() == is_ratio).map(|target| target.bound());
    Bar { row, shown, target }
}

fn panel(y: &mut f64, bars: &[Bar<'_>], is_ratio: bool) -> String {
    let (far, one) =
        (|bar: &Bar<'_>| interval(&bar.shown).1.max(bar.target.unwrap_or(0.0)), if is_ratio { 1.0 } else { 0.0 });
    let most = bars.iter().map(far).fold(one, f64::max);
    let scale = if most > 0.0 { BARS / (most * 1.05) } else { 1.0 };
    let at = |value: f64| LABELS + value.max(0.0) * scale;
    let (top, mut body) = (*y, String::new());
    for bar in bars {
        let middle = *y + LINE / 2.0;
        let fill = match bar.row.judgement() {
            Some(judgement) if !judgement.sure => "#e0b040",
            Some(judgement) if judgement.met => "#4a9a5a",
            Some(_) => "#c0504d",
            None => "#7f9fbf",
        };
        body += &text(10.0, middle + 4.0, "normal", &bar.row.name);
        body += &format!(
            "<rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\n",
            *y + 3.0,
            at(bar.shown.median) - LABELS,
            LINE - 6.0
        );
        let (low, high) = interval(&bar.shown);
        body += &stroke((at(low), middle), (at(high), middle), "black");
        if let Some(target) = bar.target {
            body += &stroke((at(target), *y), (at(target), *y + LINE), "blue");
        }
        body += &text(at(high) + 6.0, middle + 4.0, "normal", &number(bar.shown.median));
        *y += LINE;
    }
    if is_ratio {
        body += &stroke((at(1.0), top), (at(1.0), *y), "grey");
    }
    body
}

/// The median's interval; of too few readings all that were seen.
fn interval(shown: &Summary) -> (f64, f64) {
    shown.interval.unwrap_or((shown.min, shown.max))
}

fn stroke(from: (f64, f64), to: (f64, f64), colour: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn text(x: f64, y: f64, weight: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-weight=\"{weight}\">{words}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::super::row::Target;
    use super::*;

    fn rows() -> Vec<Row> {
        let pairs: Vec<(f64, f64)> = (0..11).map(|n| (110.0 + f64::from(n), 100.0)).collect();
        vec![
            Row::pairs("a < b & c", "ns", "bare", &pairs).target(Target::RatioAtMost(1.25)),
            Row::alone("memory", "MiB", &[12.0]).target(Target::ValueAtMost(24.0)),
            Row::missing("gone", "ns", "no program"),
        ]
    }

    #[test]
    fn a_measured_row_has_a_bar_and_a_missing_one_has_none() {
        let picture = plot("micro", "a machine", &rows());
        // The ground and two bars; two whiskers, two targets and the line of 1.
        assert_eq!((picture.matches("<rect").count(), picture.matches("<line").count()), (3, 5));
        assert!(picture.contains("a &lt; b &amp; c") && !picture.contains("gone"), "{picture}");
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
    }

    #[test]
    fn a_target_stands_where_its_number_is_on_the_bars_scale() {
        let picture = plot("micro", "a machine", &rows());
        // The second panel: 24 is the farthest number, so it stands at 1/1.05 of the width, and the bar of 12 at half of that.
        let place = LABELS + BARS / 1.05;
        assert!(picture.contains(&format!("<line x1=\"{place:.1}\"")), "{picture}");
        assert!(picture.contains(&format!("width=\"{:.1}\"", (place - LABELS) / 2.0)), "{picture}");
    }

    #[test]
    fn no_rows_are_still_a_picture() {
        assert!(plot("micro", "a machine", &[]).ends_with("</svg>\n"));
    }
}
