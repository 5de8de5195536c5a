//! Health checks.

use palan_supervisor::journal::Event;
use palan_supervisor::protocol::{
    HealthAction, HealthConfig, HealthStatus, ProbeOutcome, ProbeResult, Request,
};

use crate::support::{Container, command, exec_options};

const MILLISECOND: u64 = 1_000_000;

fn checked(script: &str, timeout: u64, on_failure: HealthAction) -> Container {
    let mut container = command(&["sleep", "1000"]);
    container.config.health = Some(HealthConfig {
        process: exec_options("", &["sh", "-c", script]).process,
        user: None,
        groups: Vec::new(),
        interval_ns: 50 * MILLISECOND,
        timeout_ns: timeout * MILLISECOND,
        start_period_ns: 0,
        start_interval_ns: MILLISECOND,
        retries: 2,
        on_failure,
    });
    container.start(vec![]);
    container
}

fn result(container: &mut Container) -> (ProbeResult, HealthStatus, u32) {
    match container.event(|event| matches!(event, Event::Probe { .. })) {
        Event::Probe { result, status, failing_streak, .. } => (result, status, failing_streak),
        other => panic!("{other:?}"),
    }
}

fn end(mut container: Container) {
    container.request(Request::Signal { signal: 9 }, vec![]).unwrap();
    container.exit();
    container.assert_clean_end();
}

#[test]
fn results_come_and_the_daemon_sees_no_session() {
    let mut container = checked("echo out; echo err >&2; test -e /tmp/ok", 10_000, HealthAction::None);
    let (first, status, streak) = result(&mut container);
    assert_eq!((first.outcome, status, streak), (ProbeOutcome::Exited(1), HealthStatus::Starting, 1));
    assert!(first.output.contains("out\n") && first.output.contains("err\n"), "{first:?}");
    assert!(first.start_ns < first.end_ns);
    assert_eq!(result(&mut container).1, HealthStatus::Unhealthy);
    std::fs::write(container.rootfs().join("tmp/ok"), "").unwrap();
    while result(&mut container).1 != HealthStatus::Healthy {}
    assert!(!container.entries.iter().any(|entry| matches!(entry.event, Event::ExecExit { .. })));
    end(container);
}

#[test]
fn a_probe_that_hangs_is_killed_with_what_it_started() {
    let mut container = checked("sleep 77 & sleep 78; true", 200, HealthAction::None);
    let mut took = Vec::new();
    for _ in 0..5 {
        let (probe, ..) = result(&mut container);
        assert_eq!((probe.outcome, probe.output.as_str()), (ProbeOutcome::TimedOut, ""));
        took.push(probe.end_ns - probe.start_ns);
    }
    // The pipes are closed at once, so nothing of a probe is waited for; only a busy machine takes long now and then.
    assert!(took.iter().any(|took| *took < 1_500 * MILLISECOND), "{took:?}");
    end(container);
}

#[test]
fn a_pause_ends_a_probe_without_a_result() {
    let mut container = checked("sleep 1000", 3_600_000, HealthAction::None);
    container.event(|event| matches!(event, Event::ProbeStart { .. }));
    container.request(Request::Pause, vec![]).unwrap();
    container.request(Request::Resume, vec![]).unwrap();
    container.event(|event| matches!(event, Event::ProbeAborted { code: 137, .. }));
    container.event(|event| matches!(event, Event::ProbeStart { .. }));
    assert!(!container.entries.iter().any(|entry| matches!(entry.event, Event::Probe { .. })));
    end(container);
}

#[test]
fn an_unhealthy_container_is_killed_with_no_daemon_there() {
    let mut container = checked("false", 10_000, HealthAction::Kill);
    container.lose_daemon();
    container.supervisor.wait();
    let entries = palan_supervisor::client::read_journal(&container.run_dir(), 0).unwrap();
    let probes = entries.iter().filter(|entry| matches!(entry.event, Event::Probe { .. })).count();
    assert_eq!(probes, 2);
    assert!(matches!(entries.last().map(|entry| &entry.event), Some(Event::Exit { code: 137, .. })));
}
