//! Commands in tasks and their output: from this node's runtime, or from the agent of the node that has the task.

use tokio::sync::mpsc;

use crate::agent::member::Member;
use crate::agent::peers;
use crate::api::{ApiError, Caller, ExecSession, LogFeed, LogQuery, LogRequest};
use crate::model::{ExecRequest, Id, LogLine, Node, Task};
use crate::runtime::{LogRequest as TaskLogs, RuntimeError, TaskRuntime};

pub async fn exec(member: &Member, caller: &Caller, task: &Id, request: ExecRequest) -> Result<ExecSession, ApiError> {
    match place_of(member, task)? {
        (task, _) if task.adopted.is_some() => Err(somebody_elses(&task, "exec")),
        (_, None) => {
            let (input, events) = member.runtime.exec(task, request).await.map_err(of_runtime)?;
            Ok(ExecSession { input, events })
        }
        (_, Some(node)) if *caller == Caller::Local => {
            peers::client(&member.dialer, &node).exec(task.as_str(), &request).await
        }
        (task, Some(node)) => Err(ApiError::conflict(format!("task {} runs on {}, ask there", task.name(), node.name))),
    }
}

pub async fn logs(member: &Member, caller: &Caller, query: LogQuery) -> Result<LogFeed, ApiError> {
    let (sender, feed) = mpsc::channel(256);
    for id in &query.tasks {
        match place_of(member, id) {
            Ok((task, _)) if task.adopted.is_some() => {
                let _ = sender.send(Err(somebody_elses(&task, "logs"))).await; // nobody listens any more
            }
            Ok((_, None)) => {
                let asked = TaskLogs { follow: query.follow, tail: query.tail.map(|lines| lines as usize) };
                let sender = sender.clone();
                let lines = match member.runtime.logs(id, asked).await {
                    Ok(lines) => lines,
                    // Nobody may read it: the user is told, as of a node that does not answer.
                    Err(error @ RuntimeError::Engine { .. }) => {
                        let _ = sender.try_send(Err(of_runtime(error))); // full: there is enough to read
                        continue;
                    }
                    // A task whose output is gone has no lines; that is no reason to withhold the others'.
                    Err(_) => continue,
                };
                let since = query.since.unwrap_or(0);
                tokio::spawn(relay(lines, sender, move |line| (line.at >= since).then_some(Ok(line))));
            }
            Ok((_, Some(node))) if *caller == Caller::Local => {
                let asked =
                    LogRequest { target: id.to_string(), follow: query.follow, tail: query.tail, since: query.since };
                let client = peers::client(&member.dialer, &node);
                let sender = sender.clone();
                tokio::spawn(async move {
                    match client.logs(&asked).await {
                        Ok(records) => {
                            relay(records, sender, |record| Some(record.map(|record| record.line))).await;
                        }
                        Err(error) => {
                            let _ = sender.send(Err(error)).await; // nobody listens any more
                        }
                    }
                });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(feed)
}

/// Passes on what there is until it ends or nobody listens any more: a quiet task must not keep a follower that is gone.
async fn relay<T>(
    mut records: mpsc::Receiver<T>,
    feed: mpsc::Sender<Result<LogLine, ApiError>>,
    pass: impl Fn(T) -> Option<Result<LogLine, ApiError>>,
) {
    loop {
        let record = tokio::select! {
            record = records.recv() => record,
            () = feed.closed() => return,
        };
        let Some(record) = record else { return };
        if let Some(line) = pass(record)
            && feed.send(line).await.is_err()
        {
            return;
        }
    }
}

/// A task, and this node if it runs here.
fn place_of(member: &Member, task: &Id) -> Result<(Task, Option<Node>), ApiError> {
    let cluster = member.desired.get();
    let task = cluster
        .tasks
        .get(task)
        .ok_or_else(|| ApiError::not_found("the task is gone; 'mesh service ps' shows those there are"))?;
    let node = task.node_id.as_ref().and_then(|id| cluster.nodes.get(id));
    let node = node.ok_or_else(|| {
        ApiError::conflict(format!("task {} has no node yet; 'mesh service ps' says why", task.name()))
    })?;
    Ok((task.clone(), (node.id != member.id).then(|| node.clone())))
}

/// A container that joined by its labels is its owner's to look into.
fn somebody_elses(task: &Task, verb: &str) -> ApiError {
    let container = task.hostname();
    ApiError::conflict(format!(
        "task {} is the container {container} that joined by its labels, which mesh did not start: docker {verb} {container} on its node",
        task.name()
    ))
}

fn of_runtime(error: RuntimeError) -> ApiError {
    match error {
        RuntimeError::NotFound { .. } => ApiError::not_found(error.to_string()),
        _ => ApiError::conflict(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_quiet_task_is_not_followed_for_nobody() {
        let (task, lines) = mpsc::channel::<LogLine>(1);
        let (sender, feed) = mpsc::channel(1);
        let following = tokio::spawn(relay(lines, sender, |line| Some(Ok(line))));
        drop(feed);
        tokio::time::timeout(Duration::from_secs(10), task.closed()).await.expect("nothing is kept open");
        following.await.expect("ended");
    }
}
