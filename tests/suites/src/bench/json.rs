//! Rows for machines: one object a row, and the facts of the run.
//!
//! `value`, `reference`, `ratio` are medians; `low` and `high` enclose what is judged (the ratio, or the value where the target is one of
//! the value). A number that was not measured is null. Names of fields stay: tools compare runs by them.

use serde_json::{Value, json};

use super::machine::Machine;
use super::row::{Row, Target};

/// Everything of a run of one part.
pub fn record(part: &str, machine: &Machine, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows.iter().map(object).collect();
    json!({"part": part, "machine": machine.json(), "rows": rows})
}

/// One row.
pub fn object(row: &Row) -> Value {
    let judged = row.judged().or(row.value);
    let interval = judged.and_then(|judged| judged.interval);
    let judgement = row.judgement();
    json!({
        "name": row.name,
        "unit": row.unit,
        "value": row.value.map(|value| value.median),
        "min": row.value.map(|value| value.min),
        "max": row.value.map(|value| value.max),
        "readings": row.value.map_or(0, |value| value.count),
        "reference": row.reference.as_ref().map(|(_, summary)| summary.median),
        "reference_name": row.reference.as_ref().map(|(name, _)| name),
        "ratio": row.ratio.map(|ratio| ratio.median),
        "low": interval.map(|(low, _)| low),
        "high": interval.map(|(_, high)| high),
        "target": row.target.map(Target::bound),
        "target_is": row.target.map(words),
        "met": judgement.map(|judgement| judgement.met),
        "sure": judgement.map(|judgement| judgement.sure),
        "note": row.note,
    })
}

fn words(target: Target) -> &'static str {
    match target {
        Target::RatioAtMost(_) => "ratio at most",
        Target::RatioAtLeast(_) => "ratio at least",
        Target::ValueAtMost(_) => "value at most",
        Target::ValueAtLeast(_) => "value at least",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_object_with_the_promised_fields() {
        let pairs: Vec<(f64, f64)> = (0..11).map(|n| (90.0 + 2.0 * f64::from(n), 100.0)).collect();
        let object = object(&Row::pairs("forward", "ns", "bare", &pairs).target(Target::RatioAtMost(1.25)));
        let expected = json!({
            "name": "forward", "unit": "ns", "value": 100.0, "min": 90.0, "max": 110.0, "readings": 11,
            "reference": 100.0, "reference_name": "bare", "ratio": 1.0, "low": 0.92, "high": 1.08,
            "target": 1.25, "target_is": "ratio at most", "met": true, "sure": true, "note": null,
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let object = object(&Row::missing("forward", "ns", "no program").target(Target::ValueAtMost(60.0)));
        assert_eq!((&object["value"], &object["ratio"], &object["met"]), (&Value::Null, &Value::Null, &Value::Null));
        assert_eq!((&object["target"], &object["note"]), (&json!(60.0), &json!("no program")));
    }

    #[test]
    fn a_target_of_the_value_has_the_values_interval() {
        let pairs: Vec<(f64, f64)> = (0..11).map(|n| (50.0 + f64::from(n), 10.0)).collect();
        let object = object(&Row::pairs("forward", "ns", "bare", &pairs).target(Target::ValueAtMost(60.0)));
        assert_eq!((&object["low"], &object["high"], &object["met"]), (&json!(51.0), &json!(59.0), &json!(true)));
    }
}
