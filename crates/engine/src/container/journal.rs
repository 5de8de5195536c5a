//! What a supervisor's journal tells, carried over to what the database knows. [`apply`] is all of it that concerns the
//! container itself, for the driver, which gets the entries as they are written, and for a daemon that starts and finds them.

use std::time::Duration;

use jiff::Timestamp;
use palan_supervisor::journal::{Entry, Event as JournalEvent};
use palan_supervisor::protocol::Request;
use tokio::time::Instant;

use crate::container::driver::{Driver, Flow, Pending, container_event, start_failure_text, timestamp};
use crate::container::exec::failure_code;
use crate::container::restart::KILL;
use crate::container::{Details, State, Status, health};
use crate::db::Change;
use crate::events::Event;
use crate::network::endpoints;

/// What an entry means for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    None,
    /// A run has ended and another will follow.
    Between,
    /// The same, and that one is the daemon's to start.
    Ours,
    /// The container has ended.
    End,
}

/// Applies an entry and returns the events of it; `None`: it was applied before.
pub(crate) fn apply(details: &mut Details, entry: &Entry) -> Option<(Vec<Event>, Turn)> {
    if entry.seq <= details.journal_seq {
        return None;
    }
    details.journal_seq = entry.seq;
    if let Some(events) = health::apply(details, entry) {
        return Some((events, Turn::None));
    }
    let time = timestamp(entry.time_ns);
    let was_between = details.state.status == Status::Restarting;
    let mut turn = Turn::None;
    let mut action = None;
    match &entry.event {
        JournalEvent::Exit { code, oom, restart_in_ms, by_daemon, .. } => {
            let events = run_ended(details, time, *code, *oom, *restart_in_ms);
            let turn = match restart_in_ms {
                None => Turn::End,
                Some(_) if *by_daemon => Turn::Ours,
                Some(_) => Turn::Between,
            };
            return Some((events, turn));
        }
        JournalEvent::RestartCanceled => {
            details.state.status = Status::Exited;
            turn = Turn::End;
        }
        JournalEvent::StartFailed { message, .. } if was_between => {
            // As in Docker the code stays that of the last run.
            details.state.status = Status::Exited;
            details.state.error = start_failure_text(message);
            turn = Turn::End;
        }
        JournalEvent::StartFailed { kind, message } => {
            details.state.error = start_failure_text(message);
            details.state.exit_code = kind.exit_code();
        }
        JournalEvent::Start { pid } => {
            details.state = State {
                status: Status::Running,
                pid: *pid,
                started_at: Some(time),
                finished_at: details.state.finished_at,
                health: health::begin(details),
                // Who has stopped it between two runs has stopped this one, too.
                stopped_by_user: was_between && details.state.stopped_by_user,
                ..State::default()
            };
            details.run += 1;
            action = Some("start");
        }
        JournalEvent::Oom => {
            details.state.oom_killed = true;
            action = Some("oom");
        }
        JournalEvent::Pause => {
            details.state.status = Status::Paused;
            health::end(&mut details.state);
            action = Some("pause");
        }
        JournalEvent::Checkpoint { stops } => {
            // Who saves it to end it wants no other run of it.
            details.state.stopped_by_user |= *stops;
            action = Some("checkpoint");
        }
        JournalEvent::Resume => {
            details.state.status = Status::Running;
            action = Some("unpause");
        }
        JournalEvent::Detach { exec: None } => action = Some("detach"),
        JournalEvent::ExecExit { exec, code, .. } => {
            let facts = [("execID", exec.clone()), ("exitCode", code.to_string())];
            return Some((vec![Event { time, ..container_event(details, "exec_die", facts) }], turn));
        }
        JournalEvent::Detach { exec: Some(exec) } => {
            let event = container_event(details, "exec_detach", [("execID", exec.clone())]);
            return Some((vec![Event { time, ..event }], turn));
        }
        JournalEvent::LogLost { .. }
        | JournalEvent::ExecStart { .. }
        | JournalEvent::ExecFailed { .. }
        | JournalEvent::ProbeStart { .. }
        | JournalEvent::Probe { .. }
        | JournalEvent::ProbeAborted { .. }
        | JournalEvent::Health { .. }
        | JournalEvent::Unknown => {}
    }
    let event = action.map(|action| Event { time, ..container_event(details, action, []) });
    Some((event.into_iter().collect(), turn))
}

/// The end of a run, which another follows after so many milliseconds if any. Returns the events of it.
pub(crate) fn run_ended(
    details: &mut Details,
    time: Timestamp,
    code: i32,
    oom: bool,
    restart_in_ms: Option<u64>,
) -> Vec<Event> {
    let seconds = time.duration_since(details.state.started_at.unwrap_or(time)).as_secs().max(0);
    let facts = [("exitCode", code.to_string()), ("execDuration", seconds.to_string())];
    let oom_event = (oom && !details.state.oom_killed).then(|| container_event(details, "oom", []));
    let die = container_event(details, "die", facts);
    let state = &mut details.state;
    state.status = if restart_in_ms.is_some() { Status::Restarting } else { Status::Exited };
    state.pid = 0;
    state.exit_code = code;
    state.error.clear();
    state.oom_killed |= oom;
    state.finished_at = Some(time);
    health::end(state);
    if restart_in_ms.is_some() {
        details.restart_delay_ms = restart_in_ms;
        details.restart_count = details.restart_count.saturating_add(1);
    }
    oom_event.into_iter().chain([die]).map(|event| Event { time, ..event }).collect()
}

impl Driver {
    /// Applies a journal entry that is not in the database yet, and does what follows from it.
    pub(super) async fn on_entry(&mut self, entry: Entry) -> Flow {
        let details = self.details();
        if entry.seq <= details.journal_seq {
            return Flow::Continue;
        }
        let mut next = Box::new((*details).clone());
        let Some((events, turn)) = apply(&mut next, &entry) else { return Flow::Continue };
        self.note_sessions(&entry.event);
        match turn {
            Turn::None => {
                let seq = next.journal_seq;
                self.commit_details(*next, Change::new().events(events)).await;
                self.request(Request::AckJournal { seq }, Vec::new(), Pending::Nobody);
                Flow::Continue
            }
            Turn::Between => {
                self.pause_between_runs(*next, events).await;
                Flow::Continue
            }
            Turn::Ours => {
                let delay = Duration::from_millis(next.restart_delay_ms.unwrap_or_default());
                let networks = endpoints::network_ids(&next);
                let more = self.release_for_restart(&mut next).await;
                let events = events.into_iter().chain(more).collect();
                self.pause_between_runs(*next, events).await;
                self.engine.publish_names(networks).await;
                self.restart_at = Some(Instant::now() + delay);
                if self.is_to_stay_down() { self.stay_down(KILL).await } else { Flow::Continue }
            }
            Turn::End => {
                self.end(*next, events).await;
                self.after_exit().await
            }
        }
    }

    /// What concerns exec sessions, which are no part of the details.
    fn note_sessions(&self, event: &JournalEvent) {
        let (id, sessions) = (&self.handle.id, &self.engine.sessions);
        match event {
            JournalEvent::ExecStart { exec, pid } => sessions.found_running(id, exec, *pid),
            JournalEvent::ExecFailed { exec, kind, message } => {
                sessions.ended(id, exec, failure_code(*kind, message))
            }
            JournalEvent::ExecExit { exec, code, .. } => sessions.ended(id, exec, *code),
            JournalEvent::Exit { .. } => sessions.container_ended(id),
            JournalEvent::LogLost { lines, reason } => {
                tracing::warn!(container = id, lines, reason, "lines of the log were lost");
            }
            _ => {}
        }
    }

    /// A run has ended and another will follow. The container keeps its networks and volumes.
    pub(super) async fn pause_between_runs(&mut self, next: Details, events: Vec<Event>) {
        let (seq, code) = (next.journal_seq, next.state.exit_code);
        self.record(next, Change::new().events(events)).await;
        self.request(Request::AckJournal { seq }, Vec::new(), Pending::Nobody);
        self.announce_exit(code, Status::Restarting);
    }
}

#[cfg(test)]
mod tests {
    use palan_supervisor::protocol::FailureKind;

    use super::*;

    fn entry(seq: u64, event: JournalEvent) -> Entry {
        Entry { seq, time_ns: seq * 1_000_000_000, event }
    }

    fn exit(code: i32, restart_in_ms: Option<u64>) -> JournalEvent {
        JournalEvent::Exit { code, signal: None, oom: false, restart_in_ms, by_daemon: false }
    }

    fn check(events: impl IntoIterator<Item = JournalEvent>) -> (Details, Vec<String>, Vec<Turn>) {
        let (mut details, mut actions, mut turns) = (Details::default(), Vec::new(), Vec::new());
        for (seq, event) in (1..).zip(events) {
            let (events, turn) = apply(&mut details, &entry(seq, event.clone())).expect("a new one");
            assert!(apply(&mut details, &entry(seq, event)).is_none(), "applied once");
            actions.extend(events.into_iter().map(|event| event.action));
            turns.push(turn);
        }
        (details, actions, turns)
    }

    #[test]
    fn a_life_with_restarts() {
        let (details, actions, turns) = check([
            JournalEvent::Start { pid: 7 },
            exit(3, Some(100)),
            JournalEvent::Start { pid: 8 },
            exit(4, None),
        ]);
        assert_eq!(actions, ["start", "die", "start", "die"]);
        assert_eq!(turns, [Turn::None, Turn::Between, Turn::None, Turn::End]);
        let state = &details.state;
        assert_eq!((state.status, state.exit_code, state.pid), (Status::Exited, 4, 0));
        assert_eq!((details.restart_count, details.run, details.journal_seq), (1, 2, 4));
    }

    #[test]
    fn between_two_runs() {
        let begun = || [JournalEvent::Start { pid: 7 }, exit(3, Some(100))];
        let (between, ..) = check(begun());
        assert_eq!((between.state.status, between.state.exit_code), (Status::Restarting, 3));
        let (canceled, actions, turns) = check(begun().into_iter().chain([JournalEvent::RestartCanceled]));
        assert_eq!((canceled.state.status, canceled.state.exit_code), (Status::Exited, 3));
        assert_eq!((actions.len(), turns.last()), (2, Some(&Turn::End)));
        let failure = JournalEvent::StartFailed { kind: FailureKind::NotFound, message: "gone".into() };
        let (failed, _, turns) = check(begun().into_iter().chain([failure]));
        assert_eq!((failed.state.status, failed.state.exit_code), (Status::Exited, 3));
        assert!(failed.state.error.contains("gone") && turns.last() == Some(&Turn::End));
    }

    #[test]
    fn a_checkpoint_is_an_event_and_may_be_the_end() {
        let saved = |stops| check([JournalEvent::Start { pid: 7 }, JournalEvent::Checkpoint { stops }]);
        for stops in [false, true] {
            let (details, actions, turns) = saved(stops);
            assert_eq!(
                (actions, turns.last()),
                (vec!["start".to_owned(), "checkpoint".to_owned()], Some(&Turn::None))
            );
            assert_eq!((details.state.status, details.state.stopped_by_user), (Status::Running, stops));
        }
    }

    #[test]
    fn a_stop_between_two_runs_is_remembered() {
        let is_stopped_after_start = |status: Status| {
            let mut details = Details::default();
            (details.state.status, details.state.stopped_by_user) = (status, true);
            apply(&mut details, &entry(1, JournalEvent::Start { pid: 7 })).expect("a new one");
            details.state.stopped_by_user
        };
        assert!(is_stopped_after_start(Status::Restarting));
        assert!(!is_stopped_after_start(Status::Exited));
    }

    #[test]
    fn a_first_start_that_failed() {
        let failure = JournalEvent::StartFailed { kind: FailureKind::NotFound, message: "no".into() };
        let (details, _, turns) = check([failure]);
        assert_eq!((details.state.status, details.state.exit_code), (Status::Created, 127));
        assert_eq!(turns, [Turn::None]);
    }
}
