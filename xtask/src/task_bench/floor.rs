//! The kernel's floor: the least that any runtime must ask of the kernel to run `true` in a container.
//!
//! New mount, pid, host name, IPC and cgroup namespaces (and network, if asked), an overlay, a fresh /proc, pivot_root, exec,
//! reap; and with `cgroups` the directories and the joining that a runtime with limits does.

use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};

use palan_linux::mount::{self, Attributes, FileSystem, OverlayOptions, Propagation};
use palan_linux::namespace::Kinds;
use palan_linux::process::{self, ForkOptions, Forked};

use crate::Failure;

/// What the floor includes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    pub(crate) network: bool,
    pub(crate) cgroups: bool,
}

/// The version 1 hierarchies that this host mounts, or the single one of version 2.
pub(super) fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return vec![root.to_owned()];
    }
    let names = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];
    names.iter().map(|name| root.join(name)).filter(|path| path.join("cgroup.procs").exists()).collect()
}

impl Floor {
    /// Runs `/bin/true` of `rootfs` once.
    pub(crate) fn run(self, rootfs: &Path, scratch: &Path) -> Result<(), Failure> {
        for name in ["upper", "work"] {
            let path = scratch.join(name);
            std::fs::remove_dir_all(&path).ok();
            std::fs::create_dir_all(&path)?;
        }
        let groups = if self.cgroups { self.make_cgroups()? } else { Vec::new() };
        let mut kinds = Kinds::MOUNT
            | Kinds::PROCESS_ID
            | Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME
            | Kinds::INTER_PROCESS_COMMUNICATION
            | Kinds::CONTROL_GROUP;
        if self.network {
            kinds |= Kinds::NETWORK;
        }
        let options = ForkOptions { namespaces: Some(kinds), ..ForkOptions::default() };
        let ended = match process::fork(&options)? {
            Forked::Parent(child) => process::wait(&child.pidfd)?.code(),
            Forked::Child => {
                let code = inside(rootfs, scratch, &groups).unwrap_or(125);
                process::exit_now(code)
            }
        };
        for group in groups {
            if let Some(directory) = group.parent() {
                std::fs::remove_dir(directory)?;
            }
        }
        if ended == 0 { Ok(()) } else { Err(format!("the floor's process ended with {ended}").into()) }
    }

    /// Makes a cgroup in each hierarchy; returns the files to join by.
    fn make_cgroups(self) -> Result<Vec<PathBuf>, Failure> {
        let mut files = Vec::new();
        for hierarchy in hierarchies() {
            let directory = hierarchy.join("palan-floor");
            std::fs::create_dir_all(&directory)?;
            let second = hierarchy.ends_with("cgroup");
            if hierarchy.ends_with("cpuset") {
                for name in ["cpuset.cpus", "cpuset.mems"] {
                    std::fs::write(directory.join(name), std::fs::read(hierarchy.join(name))?)?;
                }
            }
            files.push(directory.join(if second { "cgroup.procs" } else { "tasks" }));
        }
        Ok(files)
    }
}

fn inside(rootfs: &Path, scratch: &Path, groups: &[PathBuf]) -> Result<i32, Failure> {
    for group in groups {
        std::fs::OpenOptions::new().write(true).open(group)?.write_all(b"0")?;
    }
    mount::set_root_propagation(Propagation::Private)?;
    let overlay = mount::overlay(&OverlayOptions {
        lowers: vec![rootfs.to_owned()],
        upper: Some(scratch.join("upper")),
        work: Some(scratch.join("work")),
        volatile: true,
        attributes: Attributes::empty(),
    })?;
    let target = std::fs::File::open("/proc")?;
    mount::attach(&overlay, &target)?;
    let proc_directory = rustix::fs::openat(
        &overlay,
        "proc",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )?;
    let fresh = FileSystem::new("proc")?.mount(Attributes::empty())?;
    mount::attach(&fresh, &proc_directory)?;
    mount::pivot_root(&overlay, false)?;
    let error = process::execute(c"/bin/true", &[CString::from(c"true")], &[]);
    Err(error.into())
}
