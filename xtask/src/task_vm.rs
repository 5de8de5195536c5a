//! `cargo xtask vm -- COMMAND`: runs a command in a virtual machine with cgroup v2, and ends with its exit code.
//!
//! The machine is QEMU, which emulates the processor and so needs none that can run virtual machines, with Debian's kernel. It
//! is made new for each run:
//!
//! - **Root.** The host's whole tree, read-only by 9p, below an overlay whose upper layer is memory: every program, the
//!   repository and its build output are there under the same paths, and what is written is lost. `/run` and `/dev/shm` are
//!   empty.
//! - **Disk.** `/var/lib/palan-vm` is an empty ext4 of 16 GiB, and `TMPDIR` names it: an overlay's upper layer can't lie on an
//!   overlay, so the data roots of tests go there.
//! - **Results.** `target/vm/out` is the host's own, for writing.
//! - **Kernel.** Linux 6.1, `/sys/fs/cgroup` is cgroup v2 with every controller given on by the root, AppArmor is on, and
//!   modules are loaded on demand. Its console goes to `target/vm/console.log`.
//! - **Network.** Loopback, and with `--net` QEMU's user mode network.
//! - **Environment.** `PATH`, `PALAN_*`, `RUST_*`, `HOME`, `LANG`, where cargo and its output are, what `--env` says, and
//!   `PALAN_VM=1`. The working directory is the caller's.
//! - **Streams.** The command's output and errors come out as they are; its input is empty. If input and output are a
//!   terminal, the command has one too, and Ctrl-C is for it; else Ctrl-C ends the machine.
//!
//! What happens, in order:
//!
//! 1. the host fetches the kernel if there is none yet (`kernel`), makes disk and first root (`initramfs`), and starts QEMU
//!    (`machine`);
//! 2. the first root's init is this very program: it loads modules, builds the root and changes into it (`guest`);
//! 3. it runs the command, or systemd does so with it as a service, and reports over a virtio port (`session`, `message`);
//! 4. the host passes the output on, ends QEMU as soon as it knows the exit code, and removes the machine's files (`host`).
//!
//! Exit codes beside the command's own: 124 after `--timeout`, 125 if the machine failed, 126 and 127 if the command can't be
//! run, 128 and a signal's number if one ended the command or us.

mod guest;
mod host;
mod initramfs;
mod kernel;
mod machine;
mod message;
mod options;
mod request;
mod session;

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::FlockOperation;

pub(crate) use self::guest::DISK;
pub(crate) use self::host::{Said, Session};
use self::options::Options;
use crate::Failure;
use crate::packages::Package;

/// The task that a machine's first program runs.
pub(crate) const GUEST: &str = "vm-guest";
/// The name of the virtio port between host and machine.
const PORT: &str = "palan.port";
/// How it ends when the machine failed rather than the command; as `docker run` does.
const MACHINE_FAILED: u8 = 125;

const PACKAGES: &[Package] = &[
    ("e2fsprogs", "mkfs.ext4"),
    ("kmod", "depmod"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("util-linux", "setpriv"),
    ("xz-utils", "xz"),
];
const SYSTEMD_PACKAGES: &[Package] = &[("dbus", "dbus-daemon"), ("systemd", "systemd-run")];

/// Runs the command in a machine.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let code = Options::parse(arguments).and_then(|options| host::run(&options));
    ExitCode::from(code.unwrap_or_else(|failure| {
        crate::report(&failure);
        MACHINE_FAILED
    }))
}

/// Boots the machine that this program finds itself in, or serves it.
pub(crate) fn guest() -> Result<(), Failure> {
    guest::run()
}

/// Waits for the right to change what all runs share below `home`.
fn lock(home: &Path) -> Result<File, Failure> {
    let lock = File::create(home.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}
