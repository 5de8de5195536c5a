//! What happens when the daemon goes and comes.

use std::io::Write;
use std::time::Duration;

use palan_supervisor::client;
use palan_supervisor::journal::Event;
use palan_supervisor::protocol::{Framing, Request, State, WaitOptions};

use crate::support::{all_streams, client_socket, container, is_alive, retry, settled};

fn wait_options(key: u64) -> WaitOptions {
    WaitOptions { key, body_prefix: "{\"StatusCode\":".into(), body_suffix: "}\n".into(), for_good: false }
}

const ANSWER_5: &[u8] = b"11\r\n{\"StatusCode\":5}\n\r\n0\r\n\r\n";

#[test]
fn without_a_daemon_all_goes_on_and_the_next_one_learns_of_it() {
    let mut container =
        container("while read line; do echo \"got $line\"; [ \"$line\" = end ] && exit 5; done");
    container.config.open_stdin = true;
    let (socket, mut client) = client_socket();
    let pid = container.start(vec![(socket, all_streams(Framing::Raw))]);
    client.0.write_all(b"with\n").unwrap();
    client.read_until("got with");
    container.lose_daemon();
    client.0.write_all(b"without\n").unwrap();
    client.read_until("got without");
    assert!(is_alive(pid));

    let welcome = container.reconnect(0);
    assert_eq!(welcome.state, State::Running { pid });
    assert_eq!(container.event(|_| true), Event::Start { pid });
    let (second, mut other) = client_socket();
    container.request(Request::Attach(all_streams(Framing::Raw)), vec![second]).unwrap();

    container.lose_daemon();
    client.0.write_all(b"end\n").unwrap();
    assert_eq!(client.rest(), b"got end\n");
    assert_eq!(other.rest(), b"got end\n");
    container.assert_clean_end();
    assert_eq!(container.log("stdout"), "got with\ngot without\ngot end\n");
    let events: Vec<_> =
        client::read_journal(&container.run_dir(), 1).unwrap().into_iter().map(|entry| entry.event).collect();
    assert_eq!(
        events,
        [Event::Exit { code: 5, signal: None, oom: false, restart_in_ms: None, by_daemon: false }]
    );
}

#[test]
fn a_newer_connection_replaces_the_older() {
    let mut container = container("read line");
    container.config.open_stdin = true;
    container.start(vec![]);
    let newer = client::connect(&container.run_dir()).unwrap();
    let old = std::mem::replace(&mut container.connection, newer);
    container.hello(0);
    container.connection = old;
    container.drain_connection();
    container.reconnect(u64::MAX);
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.exit();
    container.assert_clean_end();
}

#[test]
fn a_held_wait_is_answered_only_when_its_daemon_is_gone() {
    let mut container = container("read line; exit 5");
    container.config.open_stdin = true;
    let (stdin, mut typist) = client_socket();
    let (first, mut kept) = client_socket();
    let (second, mut released) = client_socket();
    let (third, mut adopted) = client_socket();
    let attach = vec![(stdin, all_streams(Framing::Raw))];
    container.try_start(attach, vec![(first, wait_options(1)), (second, wait_options(2))]).unwrap();
    container.request(Request::ReleaseWait { key: 2 }, vec![]).unwrap();
    assert_eq!(released.rest(), b"");
    container.lose_daemon();
    container.reconnect(0);
    container.request(Request::HoldWait(wait_options(3)), vec![third]).unwrap();
    typist.0.write_all(b"\n").unwrap();
    container.exit();
    assert_eq!(kept.rest(), ANSWER_5);
    container.request(Request::ReleaseWait { key: 3 }, vec![]).unwrap();
    assert_eq!(adopted.rest(), b"");
    container.assert_clean_end();
}

#[test]
fn a_daemon_that_dies_between_the_exit_and_its_answer_is_stood_in_for() {
    let mut container = container("exit 5");
    let (socket, mut waiter) = client_socket();
    container.try_start(vec![], vec![(socket, wait_options(1))]).unwrap();
    container.exit();
    container.lose_daemon();
    assert_eq!(waiter.rest(), ANSWER_5);
    container.assert_clean_end();
}

#[test]
fn nonsense_on_the_connection_does_not_touch_the_container() {
    let mut container = container("read line");
    container.config.open_stdin = true;
    let pid = container.start(vec![]);
    let directory = std::fs::File::open(container.run_dir()).unwrap();
    let socket = palan_linux::socket::connect_at(&directory, "supervisor.sock").unwrap();
    rustix::io::write(&socket, &[0xff; 64]).unwrap();
    let mut byte = [0];
    assert!(retry(|| matches!(rustix::io::read(&socket, &mut byte), Ok(0) | Err(_))));
    assert!(is_alive(pid));
    let welcome = container.reconnect(0);
    assert_eq!(welcome.state, State::Running { pid });
}

/// The daemon neither answers its wait nor goes, and the client reads nothing.
#[test]
fn nobody_who_is_waited_for_keeps_the_supervisor_busy() {
    let mut container = container("seq 1 100000");
    let (stdio, mut client) = client_socket();
    let (wait, _waiter) = client_socket();
    let attach = vec![(stdio, all_streams(Framing::Raw))];
    container.try_start(attach, vec![(wait, wait_options(1))]).unwrap();
    container.exit();
    std::thread::sleep(Duration::from_secs(5));
    let before = container.supervisor.cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    let spent = container.supervisor.cpu_time() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?}");
    assert!(client.rest().ends_with(b"\n100000\n"));
    container.assert_clean_end();
}

/// A container may outlive its daemon by months, and a lot may happen to it meanwhile.
#[test]
fn a_journal_of_any_length_is_replayed() {
    const ENTRIES: u64 = 100_000;
    let mut container = container("read line");
    container.config.open_stdin = true;
    container.lose_daemon();
    container.supervisor.wait();
    let line = |seq| format!("{{\"seq\":{seq},\"time_ns\":1,\"event\":{{\"detach\":{{\"exec\":null}}}}}}\n");
    let journal: String = (1..=ENTRIES).map(line).collect();
    std::fs::write(container.run_dir().join("journal"), journal).unwrap();
    container.respawn();
    let pid = container.start(vec![]);
    let welcome = container.reconnect(0);
    assert_eq!((welcome.state, welcome.last_seq), (State::Running { pid }, ENTRIES + 1));
    container.request(Request::Sync, vec![]).unwrap();
    let seqs = container.entries.iter().map(|entry| entry.seq);
    assert!(seqs.skip_while(|seq| *seq > ENTRIES).eq(1..=ENTRIES + 1));
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.exit();
    container.assert_clean_end();
}

#[test]
fn without_descriptors_nothing_new_is_possible_and_nothing_old_is_lost() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let mut container = container("while read line; do echo \"got $line\"; done");
    container.config.open_stdin = true;
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Framing::Raw))]);
    // The watch over the memory begins a little after the start.
    let descriptors = format!("/proc/{}/fd", container.supervisor.pid);
    settled(|| std::fs::read_dir(&descriptors).unwrap().count());
    let supervisor = Pid::from_raw(container.supervisor.pid);
    let limit = |current| {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        prlimit(supervisor, Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap()
    };
    let old = limit(3);

    let exec = crate::support::exec_options("e", &["true"]);
    container.request(Request::Exec(Box::new(exec.clone())), vec![]).unwrap_err();
    let (other, _peer) = client_socket();
    container.connection.send(Request::Attach(all_streams(Framing::Raw)), vec![other]).unwrap();
    container.drain_connection();
    client.0.write_all(b"one\n").unwrap();
    client.read_until("got one");

    limit(old.current.unwrap());
    container.reconnect(0);
    container.request(Request::Exec(Box::new(exec)), vec![]).unwrap();
    assert_eq!(container.exec_exit("e"), 0);
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.exit();
    container.assert_clean_end();
}
