//! A specification checked and turned into what the new process does: everything that can be refused is refused
//! here, before anything exists, and the new process has no decision left but what the kernel tells it.

pub(crate) mod kernel;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod user_namespace;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use palan_linux::mount::{Attributes, OverlayOptions, Propagation};
use palan_linux::namespace::{self, Kind, Kinds, Named};
use palan_oci::runtime_spec::{Linux, NamespaceKind, TimeOffset};

use crate::container::{CreateRequest, Rootfs};
use crate::error::{Context, Error, InField};

use crate::hooks::HookPlan;
use crate::id_maps::Mappings;
use crate::net_devices::NetDevicePlan;
use mount::MountKind;
pub(crate) use mount::MountPlan;
pub(crate) use process::{ProcessPlan, UserPlan};
pub(crate) use user_namespace::UserNamespace;

/// Everything the container's first process does before it executes.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespaces: Namespaces,
    pub(crate) root: RootPlan,
    pub(crate) mounts: Vec<MountPlan>,
    /// What SELinux calls the files of new file systems.
    pub(crate) mount_label: Option<String>,
    pub(crate) devices: Vec<DevicePlan>,
    /// Whether /dev is the runtime's to fill: not if the user binds one of the host over it.
    pub(crate) fill_dev: bool,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    pub(crate) sysctl: Vec<SysctlPlan>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) process: ProcessPlan,
    /// Execution domain (personality(2)).
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<kernel::MemoryPolicyPlan>,
    pub(crate) create_cwd: bool,
    pub(crate) init: bool,
    /// Keep the caller's session keyring.
    pub(crate) keep_keyring: bool,
    pub(crate) hooks: HookPlan,
    /// Network interfaces of the host that become the container's.
    pub(crate) net_devices: Vec<NetDevicePlan>,
    /// Whether there are any; they themselves are the caller's.
    pub(crate) has_net_devices: bool,
}

/// Namespaces to make and to join.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// Made by the clone.
    pub(crate) new: Kinds,
    /// Made by the new process once it is in its cgroup, which becomes the root of its view.
    pub(crate) new_cgroup: bool,
    /// Made by the new process, with these offsets: the kernel wants to know them before anyone is inside.
    pub(crate) new_time: Option<Vec<(String, TimeOffset)>>,
    /// Joined by the new process.
    pub(crate) join: Vec<(Kind, OwnedFd)>,
    /// Joined by the caller for its next child.
    pub(crate) join_pid: Option<OwnedFd>,
    /// The mount namespace.
    pub(crate) mount: MountNamespace,
    /// The user namespace, which takes a process of its own on the way (see [`crate::init`]).
    pub(crate) user: Option<UserNamespace>,
    /// What the specification says of a user namespace that is joined, if it does.
    pub(crate) expected: Option<Mappings>,
}

/// Where the container's mounts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountNamespace {
    /// In a namespace of its own.
    New,
    /// In an existing one, which becomes the container's.
    Joined,
    /// In the caller's: there is no root to pivot to, only a changed root directory, and mounts stay until the container
    /// is deleted.
    Callers,
}

/// The root file system.
#[derive(Debug)]
pub(crate) struct RootPlan {
    pub(crate) source: RootSource,
    /// A directory of the host that the root is attached on in the new mount namespace.
    pub(crate) place: PathBuf,
    pub(crate) readonly: bool,
    /// How the host's mounts reach the new namespace.
    pub(crate) propagation: Propagation,
    /// Move the root over the host's instead of pivoting: for a host whose root is a ramfs.
    pub(crate) no_pivot: bool,
}

#[derive(Debug)]
pub(crate) enum RootSource {
    /// A detached mount.
    Mount(OwnedFd),
    /// A directory of the host.
    Directory(PathBuf),
}

/// A kernel parameter to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SysctlPlan {
    /// As the specification has it.
    pub(crate) name: String,
    /// Below /proc/sys.
    pub(crate) path: String,
    pub(crate) value: String,
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicePlan {
    pub(crate) path: PathBuf,
    pub(crate) kind: palan_linux::path::FileKind,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

impl Plan {
    pub(crate) fn new(request: &CreateRequest<'_>) -> Result<Self, Error> {
        let spec = request.spec;
        let nothing = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&nothing);
        let process = spec.process.as_ref().ok_or_else(|| invalid("process is missing"))?;
        let mut mounts = spec
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| MountPlan::new(index, mount, request.bundle))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, source) in request.sources {
            let plan = mounts.get_mut(*index).ok_or_else(|| invalid("a source is given for no mount"))?;
            plan.give_source(source)?;
        }
        let mounts = match request.rootfs {
            Rootfs::Directory(root) => mounts.into_iter().map(|mount| mount.without_root(root)).collect(),
            Rootfs::Overlay { .. } => mounts,
        };
        let fill_dev = !mounts.iter().any(MountPlan::binds_dev);
        let absolute = |field: &str, paths: &[String]| -> Result<Vec<PathBuf>, Error> {
            let paths = paths.iter().enumerate();
            paths
                .map(|(index, path)| container_path(path).in_field(format_args!("{field}[{index}]")))
                .collect()
        };
        linux.intel_rdt.as_ref().map_or(Ok(()), crate::resctrl::check)?;
        let seccomp = process::seccomp(request.seccomp, linux.seccomp.as_ref())?;
        let namespaces = namespaces(linux, request)?;
        let has_uts = namespaces.has(Kind::Uts);
        let own_network = namespaces.has(Kind::Network);
        for (name, value) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
            check_host_name(name, value, has_uts)?;
        }
        let mut process = ProcessPlan::new(process, request.user, request.groups, seccomp)?;
        process.warnings.extend(mounts.iter().flat_map(MountPlan::warnings));
        user_namespace::check_user(&process.user, namespaces.user.as_ref())?;
        let devices = linux.devices.iter().enumerate();
        let devices = devices
            .map(|(index, entry)| device(&format!("linux.devices[{index}]"), entry))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            sysctl: sysctl(linux, &namespaces)?,
            namespaces,
            root: root(request, linux)?,
            mounts,
            mount_label: process::text("linux.mountLabel", &linux.mount_label)?,
            devices,
            fill_dev,
            masked_paths: absolute("linux.maskedPaths", &linux.masked_paths)?,
            readonly_paths: absolute("linux.readonlyPaths", &linux.readonly_paths)?,
            hostname: Some(spec.hostname.clone()).filter(|name| !name.is_empty()),
            domainname: Some(spec.domainname.clone()).filter(|name| !name.is_empty()),
            process,
            personality: linux.personality.as_ref().map(kernel::personality).transpose()?,
            memory_policy: linux.memory_policy.as_ref().map(kernel::memory_policy).transpose()?,
            create_cwd: request.create_cwd,
            init: request.init,
            keep_keyring: request.keep_keyring,
            hooks: HookPlan::new(spec.hooks.as_ref())?,
            net_devices: net_devices(linux, own_network)?,
            has_net_devices: !linux.net_devices.is_empty(),
        })
    }
}

impl Plan {
    /// Whether the container may write to its cgroups by a mount of its own.
    pub(crate) fn has_writable_cgroup(&self) -> bool {
        self.mounts.iter().any(|mount| mount.kind == MountKind::Cgroup && !mount.is_read_only())
    }

    /// Whether the mounts need what only the caller can make or reach.
    pub(crate) fn takes_callers_sources(&self) -> bool {
        self.namespaces.user.is_some() || self.mounts.iter().any(|mount| mount.id_map.is_some())
    }
}

/// An absolute path inside of the container.
pub(crate) fn container_path(path: &str) -> Result<PathBuf, Error> {
    if path.is_empty() || path.contains('\0') {
        return Err(invalid(format!("invalid path {path:?}")));
    }
    // The specification allows relative destinations for old bundles; they start at the root.
    Ok(if path.starts_with('/') { PathBuf::from(path) } else { PathBuf::from(format!("/{path}")) })
}

/// A name of the container's, which the kernel keeps in its UTS namespace.
fn check_host_name(field: &str, name: &str, has_uts: bool) -> Result<(), Error> {
    /// `__NEW_UTS_LEN`
    const MAX: usize = 64;
    if !name.is_empty() && !has_uts {
        return Err(invalid(format!("a {field} needs a UTS namespace of the container's own")));
    }
    if name.len() > MAX {
        return Err(invalid(format!("{field}: it has {} bytes, {MAX} are possible", name.len())));
    }
    if name.contains('\0') {
        return Err(invalid(format!("{field}: {name:?} contains a NUL byte")));
    }
    Ok(())
}

impl Namespaces {
    /// Whether the container's namespace of this kind is not simply the caller's, whatever path leads to it.
    fn has(&self, kind: Kind) -> bool {
        let same = |fd: &OwnedFd| {
            let own = namespace::open(0, kind).and_then(namespace::identity);
            // One that can't be looked at is not taken for the container's own.
            own.and_then(|own| Ok(own == namespace::identity(fd)?)).unwrap_or(true)
        };
        self.new.contains(kind.bit()) || self.join.iter().any(|(joined, fd)| *joined == kind && !same(fd))
    }
}

fn namespaces(linux: &Linux, request: &CreateRequest<'_>) -> Result<Namespaces, Error> {
    let mut result = Namespaces {
        new: Kinds::empty(),
        new_cgroup: false,
        new_time: None,
        join: Vec::new(),
        join_pid: None,
        mount: MountNamespace::Callers,
        user: None,
        expected: None,
    };
    let mut seen = Vec::new();
    // The mount namespace: with it goes the sight of everything else.
    let mut last = None;
    for (index, entry) in linux.namespaces.iter().enumerate() {
        if seen.contains(&entry.kind) {
            return Err(invalid(format!("linux.namespaces[{index}]: duplicate namespace {:?}", entry.kind)));
        }
        seen.push(entry.kind);
        let kind = match entry.kind {
            NamespaceKind::Pid => Kind::Pid,
            NamespaceKind::Network => Kind::Network,
            NamespaceKind::Mount => Kind::Mount,
            NamespaceKind::Ipc => Kind::Ipc,
            NamespaceKind::Uts => Kind::Uts,
            NamespaceKind::Cgroup => Kind::Cgroup,
            NamespaceKind::User => Kind::User,
            NamespaceKind::Time => Kind::Time,
        };
        if kind == Kind::Network && request.network_namespace.is_some() {
            continue;
        }
        match (kind, entry.path.as_str()) {
            (Kind::Cgroup, "") => result.new_cgroup = true,
            (Kind::Time, "") => {
                let offsets = linux.time_offsets.iter().map(|(clock, offset)| (clock.clone(), *offset));
                result.new_time = Some(offsets.collect());
            }
            (Kind::User, "") => result.user = Some(UserNamespace::new(linux)?),
            (_, "") => {
                result.new |= kind.bit();
                if kind == Kind::Mount {
                    result.mount = MountNamespace::New;
                }
            }
            (_, path) => {
                let fd =
                    open_namespace(path, kind).in_field(format_args!("linux.namespaces[{index}].path"))?;
                match kind {
                    Kind::Pid => result.join_pid = Some(fd),
                    Kind::User => result.user = Some(UserNamespace::Join(fd)),
                    Kind::Mount => {
                        result.mount = MountNamespace::Joined;
                        last = Some((kind, fd));
                    }
                    _ => result.join.push((kind, fd)),
                }
            }
        }
    }
    kernel::check_time_offsets(linux, result.new_time.is_some())?;
    user_namespace::check(linux, result.user.as_ref())?;
    if matches!(result.user, Some(UserNamespace::Join(_))) {
        result.expected = user_namespace::expected(linux)?;
    }
    if let Some(network) = request.network_namespace {
        let fd = network.try_clone_to_owned().context(|| "duplicate a descriptor".to_owned())?;
        result.join.push((Kind::Network, fd));
    }
    result.join.extend(last);
    if result.mount == MountNamespace::Callers {
        if result.user.is_some() {
            return Err(invalid("a user namespace needs a mount namespace in linux.namespaces"));
        }
        if !linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty() {
            return Err(invalid(
                "linux.maskedPaths and linux.readonlyPaths need a mount namespace of the container's own: they would hide the paths of the host",
            ));
        }
    }
    Ok(result)
}

/// The namespace at a path of the specification.
fn open_namespace(path: &str, kind: Kind) -> Result<OwnedFd, Error> {
    let wanted = kind.file_name();
    match namespace::open_path(path, kind).context(|| format!("open the namespace {path}"))? {
        Named::Namespace(namespace) => Ok(namespace),
        Named::OtherKind(bit) => {
            let found = Kind::ALL.into_iter().find(|kind| kind.bit() == bit).map_or("other", Kind::file_name);
            Err(invalid(format!("linux.namespaces: {path} is a {found} namespace, not a {wanted} namespace")))
        }
        Named::NoNamespace => Err(invalid(format!(
            "linux.namespaces: {path} is no namespace; a {wanted} namespace is joined by a file such as /proc/<pid>/ns/{wanted} or a bind mount of it"
        ))),
    }
}

fn root(request: &CreateRequest<'_>, linux: &Linux) -> Result<RootPlan, Error> {
    let (source, place) = match request.rootfs {
        Rootfs::Directory(directory) => (RootSource::Directory(directory.clone()), directory.clone()),
        Rootfs::Overlay { lowers, upper, work, volatile } => {
            let mount = palan_linux::mount::overlay(&OverlayOptions {
                lowers: lowers.clone(),
                upper: Some(upper.clone()),
                work: Some(work.clone()),
                volatile: *volatile,
                attributes: Attributes::empty(),
            })?;
            // Hooks look for the bundle's `config.json`, which the root must not hide from them.
            let root = request.spec.root.as_ref().filter(|_| request.spec.hooks.is_some());
            let place =
                root.map_or_else(|| request.bundle.to_owned(), |root| request.bundle.join(&root.path));
            (RootSource::Mount(mount), place)
        }
    };
    let propagation = match linux.rootfs_propagation.as_str() {
        "" | "slave" | "rslave" => Propagation::Slave,
        "private" | "rprivate" => Propagation::Private,
        "shared" | "rshared" => Propagation::Shared,
        "unbindable" | "runbindable" => Propagation::Unbindable,
        other => return Err(invalid(format!("linux.rootfsPropagation: {other:?} is not known"))),
    };
    let readonly = request.spec.root.as_ref().is_some_and(|root| root.readonly);
    Ok(RootPlan { source, place, readonly, propagation, no_pivot: request.no_pivot })
}

fn net_devices(linux: &Linux, own_network: bool) -> Result<Vec<NetDevicePlan>, Error> {
    if !linux.net_devices.is_empty() && !own_network {
        return Err(invalid("linux.netDevices needs a network namespace of the container's own"));
    }
    linux.net_devices.iter().map(|(name, device)| NetDevicePlan::new(name, &device.name)).collect()
}

/// `field`: where in the specification it is.
fn device(field: &str, device: &palan_oci::runtime_spec::Device) -> Result<DevicePlan, Error> {
    use palan_linux::path::FileKind;
    let kind = match device.kind.as_str() {
        "c" | "u" => FileKind::CharacterDevice,
        "b" => FileKind::BlockDevice,
        "p" => FileKind::Fifo,
        other => {
            return Err(invalid(format!("{field}.type: {other:?} is not c, u, b or p")));
        }
    };
    // The kernel has 12 bits for the one and 20 for the other.
    let number = |name: &str, number: Option<i64>, bits: u32| match number {
        None if kind == FileKind::Fifo => Ok(0),
        Some(number) => u32::try_from(number).ok().filter(|number| number >> bits == 0).ok_or_else(|| {
            invalid(format!("{field}.{name}: {number} is not within 0 and {}", (1 << bits) - 1))
        }),
        None => Err(invalid(format!("{field}.{name} is missing"))),
    };
    let owner = |name: &str, number: Option<u32>| match number {
        // "Unchanged" to the kernel.
        Some(u32::MAX) => Err(invalid(format!("{field}.{name}: {} is no user or group", u32::MAX))),
        number => Ok(number.unwrap_or(0)),
    };
    Ok(DevicePlan {
        path: container_path(&device.path).in_field(format_args!("{field}.path"))?,
        kind,
        major: number("major", device.major, 12)?,
        minor: number("minor", device.minor, 20)?,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: owner("uid", device.uid)?,
        gid: owner("gid", device.gid)?,
    })
}

/// Kernel parameters, as paths below /proc/sys. Only such that belong to a namespace of the container.
fn sysctl(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<SysctlPlan>, Error> {
    const IPC: [&str; 7] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
    ];
    let mut result = Vec::new();
    for (name, value) in &linux.sysctl {
        // Both separators are in use; the first one in the name is the separator (as in sysctl(8)).
        let path = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
            Some(b'.') => name.chars().map(swap_separators).collect::<String>(),
            _ => name.clone(),
        };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
            return Err(invalid(format!("linux.sysctl: {name:?} is no name of a sysctl")));
        }
        let owner = if IPC.contains(&path.as_str())
            || path == "kernel/shm_rmid_forced"
            || path.starts_with("fs/mqueue/")
        {
            Some((Kind::Ipc, "IPC"))
        } else if path.starts_with("net/") {
            Some((Kind::Network, "network"))
        } else if matches!(path.as_str(), "kernel/domainname" | "kernel/hostname") {
            Some((Kind::Uts, "UTS"))
        } else {
            None
        };
        match owner {
            Some((kind, _)) if namespaces.has(kind) => {
                result.push(SysctlPlan { name: name.clone(), path, value: value.clone() });
            }
            Some((_, word)) => {
                return Err(invalid(format!(
                    "linux.sysctl: sysctl {name:?} is not allowed without a {word} namespace of the container's own"
                )));
            }
            None => {
                return Err(invalid(format!(
                    "linux.sysctl: sysctl {name:?} is not in a separate kernel namespace"
                )));
            }
        }
    }
    Ok(result)
}

fn swap_separators(letter: char) -> char {
    match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

/// The caller's own namespace, to return to.
pub(crate) fn own_pid_namespace() -> Result<OwnedFd, Error> {
    namespace::open(0, Kind::Pid).context(|| "open this process's PID namespace".to_owned())
}
