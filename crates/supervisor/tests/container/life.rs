//! From start to exit.

use std::time::{Duration, Instant};

use palan_supervisor::client;
use palan_supervisor::journal::Event;
use palan_supervisor::protocol::{FailureKind, LogConfig, Request, State};

use crate::support::{
    PATIENCE, all_streams, client_socket, command, container, exec_options, is_alive, retry, settled,
};

#[test]
fn a_container_runs_and_its_exit_code_and_log_are_kept() {
    let mut container = container("echo out; echo err >&2; exit 7");
    let pid = container.start(vec![]);
    assert!(pid > 0);
    assert_eq!(
        container.exit(),
        Event::Exit { code: 7, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
    assert_eq!((container.log("stdout").as_str(), container.log("stderr").as_str()), ("out\n", "err\n"));
    let events: Vec<_> = client::read_journal(&container.run_dir(), 0)
        .unwrap()
        .into_iter()
        .map(|entry| (entry.seq, entry.event))
        .collect();
    assert_eq!(
        events,
        [
            (1, Event::Start { pid }),
            (2, Event::Exit { code: 7, signal: None, oom: false, restart_in_ms: None, by_daemon: false })
        ]
    );
}

#[test]
fn journal_numbers_go_on_after_what_the_daemon_has_committed() {
    let mut container = command(&["true"]);
    container.config.journal_after = 41;
    container.start(vec![]);
    container.exit();
    container.assert_clean_end();
    let seqs: Vec<_> =
        client::read_journal(&container.run_dir(), 42).unwrap().iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [43]);
}

#[test]
fn a_program_that_can_not_be_executed_is_told_apart() {
    for (program, kind) in [
        ("missing", FailureKind::NotFound),
        ("/bin/missing", FailureKind::NotFound),
        ("/etc", FailureKind::NotExecutable),
        ("/etc/not-executable", FailureKind::NotExecutable),
    ] {
        let mut container = command(&[program]);
        let (socket, mut client) = client_socket();
        let failure =
            container.try_start(vec![(socket, all_streams(Default::default()))], vec![]).unwrap_err();
        assert_eq!(failure.kind, kind, "{program}: {failure}");
        assert!(failure.message.contains(program), "{failure}");
        assert_eq!(client.rest(), b"");
        let event = container.event(|event| matches!(event, Event::StartFailed { .. }));
        assert_eq!(event, Event::StartFailed { kind, message: failure.message });
        container.assert_clean_end();
    }
}

#[test]
fn stop_signals_and_then_kills() {
    let mut container = container("trap '' TERM; echo ready; while :; do sleep 1; done");
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    client.read_until("ready");
    let begun = Instant::now();
    container.request(Request::Stop { signal: 15, timeout_ms: Some(300) }, vec![]).unwrap();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 137, signal: Some(9), oom: false, restart_in_ms: None, by_daemon: false }
    );
    assert!(begun.elapsed() >= Duration::from_millis(300));
    container.assert_clean_end();
}

#[test]
fn stop_ends_a_container_that_listens_to_it() {
    let mut container = container("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    client.read_until("ready");
    container.request(Request::Stop { signal: 15, timeout_ms: None }, vec![]).unwrap();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 3, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

#[test]
fn a_supervisor_that_is_told_to_end_stops_its_container() {
    let mut container = container("trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done");
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    client.read_until("ready");
    palan_linux::process::send_signal(&container.supervisor.pidfd, palan_linux::signal::Signal::TERM)
        .unwrap();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 4, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

#[test]
fn a_paused_container_stands_still_and_can_be_stopped() {
    let mut container =
        container("trap 'exit 5' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done");
    let pid = container.start(vec![]);
    assert!(retry(|| container.log("stdout").len() > 4));
    container.request(Request::Pause, vec![]).unwrap();
    assert_eq!(container.hello(u64::MAX).state, State::Paused { pid });
    // A line may have been in the pipe.
    let before = settled(|| container.log("stdout"));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(container.log("stdout"), before);
    let twice = container.request(Request::Pause, vec![]).unwrap_err();
    assert_eq!(twice.kind, FailureKind::WrongState);
    let exec = container.request(Request::Exec(Box::new(exec_options("e", &["true"]))), vec![]).unwrap_err();
    assert_eq!(exec.kind, FailureKind::WrongState);
    container.request(Request::Resume, vec![]).unwrap();
    assert!(retry(|| container.log("stdout").len() > before.len() + 4));
    container.request(Request::Pause, vec![]).unwrap();
    container.request(Request::Stop { signal: 15, timeout_ms: Some(60_000) }, vec![]).unwrap();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 5, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

#[test]
fn requests_that_make_no_sense_are_refused_and_change_nothing() {
    let mut container = container("read line; exit 6");
    container.config.open_stdin = true;
    let refused = |container: &mut crate::support::Container, request, kind| {
        let failure = container.request(request, vec![]).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
    };
    refused(&mut container, Request::Signal { signal: 9 }, FailureKind::WrongState);
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    refused(&mut container, Request::Signal { signal: 99 }, FailureKind::Invalid);
    refused(&mut container, Request::Resume, FailureKind::WrongState);
    refused(&mut container, Request::Attach(Default::default()), FailureKind::Invalid);
    refused(&mut container, Request::ExecSignal { exec: "no".into(), signal: 9 }, FailureKind::NoSuchExec);
    let size = palan_supervisor::protocol::TerminalSize { rows: 1, columns: 1 };
    refused(&mut container, Request::Resize(size), FailureKind::Invalid);
    let again = container.try_start(vec![], vec![]).unwrap_err();
    assert_eq!(again.kind, FailureKind::WrongState);
    std::io::Write::write_all(&mut client.0, b"\n").unwrap();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 6, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

fn limited_to_16_megabytes(script: &str) -> crate::support::Container {
    let mut container = container(script);
    let mut linux = container.config.spec.linux.take().unwrap();
    let resources = serde_json::json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    linux.resources = serde_json::from_value(resources).unwrap();
    container.config.spec.linux = Some(linux);
    container
}

#[test]
fn a_container_that_runs_out_of_memory_is_told_so() {
    let mut container = limited_to_16_megabytes("dd if=/dev/zero of=/dev/null bs=200M count=1; exit 1");
    container.start(vec![]);
    let exit = container.exit();
    assert!(matches!(exit, Event::Exit { oom: true, .. }), "{exit:?}");
    assert!(container.entries.iter().any(|entry| entry.event == Event::Oom));
    container.assert_clean_end();
}

#[test]
fn kills_for_lack_of_memory_are_told_when_they_happen() {
    let mut container =
        limited_to_16_megabytes("while read line; do dd if=/dev/zero of=/dev/null bs=200M count=1; done");
    container.config.open_stdin = true;
    let (socket, mut client) = client_socket();
    let pid = container.start(vec![(socket, all_streams(Default::default()))]);
    for _ in 0..2 {
        std::io::Write::write_all(&mut client.0, b"\n").unwrap();
        client.read_until("Killed");
        assert_eq!(container.event(|event| *event == Event::Oom), Event::Oom);
        assert!(is_alive(pid));
        // Kills in quick succession are told once.
        std::thread::sleep(Duration::from_millis(1100));
    }
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 137, signal: Some(9), oom: true, restart_in_ms: None, by_daemon: false }
    );
    assert!(!container.entries.iter().any(|entry| entry.event == Event::Oom));
    container.assert_clean_end();
}

/// A journal in a small file system must not be filled by a container that does nothing but die.
#[test]
fn a_storm_of_kills_for_lack_of_memory_is_told_in_few_entries() {
    let mut container = limited_to_16_megabytes(
        "i=0; while [ $i -lt 40 ]; do dd if=/dev/zero of=/dev/null bs=200M count=1; i=$((i+1)); done; exit 3",
    );
    let begun = Instant::now();
    container.start(vec![]);
    assert_eq!(
        container.exit(),
        Event::Exit { code: 3, signal: None, oom: true, restart_in_ms: None, by_daemon: false }
    );
    let allowed = 3 + begun.elapsed().as_secs();
    let told = container.entries.iter().filter(|entry| entry.event == Event::Oom).count();
    assert!((1..=allowed).contains(&(told as u64)), "{told} of {allowed}");
    container.assert_clean_end();
}

#[test]
fn the_container_dies_with_its_supervisor() {
    let mut container = command(&["sleep", "1000"]);
    let pid = container.start(vec![]);
    assert!(is_alive(pid));
    container.supervisor.kill();
    container.supervisor.wait();
    assert!(retry(|| !is_alive(pid)));
}

/// CVE-2019-5736: a handle on `/proc/<pid>/exe` may be kept until the program is no longer busy, and then be written to.
#[test]
fn the_program_can_not_be_overwritten_through_its_process() {
    let mut container = command(&["sleep", "1000"]);
    container.start(vec![]);
    let path = format!("/proc/{}/exe", container.supervisor.pid);
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let handle = rustix::fs::open(path.as_str(), flags, rustix::fs::Mode::empty()).unwrap();
    let mount = rustix::fs::fstatvfs(&handle).unwrap();
    assert!(mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

#[test]
fn a_log_that_can_not_be_written_stops_nothing_and_is_told() {
    let mut container = command(&["seq", "1", "1000"]);
    container.config.log = LogConfig::JsonFile {
        path: "/dev/full".into(),
        max_size: None,
        max_files: 1,
        attributes: None,
        compressed: false,
    };
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    assert!(client.rest().ends_with(b"\n1000\n"));
    let lost = container.event(|event| matches!(event, Event::LogLost { .. }));
    assert!(matches!(lost, Event::LogLost { lines: 1000, .. }), "{lost:?}");
    assert_eq!(
        container.exit(),
        Event::Exit { code: 0, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

#[test]
fn a_supervisor_whose_daemon_dies_before_the_start_leaves_nothing() {
    let mut container = command(&["true"]);
    container.lose_daemon();
    container.assert_clean_end();
    assert_eq!(client::read_journal(&container.run_dir(), 0).unwrap(), []);
}

#[test]
fn the_next_run_may_begin_while_a_client_still_reads_the_last() {
    let mut container = command(&["seq", "1", "100000"]);
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    // The client's own buffer takes half of it at most: the process ends, the supervisor has to stay.
    container.exit();
    let mut old = container.respawn();
    container.config.spec.process.as_mut().unwrap().args = vec!["sleep".into(), "1000".into()];
    let pid = container.start(vec![]);
    let welcome = container.reconnect(0);
    assert_eq!((welcome.state, welcome.last_seq), (State::Running { pid }, 3));
    assert!(is_alive(old.pid));
    assert!(client.rest().ends_with(b"\n100000\n"));
    assert_eq!(old.wait(), palan_linux::process::ExitStatus::Exited(0));
    assert!(is_alive(pid));
    container.reconnect(0);
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.event(|event| matches!(event, Event::Exit { code: 137, .. }));
    container.assert_clean_end();
}

#[test]
fn a_supervisor_that_is_told_to_end_waits_for_no_client() {
    let mut container = command(&["seq", "1", "100000"]);
    let (socket, _client) = client_socket();
    container.start(vec![(socket, all_streams(Default::default()))]);
    container.exit();
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_alive(container.supervisor.pid));
    palan_linux::process::send_signal(&container.supervisor.pidfd, palan_linux::signal::Signal::TERM)
        .unwrap();
    container.assert_clean_end();
}

#[test]
fn an_idle_supervisor_is_small_and_in_its_own_cgroup() {
    let mut container = command(&["sleep", "1000"]);
    container.start(vec![]);
    std::thread::sleep(Duration::from_millis(1500));
    let groups = || std::fs::read_to_string(format!("/proc/{}/cgroup", container.supervisor.pid)).unwrap();
    assert!(retry(|| groups().lines().any(|line| line.ends_with("/supervisors"))), "{}", groups());
    let begun = Instant::now();
    container.request(Request::Sync, vec![]).unwrap();
    assert!(begun.elapsed() < PATIENCE);
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", container.supervisor.pid)).unwrap();
    // The heap and the stack; how much of the program counts depends on how many share it.
    let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let anonymous: u64 = anonymous.split_whitespace().next().unwrap().parse().unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", container.supervisor.pid)).unwrap();
    let stack = maps.split("[stack]").nth(1).unwrap();
    let stack = stack.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let stack: u64 = stack.split_whitespace().next().unwrap().parse().unwrap();
    assert!(stack <= 128, "{stack} KiB of stack");
    // A debug build, with the relocations of all that is in it; the budget for the whole in a release build is checked by
    // `cargo xtask bench`.
    assert!(anonymous < 768, "{rollup}");
}
