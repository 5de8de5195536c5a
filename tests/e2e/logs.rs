//! `palan logs`: whole, in order, from the end, since and until, followed, and after the fact.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use palan_test_support::requires;

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
