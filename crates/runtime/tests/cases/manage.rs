//! `list`, `ps`, `state`, `pause`, `kill` and `delete`, beside runc where that is installed.

use std::time::{Duration, Instant};

use palan_oci::runtime_spec::NamespaceKind;

use super::cli::{Runtime, bundle};
use super::update::{Limited, directories};

/// Output and errors of a command with everything that differs from run to run made equal.
fn said(runtime: &Runtime, container: &Limited<'_>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = runtime.call(container.path(), arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut error = text(&output.stderr);
    // runc's log line around its message.
    if let Some((_, message)) = error.split_once("msg=\"") {
        error = message.trim_end().strip_suffix('"').unwrap().replace("\\\"", "\"");
    }
    let error = error.trim_start_matches("palan runtime: ").trim_end().to_owned();
    (output.status.code(), text(&output.stdout), error)
}

fn pid(runtime: &Runtime, container: &Limited<'_>) -> String {
    let state: serde_json::Value =
        serde_json::from_str(&runtime.text(container.path(), &["state", "limited"])).unwrap();
    state["pid"].to_string()
}

/// The words of a text, with the values that belong to one container replaced.
fn words(text: &str, runtime: &Runtime, container: &Limited<'_>) -> Vec<String> {
    let text =
        text.replace(container.path().to_str().unwrap(), "BUNDLE").replace(&pid(runtime, container), "PID");
    let word = |word: &str| {
        // Points in time, time that was used, and what ps(1) counts.
        let time = word.contains(':') && (word.contains('-') || matches!(word.len(), 5 | 8));
        let count = word.bytes().all(|byte| byte.is_ascii_digit());
        if time {
            "TIME"
        } else if count {
            "COUNT"
        } else {
            word
        }
        .to_owned()
    };
    text.split_whitespace().map(word).collect()
}

fn wait_for(runtime: &Runtime, container: &Limited<'_>, status: &str) {
    let start = Instant::now();
    while !runtime.text(container.path(), &["state", "limited"]).contains(status) {
        assert!(start.elapsed() < Duration::from_secs(10), "not {status}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn tables_are_runcs() {
    let palan = Runtime::palan();
    let Some(runc) = Runtime::runc() else { return };
    let containers = [Limited::of(&palan), Limited::of(&runc)];
    let both = |arguments: &[&str]| {
        [(&palan, &containers[0]), (&runc, &containers[1])].map(|(runtime, container)| {
            let (code, output, error) = said(runtime, container, arguments);
            assert!(!output.contains('\0'));
            (code, words(&output, runtime, container), error)
        })
    };
    for arguments in [
        &["list"][..],
        &["list", "-q"],
        &["list", "--format", "x"],
        &["ps", "limited"],
        &["ps", "limited", "-o", "pid,comm"],
        &["ps", "limited", "-o", "ppid,comm"],
        &["ps", "--format", "json", "limited"],
        &["ps", "--format", "x", "limited"],
        &["ps", "nobody"],
        &["kill", "limited", "NONSENSE"],
        &["kill", "nobody"],
        &["kill", "limited", "0"],
        &["resume", "limited"],
        &["pause", "limited"],
        &["list"],
        &["pause", "limited"],
        &["delete", "limited"],
        &["resume", "limited"],
        &["delete", "limited"],
        &["state", "nobody"],
    ] {
        let [ours, theirs] = both(arguments);
        assert_eq!(ours, theirs, "{arguments:?}");
    }
    // The spaces of the table are the same, too, when times have as many digits.
    let head = |runtime: &Runtime, container: &Limited<'_>| {
        let table = runtime.text(container.path(), &["list"]);
        let head = table.lines().next().unwrap().to_owned();
        let created = head.find("OWNER").unwrap() - head.find("CREATED").unwrap();
        let time = table.lines().nth(1).unwrap().split_whitespace().nth(4).unwrap().len();
        assert_eq!(created, time + 3);
        head[..head.find("OWNER").unwrap() - created].to_owned()
    };
    assert_eq!(head(&palan, &containers[0]), head(&runc, &containers[1]));
    let keys = |runtime: &Runtime, container: &Limited<'_>, arguments: &[&str]| -> Vec<String> {
        let text = runtime.text(container.path(), arguments);
        text.split('"')
            .skip(1)
            .step_by(2)
            .filter(|word| word.chars().all(char::is_alphabetic))
            .map(str::to_owned)
            .collect()
    };
    for arguments in [&["state", "limited"][..], &["list", "--format", "json"]] {
        assert_eq!(keys(&palan, &containers[0], arguments), keys(&runc, &containers[1], arguments));
    }
    // The end.
    for (runtime, container) in [(&palan, &containers[0]), (&runc, &containers[1])] {
        runtime.text(container.path(), &["kill", "limited", "KILL"]);
        wait_for(runtime, container, "stopped");
    }
    for arguments in [
        &["kill", "limited", "KILL"][..],
        &["kill", "limited", "0"],
        &["pause", "limited"],
        &["list"],
        &["delete", "limited"],
        &["delete", "limited"],
        &["delete", "--force", "limited"],
    ] {
        let [ours, theirs] =
            [(&palan, &containers[0]), (&runc, &containers[1])].map(|(runtime, container)| {
                let (code, output, error) = said(runtime, container, arguments);
                (code, output.split_whitespace().nth(7).map(str::to_owned), error)
            });
        assert_eq!(ours, theirs, "{arguments:?}");
    }
    for arguments in [&["list"][..], &["list", "--format", "json"]] {
        let [ours, theirs] = [(&palan, &containers[0]), (&runc, &containers[1])]
            .map(|(runtime, container)| said(runtime, container, arguments));
        assert_eq!(ours, theirs, "{arguments:?}");
    }
}

pub(crate) fn pausing_before_the_start() {
    let palan = Runtime::palan();
    let sandbox = bundle(&["sleep", "1000"]);
    let path = sandbox.directory.path();
    assert!(palan.call_detached(path, &["create", "created"]));
    let status = || palan.text(path, &["state", "created"]);
    palan.text(path, &["pause", "created"]);
    assert!(status().contains("paused"));
    assert!(!palan.call(path, &["start", "created"]).status.success());
    palan.text(path, &["resume", "created"]);
    assert!(status().contains("\"created\""));
    palan.text(path, &["start", "created"]);
    assert!(status().contains("running"));
    // Also what stands still can be killed and removed.
    palan.text(path, &["pause", "created"]);
    palan.text(path, &["kill", "created", "KILL"]);
    let start = Instant::now();
    while !status().contains("stopped") {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    palan.text(path, &["delete", "created"]);
    assert!(directories(&sandbox.cgroup).is_empty());
}

/// Without a PID namespace of its own nobody ends with the first process by itself.
pub(crate) fn leftovers_are_killed() {
    let palan = Runtime::palan();
    let mut sandbox = bundle(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    sandbox.linux().namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid);
    let path = sandbox.directory.path().to_owned();
    std::fs::write(path.join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap()).unwrap();
    let processes = || {
        let text = palan.text(&path, &["ps", "--format", "json", "shared"]);
        serde_json::from_str::<Option<Vec<i32>>>(&text).unwrap().unwrap_or_default().len()
    };
    let wait_for = |count: usize| {
        let start = Instant::now();
        while processes() != count {
            assert!(start.elapsed() < Duration::from_secs(10), "{} processes", processes());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let run = || {
        assert!(palan.call_detached(&path, &["run", "-d", "shared"]));
        wait_for(3);
    };
    // KILL is for all of them.
    run();
    palan.text(&path, &["kill", "shared", "KILL"]);
    wait_for(0);
    assert!(!palan.call(&path, &["kill", "shared", "KILL"]).status.success());
    palan.text(&path, &["kill", "--all", "shared", "KILL"]);
    palan.text(&path, &["delete", "shared"]);
    // Another signal for all: the shell's children go and it ends.
    run();
    palan.text(&path, &["kill", "--all", "shared", "TERM"]);
    wait_for(0);
    palan.text(&path, &["delete", "shared"]);
    // The first process alone is gone: `delete` takes the rest away.
    run();
    let state: serde_json::Value = serde_json::from_str(&palan.text(&path, &["state", "shared"])).unwrap();
    let first = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
    palan_linux::process::kill(first, palan_linux::signal::Signal::KILL).unwrap();
    wait_for(2);
    assert!(palan.text(&path, &["state", "shared"]).contains("stopped"));
    palan.text(&path, &["delete", "shared"]);
    assert!(directories(&sandbox.cgroup).is_empty());
    // What a creation that was killed leaves.
    let remains = palan.root().join("remains");
    std::fs::create_dir(&remains).unwrap();
    assert!(!palan.call(&path, &["delete", "remains"]).status.success());
    assert!(!remains.exists());
}
