//! Output, input, terminals and logs.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use palan_supervisor::journal::Event;
use palan_supervisor::protocol::{AttachOptions, Bytes, Framing, LogConfig, Request, TerminalSize};

use crate::support::{all_streams, client_socket, command, container, is_alive};

#[test]
fn an_attached_client_gets_both_streams_from_the_first_byte_to_the_end() {
    let mut container = container("echo out; echo err >&2; echo more");
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Framing::Multiplexed))]);
    assert_eq!(client.rest_by_stream(), ("out\nmore\n".into(), "err\n".into()));
    container.exit();
    container.assert_clean_end();
}

#[test]
fn stdin_flows_from_what_was_buffered_to_the_half_close() {
    let mut container = command(&["cat"]);
    (container.config.open_stdin, container.config.stdin_once) = (true, true);
    let (socket, mut client) = client_socket();
    let options = AttachOptions { buffered: Bytes(b"hel".to_vec()), ..all_streams(Framing::Multiplexed) };
    container.start(vec![(socket, options)]);
    client.0.write_all(b"lo\n").unwrap();
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest_by_stream(), ("hello\n".into(), String::new()));
    assert_eq!(
        container.exit(),
        Event::Exit { code: 0, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

#[test]
fn a_megabyte_goes_in_and_comes_out() {
    let mut container = command(&["cat"]);
    (container.config.open_stdin, container.config.stdin_once) = (true, true);
    container.config.log = LogConfig::None;
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Framing::Raw))]);
    let data: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = client.0.try_clone().unwrap();
    let to_write = data.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(&to_write).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(client.rest() == data);
    thread.join().unwrap();
    container.exit();
    container.assert_clean_end();
}

#[test]
fn stdin_stays_open_for_the_next_client() {
    let mut container = container("while read line; do echo \"got $line\"; done");
    container.config.open_stdin = true;
    let pid = container.start(vec![]);
    for text in ["one", "two"] {
        let (socket, mut client) = client_socket();
        container.request(Request::Attach(all_streams(Framing::Raw)), vec![socket]).unwrap();
        client.0.write_all(format!("{text}\n").as_bytes()).unwrap();
        client.read_until(&format!("got {text}"));
        client.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), b"");
    }
    assert!(is_alive(pid));
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.exit();
    container.assert_clean_end();
}

#[test]
fn a_client_of_a_container_without_stdin_is_not_detached_by_the_end_of_its_own() {
    for terminal in [false, true] {
        let mut container = container("sleep 0.2; echo done");
        container.config.spec.process.as_mut().unwrap().terminal = terminal;
        let (socket, mut client) = client_socket();
        container.start(vec![(socket, all_streams(Framing::Raw))]);
        client.0.write_all(b"typed").unwrap();
        client.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), if terminal { &b"done\r\n"[..] } else { b"done\n" });
        container.exit();
        container.assert_clean_end();
    }
}

#[test]
fn several_clients_see_the_same_and_one_that_vanishes_hurts_nobody() {
    let mut container = container("read line; echo first; read line; echo second");
    container.config.open_stdin = true;
    let (one, mut first) = client_socket();
    let (two, second) = client_socket();
    let (three, mut third) = client_socket();
    let streams = || all_streams(Framing::Raw);
    container.start(vec![(one, streams()), (two, streams()), (three, streams())]);
    first.0.write_all(b"\n").unwrap();
    first.read_until("first");
    third.read_until("first");
    drop(second);
    third.0.write_all(b"\n").unwrap();
    assert_eq!(first.rest(), b"second\n");
    assert_eq!(third.rest(), b"second\n");
    container.exit();
    container.assert_clean_end();
    assert_eq!(container.log("stdout"), "first\nsecond\n");
}

#[test]
fn a_terminal_has_a_size_that_can_be_changed_and_keys_that_detach() {
    let mut container = container("stty size; read line; stty size; read line; exit 9");
    let process = container.config.spec.process.as_mut().unwrap();
    process.terminal = true;
    process.console_size = serde_json::from_value(serde_json::json!({ "height": 30, "width": 100 })).unwrap();
    container.config.open_stdin = true;
    let (socket, mut client) = client_socket();
    let options = AttachOptions { detach_keys: Bytes(vec![16, 17]), ..all_streams(Framing::Raw) };
    container.start(vec![(socket, options.clone())]);
    client.read_until("30 100");
    container.request(Request::Resize(TerminalSize { rows: 44, columns: 155 }), vec![]).unwrap();
    client.0.write_all(b"\n").unwrap();
    client.read_until("44 155");
    client.0.write_all(b"x\x10\x11never").unwrap();
    client.rest();
    assert_eq!(container.event(|event| matches!(event, Event::Detach { .. })), Event::Detach { exec: None });
    let (socket, mut client) = client_socket();
    container.request(Request::Attach(options), vec![socket]).unwrap();
    client.0.write_all(b"\n").unwrap();
    client.rest();
    assert_eq!(
        container.exit(),
        Event::Exit { code: 9, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
    assert!(container.log("stdout").contains("30 100\r\n"));
}

#[test]
fn ctrl_c_on_the_terminal_interrupts() {
    let mut container = container("trap 'echo caught; exit 2' INT; echo ready; while :; do sleep 0.05; done");
    container.config.spec.process.as_mut().unwrap().terminal = true;
    container.config.open_stdin = true;
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Framing::Raw))]);
    client.read_until("ready");
    client.0.write_all(b"\x03").unwrap();
    client.read_until("caught");
    assert_eq!(
        container.exit(),
        Event::Exit { code: 2, signal: None, oom: false, restart_in_ms: None, by_daemon: false }
    );
    container.assert_clean_end();
}

/// As systemd does, and everything else that becomes a daemon before it opens its console again.
#[test]
fn a_terminal_that_nobody_holds_for_a_while_is_not_lost() {
    let mut container = container(
        "echo before; exec </dev/null >/dev/null 2>&1; sleep 1; echo between >/dev/tty; sleep 1; exec >/dev/tty; echo end",
    );
    container.config.spec.process.as_mut().unwrap().terminal = true;
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Framing::Raw))]);
    assert_eq!(String::from_utf8(client.rest()).unwrap(), "before\r\nbetween\r\nend\r\n");
    container.exit();
    let cpu = container.supervisor.cpu_time();
    assert!(cpu < Duration::from_millis(200), "{cpu:?}");
    container.assert_clean_end();
    assert_eq!(container.log("stdout"), "before\r\nbetween\r\nend\r\n");
}

#[test]
fn of_a_million_lines_none_is_lost_or_doubled() {
    let mut container = command(&["seq", "1", "1000000"]);
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, AttachOptions { stdin: false, ..all_streams(Framing::Raw) })]);
    let mut expected = String::new();
    for number in 1..=1_000_000 {
        expected.push_str(&format!("{number}\n"));
    }
    assert!(client.rest() == expected.as_bytes());
    container.exit();
    container.assert_clean_end();
    let log = container.raw_log();
    let mut lines = log.lines();
    for number in 1..=1_000_000 {
        let line = lines.next().unwrap();
        assert!(
            line.starts_with(&format!("{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"")),
            "{line}"
        );
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn a_slow_client_loses_nothing() {
    let mut container = command(&["seq", "1", "400000"]);
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, AttachOptions { stdin: false, ..all_streams(Framing::Raw) })]);
    std::thread::sleep(Duration::from_millis(300));
    let bytes = client.rest();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 400_000);
    assert!(bytes.ends_with(b"\n400000\n"));
    container.exit();
    container.assert_clean_end();
}

#[test]
fn the_streams_can_be_opened_by_another_user() {
    let mut container = container("echo a > /dev/stdout; echo b > /proc/self/fd/2");
    let process = container.config.spec.process.as_mut().unwrap();
    (process.user.uid, process.user.gid) = (1000, 1000);
    container.start(vec![]);
    container.exit();
    container.assert_clean_end();
    assert_eq!((container.log("stdout").as_str(), container.log("stderr").as_str()), ("a\n", "b\n"));
}

#[test]
fn no_file_of_a_rotated_log_is_longer_than_asked_for_by_more_than_a_line() {
    let mut container = command(&["seq", "1", "10000"]);
    if let LogConfig::JsonFile { max_size, max_files, .. } = &mut container.config.log {
        (*max_size, *max_files) = (Some(100_000), 3);
    }
    container.start(vec![]);
    container.exit();
    let texts = [".2", ".1", ""].map(|suffix| container.raw_log_file(suffix));
    for text in &texts {
        assert!((100_000 - 200..100_000 + 200).contains(&text.len()) || text == &texts[2], "{}", text.len());
        assert!(text.ends_with('\n'));
    }
    let rest = texts.concat();
    let first = 10_001 - rest.lines().count();
    for (line, number) in rest.lines().zip(first..) {
        assert!(line.starts_with(&format!("{{\"log\":\"{number}\\n\"")), "{line}");
    }
    assert_eq!(container.raw_log_file(".3"), "");
    container.assert_clean_end();
}

#[test]
fn lines_with_all_that_must_be_escaped_come_back_as_they_were() {
    let mut container = command(&["cat", "/tmp/text"]);
    // Every ASCII character at every place in a word of eight.
    let text: String = (0_u8..128).flat_map(|byte| [char::from(byte), 'a', '\u{e9}']).collect();
    let text = text.repeat(9);
    std::fs::write(container.rootfs().join("tmp/text"), &text).unwrap();
    container.start(vec![]);
    container.exit();
    assert_eq!(container.log("stdout"), text);
    container.assert_clean_end();
}
