//! Restart policies: who is started again and when, what is seen meanwhile, and that it needs no daemon.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{requires, wait_until};
use serde_json::{Value, json};

use crate::images::{BUSYBOX, daemon};

const PATIENCE: Duration = Duration::from_secs(60);

/// Counts its runs, says so, and ends with the count as its code.
const COUNTS: &str = "n=$(cat /n 2>/dev/null || echo 0); n=$((n+1)); echo $n > /n; echo run $n; exit $n";

/// Runs a container in the background: flags, then what runs in a shell.
#[track_caller]
fn run(daemon: &Daemon, name: &str, flags: &[&str], script: &str) {
    let words = [&["run", "-d", "--name", name, "--network", "none"], flags, &[BUSYBOX, "sh", "-c", script]];
    daemon.palan(words.concat()).ok();
}

#[track_caller]
fn state(daemon: &Daemon, name: &str) -> Value {
    let inspected = daemon.palan(["inspect", "-f", "{{json .State}}", name]).ok();
    serde_json::from_str(inspected.line()).unwrap()
}

#[track_caller]
fn restarts(daemon: &Daemon, name: &str) -> u64 {
    daemon.palan(["inspect", "-f", "{{.RestartCount}}", name]).ok().line().parse().unwrap()
}

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, status: &str) {
    let is = wait_until(PATIENCE, || state(daemon, name)["Status"] == status);
    assert!(is, "{} instead of {status}\n{}", state(daemon, name), daemon.log());
}

/// Until the container pauses after so many runs. The pauses double: the sixth takes 3.2 s, the eighth 12.8 s.
#[track_caller]
fn rests(daemon: &Daemon, name: &str, runs: u64) {
    let rests = wait_until(PATIENCE, || {
        restarts(daemon, name) >= runs && state(daemon, name)["Status"] == "restarting"
    });
    assert!(rests, "{}", state(daemon, name));
}

/// `start`, `die 3`, `stop` … in their order.
#[track_caller]
fn events(daemon: &Daemon, name: &str) -> Vec<String> {
    let container = format!("container={name}");
    let words =
        ["events", "--since", "1h", "--until", "0s", "--filter", &container, "--format", "{{json .}}"];
    let told = daemon.palan(words).ok();
    let told = told.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = |event: Value| {
        let action = event["Action"].as_str().unwrap().to_owned();
        match event["Actor"]["Attributes"]["exitCode"].as_str() {
            Some(code) => format!("{action} {code}"),
            None => action,
        }
    };
    told.map(line).filter(|line| !line.starts_with("exec_")).collect()
}

/// What `COUNTS` does under `always` until it rests, as its events tell it.
fn lives(runs: u64) -> Vec<String> {
    (1..=runs).flat_map(|run| ["start".to_owned(), format!("die {run}")]).collect()
}

/// The process that looks after a container.
#[track_caller]
fn supervisor(daemon: &Daemon, name: &str) -> rustix::process::Pid {
    let pid = state(daemon, name)["Pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    rustix::process::Pid::from_raw(parent).unwrap()
}

fn kill(process: rustix::process::Pid) {
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_container_that_ends_again_and_again() {
    requires!(root);
    let daemon = daemon();
    run(&daemon, "cc", &["--restart", "always"], COUNTS);
    rests(&daemon, "cc", 8);
    let count = restarts(&daemon, "cc");
    let seen = state(&daemon, "cc");
    for (field, expected) in [("Running", true), ("Restarting", true), ("Paused", false), ("Dead", false)] {
        assert_eq!(seen[field], expected, "{field} of {seen}");
    }
    assert_eq!((&seen["Pid"], &seen["ExitCode"]), (&json!(0), &json!(count)));
    let listed = daemon.palan(["ps", "--format", "{{.Names}} {{.Status}} {{.State}}"]).ok();
    assert!(listed.line().starts_with(&format!("cc Restarting ({count}) ")), "{listed}");
    assert!(listed.line().ends_with(" ago restarting"), "{listed}");
    assert_eq!(daemon.palan(["ps", "-q", "--filter", "status=restarting"]).ok().stdout.lines().count(), 1);

    let id = daemon.palan(["inspect", "-f", "{{.Id}}", "cc"]).ok().line().to_owned();
    let refusal = format!("Container {id} is restarting, wait until the container is running");
    for words in [&["exec", "cc", "true"][..], &["pause", "cc"], &["top", "cc"]] {
        daemon.palan(words).fails(1, &refusal);
    }
    daemon.palan(["attach", "cc"]).fails(1, "cannot attach to a restarting container");
    daemon.palan(["rm", "cc"]).fails(1, "container is restarting: stop the container before removing");
    daemon.palan(["start", "cc"]).ok();

    daemon.palan(["stop", "cc"]).ok();
    let ended = state(&daemon, "cc");
    assert_eq!((&ended["Status"], &ended["ExitCode"]), (&json!("exited"), &json!(count)));
    assert_eq!((&ended["Running"], &ended["Restarting"]), (&json!(false), &json!(false)));
    assert_eq!(restarts(&daemon, "cc"), count);
    let expected = [vec!["create".to_owned()], lives(count), vec!["stop".to_owned()]].concat();
    assert_eq!(events(&daemon, "cc"), expected);
    let logs: String = (1..=count).map(|run| format!("run {run}\n")).collect();
    assert_eq!(daemon.palan(["logs", "cc"]).ok().stdout, logs);

    // Whoever starts it begins anew.
    daemon.palan(["start", "cc"]).ok();
    assert!(restarts(&daemon, "cc") < count);
}

#[test]
fn on_failure_counts_and_ends_with_a_success() {
    requires!(root);
    let daemon = daemon();
    // Attached to the first run, and told its code.
    let first = [
        "run",
        "--name",
        "ff",
        "--network",
        "none",
        "--restart",
        "on-failure:2",
        BUSYBOX,
        "sh",
        "-c",
        COUNTS,
    ];
    let first = daemon.palan(first);
    assert_eq!((first.code, first.stdout.as_str()), (1, "run 1\n"), "{first}");
    becomes(&daemon, "ff", "exited");
    assert_eq!((restarts(&daemon, "ff"), &state(&daemon, "ff")["ExitCode"]), (2, &json!(3)));
    assert_eq!(daemon.palan(["logs", "ff"]).ok().stdout, "run 1\nrun 2\nrun 3\n");

    let third = format!("{COUNTS} && exit 9");
    run(
        &daemon,
        "ss",
        &["--restart", "on-failure"],
        &third.replace("exit $n", "test $n -ge 3 && exit 0; exit 1"),
    );
    becomes(&daemon, "ss", "exited");
    assert_eq!((restarts(&daemon, "ss"), &state(&daemon, "ss")["ExitCode"]), (2, &json!(0)));
}

#[test]
fn a_container_is_removed_when_it_has_ended_for_good() {
    requires!(root);
    let mut daemon = daemon();
    let words = |policy: &'static str| {
        ["run", "--rm", "--name", "rr", "--network", "none", "--restart", policy, BUSYBOX, "sh", "-c", COUNTS]
    };
    let run = daemon.palan(words("on-failure:2"));
    // Its client waits for the removal, so the code is the last one.
    assert_eq!((run.code, run.stdout.as_str()), (3, "run 1\n"), "{run}");
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
    daemon.palan(words("always")).fails(125, "conflicting options: cannot specify both --restart and --rm");

    // The same with no daemon at the end.
    let mut waiting = daemon.command();
    let script = "test -e /n && while ! test -e /go; do sleep 0.05; done; echo >> /n; exit $(wc -l < /n)";
    waiting.args(["run", "--rm", "--name", "away", "--network", "none", "--restart", "on-failure:1"]);
    waiting.args([BUSYBOX, "sh", "-c", script]).stdout(Stdio::null());
    let waiting = waiting.spawn().unwrap();
    assert!(wait_until(PATIENCE, || !daemon.palan(["ps", "-q"]).ok().stdout.is_empty()));
    assert!(wait_until(PATIENCE, || restarts(&daemon, "away") == 1));
    becomes(&daemon, "away", "running");
    let process = std::path::PathBuf::from(format!("/proc/{}", state(&daemon, "away")["Pid"]));
    daemon.kill();
    std::fs::write(process.join("root/go"), "").unwrap();
    assert!(wait_until(PATIENCE, || !process.exists()));
    daemon.restart();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", daemon.log());
    assert!(wait_until(PATIENCE, || daemon.palan(["ps", "-aq"]).ok().stdout.is_empty()));
}

#[test]
fn restarted_by_hand_a_container_is_not_removed() {
    requires!(root);
    let daemon = daemon();
    // It says when it has left its trace: a restart may come before that.
    run(&daemon, "rr", &["--rm"], "test -e /n && echo again || { touch /n; echo first; }; exec sleep 1000");
    let says = |text: &str| wait_until(PATIENCE, || daemon.palan(["logs", "rr"]).ok().stdout == text);
    assert!(says("first\n"));
    for text in ["first\nagain\n", "first\nagain\nagain\n"] {
        daemon.palan(["restart", "-t", "0", "rr"]).ok();
        becomes(&daemon, "rr", "running");
        assert!(says(text));
    }
    daemon.palan(["stop", "-t", "0", "rr"]).ok();
    assert!(wait_until(PATIENCE, || daemon.palan(["ps", "-aq"]).ok().stdout.is_empty()));
}

#[test]
fn stopping_by_hand_ends_it() {
    requires!(root);
    let daemon = daemon();
    let forever = "while :; do sleep 0.1; done";
    for (name, words) in
        [("stopped", &["stop", "-t", "0"][..]), ("killed", &["kill"]), ("signalled", &["kill", "-s", "TERM"])]
    {
        run(&daemon, name, &["--init", "--restart", "always"], forever);
        daemon.palan(words.iter().chain(&[name])).ok();
        becomes(&daemon, name, "exited");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(state(&daemon, name)["Status"], "exited", "{name}");
    }
    // A signal that is not the one to stop with is none.
    let script = "trap 'exit 3' HUP; echo ready; while :; do sleep 0.1; done";
    run(&daemon, "reloaded", &["--restart", "always", "--stop-signal", "TERM"], script);
    assert!(wait_until(PATIENCE, || daemon.palan(["logs", "reloaded"]).ok().stdout == "ready\n"));
    daemon.palan(["kill", "-s", "HUP", "reloaded"]).ok();
    assert!(wait_until(PATIENCE, || restarts(&daemon, "reloaded") == 1));
    daemon.palan(["rm", "-f", "reloaded"]).ok();

    // Between two runs; one container after the other, so that each is met early in its pause.
    let between = |name: &str, words: &[&str]| {
        run(&daemon, name, &["--restart", "unless-stopped"], COUNTS);
        rests(&daemon, name, 6);
        daemon.palan(words.iter().chain(&[name])).ok();
    };
    between("kk", &["kill"]);
    assert_eq!(state(&daemon, "kk")["Status"], "exited");
    between("dd", &["rm", "-f"]);
    between("again", &["restart"]);
    assert!(restarts(&daemon, "again") < 6, "restarted by hand it begins anew");
    rests(&daemon, "again", 5);
}

#[test]
fn stopped_in_the_moment_of_a_restart() {
    requires!(root);
    let daemon = daemon();
    for (round, words) in
        [&["stop", "-t", "0"][..], &["kill"], &["rm", "-f"]].into_iter().cycle().take(18).enumerate()
    {
        let name = format!("c{round}");
        // It runs for ever from its second run on.
        run(&daemon, &name, &["--restart", "always"], "test -e /n && exec sleep 1000; touch /n; exit 1");
        // Over the rounds all moments around the restart are met.
        std::thread::sleep(Duration::from_millis(60 + 8 * round as u64));
        daemon.palan(words.iter().copied().chain([name.as_str()])).ok();
        if words[0] != "rm" {
            assert_eq!(state(&daemon, &name)["Status"], "exited", "{words:?}");
        }
    }
}

#[test]
fn no_daemon_is_needed_and_nothing_is_lost() {
    requires!(root);
    let mut daemon = daemon();
    run(&daemon, "cc", &["--restart", "always"], COUNTS);
    daemon.kill();
    std::thread::sleep(Duration::from_secs(2));
    daemon.restart();
    rests(&daemon, "cc", 6);
    // Killed between two runs, where it also is when the daemon is back.
    daemon.kill();
    daemon.restart();
    daemon.palan(["stop", "cc"]).ok();
    let count = restarts(&daemon, "cc");
    let expected = [vec!["create".to_owned()], lives(count + 1), vec!["stop".to_owned()]].concat();
    let told = events(&daemon, "cc");
    // Its last run may have been ended by the stop.
    let same = told.len() - 2;
    assert_eq!(told[..same.min(expected.len())], expected[..same.min(expected.len())]);
    let logs: String = (1..=count).map(|run| format!("run {run}\n")).collect();
    assert!(daemon.palan(["logs", "cc"]).ok().stdout.starts_with(&logs));
}

#[test]
fn waits_and_followed_logs_end_with_each_run() {
    requires!(root);
    let daemon = daemon();
    let script = "echo ready; while ! test -e /go; do sleep 0.05; done; rm /go; echo gone; exit 4";
    run(&daemon, "ww", &["--restart", "always"], script);
    let spawn = |words: &[&str]| {
        let mut command = daemon.command();
        command.args(words).stdout(Stdio::piped()).spawn().unwrap()
    };
    let rest = |mut child: Child| {
        assert!(wait_until(PATIENCE, || child.try_wait().unwrap().is_some()), "the client does not end");
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let attach = |number: usize| {
        let attached = spawn(&["attach", "ww"]);
        let told = || events(&daemon, "ww").iter().filter(|event| *event == "attach").count();
        assert!(wait_until(PATIENCE, || told() == number));
        attached
    };
    let waiting = spawn(&["wait", "ww"]);
    let mut following = spawn(&["logs", "-f", "ww"]);
    let mut first = [0; 6];
    following.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"ready\n");
    let attached = attach(1);
    // Nothing shows that somebody waits.
    std::thread::sleep(Duration::from_secs(3));
    daemon.palan(["exec", "ww", "touch", "/go"]).ok();
    assert_eq!([waiting, following, attached].map(rest), ["4\n", "gone\n", "gone\n"]);
    // Who attaches to the next run sees that.
    let logs = "ready\ngone\nready\n";
    assert!(wait_until(PATIENCE, || daemon.palan(["logs", "ww"]).ok().stdout == logs));
    let attached = attach(2);
    daemon.palan(["exec", "ww", "touch", "/go"]).ok();
    assert_eq!(rest(attached), "gone\n");
}

#[test]
fn a_supervisor_that_dies_is_followed_by_another() {
    requires!(root);
    let mut daemon = daemon();
    let words = ["run", "-d", "--name", "ss", "--restart", "on-failure", BUSYBOX, "sleep", "1000"];
    daemon.palan(words).ok();
    let address = |daemon: &Daemon| {
        daemon.palan(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "ss"]).ok().line().to_owned()
    };
    let before = address(&daemon);
    kill(supervisor(&daemon, "ss"));
    assert!(wait_until(PATIENCE, || restarts(&daemon, "ss") == 1), "{}", daemon.log());
    becomes(&daemon, "ss", "running");
    assert_eq!(address(&daemon), before);
    daemon.palan(["exec", "ss", "true"]).ok();
    assert_eq!(events(&daemon, "ss"), ["create", "start", "die 137", "start"]);

    // With nobody there to see it.
    let process = supervisor(&daemon, "ss");
    daemon.kill();
    kill(process);
    daemon.restart();
    assert!(wait_until(PATIENCE, || restarts(&daemon, "ss") == 2), "{}", daemon.log());
    becomes(&daemon, "ss", "running");
    assert_eq!(address(&daemon), before);
    daemon.palan(["stop", "-t", "0", "ss"]).ok();
    let told = events(&daemon, "ss");
    assert_eq!(told[..6], ["create", "start", "die 137", "start", "die 137", "start"]);

    // Between two runs, too.
    let script = format!("while ! test -e /go; do sleep 0.05; done; {COUNTS}");
    run(&daemon, "bb", &["--restart", "always"], &script);
    let process = supervisor(&daemon, "bb");
    std::fs::write(format!("/proc/{}/root/go", state(&daemon, "bb")["Pid"]), "").unwrap();
    rests(&daemon, "bb", 6);
    kill(process);
    let count = restarts(&daemon, "bb");
    assert!(wait_until(PATIENCE, || restarts(&daemon, "bb") > count), "{}", daemon.log());
    daemon.palan(["rm", "-f", "bb"]).ok();
}

#[test]
fn a_daemon_that_starts_starts_what_is_to_run() {
    requires!(root);
    let mut daemon = daemon();
    let policies = ["no", "always", "unless-stopped", "on-failure"];
    for policy in policies {
        for (name, stop) in [(format!("{policy}-up"), false), (format!("{policy}-stopped"), true)] {
            run(&daemon, &name, &["--restart", policy], "sleep 1000");
            if stop {
                daemon.palan(["stop", "-t", "0", &name]).ok();
            }
        }
        daemon
            .palan(["create", "--name", &format!("{policy}-new"), "--restart", policy, BUSYBOX, "true"])
            .ok();
    }
    let running = |daemon: &Daemon| {
        let listed = daemon.palan(["ps", "--format", "{{.Names}}"]).ok();
        let mut names: Vec<String> = listed.stdout.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    daemon.kill();
    daemon.restart();
    let expected = ["always-stopped", "always-up", "no-up", "on-failure-up", "unless-stopped-up"];
    assert!(wait_until(PATIENCE, || running(&daemon) == expected), "{:?}", running(&daemon));

    // As after the host has been restarted: no process, and nothing in the run root.
    daemon.palan(["stop", "-t", "0", "always-stopped"]).ok();
    let processes: Vec<_> = expected[1..].iter().map(|name| supervisor(&daemon, name)).collect();
    daemon.kill();
    processes.into_iter().for_each(kill);
    assert!(wait_until(PATIENCE, || std::fs::remove_dir_all(daemon.run_root().join("containers")).is_ok()));
    daemon.restart();
    let expected = ["always-stopped", "always-up", "on-failure-up", "unless-stopped-up"];
    assert!(wait_until(PATIENCE, || running(&daemon) == expected), "{:?}", running(&daemon));
    let lost = state(&daemon, "no-up");
    assert_eq!((&lost["Status"], &lost["ExitCode"]), (&json!("exited"), &json!(255)));
    assert_eq!(events(&daemon, "always-up"), ["create", "start", "die 255", "start"]);
}

#[test]
fn a_start_that_fails_is_the_end() {
    requires!(root);
    let daemon = daemon();
    let script = "test -e /gone && exec sleep 1000; touch /gone; rm /bin/sh; exit 5";
    run(&daemon, "gg", &["--restart", "always"], script);
    becomes(&daemon, "gg", "exited");
    let ended = state(&daemon, "gg");
    assert_eq!(ended["ExitCode"], 5, "{ended}");
    assert!(ended["Error"].as_str().unwrap().contains("sh"), "{ended}");
    daemon.palan(["rm", "gg"]).ok();
}

#[test]
fn an_unhealthy_container_is_restarted() {
    requires!(root);
    let daemon = daemon();
    let check = ["--health-cmd", "! test -e /sick", "--health-interval", "100ms", "--health-retries", "1"];
    // A check that is made before the new run has come to itself does not count.
    let start = ["--health-start-period", "30s", "--health-start-interval", "100ms"];
    let flags = [&check[..], &start, &["--health-on-failure", "restart"]].concat();
    let script = "trap 'exit 6' TERM; rm -f /sick; echo ready; while :; do sleep 0.05; done";
    run(&daemon, "hh", &flags, script);
    assert!(wait_until(PATIENCE, || daemon.palan(["logs", "hh"]).ok().stdout == "ready\n"));
    let healthy = || state(&daemon, "hh")["Health"]["Status"] == "healthy";
    assert!(wait_until(PATIENCE, healthy));
    daemon.palan(["exec", "hh", "touch", "/sick"]).ok();
    assert!(wait_until(PATIENCE, || restarts(&daemon, "hh") == 1), "{}", state(&daemon, "hh"));
    assert!(wait_until(PATIENCE, healthy), "{}", state(&daemon, "hh"));
    // There is no policy: another end is the last.
    daemon.palan(["exec", "hh", "kill", "1"]).ok();
    becomes(&daemon, "hh", "exited");
}

#[test]
fn the_network_stays() {
    requires!(root);
    let daemon = daemon();
    let port = palan_test_support::free_port();
    daemon.palan(["network", "create", "nn"]).ok();
    let published = format!("{port}:8080");
    let script = "echo hi | nc -l -p 8080; exit 1";
    let words = ["run", "-d", "--name", "web", "--network", "nn", "-p", &published, "--restart", "always"];
    daemon.palan(words.into_iter().chain([BUSYBOX, "sh", "-c", script])).ok();
    let gateway = daemon.palan(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "nn"]).ok();
    let address = std::net::SocketAddr::new(gateway.line().parse().unwrap(), port);
    for run in 1..=3 {
        let answered = wait_until(PATIENCE, || {
            let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500))
            else {
                return false;
            };
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok();
            text == "hi\n"
        });
        assert!(answered, "run {run}");
    }
    // Its names and its resolver, too.
    let others = ["run", "--rm", "--network", "nn", BUSYBOX, "nslookup", "web"];
    daemon.palan(others).ok();
    becomes(&daemon, "web", "running");
    daemon.palan(["exec", "web", "nslookup", "web"]).ok();
}

#[test]
fn who_may_change_the_network_gets_a_new_one() {
    requires!(root);
    let mut daemon = daemon();
    let script = "ip link add left type veth peer name right || echo dirty; \
                  ip -4 -o addr show eth0 | wc -l; while ! test -e /go; do sleep 0.05; done; rm /go; exit 4";
    let words = ["run", "-d", "--name", "nn", "--cap-add", "NET_ADMIN", "--restart", "always", BUSYBOX];
    daemon.palan(words.into_iter().chain(["sh", "-c", script])).ok();
    let logs = || daemon.palan(["logs", "nn"]).ok().stdout;
    assert!(wait_until(PATIENCE, || logs() == "1\n"), "{}", logs());
    daemon.palan(["exec", "nn", "touch", "/go"]).ok();
    assert!(wait_until(PATIENCE, || logs() == "1\n1\n"), "{}", logs());
    assert_eq!(restarts(&daemon, "nn"), 1);
    assert_eq!(events(&daemon, "nn"), ["create", "start", "die 4", "start"]);
    // With no daemon there it goes on in the old one.
    let pid = state(&daemon, "nn")["Pid"].as_i64().unwrap();
    let log = daemon.palan(["inspect", "-f", "{{.LogPath}}", "nn"]).ok().line().to_owned();
    daemon.kill();
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    assert!(wait_until(PATIENCE, || std::fs::read_to_string(&log).unwrap().contains("dirty")));
    daemon.restart();
    let logs = || daemon.palan(["logs", "nn"]).ok().stdout;
    assert!(wait_until(PATIENCE, || logs() == "1\n1\ndirty\n1\n"), "{}", logs());
    daemon.palan(["exec", "nn", "touch", "/go"]).ok();
    assert!(wait_until(PATIENCE, || logs() == "1\n1\ndirty\n1\n1\n"), "{}", logs());
    assert_eq!(restarts(&daemon, "nn"), 3);
    // Stopped while the daemon waits.
    daemon.palan(["update", "--restart", "always", "nn"]).ok();
    run(&daemon, "mm", &["--cap-add", "NET_ADMIN", "--restart", "always"], COUNTS);
    rests(&daemon, "mm", 5);
    daemon.palan(["stop", "mm"]).ok();
    assert_eq!(state(&daemon, "mm")["Status"], "exited");
}

#[test]
fn what_is_stopped_before_its_turn_does_not_start() {
    requires!(root);
    const COUNT: usize = 40;
    let mut daemon = daemon();
    let names: Vec<String> = (0..COUNT).map(|number| format!("c{number}")).collect();
    for name in &names {
        let run = [
            "run",
            "-d",
            "--restart",
            "always",
            "--network",
            "none",
            "--name",
            name,
            BUSYBOX,
            "sleep",
            "1000",
        ];
        daemon.palan(run).ok();
    }
    let stop: Vec<&str> = ["stop", "-t", "0"].into_iter().chain(names.iter().map(String::as_str)).collect();
    daemon.palan(&stop).ok();
    // As in Docker, a new daemon starts what is to run always, stopped or not, some at a time.
    daemon.terminate();
    daemon.restart();
    daemon.palan(&stop).ok();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.palan(["ps", "-q"]).ok().stdout, "");
}
