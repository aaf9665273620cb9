//! Chapters 1 to 3: nodes, a network, a service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{SOON, Stage};

pub fn swarm(stage: &Stage) -> Result<()> {
    let first = stage.address("n1")?;
    let printed = stage.done("n1", "mesh swarm init")?;
    let token = word_after(&printed, "--token").context("`swarm init` prints no join command")?;
    stage.say("A token with one letter changed is refused, and nothing is half joined:");
    stage.refused("n2", &format!("mesh swarm join --token {} {first}", garbled(&token)))?;
    stage.done("n2", &format!("mesh swarm join --token {token} {first}"))?;
    stage.say("n3 becomes a second manager: the token's kind decides.");
    let manager = stage.done("n1", "mesh swarm join-token -q manager")?;
    stage.done("n3", &format!("mesh swarm join --token {} {first}", manager.trim()))?;
    stage.until("n1", "mesh node ls", Duration::from_secs(5), |output| {
        let ready = output.stdout.lines().filter(|line| line.split_whitespace().any(|word| word == "Ready")).count();
        ensure!(ready == 3, "{ready} nodes are ready");
        Ok(())
    })
}

pub fn network(stage: &Stage) -> Result<()> {
    stage.done("n1", "mesh network create -d overlay demo")?;
    stage.until("n1", "mesh network ls", SOON, |output| {
        ensure!(output.stdout.contains(" demo "), "no network demo is listed");
        Ok(())
    })?;
    stage.done("n1", "mesh network inspect demo")?;
    let detail = stage.json("n1", "mesh network inspect demo")?;
    let text = |path: &str| detail.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let vni = text("/0/Options/com.docker.network.driver.overlay.vxlanid_list");
    ensure!(vni.parse::<u32>().is_ok_and(|vni| vni >= 4097), "the VNI is `{vni}`, not 4097 or above");
    let subnet = text("/0/IPAM/Config/0/Subnet");
    ensure!(subnet.starts_with("10."), "the subnet is `{subnet}`, not one of the pool 10.0.0.0/8");
    Ok(())
}

pub fn service(stage: &Stage) -> Result<()> {
    let whoami = stage.whoami.display();
    stage.done(
        "n1",
        &format!(
            "mesh service create --runtime exec --name whoami -p 8000:8000 -p 8000:8000/udp --network demo {whoami}"
        ),
    )?;
    stage.until("n1", "mesh service ls", SOON, |output| {
        ensure!(output.stdout.contains(" 1/1 "), "whoami is not 1/1");
        Ok(())
    })?;
    stage.done("n1", "mesh service ps whoami")?;
    stage.done("n1", "mesh service inspect whoami")?;
    println!("   The virtual address is {}.", stage.vip("n1", "whoami")?);
    stage.say("The same from a Compose manifest:");
    let manifest = format!(
        "networks:\n  demo: {{driver: overlay}}\nservices:\n  whoami:\n    command: [{whoami}, --port, \"8000\"]\n    \
         ports: [\"8001:8000\"]\n    networks: [demo]\n    deploy: {{replicas: 1}}\n    x-mesh: {{runtime: exec}}\n"
    );
    stage.done("n1", &format!("mesh stack deploy -c - tutorial <<'END'\n{manifest}END"))?;
    stage.until("n1", "mesh stack services tutorial", SOON, |output| {
        ensure!(output.stdout.contains("tutorial_whoami") && output.stdout.contains(" 1/1 "), "it is not 1/1");
        Ok(())
    })?;
    stage.until("n1", "curl -sS -m 3 http://127.0.0.1:8001/", SOON, |output| {
        ensure!(output.stdout.starts_with("I'm "), "no answer on port 8001");
        Ok(())
    })?;
    stage.done("n1", "mesh stack rm tutorial")?;
    Ok(())
}

fn word_after(text: &str, before: &str) -> Option<String> {
    let mut words = text.split_whitespace().skip_while(|word| *word != before).skip(1);
    words.next().map(str::to_owned)
}

/// The token with its last letter changed.
fn garbled(token: &str) -> String {
    let mut letters: Vec<char> = token.chars().collect();
    if let Some(last) = letters.last_mut() {
        *last = if *last == '2' { '3' } else { '2' };
    }
    letters.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_the_join_command() {
        let printed = "To add a worker:\n\n    mesh swarm join --token SWMTKN-1-abc 192.168.77.11:2377\n";
        assert_eq!(word_after(printed, "--token").as_deref(), Some("SWMTKN-1-abc"));
        assert_eq!(word_after("nothing", "--token"), None);
        assert_ne!(garbled("abc"), "abc");
        assert_ne!(garbled("ab2"), "ab2");
    }
}
