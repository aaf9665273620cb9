//! TC programs as filters of clsact, where the kernel has no TCX: adopted, put, looked after, taken away.
//!
//! A filter is not pinned: it is found by its place on the device, and swapped there. Anybody may take one away (`tc qdisc del`), so those on
//! uplinks are looked for in every round; the other devices are ours. Invariant: a device's hook is served by a link or by a filter, and at no moment by
//! neither. Must not: speak netlink, which is `kernel::net`'s.

use mesh_common::verdict::Hook;

use super::attach::{Attachment, attach_error, classifier, interface_name};
use super::{BpfError, Dataplane};
use crate::kernel::filter::Direction;

/// How TC programs get onto devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcWay {
    /// By links, of Linux 6.6 and newer.
    Tcx,
    /// As filters.
    Clsact,
}

impl Attachment {
    fn end(&self) -> Direction {
        if self.is_at_egress() { Direction::Egress } else { Direction::Ingress }
    }
}

impl Dataplane {
    /// Puts this build's programs in place of those of filters that an earlier agent left.
    pub(super) fn adopt_filters(&mut self) -> Result<(), BpfError> {
        let links =
            nix::net::if_::if_nameindex().map_err(|errno| BpfError::Load(format!("list the links: {errno}")))?;
        for ifindex in links.iter().map(nix::net::if_::Interface::index) {
            let ours = match self.filters.ours(ifindex) {
                Ok(ours) => ours,
                Err(error) => {
                    // It went meanwhile, or the round says what is wrong with it.
                    log::debug!("filters of link {ifindex}: {error}");
                    continue;
                }
            };
            for filter in ours {
                let Some(interface) = interface_name(ifindex) else { continue };
                match Hook::ALL.into_iter().find(|hook| hook.name() == filter.program) {
                    Some(hook) => {
                        let attachment = Attachment::new(hook, &interface, ifindex);
                        self.put_filter(&attachment)?;
                        self.filtered.insert(attachment.pin_name(), attachment);
                    }
                    // Another version's, for a hook that is none any more.
                    None => self.filters.remove(ifindex, filter.direction).unwrap_or_else(|error| {
                        log::warn!("remove the filter {} of {interface}: {error}", filter.program);
                    }),
                }
            }
        }
        Ok(())
    }

    /// Puts the program there, in place of what is there of ours.
    pub(super) fn put_filter(&mut self, attachment: &Attachment) -> Result<(), BpfError> {
        let failed = |reason: String| attach_error(attachment, reason);
        let program = classifier(&mut self.ebpf, attachment.hook)?;
        let fd = program.fd().map_err(|error| failed(super::pin::chain(&error)))?;
        let put = self.filters.put(attachment.ifindex, attachment.end(), attachment.hook, std::os::fd::AsFd::as_fd(fd));
        put.map_err(|error| failed(error.to_string()))
    }

    /// Takes the filter away; a device that is gone took its own along.
    pub(super) fn remove_filter(&mut self, attachment: &Attachment) -> Result<(), BpfError> {
        let removed = self.filters.remove(attachment.ifindex, attachment.end());
        removed.map_err(|error| attach_error(attachment, format!("take its filter away: {error}")))
    }

    /// Forgets filters of uplinks that somebody took away or put another program into, so that they are put again.
    pub(super) fn look_after_filters(&mut self) {
        let uplinks = self.filtered.values().filter(|attachment| attachment.hook == Hook::FromUplink.name());
        let lost: Vec<Attachment> = uplinks.filter(|attachment| !self.is_filtered(attachment)).cloned().collect();
        for attachment in lost {
            log::warn!(
                "the filter {} of {} was taken away; it is put there again",
                attachment.hook,
                attachment.interface
            );
            self.filtered.remove(&attachment.pin_name());
        }
    }

    /// Whether the kernel has our program as this filter.
    pub(super) fn is_filtered(&self, attachment: &Attachment) -> bool {
        let program = self.ebpf.program(attachment.hook).and_then(|program| program.info().ok());
        let Some(id) = program.map(|info| info.id()) else { return false };
        let there = self.filters.ours(attachment.ifindex).unwrap_or_default();
        there.iter().any(|filter| filter.direction == attachment.end() && filter.program_id == id)
    }
}
