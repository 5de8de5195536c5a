//! The terminal of a container, and what is shown as /dev/console.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use palan_test_support::bundle::Bundle;
use palan_test_support::daemon::{Run, finish};
use palan_test_support::race::Exchange;
use palan_test_support::requires;
use serde_json::json;

use crate::host::Target;

/// Runs the container on a terminal: that of `script`, which every Debian has.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a program of the host that makes a terminal")]
fn run_on_terminal(bundle: &Bundle) -> Run {
    std::fs::write(bundle.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let mut words = vec![];
    let command = bundle.command();
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        words.push(format!("'{}'", word.to_str().unwrap()));
    }
    words.push(format!("run {}", bundle.id()));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(bundle.path());
    let mut run = finish(&mut script, None);
    // `script` passes the end of its input on, which is echoed.
    run.stdout = run.stdout.replace(['\r', '\0'], "").replace("^@", "");
    run
}

fn with_terminal(script: &str) -> Bundle {
    let mut bundle = Bundle::script(script);
    bundle.spec["process"]["terminal"] = json!(true);
    bundle
}

/// CVE-2025-52565 (runc): what is bound over /dev/console is found by its path, where an image has a link of its own.
#[test]
fn the_console_is_not_a_file_of_the_attackers() {
    requires!(root);
    requires!(program "script");
    let target = Target::new();
    for way in [target.path().join("console"), "/proc/sys/kernel/ostype".into()] {
        let mut bundle = with_terminal("stat -L -c %t /dev/console; echo written > /dev/console");
        bundle.unmount("/dev");
        bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]);
        let dev = bundle.rootfs().join("dev");
        std::fs::create_dir(dev.join("pts")).unwrap();
        symlink(&way, dev.join("console")).unwrap();
        let run = run_on_terminal(&bundle);
        target.is_untouched();
        // The kernel's number of pseudo-terminals is 136, 88 in its own writing.
        let is_terminal = run.stdout.contains("88\n") && run.stdout.contains("written");
        assert!(run.code != 0 || is_terminal, "{run}");
    }
}

/// CVE-2025-52565 (runc): the terminal's own node, or the console's, is exchanged for a link to a file in /proc, which then
/// lies open to be written to.
#[test]
fn the_console_is_not_bound_from_a_path_that_changes() {
    requires!(root);
    requires!(program "script");
    let target = Target::new();
    let mut bundle =
        with_terminal("stat -L -c %t /dev/console; grep -c ' /dev/console ' /proc/self/mountinfo");
    bundle.unmount("/dev");
    bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]);
    let dev = bundle.rootfs().join("dev");
    for name in ["pts", "fake"] {
        std::fs::create_dir(dev.join(name)).unwrap();
    }
    // A directory in which every number is a link to the host's file.
    for number in 0..4 {
        symlink(target.path().join("console"), dev.join(format!("fake/{number}"))).unwrap();
    }
    std::fs::write(dev.join("console"), "").unwrap();
    let exchange = Exchange::start(&dev.join("pts"), &dev.join("fake"));
    let end = Instant::now() + Duration::from_secs(8);
    let mut ran = 0;
    while Instant::now() < end {
        let run = run_on_terminal(&bundle);
        target.is_untouched();
        if run.code == 0 {
            ran += 1;
            assert!(run.stdout.starts_with("88\n"), "container {ran}: {run}");
        }
    }
    assert!(exchange.count() > 1000 && ran > 0, "{} exchanges, {ran} containers", exchange.count());
}
