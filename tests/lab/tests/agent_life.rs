//! The life of an agent as the lab governs it, with a stand-in: started, killed, found again, and never left behind.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_lab::{Lab, Node, cannot_run, eventually, scenario, skip, step};

const SOON: Duration = Duration::from_secs(5);

/// Not a test by itself: the stand-in runs this very program as its agent, which listens, and leaves a task that outlives it.
#[test]
fn stand_in() {
    let Some(socket) = std::env::var_os("STAND_IN_SOCKET") else { return };
    let _gone = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    std::process::Command::new("setsid").args(["--fork", "sleep", "3601"]).status().unwrap();
    println!("the stand-in listens");
    listener.incoming().for_each(drop);
}

/// A `mesh` that is only as much of one as the lab looks at.
fn stand_in_binary(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let file = std::env::temp_dir().join(format!("mesh-stand-in-{}-{name}", std::process::id()));
    let script = format!(
        "#!/bin/sh
case \"$1\" in
  agent) shift; STAND_IN_SOCKET=${{1#--socket=}} exec {} --exact stand_in --nocapture ;;
  purge) echo purged ;;
  fail) echo 'no such thing: try another' >&2; exit 1 ;;
  *) echo \"$MESH_SOCKET $*\" ;;
esac\n",
        program.display()
    );
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[test]
fn an_agent_is_started_killed_and_started_again() {
    let mesh = stand_in_binary("life");
    scenario(
        "an agent is started, killed and started again",
        Lab::builder().nodes(["n1", "n2"]).mesh_binary(&mesh),
        |lab| {
            lab.start_agents()?;
            let n1 = lab.node("n1");
            ensure!(n1.is_running() && n1.start().is_err(), "a second agent was started");
            ensure!(n1.log().contains("the stand-in listens"), "{}", n1.log());
            step("its command line knows the socket");
            let said = n1.mesh(["service", "ls"])?.ok()?;
            ensure!(said == format!("{} service ls\n", n1.socket().display()), "{said}");
            ensure!(n1.mesh(["fail"])?.complaint()? == "no such thing: try another");
            ensure!(n1.mesh(["service", "ls"])?.complaint().is_err());

            step("killed, and its task lives on");
            let pid = n1.agent_pid();
            n1.kill()?;
            ensure!(!n1.is_running() && n1.kill().is_err());
            tasks(n1, 1)?;
            tasks(lab.node("n2"), 1)?;
            step("started again, stopped in order");
            n1.start()?;
            ensure!(n1.agent_pid() != pid && lab.node("n2").is_running());
            n1.restart()?;
            tasks(n1, 3)?;
            n1.stop()?;
            tasks(n1, 3)?;
            Ok(())
        },
    );
    std::fs::remove_file(mesh).unwrap();
}

/// A forked task needs a moment to become what it is.
fn tasks(node: &Node, count: usize) -> Result<()> {
    eventually(SOON, &format!("{count} tasks on {}", node.name()), || {
        let processes = node.processes();
        let found = processes.iter().filter(|(_, command)| command == "sleep 3601").count();
        ensure!(found == count, "{processes:?}");
        Ok(())
    })
}

#[test]
fn a_kept_lab_keeps_its_agents_and_going_down_ends_everything() {
    if let Some(reason) = cannot_run() {
        return skip("a kept lab keeps its agents", reason);
    }
    let mesh = stand_in_binary("kept");
    let name = format!("agents{}", std::process::id());
    let lab = Lab::builder().nodes(["n1"]).name(&name).mesh_binary(&mesh).up().unwrap();
    lab.start_agents().unwrap();
    let pid = lab.node("n1").agent_pid();
    lab.keep().unwrap();

    let lab = Lab::attach(&name).unwrap();
    assert_eq!(lab.node("n1").agent_pid(), pid);
    assert!(lab.node("n1").is_running());
    let pids: Vec<u32> = lab.node("n1").processes().into_iter().map(|(pid, _)| pid).collect();
    assert!(pids.len() >= 2, "agent and task: {pids:?}");
    lab.down().unwrap();
    let gone = eventually(SOON, "all processes to be gone", || {
        let left: Vec<&u32> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    gone.unwrap();
    std::fs::remove_file(mesh).unwrap();
}

#[test]
fn what_an_interrupted_run_left_is_removed_by_the_next() {
    if let Some(reason) = cannot_run() {
        return skip("what an interrupted run left is removed", reason);
    }
    let mesh = stand_in_binary("left");
    let lab = Lab::builder().nodes(["n1"]).mesh_binary(&mesh).up().unwrap();
    lab.start_agents().unwrap();
    let (dir, namespace) = (lab.dir().to_owned(), lab.node("n1").namespace().path());
    let pid = lab.node("n1").agent_pid().unwrap();
    // As if this process had been killed: nothing is dropped, and its number belongs to nobody.
    std::mem::forget(lab);
    rewrite_owner(&dir).unwrap();
    let removed = Lab::clean_leftovers().unwrap();
    assert!(removed.iter().any(|name| dir.ends_with(name)), "{removed:?}");
    assert!(!dir.exists() && !namespace.exists() && !is_alive(pid));
    std::fs::remove_file(mesh).unwrap();
}

fn rewrite_owner(dir: &Path) -> Result<()> {
    let file = dir.join("lab.json");
    let text = std::fs::read_to_string(&file)?;
    Ok(std::fs::write(&file, text.replace(&format!("\"owner\":{}", std::process::id()), "\"owner\":4194305"))?)
}

/// A zombie is as good as gone: it waits for its parent, this process, which is not to be.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
