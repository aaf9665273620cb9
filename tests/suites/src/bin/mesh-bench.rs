//! `mesh-bench PART... [--quick] [--long] [--only NAME] [--out FOLDER]`: measures, prints and writes, for `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::bench::{self, Machine, Row, Wish};

/// A part's measuring.
type Measure = fn(&Wish) -> Result<Vec<Row>>;

/// The parts, in the order of `all`.
const PARTS: [(&str, Measure); 3] =
    [("micro", bench::micro::rows), ("e2e", bench::e2e::rows), ("scale", bench::scale::rows)];

struct Options {
    parts: Vec<(&'static str, Measure)>,
    wish: Wish,
    out: Option<PathBuf>,
}

fn options(words: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { parts: Vec::new(), wish: Wish::default(), out: None };
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--quick" => options.wish.quick = true,
            "--long" => options.wish.long = true,
            "--only" => options.wish.only = Some(value()?),
            "--out" => options.out = Some(PathBuf::from(value()?)),
            "all" => options.parts.extend(PARTS),
            _ => match PARTS.iter().find(|(name, _)| *name == word) {
                Some(part) => options.parts.push(*part),
                None => bail!(
                    "there is no {word}: the parts are {} and all, the options --quick, --long, --only and --out",
                    PARTS.map(|(name, _)| name).join(", ")
                ),
            },
        }
    }
    ensure!(!options.parts.is_empty(), "name a part: {} or all", PARTS.map(|(name, _)| name).join(", "));
    Ok(options)
}

/// Measures a part, prints and writes it.
fn one(part: &str, measure: Measure, options: &Options) -> Result<()> {
    let machine = Machine::here()?;
    let rows = measure(&options.wish).with_context(|| format!("measuring {part}"))?;
    ensure!(!rows.is_empty(), "{part} has no row that --only asks for");
    println!("{}", bench::show(part, &machine, &rows));
    if let Some(folder) = &options.out {
        for path in bench::write(folder, part, &machine, &rows)? {
            println!("{}", path.display());
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = options(std::env::args().skip(1))?;
    let mut failed = Vec::new();
    // An hour of one part must not be lost by another's failure.
    for (part, measure) in &options.parts {
        if let Err(error) = one(part, *measure, &options) {
            eprintln!("{error:#}");
            failed.push(*part);
            if bench::e2e::is_interrupted() {
                break;
            }
        }
    }
    ensure!(failed.is_empty(), "not measured: {}; the reason stands above", failed.join(", "));
    Ok(())
}
