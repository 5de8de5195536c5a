//! One run after another, by the restart policy.

use palan_supervisor::client;
use palan_supervisor::journal::Event;
use palan_supervisor::protocol::{
    FailureKind, Framing, Reply, Request, RestartConfig, RestartPolicy, State, WaitOptions,
};

use crate::support::{Container, all_streams, client_socket, container, retry};

/// Counts its runs and ends with the count as its code.
const COUNTS: &str =
    "n=$(cat /tmp/n 2>/dev/null || echo 0); n=$((n+1)); echo $n > /tmp/n; echo run $n; exit $n";

fn restarted(script: &str, policy: RestartPolicy) -> Container {
    let mut container = container(script);
    container.config.restart = RestartConfig { policy, ..RestartConfig::default() };
    container
}

fn exit(code: i32, restart_in_ms: Option<u64>) -> Event {
    Event::Exit { code, signal: None, oom: false, restart_in_ms, by_daemon: false }
}

#[test]
fn a_policy_has_enough_and_each_run_is_told() {
    let mut container = restarted(COUNTS, RestartPolicy::OnFailure { most: Some(2) });
    let (socket, mut client) = client_socket();
    container.start(vec![(socket, all_streams(Framing::Raw))]);
    assert_eq!(container.exit(), exit(1, Some(100)));
    // A client sees the end of its run.
    assert_eq!(client.rest(), b"run 1\n");
    assert_eq!(container.exit(), exit(2, Some(200)));
    assert_eq!(container.exit(), exit(3, None));
    assert_eq!(container.log("stdout"), "run 1\nrun 2\nrun 3\n");
    container.assert_clean_end();
}

#[test]
fn no_daemon_is_needed() {
    let mut container = restarted(COUNTS, RestartPolicy::OnFailure { most: Some(3) });
    let (connection, mut first) = client_socket();
    let (other, mut last) = client_socket();
    let options = |key: u64, for_good: bool| WaitOptions {
        key,
        body_prefix: "code ".into(),
        body_suffix: ".".into(),
        for_good,
    };
    let waits = vec![(connection, options(1, false)), (other, options(2, true))];
    assert!(matches!(container.try_start(vec![], waits), Ok(Reply::Started { .. })));
    container.lose_daemon();
    assert!(String::from_utf8(first.rest()).unwrap().contains("code 1."));
    assert!(String::from_utf8(last.rest()).unwrap().contains("code 4."));
    let entries = client::read_journal(&container.run_dir(), 0).unwrap();
    let codes: Vec<i32> = entries
        .iter()
        .filter_map(|entry| if let Event::Exit { code, .. } = entry.event { Some(code) } else { None })
        .collect();
    assert_eq!(codes, [1, 2, 3, 4]);
    container.assert_clean_end();
}

#[test]
fn between_two_runs() {
    let mut container = restarted("exit 5", RestartPolicy::Always);
    container.start(vec![]);
    // The seventh pause takes more than six seconds.
    while container.exit() != exit(5, Some(6400)) {}
    assert_eq!(container.reconnect(u64::MAX).state, State::Restarting);
    for request in [Request::Pause, Request::Signal { signal: 15 }] {
        let failure = container.request(request, vec![]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::WrongState);
        assert!(failure.message.contains("is restarting"), "{failure}");
    }
    container.request(Request::StayDown, vec![]).unwrap();
    container.event(|event| *event == Event::RestartCanceled);
    container.assert_clean_end();
}

#[test]
fn who_is_to_stay_down_is_not_started_again() {
    let mut container = restarted("while :; do sleep 0.05; done", RestartPolicy::Always);
    container.start(vec![]);
    container.request(Request::StayDown, vec![]).unwrap();
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    let killed =
        Event::Exit { code: 137, signal: Some(9), oom: false, restart_in_ms: None, by_daemon: false };
    assert_eq!(container.exit(), killed);
    container.assert_clean_end();
}

fn limit(container: &Container) -> Option<String> {
    container.cgroups().iter().find_map(|group| std::fs::read_to_string(group.join("c/pids.max")).ok())
}

#[test]
fn a_policy_may_come_later_and_limits_at_once() {
    let mut container =
        container(&format!("while ! test -e /tmp/go; do sleep 0.05; done; busybox rm /tmp/go; {COUNTS}"));
    container.start(vec![]);
    container.config.restart.policy = RestartPolicy::OnFailure { most: Some(1) };
    let limits = serde_json::from_value(serde_json::json!({ "pids": { "limit": 77 } })).unwrap();
    container.config.spec.linux.as_mut().unwrap().resources = Some(limits);
    let config = client::config_file(&container.config).unwrap();
    container.request(Request::Update { limits: true, seccomp: false }, vec![config]).unwrap();
    assert_eq!(limit(&container).as_deref(), Some("77\n"));
    std::fs::write(container.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(container.exit(), exit(1, Some(100)));
    assert!(retry(|| limit(&container).as_deref() == Some("77\n")), "{:?}", limit(&container));
    std::fs::write(container.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(container.exit(), exit(2, None));
    container.assert_clean_end();
}

#[test]
fn a_start_that_fails_is_the_end() {
    let mut container = restarted("busybox rm /bin/sh; exit 3", RestartPolicy::Always);
    container.start(vec![]);
    assert_eq!(container.exit(), exit(3, Some(100)));
    let failed = |event: &Event| matches!(event, Event::StartFailed { kind: FailureKind::NotFound, .. });
    container.event(failed);
    container.assert_clean_end();
}

#[test]
fn a_run_is_left_to_the_daemon_that_is_there() {
    let mut container = restarted("exit 3", RestartPolicy::Always);
    container.config.restart.by_daemon = true;
    container.start(vec![]);
    let left = Event::Exit { code: 3, signal: None, oom: false, restart_in_ms: Some(100), by_daemon: true };
    assert_eq!(container.exit(), left);
    container.assert_clean_end();
}
