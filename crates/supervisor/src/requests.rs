//! What the daemon asks for, carried out.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use palan_linux::event::Interest;
use palan_linux::process;
use palan_linux::signal::Signal;
use rustix::io::Errno;
use serde::Deserialize;

use crate::attach::Typed;
use crate::journal::Event;
use crate::launch::Execed;
use crate::protocol::frame::Frame;
use crate::protocol::{
    AttachOptions, ExecOptions, ExecState, Failure, FailureKind, Message, RelayedPort, Reply, Request,
    RequestFrame, RequestId, State, TerminalSize, VERSION, WaitOptions, Welcome,
};
use crate::relay::Relay;
use crate::restart::not_running;
use crate::serve::{Exec, ExecPhase, Life, Running, Supervisor};
use crate::session::{InputEnd, Session};
use crate::start::{Descriptors, StartFlags, read_program};
use crate::watch::Token;

impl Supervisor {
    /// Handles every request that has arrived.
    pub(crate) fn serve_daemon(&mut self) {
        while let Some(control) = &mut self.control {
            match control.next() {
                Ok(Some(frame)) => self.handle(frame),
                Ok(None) => return,
                Err(_) => self.lose_daemon(),
            }
        }
    }

    fn handle(&mut self, frame: Frame) {
        let (id, result) = match serde_json::from_slice(&frame.body) {
            Ok(RequestFrame { request: Request::Hello { after_seq, .. }, .. }) => {
                return self.hello(after_seq);
            }
            Ok(RequestFrame { id, request: Request::Checkpoint(options) }) => {
                return self.save(id, &options, Descriptors::new(frame.descriptors));
            }
            Ok(RequestFrame { id, request }) => {
                (id, self.carry_out(request, Descriptors::new(frame.descriptors)))
            }
            Err(error) => match serde_json::from_slice(&frame.body) {
                Ok(Numbered { id }) => {
                    let message = format!("this supervisor does not understand the request: {error}");
                    (id, Err(Failure::new(FailureKind::Unsupported, message)))
                }
                Err(_) => return self.lose_daemon(),
            },
        };
        self.send(&Message::Reply { id, result });
    }

    /// Tells how things stand, and what the daemon has missed.
    fn hello(&mut self, after_seq: u64) {
        let running = |exec: &Exec| match exec.phase {
            ExecPhase::Running { .. } if !exec.probe => {
                Some(ExecState { exec: exec.name.clone(), pid: exec.pid })
            }
            ExecPhase::Running { .. } | ExecPhase::Draining { .. } | ExecPhase::Ended => None,
        };
        self.record_unrecorded_health();
        let welcome = Welcome {
            version: VERSION,
            supervisor_pid: rustix::process::getpid().as_raw_nonzero().get(),
            state: self.state(),
            last_seq: self.journal.last_seq(),
            execs: self.execs.iter().filter_map(running).collect(),
        };
        let Some(control) = &mut self.control else { return };
        let entries = self.journal.entries(after_seq).into_iter().map(Message::Journal);
        let mut messages = std::iter::once(Message::Welcome(welcome)).chain(entries);
        let queued = messages.try_for_each(|message| control.queue_replay(&message));
        control.greeted = true;
        if queued.is_err() {
            self.lose_daemon();
        }
    }

    fn state(&self) -> State {
        match &self.life {
            Life::Waiting => State::Waiting,
            Life::Running(running) if running.paused => State::Paused { pid: running.container.pid() },
            Life::Running(running) => State::Running { pid: running.container.pid() },
            Life::Restarting { .. } => State::Restarting,
            Life::Draining { .. } | Life::Finished(_) => State::Exited,
        }
    }

    fn carry_out(&mut self, request: Request, mut descriptors: Descriptors) -> Result<Reply, Failure> {
        match request {
            // Both have answers of their own.
            Request::Hello { .. } | Request::Checkpoint(_) => {}
            Request::Sync => {}
            Request::Start {
                seccomp,
                network_namespace,
                joins,
                shared_mounts,
                checkpoint,
                resolver,
                attach,
                waits,
            } => {
                let flags =
                    StartFlags { seccomp, network_namespace, joins, shared_mounts, checkpoint, resolver };
                return self.start(flags, &attach, waits, descriptors);
            }
            Request::Resolve => {
                self.keeps_network()?;
                self.serve_names(&mut descriptors)?;
            }
            Request::Relay { close, open } => {
                self.keeps_network()?;
                self.relay_ports(&close, &open, &mut descriptors)?;
            }
            Request::Attach(options) => self.attach(&options, descriptors)?,
            Request::HoldWait(options) => self.hold_wait(descriptors.take("the connection")?, options),
            Request::ReleaseWait { key } => self.waits.release(key),
            Request::Signal { signal } => self.signal(number(signal)?)?,
            Request::Stop { signal, timeout_ms } => {
                self.stop(number(signal)?, timeout_ms.map(Duration::from_millis))?;
            }
            Request::Resize(size) => {
                self.running()?;
                resized(self.stdio.resize(size))?;
            }
            Request::Pause => self.pause()?,
            Request::Resume => self.resume()?,
            Request::Exec(options) => return self.exec(&options, descriptors),
            Request::ExecResize { exec, size } => self.exec_resize(&exec, size)?,
            Request::ExecSignal { exec, signal } => self.exec_signal(&exec, number(signal)?)?,
            Request::StayDown => self.stay_down()?,
            Request::Update { limits, seccomp } => self.update(limits, seccomp, descriptors)?,
            Request::AckJournal { seq } => self.journal.acknowledge(seq),
        }
        Ok(Reply::Done)
    }

    /// Changes what is relayed. What does not work leaves the rest in place.
    fn relay_ports(
        &mut self,
        close: &[RelayedPort],
        open: &[RelayedPort],
        descriptors: &mut Descriptors,
    ) -> Result<(), Failure> {
        let failed = |errno: Errno| Failure::cannot("relay a port", &std::io::Error::from(errno));
        let relay = match &mut self.relay {
            Some(relay) => relay,
            None => self.relay.insert(Box::new(Relay::new(&self.epoll).map_err(failed)?)),
        };
        for port in close {
            relay.close(port);
        }
        let mut outcome = Ok(());
        for port in open {
            let socket = descriptors.take_if(port.socket, "a socket to relay");
            outcome = outcome.and(socket.and_then(|socket| relay.open(port, socket).map_err(failed)));
        }
        if relay.is_unused() {
            self.relay = None;
        }
        self.idle_work = true;
        outcome
    }

    /// An error unless the container has its network: during a run and between two.
    fn keeps_network(&self) -> Result<(), Failure> {
        match self.life {
            Life::Running(_) | Life::Draining { .. } | Life::Restarting { .. } => Ok(()),
            Life::Waiting | Life::Finished(_) => Err(not_running()),
        }
    }

    pub(crate) fn running(&mut self) -> Result<&mut Running, Failure> {
        match &mut self.life {
            Life::Running(running) => Ok(running),
            Life::Restarting { .. } => {
                let message = "the container is restarting, wait until it is running";
                Err(Failure::new(FailureKind::WrongState, message))
            }
            Life::Waiting | Life::Draining { .. } | Life::Finished(_) => Err(not_running()),
        }
    }

    fn attach(&mut self, options: &AttachOptions, mut descriptors: Descriptors) -> Result<(), Failure> {
        self.running()?;
        self.attach_client(descriptors.take("the client's connection")?, options)
    }

    pub(crate) fn attach_client(&mut self, client: OwnedFd, options: &AttachOptions) -> Result<(), Failure> {
        if self.stdio.attach(client, options)? == Typed::Detached {
            self.record(Event::Detach { exec: None });
        }
        Ok(())
    }

    pub(crate) fn hold_wait(&mut self, connection: OwnedFd, options: WaitOptions) {
        if let Some(control) = &self.control {
            self.waits.hold(connection, options, control.generation);
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Failure> {
        let running = self.running()?;
        running.container.signal(signal)?;
        // What is frozen takes no signal; who kills wants an end now.
        if signal == Signal::KILL && running.paused {
            self.resume()?;
        }
        Ok(())
    }

    /// Signals init and sets the time of its certain end.
    pub(crate) fn stop(&mut self, signal: Signal, timeout: Option<Duration>) -> Result<(), Failure> {
        if self.running()?.paused {
            self.resume()?;
        }
        let running = self.running()?;
        // The certain end does not depend on the signal.
        if let Some(kill_at) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
            running.kill_at = Some(running.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        }
        running.container.signal(signal)
    }

    fn pause(&mut self) -> Result<(), Failure> {
        let running = self.running()?;
        if running.paused {
            return Err(Failure::new(FailureKind::WrongState, "the container is paused already"));
        }
        self.is_not_being_saved()?;
        self.suspend_health();
        let running = self.running()?;
        if let Err(failure) = running.container.pause() {
            self.resume_health();
            return Err(failure);
        }
        running.paused = true;
        if let Some(health) = &mut self.health {
            health.pause();
        }
        self.record(Event::Pause);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Failure> {
        let running = self.running()?;
        if !running.paused {
            return Err(Failure::new(FailureKind::WrongState, "the container is not paused"));
        }
        running.container.resume()?;
        running.paused = false;
        self.resume_health();
        self.record(Event::Resume);
        Ok(())
    }

    fn exec(&mut self, options: &ExecOptions, mut descriptors: Descriptors) -> Result<Reply, Failure> {
        if self.running()?.paused {
            return Err(Failure::new(FailureKind::WrongState, "the container is paused"));
        }
        self.is_not_being_saved()?;
        if self.execs.iter().any(|exec| exec.name == options.exec) {
            return Err(Failure::new(FailureKind::Invalid, "there is an exec session of this name already"));
        }
        let seccomp = descriptors.take_if(options.seccomp, "the seccomp program")?;
        let seccomp = seccomp.map(|program| read_program(&program.into())).transpose()?;
        let client = match &options.attach {
            Some(attach) => Some((descriptors.take("the client's connection")?, attach)),
            None => None,
        };
        let Life::Running(running) = &self.life else {
            return Err(not_running());
        };
        let execed = match running.container.exec(options, seccomp.as_ref()) {
            Ok(execed) => execed,
            Err(failure) => {
                let (kind, message) = (failure.kind, failure.message.clone());
                self.record(Event::ExecFailed { exec: options.exec.clone(), kind, message });
                return Err(failure);
            }
        };
        let pid = execed.pid;
        self.record(Event::ExecStart { exec: options.exec.clone(), pid });
        if let Err(failure) = self.adopt_exec(execed, options, client) {
            // Out of descriptors or memory, most likely: without its stdio the process is of no use. Its end is
            // journaled as any other.
            self.exec_signal(&options.exec, Signal::KILL)?;
            return Err(failure);
        }
        self.idle_work = true;
        Ok(Reply::ExecStarted { pid })
    }

    pub(crate) fn adopt_exec(
        &mut self,
        execed: Execed,
        options: &ExecOptions,
        client: Option<(OwnedFd, &AttachOptions)>,
    ) -> Result<(), Failure> {
        let Execed { pid, pidfd, ends } = execed;
        let id = self.next_session;
        self.next_session += 1;
        let watched = self.epoll.add(&pidfd, Token::Process(id).encode(), Interest::READ);
        let session = Session::new(&self.epoll, id);
        self.execs.push(Exec {
            name: options.exec.clone(),
            pid,
            session,
            phase: ExecPhase::Running { pidfd },
            probe: false,
        });
        watched?;
        let Some(Exec { session, .. }) = self.execs.last_mut() else { return Ok(()) };
        let terminal = options.process.terminal;
        session.connect(ends, terminal, if terminal { InputEnd::Detaches } else { InputEnd::Closes })?;
        if let Some((client, attach)) = client
            && session.attach(client, attach)? == Typed::Detached
        {
            self.record(Event::Detach { exec: Some(options.exec.clone()) });
        }
        Ok(())
    }

    fn exec_resize(&mut self, exec: &str, size: TerminalSize) -> Result<(), Failure> {
        let (session, _) = self.running_exec(exec)?;
        resized(session.resize(size))
    }

    fn exec_signal(&mut self, exec: &str, signal: Signal) -> Result<(), Failure> {
        let (_, pidfd) = self.running_exec(exec)?;
        process::send_signal(pidfd, signal)
            .map_err(|error| Failure::cannot("signal the exec session", &error))
    }

    fn running_exec(&self, name: &str) -> Result<(&Session, &OwnedFd), Failure> {
        self.execs
            .iter()
            .filter(|exec| exec.name == name)
            .find_map(|exec| match &exec.phase {
                ExecPhase::Running { pidfd } => Some((&exec.session, pidfd)),
                ExecPhase::Draining { .. } | ExecPhase::Ended => None,
            })
            .ok_or_else(|| {
                Failure::new(FailureKind::NoSuchExec, format!("no exec session {name} is running"))
            })
    }
}

/// A request of which only the number can be understood.
#[derive(Deserialize)]
struct Numbered {
    id: RequestId,
}

pub(crate) fn number(signal: i32) -> Result<Signal, Failure> {
    Signal::from_raw(signal).ok_or_else(|| {
        Failure::new(FailureKind::Invalid, format!("there is no signal with the number {signal}"))
    })
}

fn resized(result: Option<std::io::Result<()>>) -> Result<(), Failure> {
    match result {
        Some(result) => result.map_err(|error| Failure::cannot("resize the terminal", &error)),
        None => Err(Failure::new(FailureKind::Invalid, "the process has no terminal")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::protocol::RelayProtocol;

    #[test]
    fn ports_are_relayed_between_two_runs_and_whatever_others_do() {
        let run_dir = tempfile::tempdir().unwrap();
        let (_daemon, connection) = UnixStream::pair().unwrap();
        let mut supervisor = Supervisor::new(run_dir.path(), connection.into(), None).unwrap();
        let target = "127.0.0.1:9".parse().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = socket.local_addr().unwrap();
        let relayed = RelayedPort { protocol: RelayProtocol::Tcp, host, target, socket: true };
        // The target of a port that is not relayed can't change.
        let unknown = RelayedPort { host: target, socket: false, ..relayed };
        let open = |supervisor: &mut Supervisor| {
            let open = vec![unknown, relayed];
            let descriptors = Descriptors::new(vec![socket.try_clone().unwrap().into()]);
            supervisor.carry_out(Request::Relay { close: Vec::new(), open }, descriptors).unwrap_err()
        };
        assert_eq!(open(&mut supervisor).kind, FailureKind::WrongState);
        supervisor.life = Life::Restarting { due: Instant::now(), code: 1 };
        assert_ne!(open(&mut supervisor).kind, FailureKind::WrongState);
        assert!(supervisor.relay.is_some_and(|relay| !relay.is_unused()));
    }
}
