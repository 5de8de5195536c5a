//! The ends: of exec sessions, of a run, of the container.

use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::process::{self, ExitStatus};
use palan_linux::signal::Signal;

use crate::health::Capture;
use crate::journal::Event;
use crate::log::Log;
use crate::protocol::SOCKET_NAME;
use crate::serve::{Exec, ExecPhase, Finished, Life, ServeError, Supervisor};
use crate::watch::SessionId;

/// How long output is waited for after a process has ended, where something still holds its pipes open: for init a process
/// outside of its pid namespace, for an exec session any child that lives on.
///
/// The session has ended when this has passed, for its client and in the journal, since a client takes the end of the
/// stream for the end of the session and asks for the exit code then. Docker waits as long in both cases.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Init may have ended: then what it has written is read.
    pub(crate) fn init_ready(&mut self) -> Result<(), ServeError> {
        let Life::Running(running) = &self.life else { return Ok(()) };
        let Some(status) = process::try_wait(running.container.pidfd()).map_err(ServeError::Events)? else {
            return Ok(());
        };
        // The pidfd stays readable for ever.
        self.epoll.remove(running.container.pidfd())?;
        let Life::Running(mut running) = std::mem::replace(&mut self.life, Life::Waiting) else {
            return Ok(());
        };
        running.oom.end();
        // With a pid namespace of its own everything has died with init; else the rest dies now.
        running.container.end();
        self.life = Life::Draining { running, status, until: Instant::now() + DRAIN_GRACE };
        self.stdio.drain(self.log.as_mut(), &mut self.output_buffer);
        Ok(())
    }

    /// The same for an exec session's process.
    pub(crate) fn exec_ready(&mut self, session: SessionId) -> Result<(), ServeError> {
        let epoll = Rc::clone(&self.epoll);
        let Some(exec) = self.exec_of(session) else { return Ok(()) };
        let ExecPhase::Running { pidfd } = &exec.phase else { return Ok(()) };
        let Some(status) = process::try_wait(pidfd).map_err(ServeError::Events)? else { return Ok(()) };
        epoll.remove(pidfd)?;
        exec.phase = ExecPhase::Draining { status, until: Instant::now() + DRAIN_GRACE };
        exec.session.drain(None, &mut Vec::new());
        if status.code() == 128 + Signal::KILL.as_raw() {
            self.note_oom_kills();
        }
        Ok(())
    }

    /// The kernel has killed for lack of memory, or will.
    pub(crate) fn oom_noticed(&mut self) {
        if let Life::Running(running) = &mut self.life {
            running.oom.notice(Instant::now());
        }
    }

    /// Journals kills for lack of memory that have happened since the last look. `true`: there were some at any time.
    pub(crate) fn note_oom_kills(&mut self) -> bool {
        let (Life::Running(running) | Life::Draining { running, .. }) = &mut self.life else { return false };
        let Some(cgroup) = running.container.cgroup() else {
            running.oom.end();
            return false;
        };
        let new = running.oom.look(cgroup, &self.epoll, Instant::now());
        let any = running.oom.any();
        if new {
            self.record(Event::Oom);
        }
        any
    }

    /// Ends the exec sessions whose output has been read.
    pub(crate) fn finish_execs(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for exec in &mut self.execs {
            if let ExecPhase::Draining { status, until } = exec.phase
                && (exec.session.is_drained() || until <= now)
            {
                ended.push(end_exec(exec, status));
            }
        }
        self.record_ended(ended);
    }

    fn record_ended(&mut self, ended: Vec<Ended>) {
        for Ended { name, status, probe } in ended {
            match probe {
                Some(capture) => self.probe_ended(name, capture, status),
                None => {
                    let (code, signal) = (status.code(), signal_of(status));
                    self.record(Event::ExecExit { exec: name, code, signal });
                }
            }
        }
    }

    /// Ends the run when all its output has been read, and decides whether it was the last one.
    pub(crate) fn finish_run_if_drained(&mut self, now: Instant) {
        let Life::Draining { running, status, until } = &self.life else { return };
        let (status, until) = (*status, *until);
        let (ran, restart_asked) = (running.started.elapsed(), running.restart_asked);
        let execs_ended = self.execs.iter().all(|exec| matches!(exec.phase, ExecPhase::Ended));
        if until > now && !(self.stdio.is_drained() && execs_ended) {
            return;
        }
        let code = status.code();
        let delay = self.restarts.after(code, ran, restart_asked);
        self.give_up_execs();
        self.stdio.finish(self.log.as_mut());
        let is_greeted = self.control.as_ref().is_some_and(|control| control.greeted);
        let by_daemon = delay.is_some() && self.restarts.are_for_daemon() && is_greeted;
        let goes_on = delay.filter(|_| !by_daemon);
        if goes_on.is_none() {
            self.close_for_good();
        }
        self.record_unrecorded_health();
        let oom = self.note_oom_kills();
        if let Life::Draining { running, .. } = &mut self.life
            && let Err(failure) = running.container.retire()
        {
            crate::complain(&failure);
        }
        let restart_in_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self.record(Event::Exit { code, signal: signal_of(status), oom, restart_in_ms, by_daemon });
        let next = match goes_on {
            Some(delay) => Life::Restarting { due: Instant::now() + delay, code },
            None => Life::Finished(Finished::now()),
        };
        let life = std::mem::replace(&mut self.life, next);
        self.tell_the_end(code, now, delay.is_none());
        if by_daemon {
            // They are the daemon's now.
            self.waits.clear();
        }
        // The daemon and the clients go on while the cgroups are removed.
        if let Life::Draining { running, .. } = life
            && let Err(failure) = running.container.remove_cgroup()
        {
            crate::complain(&failure);
        }
        if goes_on.is_none() && self.journal.is_written() {
            self.vacate();
        }
    }

    /// The container has ended between two runs, of which the last ended with `code`; `event` says why.
    pub(crate) fn end_between_runs(&mut self, event: Event, code: i32) {
        self.stdio.finish(self.log.as_mut());
        self.close_for_good();
        self.record(event);
        self.life = Life::Finished(Finished::now());
        self.tell_the_end(code, Instant::now(), true);
        if self.journal.is_written() {
            self.vacate();
        }
    }

    /// Gives up what outlives a run.
    fn close_for_good(&mut self) {
        self.resolver = None;
        self.relay = None;
        self.restarts.close();
        if let Some(lost) = self.log.take().as_mut().and_then(Log::close) {
            self.record(Event::LogLost { lines: lost.lines, reason: lost.reason });
        }
    }

    /// Tells everybody who waits.
    fn tell_the_end(&mut self, code: i32, now: Instant, for_good: bool) {
        if self.control.as_mut().is_some_and(|control| control.flush().is_err()) {
            self.control = None;
        }
        self.waits.run_ended(code, for_good);
        self.waits.answer_orphans(self.control.as_ref().map(|control| control.generation));
        if let Err(error) = self.stdio.end_turn(now) {
            crate::complain(&ServeError::from(error));
        }
    }

    /// Sessions whose process did not end with the container, although it was killed (it hangs in the kernel, say).
    fn give_up_execs(&mut self) {
        let killed = ExitStatus::Signaled { signal: Signal::KILL, core_dumped: false };
        let alive = self.execs.iter_mut().filter(|exec| !matches!(exec.phase, ExecPhase::Ended));
        let given_up = alive.map(|exec| end_exec(exec, killed)).collect();
        self.record_ended(given_up);
    }

    /// Gives up what belongs to the container by name, so that its next supervisor can have it. The journal is left for
    /// the daemon to read.
    pub(crate) fn vacate(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        // A daemon that looks for a supervisor shall not find the socket of one that has ended.
        let _ = palan_stdx::fs::remove_file(&self.run_dir.join(SOCKET_NAME));
        let _ = self.epoll.remove(&listener);
        self.journal.hand_over();
    }
}

/// The end of a process beside init.
struct Ended {
    name: String,
    status: ExitStatus,
    /// It was a probe: what it wrote.
    probe: Option<Option<Capture>>,
}

fn end_exec(exec: &mut Exec, status: ExitStatus) -> Ended {
    exec.phase = ExecPhase::Ended;
    exec.session.finish(None);
    let probe = exec.probe.then(|| exec.session.capture.take());
    Ended { name: exec.name.clone(), status, probe }
}

/// The signal that ended a process.
fn signal_of(status: ExitStatus) -> Option<i32> {
    match status {
        ExitStatus::Exited(_) => None,
        ExitStatus::Signaled { signal, .. } => Some(signal.as_raw()),
    }
}
