//! Chapters 4 to 8: names, balance, published ports, scale, the way outside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{SOON, Stage, answers, take_turns, tasks};

const MEGABYTES_10: u32 = 10_000_000;

pub fn client(stage: &Stage) -> Result<()> {
    stage.done("n1", "mesh service create --runtime exec --name client --network demo sleep 3600")?;
    let vip = stage.vip("n1", "whoami")?;
    stage.until("n1", "mesh exec client.1 ping -c 3 whoami", SOON, |output| {
        ensure!(output.stdout.contains(&format!("({vip})")), "whoami is not {vip}");
        ensure!(output.stdout.contains(" 0% packet loss"), "echoes were lost");
        Ok(())
    })?;
    let places = [one_node(stage, "whoami")?, one_node(stage, "client")?];
    println!("   whoami runs on {}, the client on {}.", places[0], places[1]);
    ensure!(places[0] != places[1], "client and whoami share {}: the tunnel was not used", places[0]);

    stage.say("And a shell, on a terminal:");
    println!("\nn1$ mesh exec -it client.1 sh");
    let mut shell = stage.lab.node("n1").mesh_terminal(["exec", "-it", "client.1", "sh"])?;
    // The answers hold what the typed lines do not, for the terminal echoes those.
    shell.line("echo $(hostname) has $((40 + 2)) answers; stty size")?;
    let told = shell.until("42 answers", SOON)?;
    println!("  {}42 answers", told.lines().last().unwrap_or_default());
    shell.until("24 80", SOON).context("the terminal's size did not arrive")?;
    shell.line("exit 7")?;
    let code = shell.end(SOON)?;
    ensure!(code == 7, "the shell's exit code 7 arrived as {code}");
    println!("  [the shell ended with its own exit code, {code}]");
    Ok(())
}

pub fn balance(stage: &Stage) -> Result<()> {
    let before = stage.vip("n1", "whoami")?;
    stage.done("n1", "mesh service scale whoami=2")?;
    stage.done("n1", "mesh service ps whoami")?;
    let running = stage.running("n1", "whoami")?;
    ensure!(running.len() == 2 && running[0].node != running[1].node, "not two tasks on two nodes: {running:?}");
    let after = stage.vip("n1", "whoami")?;
    ensure!(before == after, "the virtual address changed from {before} to {after}");
    stage.until("n1", "mesh exec client.1 getent ahostsv4 tasks.whoami", SOON, |output| {
        let mut addresses: Vec<&str> =
            output.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        ensure!(addresses.len() == 2, "{} addresses", addresses.len());
        Ok(())
    })?;
    let ten = "mesh exec client.1 sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -m 3 http://whoami:8000/ | head -n 1; done'";
    stage.until("n1", ten, SOON, |output| {
        let told = tasks(&output.stdout);
        ensure!(told.len() == 10, "{} of 10 requests were answered", told.len());
        take_turns(&told, 2)
    })
}

pub fn published(stage: &Stage) -> Result<()> {
    let nodes = ["n1", "n2", "n3"];
    let addresses = nodes.map(|node| stage.address(node)).into_iter().collect::<Result<Vec<_>>>()?;
    let everywhere = addresses.join(" ");
    for node in nodes {
        let from_loopback = stage.address(node)?;
        let line = ask_all(&format!("127.0.0.1 {everywhere}"));
        stage.until(node, &line, SOON, |output| callers_are_right(&output.stdout, 4, Some(&from_loopback)))?;
    }
    stage.until("client", &ask_all(&everywhere), SOON, |output| callers_are_right(&output.stdout, 3, None))?;
    let inside = format!("mesh exec client.1 bash -c '{}'", ask_all(&everywhere));
    stage.until("n1", &inside, SOON, |output| callers_are_right(&output.stdout, 3, None))?;
    stage.say("localhost is tried as ::1 first; it must not hang:");
    stage.until("n1", "curl -sS -m 3 http://localhost:8000/", SOON, |output| {
        ensure!(!answers(&output.stdout).is_empty(), "no answer by localhost");
        ensure!(output.took < Duration::from_secs(1), "it took {:?}", output.took);
        Ok(())
    })?;

    stage.say("The same over UDP, to a node and, from a task, to the virtual address:");
    let own = stage.address("client")?;
    for address in &addresses {
        stage.until("client", &ask_by_udp(address), SOON, |output| {
            let answers = answers(&output.stdout);
            ensure!(answers.len() == 1 && answers[0].caller.starts_with(&format!("{own}:")), "not answered to {own}");
            Ok(())
        })?;
    }
    stage.until("n1", &format!("mesh exec client.1 bash -c '{}'", ask_by_udp("whoami")), SOON, |output| {
        ensure!(answers(&output.stdout).len() == 1, "no answer from the virtual address");
        Ok(())
    })?;

    let used: Vec<String> = stage.running("n1", "whoami")?.into_iter().map(|task| task.node).collect();
    let empty =
        nodes.into_iter().find(|node| !used.iter().any(|used| used == node)).context("every node has a task")?;
    let address = stage.address(empty)?;
    stage.say(&format!("10 MB each way through {empty}, which has no task of it:"));
    let up =
        format!("head -c {MEGABYTES_10} /dev/zero | curl -sS -m 20 -H Expect: --data-binary @- http://{address}:8000/");
    stage.until("client", &up, SOON, |output| {
        ensure!(output.stdout.contains(&format!("received {MEGABYTES_10} bytes")), "the upload was cut");
        Ok(())
    })?;
    let down = format!("curl -sS -m 20 http://{address}:8000/bytes/{MEGABYTES_10} | wc -c");
    stage.until("client", &down, SOON, |output| {
        ensure!(output.stdout.trim() == MEGABYTES_10.to_string(), "the download was cut");
        Ok(())
    })
}

pub fn scale(stage: &Stage) -> Result<()> {
    let address = stage.address("n2")?;
    stage.done("n1", "mesh service scale whoami=0")?;
    stage.until("client", &format!("curl -sS -m 3 http://{address}:8000/"), SOON, |output| {
        // curl's exit code 7: refused; 28 would be a time-out.
        ensure!(output.status == 7, "curl ended with {}, not with 7 (refused)", output.status);
        ensure!(output.took < Duration::from_secs(1), "the refusal took {:?}", output.took);
        Ok(())
    })?;
    stage.until("n1", "mesh exec client.1 getent hosts whoami", SOON, |output| {
        ensure!(output.status == 2, "the name is still there (getent ended with {})", output.status);
        Ok(())
    })?;
    stage.done("n1", "mesh service scale whoami=5")?;
    let ten = "mesh exec client.1 sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -m 3 http://whoami:8000/ | head -n 1; done'";
    stage.until("n1", ten, SOON, |output| {
        let told = tasks(&output.stdout);
        ensure!(told.len() == 10, "{} of 10 requests were answered", told.len());
        take_turns(&told, 5)
    })
}

pub fn outside(stage: &Stage) -> Result<()> {
    let place = one_node(stage, "client")?;
    let (own, outside) = (stage.address(&place)?, stage.address("outside")?);
    stage.say("Every node gets a firewall whose forward chain drops everything, as Docker and ufw leave it.");
    for node in stage.lab.nodes() {
        node.drop_forwarded()?;
    }
    let forward = stage.done(&place, "sysctl net.ipv4.ip_forward")?;
    ensure!(forward.contains("ip_forward = 0"), "ip_forward is on: the step would prove nothing");
    stage.lab.serve(stage.lab.outside(), 8080)?;
    stage.until("n1", &format!("mesh exec client.1 ping -c 2 {outside}"), SOON, |output| {
        ensure!(output.stdout.contains(" 0% packet loss"), "echoes were lost");
        Ok(())
    })?;
    stage.until("n1", &format!("mesh exec client.1 curl -sS -m 3 http://{outside}:8080/"), SOON, |output| {
        let answers = answers(&output.stdout);
        let seen = answers.first().context("no answer from outside")?;
        ensure!(seen.caller.starts_with(&format!("{own}:")), "seen as {}, not as the node {own}", seen.caller);
        Ok(())
    })?;
    stage.done("n1", "mesh network create -d overlay --internal vault")?;
    stage.done("n1", "mesh service create --runtime exec --name hermit --network vault sleep 3600")?;
    let out = stage.until("n1", &format!("mesh exec hermit.1 ping -c 1 -W 1 {outside}"), SOON, |output| {
        // 1: no answer, 2: no way there; an exec that failed for its own reasons says so on stderr alone.
        ensure!(!output.success() && !output.stdout.contains(" 1 received"), "an internal network reached the outside");
        ensure!(output.stdout.contains("PING") || output.stderr.contains("nreachable"), "ping did not run");
        Ok(())
    });
    out?;
    stage.done("n1", "mesh service rm hermit")?;
    stage.until("n1", "mesh network rm vault", SOON, |output| output.clone().ok())?;
    Ok(())
}

/// Asks the published port by each address, and says from which end each question came.
fn ask_all(addresses: &str) -> String {
    format!(
        "for a in {addresses}; do echo \"-- $a\"; curl -sS -m 3 -w \"local %{{local_ip}}:%{{local_port}}\\n\" http://$a:8000/; done"
    )
}

/// Bash's own UDP: one datagram out, the first answer's two lines in.
fn ask_by_udp(host: &str) -> String {
    format!("exec 3<>/dev/udp/{host}/8000; echo who >&3; timeout 3 head -n 2 <&3")
}

/// Each answer names the caller's own end; by loopback, the node's advertised address.
fn callers_are_right(text: &str, count: usize, from_loopback: Option<&str>) -> Result<()> {
    let answers = answers(text);
    ensure!(answers.len() == count, "{} of {count} requests were answered", answers.len());
    let locals: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("local ")).collect();
    ensure!(locals.len() == count, "curl told {} of {count} ends", locals.len());
    for (answer, local) in answers.iter().zip(locals) {
        match from_loopback.filter(|_| local.starts_with("127.")) {
            Some(own) => ensure!(
                answer.caller.starts_with(&format!("{own}:")),
                "called by loopback, seen as {}, not as the node's address {own}",
                answer.caller
            ),
            None => ensure!(answer.caller == local, "called from {local}, seen as {}", answer.caller),
        }
    }
    Ok(())
}

/// The node of a service's one task.
fn one_node(stage: &Stage, service: &str) -> Result<String> {
    let running = stage.running("n1", service)?;
    ensure!(running.len() == 1, "{service} has {} running tasks, not one", running.len());
    Ok(running[0].node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_must_be_seen_as_it_is() {
        let text =
            "I'm a\nfrom 192.168.77.11:1\nlocal 127.0.0.1:1\nI'm b\nfrom 192.168.77.11:2\nlocal 192.168.77.11:2\n";
        assert!(callers_are_right(text, 2, Some("192.168.77.11")).is_ok());
        assert!(callers_are_right(text, 2, None).is_err());
        assert!(callers_are_right(text, 3, None).is_err());
        assert!(callers_are_right("I'm b\nfrom 10.0.0.2:2\nlocal 192.168.77.11:2\n", 1, None).is_err());
    }
}
