//! `events`, beside runc where that is installed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cli::Runtime;
use super::update::Limited;

/// The value without its numbers, lists by their first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(elements) => Value::Array(elements.iter().take(1).map(shape).collect()),
        Value::Number(_) => Value::from("number"),
        other => other.clone(),
    }
}

fn stats(container: &Limited<'_>, runtime: &Runtime) -> Value {
    let text = runtime.text(container.path(), &["events", "--stats", "limited"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// What `events` says about a container, which goes on by `/tmp/go` once it is watched.
fn events(container: &Limited<'_>, runtime: &Runtime) -> String {
    let mut command = runtime.command(container.path(), &["events", "--interval", "100ms", "limited"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    std::fs::write(container.sandbox.rootfs().join("tmp/go"), "").unwrap();
    output.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    text
}

pub(crate) fn same_statistics_as_runc() {
    let palan = Runtime::palan();
    let Some(runc) = Runtime::runc() else { return };
    // What the figures are about has happened: time in both modes, and being held back.
    let script = "dd if=/dev/zero of=/dev/null bs=1 count=300000 2> /dev/null; sleep 1000";
    let containers = [&palan, &runc].map(|runtime| Limited::running(runtime, &["sh", "-c", script]));
    let total = |stats: &Value| stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let [ours, theirs] = loop {
        std::thread::sleep(Duration::from_millis(800));
        let figures = [stats(&containers[0], &palan), stats(&containers[1], &runc)];
        if figures.iter().all(|stats| total(stats) > 10_000_000) {
            break figures;
        }
        assert!(Instant::now() < deadline, "{figures:?}");
    };
    let (mut our_shape, mut their_shape) = (shape(&ours), shape(&theirs));
    // On v1 we join no cpuset and no hugetlb without a need; newer versions of runc and kernels show pressure; zero is
    // not shown.
    for shape in [&mut our_shape, &mut their_shape] {
        let data = &mut shape["data"];
        for list in ["cpus", "mems"] {
            data["cpuset"].as_object_mut().unwrap().remove(list);
        }
        for part in ["cpu", "memory", "blkio"] {
            data[part].as_object_mut().unwrap().remove("psi");
        }
        for kind in ["usage", "swap", "kernel", "kernelTCP"] {
            data["memory"][kind].as_object_mut().unwrap().retain(|name, _| name != "usage" && name != "max");
        }
        data["memory"].as_object_mut().unwrap().remove("cache");
        data["cpu"]["throttling"] = Value::Null;
        data["blkio"] = Value::Null;
        if super::update::value("/", "cgroup.controllers").is_none()
            || super::update::value("/", "tasks").is_some()
        {
            data["hugetlb"] = Value::Null;
        }
    }
    assert_eq!(our_shape, their_shape);
    for limit in ["/data/memory/usage/limit", "/data/memory/swap/limit", "/data/pids/limit"] {
        assert_eq!(ours.pointer(limit), theirs.pointer(limit), "{limit}");
    }
}

pub(crate) fn events_end_with_the_container() {
    let palan = Runtime::palan();
    // A child is killed for its hunger, then the first process goes by itself.
    let script = "while ! test -e /tmp/go; do sleep 0.05; done; \
                  dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 2";
    let container = Limited::running(&palan, &["sh", "-c", script]);
    let text = events(&container, &palan);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    // v1 may tell once more before the memory is free again.
    assert!((1..=2).contains(&count("oom")), "{text}");
    assert!(count("stats") >= 5, "{text}");
    assert_eq!(count("oom") + count("stats"), events.len());
    assert!(events.iter().all(|event| event["id"] == "limited"));
    let output = palan.call(container.path(), &["events", "limited"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("container with id limited is not running"), "{said}");
}

pub(crate) fn the_last_event_is_what_killed_it() {
    let palan = Runtime::palan();
    let script = "while ! test -e /tmp/go; do sleep 0.05; done; \
                  exec dd if=/dev/zero of=/dev/null bs=200M count=1";
    let container = Limited::running(&palan, &["sh", "-c", script]);
    let text = events(&container, &palan);
    let mut others = text.lines().filter(|line| !line.starts_with("{\"type\":\"stats\","));
    assert_eq!(others.next(), Some("{\"type\":\"oom\",\"id\":\"limited\"}"), "{text}");
    for bad in ["0", "-1s", "1", "x"] {
        let output = palan.call(container.path(), &["events", "--interval", bad, "limited"]);
        assert!(!output.status.success(), "{bad}");
    }
}
