//! A cluster of the lab's nodes, in the words of the command line.
//!
//! Everything goes through `mesh` as users type it, and through its JSON listings with Docker's keys: if a user's script would
//! break, this does. Invariant: no verb knows a result better than the product; what is not shown is an error.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::eventually::eventually;
use crate::inside::Inside;
use crate::lab::Lab;
use crate::node::Node;

/// From the last join to a listing of Ready nodes.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// A cluster, looked at from one node.
#[derive(Clone, Copy, Debug)]
pub struct Swarm<'a> {
    lab: &'a Lab,
    at: &'a Node,
}

/// A line of `service ps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// The short id, which is the task's host name.
    pub id: String,
    /// `whoami.1`
    pub name: String,
    /// Name of its node.
    pub node: String,
    pub desired: String,
    /// `Running 5 seconds ago`
    pub current: String,
    pub error: String,
}

impl TaskRow {
    pub fn is_running(&self) -> bool {
        self.desired == "Running" && self.current.starts_with("Running")
    }
}

impl<'a> Swarm<'a> {
    /// Starts the agents and forms a cluster: the first node keeps the store, the second is a worker, further ones are managers.
    pub fn form(lab: &'a Lab) -> Result<Swarm<'a>> {
        lab.start_agents()?;
        let (first, others) = lab.nodes().split_first().context("a swarm has at least one node")?;
        let swarm = Swarm::seen_from(lab, first.name());
        swarm.mesh(["swarm", "init"])?;
        for (place, node) in others.iter().enumerate() {
            let role = if place == 0 { "worker" } else { "manager" };
            node.mesh(["swarm", "join", "--token", &swarm.token(role)?, &swarm.join_address()])?.ok()?;
        }
        swarm.wait_ready(lab.nodes().len(), READY_WITHIN)?;
        Ok(swarm)
    }

    /// A cluster that is there already (or is to come), as the command line of `node` shows it.
    pub fn seen_from(lab: &'a Lab, node: &str) -> Swarm<'a> {
        Swarm { lab, at: lab.node(node) }
    }

    pub fn node(&self) -> &'a Node {
        self.at
    }

    /// Runs `mesh` on this node; it must succeed.
    pub fn mesh<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        self.at.mesh(words)?.ok()
    }

    /// One array of a listing, or what `inspect` prints.
    pub fn json<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Vec<Value>> {
        let text = self.mesh(words)?;
        serde_json::from_str(&text).with_context(|| format!("not a JSON array: {text}"))
    }

    pub fn token(&self, role: &str) -> Result<String> {
        Ok(self.mesh(["swarm", "join-token", "-q", role])?.trim().to_owned())
    }

    pub fn join_address(&self) -> String {
        format!("{}:2377", self.at.address())
    }

    /// Name and status of every node.
    pub fn nodes(&self) -> Result<Vec<(String, String)>> {
        let rows = self.json(["node", "ls", "--format", "json"])?;
        Ok(rows.iter().map(|row| (text(row, "Hostname"), text(row, "Status"))).collect())
    }

    pub fn wait_ready(&self, count: usize, within: Duration) -> Result<()> {
        eventually(within, &format!("{count} Ready nodes in `node ls` on {}", self.at.name()), || {
            let nodes = self.nodes()?;
            let ready = nodes.iter().filter(|(_, status)| status == "Ready").count();
            ensure!(ready == count, "{nodes:?}");
            Ok(())
        })
    }

    /// `service create --runtime exec --name NAME FLAGS… whoami --port 8000`, waiting for convergence as the command does.
    pub fn create_whoami(&self, name: &str, flags: &[&str]) -> Result<()> {
        let program = self.lab.whoami().display().to_string();
        let head = ["service", "create", "--runtime", "exec", "--name", name];
        self.mesh(head.iter().chain(flags).copied().chain([program.as_str(), "--port", "8000"])).map(drop)
    }

    /// The tutorial's client: a task that sleeps, to run commands in.
    pub fn create_client(&self, name: &str, flags: &[&str]) -> Result<()> {
        let head = ["service", "create", "--runtime", "exec", "--name", name];
        self.mesh(head.iter().chain(flags).copied().chain(["sleep", "3600"])).map(drop)
    }

    pub fn scale(&self, service: &str, replicas: usize) -> Result<()> {
        self.mesh(["service", "scale", &format!("{service}={replicas}")]).map(drop)
    }

    /// All lines of `service ps`, history included.
    pub fn tasks(&self, service: &str) -> Result<Vec<TaskRow>> {
        let rows = self.json(["service", "ps", "--format", "json", service])?;
        let row = |row: &Value| TaskRow {
            id: text(row, "ID"),
            name: text(row, "Name"),
            node: text(row, "Node"),
            desired: text(row, "DesiredState"),
            current: text(row, "CurrentState"),
            error: text(row, "Error"),
        };
        Ok(rows.iter().map(row).collect())
    }

    pub fn running(&self, service: &str) -> Result<Vec<TaskRow>> {
        Ok(self.tasks(service)?.into_iter().filter(TaskRow::is_running).collect())
    }

    /// Waits until exactly `count` tasks run; gives them.
    pub fn wait_running(&self, service: &str, count: usize, within: Duration) -> Result<Vec<TaskRow>> {
        eventually(within, &format!("{count} running tasks of {service}"), || {
            let tasks = self.tasks(service)?;
            let running: Vec<TaskRow> = tasks.iter().filter(|task| task.is_running()).cloned().collect();
            ensure!(running.len() == count, "{tasks:#?}");
            Ok(running)
        })
    }

    /// `1/1` of `service ls`.
    pub fn replicas(&self, service: &str) -> Result<String> {
        let rows = self.json(["service", "ls", "--format", "json"])?;
        let row = rows.iter().find(|row| row["Name"] == service);
        Ok(text(row.with_context(|| format!("{service} is not in `service ls`: {rows:?}"))?, "Replicas"))
    }

    /// The VIP of a service on its first network.
    pub fn vip(&self, service: &str) -> Result<Ipv4Addr> {
        let shown = self.json(["service", "inspect", service])?;
        let address = shown[0]["Endpoint"]["VirtualIPs"][0]["Addr"].as_str();
        let address = address.with_context(|| format!("no VIP in `service inspect {service}`: {shown:?}"))?;
        Ok(address.split('/').next().unwrap_or_default().parse()?)
    }

    /// The inside of a task: `swarm.inside("client.1")`.
    pub fn inside(&self, task: &'a str) -> Inside<'a> {
        Inside::new(self.at, task)
    }
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}
