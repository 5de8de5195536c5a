//! Exec sessions.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use palan_supervisor::journal::Event;
use palan_supervisor::protocol::{FailureKind, Framing, Reply, Request, TerminalSize};

use crate::support::{
    Container, all_streams, client_socket, command, exec_options, is_alive, retry, settled,
};

fn sleeping() -> Container {
    let mut container = command(&["sleep", "1000"]);
    container.start(vec![]);
    container
}

fn end(mut container: Container) {
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.exit();
    container.assert_clean_end();
}

#[test]
fn a_session_has_its_own_streams_and_exit_code() {
    let mut container = sleeping();
    let (socket, mut client) = client_socket();
    let mut options = exec_options("e1", &["sh", "-c", "cat; echo err >&2; exit 3"]);
    options.attach = Some(all_streams(Framing::Multiplexed));
    let reply = container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
    assert!(matches!(reply, Reply::ExecStarted { pid } if pid > 0));
    client.0.write_all(b"typed\n").unwrap();
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest_by_stream(), ("typed\n".into(), "err\n".into()));
    // The stream has ended, so the end is in the journal.
    container.request(Request::Sync, vec![]).unwrap();
    assert!(
        container
            .entries
            .iter()
            .any(|entry| matches!(&entry.event, Event::ExecExit { exec, code: 3, .. } if exec == "e1"))
    );
    assert_eq!(container.log("stdout"), "");
    end(container);
}

#[test]
fn a_session_without_client_runs_too() {
    let mut container = sleeping();
    container
        .request(Request::Exec(Box::new(exec_options("quiet", &["sh", "-c", "echo x; exit 4"]))), vec![])
        .unwrap();
    assert_eq!(container.exec_exit("quiet"), 4);
    assert_eq!(container.hello(u64::MAX).execs, []);
    end(container);
}

#[test]
fn a_session_with_terminal_is_resized_and_detached_from() {
    let mut container = sleeping();
    let (socket, mut client) = client_socket();
    let mut options = exec_options("tty", &["sh", "-c", "stty size; read line; stty size; sleep 1000"]);
    options.process.terminal = true;
    options.process.console_size =
        serde_json::from_value(serde_json::json!({ "height": 10, "width": 20 })).unwrap();
    let mut attach = all_streams(Framing::Raw);
    attach.detach_keys.0 = vec![1, 2, 3];
    options.attach = Some(attach);
    container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
    client.read_until("10 20");
    let size = TerminalSize { rows: 33, columns: 99 };
    container.request(Request::ExecResize { exec: "tty".into(), size }, vec![]).unwrap();
    client.0.write_all(b"\n").unwrap();
    client.read_until("33 99");
    client.0.write_all(&[1, 2]).unwrap();
    client.0.write_all(&[3]).unwrap();
    client.rest();
    let detach = container.event(|event| matches!(event, Event::Detach { .. }));
    assert_eq!(detach, Event::Detach { exec: Some("tty".into()) });
    let execs = container.hello(u64::MAX).execs;
    assert_eq!(execs.len(), 1);
    assert!(is_alive(execs[0].pid));
    container.request(Request::ExecSignal { exec: "tty".into(), signal: 9 }, vec![]).unwrap();
    assert_eq!(container.exec_exit("tty"), 137);
    end(container);
}

#[test]
fn what_can_not_be_executed_is_told_apart_and_leaves_the_client_to_the_daemon() {
    let mut container = sleeping();
    for (program, kind) in
        [("missing", FailureKind::NotFound), ("/etc/not-executable", FailureKind::NotExecutable)]
    {
        let (socket, mut client) = client_socket();
        let kept = socket.try_clone().unwrap();
        let mut options = exec_options(program, &[program]);
        options.attach = Some(all_streams(Framing::Multiplexed));
        let failure = container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        std::fs::File::from(kept).write_all(b"\x02\0\0\0\0\0\0\x01!").unwrap();
        assert_eq!(client.rest_by_stream(), (String::new(), "!".into()));
        let event = container.event(|event| matches!(event, Event::ExecFailed { .. }));
        assert!(matches!(event, Event::ExecFailed { exec, .. } if exec == program));
    }
    end(container);
}

#[test]
fn a_session_ends_although_its_child_keeps_its_output_open() {
    let mut container = sleeping();
    let (socket, mut client) = client_socket();
    let mut options = exec_options("parent", &["sh", "-c", "sleep 1000 & echo started"]);
    options.attach = Some(all_streams(Framing::Multiplexed));
    container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
    assert_eq!(client.rest_by_stream(), ("started\n".into(), String::new()));
    assert_eq!(container.exec_exit("parent"), 0);
    end(container);
}

#[test]
fn a_child_that_keeps_the_output_open_has_two_seconds() {
    let mut container = sleeping();
    let (socket, mut client) = client_socket();
    let mut options = exec_options("parent", &["sh", "-c", "(sleep 0.1; echo late; sleep 1000) & echo now"]);
    options.attach = Some(all_streams(Framing::Multiplexed));
    let begun = Instant::now();
    container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
    assert_eq!(client.rest_by_stream(), ("now\nlate\n".into(), String::new()));
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(container.exec_exit("parent"), 0);
    end(container);
}

#[test]
fn a_child_that_floods_after_its_sessions_end_is_held_back_by_a_slow_client() {
    let mut container = sleeping();
    let (socket, client) = client_socket();
    let mut options = exec_options("flood", &["sh", "-c", "yes & exit 0"]);
    options.attach = Some(all_streams(Framing::Raw));
    container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
    assert_eq!(container.exec_exit("flood"), 0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.supervisor.pid)).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < 16 * 1024, "{peak} KiB");
    drop(client);
    end(container);
}

#[test]
fn what_the_process_wrote_last_is_not_lost_by_a_slow_client() {
    let mut container = sleeping();
    let (socket, mut client) = client_socket();
    let mut options = exec_options("e", &["head", "-c", "1200000", "/dev/zero"]);
    options.attach = Some(all_streams(Framing::Raw));
    container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(client.rest().len(), 1_200_000);
    end(container);
}

#[test]
fn sessions_end_with_the_container_and_before_it() {
    let mut container = sleeping();
    container.request(Request::Exec(Box::new(exec_options("e", &["sleep", "1000"]))), vec![]).unwrap();
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.drain_connection();
    let ends: Vec<_> = container
        .entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::ExecExit { exec, code, .. } => Some((exec.clone(), *code)),
            Event::Exit { code, .. } => Some(("init".into(), *code)),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [("e".to_owned(), 137), ("init".to_owned(), 137)]);
    container.assert_clean_end();
}

#[test]
fn many_sessions_leave_nothing() {
    let mut container = sleeping();
    let descriptors = format!("/proc/{}/fd", container.supervisor.pid);
    let count = || std::fs::read_dir(&descriptors).unwrap().count();
    let mut exec = |name: &str| {
        let (socket, mut client) = client_socket();
        let mut options = exec_options(name, &["echo", "x"]);
        options.attach = Some(all_streams(Framing::Raw));
        container.request(Request::Exec(Box::new(options)), vec![socket]).unwrap();
        assert_eq!(client.rest(), b"x\n");
    };
    exec("first");
    // The watch over the memory begins a little after the start.
    let before = settled(count);
    for number in 0..30 {
        exec(&format!("e{number}"));
    }
    assert!(retry(|| count() == before), "{} instead of {before}", count());
    end(container);
}
