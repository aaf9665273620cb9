//! Stacks: services that carry one stack's label.

use std::collections::BTreeMap;

use super::Facts;
use super::service::service_rows;
use super::task::{sorted, task_row};
use crate::api::{ApiError, Listing, ServiceRow, StackRow, TaskRow};
use crate::model::{Service, Stack};

pub fn stacks(facts: &Facts) -> Result<Listing<StackRow>, ApiError> {
    facts.member()?;
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for service in facts.cluster.services.values() {
        if let Some(stack) = service.spec.labels.get(Stack::LABEL) {
            *counts.entry(stack).or_default() += 1;
        }
    }
    let rows = counts.into_iter().map(|(name, services)| StackRow { name: name.to_string(), services }).collect();
    Ok(Listing { at: facts.now, rows })
}

pub fn stack_services(facts: &Facts, stack: &str) -> Result<Listing<ServiceRow>, ApiError> {
    existing(facts, stack)?;
    Ok(Listing { at: facts.now, rows: service_rows(facts, |service| belongs(service, stack)) })
}

pub fn stack_tasks(facts: &Facts, stack: &str) -> Result<Listing<TaskRow>, ApiError> {
    existing(facts, stack)?;
    let services = facts.cluster.services.values().filter(|service| belongs(service, stack));
    let tasks = services.flat_map(|service| facts.cluster.tasks_of(&service.id));
    Ok(Listing { at: facts.now, rows: sorted(tasks.map(|task| task_row(facts, task)).collect()) })
}

fn belongs(service: &Service, stack: &str) -> bool {
    service.spec.labels.get(Stack::LABEL).is_some_and(|label| label == stack)
}

fn existing(facts: &Facts, stack: &str) -> Result<(), ApiError> {
    facts.member()?;
    let has_service = facts.cluster.services.values().any(|service| belongs(service, stack));
    let has_network =
        facts.cluster.shown_networks().any(|network| network.spec.labels.get(Stack::LABEL).is_some_and(|l| l == stack));
    if has_service || has_network {
        return Ok(());
    }
    Err(ApiError::not_found(format!("nothing found in stack: {stack}; 'mesh stack ls' lists them")))
}
