//! The machine with Debian 12's kernel: what is in it, how it is run, what it says.
//!
//! It has no disk and no network, says everything on its serial line, and ends by itself or at a limit. What counts begins with [`MARK`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::image::Image;
use super::table::Counts;
use crate::setup::guest::Kernel;
use crate::workspace::Workspace;
use crate::{build, process};

/// Begins lines that are read here.
const MARK: &str = "verify: ";
/// What a test says that finds it can't run.
const NOT_RUN: &str = "NOT RUN: ";
/// After this the machine is ended. Emulation is some twenty times slower than the machine it runs on.
const LIMIT_S: u32 = 1_800;
/// Test binaries of tests/suites that are played. The model's is one load of the programs for very many packets; it comes last, for some of what it plants is
/// older than a machine that has just started.
const WALKS: [&str; 3] = ["scenario_clsact", "lab_vlan", "packet_model"];
/// Frames that the model is asked about there.
const FRAMES: u32 = 100_000;
/// In the order in which they are loaded: what others need comes first.
const MODULES: [&str; 12] = [
    "udp_tunnel",
    "ip6_udp_tunnel",
    "vxlan",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "llc",
    "stp",
    "bridge",
    "garp",
    "mrp",
    "8021q",
];
/// Programs that the walks run.
const TOOLS: [&str; 8] = ["ip", "tc", "ping", "tcpdump", "nsenter", "unshare", "mount", "bpftool"];

/// What was found out.
#[derive(Debug)]
pub struct Said {
    pub release: String,
    pub counts: Counts,
    /// Walks that were played, and whether all was well.
    pub walks: Vec<(String, bool)>,
    /// What a walk could not do there.
    pub not_run: Vec<String>,
}

/// First process: tasks want a root that can be mounted over, which an initramfs is not.
const FIRST: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t tmpfs -o size=70% root /new
cp -a /bin /lib* /usr /etc /t /modules /init2 /new/
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/root /new/var/lib
exec switch_root /new /init2
";

pub fn run(workspace: &Workspace, kernel: &Kernel, plays: bool) -> Result<Said> {
    let image = workspace.target.join("verify.cpio");
    std::fs::write(&image, pack(workspace, kernel, plays)?).with_context(|| format!("writing {}", image.display()))?;
    let mut command = Command::new("timeout");
    command.arg(LIMIT_S.to_string()).arg("qemu-system-x86_64");
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
    command.args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&image);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]).stdin(Stdio::null());
    let mut lines = Vec::new();
    let status = process::follow(&mut command, |line| lines.push(line.trim_end().to_owned()))?;
    if !status.success() {
        bail!("the machine did not end within {LIMIT_S} s ({status}); what it said last stands above");
    }
    let said = read(&lines)?;
    if plays && said.walks.len() != WALKS.len() {
        bail!("the machine ended in the midst of its walks, after {} of {}", said.walks.len(), WALKS.len());
    }
    Ok(said)
}

/// What the marked lines say.
fn read(lines: &[String]) -> Result<Said> {
    let mut said = Said { release: String::new(), counts: Counts::new(), walks: Vec::new(), not_run: Vec::new() };
    for line in lines {
        said.not_run.extend(line.split_once(NOT_RUN).map(|(_, what)| what.to_owned()));
        let Some((_, marked)) = line.split_once(MARK) else { continue };
        match marked.split(' ').collect::<Vec<_>>()[..] {
            ["kernel", release] => said.release = release.to_owned(),
            ["walk", name, status] => said.walks.push((name.to_owned(), status == "0")),
            _ => said.counts.extend([super::counted(marked)?]),
        }
    }
    if said.release.is_empty() || said.counts.is_empty() {
        bail!("the machine ended before it had said anything of the programs");
    }
    Ok(said)
}

/// Second process: loads what is needed, asks the verifier, plays, ends the machine.
fn second(plays: bool) -> String {
    let modules = MODULES.map(|name| format!("insmod /modules/{name}.ko")).join("\n");
    let walks = WALKS.map(|name| {
        format!(
            "MESH_MUST_RUN=1 MESH_EMULATED=1 MODEL_FRAMES={FRAMES} ./deps/{name} --test-threads=1 --nocapture 2>&1\necho \"{MARK}walk {name} $?\"\n\
             echo \"after $(cut -d ' ' -f 1 /proc/uptime) s\""
        )
    });
    let play = format!(
        "cd /t/debug\n{}\nfind . -name '*agent.log' -path '*failures*' | while read log; do echo \"== $log\"; tail -n 30 $log; done\n",
        walks.join("\n")
    );
    format!(
        "#!/bin/busybox sh
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount --make-rshared /
ip link set lo up
{modules}
echo \"{MARK}kernel $(uname -r)\"
/t/debug/mesh-verifier /t/bpf/mesh-ebpf | sed 's/^/{MARK}/'
{}
echo \"ended after $(cut -d ' ' -f 1 /proc/uptime) s\"
poweroff -f
",
        if plays { play.as_str() } else { "" }
    )
}

fn pack(workspace: &Workspace, kernel: &Kernel, plays: bool) -> Result<Vec<u8>> {
    let mut image = Image::default();
    for folder in ["/new", "/proc", "/sys", "/dev"] {
        image.folder(folder);
    }
    image.program("/bin/busybox", &found("busybox")?)?;
    image.text("/init", FIRST, 0o755);
    image.text("/init2", &second(plays), 0o755);
    image.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
    image.text("/etc/group", "root:x:0:\n", 0o644);
    image.text("/etc/hosts", "127.0.0.1 localhost\n", 0o644);
    image.text("/etc/hostname", "guest\n", 0o644);
    image.text("/etc/resolv.conf", "nameserver 127.0.0.1\n", 0o644);
    for name in MODULES {
        image.file(&format!("/modules/{name}.ko"), &kernel.module(name)?)?;
    }
    image.file("/t/bpf/mesh-ebpf", &workspace.object("mesh-ebpf"))?;
    // Where the test binaries look for them: above their own folder.
    let mut binaries = vec![(String::from("/t/debug/mesh-verifier"), workspace.binary("mesh-verifier"))];
    if plays {
        binaries.extend(["mesh", "whoami", "ask"].map(|name| (format!("/t/debug/{name}"), workspace.binary(name))));
        binaries.extend(walks(workspace)?.into_iter().map(|(name, from)| (format!("/t/debug/deps/{name}"), from)));
        for name in TOOLS {
            image.program(&format!("/usr/bin/{name}"), &found(name)?)?;
        }
    } else {
        image.program("/usr/bin/ip", &found("ip")?)?;
    }
    for (path, from) in binaries {
        image.program(&path, &stripped(workspace, &from)?)?;
    }
    Ok(image.finish())
}

fn found(program: &str) -> Result<PathBuf> {
    process::find(program).with_context(|| format!("there is no {program} here: run `cargo xtask setup`"))
}

/// Without debug information, which is nine tenths of a debug build.
fn stripped(workspace: &Workspace, binary: &Path) -> Result<PathBuf> {
    let folder = workspace.target.join("verify");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let stripped = folder.join(binary.file_name().context("a binary without a name")?);
    process::run(Command::new("strip").arg("-o").arg(&stripped).arg(binary))?;
    Ok(stripped)
}

/// The test binaries, built.
fn walks(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let packages = build::PACKAGES.iter().flat_map(|package| ["--package", package]);
    let mut command = workspace.cargo();
    command.args(["test", "--no-run", "--message-format=json"]).args(packages);
    command.args(WALKS.iter().flat_map(|name| ["--test", name]));
    let said = process::read(&mut command)?;
    let messages: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let binary = |name: &str| {
        let found =
            messages.iter().find(|message| message["target"]["name"] == name && message["executable"].is_string());
        let path = found.and_then(|message| message["executable"].as_str());
        path.map(|path| (name.to_owned(), PathBuf::from(path))).with_context(|| format!("cargo built no test {name}"))
    };
    WALKS.iter().map(|name| binary(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_lines_are_the_findings() {
        let line = |text: &str| text.to_string();
        let counted = line(r#"verify: {"program":"sweep","walked":62854,"machine_bytes":2681}"#);
        let lines =
            [line("verify: kernel 6.1.0-56-amd64"), counted, line("NOT RUN: vlan: none"), line("verify: walk a 101")];
        let said = read(&lines).unwrap();
        assert_eq!((said.release.as_str(), said.counts.len()), ("6.1.0-56-amd64", 1));
        assert_eq!((said.walks, said.not_run), (vec![("a".into(), false)], vec!["vlan: none".into()]));
        assert!(read(&[line("verify: kernel 6.1")]).is_err(), "it fell over");
    }

    #[test]
    fn modules_are_loaded_after_those_they_need() {
        let at = |name: &str| MODULES.iter().position(|module| *module == name);
        let needs = [
            ("vxlan", "udp_tunnel"),
            ("vxlan", "ip6_udp_tunnel"),
            ("bridge", "stp"),
            ("stp", "llc"),
            ("8021q", "garp"),
            ("8021q", "mrp"),
        ];
        assert!(needs.iter().all(|(module, needed)| at(needed) < at(module)));
        assert!(second(true).contains("lab_vlan") && !second(false).contains("lab_vlan"));
    }
}
