//! Flags that `service create` and `service update` share: each, where given, sets one thing of the spec.

use clap::{Args, ValueEnum};

use crate::cli::fault::Fault;
use crate::manifest::{parse_affinity, parse_bytes, parse_duration_ms, parse_nano_cpus, parse_weight_by};
use crate::model::{
    Affinity, Algorithm, EndpointMode, HealthCheck, Mode, NetworkAttachment, RestartCondition, ServiceSpec,
    UpdateConfig, UpdateFailureAction, UpdateOrder,
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EndpointModeWord {
    Vip,
    Dnsrr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AlgorithmWord {
    RoundRobin,
    Maglev,
    Random,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderWord {
    StopFirst,
    StartFirst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailureActionWord {
    Pause,
    Continue,
    Rollback,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RollbackActionWord {
    Pause,
    Continue,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RestartWord {
    None,
    OnFailure,
    Any,
}

#[derive(Debug, Default, Args)]
pub(super) struct SpecFlags {
    /// How many tasks
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// A virtual IP, or all tasks' addresses in DNS
    #[arg(long, value_name = "MODE")]
    endpoint_mode: Option<EndpointModeWord>,
    /// How a new connection chooses its task
    #[arg(long, value_name = "ALGORITHM")]
    lb: Option<AlgorithmWord>,
    /// A client keeps its task for a time: client-ip[=SECONDS], or none
    #[arg(long, value_name = "client-ip[=SECONDS]", value_parser = affinity)]
    affinity: Option<AffinityWord>,
    /// A task has as many turns as this label of its node says (1 to 100): node.labels.KEY, or none
    #[arg(long, value_name = "node.labels.KEY", value_parser = weight_by)]
    weight_by: Option<WeightWord>,
    /// As this user
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Folder the command starts in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    #[arg(long, value_name = "CPUS", value_parser = parse_nano_cpus)]
    limit_cpu: Option<u64>,
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    limit_memory: Option<u64>,
    #[arg(long, value_name = "CPUS", value_parser = parse_nano_cpus)]
    reserve_cpu: Option<u64>,
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    reserve_memory: Option<u64>,
    /// Command (run by a shell) that says whether a task is healthy
    #[arg(long, value_name = "CMD")]
    health_cmd: Option<String>,
    /// Between two runs of it [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    health_interval: Option<u64>,
    /// After which a run of it counts as failed [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    health_timeout: Option<u64>,
    /// Failures in a row that make a task unhealthy [default: 3]
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// After a task's start: failures don't count before its first pass [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    health_start_period: Option<u64>,
    /// Between two runs of it in the start period [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    health_start_interval: Option<u64>,
    /// Without a health check, also where the image has one
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
    /// Time between stop signal and kill [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    stop_grace_period: Option<u64>,
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Tasks replaced at once; 0: all
    #[arg(long, value_name = "N")]
    update_parallelism: Option<u32>,
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    update_delay: Option<u64>,
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    update_monitor: Option<u64>,
    #[arg(long, value_name = "ORDER")]
    update_order: Option<OrderWord>,
    #[arg(long, value_name = "ACTION")]
    update_failure_action: Option<FailureActionWord>,
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    update_max_failure_ratio: Option<f32>,
    #[command(flatten)]
    rollback: RollbackFlags,
    #[arg(long, value_name = "CONDITION")]
    restart_condition: Option<RestartWord>,
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    restart_delay: Option<u64>,
    #[arg(long, value_name = "N")]
    restart_max_attempts: Option<u32>,
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    restart_window: Option<u64>,
    /// 0: without limit
    #[arg(long, value_name = "N")]
    replicas_max_per_node: Option<u32>,
}

/// How a rollback goes; separate, because its failure action has no way back itself.
#[derive(Debug, Default, Args)]
struct RollbackFlags {
    /// Tasks taken back at once; 0: all
    #[arg(long, value_name = "N")]
    rollback_parallelism: Option<u32>,
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    rollback_delay: Option<u64>,
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    rollback_monitor: Option<u64>,
    #[arg(long, value_name = "ORDER")]
    rollback_order: Option<OrderWord>,
    #[arg(long, value_name = "ACTION")]
    rollback_failure_action: Option<RollbackActionWord>,
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    rollback_max_failure_ratio: Option<f32>,
}

impl RollbackFlags {
    fn apply(self, rollback: &mut UpdateConfig) {
        set(&mut rollback.parallelism, self.rollback_parallelism);
        set(&mut rollback.delay_ms, self.rollback_delay);
        set(&mut rollback.monitor_ms, self.rollback_monitor);
        set(&mut rollback.order, self.rollback_order.map(order));
        set(&mut rollback.failure_action, self.rollback_failure_action.map(rollback_action));
        set(&mut rollback.max_failure_ratio, self.rollback_max_failure_ratio);
    }
}

pub(super) fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

impl SpecFlags {
    pub(super) fn apply(self, spec: &mut ServiceSpec) -> Result<(), Fault> {
        if let Some(replicas) = self.replicas {
            match &mut spec.mode {
                Mode::Replicated { replicas: place } => *place = replicas,
                Mode::Global => return Err(Fault::failed("--replicas: a global service has one task on each node")),
                Mode::Adopted => {
                    let why = "--replicas: the service consists of containers that joined by their labels; start or stop those";
                    return Err(Fault::failed(why));
                }
            }
        }
        set(&mut spec.endpoint_mode, self.endpoint_mode.map(endpoint_mode));
        set(&mut spec.lb, self.lb.map(algorithm));
        set(&mut spec.affinity, self.affinity.map(|word| word.0));
        set(&mut spec.weight_by, self.weight_by.map(|word| word.0));
        let task = &mut spec.task;
        for (place, given) in [
            (&mut task.user, self.user),
            (&mut task.hostname, self.hostname),
            (&mut task.workdir, self.workdir),
            (&mut task.stop_signal, self.stop_signal),
        ] {
            set(place, given.map(Some));
        }
        let resources = &mut task.resources;
        set(&mut resources.limit_nano_cpus, self.limit_cpu.map(Some));
        set(&mut resources.limit_memory_bytes, self.limit_memory.map(Some));
        set(&mut resources.reserve_nano_cpus, self.reserve_cpu.map(Some));
        set(&mut resources.reserve_memory_bytes, self.reserve_memory.map(Some));
        set(&mut task.stop_grace_period_ms, self.stop_grace_period);
        set(&mut task.max_replicas_per_node, self.replicas_max_per_node);
        set(&mut task.restart.condition, self.restart_condition.map(restart));
        set(&mut task.restart.delay_ms, self.restart_delay);
        set(&mut task.restart.max_attempts, self.restart_max_attempts);
        set(&mut task.restart.window_ms, self.restart_window);
        set(&mut spec.update.parallelism, self.update_parallelism);
        set(&mut spec.update.delay_ms, self.update_delay);
        set(&mut spec.update.monitor_ms, self.update_monitor);
        set(&mut spec.update.order, self.update_order.map(order));
        set(&mut spec.update.failure_action, self.update_failure_action.map(failure_action));
        set(&mut spec.update.max_failure_ratio, self.update_max_failure_ratio);
        self.rollback.apply(&mut spec.rollback);
        if self.no_healthcheck {
            task.health = Some(HealthCheck::disabled());
        }
        if let Some(command) = self.health_cmd {
            let before = task.health.take().unwrap_or_default().with_defaults();
            task.health = Some(HealthCheck { command: vec!["/bin/sh".into(), "-c".into(), command], ..before });
        }
        let timing = [self.health_interval, self.health_timeout, self.health_start_period, self.health_start_interval];
        match &mut task.health {
            Some(health) if !health.is_disabled() => {
                let [interval, timeout, start_period, start_interval] = timing;
                set(&mut health.interval_ms, interval);
                set(&mut health.timeout_ms, timeout);
                set(&mut health.start_period_ms, start_period);
                set(&mut health.start_interval_ms, start_interval);
                set(&mut health.retries, self.health_retries);
            }
            _ if timing.iter().any(Option::is_some) || self.health_retries.is_some() => {
                return Err(Fault::failed("--health-…: there is no check to time; give --health-cmd too"));
            }
            _ => {}
        }
        Ok(())
    }
}

fn endpoint_mode(word: EndpointModeWord) -> EndpointMode {
    match word {
        EndpointModeWord::Vip => EndpointMode::Vip,
        EndpointModeWord::Dnsrr => EndpointMode::Dnsrr,
    }
}

fn algorithm(word: AlgorithmWord) -> Algorithm {
    match word {
        AlgorithmWord::RoundRobin => Algorithm::RoundRobin,
        AlgorithmWord::Maglev => Algorithm::Maglev,
        AlgorithmWord::Random => Algorithm::Random,
    }
}

fn order(word: OrderWord) -> UpdateOrder {
    match word {
        OrderWord::StopFirst => UpdateOrder::StopFirst,
        OrderWord::StartFirst => UpdateOrder::StartFirst,
    }
}

fn failure_action(word: FailureActionWord) -> UpdateFailureAction {
    match word {
        FailureActionWord::Pause => UpdateFailureAction::Pause,
        FailureActionWord::Continue => UpdateFailureAction::Continue,
        FailureActionWord::Rollback => UpdateFailureAction::Rollback,
    }
}

fn rollback_action(word: RollbackActionWord) -> UpdateFailureAction {
    match word {
        RollbackActionWord::Pause => UpdateFailureAction::Pause,
        RollbackActionWord::Continue => UpdateFailureAction::Continue,
    }
}

fn restart(word: RestartWord) -> RestartCondition {
    match word {
        RestartWord::None => RestartCondition::None,
        RestartWord::OnFailure => RestartCondition::OnFailure,
        RestartWord::Any => RestartCondition::Any,
    }
}

fn parse_ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("a number from 0 to 1".into()),
    }
}

/// `--affinity`'s value; None inside takes it away.
#[derive(Clone, Copy, Debug)]
struct AffinityWord(Option<Affinity>);

fn affinity(text: &str) -> Result<AffinityWord, String> {
    Ok(AffinityWord(parse_affinity(text)?.map(|timeout_s| Affinity { timeout_s })))
}

/// `--weight-by`'s value, likewise.
#[derive(Clone, Debug)]
struct WeightWord(Option<String>);

fn weight_by(text: &str) -> Result<WeightWord, String> {
    parse_weight_by(text).map(WeightWord)
}

/// `demo`, or `name=demo,alias=web,alias=www`.
pub(super) fn parse_network(text: &str) -> Result<NetworkAttachment, String> {
    if !text.contains('=') {
        return Ok(NetworkAttachment { network: text.to_string(), aliases: Vec::new() });
    }
    let (mut network, mut aliases) = (None, Vec::new());
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", name)) => network = Some(name.to_string()),
            Some(("alias", alias)) => aliases.push(alias.to_string()),
            _ => return Err(format!("'{field}' in '{text}': allowed are name=NETWORK, alias=NAME")),
        }
    }
    let network = network.ok_or_else(|| format!("'{text}' lacks name=NETWORK"))?;
    Ok(NetworkAttachment { network, aliases })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_affinity_are_read() {
        let network = parse_network("name=demo,alias=web").expect("a network");
        assert_eq!((network.network.as_str(), network.aliases), ("demo", vec!["web".to_string()]));
        assert_eq!(affinity("client-ip=60").expect("an affinity").0, Some(Affinity { timeout_s: 60 }));
        assert!(affinity("cookie").is_err());
        assert_eq!(weight_by("node.labels.size").expect("a label").0.as_deref(), Some("size"));
        assert!(weight_by("none").expect("none").0.is_none() && weight_by("size").is_err());
    }
}
