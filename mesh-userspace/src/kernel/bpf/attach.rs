//! Programs on devices and on the cgroup: pinned, attached by TCX, swapped. What has no TCX is `filters.rs`'s, XDP, which may be refused, `xdp.rs`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkType, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{CgroupAttachMode, LinkOrder, Program, SchedClassifier, TcAttachType};
use mesh_common::verdict::Hook;

use super::filters::TcWay;
use super::pin::{chain, path_error, replace};
use super::{BpfError, Dataplane};

/// A packet program on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    pub hook: &'static str,
    pub interface: String,
    pub ifindex: u32,
}

impl Attachment {
    pub fn new(hook: Hook, interface: &str, ifindex: u32) -> Self {
        Attachment { hook: hook.name(), interface: interface.to_string(), ifindex }
    }

    /// File name of the pinned link: by index, since a new device may take an old one's name.
    pub(super) fn pin_name(&self) -> String {
        format!("{}-{}", self.hook, self.ifindex)
    }

    pub(super) fn is_at_egress(&self) -> bool {
        self.hook == Hook::FromHost.name()
    }

    fn direction(&self) -> TcAttachType {
        if self.is_at_egress() { TcAttachType::Egress } else { TcAttachType::Ingress }
    }
}

impl Dataplane {
    /// Pins all programs, loaded before, in place of an earlier agent's.
    pub(super) fn pin_programs(&mut self) -> Result<(), BpfError> {
        for (name, program) in self.ebpf.programs_mut() {
            // XDP may be refused: `xdp.rs` loads and pins its own.
            if matches!(program, Program::Xdp(_)) {
                continue;
            }
            let pinned = replace(&self.dir.join("progs").join(name), |path| program.pin(path))?;
            pinned.map_err(|error| BpfError::Load(format!("pin {name}: {}", chain(&error))))?;
        }
        Ok(())
    }

    /// Puts this build's programs under the links that an earlier agent pinned; links of vanished devices are unpinned.
    pub(super) fn adopt_links(&mut self) -> Result<(), BpfError> {
        for path in pins(&self.dir.join("links"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hook = Hook::ALL.into_iter().find(|hook| name.starts_with(&format!("{}-", hook.name())));
            let Some(hook) = hook else { continue };
            let ifindex = name.rsplit('-').next().and_then(|index| index.parse().ok()).unwrap_or(0);
            let Some(interface) = interface_name(ifindex) else {
                std::fs::remove_file(&path)
                    .map_err(|source| path_error("unpin the link of a vanished device", &path, source))?;
                continue;
            };
            let attachment = Attachment::new(hook, &interface, ifindex);
            let failed = |reason: String| attach_error(&attachment, reason);
            let old = PinnedLink::from_pin(&path).map_err(|error| failed(chain(&error)))?;
            let link =
                FdLink::from(old).try_into().map_err(|error: aya::programs::links::LinkError| failed(chain(&error)))?;
            let program = classifier(&mut self.ebpf, hook.name())?;
            let id = match program.attach_to_link(link) {
                // The device went at this very moment, or while no agent was there and another one has its number now.
                Err(error) if is_severed(&error) => {
                    std::fs::remove_file(&path)
                        .map_err(|source| path_error("unpin the link of a vanished device", &path, source))?;
                    continue;
                }
                attached => attached.map_err(|error| failed(chain(&error)))?,
            };
            // Still pinned: letting go of the file descriptor does not detach.
            drop(program.take_link(id).map_err(|error| failed(chain(&error)))?);
            self.attached.insert(attachment.pin_name(), attachment);
        }
        Ok(())
    }

    /// Makes the attachments exactly these. Errors are collected: one bad device does not keep the others from being served.
    pub fn attach(&mut self, wanted: &BTreeSet<Attachment>) -> Vec<BpfError> {
        let wanted: BTreeMap<String, &Attachment> = wanted.iter().map(|a| (a.pin_name(), a)).collect();
        let mut errors = Vec::new();
        self.look_after_filters();
        let unwanted: Vec<String> = self.attached.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        errors.extend(unwanted.iter().filter_map(|name| self.unpin(name).err()));
        let unwanted = self.filtered.iter().filter(|(name, _)| !wanted.contains_key(*name));
        let unwanted: Vec<Attachment> = unwanted.map(|(_, attachment)| attachment.clone()).collect();
        errors.extend(unwanted.iter().filter_map(|attachment| self.unfilter(attachment).err()));
        errors.extend(wanted.values().filter_map(|attachment| self.ensure(attachment).err()));
        errors
    }

    /// Attaches one program, if it is not attached already. What an earlier agent attached the other way goes when this one is there: for a
    /// moment both run, and the first decides.
    pub fn ensure(&mut self, attachment: &Attachment) -> Result<(), BpfError> {
        let name = attachment.pin_name();
        match self.tc {
            TcWay::Tcx => {
                if !self.attached.contains_key(&name) {
                    self.attach_one(attachment, &self.dir.join("links").join(&name))?;
                    self.attached.insert(name, attachment.clone());
                }
                self.unfilter(attachment)
            }
            TcWay::Clsact => {
                if !self.filtered.contains_key(&name) {
                    self.put_filter(attachment)?;
                    self.filtered.insert(name.clone(), attachment.clone());
                }
                self.unpin(&name)
            }
        }
    }

    /// Takes a link away, if there is one.
    fn unpin(&mut self, name: &str) -> Result<(), BpfError> {
        if !self.attached.contains_key(name) {
            return Ok(());
        }
        let path = self.dir.join("links").join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(path_error("unpin the link", &path, source));
            }
            _ => drop(self.attached.remove(name)),
        }
        Ok(())
    }

    /// Takes a filter away, if there is one.
    fn unfilter(&mut self, attachment: &Attachment) -> Result<(), BpfError> {
        let name = attachment.pin_name();
        if self.filtered.contains_key(&name) {
            self.remove_filter(attachment)?;
            self.filtered.remove(&name);
        }
        Ok(())
    }

    fn attach_one(&mut self, attachment: &Attachment, path: &Path) -> Result<(), BpfError> {
        let failed = |reason: String| attach_error(attachment, reason);
        let program = classifier(&mut self.ebpf, attachment.hook)?;
        // First, before monitoring tools: what they see is what goes on.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let attached = program.attach_with_options(&attachment.interface, attachment.direction(), options);
        let id = attached.map_err(|error| failed(chain(&error)))?;
        let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
        let link: FdLink = link.try_into().map_err(|error: aya::programs::links::LinkError| failed(chain(&error)))?;
        link.pin(path).map_err(|error| failed(chain(&error)))?;
        Ok(())
    }

    /// Hooks the socket calls of processes in `cgroup` and below. The new program is attached and pinned before the old one goes, so
    /// that they are hooked at every moment, even if this agent dies here: for a moment both run, and the second finds nothing left to do.
    pub(super) fn hook_sockets(&mut self, cgroup: &Path) -> Result<(), BpfError> {
        let file = File::open(cgroup).map_err(|source| path_error("open the cgroup", cgroup, source))?;
        for (name, program) in self.ebpf.programs_mut() {
            let Program::CgroupSockAddr(program) = program else { continue };
            let failed = |reason: String| BpfError::Attach {
                program: name.to_string(),
                target: cgroup.display().to_string(),
                reason: format!("{reason}; --cgroup must name a directory of a cgroup2 file system"),
            };
            // A cgroup link takes no flags: links of many always stand side by side (kernel/bpf/cgroup.c).
            let id = program.attach(&file, CgroupAttachMode::Single).map_err(|error| failed(chain(&error)))?;
            let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
            let link: FdLink =
                link.try_into().map_err(|error: aya::programs::links::LinkError| failed(chain(&error)))?;
            let path = self.dir.join("links").join(name);
            replace(&path, |path| link.pin(path).map(drop))?.map_err(|error| failed(chain(&error)))?;
        }
        Ok(())
    }

    /// What is attached where, with the kernel's word on each link and filter.
    pub fn attachments(&self) -> Vec<(Attachment, bool)> {
        let is_live = |name: &String| {
            let link = PinnedLink::from_pin(self.dir.join("links").join(name)).map(FdLink::from);
            link.and_then(|link| link.info()).and_then(|info| info.link_type()).is_ok_and(|kind| kind == LinkType::Tcx)
        };
        let links = self.attached.iter().map(|(name, attachment)| (attachment.clone(), is_live(name)));
        let filters = self.filtered.values().map(|attachment| (attachment.clone(), self.is_filtered(attachment)));
        links.chain(filters).collect()
    }
}

/// ENOLINK: the link's device is gone (tcx_link_update in kernel/bpf/tcx.c).
fn is_severed(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let os = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        if os == Some(libc::ENOLINK) {
            return true;
        }
        cause = error.source();
    }
    false
}

pub(super) fn classifier<'a>(ebpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut SchedClassifier, BpfError> {
    let program = ebpf.program_mut(name).ok_or_else(|| BpfError::Load(format!("the object has no program {name}")))?;
    program.try_into().map_err(|error: aya::programs::ProgramError| BpfError::Load(chain(&error)))
}

pub(super) fn attach_error(attachment: &Attachment, reason: String) -> BpfError {
    BpfError::Attach { program: attachment.hook.to_string(), target: attachment.interface.clone(), reason }
}

pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    Some(name.to_string_lossy().into_owned())
}

pub(super) fn pins(dir: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let entries = std::fs::read_dir(dir).map_err(|source| path_error("read", dir, source))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
