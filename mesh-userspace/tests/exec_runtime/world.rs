//! What a task sees of the machine, and what not.

use std::fs;

use mesh_userspace::model::{LogStream, Mount, MountOptions, Resources};
use mesh_userspace::runtime::{RuntimeError, TaskRuntime};

use crate::stage::{Stage, launch, request, shell, stage, text};

#[tokio::test]
async fn a_task_has_namespaces_and_a_name_of_its_own() {
    let Some(stage) = stage() else { return };
    let task = shell(
        "for ns in net mnt pid uts cgroup ipc user; do readlink /proc/self/ns/$ns; done; hostname; echo $HOSTNAME",
    );
    let name = task.hostname.clone();
    let (exit, lines) = stage.output_of(task).await;
    assert_eq!(exit.code, 0, "{lines:?}");
    let lines = text(&lines);
    for (index, namespace) in ["net", "mnt", "pid", "uts", "cgroup"].iter().enumerate() {
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).expect("own namespace");
        assert_ne!(lines[index], host.to_str().expect("text"), "{namespace} is the host's");
    }
    assert_eq!(lines[7..], [name.as_str(), name.as_str()]);
}

#[tokio::test]
async fn a_task_has_its_own_files_of_etc() {
    let Some(stage) = stage() else { return };
    let mut task =
        shell("cat /etc/hostname /etc/resolv.conf; grep 10.0.16.7 /etc/hosts; getent hosts localhost | wc -l");
    task.search = vec!["example.org".into()];
    let name = task.hostname.clone();
    let host_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let (_, lines) = stage.output_of(task).await;
    let lines = text(&lines);
    assert_eq!(lines[0], name);
    assert!(lines.contains(&"nameserver 10.0.16.1") && lines.contains(&"search example.org"), "{lines:?}");
    assert!(lines.contains(&"options ndots:0") && lines.contains(&format!("10.0.16.7\t{name}").as_str()), "{lines:?}");
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), host_resolv, "the host's is untouched");
}

#[tokio::test]
async fn our_state_and_bpffs_are_masked_and_kernel_settings_closed() {
    let Some(stage) = stage() else { return };
    let state = stage.state_dir.path().display().to_string();
    let script = format!(
        "ls -A {state} | wc -l; ls -A /sys/fs/bpf | wc -l; touch {state}/x 2>/dev/null; echo $?; \
         ls /sys/class/net; cat /proc/net/dev | grep -c :; ls /dev/pts; \
         echo 1 2>/dev/null > /proc/sys/kernel/printk; echo $?; ps -e -o pid= | head -1 | tr -d ' '; cat /proc/self/cgroup | grep ^0"
    );
    let (_, lines) = stage.output_of(shell(&script)).await;
    assert_eq!(text(&lines), ["0", "0", "1", "lo", "1", "ptmx", "2", "1", "0::/"]);
}

#[tokio::test]
async fn a_bpffs_is_masked_wherever_it_is_mounted() {
    let Some(plain) = stage() else { return };
    let dir = tempfile::Builder::new().prefix("mesh-runtime-bpf-").tempdir().expect("directory");
    let path = dir.path().display();
    let script = format!("mount -t bpf none {path}; mkdir {path}/ours; exec \"$@\"");
    let program = ["unshare", "-m", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_mesh")];
    let stage = Stage::with_program(plain.config.cgroup_root.clone(), program.iter().map(Into::into).collect());
    let (_, lines) = stage.output_of(shell(&format!("stat -f -c %T {path}; ls {path} | wc -l"))).await;
    assert_eq!(text(&lines), ["tmpfs", "0"]);
}

#[tokio::test]
async fn a_task_has_dockers_capabilities_and_gains_none() {
    let Some(stage) = stage() else { return };
    let script =
        "grep -E 'Cap|NoNewPrivs' /proc/self/status | tr -d '\\t'; grep SigIgn /proc/self/status | tr -d '\\t'; umask";
    let (_, lines) = stage.output_of(shell(script)).await;
    let set = "00000000a80425fb";
    let expected = [
        "CapInh:0000000000000000".to_owned(),
        format!("CapPrm:{set}"),
        format!("CapEff:{set}"),
        format!("CapBnd:{set}"),
        "CapAmb:0000000000000000".to_owned(),
        "NoNewPrivs:1".to_owned(),
        // 32 and 33 are the C library's own; its posix_spawn ignores them in every child.
        "SigIgn:0000000180000000".to_owned(),
        "0022".to_owned(),
    ];
    assert_eq!(text(&lines), expected);
}

#[tokio::test]
async fn another_user_has_no_capabilities_but_may_ping_and_bind_low_ports() {
    let Some(stage) = stage() else { return };
    let mut task = shell(
        "id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status | tr -d '\\t'; ping -c 1 -W 2 127.0.0.1 > /dev/null; \
         echo $?; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo said > /dev/stderr",
    );
    task.user = Some("nobody".into());
    let (_, lines) = stage.output_of(task).await;
    let wanted = ["65534", "65534", "65534", "/nonexistent", "CapEff:0000000000000000", "0", "0", "said"];
    let mut lines = lines;
    // The two streams are two pipes: their order among each other is not fixed.
    lines.sort_by_key(|line| line.stream == LogStream::Stderr);
    assert_eq!(text(&lines), wanted);
    assert_eq!(lines.last().expect("lines").stream, LogStream::Stderr);
}

#[tokio::test]
async fn environment_directory_and_mounts_are_as_asked() {
    let Some(stage) = stage() else { return };
    let shared = tempfile::tempdir().expect("directory");
    fs::write(shared.path().join("file"), "from the host").expect("written");
    let target = tempfile::tempdir().expect("directory");
    let mount = |kind: &str, read_only| Mount {
        kind: kind.into(),
        source: shared.path().display().to_string(),
        target: target.path().display().to_string(),
        read_only,
        ..Mount::default()
    };
    let mut task = shell("echo $A; pwd; cat file; touch new 2>/dev/null || echo read-only; env | grep -c ^MESH");
    task.env = vec!["A=1 2".into()];
    task.workdir = Some(target.path().display().to_string());
    task.mounts = vec![mount("bind", true)];
    let (_, lines) = stage.output_of(task).await;
    let pwd = target.path().display().to_string();
    assert_eq!(text(&lines), ["1 2", &pwd, "from the hostread-only", "0"]);
    assert!(fs::read_dir(target.path()).expect("target").next().is_none(), "the host does not see the mount");

    let mut task = shell("df -k . | awk 'END {print $2}'; stat -c %a .");
    task.workdir = Some(target.path().display().to_string());
    let sized = MountOptions { tmpfs_size_bytes: Some(1 << 20), tmpfs_mode: Some(0o700), ..MountOptions::default() };
    task.mounts = vec![Mount { options: sized, ..mount("tmpfs", false) }];
    let (_, lines) = stage.output_of(task).await;
    assert_eq!(text(&lines), ["1024", "700"]);

    let mut task = shell("true");
    task.mounts = vec![mount("volume", false)];
    let error = stage.runtime.prepare(task).await.expect_err("volumes are not there");
    assert!(matches!(&error, RuntimeError::Rejected { reason, .. } if reason.contains("type 'volume'")), "{error}");
}

#[tokio::test]
async fn what_can_not_be_run_here_is_rejected_and_leaves_nothing() {
    let Some(stage) = stage() else { return };
    let mut unknown_user = shell("true");
    unknown_user.user = Some("no-such-user".into());
    let mut no_target = shell("true");
    no_target.mounts = vec![Mount { kind: "tmpfs".into(), target: "/no/such/place".into(), ..Mount::default() }];
    let mut limited = shell("true");
    limited.resources = Resources { limit_memory_bytes: Some(64 << 20), ..Resources::default() };
    let has_memory = fs::read_to_string(stage.config.cgroup_root.join("cgroup.controllers"))
        .is_ok_and(|controllers| controllers.contains("memory"));
    for (task, word) in [
        (unknown_user, "no-such-user"),
        (no_target, "/no/such/place"),
        (launch(&[]), "command"),
        (limited, "controller"),
    ] {
        if word == "controller" && has_memory {
            continue;
        }
        let id = task.task_id.clone();
        let error = stage.runtime.prepare(task).await.expect_err("rejected");
        assert!(matches!(&error, RuntimeError::Rejected { reason, .. } if reason.contains(word)), "{error}");
        assert!(!stage.cgroup(&id).exists() && stage.runtime.list().await.expect("list").is_empty(), "{word}");
    }
}

#[tokio::test]
async fn a_missing_or_dangling_resolv_conf_is_no_obstacle() {
    let Some(plain) = stage() else { return };
    for (index, make) in ["true", "ln -s /run/nowhere/resolv.conf $E/resolv.conf"].iter().enumerate() {
        // The supervisor in a mount namespace whose /etc lacks the file.
        let etc = tempfile::Builder::new().prefix("mesh-runtime-etc-").tempdir().expect("directory");
        let script = format!(
            "E={}; cp -a /etc/passwd /etc/group /etc/hosts $E/; {make}; mount --bind $E /etc; exec \"$@\"",
            etc.path().display()
        );
        let program = ["unshare", "-m", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_mesh")];
        let stage = Stage::with_program(plain.config.cgroup_root.clone(), program.iter().map(Into::into).collect());
        let (exit, lines) = stage.output_of(shell("grep nameserver /etc/resolv.conf; ls /etc | wc -l")).await;
        assert_eq!(exit.code, 0, "case {index}");
        assert_eq!(text(&lines), ["nameserver 10.0.16.1", "5"], "case {index}");
        let left: Vec<_> = fs::read_dir(etc.path()).expect("etc").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 3 + index, "the host's /etc is untouched: {left:?}");
    }
}

#[tokio::test]
async fn a_second_task_of_one_id_is_refused() {
    let Some(stage) = stage() else { return };
    let task = shell("sleep 60");
    let (id, _) = stage.run(task.clone()).await;
    let error = stage.runtime.prepare(task).await.expect_err("exists");
    assert!(matches!(error, RuntimeError::Exists { .. }), "{error}");
    assert_eq!(stage.exec(&id, request(&["true"])).await.0, 0, "the first one still runs");
}
