//! What is in every container's /dev: devices, links, the terminal.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use palan_linux::mount;
use palan_linux::path::{Directory, FileKind, Metadata, RootDir};
use palan_linux::process;
use palan_linux::tty;
use rustix::fs::{Mode, OFlags};

use super::mounts::Outcome;
use crate::error::{Context, Error, InField};
use crate::handshake::Channel;
use crate::plan::DevicePlan;
use crate::streams::TerminalPlan;

/// Devices that the OCI specification puts into every container.
const DEFAULTS: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// How device nodes come into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    /// Made.
    Make,
    /// Those of the host, bound: who owns a user namespace may make none. The host's paths must still exist.
    Bind,
}

/// Fills /dev with the default devices, those of the plan, and the usual links.
pub(super) fn fill_dev(root: &RootDir, devices: &[DevicePlan], nodes: Nodes) -> Result<(), Error> {
    for name in ["dev"] {
        // See `mounts::target`: a /dev that leads elsewhere gets no devices.
        match root.symlink_metadata(name) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(Error::Invalid("the image has a /dev that is no directory".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => root.create_dir(name, 0o755)?,
            Err(error) => return Err(error.into()),
        }
    }
    let dev = root.open_root("dev")?;
    for (name, major, minor) in DEFAULTS {
        let overridden = devices
            .iter()
            .any(|device| device.path.strip_prefix("/dev").is_ok_and(|path| path == Path::new(name)));
        if !overridden {
            let device = DevicePlan {
                path: Path::new("/dev").join(name),
                kind: FileKind::CharacterDevice,
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            };
            match nodes {
                Nodes::Make => make_node_in(dev.as_directory(), name.as_ref(), &device)?,
                Nodes::Bind => make_node(root, &device, nodes)?,
            }
        }
    }
    for (index, device) in devices.iter().enumerate() {
        let parent =
            device.path.parent().map_or(Ok(()), |parent| root.create_dir_all(parent, 0o755).map(drop));
        parent
            .map_err(Error::from)
            .and_then(|()| make_node(root, device, nodes))
            .in_field(format_args!("linux.devices[{index}]"))?;
    }
    // As runc does where the kernel shows its memory; what a container sees there is masked.
    let core = root.symlink_metadata("proc/kcore").is_ok().then_some(("core", "/proc/kcore"));
    for (name, link) in LINKS.into_iter().chain(core) {
        let (directory, name) = (dev.as_directory(), OsStr::new(name));
        let linked = match directory.create_symlink(name, link.as_ref()) {
            // Left by an image, or by an earlier run in a directory that is kept.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                directory.remove_file(name).and_then(|()| directory.create_symlink(name, link.as_ref()))
            }
            other => other,
        };
        linked.context(|| format!("link /dev/{}", name.display()))?;
    }
    Ok(())
}

fn make_node(root: &RootDir, device: &DevicePlan, nodes: Nodes) -> Result<(), Error> {
    if nodes == Nodes::Bind && device.kind != FileKind::Fifo {
        return bind_node(root, device);
    }
    let (directory, name) = root.parent_of(&device.path)?;
    make_node_in(&directory, &name, device)
}

fn make_node_in(directory: &Directory, name: &OsStr, device: &DevicePlan) -> Result<(), Error> {
    let number = (device.major, device.minor);
    let make = || -> std::io::Result<()> {
        match directory.create_node(name, device.kind, device.mode, number) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let found = directory.metadata(name)?;
                if found.kind == device.kind && found.node == number {
                    return Ok(());
                }
                directory.remove_file(name)?;
                directory.create_node(name, device.kind, device.mode, number)?;
            }
            Err(error) => return Err(error),
        }
        if device.uid != 0 || device.gid != 0 {
            directory.set_owner(name, device.uid, device.gid)?;
        }
        Ok(())
    };
    make().context(|| format!("make device {}", device.path.display()))
}

/// Binds the host's node of the same path, if it is the device that is meant.
fn bind_node(root: &RootDir, device: &DevicePlan) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(rustix::fs::CWD, &device.path, flags, Mode::empty())
        .context(|| format!("open device {} of the host", device.path.display()))?;
    let found = Metadata::of(&node).context(|| format!("inspect device {}", device.path.display()))?;
    if found.kind != device.kind || found.node != (device.major, device.minor) {
        return Err(Error::Invalid(format!(
            "device {} of the host is not {}:{}, and a user namespace can have no other",
            device.path.display(),
            device.major,
            device.minor
        )));
    }
    let target = super::mounts::ensure_file(root, &device.path)?;
    mount::clone_of(&node, false)
        .and_then(|copy| mount::attach(copy, target))
        .context(|| format!("bind device {}", device.path.display()))
}

/// Puts the container's own null device in the place of the host's among the standard streams: nothing of the host's
/// file systems stays open, and a checkpoint can find it again. Without one that can be used, they stay as they are.
pub(crate) fn use_own_null() -> std::io::Result<()> {
    const NULL: (u32, u32) = (1, 3);
    let is_null = |found: Metadata| found.kind == FileKind::CharacterDevice && found.node == NULL;
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut own = None;
    for (number, stream) in (0..).zip(streams) {
        // A closed one is no stream to replace.
        if !Metadata::of(stream).is_ok_and(is_null) {
            continue;
        }
        let own = match &own {
            Some(own) => own,
            None => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Ok(found) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return Ok(()) };
                if !is_null(Metadata::of(&found)?) {
                    return Ok(());
                }
                let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Ok(opened) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return Ok(()) };
                own.insert(opened)
            }
        };
        process::place_descriptor(own, number)?;
    }
    Ok(())
}

/// Opens a terminal in the container's devpts, sends its master to the caller, and shows it as /dev/console of
/// `console`'s root.
pub(super) fn open_terminal(
    outcome: &Outcome,
    console: Option<&RootDir>,
    plan: TerminalPlan,
    channel: &Channel,
) -> Result<OwnedFd, Error> {
    let devpts = outcome.devpts.as_ref().ok_or_else(|| {
        Error::Invalid("a terminal needs a devpts file system mounted on /dev/pts".to_owned())
    })?;
    let peer = new_terminal(devpts, plan, channel)?;
    if let Some(root) = console {
        let target = super::mounts::ensure_file(root, Path::new("/dev/console"))?;
        // From the descriptor of the real terminal, whatever any path says by now (CVE-2025-52565).
        mount::clone_of(&peer, false)
            .and_then(|copy| mount::attach(copy, target))
            .context(|| "bind the terminal to /dev/console".to_owned())?;
    }
    Ok(peer)
}

/// Opens a terminal in the devpts instance with the root `devpts` and sends its master to the caller.
pub(crate) fn new_terminal(
    devpts: impl AsFd,
    plan: TerminalPlan,
    channel: &Channel,
) -> Result<OwnedFd, Error> {
    let pty = tty::open_in(devpts).context(|| "open a terminal in the container's devpts".to_owned())?;
    if !plan.translate_newlines {
        tty::disable_newline_translation(&pty.master)
            .context(|| "set the modes of the terminal".to_owned())?;
    }
    if let Some(size) = plan.size {
        tty::set_window_size(&pty.master, size).context(|| "set the size of the terminal".to_owned())?;
    }
    channel.console(pty.master.as_fd()).context(|| "pass the terminal to the caller".to_owned())?;
    Ok(pty.peer)
}

/// The container's devpts, for a further process: the real thing or an error.
pub(crate) fn find_devpts(root: &RootDir) -> Result<OwnedFd, Error> {
    const DEVPTS_MAGIC: u64 = 0x1cd1;
    let directory = root.open_with("/dev/pts", OFlags::PATH | OFlags::DIRECTORY)?;
    let found = rustix::fs::fstatfs(&directory).context(|| "inspect /dev/pts".to_owned())?.f_type;
    if u64::try_from(found).is_ok_and(|magic| magic == DEVPTS_MAGIC) {
        Ok(directory)
    } else {
        Err(Error::Invalid("a terminal needs a devpts file system mounted on /dev/pts".to_owned()))
    }
}

/// Gives the terminal to the user who will run on it.
pub(crate) fn set_terminal_owner(peer: &OwnedFd, uid: u32) -> Result<(), Error> {
    let owner = Metadata::of(peer).context(|| "inspect the terminal".to_owned())?;
    if owner.uid == uid {
        return Ok(());
    }
    rustix::fs::fchown(peer, Some(rustix::process::Uid::from_raw(uid)), None)
        .and_then(|()| rustix::fs::fchmod(peer, Mode::from_raw_mode(0o620)))
        .context(|| "change the owner of the terminal".to_owned())
}
