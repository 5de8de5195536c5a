//! The event loop: what is ready is dispatched, what has happened is journaled, what is due is done.
//!
//! A turn handles a batch of events and then, in this order: deadlines, the log, the daemon's connection, the clients. So
//! the daemon hears of an exec session's end before that session's client sees the end of its stream.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::event::{Epoll, Interest, Ready, SignalFd};
use palan_linux::process::{self, ExitStatus};
use palan_linux::signal::Signal;
use palan_linux::{memory, socket};
use palan_stdx::fs::{PathContext, PathError};
use rustix::io::Errno;

use crate::checkpoint::Saving;
use crate::control::Control;
use crate::health::Health;
use crate::journal::{Event, Journal};
use crate::launch::Container;
use crate::log::{Log, Stream};
use crate::oom::OomWatch;
use crate::own_cgroup;
use crate::protocol::frame::Frames;
use crate::protocol::{Failure, Message, SOCKET_NAME};
use crate::relay::Relay;
use crate::resolver::Resolver;
use crate::restart::Restarts;
use crate::session::Session;
use crate::wait::{Generation, HeldWaits};
use crate::watch::{INIT, SessionId, Token};

/// How long the daemon has after the end to read the journal and to answer its waits.
const DAEMON_GRACE: Duration = Duration::from_secs(5);

/// How often what failed for lack of space, memory or descriptors is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// After this time without events, what can wait is done.
const IDLE: Duration = Duration::from_secs(1);

/// What makes a supervisor end before its time. The container is killed by the kernel then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The run directory can't be used.
    #[error(transparent)]
    RunDirectory(#[from] PathError),
    /// Waiting for events does not work.
    #[error("cannot watch for events")]
    Events(#[source] std::io::Error),
    /// The connection that the daemon should have left us is not there.
    #[error("cannot use the daemon's connection")]
    Connection(#[source] std::io::Error),
}

impl From<Errno> for ServeError {
    fn from(errno: Errno) -> Self {
        Self::Events(errno.into())
    }
}

/// All that a supervisor knows.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) run_dir: PathBuf,
    pub(crate) epoll: Rc<Epoll>,
    signals: SignalFd,
    /// Tells that a child has ended, where orphans become children of this process.
    children: Option<SignalFd>,
    /// `None` once the container has ended: its place belongs to the next supervisor.
    pub(crate) listener: Option<OwnedFd>,
    /// When to look at the listener again that could not accept, for lack of descriptors say: it would stay readable.
    listener_rests_until: Option<Instant>,
    pub(crate) control: Option<Control>,
    generation: Generation,
    pub(crate) journal: Journal,
    pub(crate) life: Life,
    /// The container's stdio.
    pub(crate) stdio: Session,
    pub(crate) execs: Vec<Exec>,
    pub(crate) health: Option<Box<Health>>,
    pub(crate) restarts: Restarts,
    /// The checkpoint that is being made.
    pub(crate) saving: Option<Box<Saving>>,
    pub(crate) next_session: SessionId,
    pub(crate) log: Option<Log>,
    pub(crate) waits: HeldWaits,
    /// Where the container has one; boxed, since most have not.
    pub(crate) resolver: Option<Box<Resolver>>,
    /// The same.
    pub(crate) relay: Option<Box<Relay>>,
    /// Output passes through here; empty while there is none.
    pub(crate) output_buffer: Vec<u8>,
    /// The cgroup to move to once there is time.
    cgroup: Option<String>,
    /// There is something to do when nothing else is.
    pub(crate) idle_work: bool,
}

/// Where the container's life stands; see the crate's state machine.
#[derive(Debug)]
pub(crate) enum Life {
    Waiting,
    Running(Box<Running>),
    Draining {
        running: Box<Running>,
        status: ExitStatus,
        until: Instant,
    },
    /// Between two runs; the last one ended with `code`.
    Restarting {
        due: Instant,
        code: i32,
    },
    Finished(Finished),
}

/// A container whose init lives, or has just ended.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) container: Box<dyn Container>,
    pub(crate) paused: bool,
    /// When `Stop` turns to SIGKILL.
    pub(crate) kill_at: Option<Instant>,
    /// What SIGTERM to the supervisor means.
    pub(crate) stop_signal: Signal,
    pub(crate) stop_timeout: Duration,
    pub(crate) oom: OomWatch,
    pub(crate) started: Instant,
    /// Its end is to be followed by another run, whatever the policy.
    pub(crate) restart_asked: bool,
}

/// The container is gone.
#[derive(Debug)]
pub(crate) struct Finished {
    at: Instant,
    /// SIGTERM: clients are waited for no longer.
    clients_given_up: bool,
}

impl Finished {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), clients_given_up: false }
    }
}

/// An exec session.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) session: Session,
    pub(crate) phase: ExecPhase,
    /// It is a health check's, not a session of the daemon's.
    pub(crate) probe: bool,
}

impl Exec {
    /// Whether its process lives.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, ExecPhase::Running { .. })
    }
}

/// The life of an exec session.
#[derive(Debug)]
pub(crate) enum ExecPhase {
    Running { pidfd: OwnedFd },
    Draining { status: ExitStatus, until: Instant },
    Ended,
}

impl Supervisor {
    /// Takes its place in the run directory. `connection` leads to the daemon that spawned it.
    pub(crate) fn new(
        run_dir: &Path,
        connection: OwnedFd,
        cgroup: Option<String>,
    ) -> Result<Self, ServeError> {
        // First of all, since an earlier supervisor of this container may just be leaving.
        let journal = Journal::open(run_dir)?;
        let epoll = Rc::new(Epoll::new()?);
        let directory = palan_stdx::fs::open(run_dir)?;
        let listener =
            socket::listen_at(&directory, SOCKET_NAME, 0o600).path_context("listen in", run_dir)?;
        epoll.add(&listener, Token::Listener.encode(), Interest::READ)?;
        let signals = SignalFd::new(&[Signal::TERM.as_raw()])?;
        epoll.add(&signals, Token::Signals.encode(), Interest::READ)?;
        let frames = Frames::new(connection).map_err(ServeError::Connection)?;
        let control = Control::new(&epoll, frames, 1)?;
        Ok(Self {
            run_dir: run_dir.to_owned(),
            stdio: Session::new(&epoll, INIT),
            epoll,
            signals,
            children: None,
            listener: Some(listener),
            listener_rests_until: None,
            control: Some(control),
            generation: 1,
            journal,
            life: Life::Waiting,
            execs: Vec::new(),
            health: None,
            restarts: Restarts::default(),
            saving: None,
            next_session: INIT + 1,
            log: None,
            waits: HeldWaits::default(),
            resolver: None,
            relay: None,
            output_buffer: Vec::new(),
            cgroup,
            idle_work: false,
        })
    }

    /// Serves until the container has ended and everybody has been told.
    pub(crate) fn run(mut self) -> Result<(), ServeError> {
        let mut ready = Vec::new();
        while !self.is_done() {
            let deadline = self.deadline();
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = if self.idle_work {
                Some(timeout.map_or(IDLE, |timeout| timeout.min(IDLE)))
            } else {
                timeout
            };
            self.epoll.wait(&mut ready, timeout)?;
            if ready.is_empty() && self.idle_work && timeout == Some(IDLE) {
                self.work_while_idle();
            }
            for event in ready.drain(..) {
                self.dispatch(event)?;
            }
            self.end_turn()?;
        }
        if let Some(saving) = &self.saving {
            saving.give_up();
        }
        self.vacate();
        Ok(())
    }

    /// Appends to the journal and tells the daemon.
    pub(crate) fn record(&mut self, event: Event) {
        let entry = self.journal.append(event);
        if self.control.as_ref().is_some_and(|control| control.greeted) {
            self.send(&Message::Journal(entry));
        }
    }

    /// Queues a message for the daemon, if there is one.
    pub(crate) fn send(&mut self, message: &Message) {
        if let Some(control) = &mut self.control
            && control.queue(message).is_err()
        {
            self.lose_daemon();
        }
    }

    /// The daemon is gone, or talks nonsense.
    pub(crate) fn lose_daemon(&mut self) {
        self.control = None;
        match &self.life {
            Life::Waiting => self.life = Life::Finished(Finished::now()),
            // Those whose run has ended meanwhile.
            _ => self.waits.answer_orphans(None),
        }
    }

    /// Makes what the container's runtime leaves behind children of this process, and takes care of them.
    pub(crate) fn adopt_orphans(&mut self) -> Result<(), Failure> {
        process::become_subreaper().map_err(|error| Failure::cannot("become a subreaper", &error))?;
        let children = SignalFd::new(&[Signal::CHLD.as_raw()])?;
        self.epoll.add(&children, Token::Children.encode(), Interest::READ)?;
        self.children = Some(children);
        Ok(())
    }

    /// The container could not be started.
    pub(crate) fn abandon_start(&mut self) {
        self.stdio = Session::new(&self.epoll, INIT);
        self.waits.clear();
        self.log = None;
        self.resolver = None;
        self.relay = None;
        self.health = None;
        self.restarts.close();
        self.life = Life::Finished(Finished::now());
    }

    fn dispatch(&mut self, event: Ready) -> Result<(), ServeError> {
        match Token::decode(event.token) {
            Some(Token::Control) => self.serve_daemon(),
            Some(Token::Listener) => self.accept_daemon()?,
            Some(Token::Signals) => self.take_signals(),
            Some(Token::Children) => self.reap_children()?,
            Some(Token::Process(INIT)) => self.init_ready()?,
            Some(Token::Process(session)) => self.exec_ready(session)?,
            Some(Token::Output(session, stream)) => self.output_ready(session, stream),
            Some(Token::Input(session)) => {
                if let Some(session) = self.session(session) {
                    session.write_input();
                }
            }
            Some(Token::Client(session, client)) => self.client_ready(session, client, event),
            Some(Token::Oom) => self.oom_noticed(),
            Some(
                token @ (Token::ResolverUdp
                | Token::ResolverTcp
                | Token::ResolverClient(_)
                | Token::ResolverUpstream(_)),
            ) => self.resolver_ready(token),
            Some(Token::Relay) => {
                if let Some(relay) = &mut self.relay {
                    self.idle_work = true;
                    relay.ready();
                }
            }
            Some(Token::Checkpoint) => self.checkpoint_ready(),
            None => {}
        }
        Ok(())
    }

    fn resolver_ready(&mut self, token: Token) {
        let Some(resolver) = &mut self.resolver else { return };
        self.idle_work = true;
        match token {
            Token::ResolverUdp => resolver.udp_ready(),
            Token::ResolverTcp => resolver.tcp_ready(),
            Token::ResolverClient(number) => resolver.client_ready(number),
            Token::ResolverUpstream(number) => resolver.upstream_ready(number),
            _ => {}
        }
    }

    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        if id == INIT { Some(&mut self.stdio) } else { self.exec_of(id).map(|exec| &mut exec.session) }
    }

    pub(crate) fn exec_of(&mut self, session: SessionId) -> Option<&mut Exec> {
        self.execs.iter_mut().find(|exec| exec.session.id == session)
    }

    fn output_ready(&mut self, session: SessionId, stream: Stream) {
        self.idle_work = true;
        let mut buffer = std::mem::take(&mut self.output_buffer);
        if session == INIT {
            self.stdio.read_output(stream, self.log.as_mut(), &mut buffer);
        } else if let Some(exec) = self.exec_of(session) {
            exec.session.read_output(stream, None, &mut buffer);
        }
        self.output_buffer = buffer;
    }

    fn client_ready(&mut self, session: SessionId, client: u32, event: Ready) {
        let Some(session) = self.session(session) else { return };
        let id = session.id;
        if session.client_ready(client, event.read, event.closed) {
            let exec = self.exec_of(id).map(|exec| exec.name.clone());
            self.record(Event::Detach { exec });
        }
    }

    /// A newer connection replaces the older one: its daemon is another one, or has lost track.
    fn accept_daemon(&mut self) -> Result<(), ServeError> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let connection = match socket::accept(listener) {
            Ok(connection) => connection,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
            Err(_) => {
                self.epoll.mute(listener, Token::Listener.encode())?;
                self.listener_rests_until = Some(Instant::now() + RETRY);
                return Ok(());
            }
        };
        let ours = rustix::process::geteuid().as_raw();
        let allowed =
            socket::peer_credentials(&connection).is_ok_and(|peer| peer.uid == 0 || peer.uid == ours);
        // Before the start only the daemon that spawned us counts.
        if !allowed || matches!(self.life, Life::Waiting) {
            return Ok(());
        }
        // For lack of memory, or of watches that the kernel allows: the daemon will try again.
        let Ok(frames) = Frames::new(connection) else { return Ok(()) };
        let Ok(control) = Control::new(&self.epoll, frames, self.generation + 1) else { return Ok(()) };
        self.generation += 1;
        self.control = Some(control);
        Ok(())
    }

    fn take_signals(&mut self) {
        while let Ok(Some(_)) = self.signals.next() {
            match &mut self.life {
                Life::Waiting => self.lose_daemon(),
                Life::Running(running) => {
                    let (signal, timeout) = (running.stop_signal, running.stop_timeout);
                    self.restarts.forbid();
                    // Init may be ending just now.
                    let _ = self.stop(signal, Some(timeout));
                }
                Life::Draining { .. } => self.restarts.forbid(),
                Life::Restarting { code, .. } => {
                    let code = *code;
                    self.end_between_runs(Event::RestartCanceled, code);
                }
                Life::Finished(finished) => finished.clients_given_up = true,
            }
        }
    }

    /// A child has ended: one whose end counts, or an orphan, which only has to be reaped.
    fn reap_children(&mut self) -> Result<(), ServeError> {
        while let Some(children) = &self.children
            && children.next()?.is_some()
        {}
        while let Some(pid) = process::ended_child().map_err(ServeError::Events)? {
            let number = pid.as_raw_nonzero().get();
            let is_running =
                |exec: &&Exec| exec.pid == number && matches!(exec.phase, ExecPhase::Running { .. });
            if matches!(&self.life, Life::Running(running) if running.container.pid() == number) {
                self.init_ready()?;
            } else if let Some(exec) = self.execs.iter().find(is_running) {
                self.exec_ready(exec.session.id)?;
            } else {
                process::reap(pid).map_err(ServeError::Events)?;
            }
        }
        Ok(())
    }

    fn end_turn(&mut self) -> Result<(), ServeError> {
        let now = Instant::now();
        self.wake_listener(now)?;
        self.kill_if_due(now);
        if let Some(resolver) = &mut self.resolver {
            resolver.expire(now);
        }
        if let Some(relay) = &mut self.relay {
            relay.expire(now);
        }
        if matches!(&self.life, Life::Running(running) if running.oom.is_due(now)) {
            self.note_oom_kills();
        }
        self.tend_health(now);
        self.finish_execs(now);
        self.finish_run_if_drained(now);
        self.restart_if_due(now);
        if let Some(lost) = self.log.as_mut().and_then(Log::flush) {
            self.record(Event::LogLost { lines: lost.lines, reason: lost.reason });
        }
        self.journal.write_unwritten();
        if self.control.as_mut().is_some_and(|control| control.flush().is_err()) {
            self.lose_daemon();
        }
        self.stdio.end_turn(now)?;
        for exec in &mut self.execs {
            exec.session.end_turn(now)?;
        }
        self.execs.retain(|exec| !matches!(exec.phase, ExecPhase::Ended) || exec.session.has_clients());
        Ok(())
    }

    fn wake_listener(&mut self, now: Instant) -> Result<(), ServeError> {
        if self.listener_rests_until.is_some_and(|until| until <= now) {
            self.listener_rests_until = None;
            if let Some(listener) = &self.listener {
                self.epoll.modify(listener, Token::Listener.encode(), Interest::READ)?;
            }
        }
        Ok(())
    }

    fn kill_if_due(&mut self, now: Instant) {
        if let Life::Running(running) = &mut self.life
            && running.kill_at.is_some_and(|kill_at| kill_at <= now)
        {
            running.kill_at = None;
            // It may have ended just now.
            let _ = running.container.signal(Signal::KILL);
        }
    }

    /// The nearest point in time at which something is due.
    fn deadline(&self) -> Option<Instant> {
        let life = match &self.life {
            Life::Waiting => None,
            Life::Running(running) => {
                let health = self.health.as_ref().and_then(|health| health.deadline());
                running.kill_at.into_iter().chain(running.oom.deadline()).chain(health).min()
            }
            Life::Draining { until, .. } => Some(*until),
            Life::Restarting { due, .. } => Some(*due),
            Life::Finished(finished) => {
                let until = finished.at + DAEMON_GRACE;
                (!self.daemon_is_done() && Instant::now() < until).then_some(until)
            }
        };
        let execs = self.execs.iter().filter_map(|exec| match exec.phase {
            ExecPhase::Draining { until, .. } => Some(until),
            ExecPhase::Running { .. } | ExecPhase::Ended => None,
        });
        let journal = (!self.journal.is_written()).then(|| Instant::now() + RETRY);
        let log = self.log.as_ref().and_then(Log::deadline);
        let clients =
            self.execs.iter().map(|exec| &exec.session).chain([&self.stdio]).filter_map(Session::deadline);
        let resolver = self.resolver.as_ref().and_then(|resolver| resolver.deadline());
        let relay = self.relay.as_ref().and_then(|relay| relay.deadline());
        execs
            .chain(life)
            .chain(resolver)
            .chain(relay)
            .chain(self.listener_rests_until)
            .chain(journal)
            .chain(log)
            .chain(clients)
            .min()
    }

    fn daemon_is_done(&self) -> bool {
        self.waits.is_empty()
            && self.saving.is_none()
            && self.journal.is_written()
            && self.control.as_ref().is_none_or(Control::is_flushed)
    }

    fn is_done(&self) -> bool {
        let Life::Finished(finished) = &self.life else { return false };
        let clients_done = !self.stdio.has_clients() && self.execs.is_empty();
        let daemon_done = self.daemon_is_done() || finished.at.elapsed() >= DAEMON_GRACE;
        daemon_done && (clients_done || finished.clients_given_up)
    }

    /// Does what no start shall wait for.
    fn work_while_idle(&mut self) {
        self.idle_work = false;
        if let Some(cgroup) = self.cgroup.take() {
            own_cgroup::join(&cgroup);
        }
        self.output_buffer = Vec::new();
        if let Some(resolver) = &mut self.resolver {
            resolver.release_memory();
        }
        if let Some(relay) = &mut self.relay {
            relay.release_memory();
        }
        if let Some(log) = &mut self.log {
            log.release_memory();
        }
        memory::trim();
        memory::release_stack();
    }
}
