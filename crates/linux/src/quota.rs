//! Project quotas: how much may lie in a directory tree, kept by ext4 and xfs mounted with `prjquota`.
//!
//! A tree belongs to a project by a number that its directories hand down to what is made in them; the limit is the
//! project's.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct fsxattr` of `<linux/fs.h>`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk` of `<linux/quota.h>`. Blocks have 1024 bytes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Limits {
    block_hard: u64,
    block_soft: u64,
    bytes: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`.
const INHERIT_PROJECT: u32 = 0x200;
/// `Q_GETQUOTA`, `Q_SETQUOTA` and `PRJQUOTA` of quotactl(2).
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
const OF_PROJECTS: u32 = 2;
/// `QIF_BLIMITS`.
const BLOCK_LIMITS: u32 = 1;

/// What is kept of one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Bytes that may be used; 0 is no limit.
    pub limit: u64,
    /// Bytes that are used.
    pub used: u64,
}

/// Makes an empty directory, and so all that will be in it, a part of a project.
pub fn assign(directory: impl AsFd, project: u32) -> io::Result<()> {
    let fd = directory.as_fd();
    let mut attributes = Attributes::default();
    // SAFETY: the request fills a `struct fsxattr`, which the argument is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) })?;
    attributes.flags |= INHERIT_PROJECT;
    attributes.project = project;
    // SAFETY: the request reads a `struct fsxattr`, which the argument is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) })
}

/// Reads a project's quota on the file system of `directory` (quotactl_fd(2), Linux 5.14). An error says that this file system
/// keeps none, but `NotFound` only that it has not heard of the project.
pub fn project(directory: impl AsFd, project: u32) -> io::Result<Project> {
    let mut limits = Limits::default();
    control(directory, GET_QUOTA, project, &mut limits)?;
    Ok(Project { limit: limits.block_hard.saturating_mul(1024), used: limits.bytes })
}

/// Sets how many bytes a project may use; 0 is no limit.
pub fn limit(directory: impl AsFd, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(1024);
    let mut limits =
        Limits { block_hard: blocks, block_soft: blocks, valid: BLOCK_LIMITS, ..Limits::default() };
    control(directory, SET_QUOTA, project, &mut limits)
}

fn control(directory: impl AsFd, command: u32, project: u32, limits: &mut Limits) -> io::Result<()> {
    let fd = directory.as_fd();
    let command = (command << 8) | OF_PROJECTS;
    // SAFETY: both commands take a `struct if_dqblk`, which the last argument is; the kernel keeps no pointer to it.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, fd.as_raw_fd(), command, project, &raw mut *limits) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Attributes>(), size_of::<Limits>()), (28, 72));
    }

    #[test]
    fn a_file_system_without_projects_says_so() {
        let proc = std::fs::File::open("/proc/self").unwrap();
        assert!(assign(&proc, 1).is_err() && project(&proc, 1).is_err() && limit(&proc, 1, 1).is_err());
    }
}
