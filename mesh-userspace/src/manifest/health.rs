//! `healthcheck` of a service.

use super::errors::Problem;
use super::reader::{Field, Reader};
use super::{keys, parse_duration_ms};
use crate::model::HealthCheck;

pub(super) fn read(field: &Field, reader: &mut Reader) -> Result<Option<HealthCheck>, Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::HEALTH)?;
    let mut duration = |key: &str, default: u64| -> Result<u64, Problem> {
        let read = fields.get(key).map(|field| reader.parsed(field, parse_duration_ms)).transpose()?;
        Ok(read.flatten().unwrap_or(default))
    };
    // Docker's defaults.
    let (interval_ms, timeout_ms) = (duration("interval", 30_000)?, duration("timeout", 30_000)?);
    let (start_period_ms, start_interval_ms) = (duration("start_period", 0)?, duration("start_interval", 5_000)?);
    let retries = fields.get("retries").map(|field| reader.number(field)).transpose()?.flatten().unwrap_or(3);
    if let Some(field) = fields.get("disable")
        && reader.bool(field)?
    {
        return Ok(Some(HealthCheck::disabled()));
    }
    let Some(test) = fields.get("test") else {
        reader.problem(field.problem("'test' is missing: the command that says whether a task is healthy"));
        return Ok(None);
    };
    let command = command(test, reader)?;
    let timed =
        HealthCheck { command: Vec::new(), interval_ms, timeout_ms, retries, start_period_ms, start_interval_ms };
    Ok(command.map(|command| match command.is_empty() {
        true => HealthCheck::disabled(),
        false => HealthCheck { command, ..timed },
    }))
}

/// A string is for the shell; a list begins with CMD, CMD-SHELL or NONE, which is no command.
fn command(test: &Field, reader: &mut Reader) -> Result<Option<Vec<String>>, Problem> {
    let shell = |line: &str| Some(vec!["/bin/sh".to_string(), "-c".to_string(), line.to_string()]);
    if !test.is_list() {
        return Ok(shell(test.text()?));
    }
    let words: Result<Vec<&str>, Problem> = test.items()?.iter().map(Field::text).collect();
    match words?.as_slice() {
        ["NONE"] => Ok(Some(Vec::new())),
        ["CMD", command @ ..] if !command.is_empty() => Ok(Some(command.iter().map(|word| word.to_string()).collect())),
        ["CMD-SHELL", line] => Ok(shell(line)),
        _ => {
            reader
                .problem(test.problem("a list begins with CMD and a command, CMD-SHELL and one string, or is [NONE]"));
            Ok(None)
        }
    }
}
