//! eBPF programs that decide which devices a cgroup v2 may use: loading, attaching, replacing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One eBPF instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high ones.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

/// `union bpf_attr` for BPF_PROG_LOAD, as far as used.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is one of the structures above, which are prefixes of union bpf_attr for their commands;
    // its size is passed, and the pointers inside are valid for the lengths beside them (see the callers).
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// Loads a program of type CGROUP_DEVICE.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attributes)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: BPF_PROG_LOAD returns a descriptor that it has just opened for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches `program` to the cgroup directory; programs of ancestors and of others keep deciding too.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = AttachAttr {
        target_fd: number(&cgroup),
        attach_bpf_fd: number(&program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// Attaches `program` and then detaches every program that was attached to the cgroup itself before.
pub fn replace_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let before = attached_device_programs(&cgroup)?;
    attach_device_program(&cgroup, &program)?;
    for old in before {
        let mut attributes = AttachAttr {
            target_fd: number(&cgroup),
            attach_bpf_fd: number(&old),
            attach_type: BPF_CGROUP_DEVICE,
            ..AttachAttr::default()
        };
        bpf(BPF_PROG_DETACH, &mut attributes)?;
    }
    Ok(())
}

fn attached_device_programs(cgroup: &impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attributes = QueryAttr {
        target_fd: number(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    let mut programs = Vec::new();
    for id in ids.iter().take(attributes.prog_cnt as usize) {
        let mut by_id = [*id, 0, 0, 0];
        let fd = bpf(BPF_PROG_GET_FD_BY_ID, &mut by_id)?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: BPF_PROG_GET_FD_BY_ID returns a descriptor that it has just opened for us.
        programs.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(programs)
}
