//! Flags about the container of a task, shared by `service create` and `service update`; with runtime `exec` some say nothing, and
//! those that would confine a task are refused.

use clap::{ArgAction, Args};

use super::flags::set;
use crate::cli::Screen;
use crate::cli::fault::Fault;
use crate::manifest::split_words;
use crate::model::{Runtime, TaskSpec, Ulimit};

#[derive(Debug, Default, Args)]
pub(super) struct ContainerFlags {
    /// Instead of the image's own; '' for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// With a terminal
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_name = "BOOL",
          default_missing_value = "true", hide_possible_values = true)]
    tty: Option<bool>,
    /// With a small init that reaps children
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_name = "BOOL",
          default_missing_value = "true", hide_possible_values = true)]
    init: Option<bool>,
    /// The root file system can't be written
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_name = "BOOL",
          default_missing_value = "true", hide_possible_values = true)]
    read_only: Option<bool>,
    /// Most processes of a task; 0: without limit
    #[arg(long, value_name = "N")]
    limit_pids: Option<u64>,
}

impl ContainerFlags {
    /// The entrypoint of a command of the host is its first words, as in a manifest.
    pub(super) fn apply(self, task: &mut TaskSpec) -> Result<(), Fault> {
        let container = &mut task.container;
        set(&mut container.tty, self.tty);
        set(&mut container.init, self.init.map(Some));
        set(&mut container.read_only, self.read_only);
        set(&mut container.pids_limit, self.limit_pids.map(|pids| (pids > 0).then_some(pids)));
        if let Some(text) = self.entrypoint {
            let words = split_words(&text).map_err(|told| Fault::failed(format!("--entrypoint: {told}")))?;
            match task.runtime {
                Runtime::Docker => container.entrypoint = Some(words),
                Runtime::Exec => task.command.splice(..0, words).for_each(drop),
            }
        }
        Ok(())
    }
}

/// What runtime `exec` can't do: refused where it matters, else said.
pub(super) fn check_exec(task: &TaskSpec, screen: &mut Screen<'_>) -> Result<(), Fault> {
    if task.runtime != Runtime::Exec {
        return Ok(());
    }
    let lacks = task.lacking_on_exec();
    if let Some(lack) = lacks.iter().find(|lack| lack.harms) {
        return Err(Fault::failed(format!("{}: runtime exec does not have it: {}", lack.flag, lack.remedy)));
    }
    for lack in lacks {
        screen.remark(format!("mesh: warning: {} is ignored by runtime exec: {}", lack.flag, lack.remedy));
    }
    Ok(())
}

/// `NAME:ADDRESS` for `/etc/hosts`.
pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let cut = text.split_once(':').or_else(|| text.split_once('='));
    match cut {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => Ok(format!("{name}:{address}")),
        _ => Err(format!("'{text}' is not NAME:ADDRESS")),
    }
}

/// `nofile=1024` or `nofile=1024:2048`.
pub(super) fn parse_ulimit(text: &str) -> Result<(String, Ulimit), String> {
    let fail = || format!("'{text}' is not NAME=SOFT[:HARD], e.g. nofile=1024:2048");
    let (name, limits) = text.split_once('=').ok_or_else(fail)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |word: &str| word.parse::<i64>().ok().filter(|limit| *limit >= -1).ok_or_else(fail);
    let limit = Ulimit { soft: number(soft)?, hard: number(hard)? };
    if limit.hard >= 0 && (limit.soft < 0 || limit.soft > limit.hard) {
        return Err(format!("'{text}': the soft limit is above the hard limit"));
    }
    Ok((name.to_string(), limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_limits_are_read() {
        assert_eq!(parse_host("db=10.0.0.1").as_deref(), Ok("db:10.0.0.1"));
        assert!(parse_host("db").is_err());
        assert_eq!(parse_ulimit("nofile=1:2"), Ok(("nofile".to_string(), Ulimit { soft: 1, hard: 2 })));
        assert_eq!(parse_ulimit("memlock=-1"), Ok(("memlock".to_string(), Ulimit { soft: -1, hard: -1 })));
        assert!(parse_ulimit("nofile=3:2").is_err() && parse_ulimit("nofile").is_err());
    }
}
