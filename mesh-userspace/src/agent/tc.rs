//! How TC programs get onto devices: by TCX where the kernel has it, else as filters of clsact. Asked of the kernel, not guessed from its release.

use anyhow::bail;

use super::settings::TcMode;
use crate::kernel::bpf::{TcWay, survey};
use crate::kernel::net::filters;

/// Whether this kernel takes our programs as filters; the error where not.
pub fn try_clsact() -> Result<(), String> {
    filters::probe(survey::trial_program)
}

/// The way to go; an error in words where the kernel lacks it.
pub fn choose(mode: TcMode) -> anyhow::Result<TcWay> {
    if mode != TcMode::Clsact {
        match (survey::tcx(), mode) {
            (Ok(()), _) => return Ok(TcWay::Tcx),
            (Err(error), TcMode::Tcx) => {
                bail!("this kernel has no TCX ({error}): start the agent with --tc auto, or on Linux 6.6 or newer");
            }
            (Err(error), _) => log::info!("no TCX here ({error}): TC programs become filters of clsact"),
        }
    }
    match try_clsact() {
        Ok(()) => Ok(TcWay::Clsact),
        Err(error) => bail!(
            "TC programs can't be attached as filters: {error}; load the kernel's modules with 'modprobe -a sch_ingress cls_bpf', or start a kernel with TCX \
             (Linux 6.6)"
        ),
    }
}
