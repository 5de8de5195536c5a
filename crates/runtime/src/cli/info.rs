//! `spec`, `features`, `--version`.

use std::path::Path;
use std::process::ExitCode;

use palan_linux::capability;
use palan_oci::runtime_spec::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Rlimit,
    Root, Spec, VERSION,
};
use serde_json::json;

use super::arguments::{Arguments, Flag, flag, option};
use super::{Failure, Global, Outcome};
use crate::cgroup;
use crate::plan::kernel::{MEMORY_FLAGS, MEMORY_MODES};
use crate::seccomp::KNOWN_ARCHITECTURES;

pub(super) const SPEC_FLAGS: &[Flag] = &[option("bundle").short('b'), flag("rootless")];

/// The lines that runc's callers look for.
pub(super) fn version() -> String {
    let commit = option_env!("PALAN_BUILD").unwrap_or("unknown");
    format!("palan runtime version {}\ncommit: {commit}\nspec: {VERSION}\n", env!("CARGO_PKG_VERSION"))
}

/// Writes a `config.json` to start from.
pub(super) fn spec(_global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(0)?;
    let template = if arguments.has("rootless") { rootless(template()) } else { template() };
    let path = Path::new(arguments.value("bundle").unwrap_or(".")).join("config.json");
    let mut json =
        serde_json::to_string_pretty(&template).map_err(|error| Failure::new(error.to_string()))?;
    json.push('\n');
    let file = palan_stdx::fs::create_new(&path, 0o666);
    let written = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(format!("File {} exists. Remove it first", path.display()))
        }
        _ => Failure::new(palan_stdx::error_chain::to_string(&error)),
    });
    std::io::Write::write_all(&mut written?, json.as_bytes())
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    Ok(ExitCode::SUCCESS)
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn template() -> Spec {
    let few = strings(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: strings(options),
        ..Mount::default()
    };
    let namespaces = [
        NamespaceKind::Pid,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Mount,
        NamespaceKind::Cgroup,
    ];
    Spec {
        oci_version: VERSION.to_owned(),
        process: Some(Process {
            terminal: true,
            args: strings(&["sh"]),
            env: strings(&[
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ]),
            cwd: "/".to_owned(),
            capabilities: Some(Capabilities {
                bounding: few.clone(),
                effective: few.clone(),
                permitted: few,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: 1024, soft: 1024 }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".to_owned(), readonly: true }),
        hostname: "palan".to_owned(),
        mounts: vec![
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        linux: Some(Linux {
            resources: Some(Resources {
                devices: vec![DeviceRule { access: "rwm".to_owned(), ..DeviceRule::default() }],
                ..Resources::default()
            }),
            namespaces: namespaces
                .into_iter()
                // As with runc: on cgroup v1 processes have always seen the host's names of their cgroups.
                .filter(|kind| {
                    *kind != NamespaceKind::Cgroup || matches!(cgroup::version(), Ok(cgroup::Version::V2))
                })
                .map(|kind| Namespace { kind, path: String::new() })
                .collect(),
            masked_paths: strings(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ]),
            readonly_paths: strings(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

/// The same for a user who is not root: alone in a user namespace, in the host's network, without limits.
fn rootless(mut spec: Spec) -> Spec {
    let only = |host_id: u32| vec![IdMapping { container_id: 0, host_id, size: 1 }];
    if let Some(linux) = &mut spec.linux {
        linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
        linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: String::new() });
        linux.uid_mappings = only(rustix::process::geteuid().as_raw());
        linux.gid_mappings = only(rustix::process::getegid().as_raw());
        linux.resources = None;
    }
    for mount in &mut spec.mounts {
        // A group that is not mapped.
        mount.options.retain(|option| option != "gid=5");
        if mount.destination == "/sys" {
            // A new sysfs shows the network, and needs rights over its namespace.
            *mount = Mount {
                destination: mount.destination.clone(),
                kind: "none".to_owned(),
                source: "/sys".to_owned(),
                options: strings(&["rbind", "nosuid", "noexec", "nodev", "ro"]),
                ..Mount::default()
            };
        }
    }
    spec.mounts.retain(|mount| mount.kind != "cgroup");
    spec
}

fn names_of<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

const SECCOMP_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

pub(super) fn features(_global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(0)?;
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime", "loud", "mand",
            "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind",
            "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime",
            "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave",
            "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave",
            "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capability::names(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE"
                ],
                "archs": KNOWN_ARCHITECTURES,
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": names_of(&MEMORY_MODES), "flags": names_of(&MEMORY_FLAGS) },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true }
        },
        "potentiallyUnsafeConfigAnnotations": ["bundle", "org.criu.config", "org.systemd.property."]
    });
    let text = serde_json::to_string_pretty(&features).map_err(|error| Failure::new(error.to_string()))?;
    super::print(&format!("{text}\n"))
}
