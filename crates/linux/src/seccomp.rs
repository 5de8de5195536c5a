//! Loading seccomp filters (`seccomp(2)`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of a classic BPF program (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the kernel's own field names")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Most instructions that a filter may have.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// `SECCOMP_FILTER_FLAG_*` bits for [`load`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadFlags {
    /// Log all actions but allow.
    pub log: bool,
    /// Don't switch on the speculative store bypass mitigation.
    pub speculation_allowed: bool,
    /// Return a descriptor that receives the `notify` actions.
    pub new_listener: bool,
    /// With a listener: a syscall that the listener has received waits killably only.
    pub wait_killable: bool,
}

/// Loads `program` for the calling thread, which needs `no_new_privs` or CAP_SYS_ADMIN.
/// Returns the listener if one was asked for.
pub fn load(program: &[Instruction], flags: LoadFlags) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len())
        .ok()
        .filter(|length| usize::from(*length) <= MAX_INSTRUCTIONS)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let mut bits: libc::c_ulong = 0;
    for (wanted, bit) in [
        (flags.log, libc::SECCOMP_FILTER_FLAG_LOG),
        (flags.speculation_allowed, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        (flags.new_listener, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        (flags.wait_killable, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
    ] {
        if wanted {
            bits |= bit;
        }
    }
    // SAFETY: `filter` points to `length` instructions in the layout of sock_filter (repr(C), same fields), which
    // live through the call; the kernel copies and validates them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, bits, &raw const filter) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if !flags.new_listener {
        return Ok(None);
    }
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: with NEW_LISTENER the call returns a descriptor that it has just opened for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel has this action (`SECCOMP_RET_*` without data).
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads four bytes behind the pointer.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}
