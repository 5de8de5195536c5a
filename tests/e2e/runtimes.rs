//! Other OCI runtimes than Palan's own: Debian's runc, and `palan runtime` by its command line.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options, Run, program};
use palan_test_support::{free_port, requires, wait_until};

use crate::images::{BUSYBOX, daemon_with};
use crate::tty::Terminal;

/// The names under which [`runtimes`] registers runc and a script that runs `palan runtime`.
const RUNC: &str = "runc";
const SCRIPT: &str = "script";

/// A daemon that knows runc, `palan runtime` by a script, and one that is broken.
#[track_caller]
fn runtimes() -> (tempfile::TempDir, Daemon) {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("runtime");
    write_script(&script, &format!("exec {} runtime \"$@\"", program().display()));
    let settings = format!(
        r#""runtimes": {{"runc": {{"path": "runc"}}, "broken": {{"path": "/nosuch/runtime"}},
           "script": {{"path": "{}"}}, "debug": {{"path": "/usr/sbin/runc", "runtimeArgs": ["--debug"]}}}}"#,
        script.display()
    );
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    (directory, daemon)
}

fn write_script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// `palan run` under a runtime, without a network.
fn run(daemon: &Daemon, runtime: &str, flags: &[&str], command: &[&str]) -> Run {
    let first = ["run", "--runtime", runtime, "--network", "none"];
    daemon.palan(first.iter().chain(flags).chain(&[BUSYBOX]).chain(command))
}

/// A shell script in a fresh container; what it printed.
#[track_caller]
fn sh(daemon: &Daemon, runtime: &str, flags: &[&str], script: &str) -> String {
    let flags: Vec<&str> = ["--rm"].iter().chain(flags).copied().collect();
    run(daemon, runtime, &flags, &["sh", "-c", script]).ok().line().to_owned()
}

/// Starts a container `cc` that ends with code 7 by SIGTERM.
#[track_caller]
fn start(daemon: &Daemon, runtime: &str) {
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    run(daemon, runtime, &["-d", "--name", "cc"], &["sh", "-c", script]).ok();
    let is_ready = || daemon.palan(["logs", "cc"]).ok().stdout == "ready\n";
    assert!(wait_until(Duration::from_secs(10), is_ready), "{}", daemon.palan(["logs", "cc"]));
}

#[track_caller]
fn inspect(daemon: &Daemon, format: &str) -> String {
    daemon.palan(["inspect", "-f", format, "cc"]).ok().line().to_owned()
}

#[test]
fn output_exit_code_and_input() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT, "debug", "/usr/sbin/runc"] {
        let ran = run(&daemon, runtime, &["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("out\n", "err\n", 3), "{ran}");
        let words = ["run", "--rm", "-i", "--runtime", runtime, "--network", "none", BUSYBOX, "cat"];
        let input: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).map(|byte| byte | 1).collect();
        let input = String::from_utf8_lossy(&input).into_owned();
        assert!(daemon.palan_with_input(words, input.as_bytes()).ok().stdout == input, "{runtime}");
        assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
    }
}

#[test]
fn what_the_container_is() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let flags = ["-u", "alice", "-w", "/made/here", "-h", "box", "-e", "A=1"];
        assert_eq!(
            sh(&daemon, runtime, &flags, "id; echo $HOME $PWD $(hostname) $A"),
            "uid=1000(alice) gid=1000(alice) groups=50(staff),1000(alice)\n/home/alice /made/here box 1"
        );
        assert_eq!(sh(&daemon, runtime, &["-u", "4242:50"], "id -u; id -g; echo $HOME"), "4242\n50\n/");
        assert_eq!(sh(&daemon, runtime, &[], "id -u; echo $HOME; touch /new && echo $$"), "0\n/root\n1");
        let unknown = run(&daemon, runtime, &["--rm", "-u", "nobodyhere"], &["true"]);
        unknown.fails(125, "unable to find user nobodyhere: no matching entries in passwd file");
        let status = |flags: &[&str], field: &str| {
            sh(&daemon, runtime, flags, &format!("grep {field}: /proc/self/status | cut -f 2"))
        };
        assert_eq!(status(&[], "CapEff"), "00000000a80425fb");
        assert_eq!(status(&["--cap-drop", "ALL"], "CapBnd"), "0000000000000000");
        // The daemon's default profile: without it root may make a user namespace.
        assert_eq!(status(&[], "Seccomp"), "2");
        assert_eq!(sh(&daemon, runtime, &[], "unshare -U true 2>/dev/null || echo refused"), "refused");
        assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
        assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
        let script =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        assert_eq!(sh(&daemon, runtime, &["-m", "64m"], script), "67108864");
        assert_eq!(sh(&daemon, runtime, &["--read-only"], "touch /x 2>/dev/null || echo refused"), "refused");
        let shared = daemon.scratch().join("shared");
        std::fs::create_dir_all(&shared).unwrap();
        std::fs::write(shared.join("file"), "from the host").unwrap();
        let bind = format!("{}:/mnt", shared.display());
        assert_eq!(sh(&daemon, runtime, &["-v", &bind], "cat /mnt/file"), "from the host");
    }
}

#[test]
fn what_cannot_start() {
    requires!(root);
    let (directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let run = |command: &str| run(&daemon, runtime, &["--rm"], &[command]);
        run("nosuch").fails(
            127,
            "OCI runtime create failed: runc create failed: unable to start container process: \
             exec: \"nosuch\": executable file not found in $PATH: unknown",
        );
        run("/nosuch").fails(127, "exec: \"/nosuch\": stat /nosuch: no such file or directory");
        run("/etc/passwd").fails(126, "permission denied");
    }
    run(&daemon, "nosuch", &["--rm"], &["true"]).fails(125, "unknown or invalid runtime name: nosuch");
    run(&daemon, "crun", &["--rm"], &["true"]).fails(125, "unknown or invalid runtime name: crun");
    run(&daemon, "broken", &["--rm"], &["true"]).fails(125, "cannot run the runtime /nosuch/runtime");
    // Programs that are no runtimes: one fails with words, one in silence, one does nothing.
    let program = directory.path().join("program");
    let program_name = program.display().to_string();
    write_script(&program, "echo 'I can do nothing' >&2; exit 1");
    run(&daemon, &program_name, &["--rm"], &["true"]).fails(125, "I can do nothing");
    write_script(&program, "exit 5");
    run(&daemon, &program_name, &["--rm"], &["true"]).fails(125, "create ended with code 5 and said nothing");
    write_script(&program, "exit 0");
    run(&daemon, &program_name, &["--rm"], &["true"])
        .fails(125, "find the process that the runtime has made");
    // One that lies about its process.
    write_script(&program, "while [ $# -gt 0 ]; do [ \"$1\" = --pid-file ] && echo 1 > \"$2\"; shift; done");
    let lie = run(&daemon, &program_name, &["--rm"], &["true"]);
    lie.fails(125, "has not left its process 1 to its caller");
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
}

#[test]
fn the_daily_commands() {
    requires!(root);
    let (_directory, mut daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        start(&daemon, runtime);
        assert_eq!(
            inspect(&daemon, "{{.HostConfig.Runtime}} {{.State.Status}}"),
            format!("{runtime} running")
        );
        let exec = |words: &[&str]| daemon.palan(["exec"].iter().chain(words));
        assert_eq!(exec(&["cc", "sh", "-c", "echo in; exit 9"]).code, 9);
        assert_eq!(daemon.palan_with_input(["exec", "-i", "cc", "cat"], b"fed").ok().stdout, "fed");
        assert_eq!(
            exec(&["-u", "alice", "-w", "/tmp", "-e", "B=2", "cc", "sh", "-c", "id -u; pwd; echo $B$HOME"])
                .ok()
                .stdout,
            "1000\n/tmp\n2/home/alice\n"
        );
        assert_eq!(exec(&["-t", "cc", "tty"]).ok().stdout, "/dev/pts/0\r\n");
        let missing = exec(&["cc", "nosuch"]);
        assert_eq!(missing.code, 127);
        assert_eq!(
            missing.stdout.trim_end(),
            "OCI runtime exec failed: exec failed: unable to start container process: \
             exec: \"nosuch\": executable file not found in $PATH: unknown"
        );
        assert_eq!(exec(&["cc", "grep", "Seccomp:", "/proc/self/status"]).ok().stdout, "Seccomp:\t2\n");
        exec(&["-d", "cc", "sh", "-c", "sleep 0.2; echo lost; echo lost >&2; echo detached > /tmp/d"]).ok();
        let is_there = || exec(&["cc", "cat", "/tmp/d"]).stdout == "detached\n";
        assert!(wait_until(Duration::from_secs(30), is_there));
        assert!(daemon.palan(["top", "cc"]).ok().stdout.contains("trap"));

        daemon.palan(["pause", "cc"]).ok();
        assert_eq!(inspect(&daemon, "{{.State.Status}}"), "paused");
        exec(&["cc", "true"]).fails(1, "is paused, unpause the container before exec");
        daemon.palan(["unpause", "cc"]).ok();
        assert_eq!(inspect(&daemon, "{{.State.Status}}"), "running");

        // Nothing of it is seen in the host's mounts.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&daemon.scratch().display().to_string()), "{mounts}");

        daemon.kill();
        daemon.restart();
        let exec = |words: &[&str]| daemon.palan(["exec"].iter().chain(words));
        assert_eq!(exec(&["cc", "echo", "after"]).ok().stdout, "after\n");
        daemon.palan(["stop", "cc"]).ok();
        assert_eq!(inspect(&daemon, "{{.State.Status}} {{.State.ExitCode}}"), "exited 7");
        assert_eq!(daemon.palan(["logs", "cc"]).ok().stdout, "ready\nbye\n");
        daemon.palan(["start", "cc"]).ok();
        daemon.palan(["pause", "cc"]).ok();
        daemon.palan(["rm", "-f", "cc"]).ok();
        let left = std::fs::read_dir(daemon.run_root().join("containers"));
        let gone = || std::fs::read_dir(daemon.run_root().join("containers")).unwrap().next().is_none();
        assert!(wait_until(Duration::from_secs(30), gone), "{left:?}");
    }
}

#[test]
fn a_terminal() {
    requires!(root);
    requires!(program "tmux");
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let ran =
            run(&daemon, runtime, &["--rm", "-t"], &["sh", "-c", "tty; test -t 0 && test -t 2 && echo yes"]);
        assert_eq!(ran.ok().stdout, "/dev/pts/0\r\nyes\r\n");
        let terminal = Terminal::open(&daemon);
        let words =
            format!("run -it --rm --name cc --runtime {runtime} --network none -e PS1='in> ' {BUSYBOX}");
        terminal.type_line(&format!("palan {words}"));
        terminal.shows("\nin>");
        terminal.type_line("tty; stty size");
        terminal.shows("30 90");
        terminal.tmux(&["resize-window", "-x", "100", "-y", "40"]);
        terminal.has_size("40 100");
        terminal.sleeps_after("once");
        terminal.keys(&["C-c"]);
        terminal.type_line("echo code $?");
        terminal.shows("code 130");
        terminal.keys(&["C-p", "C-q"]);
        terminal.back_at_the_host();
        terminal.type_line("clear; palan exec -it cc sh -c 'stty size; exit 3'; echo code=$?");
        terminal.shows("40 100");
        terminal.shows("code=3");
        terminal.type_line("clear; palan attach cc");
        std::thread::sleep(Duration::from_millis(300));
        terminal.type_line("exit 9");
        terminal.back_at_the_host();
        terminal.shows("code=9");
    }
}

#[test]
fn a_bridge_and_published_ports() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let port = free_port();
        let publish = format!("{port}:8080");
        let script = "while :; do ip -4 -o addr show eth0 | nc -l -p 8080; done";
        let flags =
            ["run", "-d", "--name", "cc", "--runtime", runtime, "-p", &publish, BUSYBOX, "sh", "-c", script];
        daemon.palan(flags).ok();
        let address = inspect(&daemon, "{{.NetworkSettings.IPAddress}}");
        let address_of_host = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let answers = || {
            use std::io::Read;
            let timeout = Duration::from_millis(500);
            let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address_of_host, timeout) else {
                return false;
            };
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok();
            text.contains(&address)
        };
        assert!(wait_until(Duration::from_secs(30), answers), "{runtime}");
        daemon.palan(["rm", "-f", "cc"]).ok();
    }
}

#[test]
fn an_init_reaps_and_forwards() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let script = "(sleep 0.1 &); sleep 0.5; \
                      for n in $(seq 50); do ps -o stat | grep -q Z || break; sleep 0.1; done; ps -o pid,stat,comm";
        let seen = sh(&daemon, runtime, &["--init"], script);
        assert!(!seen.contains('Z'), "a zombie is left:\n{seen}");
        assert_eq!(sh(&daemon, runtime, &["--init"], "test $$ != 1 && echo not first"), "not first");
        let missing = run(&daemon, runtime, &["--rm", "--init"], &["nosuch"]);
        missing.fails(127, "palan-init: exec: \"nosuch\": executable file not found in $PATH");
        let script = ["sh", "-c", "echo ready; exec sleep 1000"];
        run(&daemon, runtime, &["-d", "--name", "cc", "--init"], &script).ok();
        let is_ready = || daemon.palan(["logs", "cc"]).ok().stdout == "ready\n";
        assert!(wait_until(Duration::from_secs(30), is_ready));
        daemon.palan(["stop", "-t", "10", "cc"]).ok();
        assert_eq!(inspect(&daemon, "{{.State.ExitCode}}"), "143");
        daemon.palan(["rm", "cc"]).ok();
    }
}

#[test]
fn orphans_are_reaped_with_the_hosts_process_ids() {
    requires!(root);
    requires!(program "docker");
    let (_directory, daemon) = runtimes();
    let script = "for i in 1 2 3; do (sleep 0.1 &); done; exec sleep 1000";
    // Docker's CLI, since ours does not know the flag yet.
    let flags = ["run", "-d", "--name", "cc", "--runtime", RUNC, "--network", "none", "--pid", "host"];
    daemon.docker(flags.iter().chain(&[BUSYBOX, "sh", "-c", script])).ok();
    let pid = inspect(&daemon, "{{.State.Pid}}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    let children = || {
        let path = format!("/proc/{supervisor}/task/{supervisor}/children");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    assert!(wait_until(Duration::from_secs(30), || children() == pid), "{}", children());
    daemon.palan(["kill", "cc"]).ok();
    daemon.palan(["wait", "cc"]).ok();
    assert_eq!(inspect(&daemon, "{{.State.ExitCode}}"), "137");
}

#[test]
fn memory_that_runs_out_is_told() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    let flags = ["--name", "cc", "-m", "16m", "--memory-swap", "16m"];
    let ran = run(&daemon, RUNC, &flags, &["sh", "-c", "x=a; while :; do x=$x$x; done"]);
    assert_eq!(ran.code, 137, "{ran}");
    assert_eq!(inspect(&daemon, "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
}

#[test]
fn a_killed_supervisor_takes_its_container_along() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for (runtime, is_paused) in [(RUNC, false), (RUNC, true), (SCRIPT, true)] {
        start(&daemon, runtime);
        let pid = inspect(&daemon, "{{.State.Pid}}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
        let parent = rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap();
        if is_paused {
            daemon.palan(["pause", "cc"]).ok();
        }
        rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
        let recorded = || inspect(&daemon, "{{.State.Status}} {{.State.ExitCode}}") == "exited 137";
        assert!(wait_until(Duration::from_secs(10), recorded), "{}", daemon.log());
        let gone = || !Path::new(&format!("/proc/{pid}/root")).exists();
        assert!(wait_until(Duration::from_secs(30), gone), "{runtime}");
        // What the runtime still thinks of the container does not stand in the way.
        daemon.palan(["start", "cc"]).ok();
        daemon.palan(["exec", "cc", "true"]).ok();
        daemon.palan(["rm", "-f", "cc"]).ok();
    }
}

#[test]
fn a_runtime_that_has_vanished_does_not_keep_its_container_alive() {
    requires!(root);
    let (directory, daemon) = runtimes();
    start(&daemon, SCRIPT);
    let script = directory.path().join("runtime");
    std::fs::rename(&script, directory.path().join("away")).unwrap();
    daemon.palan(["pause", "cc"]).fails(1, "cannot run the runtime");
    let exec = daemon.palan(["exec", "cc", "true"]);
    assert!(exec.code != 0 && exec.stdout.contains("cannot run the runtime"), "{exec}");
    daemon.palan(["stop", "-t", "1", "cc"]).ok();
    assert_eq!(inspect(&daemon, "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    daemon.palan(["rm", "cc"]).ok();
}

#[test]
fn names_of_the_builtin_runtime_and_the_default_one() {
    requires!(root);
    let daemon = daemon_with(Options::default());
    for name in ["", "palan", "runc", "io.containerd.runc.v2"] {
        let flags: &[&str] = if name.is_empty() { &[] } else { &["--runtime", name] };
        let words =
            ["run", "--name", "cc", "--network", "none"].iter().chain(flags).chain(&[BUSYBOX, "true"]);
        daemon.palan(words).ok();
        let stored = if name.is_empty() { "palan" } else { name };
        assert_eq!(inspect(&daemon, "{{.HostConfig.Runtime}}"), stored);
        daemon.palan(["rm", "cc"]).ok();
    }
    let info = daemon.palan(["info", "-f", "{{json .Runtimes}} {{.DefaultRuntime}}"]).ok();
    assert_eq!(
        info.line(),
        r#"{"io.containerd.runc.v2":{"path":"palan"},"palan":{"path":"palan"},"runc":{"path":"palan"}} palan"#
    );
    drop(daemon);

    let settings = r#""runtimes": {"other": {"path": "/usr/sbin/runc", "runtimeArgs": ["--debug"]}},
                      "default-runtime": "other""#;
    let daemon = daemon_with(Options { settings: Some(settings.into()), ..Options::default() });
    daemon.palan(["run", "--name", "cc", "--network", "none", BUSYBOX, "true"]).ok();
    assert_eq!(inspect(&daemon, "{{.HostConfig.Runtime}}"), "other");
    let info = daemon.palan(["info", "-f", "{{json .Runtimes.other}} {{.DefaultRuntime}}"]).ok();
    assert_eq!(info.line(), r#"{"path":"/usr/sbin/runc","runtimeArgs":["--debug"]} other"#);
}

#[test]
fn sharing_mounts_with_the_host() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    let shared = daemon.scratch().join("shared");
    std::fs::create_dir(&shared).unwrap();
    // Where the host shares nothing there is nothing to share in.
    let bind = format!("{}:/mnt:rshared", shared.display());
    mount(&["-t", "tmpfs", "none", &shared.display().to_string()]);
    mount(&["--make-private", &shared.display().to_string()]);
    let refused = run(&daemon, RUNC, &["--rm", "-v", &bind], &["true"]);
    refused.fails(125, "but it is not a shared mount");
    // On a shared mount it works: what the container mounts there is seen here.
    mount(&["--make-shared", &shared.display().to_string()]);
    let script = "mkdir /mnt/in && mount -t tmpfs none /mnt/in && touch /mnt/in/file";
    let ran = run(&daemon, RUNC, &["--rm", "--privileged", "-v", &bind], &["sh", "-c", script]);
    let is_seen = shared.join("in/file").exists();
    for place in [shared.join("in"), shared.clone()] {
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).ok();
    }
    ran.ok();
    assert!(is_seen);
}

#[expect(clippy::disallowed_methods, reason = "the test arranges the host's mounts as an administrator does")]
fn mount(words: &[&str]) {
    let status = std::process::Command::new("mount").args(words).status().unwrap();
    assert!(status.success(), "mount {words:?}");
}

#[test]
fn an_attached_session() {
    requires!(root);
    let (_directory, mut daemon) = runtimes();
    let mut command = daemon.command();
    let script = "while read line; do echo \"got $line\"; test \"$line\" = end && exit 17; done";
    command.args(["run", "-i", "--runtime", RUNC, "--network", "none", BUSYBOX, "sh", "-c", script]);
    let mut session =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = session.stdin.take().unwrap();
    let mut output = std::io::BufRead::lines(std::io::BufReader::new(session.stdout.take().unwrap()));
    writeln!(input, "before").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got before");
    // Until the CLI has the answer to its start.
    std::thread::sleep(Duration::from_secs(2));
    daemon.kill();
    writeln!(input, "while down").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got while down");
    daemon.restart();
    writeln!(input, "end").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got end");
    assert_eq!(session.wait().unwrap().code(), Some(17));
}

#[test]
fn health_checks_are_run_by_other_runtimes_too() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let check =
            ["--health-cmd", "test -e /tmp/ok", "--health-interval", "200ms", "--health-retries", "1"];
        run(&daemon, runtime, &[&["-d", "--name", "hh"][..], &check].concat(), &["sleep", "1000"]).ok();
        let becomes = |status: &str| {
            let inspect = ["inspect", "-f", "{{.State.Health.Status}}", "hh"];
            wait_until(Duration::from_secs(20), || daemon.palan(inspect).ok().line() == status)
        };
        assert!(becomes("unhealthy"), "{runtime}");
        daemon.palan(["exec", "hh", "touch", "/tmp/ok"]).ok();
        assert!(becomes("healthy"), "{runtime}");
        daemon.palan(["rm", "-f", "hh"]).ok();
    }
}

#[test]
fn restarts_and_updates() {
    requires!(root);
    let (_directory, daemon) = runtimes();
    for runtime in [RUNC, SCRIPT] {
        let script = "echo run >> /runs; test $(wc -l < /runs) = 3 && exec sleep 1000; echo again; exit 3";
        run(&daemon, runtime, &["-d", "--name", "cc", "--restart", "on-failure"], &["sh", "-c", script]).ok();
        let state = || {
            daemon
                .palan(["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "cc"])
                .ok()
                .line()
                .to_owned()
        };
        assert!(wait_until(Duration::from_secs(20), || state() == "running 2"), "{runtime}: {}", state());
        assert_eq!(daemon.palan(["logs", "cc"]).ok().stdout, "again\nagain\n");
        daemon.palan(["update", "--pids-limit", "7", "cc"]).ok();
        let pid = daemon.palan(["inspect", "-f", "{{.State.Pid}}", "cc"]).ok().line().to_owned();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let group = groups.lines().find_map(|line| line.split_once(":pids:").or(line.split_once("0::")));
        let group = group.unwrap().1.trim_start_matches('/');
        let limits = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| Path::new(root).join(group));
        let limit = limits.iter().find_map(|group| std::fs::read_to_string(group.join("pids.max")).ok());
        assert_eq!(limit.as_deref(), Some("7\n"), "{runtime}");
        daemon.palan(["rm", "-f", "cc"]).ok();
    }
}
