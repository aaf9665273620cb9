//! `deploy` of a service.

use super::container::parse_pids;
use super::errors::Problem;
use super::reader::{Field, Reader};
use super::{keys, parse_bytes, parse_duration_ms, parse_nano_cpus};
use crate::model::{
    EndpointMode, Mode, RestartCondition, RestartPolicy, ServiceSpec, UpdateConfig, UpdateFailureAction, UpdateOrder,
};

/// Puts a value where one was given and could be read.
macro_rules! take {
    ($fields:ident, $key:literal, $place:expr, |$field:ident| $read:expr) => {
        if let Some($field) = $fields.get($key)
            && let Some(value) = $read?
        {
            $place = value;
        }
    };
}

pub(super) fn read(field: &Field, spec: &mut ServiceSpec, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::DEPLOY)?;
    let modes = [("replicated", Mode::Replicated { replicas: 1 }), ("global", Mode::Global)];
    match fields.get("mode") {
        Some(field) if matches!(field.text()?, "replicated-job" | "global-job") => {
            reader.problem(field.problem("jobs are not there yet; allowed are: replicated, global"));
        }
        _ => take!(fields, "mode", spec.mode, |field| reader.word(field, &modes)),
    }
    if let Some(field) = fields.get("replicas") {
        match (reader.number(field)?, spec.mode) {
            (_, Mode::Global) => reader.problem(field.problem("a global service has one task on each node")),
            (Some(replicas), _) => spec.mode = Mode::Replicated { replicas },
            (None, _) => {}
        }
    }
    let endpoint_modes = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
    take!(fields, "endpoint_mode", spec.endpoint_mode, |field| reader.word(field, &endpoint_modes));
    if let Some(field) = fields.get("labels") {
        spec.labels = super::networks::labels(field, reader)?;
    }
    if let Some(field) = fields.get("placement") {
        placement(field, spec, reader)?;
    }
    if let Some(field) = fields.get("restart_policy") {
        restart(field, &mut spec.task.restart, reader)?;
    }
    if let Some(field) = fields.get("update_config") {
        update(field, &mut spec.update, true, reader)?;
    }
    if let Some(field) = fields.get("rollback_config") {
        update(field, &mut spec.rollback, false, reader)?;
    }
    if let Some(field) = fields.get("resources") {
        resources(field, spec, reader)?;
    }
    Ok(())
}

fn placement(field: &Field, spec: &mut ServiceSpec, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::PLACEMENT)?;
    take!(fields, "max_replicas_per_node", spec.task.max_replicas_per_node, |field| reader.number(field));
    for item in fields.get("constraints").map(Field::items).transpose()?.unwrap_or_default() {
        let text = item.text()?;
        if !text.contains("==") && !text.contains("!=") {
            reader.problem(item.problem(format!("'{text}' is not a constraint: write KEY==VALUE or KEY!=VALUE")));
        }
        spec.task.constraints.push(text.to_string());
    }
    Ok(())
}

fn restart(field: &Field, policy: &mut RestartPolicy, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::RESTART)?;
    let conditions =
        [("none", RestartCondition::None), ("on-failure", RestartCondition::OnFailure), ("any", RestartCondition::Any)];
    take!(fields, "condition", policy.condition, |field| reader.word(field, &conditions));
    take!(fields, "delay", policy.delay_ms, |field| reader.parsed(field, parse_duration_ms));
    take!(fields, "max_attempts", policy.max_attempts, |field| reader.number(field));
    take!(fields, "window", policy.window_ms, |field| reader.parsed(field, parse_duration_ms));
    Ok(())
}

fn update(field: &Field, config: &mut UpdateConfig, may_roll_back: bool, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::UPDATE)?;
    let actions = [
        ("pause", UpdateFailureAction::Pause),
        ("continue", UpdateFailureAction::Continue),
        ("rollback", UpdateFailureAction::Rollback),
    ];
    let actions = if may_roll_back { &actions[..] } else { &actions[..2] };
    let orders = [("stop-first", UpdateOrder::StopFirst), ("start-first", UpdateOrder::StartFirst)];
    take!(fields, "parallelism", config.parallelism, |field| reader.number(field));
    take!(fields, "delay", config.delay_ms, |field| reader.parsed(field, parse_duration_ms));
    take!(fields, "monitor", config.monitor_ms, |field| reader.parsed(field, parse_duration_ms));
    take!(fields, "failure_action", config.failure_action, |field| reader.word(field, actions));
    take!(fields, "max_failure_ratio", config.max_failure_ratio, |field| reader.parsed(field, parse_ratio));
    take!(fields, "order", config.order, |field| reader.word(field, &orders));
    Ok(())
}

fn parse_ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("'{text}' is not a number from 0 to 1")),
    }
}

fn resources(field: &Field, spec: &mut ServiceSpec, reader: &mut Reader) -> Result<(), Problem> {
    let fields = reader.fields(field.tree, &field.path, keys::RESOURCES)?;
    let resources = &mut spec.task.resources;
    let sides = [
        ("limits", keys::LIMITS, &mut resources.limit_nano_cpus, &mut resources.limit_memory_bytes),
        ("reservations", keys::RESERVATIONS, &mut resources.reserve_nano_cpus, &mut resources.reserve_memory_bytes),
    ];
    for (key, known, cpus, memory) in sides {
        let Some(field) = fields.get(key) else { continue };
        let amounts = reader.fields(field.tree, &field.path, known)?;
        take!(amounts, "pids", spec.task.container.pids_limit, |field| reader.parsed(field, parse_pids));
        take!(amounts, "cpus", *cpus, |field| reader.parsed(field, |text| parse_nano_cpus(text).map(Some)));
        take!(amounts, "memory", *memory, |field| reader.parsed(field, |text| parse_bytes(text).map(Some)));
    }
    Ok(())
}
