//! `palan logs`: whole, in order, from the end, since and until, followed, and after the fact.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, daemon};

#[test]
fn whole_tail_and_time_stamps() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "--name", "ll", "--network", "none", BUSYBOX, "seq", "1", "100"]).ok();
    let expected: String = (1..=100).map(|number| format!("{number}\n")).collect();
    assert_eq!(daemon.palan(["logs", "ll"]).ok().stdout, expected);
    assert_eq!(daemon.palan(["logs", "-n", "2", "ll"]).ok().stdout, "99\n100\n");
    assert_eq!(daemon.palan(["logs", "--tail", "0", "ll"]).ok().stdout, "");
    let stamped = daemon.palan(["logs", "-t", "-n", "1", "ll"]).ok().stdout;
    let (stamp, text) = stamped.split_once(' ').unwrap();
    assert!(stamp.ends_with('Z') && stamp.starts_with("20") && text == "100\n", "{stamped}");
    assert_eq!(daemon.palan(["logs", "--since", "1h", "-n", "1", "ll"]).ok().stdout, "100\n");
    assert_eq!(daemon.palan(["logs", "--until", "1h", "ll"]).ok().stdout, "");
}

#[test]
fn the_first_words_are_waited_for() {
    requires!(root);
    let daemon = daemon();
    // A moment is not long: not each time on a busy machine.
    let is_shown = (0..20).any(|number| {
        let name = format!("w{number}");
        let script = "sleep 0.1; echo hello; exec sleep 1000";
        daemon.palan(["run", "-d", "--name", &name, "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
        let logs = daemon.palan(["logs", &name]).ok().stdout;
        daemon.palan(["rm", "-f", &name]).ok();
        logs == "hello\n"
    });
    assert!(is_shown);
}

#[test]
fn standard_error_stays_apart() {
    requires!(root);
    let daemon = daemon();
    daemon
        .palan(["run", "--name", "two", "--network", "none", BUSYBOX, "sh", "-c", "echo out; echo err >&2"])
        .ok();
    let logs = daemon.palan(["logs", "two"]).ok();
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn the_file_is_dockers() {
    requires!(root);
    let daemon = daemon();
    let id = daemon
        .palan(["run", "-d", "--network", "none", BUSYBOX, "printf", "a<b>\\n\"q\"\\tz"])
        .ok()
        .line()
        .to_owned();
    daemon.palan(["wait", &id]).ok();
    let path = daemon.data_root().join("containers").join(&id).join(format!("{id}-json.log"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(r#"{"log":"a\u003cb\u003e\n","stream":"stdout","time":"20"#), "{text}");
    assert!(lines[1].starts_with(r#"{"log":"\"q\"\u0009z","stream":"stdout","time":"20"#), "{text}");
    assert!(lines[1].ends_with("Z\"}"), "{text}");
}

#[test]
fn following_ends_with_the_container() {
    requires!(root);
    let daemon = daemon();
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "ff",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "for i in 1 2 3; do echo $i; sleep 0.2; done",
        ])
        .ok();
    let followed = daemon.palan(["logs", "-f", "ff"]).ok();
    assert_eq!(followed.stdout, "1\n2\n3\n");
}

#[test]
fn a_follower_sees_lines_as_they_come() {
    requires!(root);
    let daemon = daemon();
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "ff",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "echo first; sleep 1000",
        ])
        .ok();
    let mut follower = daemon.command().args(["logs", "-f", "ff"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn a_million_lines() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "--name", "mm", "-d", "--network", "none", BUSYBOX, "seq", "1", "1000000"]).ok();
    daemon.palan(["wait", "mm"]).ok();
    let logs = daemon.palan(["logs", "mm"]).ok().stdout;
    let wrong = logs.lines().zip(1u32..).find(|(line, number)| line.parse() != Ok(*number));
    assert_eq!(wrong, None);
    assert_eq!(logs.lines().count(), 1_000_000);
}

#[test]
fn rotation_keeps_the_newest() {
    requires!(root);
    let daemon = daemon();
    let run = [
        "run",
        "-d",
        "--name",
        "rr",
        "--log-opt",
        "max-size=100k",
        "--log-opt",
        "max-file=3",
        "--network",
        "none",
    ];
    let id = daemon.palan(run.into_iter().chain([BUSYBOX, "seq", "1", "10000"])).ok().line().to_owned();
    daemon.palan(["wait", "rr"]).ok();
    let directory = daemon.data_root().join("containers").join(&id);
    for suffix in ["", ".1", ".2"] {
        let size = std::fs::metadata(directory.join(format!("{id}-json.log{suffix}"))).unwrap().len();
        assert!(size <= 101_000, "{suffix}: {size}");
    }
    assert!(!directory.join(format!("{id}-json.log.3")).exists());
    let logs = daemon.palan(["logs", "rr"]).ok().stdout;
    let last: Vec<u32> = logs.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(last.last(), Some(&10000));
    assert!(last.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn rotated_files_are_compressed_and_read_all_the_same() {
    requires!(root);
    let mut daemon = daemon();
    let options = ["--log-opt", "max-size=100k", "--log-opt", "max-file=4", "--log-opt", "compress=true"];
    // Slowly enough for the follower not to lose what is rotated away.
    let script = "echo 0; until test -e /tmp/go; do sleep 0.05; done; \
                  for i in $(seq 0 1000 11000); do seq $((i+1)) $((i+1000)); sleep 1; done; sleep 1000";
    let run =
        [&["run", "-d", "--name", "cc", "--network", "none"], &options[..], &[BUSYBOX, "sh", "-c", script]];
    daemon.palan(run.concat()).ok();
    let mut follower = daemon.command().args(["logs", "-f", "cc"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(follower.stdout.take().unwrap());
    let mut followed = String::new();
    output.read_line(&mut followed).unwrap();
    assert_eq!(followed, "0\n");
    daemon.palan(["exec", "cc", "touch", "/tmp/go"]).ok();
    let last = |daemon: &Daemon| daemon.palan(["logs", "--tail", "1", "cc"]).ok().line().to_owned();
    let written = wait_until(Duration::from_secs(60), || last(&daemon) == "12000");
    assert!(written, "{}", last(&daemon));
    // What is rotated while no daemon is there is compressed afterwards.
    daemon.kill();
    daemon.restart();
    let path = daemon.palan(["inspect", "-f", "{{.LogPath}}", "cc"]).ok().line().to_owned();
    let is_there = |suffix: &str| std::path::Path::new(&format!("{path}{suffix}")).exists();
    let compressed = wait_until(Duration::from_secs(20), || {
        (1..4).all(|number| is_there(&format!(".{number}.gz")) && !is_there(&format!(".{number}")))
    });
    assert!(compressed, "{}", daemon.log());
    let text = daemon.palan(["logs", "cc"]).ok().stdout;
    let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        numbers.len() > 3000 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{}",
        numbers.len()
    );
    assert_eq!(numbers.last(), Some(&12000));
    let tail = daemon.palan(["logs", "--tail", "3000", "cc"]).ok().stdout;
    assert_eq!(tail.lines().next(), Some("9001"));
    output.read_to_string(&mut followed).unwrap();
    follower.wait().unwrap();
    let wrong = followed.lines().zip(0_u32..).find(|(line, number)| line.parse() != Ok(*number));
    assert_eq!(wrong, None);
    daemon
        .palan(["run", "--log-opt", "compress=true", "--log-opt", "max-file=1", BUSYBOX, "true"])
        .fails(125, "compress cannot be true when max-file is less than 2 or max-size is not set");
}
