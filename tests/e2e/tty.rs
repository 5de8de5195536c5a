//! Terminals, seen as a person sees them: `palan run -it` inside of tmux, with keys typed and the screen read.

use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, daemon};

/// A tmux server of one's own with one window, in which a shell runs.
pub(crate) struct Terminal {
    socket: String,
}

impl Terminal {
    pub(crate) fn open(daemon: &Daemon) -> Self {
        let socket = daemon.scratch().join("tmux").display().to_string();
        let terminal = Self { socket };
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "90",
            "-y",
            "30",
            "env PS1='host$ ' sh",
        ]);
        terminal.type_line(&format!("export PALAN_HOST={}", daemon.host()));
        terminal.type_line(&format!("alias palan={}", palan_test_support::daemon::program().display()));
        terminal.type_line("clear");
        terminal
    }

    #[expect(clippy::disallowed_methods, reason = "a person's terminal")]
    pub(crate) fn tmux(&self, arguments: &[&str]) -> String {
        let output =
            std::process::Command::new("tmux").args(["-S", &self.socket]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn type_line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.tmux(&["send-keys", "Enter"]);
    }

    pub(crate) fn keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        self.tmux(&arguments);
    }

    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Asks for the size until it is this one: nothing tells when a new one has arrived.
    #[track_caller]
    pub(crate) fn has_size(&self, size: &str) {
        let has = wait_until(Duration::from_secs(20), || {
            self.type_line("stty size");
            std::thread::sleep(Duration::from_millis(300));
            self.screen().contains(size)
        });
        assert!(has, "the size is not {size}:\n{}", self.screen());
    }

    /// Has the shell run `sleep 1000`, after a word that the screen does not show yet.
    #[track_caller]
    pub(crate) fn sleeps_after(&self, word: &str) {
        let (first, rest) = word.split_at(1);
        self.type_line(&format!("echo {first}''{rest}; sleep 1000"));
        self.shows(word);
        std::thread::sleep(Duration::from_millis(300));
    }

    /// Waits until the shell of the host has the terminal again, and prints the code of the command before.
    #[track_caller]
    pub(crate) fn back_at_the_host(&self) {
        let back = wait_until(PATIENCE, || {
            let screen = self.screen();
            screen.trim_end().lines().last().is_some_and(|line| line.trim_end().ends_with("host$"))
        });
        assert!(back, "the host's prompt is not the last line:\n{}", self.screen());
        self.type_line("echo code=$?");
        self.shows("\ncode=");
    }

    #[track_caller]
    pub(crate) fn shows(&self, text: &str) {
        let shown = wait_until(PATIENCE, || self.screen().contains(text));
        assert!(shown, "the screen does not show {text:?}:\n{}", self.screen());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn an_interrupted_password_gives_the_echo_back() {
    requires!(root);
    requires!(program "tmux");
    let daemon = daemon();
    let terminal = Terminal::open(&daemon);
    terminal.type_line("palan login 127.0.0.1:1");
    terminal.shows("Username:");
    terminal.type_line("bob");
    terminal.shows("Password:");
    terminal.keys(&["C-c"]);
    terminal.back_at_the_host();
    terminal.shows("echo code=$?\ncode=130\n");
}

#[test]
fn size_resize_interrupt_job_control_and_exit_code() {
    requires!(root);
    requires!(program "tmux");
    let daemon = daemon();
    let terminal = Terminal::open(&daemon);
    terminal.type_line(&format!("palan run -it --rm --name tt --network none -e PS1='in> ' {BUSYBOX}"));
    terminal.shows("\nin>");
    terminal.type_line("tty; stty size");
    terminal.shows("/dev/pts/0");
    terminal.shows("30 90");
    terminal.tmux(&["resize-window", "-x", "100", "-y", "40"]);
    terminal.has_size("40 100");
    terminal.sleeps_after("once");
    terminal.keys(&["C-c"]);
    terminal.type_line("echo code $?");
    terminal.shows("code 130");
    terminal.sleeps_after("twice");
    terminal.keys(&["C-z"]);
    terminal.shows("Stopped");
    terminal.type_line("kill -9 %1; sleep 0.2; echo gone");
    terminal.shows("gone");
    terminal.type_line("exit 23");
    terminal.back_at_the_host();
    terminal.shows("code=23");
    terminal.type_line("stty -a | grep -o -- '-\\?icanon'");
    terminal.shows("\nicanon");
    assert!(!terminal.screen().contains("-icanon"), "the terminal stays raw:\n{}", terminal.screen());
}

#[test]
fn detach_attach_and_exec() {
    requires!(root);
    requires!(program "tmux");
    let daemon = daemon();
    let terminal = Terminal::open(&daemon);
    terminal.type_line(&format!("palan run -it --name dd --network none -e PS1='in> ' {BUSYBOX}"));
    terminal.shows("\nin>");
    terminal.keys(&["C-p", "C-q"]);
    terminal.back_at_the_host();
    assert_eq!(daemon.palan(["ps", "--format", "{{.Names}}"]).ok().line(), "dd");
    terminal.type_line("clear; palan exec -it dd sh -c 'tty; stty size; exit 3'; echo code=$?");
    terminal.shows("/dev/pts/1");
    terminal.shows("30 90");
    terminal.shows("code=3");
    terminal.type_line("clear; palan attach --detach-keys ctrl-x,x dd");
    std::thread::sleep(Duration::from_millis(300));
    terminal.keys(&["Enter"]);
    terminal.shows("\nin>");
    terminal.keys(&["C-x", "x"]);
    terminal.shows("read escape sequence");
    terminal.type_line("clear; palan attach dd");
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_line("exit 9");
    terminal.back_at_the_host();
    terminal.shows("code=9");
}

#[test]
fn an_interrupt_without_a_terminal_reaches_the_container() {
    requires!(root);
    let daemon = daemon();
    let script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done";
    let mut command = daemon.command();
    command.args(["run", "--rm", "--name", "ss", "--network", "none", BUSYBOX, "sh", "-c", script]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

#[test]
fn a_terminal_is_demanded_where_there_is_none() {
    requires!(root);
    let daemon = daemon();
    let run = daemon.palan(["run", "-it", "--rm", "--network", "none", BUSYBOX, "true"]);
    run.fails(1, "the input device is not a TTY");
    let run = daemon.palan(["run", "-t", "--rm", "--network", "none", BUSYBOX, "sh", "-c", "tty"]);
    assert_eq!(run.ok().stdout, "/dev/pts/0\r\n");
}
