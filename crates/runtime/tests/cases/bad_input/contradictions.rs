//! Fields that are right on their own and impossible together, or that no kernel takes.

use super::*;

/// A runnable specification with changes: `(JSON pointer, value)`; null takes the member out.
fn changed(sandbox: &Sandbox, changes: &[(&str, Value)]) -> String {
    let mut config = runnable(sandbox);
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")) {
            Value::Array(items) if name == "-" => items.push(value.clone()),
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value.clone(),
            Value::Object(members) if value.is_null() => drop(members.remove(name)),
            Value::Object(members) => drop(members.insert(name.to_owned(), value.clone())),
            other => panic!("{pointer}: {other}"),
        }
    }
    config.to_string()
}

/// The namespaces without those of these kinds, and with others.
fn namespaces(without: &[&str], with: Value) -> Value {
    let kinds = ["mount", "pid", "network", "ipc", "uts", "cgroup"];
    let kept = kinds.into_iter().filter(|kind| !without.contains(kind)).map(|kind| json!({ "type": kind }));
    kept.chain(with.as_array().unwrap().iter().cloned()).collect()
}

/// Refused before anything exists, each with these words.
pub(crate) fn contradictions_are_refused() {
    let sandbox = sandbox();
    let mappings = json!([{ "containerID": 0, "hostID": 100_000, "size": 1000 }]);
    let user = || namespaces(&[], json!([{ "type": "user" }]));
    let notify = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]);
    let limit = |kind: &str, soft: u64, hard: u64| json!({ "type": kind, "soft": soft, "hard": hard });
    let fifo = sandbox.directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let join = |kind: &str, path: &str| namespaces(&[kind], json!([{ "type": kind, "path": path }]));
    let device = |kind: &str, major: i64, minor: i64| json!([{ "path": "/dev/x", "type": kind, "major": major, "minor": minor }]);
    let scheduler = |fields: Value| {
        let mut scheduler = json!({ "policy": "SCHED_OTHER" });
        scheduler.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        scheduler
    };
    let mount = |fields: Value| {
        let mut mount =
            json!({ "destination": "/data", "type": "bind", "source": "data", "options": ["rbind"] });
        mount.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        mount
    };
    let hook = |fields: Value| {
        let mut hook = json!({ "path": "/bin/true" });
        hook.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({ "poststop": [hook] })
    };
    let cases: Vec<(Vec<(&str, Value)>, &str)> = vec![
        // Versions.
        (vec![("/ociVersion", json!(null))], "ociVersion"),
        (vec![("/ociVersion", json!("2.0.0"))], "ociVersion"),
        (vec![("/ociVersion", json!("one"))], "ociVersion"),
        // Namespaces and what needs them.
        (vec![("/linux/namespaces", user())], "linux.uidMappings"),
        (vec![("/linux/uidMappings", mappings.clone())], "linux.uidMappings"),
        (vec![("/linux/namespaces", user()), ("/linux/uidMappings", mappings.clone())], "linux.gidMappings"),
        (
            vec![("/linux/namespaces/-", json!({ "type": "pid" }))],
            "linux.namespaces[6]: duplicate namespace Pid",
        ),
        (vec![("/linux/namespaces/-", json!({ "type": "planet" }))], "linux.namespaces[6].type"),
        (vec![("/linux/namespaces", namespaces(&["uts"], json!([])))], "hostname needs a UTS namespace"),
        (vec![("/linux/namespaces", namespaces(&["network"], json!([])))], "linux.sysctl: sysctl \"net.ipv4"),
        (vec![("/linux/namespaces", namespaces(&["mount"], json!([])))], "linux.maskedPaths"),
        (
            vec![
                ("/linux/sysctl", json!({ "kernel.msgmax": "1" })),
                ("/linux/namespaces", namespaces(&["ipc"], json!([]))),
            ],
            "linux.sysctl: sysctl \"kernel.msgmax\" is not allowed without a IPC",
        ),
        // A path to the caller's own namespace makes none.
        (
            vec![("/linux/namespaces", join("network", "/proc/self/ns/net"))],
            "linux.sysctl: sysctl \"net.ipv4",
        ),
        (vec![("/linux/namespaces", join("uts", "/proc/self/ns/uts"))], "hostname needs a UTS namespace"),
        (vec![("/linux/namespaces", join("network", "/proc/self/ns/uts"))], "linux.namespaces[5].path"),
        (vec![("/linux/namespaces", join("network", "/no/such"))], "linux.namespaces[5].path"),
        (vec![("/linux/namespaces", join("network", "/dev/null"))], "linux.namespaces[5].path"),
        (vec![("/linux/namespaces", join("network", fifo.to_str().unwrap()))], "linux.namespaces[5].path"),
        (vec![("/linux/timeOffsets", json!({ "monotonic": { "secs": 1 } }))], "linux.timeOffsets"),
        // Users.
        (vec![("/process/user/uid", json!(u32::MAX))], "process.user.uid: 4294967295"),
        (vec![("/process/user/gid", json!(u32::MAX))], "process.user.gid: 4294967295"),
        (
            vec![("/process/user/additionalGids", json!([1, u32::MAX]))],
            "process.user.additionalGids[1]: 4294967295",
        ),
        (vec![("/process/user/uid", json!(-1))], "process.user.uid"),
        (vec![("/process/user/umask", json!(0o1000))], "process.user.umask: 512"),
        (
            vec![
                ("/linux/namespaces", user()),
                ("/linux/uidMappings", mappings.clone()),
                ("/linux/gidMappings", mappings.clone()),
            ],
            "process.user.uid: 1000 is not mapped in linux.uidMappings",
        ),
        (
            vec![
                ("/linux/namespaces", user()),
                ("/linux/uidMappings", mappings.clone()),
                ("/linux/gidMappings", mappings.clone()),
                ("/process/user/uid", json!(5)),
            ],
            "process.user.gid: 1001 is not mapped in linux.gidMappings",
        ),
        (
            vec![
                ("/linux/namespaces", user()),
                ("/linux/uidMappings", mappings.clone()),
                ("/linux/gidMappings", mappings.clone()),
                ("/process/user", json!({ "uid": 5, "gid": 5, "additionalGids": [7, 1000] })),
            ],
            "process.user.additionalGids[1]: 1000 is not mapped in linux.gidMappings",
        ),
        // Terminals.
        (
            vec![("/process/terminal", json!(true)), ("/process/consoleSize/width", json!(65_536))],
            "process.consoleSize.width: 65536",
        ),
        // Limits of processes.
        (vec![("/process/rlimits", json!([limit("RLIMIT_CORE", 2, 1)]))], "process.rlimits[0]: soft limit 2"),
        (
            vec![("/process/rlimits", json!([limit("RLIMIT_CORE", 1, 1), limit("RLIMIT_CORE", 1, 2)]))],
            "process.rlimits[1]: duplicate rlimit RLIMIT_CORE",
        ),
        (vec![("/process/rlimits/0/type", json!("RLIMIT_X"))], "process.rlimits[0]: invalid rlimit type"),
        (vec![("/process/oomScoreAdj", json!(1001))], "process.oomScoreAdj: 1001"),
        (vec![("/process/scheduler", scheduler(json!({ "priority": 1 })))], "process.scheduler.priority"),
        (
            vec![("/process/scheduler", scheduler(json!({ "policy": "SCHED_FIFO" })))],
            "process.scheduler.priority: 0",
        ),
        (
            vec![("/process/scheduler", scheduler(json!({ "policy": "SCHED_RR", "priority": 100 })))],
            "process.scheduler.priority: 100",
        ),
        (vec![("/process/scheduler", scheduler(json!({ "runtime": 1 })))], "process.scheduler.runtime"),
        (
            vec![(
                "/process/scheduler",
                scheduler(json!({ "policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 5, "period": 9 })),
            )],
            "process.scheduler: the runtime (9)",
        ),
        (
            vec![("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }))],
            "process.ioPriority.priority",
        ),
        (vec![("/process/execCPUAffinity", json!({ "initial": "1-" }))], "process.execCPUAffinity.initial"),
        // Mounts.
        (vec![("/mounts/5", mount(json!({ "destination": "" })))], "mounts[5].destination"),
        (
            vec![("/mounts/5", mount(json!({ "options": ["rbind", "nonsense"] })))],
            "mounts[5] (/data): options",
        ),
        (vec![("/mounts/5", mount(json!({ "source": "" })))], "mounts[5] (/data): source"),
        (vec![("/mounts/5", mount(json!({ "type": "tmpfs", "options": ["idmap"] })))], "mounts[5] (/data)"),
        (vec![("/mounts/5", mount(json!({ "uidMappings": mappings })))], "mounts[5] (/data)"),
        (vec![("/linux/rootfsPropagation", json!("sometimes"))], "linux.rootfsPropagation"),
        (vec![("/linux/maskedPaths", json!([""]))], "linux.maskedPaths[0]"),
        // Devices.
        (vec![("/linux/devices", device("x", 1, 1))], "linux.devices[0].type"),
        (vec![("/linux/devices", device("c", 4096, 1))], "linux.devices[0].major: 4096"),
        (vec![("/linux/devices", device("b", 1, 1 << 20))], "linux.devices[0].minor: 1048576"),
        (vec![("/linux/devices", device("b", -1, 1))], "linux.devices[0].major: -1"),
        (vec![("/linux/devices/0/major", json!(null))], "linux.devices[0].major"),
        // Hooks.
        (vec![("/hooks", hook(json!({ "path": "bin/true" })))], "hooks.poststop[0].path"),
        (vec![("/hooks", hook(json!({ "timeout": 0 })))], "hooks.poststop[0].timeout"),
        (vec![("/hooks", hook(json!({ "timeout": -1 })))], "hooks.poststop[0].timeout"),
        (vec![("/hooks", hook(json!({ "env": ["X"] })))], "hooks.poststop[0].env[0]"),
        // The rest.
        (
            vec![("/linux/seccomp/syscalls", notify)],
            "linux.seccomp: the seccomp profile is not valid: listenerPath",
        ),
        (vec![("/linux/seccomp/syscalls/0/action", json!("SCMP_ACT_X"))], "linux.seccomp"),
        (vec![("/linux/personality", json!({ "domain": "BSD" }))], "linux.personality.domain"),
        (vec![("/linux/memoryPolicy", json!({ "mode": "MPOL_X" }))], "linux.memoryPolicy.mode"),
        (vec![("/annotations", json!({ "a": 1 }))], "annotations.a"),
        (vec![("/hostname", json!("x".repeat(65)))], "hostname: it has 65 bytes"),
        (vec![("/process", json!(null))], "process is missing"),
        (vec![("/process/cwd", json!("tmp"))], "process.cwd"),
        (vec![("/process/args", json!(["true", "a\0"]))], "process.args[1]"),
    ];
    for (changes, words) in cases {
        match check(&sandbox, &changed(&sandbox, &changes)) {
            Err(error) => assert!(error.contains(words), "{changes:?}: {error}"),
            Ok(()) => panic!("{changes:?} is not refused"),
        }
    }
}

/// What only the kernel, the command line or the cgroup knows: refused by a process that leaves nothing.
pub(crate) fn what_the_kernel_refuses_has_a_name() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        let beyond = std::thread::available_parallelism().unwrap().get() + 4000;
        for (changes, words) in [
            (vec![("/process/terminal", json!(true)), ("/mounts", json!([]))], "a terminal needs a devpts"),
            (vec![("/mounts/1/options", json!(["nonsense=1"]))], "mounts[1] (/dev)"),
            (vec![("/mounts/1/type", json!("nonsense"))], "mounts[1] (/dev)"),
            (vec![("/mounts/5/source", json!("/no/such"))], "mounts[5] (/data)"),
            (vec![("/mounts/5/destination", json!("/proc/self/x"))], "mounts[5] (/proc/self/x)"),
            // Mapped as the container is, which has no user namespace.
            (vec![("/mounts/5/options", json!(["rbind", "idmap"]))], "mounts[5] (/data)"),
            (vec![("/process/cwd", json!("/bin/busybox"))], "process.cwd"),
            (vec![("/process/apparmorProfile", json!("no-such-profile"))], "process.apparmorProfile"),
            (vec![("/process/selinuxLabel", json!("no-such-label"))], "process.selinuxLabel"),
            (vec![("/linux/mountLabel", json!("no-such-label"))], "linux.mountLabel"),
            (vec![("/linux/sysctl", json!({ "net.no.such": "1" }))], "linux.sysctl.net.no.such"),
            (vec![("/linux/resources/memory/swappiness", json!(101))], "linux.resources.memory.swappiness"),
            (vec![("/linux/resources/memory/swap", json!(1_000_000))], "linux.resources.memory"),
            (vec![("/linux/resources/cpu/cpus", json!("nonsense"))], "linux.resources.cpu.cpus"),
            (vec![("/linux/resources/cpu/cpus", json!(beyond.to_string()))], "linux.resources.cpu.cpus"),
            (vec![("/linux/resources/cpu/mems", json!("4000"))], "linux.resources.cpu.mems"),
            (vec![("/linux/resources/cpu/period", json!(1))], "linux.resources.cpu"),
            (vec![("/linux/resources/devices/1/type", json!("x"))], "linux.resources.devices[1]"),
            (vec![("/linux/resources/devices/1/major", json!(-7))], "linux.resources.devices[1]"),
            (
                vec![("/linux/resources/hugepageLimits", json!([{ "pageSize": "../x", "limit": 1 }]))],
                "linux.resources.hugepageLimits[0]",
            ),
            (vec![("/linux/resources/unified", json!({ "../x": "1" }))], "linux.resources.unified"),
            (vec![("/linux/cgroupsPath", json!("/../x"))], "linux.cgroupsPath"),
            (vec![("/linux/cgroupsPath", json!("../x"))], "linux.cgroupsPath"),
            (vec![("/linux/cgroupsPath", json!("/a/../../x"))], "linux.cgroupsPath"),
            (vec![("/linux/intelRdt", json!({ "closID": ".." }))], "linux.intelRdt.closID"),
            (vec![("/root/path", json!("no-such"))], "root.path"),
            (vec![("/root/path", json!(null))], "root.path"),
            (vec![("/root", json!(null))], "root.path"),
        ] {
            let outcome = run(&runtime, &sandbox, &changed(&sandbox, &changes));
            assert!(outcome.error().contains(words), "{changes:?}: {outcome:?}");
        }
    });
}

/// Terminals and the options about them.
pub(crate) fn terminals_have_somebody_to_show_them() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        for (terminal, words, text) in [
            (true, &["run", "--detach"][..], "cannot allocate tty"),
            (true, &["create"], "cannot allocate tty"),
            (true, &["run", "--console-socket", "/no/such"], "cannot use console socket"),
            (false, &["create", "--console-socket", "/no/such"], "cannot use console socket"),
            (true, &["create", "--console-socket", "/no/such"], "--console-socket /no/such"),
            (true, &["run", "--detach", "--console-socket", "/dev/null"], "--console-socket /dev/null"),
            (false, &["create", "--pid-file", "/no/such/file"], "/no/such/file"),
            (false, &["create", "--pidfd-socket", "/no/such"], "--pidfd-socket /no/such"),
            (false, &["create", "--preserve-fds", "70"], "--preserve-fds"),
        ] {
            let json = changed(&sandbox, &[("/process/terminal", json!(terminal))]);
            let outcome = call(&runtime, &sandbox, &json, words);
            assert!(outcome.error().contains(text), "{words:?}: {outcome:?}");
        }
    });
}

/// A process that stays in a user namespace of its own, with 2000 numbers from 100000 on.
struct Holder(os::Child);

impl Holder {
    fn new() -> Self {
        let Forked::Parent(child) = os::fork(&ForkOptions::default()).unwrap() else {
            namespace::unshare(Kinds::USER).unwrap();
            loop {
                rustix::event::pause();
            }
        };
        let holder = Self(child);
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        while std::fs::read_link(holder.file("ns/user")).unwrap() == own {
            std::thread::sleep(Duration::from_millis(1));
        }
        for file in ["uid_map", "gid_map"] {
            std::fs::write(holder.file(file), "0 100000 2000\n").unwrap();
        }
        holder
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.pid.as_raw_nonzero())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = os::send_signal(&self.0.pidfd, palan_linux::signal::Signal::KILL);
        let _ = os::wait(&self.0.pidfd);
    }
}

/// Mappings beside the path of a user namespace must be its own.
pub(crate) fn a_joined_user_namespace_has_its_mappings() {
    let holder = Holder::new();
    let path = holder.file("ns/user");
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        std::fs::set_permissions(
            sandbox.directory.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let mapping = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 2000 }]);
        let outcome = |users: Value, groups: Value| {
            let changes = [
                ("/linux/namespaces", namespaces(&[], json!([{ "type": "user", "path": path }]))),
                ("/linux/uidMappings", users),
                ("/linux/gidMappings", groups),
                ("/process/user", json!({ "uid": 0, "gid": 0 })),
                ("/linux/devices", json!([])),
                ("/linux/sysctl", json!({})),
            ];
            run(&runtime, &sandbox, &changed(&sandbox, &changes))
        };
        for (users, groups) in [(json!([]), json!([])), (mapping(100_000), mapping(100_000))] {
            let outcome = outcome(users, groups);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
        for (users, groups, field) in [
            (mapping(5), mapping(100_000), "linux.uidMappings"),
            (mapping(100_000), mapping(5), "linux.gidMappings"),
            (mapping(100_000), json!([]), "linux.gidMappings"),
        ] {
            let outcome = outcome(users, groups);
            assert!(outcome.error().contains(&format!("{field} must be those")), "{outcome:?}");
        }
    });
}

/// What runc takes is taken: missing privileges are warned of, unknown names have no effect.
pub(crate) fn what_is_unknown_is_told_and_left_out() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        let capabilities = |set: &str, name: &str| {
            let mut sets = json!({ "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"] });
            sets[set] = json!(["CAP_KILL", name]);
            sets
        };
        for (changes, words) in [
            (vec![("/process/capabilities", capabilities("bounding", "CAP_X"))], "CAP_X"),
            (vec![("/process/capabilities", capabilities("effective", "CAP_CHOWN"))], "CAP_CHOWN effective"),
            (
                vec![("/process/capabilities", capabilities("ambient", "CAP_CHOWN"))],
                "ambient capability CAP_CHOWN",
            ),
            (vec![("/mounts/5/destination", json!("data"))], ""),
            (vec![("/mounts/1/options", json!(["", "nosuid"]))], ""),
            (
                vec![("/mounts/5/options", json!(["rbind", "mode=755"]))],
                r#"mounts[5] (/data): options: "mode=755" has no effect"#,
            ),
            (vec![("/process/consoleSize", json!({ "width": 70_000, "height": 0 }))], ""),
            (vec![("/ociVersion", json!("1.9.0-dev"))], ""),
            (vec![("/linux/seccomp", json!({ "defaultAction": "" }))], ""),
            (vec![("/future", json!({ "x": 1 }))], ""),
        ] {
            let outcome = run(&runtime, &sandbox, &changed(&sandbox, &changes));
            assert_eq!(outcome.code, Some(0), "{changes:?}: {outcome:?}");
            let warned = outcome.log.iter().any(|(level, text)| level == "warning" && text.contains(words));
            assert!(warned || words.is_empty(), "{changes:?}: {outcome:?}");
        }
    });
}

/// A hook of a container that is refused does not run: it may be what is wrong.
pub(crate) fn hooks_of_what_is_refused_do_not_run() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        let bundle = sandbox.directory.path();
        let mark = bundle.join("mark");
        let script = json!(["sh", "-c", format!("echo ran >> {}", mark.display())]);
        std::os::unix::fs::symlink("/bin/sh", bundle.join("hook")).unwrap();
        for (path, changes, ran) in [
            ("hook", ("/hostname", json!("box")), false),
            ("/bin/sh", ("/process/oomScoreAdj", json!(5000)), false),
            ("/bin/sh", ("/process/args", json!(["/no/such"])), true),
        ] {
            let hooks = json!({ "poststop": [{ "path": path, "args": script }] });
            let outcome = run(&runtime, &sandbox, &changed(&sandbox, &[("/hooks", hooks), changes]));
            assert_eq!((outcome.code, mark.exists()), (Some(1), ran), "{outcome:?}");
        }
    });
}
