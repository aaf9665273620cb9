//! The devices that a test run needs: its packets arrive at real ones, and route lookups need real routes.
//!
//! They live in a network namespace that belongs to the calling thread alone and ends with it. Nothing is named, nothing is left.

use std::ffi::CString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::wire::mac;
use nix::sched::{CloneFlags, unshare};

/// Host sides of task veths that a rig has.
pub const TASK_LINKS: u32 = 4;
/// Our own address on the uplink.
pub const HERE: [u8; 4] = [192, 0, 2, 1];
/// The router on the uplink's wire.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// Interface indexes.
#[derive(Clone, Debug)]
pub struct Devices {
    pub mesh0: u32,
    pub uplink: u32,
    pub tasks: Vec<u32>,
}

/// Moves the calling thread into a network namespace of its own with mesh0, an uplink with a default route, and task veths.
pub fn build() -> Result<Devices> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    let mut batch = String::from(
        "link set lo up\n\
         link add mesh0 address e6:12:00:00:00:01 type vxlan external dstport 4789\n\
         link set mesh0 up\n\
         link add up0 address 02:00:00:00:00:01 type veth peer name wire\n\
         address add 192.0.2.1/24 dev up0\n\
         address add fd00::192.0.2.1/120 dev up0 nodad\n\
         link set up0 up\n\
         link set wire up\n\
         route add default via 192.0.2.254 dev up0\n\
         route add unreachable 203.0.113.0/24\n\
         route add ::/0 via fd00::192.0.2.254 dev up0\n\
         route add unreachable fd00::203.0.113.0/120\n\
         neighbour add 192.0.2.254 lladdr 02:00:00:00:00:fe dev up0 nud permanent\n\
         neighbour add fd00::192.0.2.254 lladdr 02:00:00:00:00:fe dev up0 nud permanent\n",
    );
    let gateway = mac::GATEWAY.map(|byte| format!("{byte:02x}")).join(":");
    for number in 1..=TASK_LINKS {
        // The host's side has the gateway's address, as the agent gives it: so what a task sends there is for this host.
        batch +=
            &format!("link add mv{number} address {gateway} type veth peer name eth{number}\nlink set mv{number} up\n");
        batch += &format!("link set eth{number} up\n");
    }
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]);
    mesh_lab::run_command(ip, &batch, Duration::from_secs(20))?.ok().context("making devices")?;
    // What the agent does with the real one (docs/decisions/0002): route lookups for tasks ask as if from mesh0.
    for family in ["ipv4", "ipv6"] {
        let forwarding = format!("/proc/sys/net/{family}/conf/mesh0/forwarding");
        std::fs::write(forwarding, "1").with_context(|| format!("mesh0 forwarding {family}"))?;
    }
    Ok(Devices {
        mesh0: index("mesh0")?,
        uplink: index("up0")?,
        tasks: (1..=TASK_LINKS).map(|number| index(&format!("mv{number}"))).collect::<Result<_>>()?,
    })
}

/// The index of a device of the calling thread's namespace.
pub fn index(name: &str) -> Result<u32> {
    let text = CString::new(name)?;
    // SAFETY: the name is a C string that lives through the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    ensure!(index != 0, "there is no device {name}");
    Ok(index)
}
