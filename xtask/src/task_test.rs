//! `cargo xtask test [FILTER]`: installs what the tests need from Debian, runs everything, ends with the counts.
//!
//! `cargo xtask test --vm [FILTER]`: runs end-to-end tests in the virtual machine of `cargo xtask vm`; without a filter those of
//! what not every kernel has (`tests/e2e/kernels.rs` and `checkpoint.rs`), which are left to it elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use crate::packages::Package;
use crate::process::{cargo, check, command, host_triple, output, root};
use crate::{Failure, packages, task_dist};

/// What the tests run beside our own programs.
const PACKAGES: &[Package] = &[
    ("busybox-static", "busybox"),
    ("bzip2", "bzip2"),
    ("btrfs-progs", "mkfs.btrfs"),
    ("criu", "criu"),
    ("dnsmasq-base", "dnsmasq"),
    ("docker-compose", "docker-compose"),
    ("docker-registry", "docker-registry"),
    ("docker.io", "dockerd"),
    ("e2fsprogs", "mkfs.ext4"),
    ("gcc", "cc"),
    ("git", "git"),
    ("iproute2", "ip"),
    ("iptables", "iptables-nft"),
    // Libraries show by their headers.
    ("libc6-dev", "/usr/include/stdio.h"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("mmdebstrap", "mmdebstrap"),
    ("nftables", "nft"),
    ("procps", "ps"),
    ("python3-venv", "python3"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("umoci", "umoci"),
    ("curl", "curl"),
    ("xz-utils", "xz"),
];

/// The unmodified Python client of the Engine API and what builds on it, as outside witnesses.
const PYTHON: [&str; 2] = ["docker==7.1.0", "testcontainers==4.15.0"];

/// Runs all tests, or those whose name contains the filter.
#[expect(clippy::print_stdout, reason = "tasks talk to the person at the terminal")]
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    packages::install(PACKAGES)?;
    if let Some((first, filters)) = arguments.split_first()
        && first == "--vm"
    {
        return run_in_vm(filters);
    }
    let python = python_client()?;
    let palan = task_dist::run()?;
    check(cargo().args(["build", "--locked", "--quiet", "--release", "--package", "palan-demo"]))?;
    let programs = root().join("target").join(host_triple()).join("release");
    let skips = root().join("target/skipped.txt");
    std::fs::remove_file(&skips).ok();

    let mut counts = Counts::default();
    let mut failures = Failures::default();
    let product = ["--workspace", "--exclude", "palan-tests"];
    for (packages, threads) in [(&product[..], "2"), (&["--package", "palan-tests"][..], "4")] {
        let mut tests = cargo();
        tests
            .args(["test", "--locked", "--no-fail-fast"])
            .args(packages)
            .arg("--")
            .args(arguments)
            .env("RUST_TEST_THREADS", threads)
            .env("PALAN_BIN", &palan)
            .env("PALAN_DEMO_PROGRAMS", &programs)
            .env("PALAN_TEST_PYTHON", &python)
            .env("PALAN_SKIP_LIST", &skips)
            .stdout(Stdio::piped());
        let mut child = tests.spawn()?;
        let stdout = child.stdout.take().ok_or("cargo has no standard output")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            counts.add(&line);
            failures.add(&line);
            println!("{line}");
        }
        counts.broken |= !child.wait()?.success();
    }

    let skipped = std::fs::read_to_string(&skips).unwrap_or_default();
    for line in skipped.lines() {
        println!("skipped: {line}");
    }
    for line in &failures.lines {
        println!("{line}");
    }
    std::io::stdout().flush()?;
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, skipped.lines().count());
    if counts.failed > 0 || counts.broken {
        return Err("the tests failed".into());
    }
    Ok(())
}

/// Everything is built here: an emulated processor is slow.
fn run_in_vm(filters: &[String]) -> Result<(), Failure> {
    let palan = task_dist::run()?;
    let build = ["test", "--locked", "--quiet", "--no-run", "--message-format", "json"];
    let told = output(cargo().args(build).args(["--package", "palan-tests", "--test", "e2e"]))?;
    let executable = told.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(str::to_owned)
    });
    let executable = executable.ok_or("cargo names no test program")?;
    let mut machine = command(std::env::current_exe()?);
    machine.args(["vm", "--timeout", "3600", "--", &executable]);
    if filters.is_empty() {
        machine.args(["kernels::", "checkpoint::"]);
    }
    check(machine.args(filters).env("PALAN_BIN", palan).env("RUST_TEST_THREADS", "1"))
}

/// What failed tests said, to be said again at the end: of a long output, often only that is kept.
#[derive(Default)]
struct Failures {
    lines: Vec<String>,
    /// So many more lines are of the same test.
    left: usize,
}

impl Failures {
    /// A panic, and what led to it; the rest of a backtrace says nothing new.
    const LINES_OF_ONE: usize = 40;

    /// Takes in a line; what a test said comes behind `---- its name stdout ----`.
    fn add(&mut self, line: &str) {
        if line.starts_with("---- ") && line.ends_with(" ----") {
            self.left = Self::LINES_OF_ONE;
        } else if line == "failures:" {
            self.left = 0;
        }
        if self.left > 0 {
            self.left -= 1;
            self.lines.push(line.to_owned());
        }
    }
}

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    broken: bool,
}

impl Counts {
    /// Takes in a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, numbers)) = line.split_once("test result: ") else { return };
        let number = |word: &str| -> u32 {
            numbers
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
                .unwrap_or_default()
        };
        self.passed += number("passed");
        self.failed += number("failed");
    }
}

/// A virtual environment with the packages of Python; returns its interpreter.
fn python_client() -> Result<PathBuf, Failure> {
    let environment = root().join("target/python");
    let python = environment.join("bin/python");
    if output(command(&python).args(["-c", "import docker, testcontainers"])).is_err() {
        std::fs::remove_dir_all(&environment).ok();
        check(command("python3").args(["-m", "venv"]).arg(&environment))?;
        check(command(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON))?;
    }
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_harness_prints() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test something ... ok");
        assert_eq!((counts.passed, counts.failed), (15, 2));
    }
}
