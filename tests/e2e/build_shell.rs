//! `palan build --on-error=shell`: a shell in the files of the step that failed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{daemon, sh};
use crate::tty::Terminal;

fn context(daemon: &Daemon, dockerfile: &str) -> PathBuf {
    let directory = daemon.scratch().join("context");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
    directory
}

/// Nothing of a build; the rest is looked for when the daemon is dropped.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    let names = |path: PathBuf| {
        let found = fs::read_dir(&path).into_iter().flatten();
        let found = found.map(|entry| entry.unwrap().path().display().to_string());
        found.filter(|path| !path.ends_with("/.trash")).collect::<Vec<String>>()
    };
    let (data, run) = (daemon.data_root().to_owned(), daemon.run_root().to_owned());
    let left = || {
        [names(data.join("build/work")), names(data.join("containers")), names(run.join("containers"))]
            .concat()
    };
    assert!(wait_until(PATIENCE, || left().is_empty()), "left of a build: {:?}", left());
}

#[test]
fn a_shell_is_where_the_step_failed_and_changes_nothing_of_the_end() {
    requires!(root);
    requires!(program "tmux");
    let daemon = daemon();
    let dockerfile = "FROM bb\nRUN ln -s busybox /bin/ash\nENV WORD=said\nWORKDIR /here\nUSER 7:8\nSHELL [\"/bin/ash\", \"-c\"]\n\
                      RUN --mount=type=cache,target=/cache,mode=0777 --mount=type=tmpfs,target=/memory \
                      echo made > /cache/x; echo made > /tmp/made; exit 7\n";
    let context = context(&daemon, dockerfile);
    let terminal = Terminal::open(&daemon);
    terminal.type_line(&format!("palan build --on-error=shell --network none {}", context.display()));
    terminal.shows("Exit code 7: /bin/ash -c");
    terminal.shows("This is /bin/ash in its files");
    terminal.type_line("PS1='in> '");
    terminal.type_line(
        "echo $WORD $(pwd) $(id -u):$(id -g) $(cat /tmp/made /cache/x) $$; stty size; ls -d /sys/class/net/*",
    );
    terminal.shows("said /here 7:8 made made 1");
    terminal.shows("30 90");
    terminal.tmux(&["resize-window", "-x", "100", "-y", "40"]);
    let resized = wait_until(PATIENCE, || {
        terminal.type_line("stty size");
        std::thread::sleep(Duration::from_millis(300));
        terminal.screen().contains("40 100")
    });
    assert!(resized, "{}", terminal.screen());
    // Ctrl-C is the shell's.
    terminal.type_line("sh -c 'echo go$((1+1)); exec sleep 1000'");
    terminal.shows("go2");
    terminal.keys(&["C-c"]);
    terminal.type_line("echo code $?");
    terminal.shows("code 130");
    terminal.type_line("exit 3");
    terminal.shows("did not complete successfully: exit code: 7");
    terminal.back_at_the_host();
    terminal.shows("code=1");
    terminal.type_line("stty -a | grep -o -- '-\\?icanon'");
    terminal.shows("\nicanon");
    nothing_is_left(&daemon);
    // What was not there fails as it does without.
    fs::write(context.join("Dockerfile"), "FROM bb\nSHELL [\"/nothing\", \"-c\"]\nRUN [\"false\"]\n")
        .unwrap();
    terminal.type_line(&format!("clear; palan build --on-error=shell --network none {}", context.display()));
    terminal.shows("cannot open /nothing: ");
    terminal.back_at_the_host();
    nothing_is_left(&daemon);
    daemon
        .palan(["build", "--on-error=shell", &context.display().to_string()])
        .fails(1, "--on-error=shell needs a terminal");
}

#[test]
fn a_client_that_goes_leaves_no_shell() {
    requires!(root);
    requires!(program "tmux");
    let daemon = daemon();
    let context = context(&daemon, "FROM bb\nRUN exit 7\n");
    let terminal = Terminal::open(&daemon);
    terminal.type_line(&format!("palan build --on-error=shell --network none {}", context.display()));
    terminal.shows("This is /bin/sh in its files");
    terminal.type_line("trap '' HUP TERM; echo trapped $((1 + 1))");
    terminal.shows("trapped 2");
    // The terminal hangs up, and with it the client is gone.
    drop(terminal);
    nothing_is_left(&daemon);
    assert_eq!(sh(&daemon, &[], "echo alive"), "alive");
}
