//! What a supervisor costs: the start of a container, the memory of twenty, the time and cpu time of much output.
//!
//! `cargo bench --package palan-supervisor --profile supervisor [-- SUBJECT]`, as root; subjects are `start`, `memory`
//! and `log`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench has nobody else to tell")]

use std::time::{Duration, Instant};

use palan_supervisor::protocol::LogConfig;

use crate::support::{Container, command};

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/container/support.rs"]
mod support;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` executes benches, too, but without this.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let subject = arguments.iter().find(|argument| !argument.starts_with("--"));
    let wanted = |name: &str| subject.is_none_or(|subject| subject == name);
    if wanted("start") {
        start();
    }
    if wanted("memory") {
        memory();
    }
    if wanted("log") {
        for length in [10, 30, 100, 1000] {
            log(length);
        }
    }
}

/// From the request to its reply.
fn start() {
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let mut container = command(&["true"]);
            let begun = Instant::now();
            container.start(vec![]);
            let time = begun.elapsed();
            container.exit();
            container.supervisor.wait();
            time
        })
        .collect();
    times.sort();
    println!("start: median {:?}, minimum {:?}", times[times.len() / 2], times[0]);
}

fn memory() {
    let containers: Vec<_> = (0..20)
        .map(|_| {
            let mut container = command(&["sleep", "1000"]);
            container.start(vec![]);
            container
        })
        .collect();
    std::thread::sleep(Duration::from_millis(2500));
    let mut sum = 0;
    for container in &containers {
        sum += pss(container);
    }
    println!("memory: {} KiB PSS, mean of {}", sum / containers.len(), containers.len());
}

fn pss(container: &Container) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", container.supervisor.pid)).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Lines of `length` bytes, as fast as they are taken.
fn log(length: usize) {
    const BYTES: usize = 64 << 20;
    const ROUNDS: usize = 3;
    let line = [vec![b'x'; length - 1], vec![b'\n']].concat();
    let text = line.repeat(BYTES / length);
    let mut best: Option<(Duration, Duration)> = None;
    for _ in 0..ROUNDS {
        let mut container = command(&["cat", "/tmp/text"]);
        std::fs::write(container.rootfs().join("tmp/text"), &text).unwrap();
        if let LogConfig::JsonFile { max_size, max_files, .. } = &mut container.config.log {
            (*max_size, *max_files) = (Some(100_000_000), 2);
        }
        let begun = Instant::now();
        container.start(vec![]);
        container.exit();
        let time = begun.elapsed();
        let cpu = container.supervisor.cpu_time();
        if best.is_none_or(|(least, _)| time < least) {
            best = Some((time, cpu));
        }
        container.supervisor.wait();
    }
    let (time, cpu) = best.unwrap();
    let rate = text.len() as f64 / 1e6 / time.as_secs_f64();
    println!("log, lines of {length} bytes: {rate:.0} MB/s in; {time:.0?}, cpu {cpu:.0?}");
}
