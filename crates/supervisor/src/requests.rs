//! What the daemon asks for, carried out.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use palan_linux::event::Interest;
use palan_linux::process;
use palan_linux::signal::Signal;
use palan_runtime::seccomp::Program;
use rustix::io::Errno;
use serde::Deserialize;

use crate::attach::Typed;
use crate::health::Health;
use crate::journal::Event;
use crate::launch::{self, Execed};
use crate::log::Log;
use crate::oom::OomWatch;
use crate::protocol::frame::Frame;
use crate::protocol::{
    AttachOptions, Config, ExecOptions, ExecState, Failure, FailureKind, Message, RelayedPort, Reply,
    Request, RequestFrame, RequestId, State, TerminalSize, VERSION, WaitOptions, Welcome,
};
use crate::relay::Relay;
use crate::resolver::Resolver;
use crate::serve::{Exec, ExecPhase, Life, Running, Supervisor};
use crate::session::{InputEnd, Session};
use crate::watch::{INIT, Token};

/// The largest configuration; the daemon's own limits are far below.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// Which descriptors come with a start.
#[derive(Clone, Copy)]
struct StartFlags {
    seccomp: bool,
    network_namespace: bool,
    resolver: bool,
}

/// Descriptors that came with a request, taken in their order.
struct Descriptors(VecDeque<OwnedFd>);

impl Descriptors {
    fn take(&mut self, what: &str) -> Result<OwnedFd, Failure> {
        self.0
            .pop_front()
            .ok_or_else(|| Failure::new(FailureKind::Invalid, format!("the request lacks {what}")))
    }
}

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
            Ok(RequestFrame { id, request }) => {
                (id, self.carry_out(request, Descriptors(frame.descriptors.into())))
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
            Life::Draining { .. } | Life::Finished(_) => State::Exited,
        }
    }

    fn carry_out(&mut self, request: Request, mut descriptors: Descriptors) -> Result<Reply, Failure> {
        match request {
            Request::Hello { .. } | Request::Sync => {}
            Request::Start { seccomp, network_namespace, resolver, attach, waits } => {
                let flags = StartFlags { seccomp, network_namespace, resolver };
                return self.start(flags, &attach, waits, descriptors);
            }
            Request::Resolve => {
                self.running()?;
                self.serve_names(&mut descriptors)?;
            }
            Request::Relay { close, open } => {
                self.running()?;
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
            Request::AckJournal { seq } => self.journal.acknowledge(seq),
        }
        Ok(Reply::Done)
    }

    /// Begins to answer on the resolver's sockets.
    fn serve_names(&mut self, descriptors: &mut Descriptors) -> Result<(), Failure> {
        let udp = descriptors.take("the resolver's UDP socket")?;
        let tcp = descriptors.take("the resolver's TCP socket")?;
        // The old one's descriptors go first, as the new ones have the same tokens.
        self.resolver = None;
        let resolver = Resolver::new(&self.epoll, &self.run_dir, udp, tcp)
            .map_err(|errno| Failure::cannot("watch the resolver's sockets", &std::io::Error::from(errno)))?;
        self.resolver = Some(Box::new(resolver));
        Ok(())
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
        for port in open {
            let socket = if port.socket { Some(descriptors.take("a socket to relay")?) } else { None };
            relay.open(port, socket).map_err(failed)?;
        }
        if relay.is_unused() {
            self.relay = None;
        }
        self.idle_work = true;
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Running, Failure> {
        match &mut self.life {
            Life::Running(running) => Ok(running),
            Life::Waiting | Life::Draining { .. } | Life::Finished(_) => {
                Err(Failure::new(FailureKind::WrongState, "the container is not running"))
            }
        }
    }

    fn start(
        &mut self,
        flags: StartFlags,
        attach: &[AttachOptions],
        waits: Vec<WaitOptions>,
        descriptors: Descriptors,
    ) -> Result<Reply, Failure> {
        if !matches!(self.life, Life::Waiting) {
            return Err(Failure::new(FailureKind::WrongState, "the container has been started already"));
        }
        let started = self.try_start(flags, attach, waits, descriptors);
        match &started {
            Ok(Reply::Started { pid, .. }) => self.record(Event::Start { pid: *pid }),
            Ok(_) => {}
            Err(failure) => {
                self.abandon_start();
                self.record(Event::StartFailed { kind: failure.kind, message: failure.message.clone() });
            }
        }
        started
    }

    fn try_start(
        &mut self,
        flags: StartFlags,
        attach: &[AttachOptions],
        waits: Vec<WaitOptions>,
        mut descriptors: Descriptors,
    ) -> Result<Reply, Failure> {
        let mut config = read_config(&descriptors.take("the configuration")?.into())?;
        self.journal.continue_after(config.journal_after);
        let seccomp =
            if flags.seccomp { Some(read_program(descriptors.take("the seccomp program")?)?) } else { None };
        let namespace =
            if flags.network_namespace { Some(descriptors.take("the network namespace")?) } else { None };
        if flags.resolver {
            self.serve_names(&mut descriptors)?;
        }
        let stop_signal = number(config.stop_signal)?;
        self.log = Log::open(config.log.clone()).map_err(|error| Failure {
            kind: if error.kind() == std::io::ErrorKind::StorageFull {
                FailureKind::NoSpace
            } else {
                FailureKind::Other
            },
            message: palan_stdx::error_chain::to_string(&error),
        })?;

        if config.runtime.is_some() {
            self.adopt_orphans()?;
        }
        let (created, ends) = launch::create(&config, &self.run_dir, seccomp.as_ref(), namespace)?;
        let terminal = ends.stdout.is_some() && ends.stderr.is_none();
        let input_end = if config.stdin_once && !terminal { InputEnd::Closes } else { InputEnd::Detaches };
        self.stdio.connect(ends, terminal, input_end)?;
        for options in attach {
            let client = descriptors.take("a client's connection")?;
            self.attach_client(client, options)?;
        }
        for options in waits {
            let connection = descriptors.take("a waiting connection")?;
            self.hold_wait(connection, options);
        }
        self.epoll.add(created.pidfd(), Token::Process(INIT).encode(), Interest::READ)?;
        let container = created.start()?;

        let reply = Reply::Started {
            pid: container.pid(),
            time_ns: crate::log::timestamp::now(),
            warnings: container.warnings(),
        };
        self.life = Life::Running(Box::new(Running {
            container,
            paused: false,
            kill_at: None,
            stop_signal,
            stop_timeout: Duration::from_millis(config.stop_timeout_ms),
            oom: OomWatch::new(Instant::now()),
        }));
        let health = config.health.take();
        self.health = health.map(|health| Box::new(Health::new(health, seccomp, Instant::now())));
        self.idle_work = true;
        Ok(reply)
    }

    fn attach(&mut self, options: &AttachOptions, mut descriptors: Descriptors) -> Result<(), Failure> {
        self.running()?;
        self.attach_client(descriptors.take("the client's connection")?, options)
    }

    fn attach_client(&mut self, client: OwnedFd, options: &AttachOptions) -> Result<(), Failure> {
        if self.stdio.attach(client, options)? == Typed::Detached {
            self.record(Event::Detach { exec: None });
        }
        Ok(())
    }

    fn hold_wait(&mut self, connection: OwnedFd, options: WaitOptions) {
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
        if self.execs.iter().any(|exec| exec.name == options.exec) {
            return Err(Failure::new(FailureKind::Invalid, "there is an exec session of this name already"));
        }
        let seccomp = if options.seccomp {
            Some(read_program(descriptors.take("the seccomp program")?)?)
        } else {
            None
        };
        let client = match &options.attach {
            Some(attach) => Some((descriptors.take("the client's connection")?, attach)),
            None => None,
        };
        let Life::Running(running) = &self.life else {
            return Err(Failure::new(FailureKind::WrongState, "the container is not running"));
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

fn read_config(file: &File) -> Result<Config, Failure> {
    let bytes = read_all(file).map_err(|error| Failure::cannot("read the configuration", &error))?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(FailureKind::Invalid, format!("cannot understand the configuration: {error}"))
    })?;
    // What a later version has added would be ignored here, and the container not be what was asked for.
    if config.version > VERSION {
        let message =
            format!("the configuration has version {}, this supervisor knows {VERSION}", config.version);
        return Err(Failure::new(FailureKind::Unsupported, message));
    }
    Ok(config)
}

fn read_program(descriptor: OwnedFd) -> Result<Program, Failure> {
    let bytes =
        read_all(&descriptor.into()).map_err(|error| Failure::cannot("read the seccomp program", &error))?;
    Program::from_bytes(&bytes)
        .map_err(|error| Failure::new(FailureKind::Invalid, palan_stdx::error_chain::to_string(&error)))
}

/// Reads a file by position: the offset is shared with the daemon, which may have handed it to others, too.
fn read_all(file: &File) -> std::io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX_CONFIG {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn number(signal: i32) -> Result<Signal, Failure> {
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
