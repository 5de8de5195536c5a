//! `palan exec`: another process beside the first.

use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

#[test]
fn runs_beside_with_its_own_streams_and_code() {
    requires!(root);
    let daemon = daemon();
    daemon
        .palan(["run", "-d", "--name", "c", "-e", "FROM=run", "--network", "none", BUSYBOX, "sleep", "1000"])
        .ok();
    let run = daemon.palan(["exec", "c", "sh", "-c", "echo out; echo err >&2; exit 4"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.code), ("out\n", "err\n", 4), "{run}");
    let run = daemon.palan_with_input(["exec", "-i", "c", "cat"], b"through");
    assert_eq!(run.ok().stdout, "through");
    let run = daemon.palan([
        "exec",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "-u",
        "alice",
        "c",
        "sh",
        "-c",
        "echo $FROM $A $PWD $(id -u)",
    ]);
    assert_eq!(run.ok().line(), "run 1 /tmp 1000");
    daemon.palan(["exec", "c", "nosuch"]).fails(127, "executable file not found in $PATH");
    daemon.palan(["exec", "c", "/etc/passwd"]).fails(126, "permission denied");
    let caps = daemon.palan(["exec", "c", "grep", "-E", "Cap(Eff|Inh)|Seccomp:", "/proc/self/status"]).ok();
    assert_eq!(caps.stdout, "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n");
}

#[test]
fn needs_a_running_container() {
    requires!(root);
    let daemon = daemon();
    let id = daemon.palan(["create", "--name", "c", "--network", "none", BUSYBOX]).ok().line().to_owned();
    daemon.palan(["exec", "c", "true"]).fails(1, &format!("container {id} is not running"));
    daemon.palan(["exec", "nosuch", "true"]).fails(1, "No such container: nosuch");
}

#[test]
fn detached_and_many() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "c", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon.palan(["exec", "-d", "c", "sh", "-c", "echo here > /tmp/mark"]).ok();
    let appeared = palan_test_support::wait_until(std::time::Duration::from_secs(5), || {
        daemon.palan(["exec", "c", "cat", "/tmp/mark"]).stdout == "here\n"
    });
    assert!(appeared);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let daemon = &daemon;
            scope.spawn(move || {
                for round in 0..5 {
                    let text = format!("{number}-{round}");
                    assert_eq!(daemon.palan(["exec", "c", "echo", &text]).ok().line(), text);
                }
            });
        }
    });
}

/// CVE-2024-21626: a working directory outside of the container through a leaked descriptor.
#[test]
fn a_working_directory_outside_is_refused() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "c", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    for number in 3..24 {
        let directory = format!("/proc/self/fd/{number}");
        let run =
            daemon.palan(["exec", "-w", &directory, "c", "sh", "-c", "ls ../../../../etc/debian_version"]);
        assert_ne!(run.code, 0, "{run}");
        let run = daemon.palan([
            "run",
            "--rm",
            "--network",
            "none",
            "-w",
            &directory,
            BUSYBOX,
            "sh",
            "-c",
            "ls ../../../../etc/debian_version",
        ]);
        assert_ne!(run.code, 0, "{run}");
    }
}
