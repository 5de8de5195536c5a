//! A container runs, sees what it should, and its end is seen.

use std::io::Read as _;
use std::os::fd::AsFd;

use palan_linux::process as os;
use palan_oci::runtime_spec::{Resources, Rlimit};
use palan_runtime::cgroup::{Cgroup, Place};
use palan_runtime::{FailureKind, Stdio};

use super::exec::{Running, read_terminal};
use crate::support::{Sandbox, pipe};

pub(crate) fn runs_to_its_exit_code() {
    assert_eq!(Sandbox::new(&["true"]).output(), "");
    let (code, output) = Sandbox::new(&["sh", "-c", "echo hello; exit 7"]).run().unwrap();
    assert_eq!((code, output.as_str()), (7, "hello\n"));
}

pub(crate) fn looks_like_a_container() {
    let output = Sandbox::new(&["sh", "-c", "echo $$; hostname; id; pwd; echo $HOME; ls /dev"]).output();
    // Only some kernels have what it leads to.
    assert_eq!(
        output.replace("\ncore\n", "\n"),
        "1\nbox\nuid=0(root) gid=0(root) groups=0(root)\n/\n/root\n\
         fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
    );
    let status = Sandbox::new(&["grep", "^Cap\\|NoNewPrivs\\|SigBlk\\|SigIgn", "/proc/self/status"]).output();
    assert_eq!(
        status,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapInh:\t0000000000000000\n\
         CapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t0\n"
    );
    // Its own cgroup is the root of what it sees, and it can't write there.
    let groups = Sandbox::new(&["cat", "/proc/self/cgroup"]).output();
    assert!(groups.lines().all(|line| line.ends_with(":/")), "{groups}");
    let (code, _) = Sandbox::new(&["mkdir", "/sys/fs/cgroup/memory/x"]).run().unwrap();
    assert_ne!(code, 0);
}

pub(crate) fn overlay_root() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "echo x > /new; cat /new; cat /proc/mounts"]);
    sandbox.overlay = true;
    let output = sandbox.output();
    assert!(output.starts_with("x\n"), "{output}");
    // Nothing of the host shows in the mount table.
    let host = sandbox.directory.path().to_string_lossy().into_owned();
    assert!(!output.contains(&host), "{output}");
    assert!(sandbox.directory.path().join("upper/new").exists());
    assert!(!sandbox.rootfs().join("new").exists());
}

pub(crate) fn read_only_root() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "touch /x; touch /dev/shm/x && echo shm"]);
    sandbox.spec.root.as_mut().unwrap().readonly = true;
    let output = sandbox.output();
    assert_eq!(output, "touch: /x: Read-only file system\nshm\n");
}

pub(crate) fn users() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "id; echo $HOME; grep CapEff /proc/self/status"]);
    sandbox.user = Some("alice".to_owned());
    assert_eq!(
        sandbox.output(),
        "uid=1000(alice) gid=1001 groups=50(staff),1001\n/tmp\nCapEff:\t0000000000000000\n"
    );
    sandbox.user = Some("4294967296".to_owned());
    let error = sandbox.error();
    assert_eq!(error.kind(), FailureKind::Invalid);
    assert_eq!(error.report(), "uids and gids must be in range 0-2147483647, not 4294967296");
    sandbox.user = None;
    sandbox.process().user.uid = 5;
    sandbox.process().user.additional_gids = vec![7, 8];
    sandbox.process().user.umask = Some(0o077);
    sandbox.process().args[2] = "id; umask".to_owned();
    assert_eq!(sandbox.output(), "uid=5 gid=0(root) groups=0(root),7,8\n0077\n");
}

pub(crate) fn programs_that_cannot_run() {
    for (program, text, kind) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH", FailureKind::ProgramNotFound),
        ("/x", "exec: \"/x\": stat /x: no such file or directory", FailureKind::ProgramNotFound),
        ("/etc", "exec: \"/etc\": is a directory", FailureKind::ProgramNotExecutable),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied", FailureKind::ProgramNotExecutable),
        ("/bin/script", "exec /bin/script: no such file or directory", FailureKind::ProgramNotFound),
        ("/bin/text", "exec /bin/text: exec format error", FailureKind::ProgramNotExecutable),
    ] {
        let sandbox = Sandbox::new(&[program]);
        for (name, content) in [("script", "#!/nowhere/interpreter\n"), ("text", "hello\n")] {
            let path = sandbox.rootfs().join("bin").join(name);
            std::fs::write(&path, content).unwrap();
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let error = sandbox.error();
        assert_eq!((error.report().as_str(), error.kind()), (text, kind));
    }
}

pub(crate) fn working_directory() {
    let mut sandbox = Sandbox::new(&["pwd"]);
    sandbox.process().cwd = "/a/b".to_owned();
    assert_eq!(sandbox.error().kind(), FailureKind::Invalid);
    sandbox.create_cwd = true;
    assert_eq!(sandbox.output(), "/a/b\n");
}

pub(crate) fn terminal() {
    let mut sandbox =
        Sandbox::new(&["sh", "-c", "tty; stty size; ls -l /dev/console; echo x > /dev/console"]);
    sandbox.process().user.uid = 1000;
    let container = sandbox
        .start(Stdio::Terminal {
            size: Some(palan_linux::tty::WindowSize { rows: 20, columns: 70 }),
            translate_newlines: true,
        })
        .unwrap_or_else(|error| panic!("{}", error.report()));
    let output = read_terminal(container.console_master.unwrap());
    os::wait(&container.pidfd).unwrap();
    container.cgroup.remove().unwrap();
    assert!(output.starts_with("/dev/pts/0\r\n20 70\r\ncrw--w----"), "{output}");
    assert!(output.ends_with("/dev/console\r\nx\r\n"), "{output}");
}

pub(crate) fn only_its_own_descriptors() {
    // Something for the container to find: an open directory of the host.
    let _leak = rustix::io::fcntl_dupfd_cloexec(std::fs::File::open("/").unwrap().as_fd(), 50).unwrap();
    let inheritable = rustix::io::dup(std::fs::File::open("/").unwrap().as_fd()).unwrap();
    rustix::io::fcntl_setfd(&inheritable, rustix::io::FdFlags::empty()).unwrap();
    // 3 is the directory that ls itself reads.
    assert_eq!(Sandbox::new(&["ls", "/proc/self/fd"]).output(), "0\n1\n2\n3\n");
    let running = Running::new();
    let (_, output) = running.exec(&running.process(&["ls", "/proc/self/fd"]), None).unwrap();
    assert_eq!(output, "0\n1\n2\n3\n");
}

pub(crate) fn rlimits() {
    let limit = |kind: &str, soft, hard| Rlimit { kind: kind.to_owned(), soft, hard };
    let mut sandbox = Sandbox::new(&["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"]);
    sandbox.process().rlimits = vec![limit("RLIMIT_NOFILE", 100, 200), limit("RLIMIT_CORE", 0, 0)];
    assert_eq!(sandbox.output(), "100\n200\n0\n");
    // More than this process may give: the container runs, and is told.
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let may_raise = palan_linux::capability::current()
        .unwrap()
        .effective
        .contains(palan_linux::capability::CapabilitySet::SYS_RESOURCE);
    if let (Some(hard), false) = (own.maximum, may_raise) {
        sandbox.process().rlimits = vec![limit("RLIMIT_NOFILE", 100, hard + 1)];
        let container = sandbox.start(Stdio::Null).unwrap();
        os::wait(&container.pidfd).unwrap();
        container.cgroup.remove().unwrap();
        assert_eq!(container.warnings.len(), 1);
        assert!(container.warnings[0].starts_with("rlimit RLIMIT_NOFILE"), "{:?}", container.warnings);
    }
}

pub(crate) fn init_reaps_and_forwards() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "echo $$; cat /proc/1/comm; (sleep 0.01 &); exit 9"]);
    sandbox.init = true;
    let (code, output) = sandbox.run().unwrap();
    assert_eq!((code, output.as_str()), (9, "2\npalan-init\n"));

    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let mut sandbox = Sandbox::new(&["sh", "-c", script]);
    sandbox.init = true;
    let (read, write) = pipe();
    let stdio = Stdio::Descriptors { stdin: write.as_fd(), stdout: write.as_fd(), stderr: write.as_fd() };
    let container = sandbox.start(stdio).unwrap();
    drop(write);
    let mut line = [0; 6];
    std::fs::File::from(read).read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    os::send_signal(&container.pidfd, palan_linux::signal::Signal::TERM).unwrap();
    assert_eq!(os::wait(&container.pidfd).unwrap().code(), 5);
    container.cgroup.remove().unwrap();

    let mut sandbox = Sandbox::new(&["nonsense"]);
    sandbox.init = true;
    assert_eq!(sandbox.error().kind(), FailureKind::ProgramNotFound);
}

pub(crate) fn nothing_is_left_after_failures() {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let sandbox = Sandbox::new(&["nonsense"]);
    sandbox.error();
    assert!(Cgroup::open(&Place::root(&sandbox.cgroup)).is_err());
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.linux().resources =
        Some(Resources { unified: [("x".to_owned(), "y".to_owned())].into(), ..Resources::default() });
    sandbox.error();
    assert!(Cgroup::open(&Place::root(&sandbox.cgroup)).is_err());
    assert_eq!(before, mounts());
    // No child is left to wait for.
    assert!(os::reap_any(false).is_err());
}
