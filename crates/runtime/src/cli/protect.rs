//! Nothing that runs in a container may overwrite this program through `/proc/<pid>/exe` (CVE-2019-5736).
//!
//! A process of a container can make us its interpreter (`#!/proc/self/exe`) and so get a handle on the file. It is
//! worth nothing if the mount behind it is read-only: the program executes itself again from a detached, read-only
//! copy of its mount, which no path leads to and nobody else can change. Who may not mount copies the program into a
//! sealed file in memory, if it could be overwritten at all.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use palan_linux::memfd;
use palan_linux::mount::{self, Attributes, Change};
use palan_linux::process as os;
use rustix::fs::{CWD, Mode, OFlags, SealFlags, StatVfsMountFlags};

use super::Failure;

/// Makes sure that this process runs from a file that can't be written. Does not return if it has to start again.
pub(super) fn ensure() -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot protect this program from being overwritten by a container: {error}"))
    };
    let start_again = || -> std::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::openat(CWD, "/proc/self/exe", flags, Mode::empty())?;
        let read_only = rustix::fs::fstatvfs(&own)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        let sealed = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
        if read_only || sealed {
            return Ok(());
        }
        let copy = match read_only_mount(&own) {
            Ok(copy) => copy,
            // Who may not mount has no more rights in a container than outside: a file that is not theirs is safe.
            Err(_) if rustix::fs::access("/proc/self/exe", rustix::fs::Access::WRITE_OK).is_err() => {
                return Ok(());
            }
            Err(_) => memfd::sealed_copy("palan", &mut std::fs::File::from(own))?,
        };
        let arguments = c_strings(std::env::args_os());
        let environment = std::env::vars_os().map(|(name, value)| {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            entry
        });
        Err(os::execute_fd(std::os::fd::AsFd::as_fd(&copy), &arguments, &c_strings(environment)))
    };
    start_again().map_err(failed)
}

fn read_only_mount(file: &OwnedFd) -> std::io::Result<OwnedFd> {
    let copy = mount::clone_of(file, false)?;
    let change = Change { set: Attributes::MOUNT_ATTR_RDONLY, ..Change::default() };
    mount::change(&copy, &change, false)?;
    Ok(copy)
}

fn c_strings(texts: impl Iterator<Item = std::ffi::OsString>) -> Vec<CString> {
    // What came through exec has no NUL.
    texts.filter_map(|text| CString::new(text.into_vec()).ok()).collect()
}
