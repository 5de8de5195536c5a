//! Checkpoints: what is running is saved and goes on from there later. Kernel and CRIU must know each other for that; where they don't,
//! these tests are left to the virtual machine, and a stand-in shows that what happens around CRIU is right.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options, finish};
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, daemon, daemon_with};
use crate::networks::{command, inspect, within};

/// Counts in memory, and says so.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// How long one may wait in a machine whose processor is emulated.
const PATIENCE: Duration = Duration::from_secs(60);

fn has_criu() -> bool {
    finish(&mut command("criu", &["check"]), None).code == 0
}

fn run(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let words = ["run", "-d", "--name", name];
    daemon.palan(words.iter().chain(flags).chain(&[BUSYBOX, "sh", "-c", script])).ok();
}

fn checkpoint(daemon: &Daemon, arguments: &[&str]) -> palan_test_support::daemon::Run {
    daemon.palan(["checkpoint"].iter().chain(arguments))
}

fn checkpoints(daemon: &Daemon, name: &str) -> Vec<String> {
    let listed = checkpoint(daemon, &["ls", name]).ok();
    let mut lines = listed.stdout.lines().map(|line| line.trim().to_owned());
    assert_eq!(lines.next().as_deref(), Some("CHECKPOINT NAME"));
    lines.collect()
}

fn status(daemon: &Daemon, name: &str) -> String {
    inspect(daemon, name, "{{.State.Status}} {{.State.ExitCode}}")
}

fn numbers(daemon: &Daemon, name: &str) -> Vec<u64> {
    let logs = daemon.palan(["logs", name]).ok();
    logs.stdout.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?}"))).collect()
}

fn counts_past(daemon: &Daemon, name: &str, least: u64) -> Vec<u64> {
    let reached = || numbers(daemon, name).last().is_some_and(|last| *last > least);
    assert!(wait_until(PATIENCE, reached), "{:?}", numbers(daemon, name));
    numbers(daemon, name)
}

/// Where a container's checkpoints are.
fn place(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.data_root().join("containers").join(inspect(daemon, name, "{{.Id}}")).join("checkpoints")
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn events(daemon: &Daemon, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let until = ["events", "--since", "1", "--until", "0s", "--filter", &filter, "--format", "{{.Action}}"];
    daemon.palan(until).ok().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_container_goes_on_where_it_was() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let mut daemon = daemon();
    run(&daemon, "box", &["--network", "none", "--restart", "always"], COUNTER);
    counts_past(&daemon, "box", 3);
    assert_eq!(checkpoint(&daemon, &["create", "box", "first"]).ok().line(), "first");
    assert_eq!(status(&daemon, "box"), "exited 137");
    assert_eq!(checkpoints(&daemon, "box"), ["first"]);
    let directory = place(&daemon, "box").join("first");
    let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert!(entries(&directory).contains(&"descriptors.json".to_owned()));
    assert_eq!(events(&daemon, "box"), ["create", "start", "checkpoint", "die"]);

    // What it has said is in the log to the last word, and it goes on with the next.
    let before = numbers(&daemon, "box");
    daemon.palan(["start", "--checkpoint", "first", "box"]).ok();
    assert_eq!(status(&daemon, "box"), "running 0");
    let after = counts_past(&daemon, "box", before.last().unwrap() + 5);
    let expected: Vec<u64> = (1..=*after.last().unwrap()).collect();
    assert_eq!(after, expected, "nothing twice, nothing missing");
    assert_eq!(within(&daemon, "box", "cat /proc/1/cmdline | tr '\\0' ' '").split(' ').next(), Some("sh"));
    assert!(daemon.palan(["top", "box"]).ok().stdout.contains("sleep"));

    // It is a container like others: it outlives the daemon, can be paused, saved again and stopped.
    daemon.kill();
    daemon.restart();
    counts_past(&daemon, "box", *after.last().unwrap() + 5);
    daemon.palan(["pause", "box"]).ok();
    checkpoint(&daemon, &["create", "box", "paused"]).fails(1, "is paused, unpause it first");
    daemon.palan(["unpause", "box"]).ok();
    checkpoint(&daemon, &["create", "box", "second"]).ok();
    assert_eq!(checkpoints(&daemon, "box"), ["first", "second"]);
    checkpoint(&daemon, &["create", "box", "third"]).fails(1, "is not running");
    daemon.palan(["start", "--checkpoint", "second", "box"]).ok();
    daemon.palan(["start", "--checkpoint", "second", "box"]).ok();
    daemon.palan(["stop", "-t", "0", "box"]).ok();
    assert_eq!(status(&daemon, "box"), "exited 137");
    checkpoint(&daemon, &["rm", "box", "first"]).ok();
    assert_eq!(checkpoints(&daemon, "box"), ["second"]);
    // Without one it begins anew.
    daemon.palan(["start", "box"]).ok();
    let begins_anew = || numbers(&daemon, "box").iter().filter(|number| **number == 1).count() == 2;
    assert!(wait_until(PATIENCE, begins_anew));
    daemon.palan(["rm", "-f", "box"]).ok();
    assert!(!directory.exists());
}

#[test]
fn a_container_that_is_left_running() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let daemon = daemon();
    let script = "i=0; while test ! -e /tmp/end; do i=$((i+1)); echo $i; sleep 0.05; done; exit 7";
    run(&daemon, "box", &["--network", "none", "-m", "64m"], script);
    let seen = counts_past(&daemon, "box", 3);
    let pid = inspect(&daemon, "box", "{{.State.Pid}}");
    checkpoint(&daemon, &["create", "--leave-running", "box", "one"]).ok();
    counts_past(&daemon, "box", seen.last().unwrap() + 5);
    assert_eq!(inspect(&daemon, "box", "{{.State.Pid}} {{.State.Status}}"), format!("{pid} running"));
    let again = checkpoint(&daemon, &["create", "--leave-running", "box", "one"]);
    again.fails(1, "checkpoint with name one already exists for container box");
    within(&daemon, "box", "touch /tmp/end");
    assert_eq!(daemon.palan(["wait", "box"]).ok().line(), "7");
    // The file is still there: what is restored sees it and ends with its own code, which whoever is attached gets.
    let restored = daemon.palan(["start", "-a", "--checkpoint", "one", "box"]);
    assert_eq!(restored.code, 7, "{restored}");
}

#[test]
fn what_is_restored_is_confined_as_before() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let daemon = daemon();
    let volume = ["-v", "data:/data", "--tmpfs", "/scratch", "--cap-drop", "CHOWN", "-u", "1000:50"];
    let limits = ["-m", "64m", "--pids-limit", "50", "--ulimit", "nofile=99:100"];
    run(&daemon, "box", &[&["--network", "none"], &volume[..], &limits].concat(), "sleep 1000 & sleep 1000");
    // Numbers of processes and mounts change, what they are must not.
    let look = "grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/1/status; cat /proc/1/limits; \
                for n in cgroup ipc mnt net pid uts; do test /proc/1/ns/$n -ef /proc/self/ns/$n && echo same $n; done; \
                cut -d' ' -f4-6 /proc/1/mountinfo | sed 's/,relatime//' | sort; cat /proc/1/cgroup; cat /proc/1/attr/current; hostname; ls -l /proc/1/fd | wc -l";
    let before = within(&daemon, "box", look);
    let limits = |what: &str| {
        let path = format!("/sys/fs/cgroup{}/{what}", inspect_cgroup(&daemon, "box"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let memory = limits("memory.max");
    checkpoint(&daemon, &["create", "box", "one"]).ok();
    daemon.palan(["start", "--checkpoint", "one", "box"]).ok();
    assert_eq!(within(&daemon, "box", look), before);
    assert_eq!((limits("memory.max"), memory.trim()), (memory.clone(), "67108864"));
    assert_eq!(limits("pids.max").trim(), "50");
    assert!(daemon.leaks().iter().all(|leak| !leak.contains("criu")), "{:?}", daemon.leaks());
}

#[test]
fn no_new_privileges_stay_or_are_a_reason_to_refuse() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let daemon = daemon();
    let flags = ["--network", "none", "--security-opt", "no-new-privileges"];
    run(&daemon, "box", &flags, "sleep 1000 & sleep 1000");
    let look = "grep NoNewPrivs /proc/1/status";
    assert_eq!(within(&daemon, "box", look).trim(), "NoNewPrivs:\t1");
    let made = checkpoint(&daemon, &["create", "box", "one"]);
    if made.code == 0 {
        daemon.palan(["start", "--checkpoint", "one", "box"]).ok();
    } else {
        made.fails(
            1,
            "does not restore no-new-privileges, which the container runs with: 3.19 or newer is needed",
        );
    }
    assert_eq!(within(&daemon, "box", look).trim(), "NoNewPrivs:\t1");
}

fn inspect_cgroup(daemon: &Daemon, name: &str) -> String {
    let pid = inspect(daemon, name, "{{.State.Pid}}");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

#[test]
fn networks_and_streams_are_connected_again() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let daemon = daemon();
    daemon.palan(["network", "create", "n"]).ok();
    run(&daemon, "other", &["--network", "n"], "sleep 1000");
    // A server that listens, and a reader of its input.
    let server =
        "while :; do nc -lp 7007 -e echo served; done & while read line; do echo got $line; done; echo over";
    run(&daemon, "box", &["-i", "--network", "n", "-p", "127.0.0.1::7007"], server);
    let address = inspect(&daemon, "box", "{{.NetworkSettings.Networks.n.IPAddress}}");
    let ask = || {
        let answer = daemon.palan(["exec", "other", "sh", "-c", "nc box 7007 </dev/null"]);
        answer.stdout.contains("served")
    };
    assert!(wait_until(PATIENCE, ask));
    let say = |word: &str| {
        let id = inspect(&daemon, "box", "{{.Id}}");
        let mut attached = attach(&daemon, &id);
        std::io::Write::write_all(&mut attached, format!("{word}\n").as_bytes()).unwrap();
        let logged = || daemon.palan(["logs", "box"]).ok().stdout.contains(&format!("got {word}"));
        assert!(wait_until(PATIENCE, logged), "{word}");
    };
    say("one");
    checkpoint(&daemon, &["create", "box", "one"]).ok();
    daemon.palan(["start", "--checkpoint", "one", "box"]).ok();
    assert_eq!(inspect(&daemon, "box", "{{.NetworkSettings.Networks.n.IPAddress}}"), address);
    assert!(wait_until(PATIENCE, ask));
    assert!(within(&daemon, "box", "nslookup other | grep -c Name") != "0");
    say("two");
    daemon.palan(["rm", "-f", "box", "other"]).ok();
    daemon.palan(["network", "rm", "n"]).ok();
}

#[test]
fn a_terminal_is_kept() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let daemon = daemon();
    run(&daemon, "box", &["-it", "--network", "none"], "while read line; do echo got $line on $(tty); done");
    let say = |word: &str| {
        let id = inspect(&daemon, "box", "{{.Id}}");
        let mut attached = attach(&daemon, &id);
        std::io::Write::write_all(&mut attached, format!("{word}\n").as_bytes()).unwrap();
        let is_logged =
            || daemon.palan(["logs", "box"]).ok().stdout.contains(&format!("got {word} on /dev/pts/0"));
        assert!(wait_until(PATIENCE, is_logged), "{}", daemon.palan(["logs", "box"]));
    };
    say("one");
    checkpoint(&daemon, &["create", "box", "one"]).ok();
    daemon.palan(["start", "--checkpoint", "one", "box"]).ok();
    say("two");
    daemon.palan(["rm", "-f", "box"]).ok();
}

/// A raw connection to a container's streams.
fn attach(daemon: &Daemon, id: &str) -> std::os::unix::net::UnixStream {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let head = format!(
        "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

#[test]
fn checkpoints_elsewhere_are_for_other_containers_too() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let mut daemon = daemon();
    let elsewhere = daemon.scratch().join("checkpoints");
    let elsewhere = elsewhere.to_str().unwrap();
    let flags = ["--rm", "--network", "none"];
    run(&daemon, "box", &flags, COUNTER);
    counts_past(&daemon, "box", 3);
    checkpoint(&daemon, &["create", "box", "own"]).fails(1, "it is removed when it ends (--rm)");
    checkpoint(&daemon, &["create", "--checkpoint-dir", elsewhere, "box", "moved"]).ok();
    assert!(wait_until(PATIENCE, || daemon.palan(["inspect", "box"]).code != 0));
    daemon.palan(["create", "--name", "copy", "--network", "none", BUSYBOX, "sh", "-c", COUNTER]).ok();
    let listed = checkpoint(&daemon, &["ls", "--checkpoint-dir", elsewhere, "copy"]).ok();
    assert!(listed.stdout.contains("moved"), "{listed}");
    let from = ["start", "--checkpoint", "moved", "--checkpoint-dir", elsewhere, "copy"];
    // Root's alone, else it is nobody's.
    let images = Path::new(elsewhere).join("moved");
    std::fs::set_permissions(&images, PermissionsExt::from_mode(0o777)).unwrap();
    daemon.palan(from).fails(1, "can be changed by others than root");
    std::fs::set_permissions(&images, PermissionsExt::from_mode(0o700)).unwrap();
    // The daemon dies while the supervisor restores.
    let mut starting = daemon.command().args(from).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    daemon.kill();
    starting.wait().unwrap();
    daemon.restart();
    let settled = || matches!(status(&daemon, "copy").as_str(), "running 0" | "exited 137" | "created 0");
    assert!(wait_until(PATIENCE, settled), "{}", status(&daemon, "copy"));
    std::thread::sleep(Duration::from_secs(3));
    // The attempt that was left may still be under way.
    let runs = || status(&daemon, "copy") == "running 0" || daemon.palan(from).code == 0;
    assert!(wait_until(PATIENCE, runs), "{}", daemon.palan(from));
    let counted = counts_past(&daemon, "copy", 5);
    assert!(*counted.first().unwrap() > 3, "{counted:?}");
    // Images that are none are an error, and nothing is left of the attempt.
    daemon.palan(["stop", "-t", "0", "copy"]).ok();
    for entry in std::fs::read_dir(&images).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "img") {
            std::fs::write(path, "garbage").unwrap();
        }
    }
    daemon.palan(from).fails(1, "OCI runtime restore failed: criu failed");
    assert_eq!(inspect(&daemon, "copy", "{{.State.Status}} {{.State.Pid}}"), "exited 0");
    daemon.palan(["start", "copy"]).ok();
    checkpoint(&daemon, &["rm", "--checkpoint-dir", elsewhere, "copy", "moved"]).ok();
    assert_eq!(entries(Path::new(elsewhere)), [""; 0]);
}

#[test]
fn processes_beside_the_first() {
    requires!(root);
    requires!(kernel has_criu(), "what CRIU needs");
    let daemon = daemon();
    let health = ["--health-cmd", "true", "--health-interval", "1s"];
    run(&daemon, "box", &[&["--network", "none"], &health[..]].concat(), COUNTER);
    let is_healthy = || inspect(&daemon, "box", "{{.State.Health.Status}}") == "healthy";
    assert!(wait_until(PATIENCE, is_healthy));
    // A session is no part of what is saved: it goes on, or ends with the container.
    let has_session = || daemon.palan(["top", "box"]).ok().stdout.contains("sleep 1000");
    daemon.palan(["exec", "-d", "box", "sleep", "1000"]).ok();
    checkpoint(&daemon, &["create", "--leave-running", "box", "one"]).ok();
    let seen = numbers(&daemon, "box");
    counts_past(&daemon, "box", *seen.last().unwrap());
    assert!(has_session());
    checkpoint(&daemon, &["create", "box", "two"]).ok();
    daemon.palan(["start", "--checkpoint", "two", "box"]).ok();
    assert!(!has_session());
    assert!(wait_until(PATIENCE, is_healthy));
    assert_eq!(status(&daemon, "box"), "running 0");
}

#[test]
fn what_is_refused() {
    requires!(root);
    let daemon = daemon();
    let create = |arguments: &[&str]| checkpoint(&daemon, &[&["create"], arguments].concat());
    create(&["nobody", "one"]).fails(1, "No such container: nobody");
    checkpoint(&daemon, &["ls", "nobody"]).fails(1, "No such container: nobody");
    daemon.palan(["create", "--name", "box", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    create(&["box", "one"]).fails(1, "is not running");
    assert_eq!(checkpoints(&daemon, "box"), [""; 0]);
    let refused = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed";
    let parent = place(&daemon, "box");
    let parent = parent.parent().unwrap();
    for name in ["..", ".", "../..", "a/b", "/etc", "", "x", "ä-b"] {
        daemon.palan(["checkpoint", "create", "box", name]).fails(1, refused);
        // Without a name these are other requests.
        if !name.is_empty() {
            daemon.palan(["checkpoint", "rm", "box", name]).fails(1, refused);
            daemon.palan(["start", "--checkpoint", name, "box"]).fails(1, refused);
        }
    }
    assert!(parent.join("hostname").exists(), "nothing was removed");
    checkpoint(&daemon, &["rm", "box", "one"]).fails(1, "checkpoint one does not exist for container box");
    daemon
        .palan(["start", "--checkpoint", "one", "box"])
        .fails(1, "checkpoint one does not exist for container box");
    assert_eq!(status(&daemon, "box"), "created 0", "a start that was refused is none");
    let relative = "it must be an absolute path";
    for directory in ["here", "./x", "../x"] {
        let flag = ["--checkpoint-dir", directory];
        checkpoint(&daemon, &["ls", flag[0], flag[1], "box"]).fails(1, relative);
        daemon.palan(["start", "--checkpoint", "one", flag[0], flag[1], "box"]).fails(1, relative);
    }
    checkpoint(&daemon, &["ls", "--checkpoint-dir", "/nonexistent", "box"]).fails(1, "does not exist");
    daemon
        .palan(["start", "--checkpoint", "one", "box", "copy"])
        .fails(1, "you cannot restore multiple containers at once");
    create(&["box"]).fails(1, "requires 2 arguments");
}

/// Whoever makes a checkpoint is told what is missing.
#[test]
fn without_criu() {
    requires!(root);
    let launcher = ["env", "PATH=/nonexistent"].map(str::to_owned).to_vec();
    let daemon = daemon_with(Options { launcher, ..Options::default() });
    run(&daemon, "box", &["--network", "none"], "sleep 1000");
    let text = "Cannot checkpoint container box: checkpoints need CRIU, and there is no program criu in the PATH of the daemon";
    checkpoint(&daemon, &["create", "box", "one"]).fails(1, text);
    assert_eq!(status(&daemon, "box"), "running 0");
}

/// A kernel that CRIU does not know, as on many hosts: the reason is CRIU's own, and the container goes on.
#[test]
fn a_criu_that_refuses() {
    requires!(root);
    requires!(program "criu");
    if has_criu() {
        // It would not refuse: the other tests show what happens then.
        return;
    }
    let daemon = daemon();
    run(&daemon, "box", &["--network", "none"], COUNTER);
    counts_past(&daemon, "box", 3);
    let refused =
        checkpoint(&daemon, &["create", "box", "one"]).fails(1, "Cannot checkpoint container box: criu ");
    let log =
        daemon.run_root().join("containers").join(inspect(&daemon, "box", "{{.Id}}")).join("criu/dump.log");
    if refused.stderr.contains("its log is") {
        assert!(refused.stderr.contains(&log.display().to_string()) && log.exists(), "{refused}");
    }
    let seen = numbers(&daemon, "box");
    counts_past(&daemon, "box", *seen.last().unwrap());
    assert_eq!(entries(&place(&daemon, "box")), [""; 0]);
}

/// A daemon that finds the stand-in where CRIU should be, and the directory of the stand-in.
fn with_stand_in() -> (tempfile::TempDir, Daemon) {
    let directory = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/criu.py");
    std::fs::copy(script, directory.path().join("criu")).unwrap();
    std::fs::set_permissions(directory.path().join("criu"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", directory.path().display());
    let launcher = vec!["env".to_owned(), path];
    let settings = Some("\"experimental\": true".to_owned());
    let daemon = daemon_with(Options { launcher, settings, ..Options::default() });
    (directory, daemon)
}

#[test]
fn a_checkpoint_is_there_whole_or_not_at_all() {
    requires!(root);
    requires!(program "python3");
    let (criu, mut daemon) = with_stand_in();
    let mode = |mode: &str| std::fs::write(criu.path().join("mode"), mode).unwrap();
    run(&daemon, "box", &["--network", "none", "--restart", "unless-stopped"], COUNTER);

    mode("refuse");
    let text =
        "Cannot checkpoint container box: criu failed: type DUMP errno 22: the stand-in refuses; its log is ";
    checkpoint(&daemon, &["create", "box", "one"]).fails(1, text);
    assert_eq!(entries(&place(&daemon, "box")), [""; 0]);
    assert_eq!(status(&daemon, "box"), "running 0");

    // Its place is taken at the last moment: the container goes on.
    mode("wait");
    let go = criu.path().join("go");
    let mut saving = daemon.command();
    let mut saving = saving.args(["checkpoint", "create", "box", "taken"]).spawn().unwrap();
    let partial = || entries(&place(&daemon, "box")) == [".taken.partial"];
    assert!(wait_until(PATIENCE, partial));
    assert_eq!(checkpoints(&daemon, "box"), [""; 0], "what is not complete is not shown");
    // What the container does meanwhile: nothing that would be missing in the checkpoint.
    let refused = daemon.palan(["exec", "box", "true"]);
    assert!(refused.code == 128 && refused.stdout.contains("a checkpoint of the container is being made"));
    daemon.palan(["pause", "box"]).fails(1, "a checkpoint of the container is being made");
    checkpoint(&daemon, &["create", "box", "other"]).fails(1, "a checkpoint of the container is being made");
    daemon.palan(["logs", "box"]).ok();
    std::fs::create_dir(place(&daemon, "box").join("taken")).unwrap();
    std::fs::write(&go, "").unwrap();
    assert!(!saving.wait().unwrap().success());
    assert_eq!(entries(&place(&daemon, "box")), ["taken"]);
    assert_eq!(status(&daemon, "box"), "running 0");
    daemon.palan(["exec", "box", "true"]).ok();
    checkpoint(&daemon, &["rm", "box", "taken"]).ok();

    // The daemon dies; the supervisor goes on to the end.
    std::fs::remove_file(&go).unwrap();
    let mut saving = daemon.command();
    let mut saving = saving.args(["checkpoint", "create", "box", "two"]).spawn().unwrap();
    assert!(wait_until(PATIENCE, || entries(&place(&daemon, "box")) == [".two.partial"]));
    let directory = place(&daemon, "box");
    daemon.kill();
    assert!(!saving.wait().unwrap().success());
    std::fs::write(&go, "").unwrap();
    assert!(wait_until(PATIENCE, || entries(&directory) == ["two"]));
    daemon.restart();
    assert!(wait_until(PATIENCE, || status(&daemon, "box") == "exited 137"), "and it stays down");
    assert_eq!(checkpoints(&daemon, "box"), ["two"]);
    assert_eq!(events(&daemon, "box").iter().filter(|event| *event == "checkpoint").count(), 1);

    // A restore that fails leaves a container that can be started.
    daemon
        .palan(["start", "--checkpoint", "two", "box"])
        .fails(1, "OCI runtime restore failed: criu failed: type RESTORE errno 22: the stand-in refuses");
    let state = inspect(&daemon, "box", "{{.State.Status}} {{.State.Pid}} {{.State.Error}}");
    assert!(state.starts_with("exited 0 failed to create task"), "{state}");
    daemon.palan(["start", "box"]).ok();

    // The container is killed meanwhile: no checkpoint, and by its policy it begins anew.
    std::fs::remove_file(&go).unwrap();
    let mut saving = daemon.command();
    let mut saving =
        saving.args(["checkpoint", "create", "--leave-running", "box", "three"]).spawn().unwrap();
    assert!(wait_until(PATIENCE, || entries(&directory).contains(&".three.partial".to_owned())));
    daemon.palan(["kill", "box"]).ok();
    assert!(status(&daemon, "box").starts_with("exited 137"));
    std::fs::write(&go, "").unwrap();
    saving.wait().unwrap();
}

/// Docker's client shows its commands for daemons that are experimental.
#[test]
fn docker_makes_checkpoints() {
    requires!(root);
    requires!(program "docker");
    requires!(program "python3");
    let (criu, daemon) = with_stand_in();
    std::fs::write(criu.path().join("mode"), "save").unwrap();
    run(&daemon, "box", &["--network", "none"], COUNTER);
    let elsewhere = daemon.scratch().join("elsewhere");
    let flag = format!("--checkpoint-dir={}", elsewhere.display());
    assert_eq!(daemon.docker(["checkpoint", "create", "--leave-running", "box", "one"]).ok().line(), "one");
    daemon.docker(["checkpoint", "create", "--leave-running", &flag, "box", "two"]).ok();
    assert_eq!(daemon.docker(["checkpoint", "ls", "box"]).ok().stdout, "CHECKPOINT NAME\none\n");
    assert_eq!(daemon.docker(["checkpoint", "ls", &flag, "box"]).ok().stdout, "CHECKPOINT NAME\ntwo\n");
    daemon.docker(["checkpoint", "rm", "box", "one"]).ok();
    daemon
        .docker(["checkpoint", "rm", "box", "one"])
        .fails(1, "checkpoint one does not exist for container box");
    daemon.docker(["checkpoint", "create", &flag, "box", "last"]).ok();
    assert_eq!(entries(&elsewhere), ["last", "two"]);
    assert_eq!(status(&daemon, "box"), "exited 137");
    daemon.docker(["start", "--checkpoint", "last", &flag, "box"]).fails(1, "the stand-in refuses");
    assert_eq!(daemon.docker(["version", "--format", "{{.Server.Experimental}}"]).ok().line(), "true");
}

#[test]
fn containers_that_have_no_checkpoints() {
    requires!(root);
    requires!(program "python3");
    let (criu, daemon) = with_stand_in();
    std::fs::write(criu.path().join("mode"), "save").unwrap();
    run(&daemon, "init", &["--network", "none", "--init"], "sleep 1000");
    checkpoint(&daemon, &["create", "init", "one"]).fails(
        1,
        "Cannot checkpoint container init: a container with Palan's own init (--init) has no checkpoints",
    );
    assert_eq!(status(&daemon, "init"), "running 0");
}
