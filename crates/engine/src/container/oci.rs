//! The runtime specification of a container, made from its stored details.

use std::path::Path;

use palan_oci::runtime_spec::{
    BlockIo, Capabilities, ConsoleSize, Cpu, Device, DeviceRule, Linux, Memory, Mount, Pids, Process,
    Resources, Rlimit, Root, Spec, User, VERSION,
};

use crate::container::namespaces::SHARED_MEMORY;
use crate::container::security::Options;
use crate::container::{Details, ExecSpec, MountPoint, limits, merge, namespaces, security, validate};
use crate::error::Context;
use crate::spec::{self, HostConfig, Ulimit};
use crate::{Error, Result};

/// Paths of `/proc` and `/sys` that tell or change too much about the host.
pub(crate) const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Paths of `/proc` that may be read only.
pub(crate) const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The specification for a start.
pub(crate) fn spec(details: &Details, options: &Options) -> Result<Spec> {
    let host = &details.host;
    let (devices, mut rules) = devices(host)?;
    let mut resources = resources(&host.resources);
    resources.block_io = limits::block_io(&host.resources)?;
    for rule in &host.resources.device_cgroup_rules {
        let (kind, major, minor, access) = validate::device_rule(rule)?;
        rules.push(device_rule(true, kind, major, minor, access));
    }
    resources.devices = rules;
    let linux = Linux {
        sysctl: sysctls(host),
        resources: Some(resources),
        cgroups_path: details.cgroup_path.clone(),
        namespaces: namespaces::specification(host),
        devices,
        rootfs_propagation: rootfs_propagation(&details.mounts).into(),
        masked_paths: host.masked_paths.clone().unwrap_or_default(),
        readonly_paths: host.readonly_paths.clone().unwrap_or_default(),
        ..Linux::default()
    };
    Ok(Spec {
        oci_version: VERSION.into(),
        process: Some(process(details, options)?),
        root: Some(Root { path: "rootfs".into(), readonly: host.readonly_rootfs }),
        hostname: if host.uts_mode == "host" { String::new() } else { details.config.hostname.clone() },
        domainname: if host.uts_mode == "host" { String::new() } else { details.config.domainname.clone() },
        mounts: mounts(details, options)?,
        hooks: None,
        annotations: host.annotations.clone(),
        linux: Some(linux),
    })
}

fn process(details: &Details, options: &Options) -> Result<Process> {
    let (host, config) = (&details.host, &details.config);
    let args = std::iter::once(details.path.clone()).chain(details.args.iter().cloned()).collect();
    Ok(Process {
        terminal: config.tty,
        console_size: console_size(config.tty, host.console_size),
        user: user(host),
        args,
        env: merge::environment(config),
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
        capabilities: Some(capability_sets(security::capabilities(host)?)),
        rlimits: host.resources.ulimits.iter().map(rlimit).collect(),
        no_new_privileges: options.no_new_privileges,
        apparmor_profile: options.app_armor.clone().unwrap_or_default(),
        oom_score_adj: i32::try_from(host.oom_score_adj).ok().filter(|adjustment| *adjustment != 0),
        ..Process::default()
    })
}

/// The process of an exec session.
pub(crate) fn exec_process(details: &Details, exec: &ExecSpec, options: &Options) -> Result<Process> {
    let mut process = process(details, options)?;
    process.args.clone_from(&exec.cmd);
    process.terminal = exec.tty;
    process.console_size = exec
        .console_size
        .filter(|_| exec.tty)
        .map(|(height, width)| ConsoleSize { height: height.into(), width: width.into() });
    if exec.tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push("TERM=xterm".into());
    }
    merge::override_environment(&mut process.env, &exec.env);
    if !exec.working_dir.is_empty() {
        process.cwd.clone_from(&exec.working_dir);
    }
    if exec.privileged {
        let all = HostConfig { privileged: true, ..HostConfig::default() };
        process.capabilities = Some(capability_sets(security::capabilities(&all)?));
    }
    Ok(process)
}

fn console_size(tty: bool, [height, width]: [u64; 2]) -> Option<ConsoleSize> {
    let size = (u32::try_from(height).ok()?, u32::try_from(width).ok()?);
    (tty && size != (0, 0)).then_some(ConsoleSize { height: size.0, width: size.1 })
}

/// The user's name is resolved inside the root filesystem, and so are the names of further groups; only those that are given
/// by number are known here.
fn user(host: &HostConfig) -> User {
    let additional_gids = host.group_add.iter().filter_map(|group| group.parse().ok()).collect();
    User { additional_gids, ..User::default() }
}

/// The user and the further groups that are to be resolved inside; groups by name need a user, if only the default one.
pub(crate) fn user_names(user: &str, host: &HostConfig) -> (Option<String>, Vec<String>) {
    let is_name = |group: &&String| group.parse::<u32>().is_err();
    let groups: Vec<String> = host.group_add.iter().filter(is_name).cloned().collect();
    ((!user.is_empty() || !groups.is_empty()).then(|| user.to_owned()), groups)
}

/// Nothing is inheritable or ambient: a program that gains capabilities by a file's would get more than it should.
fn capability_sets(names: Vec<&'static str>) -> Capabilities {
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        ..Capabilities::default()
    }
}

fn rlimit(limit: &Ulimit) -> Rlimit {
    // -1 means unlimited, which is the largest number.
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    Rlimit {
        kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        hard: value(limit.hard),
        soft: value(limit.soft),
    }
}

fn sysctls(host: &HostConfig) -> std::collections::BTreeMap<String, String> {
    let mut sysctls = host.sysctls.clone();
    if namespaces::has_own_network(host) {
        // Ping and low ports without privileges, as in Docker: the namespace is the container's own.
        sysctls.entry("net.ipv4.ping_group_range".into()).or_insert_with(|| "0 2147483647".into());
        sysctls.entry("net.ipv4.ip_unprivileged_port_start".into()).or_insert_with(|| "0".into());
    }
    sysctls
}

/// A bind mount that shares with the host needs a root that lets events through.
fn rootfs_propagation(mounts: &[MountPoint]) -> &'static str {
    let has = |kind: &str| mounts.iter().any(|mount| mount.propagation.trim_start_matches('r') == kind);
    if has("shared") {
        "rshared"
    } else if has("slave") {
        "rslave"
    } else {
        ""
    }
}

fn mounts(details: &Details, options: &Options) -> Result<Vec<Mount>> {
    let host = &details.host;
    let mut list = Vec::with_capacity(16);
    let mut add = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        if details.mounts.iter().any(|mount| mount.destination == destination) {
            return;
        }
        list.push(Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        });
    };
    let access = |is_writable: bool| if is_writable { "rw" } else { "ro" };
    let writable = access(host.privileged);
    let writable_cgroups = access(options.writable_cgroups.unwrap_or(host.privileged));
    add("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]);
    add("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]);
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    add("/dev/pts", "devpts", "devpts", &pts);
    add("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", writable]);
    add("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", writable_cgroups]);
    // It shows the queues of the IPC namespace, whosever that is; the host need not have it mounted.
    add("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    match (host.ipc_mode.as_str(), host.ipc_mode.strip_prefix("container:")) {
        ("host", _) => add(SHARED_MEMORY, "bind", SHARED_MEMORY, &["rbind", "rprivate"]),
        // The supervisor finds it; the source is for messages.
        (_, Some(other)) => {
            add(SHARED_MEMORY, "bind", &format!("shm of {other}"), &["rbind", "rprivate"]);
        }
        ("none", _) => {}
        _ => {
            let size = format!("size={}", host.shm_size);
            add(SHARED_MEMORY, "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]);
        }
    }
    let files = [
        ("/etc/resolv.conf", &details.resolv_conf_path),
        ("/etc/hostname", &details.hostname_path),
        ("/etc/hosts", &details.hosts_path),
    ];
    for (destination, source) in files {
        let write = if host.readonly_rootfs { "ro" } else { "rw" };
        add(destination, "bind", source, &["rbind", "rprivate", write]);
    }
    for mount in &details.mounts {
        list.push(user_mount(mount)?);
    }
    Ok(list)
}

fn user_mount(mount: &MountPoint) -> Result<Mount> {
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match mount.kind.as_str() {
        "tmpfs" => {
            options.extend(["noexec", "nosuid", "nodev"].map(String::from));
            for option in
                mount.options.split(',').filter(|option| !option.is_empty() && *option != "defaults")
            {
                let opposite = option.strip_prefix("no").map_or_else(|| format!("no{option}"), String::from);
                options.retain(|present| *present != opposite && present != option);
                options.push(option.into());
            }
            ("tmpfs", "tmpfs".to_owned())
        }
        "bind" | "volume" => {
            options.push(if mount.non_recursive { "bind" } else { "rbind" }.into());
            let propagation = if mount.propagation.is_empty() { "rprivate" } else { &mount.propagation };
            options.push(propagation.into());
            ("bind", mount.source.clone())
        }
        // What it shows is made by the supervisor; the source is for messages.
        "image" => {
            options.extend(["rbind", "rprivate", "nosuid", "nodev"].map(String::from));
            ("bind", mount.name.clone())
        }
        other => return Err(Error::system(format!("a stored mount has the unknown type \"{other}\""))),
    };
    if !mount.writable {
        // As in Docker since 25.0: what comes along from below is as read-only as the rest, unless that is asked for.
        let recursive = kind == "bind" && !mount.non_recursive && !mount.read_only_non_recursive;
        for option in ["ro", "rro"].into_iter().take(1 + usize::from(recursive)) {
            if !options.iter().any(|present| present == option) {
                options.push(option.into());
            }
        }
    }
    Ok(Mount {
        destination: mount.destination.clone(),
        kind: kind.into(),
        source,
        options,
        ..Mount::default()
    })
}

fn resources(wanted: &spec::Resources) -> Resources {
    let positive = |value: i64| (value > 0).then_some(value);
    let memory = Memory {
        limit: positive(wanted.memory),
        reservation: positive(wanted.memory_reservation),
        swap: (wanted.memory_swap != 0).then_some(wanted.memory_swap),
        swappiness: wanted.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        disable_oom_killer: wanted.oom_kill_disable.filter(|disable| *disable),
        ..Memory::default()
    };
    // 100 ms is the kernel's own period.
    const PERIOD: i64 = 100_000;
    let (quota, period) = match wanted.nano_cpus {
        // A quota below 0 is none, which an update may ask for.
        0 => ((wanted.cpu_quota != 0).then_some(wanted.cpu_quota), positive(wanted.cpu_period)),
        nanos => (Some(nanos / (1_000_000_000 / PERIOD)), Some(PERIOD)),
    };
    let cpu = Cpu {
        shares: u64::try_from(wanted.cpu_shares).ok().filter(|shares| *shares > 0),
        quota,
        realtime_period: u64::try_from(wanted.cpu_realtime_period).ok().filter(|period| *period > 0),
        realtime_runtime: (wanted.cpu_realtime_runtime != 0).then_some(wanted.cpu_realtime_runtime),
        period: period.and_then(|period| u64::try_from(period).ok()),
        cpus: wanted.cpuset_cpus.clone(),
        mems: wanted.cpuset_mems.clone(),
        ..Cpu::default()
    };
    let block_io = BlockIo { weight: Some(wanted.blkio_weight), ..BlockIo::default() };
    Resources {
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        // So is a limit of 0.
        pids: wanted.pids_limit.map(|limit| Pids { limit: Some(if limit > 0 { limit } else { -1 }) }),
        block_io: (wanted.blkio_weight > 0).then_some(block_io),
        ..Resources::default()
    }
}

fn device_rule(allow: bool, kind: char, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind: kind.to_string(), major, minor, access: access.into() }
}

/// Device nodes beyond the standard ones, and the rules of the devices cgroup.
fn devices(host: &HostConfig) -> Result<(Vec<Device>, Vec<DeviceRule>)> {
    if host.privileged {
        let mut devices = host_devices()?;
        // All are there under their own names.
        let renamed = host.resources.devices.iter().filter(|mapping| {
            !mapping.path_in_container.is_empty() && mapping.path_in_container != mapping.path_on_host
        });
        for mapping in renamed {
            devices.extend(mapped_devices(mapping)?);
        }
        return Ok((devices, vec![device_rule(true, 'a', None, None, "rwm")]));
    }
    let mut rules = vec![
        device_rule(false, 'a', None, None, "rwm"),
        device_rule(true, 'c', None, None, "m"),
        device_rule(true, 'b', None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, and all of pts.
    let standard =
        [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(1))];
    let terminals = [(5, Some(2)), (136, None)];
    for (major, minor) in standard.into_iter().chain(terminals) {
        rules.push(device_rule(true, 'c', Some(major), minor, "rwm"));
    }
    let mut devices = Vec::new();
    for mapping in &host.resources.devices {
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        for device in mapped_devices(mapping)? {
            let kind = if device.kind == "b" { 'b' } else { 'c' };
            rules.push(device_rule(true, kind, device.major, device.minor, access));
            devices.push(device);
        }
    }
    Ok((devices, rules))
}

/// What one `--device` means.
fn mapped_devices(mapping: &spec::DeviceMapping) -> Result<Vec<Device>> {
    let inside =
        if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
    devices_at(Path::new(&mapping.path_on_host), inside).map_err(|error| {
        let path = &mapping.path_on_host;
        Error::invalid(format!("error gathering device information while adding custom device \"{path}\""))
            .with_source(error)
    })
}

/// One device, or all devices in a directory.
fn devices_at(path: &Path, inside: &str) -> Result<Vec<Device>> {
    if let Some(device) = device(path, inside)? {
        return Ok(vec![device]);
    }
    let mut found = Vec::new();
    for entry in palan_stdx::fs::read_dir(path).context(|| "not a device node".into())? {
        let name = entry.file_name();
        let inside = format!("{}/{}", inside.trim_end_matches('/'), name.to_string_lossy());
        found.extend(device(&entry.path(), &inside)?);
    }
    if found.is_empty() { Err(Error::invalid("not a device node")) } else { Ok(found) }
}

fn device(path: &Path, inside: &str) -> Result<Option<Device>> {
    let stat = rustix::fs::stat(path)
        .map_err(std::io::Error::from)
        .context(|| format!("cannot read {}", path.display()))?;
    let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::CharacterDevice => "c",
        rustix::fs::FileType::BlockDevice => "b",
        _ => return Ok(None),
    };
    Ok(Some(Device {
        kind: kind.into(),
        path: inside.into(),
        major: Some(rustix::fs::major(stat.st_rdev).into()),
        minor: Some(rustix::fs::minor(stat.st_rdev).into()),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    }))
}

/// All devices of the host for a privileged container, without what the container has of its own.
fn host_devices() -> Result<Vec<Device>> {
    const OWN: [&str; 16] = [
        "pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty",
        "stdin", "stdout", "stderr", ".lxc",
    ];
    const DEPTH: usize = 4;
    let mut devices = Vec::new();
    let mut directories = vec![(std::path::PathBuf::from("/dev"), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in
            palan_stdx::fs::read_dir(&directory).context(|| "cannot list the host's devices".into())?
        {
            let name = entry.file_name();
            if depth == 0 && OWN.iter().any(|own| name.to_str() == Some(own)) {
                continue;
            }
            // Links are left out, their targets are found anyway; an entry that vanished meanwhile is no error.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEPTH => directories.push((entry.path(), depth + 1)),
                Ok(kind) if !kind.is_symlink() => {
                    let path = entry.path();
                    devices.extend(device(&path, &path.to_string_lossy()).ok().flatten());
                }
                _ => {}
            }
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use palan_oci::runtime_spec::NamespaceKind;

    use super::*;
    use crate::spec::Config;

    fn details(host: HostConfig) -> Details {
        Details {
            id: "0".repeat(64),
            path: "/bin/true".into(),
            config: Config { hostname: "h".into(), ..Config::default() },
            host,
            cgroup_path: "/palan/x".into(),
            ..Details::default()
        }
    }

    fn made(details: &Details) -> Spec {
        spec(details, &Options::default()).expect("a specification")
    }

    #[test]
    fn defaults() {
        let spec = made(&details(HostConfig { shm_size: 64 << 20, ..HostConfig::default() }));
        let linux = spec.linux.expect("linux");
        assert_eq!(linux.namespaces.len(), 6);
        let process = spec.process.expect("process");
        assert_eq!(process.cwd, "/");
        let sets = process.capabilities.expect("capabilities");
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty() && sets.bounding == sets.effective);
        let shm = spec.mounts.iter().find(|mount| mount.destination == "/dev/shm").expect("shm");
        assert!(shm.options.contains(&"size=67108864".to_owned()));
        let rules = linux.resources.expect("resources").devices;
        assert!(!rules[0].allow && rules[0].kind == "a", "everything is denied first");
    }

    #[test]
    fn limits() {
        let mut host = HostConfig::default();
        host.resources.nano_cpus = 1_500_000_000;
        host.resources.memory = 64 << 20;
        host.resources.memory_swap = 128 << 20;
        host.resources.pids_limit = Some(-1);
        let resources = made(&details(host)).linux.expect("linux").resources.expect("resources");
        let cpu = resources.cpu.expect("cpu");
        assert_eq!((cpu.quota, cpu.period), (Some(150_000), Some(100_000)));
        assert_eq!(resources.memory.expect("memory").swap, Some(128 << 20));
        // What an update lifts must be written.
        assert_eq!(resources.pids.and_then(|pids| pids.limit), Some(-1));
        let resources = made(&details(HostConfig::default())).linux.expect("linux").resources;
        assert!(resources.is_some_and(|resources| resources.pids.is_none()));
    }

    #[test]
    fn host_modes_take_namespaces_away() {
        let host = HostConfig {
            network_mode: "host".into(),
            pid_mode: "host".into(),
            ipc_mode: "host".into(),
            ..HostConfig::default()
        };
        let linux = made(&details(host)).linux.expect("linux");
        let kinds: Vec<_> = linux.namespaces.iter().map(|namespace| namespace.kind).collect();
        assert_eq!(kinds, [NamespaceKind::Mount, NamespaceKind::Uts, NamespaceKind::Cgroup]);
        assert!(linux.sysctl.is_empty());
    }

    #[test]
    fn a_users_mount_replaces_the_default_one() {
        let mut details = details(HostConfig::default());
        details.mounts = vec![MountPoint {
            kind: "tmpfs".into(),
            destination: "/dev/shm".into(),
            options: "exec,size=1m".into(),
            writable: true,
            ..MountPoint::default()
        }];
        let spec = made(&details);
        let found: Vec<_> = spec.mounts.iter().filter(|mount| mount.destination == "/dev/shm").collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].options, ["nosuid", "nodev", "exec", "size=1m"]);
    }
}
