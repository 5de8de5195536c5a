//! The machine's side until the command starts: what an initramfs and an init do elsewhere.
//!
//! The kernel starts this program as the init of its first root, which is an archive in memory. After [`build_root`] and
//! [`enter_root`] the host's tree is the root, and [`session`] runs the command, with this process as the machine's init for
//! all that the command leaves behind. With systemd, [`become_systemd`] hands that office over, and a service comes back here.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use palan_linux::mount::{Propagation, set_root_propagation};
use palan_linux::netlink::link::Target;
use palan_linux::netlink::route::Address;
use palan_linux::netlink::{Batch, Protocol, Socket, link, route};
use palan_linux::process;
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::system::RebootCommand;

use super::request::Request;
use super::session;
use crate::Failure;
use crate::process::{check, command, find};

/// Where the machine's own disk is mounted.
pub(super) const DISK: &str = "/var/lib/palan-vm";
/// Where the request and this program lie for the service of systemd that runs the command.
const SERVICE: &str = "/run/palan-vm";

/// Boots as the machine's first process, or serves it as any other.
#[expect(clippy::print_stderr, reason = "the kernel's console is all there is")]
pub(super) fn run() -> Result<(), Failure> {
    if !rustix::process::getpid().is_init() {
        return session::run(&Request::read(&format!("{SERVICE}/request.json"))?);
    }
    if let Err(failure) = boot() {
        eprintln!("cannot boot: {failure}");
    }
    Ok(rustix::system::reboot(RebootCommand::PowerOff)?)
}

fn boot() -> Result<(), Failure> {
    let request = Request::read("/request.json")?;
    load_modules(Path::new("/modules"))?;
    build_root()?;
    enter_root()?;
    mount_file_systems()?;
    mount_shares(&request)?;
    make_device_files(&request.modules)?;
    mount_disk()?;
    set_limits()?;
    rustix::system::sethostname(b"palan-vm")?;
    start_network(request.network)?;
    if request.systemd {
        return become_systemd(&request);
    }
    delegate_controllers()?;
    session::run(&request)
}

/// Loads the files of a directory, in the order of their names.
fn load_modules(directory: &Path) -> Result<(), Failure> {
    /// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`: newer kernels' modules are compressed.
    const COMPRESSED: i32 = 4;
    let entries = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let flags = if path.extension().is_some_and(|extension| extension == "ko") { 0 } else { COMPRESSED };
        rustix::system::finit_module(File::open(&path)?, c"", flags)
            .map_err(|error| format!("cannot load the module {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Mounts the host's tree with memory above it on `/root`.
fn build_root() -> Result<(), Failure> {
    for directory in ["/host", "/memory", "/root"] {
        std::fs::create_dir_all(directory)?;
    }
    // What others change on the host meanwhile need not be seen.
    mount_share("host", Path::new("/host"), MountFlags::RDONLY, "cache=loose")?;
    mount("memory", "/memory", "tmpfs", MountFlags::empty(), c"mode=0755")?;
    for directory in ["/memory/upper", "/memory/work"] {
        std::fs::create_dir(directory)?;
    }
    // With these two options it behaves like one ordinary file system: directories of the host can be renamed, and all files
    // are on the same device.
    let options = c"lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work,redirect_dir=on,xino=on";
    mount("overlay", "/root", "overlay", MountFlags::empty(), options)?;
    // The overlay has its own hold on both.
    for directory in ["/host", "/memory"] {
        rustix::mount::unmount(directory, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// Makes `/root` the root, as switch_root(8) does: the first root can't be left by pivot_root(2).
fn enter_root() -> Result<(), Failure> {
    std::fs::remove_dir_all("/modules")?;
    for file in ["/init", "/request.json"] {
        std::fs::remove_file(file)?;
    }
    rustix::process::chdir("/root")?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    // As systemd does on every host that it starts.
    Ok(set_root_propagation(Propagation::Shared)?)
}

/// Type, place, flags and options of what every Linux has mounted.
const FILE_SYSTEMS: &[(&str, &str, MountFlags, &CStr)] = {
    const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
    const DATA: MountFlags = PLAIN.union(MountFlags::NOEXEC);
    const DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
    &[
        ("proc", "/proc", DATA, c""),
        ("sysfs", "/sys", DATA, c""),
        ("securityfs", "/sys/kernel/security", DATA, c""),
        ("cgroup2", "/sys/fs/cgroup", DATA, c"nsdelegate"),
        ("bpf", "/sys/fs/bpf", DATA, c"mode=0700"),
        ("debugfs", "/sys/kernel/debug", DATA, c""),
        ("tracefs", "/sys/kernel/tracing", DATA, c""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
        ("devpts", "/dev/pts", DEVICES, c"gid=5,mode=0620,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", PLAIN, c"mode=1777"),
        ("mqueue", "/dev/mqueue", DATA, c""),
        ("tmpfs", "/run", PLAIN, c"mode=0755"),
        ("tmpfs", "/run/lock", DATA, c"mode=1777"),
    ]
};

fn mount_file_systems() -> Result<(), Failure> {
    for (kind, target, flags, options) in FILE_SYSTEMS {
        std::fs::create_dir_all(target).ok();
        mount(kind, target, kind, *flags, options)?;
    }
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(format!("/proc/self/{target}"), format!("/dev/{name}"))?;
    }
    Ok(())
}

/// Makes the device files that load a module when they are opened, such as `/dev/loop-control` and `/dev/net/tun`: what
/// depmod(8) has written into `modules.devname`, as lines of module, name and `c10:237`.
fn make_device_files(modules: &Path) -> Result<(), Failure> {
    for line in std::fs::read_to_string(modules.join("modules.devname"))?.lines() {
        let [_, name, number] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let Some((kind, number)) = number.split_at_checked(1) else { continue };
        let Some((major, minor)) = number.split_once(':') else { continue };
        let kind = if kind == "b" { FileType::BlockDevice } else { FileType::CharacterDevice };
        let path = Path::new("/dev").join(name);
        if !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/dev")))?;
            let device = rustix::fs::makedev(major.parse()?, minor.parse()?);
            rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device)?;
        }
    }
    // As udev does: containers of ordinary users need them.
    for path in ["/dev/fuse", "/dev/net/tun"] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    }
    Ok(())
}

/// Mounts the directory for results, and the kernel's modules where modprobe(8) looks for them.
fn mount_shares(request: &Request) -> Result<(), Failure> {
    mount_share("out", &request.out, MountFlags::empty(), "cache=mmap")?;
    let version = request.modules.file_name().ok_or("the modules have no version")?;
    let place = Path::new("/lib/modules").join(version);
    std::fs::create_dir_all(&place)?;
    rustix::mount::mount_bind(&request.modules, &place)
        .map_err(|error| format!("cannot mount the modules on {}: {error}", place.display()))?;
    Ok(())
}

/// Mounts a directory of the host. This kernel allocates two buffers of the largest message's size for each request. Up to 8
/// pages the allocation is quick and succeeds; with 125 of them, as QEMU recommends, a look-up took 5 ms instead of 0.2.
fn mount_share(tag: &str, target: &Path, flags: MountFlags, cache: &str) -> Result<(), Failure> {
    let options = CString::new(format!("trans=virtio,version=9p2000.L,msize=32768,{cache}"))?;
    mount(tag, target, "9p", flags, &options)
}

fn mount_disk() -> Result<(), Failure> {
    std::fs::create_dir_all(DISK)?;
    // Nothing of its tables will ever need to be initialised in the background.
    mount("/dev/vda", DISK, "ext4", MountFlags::empty(), c"noinit_itable")?;
    std::fs::remove_dir(Path::new(DISK).join("lost+found"))?;
    std::fs::set_permissions(DISK, std::fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

fn mount(
    source: &str,
    target: impl AsRef<Path>,
    kind: &str,
    flags: MountFlags,
    options: &CStr,
) -> Result<(), Failure> {
    let target = target.as_ref();
    rustix::mount::mount(source, target, kind, flags, options)
        .map_err(|error| format!("cannot mount {kind} on {}: {error}", target.display()).into())
}

/// As many descriptors as systemd allows; the kernel's 4096 are too few for a test with a thousand containers.
fn set_limits() -> Result<(), Failure> {
    let limit = Rlimit { current: Some(1024), maximum: Some(1 << 20) };
    Ok(rustix::process::setrlimit(Resource::Nofile, limit)?)
}

/// Gives every controller to the children of the root cgroup, as systemd would.
fn delegate_controllers() -> Result<(), Failure> {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for controller in controllers.split_whitespace() {
        std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"))
            .map_err(|error| format!("cannot delegate the cgroup controller {controller}: {error}"))?;
    }
    Ok(())
}

/// Switches loopback on, and the network card with the addresses that QEMU's network always has.
fn start_network(card: bool) -> Result<(), Failure> {
    const LOOPBACK: u32 = 1;
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Index(LOOPBACK));
    if card {
        let modprobe = find("modprobe").ok_or("there is no modprobe")?;
        check(command(modprobe).arg("virtio_net"))?;
        let index = card_index()?.ok_or("the network card has no driver")?;
        let address = Ipv4Addr::new(10, 0, 2, 15);
        route::add_address(&mut batch, Address { index, address: address.into(), prefix: 24 });
        link::set_up(&mut batch, Target::Index(index));
        route::set_default_route(&mut batch, Ipv4Addr::new(10, 0, 2, 2).into(), index);
        std::fs::remove_file("/etc/resolv.conf").ok();
        std::fs::write("/etc/resolv.conf", "nameserver 10.0.2.3\n")?;
    }
    Ok(Socket::open(Protocol::Route)?.execute(&mut batch)?)
}

/// The index of the interface that belongs to a device.
fn card_index() -> Result<Option<u32>, Failure> {
    for entry in std::fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        if path.join("device").exists() {
            return Ok(Some(std::fs::read_to_string(path.join("ifindex"))?.trim().parse()?));
        }
    }
    Ok(None)
}

/// What systemd starts, and nothing that the host has enabled.
const TARGET: &str = "\
[Unit]
Description=A virtual machine for one command
Requires=basic.target
Wants=palan-vm.service
After=basic.target
AllowIsolate=yes
";

/// The command runs as any service does, and may make cgroups below its own.
const UNIT: &str = "\
[Unit]
Description=The command of this virtual machine

[Service]
ExecStart=/run/palan-vm/xtask vm-guest
Delegate=yes
TasksMax=infinity
LimitNOFILE=1024:1048576
StandardOutput=journal+console
";

/// Executes systemd in the place of this process; it runs this program again, as a service.
fn become_systemd(request: &Request) -> Result<(), Failure> {
    // Units of the host that an administrator has enabled or written would start daemons that nobody asked for.
    mount("units", "/etc/systemd/system", "tmpfs", MountFlags::empty(), c"mode=0755")?;
    for (name, text) in [("palan-vm.target", TARGET), ("palan-vm.service", UNIT)] {
        std::fs::write(Path::new("/etc/systemd/system").join(name), text)?;
    }
    std::fs::create_dir("/etc/systemd/journald.conf.d").ok();
    std::fs::write("/etc/systemd/journald.conf.d/palan-vm.conf", "[Journal]\nStorage=volatile\n")?;
    // Debian's settings empty `/tmp` at each boot: what the command needs may lie there.
    std::fs::create_dir_all("/etc/tmpfiles.d")?;
    std::fs::write("/etc/tmpfiles.d/tmp.conf", "")?;
    // Without an identity systemd takes this for a first boot, and enables all that Debian has to offer.
    if std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().is_empty() {
        std::fs::write("/etc/machine-id", "70616c616e2d766d0000000000000001\n")?;
    }
    std::fs::create_dir(SERVICE)?;
    std::fs::write(format!("{SERVICE}/request.json"), serde_json::to_vec(request)?)?;
    std::fs::copy("/proc/self/exe", format!("{SERVICE}/xtask"))?;
    rustix::fs::chmodat(CWD, format!("{SERVICE}/xtask"), Mode::from_raw_mode(0o755), AtFlags::empty())?;
    let arguments = [c"systemd", c"--unit=palan-vm.target"].map(CStr::to_owned);
    let environment: [CString; 1] = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".to_owned()];
    let error = process::execute(c"/lib/systemd/systemd", &arguments, &environment);
    Err(format!("cannot run systemd: {error}").into())
}
