//! What published attacks on our peers did, done to us: nothing on the host may change.

use std::os::unix::fs::symlink;
use std::path::Path;

use palan_oci::runtime_spec::{Mount, Resources, Seccomp, SeccompSyscall};
use palan_runtime::FailureKind;
use palan_runtime::seccomp::{Conditions, Profile, kernel_version};

use super::exec::Running;
use crate::support::Sandbox;

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: "bind".to_owned(),
        source: source.to_string_lossy().into_owned(),
        options: ["rbind", "rprivate"].iter().chain(options).map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

fn entries(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// CVE-2026-41579, CVE-2026-47766, CVE-2023-28642: an image in which /dev, /proc or /sys leads elsewhere.
pub(crate) fn system_directories_that_are_symlinks() {
    for name in ["dev", "proc", "sys"] {
        let sandbox = Sandbox::new(&["true"]);
        let outside = tempfile::tempdir().unwrap();
        let place = sandbox.rootfs().join(name);
        std::fs::remove_dir(&place).unwrap();
        for target in [outside.path().to_owned(), "/tmp".into(), "../../../tmp".into()] {
            symlink(&target, &place).unwrap();
            let error = sandbox.error();
            assert_eq!(error.kind(), FailureKind::Invalid, "{}", error.report());
            std::fs::remove_file(&place).unwrap();
        }
        assert_eq!(entries(outside.path()), 0);
    }
    // No tmpfs of the specification over it: the devices would go into the image's own directory.
    let mut sandbox = Sandbox::new(&["true"]);
    let outside = tempfile::tempdir().unwrap();
    sandbox.spec.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    std::fs::remove_dir(sandbox.rootfs().join("dev")).unwrap();
    symlink(outside.path(), sandbox.rootfs().join("dev")).unwrap();
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    assert_eq!(entries(outside.path()), 0);
}

/// CVE-2021-30465, CVE-2024-45310: the way to a mount's destination leads through a symlink of the image.
pub(crate) fn destinations_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "content").unwrap();
    let mut sandbox = Sandbox::new(&["sh", "-c", "cat /link/new/file; cat /file"]);
    let up = Path::new("../../../../../../../..").join(outside.path().strip_prefix("/").unwrap());
    symlink(&up, sandbox.rootfs().join("link")).unwrap();
    symlink(outside.path().join("made"), sandbox.rootfs().join("file")).unwrap();
    let mounts =
        [bind(source.path(), "/link/new", &["ro"]), bind(&source.path().join("file"), "/file", &["ro"])];
    sandbox.spec.mounts.extend(mounts);
    assert_eq!(sandbox.output(), "contentcontent");
    assert_eq!(entries(outside.path()), 0);
    // Where the symlink points to was made inside.
    assert!(sandbox.rootfs().join(outside.path().strip_prefix("/").unwrap()).join("new").is_dir());
}

/// CVE-2024-21626: a working directory through a descriptor that leaks into the container.
pub(crate) fn working_directories_stay_inside() {
    let _leak = std::fs::File::open("/").unwrap();
    let running = Running::new();
    for number in 0..40 {
        for path in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../.."),
            format!("/proc/1/fd/{number}"),
        ] {
            let mut sandbox = Sandbox::new(&["true"]);
            sandbox.process().cwd.clone_from(&path);
            if number % 8 == 0 {
                assert_eq!(sandbox.error().kind(), FailureKind::Invalid, "{path}");
            }
            let mut process = running.process(&["pwd"]);
            process.cwd = path;
            assert!(running.exec(&process, None).is_err());
        }
    }
    // The same as a symlink in the image.
    let mut sandbox = Sandbox::new(&["pwd"]);
    symlink("/proc/self/fd/7", sandbox.rootfs().join("work")).unwrap();
    sandbox.process().cwd = "/work".to_owned();
    sandbox.create_cwd = true;
    assert!(sandbox.run().is_err());
    // A symlink that leads up stays below the root.
    let mut sandbox = Sandbox::new(&["pwd"]);
    symlink("../../../../tmp", sandbox.rootfs().join("work")).unwrap();
    sandbox.process().cwd = "/work".to_owned();
    assert_eq!(sandbox.output(), "/tmp\n");
}

/// CVE-2025-31133: masks that are bound from a /dev/null of the attacker.
pub(crate) fn masks_hold() {
    let check = "cat /proc/timer_list | wc -c; cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
                 echo x > /proc/sys/kernel/core_pattern || echo refused";
    let mut sandbox = Sandbox::new(&["sh", "-c", check]);
    // In the image itself, without a fresh /dev over it.
    sandbox.spec.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    symlink("/proc/sys/kernel/core_pattern", sandbox.rootfs().join("dev/null")).unwrap();
    let output = sandbox.output();
    assert!(output.starts_with("0\n0\n0\n") && output.ends_with("refused\n"), "{output}");
    // A whole /dev from the user, whose null is something else.
    let dev = tempfile::tempdir().unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.path().join("null")).unwrap();
    sandbox.spec.mounts.push(bind(dev.path(), "/dev", &[]));
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561: something else than procfs at /proc or in it.
pub(crate) fn proc_is_proc() {
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(source.path().join("self/attr")).unwrap();
    for destination in ["/proc", "/proc/self", "/proc/sys", "/proc/../proc/irq", "//proc/."] {
        let mut sandbox = Sandbox::new(&["true"]);
        sandbox.spec.mounts.push(bind(source.path(), destination, &[]));
        assert_eq!(sandbox.error().kind(), FailureKind::Invalid, "{destination}");
    }
    let file = source.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.spec.mounts.push(bind(&file, "/proc/sys/kernel/core_pattern", &[]));
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    let mut sandbox = Sandbox::new(&["true"]);
    symlink("/proc/sys", sandbox.rootfs().join("innocent")).unwrap();
    sandbox.spec.mounts.push(bind(source.path(), "/innocent/kernel", &[]));
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    // What lxcfs replaces may be replaced.
    let file = source.path().join("uptime");
    std::fs::write(&file, "1 1\n").unwrap();
    let mut sandbox = Sandbox::new(&["cat", "/proc/uptime"]);
    sandbox.spec.mounts.push(bind(&file, "/proc/uptime", &["ro"]));
    assert_eq!(sandbox.output(), "1 1\n");
}

/// CVE-2025-52565: /dev/console is the terminal, whatever the image has there.
pub(crate) fn console_is_the_terminal() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "echo x > /dev/console; stat -c %t /dev/console"]);
    sandbox.spec.mounts.retain(|mount| mount.destination != "/dev");
    std::fs::create_dir_all(sandbox.rootfs().join("dev/pts")).unwrap();
    std::fs::create_dir_all(sandbox.rootfs().join("dev/shm")).unwrap();
    let victim = tempfile::NamedTempFile::new().unwrap();
    symlink(victim.path(), sandbox.rootfs().join("dev/console")).unwrap();
    let container = sandbox
        .start(palan_runtime::Stdio::Terminal { size: None, translate_newlines: true })
        .unwrap_or_else(|error| panic!("{}", error.report()));
    let output = super::exec::read_terminal(container.console_master.unwrap());
    palan_linux::process::wait(&container.pidfd).unwrap();
    container.cgroup.remove().unwrap();
    assert_eq!(std::fs::read(victim.path()).unwrap(), b"");
    assert!(output.starts_with("x\r\n"), "{output}");
}

/// CVE-2019-5736: the file behind /proc/1/exe is not ours, and a process on its way in can't be looked into.
pub(crate) fn the_runtime_is_out_of_reach() {
    let sandbox = Sandbox::new(&["/entry"]);
    let script = sandbox.rootfs().join("entry");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    // The script makes this very program run again in the container; it finds nothing to do there.
    let _ = sandbox.run();
    assert!(before == std::fs::read(std::env::current_exe().unwrap()).unwrap());
    // `palan runtime` runs from a read-only mount: even root gets no handle to write with.
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.init = true;
    sandbox.process().args = ["sh", "-c", "echo x >> /proc/1/exe"].map(str::to_owned).to_vec();
    let (code, output) = sandbox.run().unwrap();
    assert_ne!(code, 0, "{output}");
    assert!(before == std::fs::read(std::env::current_exe().unwrap()).unwrap());
}

/// CVE-2016-9962: another process of the container watches for new ones and looks at their descriptors.
pub(crate) fn entering_processes_leak_nothing() {
    let script = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || ls -l $p/fd 2>/dev/null; done; done \
                  | grep -v 'pipe:\\|/dev/null\\|/proc/\\|^total\\|socket:' >> /tmp/seen";
    let mut sandbox = Sandbox::new(&["sh", "-c", script]);
    let capabilities = sandbox.process().capabilities.as_mut().unwrap();
    for set in [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted] {
        set.push("CAP_SYS_PTRACE".to_owned());
    }
    let running = Running::of(sandbox);
    for _ in 0..50 {
        running.exec(&running.process(&["true"]), None).unwrap();
    }
    let seen = std::fs::read_to_string(running.sandbox.rootfs().join("tmp/seen")).unwrap_or_default();
    // The watcher writes in blocks, so the last line may be half a line. `/tmp/seen` is its own; a line without an
    // arrow is of a process that went away while it was looked at.
    let complete = seen.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let targets = complete.lines().filter_map(|line| Some(line.split_once(" -> ")?.1));
    let foreign: Vec<_> = targets.filter(|target| *target != "/tmp/seen").collect();
    assert!(foreign.is_empty(), "{} lines, the first is {:?}", foreign.len(), foreign[0]);
}

pub(crate) fn capabilities_and_privileges() {
    let mut sandbox =
        Sandbox::new(&["grep", "^CapInh\\|^CapAmb\\|^CapEff\\|NoNewPrivs\\|Seccomp:", "/proc/self/status"]);
    sandbox.process().no_new_privileges = true;
    sandbox.process().user.uid = 1000;
    let capabilities = sandbox.process().capabilities.as_mut().unwrap();
    capabilities.inheritable = vec!["CAP_NET_RAW".to_owned()];
    capabilities.ambient = vec!["CAP_NET_RAW".to_owned()];
    assert_eq!(
        sandbox.output(),
        "CapInh:\t0000000000002000\nCapEff:\t0000000000002000\nCapAmb:\t0000000000002000\nNoNewPrivs:\t1\nSeccomp:\t0\n"
    );
}

pub(crate) fn seccomp_filters() {
    let conditions = Conditions {
        capabilities: palan_linux::capability::CapabilitySet::empty(),
        kernel: kernel_version(),
    };
    for no_new_privileges in [false, true] {
        let script = "grep 'Seccomp:' /proc/self/status; unshare -U true || echo refused; mount -t tmpfs x /tmp || echo refused";
        let mut sandbox = Sandbox::new(&["sh", "-c", script]);
        symlink("busybox", sandbox.rootfs().join("bin/unshare")).unwrap();
        sandbox.process().no_new_privileges = no_new_privileges;
        sandbox.linux().seccomp = Some(Profile::builtin().resolve(&conditions));
        let output = sandbox.output();
        assert!(output.starts_with("Seccomp:\t2\n"), "{output}");
        assert_eq!(output.matches("refused").count(), 2, "{output}");
        // The filter holds for further processes, too.
        let mut sandbox = Sandbox::new(&["sleep", "1000"]);
        let rules = Profile::builtin().resolve(&conditions);
        let program = palan_runtime::seccomp::Program::compile(&rules).unwrap();
        sandbox.linux().seccomp = Some(rules);
        let running = Running::of(sandbox);
        let process = running.process(&["grep", "Seccomp:", "/proc/self/status"]);
        let (_, output) = running.exec_filtered(&process, None, Some(&program)).unwrap();
        assert_eq!(output, "Seccomp:\t2\n");
    }
    let mut sandbox = Sandbox::new(&["pwd"]);
    let rule = SeccompSyscall {
        names: vec!["getcwd".into()],
        action: "SCMP_ACT_KILL_PROCESS".into(),
        ..SeccompSyscall::default()
    };
    sandbox.linux().seccomp =
        Some(Seccomp { default_action: "SCMP_ACT_ALLOW".into(), syscalls: vec![rule], ..Seccomp::default() });
    assert_eq!(sandbox.run().unwrap().0, 128 + 31);
}

pub(crate) fn read_only_binds_and_propagation() {
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("sub")).unwrap();
    let mut sandbox =
        Sandbox::new(&["sh", "-c", "touch /data/x; touch /data/sub/x; mount -t tmpfs x /data/sub"]);
    sandbox.spec.mounts.push(bind(source.path(), "/data", &["rro"]));
    let (code, output) = sandbox.run().unwrap();
    assert_ne!(code, 0);
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    assert_eq!(entries(&source.path().join("sub")), 0);
}

pub(crate) fn sysctls_belong_to_namespaces() {
    let mut sandbox =
        Sandbox::new(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/msgmax"]);
    sandbox.linux().sysctl = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
        ("kernel.msgmax".to_owned(), "4321".to_owned()),
    ]
    .into();
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_eq!(sandbox.output(), "0\n4321\n");
    assert_eq!(host, std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap());
    for name in ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "kernel.sysrq", ""] {
        sandbox.linux().sysctl = [(name.to_owned(), "0".to_owned())].into();
        assert_eq!(sandbox.error().kind(), FailureKind::Invalid, "{name}");
    }
    sandbox.linux().namespaces.retain(|entry| entry.kind != palan_oci::runtime_spec::NamespaceKind::Network);
    sandbox.linux().sysctl = [("net.ipv4.ip_forward".to_owned(), "0".to_owned())].into();
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
}

pub(crate) fn nothing_is_silently_ignored() {
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.linux().rootfs_propagation = "sometimes".to_owned();
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.linux().personality = Some(palan_oci::runtime_spec::Personality::default());
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.process().env.push("NO_VALUE".to_owned());
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.linux().resources =
        Some(Resources { rdma: [("mlx".to_owned(), Default::default())].into(), ..Resources::default() });
    assert!(sandbox.run().is_err());
}

/// CVE-2021-30465: somebody who shares a volume exchanges a directory on the way to a mount's destination for a symlink
/// to the host's root, again and again.
pub(crate) fn races_on_a_shared_volume() {
    use palan_linux::process::{self as os, ForkOptions, Forked};
    let volume = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    let marker = format!("palan-race-{}", std::process::id());
    std::fs::create_dir(volume.path().join("a")).unwrap();
    symlink("/", volume.path().join("b")).unwrap();
    let (first, second) = (volume.path().join("a"), volume.path().join("b"));
    let Forked::Parent(racer) = os::fork(&ForkOptions::default()).unwrap() else {
        os::set_parent_death_signal(Some(palan_linux::signal::Signal::KILL)).unwrap();
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        loop {
            let _ = rustix::fs::renameat_with(rustix::fs::CWD, &first, rustix::fs::CWD, &second, flags);
        }
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut sandbox = Sandbox::new(&["true"]);
    std::fs::create_dir(sandbox.rootfs().join("volume")).unwrap();
    sandbox.spec.mounts.push(bind(volume.path(), "/volume", &[]));
    sandbox.spec.mounts.push(bind(source.path(), &format!("/volume/a/{marker}/x"), &[]));
    let mut ran = 0;
    for _ in 0..100 {
        // It may fail in the middle of an exchange.
        ran += usize::from(sandbox.run().is_ok());
    }
    os::send_signal(&racer.pidfd, palan_linux::signal::Signal::KILL).unwrap();
    os::wait(&racer.pidfd).unwrap();
    assert!(ran > 0);
    assert!(!Path::new("/").join(&marker).exists());
    assert_eq!(mounts, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
}

/// The init of `--init` is made after the filter is loaded, and the default filter has no clone3.
pub(crate) fn init_under_the_default_filter() {
    let conditions = Conditions {
        capabilities: palan_linux::capability::CapabilitySet::empty(),
        kernel: kernel_version(),
    };
    for no_new_privileges in [false, true] {
        let mut sandbox = Sandbox::new(&["sh", "-c", "echo $$; exit 3"]);
        sandbox.init = true;
        sandbox.process().no_new_privileges = no_new_privileges;
        sandbox.process().user.uid = 1000;
        sandbox.linux().seccomp = Some(Profile::builtin().resolve(&conditions));
        let (code, output) = sandbox.run().unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!((code, output.as_str()), (3, "2\n"));
    }
}

/// A profile from before close_range(2) and the calls of the mount API.
pub(crate) fn a_filter_that_knows_few_calls() {
    let mut sandbox = Sandbox::new(&["echo", "runs"]);
    let names = [
        "accept",
        "access",
        "arch_prctl",
        "brk",
        "capget",
        "capset",
        "chdir",
        "clone",
        "close",
        "dup",
        "dup2",
        "execve",
        "exit",
        "exit_group",
        "faccessat",
        "fcntl",
        "fstat",
        "futex",
        "getcwd",
        "getdents64",
        "getpid",
        "getuid",
        "ioctl",
        "lstat",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "poll",
        "prctl",
        "pread64",
        "prlimit64",
        "read",
        "readlink",
        "recvmsg",
        "restart_syscall",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sendmsg",
        "set_robust_list",
        "set_tid_address",
        "setgid",
        "setgroups",
        "setresgid",
        "setresuid",
        "setsid",
        "setuid",
        "stat",
        "statx",
        "uname",
        "wait4",
        "write",
    ];
    sandbox.linux().seccomp = Some(Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        architectures: vec!["SCMP_ARCH_X86_64".into()],
        syscalls: vec![SeccompSyscall {
            names: names.map(str::to_owned).to_vec(),
            action: "SCMP_ACT_ALLOW".into(),
            ..SeccompSyscall::default()
        }],
        ..Seccomp::default()
    });
    assert_eq!(sandbox.output(), "runs\n");
    sandbox.process().no_new_privileges = true;
    assert_eq!(sandbox.output(), "runs\n");
}

/// Who waits to be started must not be a way to the host's files: CVE-2024-21626.
pub(crate) fn a_waiting_process_holds_nothing_of_the_host() {
    let sandbox = Sandbox::new(&["true"]);
    let created = sandbox.create(palan_runtime::Stdio::Null).unwrap();
    let pid = created.container().pid;
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned())
        .collect();
    let allowed = |path: &String| path == "/dev/null" || path.starts_with("socket:");
    assert!(open.iter().all(allowed), "{open:?}");
    assert_eq!(open.iter().filter(|path| path.starts_with("socket:")).count(), 1, "{open:?}");
}
