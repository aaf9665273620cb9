//! `environment` and `env_file` of a service: one list, by name, so that the order in which they were written says nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::errors::Problem;
use super::keys;
use super::reader::{Field, Reader};

/// `environment` wins over `env_file`, a later file over an earlier one, as Compose has it.
pub(super) fn read(
    environment: Option<&Field>,
    env_file: Option<&Field>,
    reader: &mut Reader,
) -> Result<Vec<String>, Problem> {
    let mut variables = BTreeMap::new();
    if let Some(field) = env_file {
        files(field, &mut variables, reader)?;
    }
    if let Some(field) = environment {
        direct(field, &mut variables, reader)?;
    }
    Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// A mapping, or a list of `K=V`. A key without a value has the one of the environment, or is left out.
fn direct(field: &Field, variables: &mut BTreeMap<String, String>, reader: &mut Reader) -> Result<(), Problem> {
    if field.is_list() {
        for item in field.items()? {
            let text = item.text()?;
            match text.split_once('=') {
                Some((name, value)) => drop(variables.insert(name.to_string(), value.to_string())),
                None => from_here(text, &item, variables, reader),
            }
        }
        return Ok(());
    }
    for (name, value) in reader.entries(field.tree, &field.path)? {
        match value.is_nothing() {
            true => from_here(name, &value, variables, reader),
            false => drop(variables.insert(name.to_string(), value.text()?.to_string())),
        }
    }
    Ok(())
}

fn from_here(name: &str, field: &Field, variables: &mut BTreeMap<String, String>, reader: &mut Reader) {
    match reader.variable(name) {
        Some(value) => drop(variables.insert(name.to_string(), value)),
        None => {
            // A value that a file gave stays gone: this says that it comes from here.
            variables.remove(name);
            reader.warn(field.key_problem(format!("the variable {name} is not set: it is left out")));
        }
    }
}

/// One path, or a list of paths and `{path:, required:}`.
fn files(field: &Field, variables: &mut BTreeMap<String, String>, reader: &mut Reader) -> Result<(), Problem> {
    if !field.is_list() {
        return file(field, field.text()?, true, variables, reader);
    }
    for item in field.items()? {
        if !item.is_map() {
            file(&item, item.text()?, true, variables, reader)?;
            continue;
        }
        let fields = reader.fields(item.tree, &item.path, keys::ENV_FILE)?;
        let required = fields.get("required").map(|field| reader.bool(field)).transpose()?.unwrap_or(true);
        match fields.get("path") {
            Some(path) => file(path, path.text()?, required, variables, reader)?,
            None => reader.problem(item.problem("'path' is missing")),
        }
    }
    Ok(())
}

fn file(
    field: &Field,
    path: &str,
    required: bool,
    variables: &mut BTreeMap<String, String>,
    reader: &mut Reader,
) -> Result<(), Problem> {
    let text = reader.around.path(path).and_then(|path| (reader.around.read)(Path::new(&path)));
    match text {
        Err(_) if !required => {}
        Err(told) => reader.problem(field.problem(format!("the file of variables can't be read: {told}"))),
        Ok(text) => match parse_env_file(&text, &|name| reader.variable(name)) {
            Ok(lines) => variables.extend(lines),
            Err(told) => reader.problem(field.problem(format!("{path}: {told}"))),
        },
    }
    Ok(())
}

/// The format of `docker service create --env-file`: `K=V` a line, taken as it stands; `K` alone has the value it has here;
/// `#` begins a comment line.
pub fn parse_env_file(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
        let name = if value.is_none() { name.trim_end() } else { name };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("line {}: '{name}' is no name of a variable: write NAME=VALUE", at + 1));
        }
        let value = value.map(str::to_string).or_else(|| variable(name));
        variables.extend(value.map(|value| (name.to_string(), value)));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_variables_are_dockers() {
        let here = |name: &str| (name == "HERE").then(|| "h".to_string());
        let text = "\u{feff}# said\n\nA=1\n  B='x' # y\nHERE\nGONE\nC=\nD=a=b\n";
        let lines = parse_env_file(text, &here).expect("well formed");
        let lines: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(lines, ["A=1", "B='x' # y", "HERE=h", "C=", "D=a=b"]);
        let told = parse_env_file("A=1\nB = 2\n", &here).expect_err("a blank in a name");
        assert_eq!(told, "line 2: 'B ' is no name of a variable: write NAME=VALUE");
    }
}
