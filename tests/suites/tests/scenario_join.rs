//! Three machines become a swarm; a token opens the door to those who have it, and to nobody else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, scenario, step};

#[test]
fn three_machines_become_a_swarm() {
    scenario("three machines become a swarm", Lab::builder().nodes(["n1", "n2", "n3", "n4"]), |lab| {
        lab.start_agents()?;
        let [n1, n2, n3, n4] = ["n1", "n2", "n3", "n4"].map(|name| lab.node(name));
        step("before there is a swarm, commands say so");
        let said = n1.mesh(["service", "ls"])?.complaint()?;
        ensure!(said.contains("swarm"), "{said}");

        step("mesh swarm init prints the join command");
        let printed = n1.mesh(["swarm", "init"])?.ok()?;
        let join = join_command(&printed)?;
        ensure!(join.last().is_some_and(|host| host.starts_with(&n1.address().to_string())), "{join:?}");
        n1.mesh(["swarm", "init"])?.complaint()?;

        step("a wrong token is refused");
        let said = n2.mesh(with_token(&join, "MESHTKN-1-0000000000000000-0000"))?.complaint()?;
        ensure!(said.to_lowercase().contains("token"), "{said}");
        let said = n2.mesh(with_token(&join, &spoilt(&join[3])))?.complaint()?;
        ensure!(said.to_lowercase().contains("token"), "{said}");

        step("n2 joins with the printed command, as a worker");
        n2.mesh(&join)?.ok()?;
        step("n3 joins as a manager, with its token from a file");
        let token = n1.mesh(["swarm", "join-token", "-q", "manager"])?.ok()?;
        ensure!(token.trim() != join[3], "one token for both roles");
        n3.mesh_with_input(["swarm", "join", "--token-file", "-", &n1.address().to_string()], &token)?.ok()?;

        step("mesh node ls shows three Ready nodes within 5 s, on every node");
        for node in [n1, n2, n3] {
            three_ready(lab, node)?;
        }
        let listing = n1.mesh(["node", "ls"])?.ok()?;
        for heading in ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS"] {
            ensure!(listing.contains(heading), "no {heading} in:\n{listing}");
        }
        ensure!(
            listing.lines().any(|line| line.contains("n1") && line.contains('*') && line.contains("Leader")),
            "{listing}"
        );
        ensure!(listing.lines().any(|line| line.contains("n3") && line.contains("Reachable")), "{listing}");

        step("a change asked on a worker is refused with the place to ask; a manager takes it");
        let said = n2.mesh(["network", "create", "demo"])?.complaint()?;
        ensure!(said.contains("worker") && said.contains("manager"), "{said}");
        n3.mesh(["network", "create", "demo"])?.ok()?;
        let networks = n1.mesh(["network", "ls"])?.ok()?;
        ensure!(networks.contains("demo"), "{networks}");

        step("a node that is in a swarm does not join again");
        n2.mesh(&join)?.complaint()?;

        step("a rotated token is refused, the new one opens");
        let rotated = n1.mesh(["swarm", "join-token", "--rotate", "-q", "worker"])?.ok()?;
        let said = n4.mesh(&join)?.complaint()?;
        ensure!(said.to_lowercase().contains("token"), "{said}");
        ensure!(Swarm::seen_from(lab, "n1").nodes()?.len() == 3, "a refused node is in the list");
        n4.mesh(with_token(&join, rotated.trim()))?.ok()?;
        Swarm::seen_from(lab, "n3").wait_ready(4, Duration::from_secs(5))
    });
}

/// The words of the printed command, without the program.
fn join_command(printed: &str) -> Result<Vec<String>> {
    let line = printed.lines().map(str::trim).find(|line| line.starts_with("mesh swarm join --token "));
    let line = line.with_context(|| format!("no join command in:\n{printed}"))?;
    let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
    ensure!(words.len() == 5, "{line}");
    Ok(words)
}

fn with_token(join: &[String], token: &str) -> Vec<String> {
    let mut words = join.to_vec();
    words[3] = token.to_owned();
    words
}

/// The right shape, another last character.
fn spoilt(token: &str) -> String {
    let (head, last) = token.split_at(token.len() - 1);
    format!("{head}{}", if last == "0" { "1" } else { "0" })
}

fn three_ready(lab: &Lab, node: &Node) -> Result<()> {
    Swarm::seen_from(lab, node.name()).wait_ready(3, Duration::from_secs(5))
}
