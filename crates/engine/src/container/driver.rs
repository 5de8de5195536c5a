//! Drives one container through its life. One task owns the state; everyone else sends it an [`Action`].
//!
//! ```text
//!            ┌──────────── start failed ─────────┐
//!            ▼                                   │
//! Created ─start─▶ (network, supervisor) ─started─▶ Running ◀─pause/unpause─▶ Paused
//!    │                     ▲                          └────────── exit ─────────┤
//!    │                     └────────── start ────────── Exited ◀────────────────┘
//!    └──────────── remove ───────▶ Removing ◀── remove ───┘      (Dead: a removal that failed half-way)
//! ```
//!
//! - Who drives: front doors through [`Action`]s; the supervisor through journal entries, which arrive on the
//!   [`Link`] and are applied once, by their sequence numbers, however often they come.
//! - A start takes as long as it takes and nothing else is served meanwhile; all else returns to the queue at once: a stop
//!   is a request to the supervisor (which keeps the time) and an entry in `stoppers` until the exit arrives.
//! - Invariant: the database has a transition before anyone hears of it, and the supervisor has confirmed it before.
//! - Nothing here blocks the reactor: files and network are worked on by blocking threads.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use palan_supervisor::journal::{Entry, Event as JournalEvent};
use palan_supervisor::protocol::{
    AttachOptions, Failure, FailureKind, Message, Reply as Answer, Request, RequestId, TerminalSize,
    WaitOptions,
};
use tokio::sync::mpsc;

use crate::container::exec::Session;
use crate::container::index::{Handle, Life, Reply};
use crate::container::link::Link;
use crate::container::{Details, RemoveOptions, Status, WaitHold, health};
use crate::db::Change;
use crate::engine::Engine;
use crate::events::{Event, ObjectKind};
use crate::{Class, Error, Result};

/// What can be asked of a driver. The states in which each is legal stand with it.
#[derive(Debug)]
pub(crate) enum Action {
    /// Created, Exited. `NotModified` when Running.
    Start { reply: Reply<()> },
    /// Running, Paused; answered at the exit. `NotModified` otherwise.
    Stop { signal: i32, timeout: Option<Duration>, reply: Reply<()> },
    /// Running, Paused.
    Kill { signal: i32, reply: Reply<()> },
    /// Running.
    Pause { reply: Reply<()> },
    /// Paused.
    Unpause { reply: Reply<()> },
    /// Running, Paused.
    Resize { size: TerminalSize, reply: Reply<()> },
    /// Any.
    Rename { name: String, reply: Reply<()> },
    /// Created, Exited, Dead; with force any.
    Remove { options: RemoveOptions, reply: Reply<()> },
    /// Any but Paused; before a start the connection is kept for it.
    Attach { options: AttachOptions, socket: OwnedFd, reply: Reply<()> },
    /// Any.
    HoldWait { key: u64, hold: WaitHold },
    /// Any.
    ReleaseWait { key: u64 },
    /// Running.
    ExecStart { session: Arc<Session>, client: Option<(AttachOptions, OwnedFd)>, reply: Reply<()> },
    /// Running.
    ExecResize { id: String, size: TerminalSize, reply: Reply<()> },
    /// Running: answered when all that the supervisor has noted so far is here.
    Sync { reply: Reply<()> },
    /// Any.
    Connect { connection: crate::network::Connection, reply: Reply<()> },
    /// Any.
    Disconnect { disconnection: crate::network::Disconnection, reply: Reply<()> },
    /// Any: emits an event about the container without a change.
    Emit { action: String },
    /// The daemon ends: the task ends, the container goes on.
    Quit,
}

/// What is done when the supervisor has answered a request.
pub(crate) enum Pending {
    /// The caller gets the outcome.
    Reply(Reply<()>),
    /// The caller gets the outcome of an exec start.
    Exec(Arc<Session>, Reply<()>),
    /// A start waits for it.
    Start,
    /// Nobody waits, but a failure is worth a line in the log: what could not be done.
    Noted(&'static str),
    /// Nobody waits.
    Nobody,
}

/// The state of the task.
pub(crate) struct Driver {
    pub(crate) engine: Arc<Engine>,
    pub(super) handle: Arc<Handle>,
    inbox: mpsc::Receiver<Box<Action>>,
    pub(super) link: Option<Link>,
    pub(super) pending: HashMap<RequestId, Pending>,
    /// Answered at the next exit.
    pub(super) stoppers: Vec<Reply<()>>,
    /// Carried out after the next exit.
    pub(super) removal: Option<(RemoveOptions, Reply<()>)>,
    /// Clients that attached before the start.
    pub(super) early_clients: Vec<(AttachOptions, OwnedFd)>,
    /// Connections that wait for an exit, by key.
    pub(super) holds: BTreeMap<u64, WaitHold>,
    /// How the start that is under way ended.
    pub(super) start_outcome: Option<Result<(), Failure>>,
}

/// Whether the task goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    End,
}

/// Starts the task of a container. `link` is the connection to a supervisor that was found running.
pub(crate) fn spawn(
    engine: Arc<Engine>,
    handle: Arc<Handle>,
    inbox: mpsc::Receiver<Box<Action>>,
    link: Option<Link>,
) {
    let driver = Driver {
        engine,
        handle,
        inbox,
        link,
        pending: HashMap::new(),
        stoppers: Vec::new(),
        removal: None,
        early_clients: Vec::new(),
        holds: BTreeMap::new(),
        start_outcome: None,
    };
    tokio::spawn(driver.run());
}

enum Next {
    Action(Option<Box<Action>>),
    Message(Result<Message, palan_supervisor::client::ClientError>),
}

impl Driver {
    async fn run(mut self) {
        loop {
            let next = tokio::select! {
                biased;
                message = receive(self.link.as_mut()) => Next::Message(message),
                action = self.inbox.recv() => Next::Action(action),
            };
            // Boxed, so that an idle container's task is small.
            let flow = match next {
                Next::Message(Ok(message)) => Box::pin(self.on_message(message)).await,
                Next::Message(Err(error)) => Box::pin(self.on_link_lost(&error)).await,
                Next::Action(Some(action)) => Box::pin(self.on_action(*action)).await,
                Next::Action(None) => Flow::End,
            };
            if flow == Flow::End {
                break;
            }
        }
        if let Some(link) = self.link.take().filter(|_| !self.details().state.status.is_live()) {
            link.linger();
        }
    }

    pub(crate) fn details(&self) -> Arc<Details> {
        self.handle.details()
    }

    async fn on_action(&mut self, action: Action) -> Flow {
        match action {
            Action::Start { reply } => {
                let outcome = self.start().await;
                let failed_for_good = outcome.is_err() && self.gives_up_after_failed_start(&outcome);
                // The caller may have gone.
                let _ = reply.send(outcome);
                if failed_for_good {
                    return self
                        .remove_now(RemoveOptions { volumes: true, ..RemoveOptions::default() }, None)
                        .await;
                }
                return self.after_exit().await;
            }
            Action::Stop { signal, timeout, reply } => self.stop(signal, timeout, reply).await,
            Action::Kill { signal, reply } => self.kill(signal, reply).await,
            Action::Pause { reply } => self.pause(reply),
            Action::Unpause { reply } => self.unpause(reply),
            Action::Resize { size, reply } => match self.live() {
                Ok(()) => self.request(Request::Resize(size), Vec::new(), Pending::Reply(reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Action::Rename { name, reply } => drop(reply.send(self.rename(name).await)),
            Action::Remove { options, reply } => return self.remove(options, reply).await,
            Action::Attach { options, socket, reply } => self.attach(options, socket, reply).await,
            Action::HoldWait { key, hold } => self.hold_wait(key, hold),
            Action::ReleaseWait { key } => self.release_wait(key),
            Action::ExecStart { session, client, reply } => self.exec_start(session, client, reply).await,
            Action::ExecResize { id, size, reply } => {
                let request = Request::ExecResize { exec: id, size };
                self.request(request, Vec::new(), Pending::Reply(reply));
            }
            Action::Sync { reply } => self.request(Request::Sync, Vec::new(), Pending::Reply(reply)),
            Action::Connect { connection, reply } => self.connect(connection, reply).await,
            Action::Disconnect { disconnection, reply } => self.disconnect(disconnection, reply).await,
            Action::Emit { action } => {
                let event = container_event(&self.details(), &action, []);
                self.commit_or_log(Change::new().event(event)).await;
            }
            Action::Quit => return Flow::End,
        }
        Flow::Continue
    }

    async fn on_message(&mut self, message: Message) -> Flow {
        match message {
            Message::Journal(entry) => return self.on_entry(entry).await,
            Message::Reply { id, result } => self.on_reply(id, result),
            Message::Welcome(welcome) => {
                for exec in welcome.execs {
                    self.engine.sessions.found_running(&self.handle.id, &exec.exec, exec.pid);
                }
            }
            Message::Unknown => {}
        }
        Flow::Continue
    }

    /// Takes messages until the start that is under way is answered.
    pub(super) async fn await_start(&mut self) -> Result<(), Failure> {
        let lost = |reason: String| Failure {
            kind: FailureKind::Other,
            message: format!("the supervisor of the container ended during its start: {reason}"),
        };
        loop {
            if let Some(outcome) = self.start_outcome.take() {
                return outcome;
            }
            let Some(link) = self.link.as_mut() else { return Err(lost("no connection".into())) };
            match link.receive().await {
                // A start failure is told by the reply, with the same facts; only its number is kept.
                Ok(Message::Journal(Entry { seq, event: JournalEvent::StartFailed { .. }, .. })) => {
                    let mut next = (*self.details()).clone();
                    next.journal_seq = next.journal_seq.max(seq);
                    self.record(next, Change::new()).await;
                }
                Ok(message) => {
                    // Nothing that comes before the answer to a start ends a container.
                    Box::pin(self.on_message(message)).await;
                }
                Err(error) => return Err(lost(palan_stdx::error_chain::to_string(&error))),
            }
        }
    }

    fn on_reply(&mut self, id: RequestId, result: Result<Answer, Failure>) {
        match self.pending.remove(&id) {
            None | Some(Pending::Nobody) => {}
            Some(Pending::Noted(what)) => {
                // The container may just have ended.
                if let Err(failure) = result
                    && failure.kind != FailureKind::WrongState
                {
                    tracing::warn!(container = self.handle.id, error = failure.message, "cannot {what}");
                }
            }
            Some(Pending::Start) => self.start_outcome = Some(result.map(drop)),
            Some(Pending::Reply(reply)) => drop(reply.send(result.map(drop).map_err(request_error))),
            Some(Pending::Exec(session, reply)) => {
                let outcome = match result {
                    Ok(Answer::ExecStarted { pid }) => {
                        session.started(pid);
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                    Err(failure) => {
                        session.ended(failure.kind.exit_code());
                        Err(crate::container::exec::start_error(&failure))
                    }
                };
                // The caller may have gone; the session goes on.
                let _ = reply.send(outcome);
            }
        }
    }

    /// Applies a journal entry that is not in the database yet.
    async fn on_entry(&mut self, entry: Entry) -> Flow {
        let details = self.details();
        if entry.seq <= details.journal_seq {
            return Flow::Continue;
        }
        let time = timestamp(entry.time_ns);
        let mut next = (*details).clone();
        next.journal_seq = entry.seq;
        if let Some(events) = health::apply(&mut next, &entry) {
            self.commit_entry(next, Change::new().events(events)).await;
            return Flow::Continue;
        }
        let event = |action: &str| Some(container_event(&details, action, []));
        let event = match entry.event {
            JournalEvent::Exit { code, oom, .. } => {
                self.on_exit(next, time, code, oom, String::new()).await;
                return self.after_exit().await;
            }
            JournalEvent::StartFailed { kind, message, .. } => {
                next.state.error = start_failure_text(&message);
                next.state.exit_code = kind.exit_code();
                None
            }
            JournalEvent::Start { pid } => {
                next.state = crate::container::State {
                    status: Status::Running,
                    pid,
                    started_at: Some(time),
                    finished_at: details.state.finished_at,
                    health: health::begin(&details),
                    ..Default::default()
                };
                next.run += 1;
                event("start")
            }
            JournalEvent::Oom => {
                next.state.oom_killed = true;
                event("oom")
            }
            JournalEvent::Pause => {
                next.state.status = Status::Paused;
                health::end(&mut next.state);
                event("pause")
            }
            JournalEvent::Resume => {
                next.state.status = Status::Running;
                event("unpause")
            }
            JournalEvent::ExecStart { exec, pid } => {
                self.engine.sessions.found_running(&self.handle.id, &exec, pid);
                None
            }
            JournalEvent::ExecFailed { exec, kind, .. } => {
                self.engine.sessions.ended(&self.handle.id, &exec, kind.exit_code());
                None
            }
            JournalEvent::ExecExit { exec, code, .. } => {
                self.engine.sessions.ended(&self.handle.id, &exec, code);
                let facts = [("execID", exec), ("exitCode", code.to_string())];
                Some(container_event(&details, "exec_die", facts))
            }
            JournalEvent::Detach { exec: None } => event("detach"),
            JournalEvent::Detach { exec: Some(exec) } => {
                Some(container_event(&details, "exec_detach", [("execID", exec)]))
            }
            JournalEvent::LogLost { lines, reason } => {
                tracing::warn!(container = self.handle.id, lines, reason, "lines of the log were lost");
                None
            }
            JournalEvent::ProbeStart { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::ProbeAborted { .. }
            | JournalEvent::Health { .. }
            | JournalEvent::Unknown => None,
        };
        let mut change = Change::new();
        if let Some(event) = event {
            let event = Event { time, ..event };
            change = change.event(event);
        }
        self.commit_entry(next, change).await;
        Flow::Continue
    }

    /// Commits what a journal entry has told, and says so.
    async fn commit_entry(&mut self, next: Details, change: Change) {
        let seq = next.journal_seq;
        self.commit_details(next, change).await;
        self.request(Request::AckJournal { seq }, Vec::new(), Pending::Nobody);
    }

    /// The connection has ended: after an exit that is its proper end, else the supervisor died.
    async fn on_link_lost(&mut self, error: &palan_supervisor::client::ClientError) -> Flow {
        if let Some(link) = self.link.take() {
            link.linger();
        }
        let failure = || {
            let error = Error::new(Class::Unavailable, "the container has ended");
            error.with_source(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
        };
        for (_, pending) in self.pending.drain() {
            if let Pending::Reply(reply) | Pending::Exec(_, reply) = pending {
                // The caller may have gone.
                let _ = reply.send(Err(failure()));
            }
        }
        if !self.details().state.status.is_live() {
            return Flow::Continue;
        }
        tracing::warn!(container = self.handle.id, %error, "lost the supervisor of a running container");
        self.settle_without_supervisor().await;
        self.after_exit().await
    }

    /// Sends a request to the supervisor, or fails it at once.
    pub(crate) fn request(&mut self, request: Request, descriptors: Vec<OwnedFd>, pending: Pending) {
        let outcome = match self.link.as_mut() {
            Some(link) => link.send(request, descriptors).map_err(|source| {
                Error::system("cannot reach the supervisor of the container").with_source(source)
            }),
            None => Err(not_running(&self.handle.id)),
        };
        match (outcome, pending) {
            (Ok(id), pending) => drop(self.pending.insert(id, pending)),
            (Err(error), Pending::Reply(reply) | Pending::Exec(_, reply)) => drop(reply.send(Err(error))),
            (Err(error), Pending::Start) => {
                let message = error.report();
                let failure = Failure { kind: FailureKind::Other, message };
                self.start_outcome = Some(Err(failure));
            }
            (Err(_), Pending::Noted(_) | Pending::Nobody) => {}
        }
    }

    /// Commits the changed details and publishes them, even when the database refuses: what happened has happened, and the
    /// journal will tell it again after a restart.
    pub(crate) async fn commit_details(&mut self, details: Details, change: Change) {
        let status = details.state.status;
        self.record(details, change).await;
        self.handle.life.send_modify(|life| life.status = status);
    }

    /// The same without telling those that wait.
    pub(super) async fn record(&self, details: Details, change: Change) {
        let details = Arc::new(details);
        self.commit_or_log(change.put_container(details.clone())).await;
        self.handle.publish(details);
    }

    pub(super) async fn commit_or_log(&self, change: Change) {
        if let Err(error) = self.engine.db.commit(change).await {
            tracing::error!(container = self.handle.id, error = error.report(), "a change was not recorded");
        }
    }

    /// Tells all that wait for an exit. The supervisor is told first that it need not answer for the daemon.
    pub(super) fn announce_exit(&mut self, code: i32) {
        for key in std::mem::take(&mut self.holds).into_keys() {
            self.request(Request::ReleaseWait { key }, Vec::new(), Pending::Nobody);
        }
        self.handle.life.send_modify(|life: &mut Life| {
            life.status = Status::Exited;
            life.exits += 1;
            life.exit_code = code;
        });
    }

    /// An error unless there is a process.
    pub(super) fn live(&self) -> Result<()> {
        if self.details().state.status.is_live() { Ok(()) } else { Err(not_running(&self.handle.id)) }
    }

    async fn stop(&mut self, signal: i32, timeout: Option<Duration>, reply: Reply<()>) {
        let details = self.details();
        if !details.state.status.is_live() {
            let error =
                Error::not_modified(format!("container {} is already stopped", short(&self.handle.id)));
            return drop(reply.send(Err(error)));
        }
        self.mark_stopped_by_user(&details, signal).await;
        if details.state.status == Status::Paused {
            // A frozen process can't act on a signal.
            self.request(Request::Resume, Vec::new(), Pending::Nobody);
        }
        let timeout_ms = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.request(Request::Stop { signal, timeout_ms }, Vec::new(), Pending::Nobody);
        self.stoppers.push(reply);
    }

    async fn kill(&mut self, signal: i32, reply: Reply<()>) {
        let details = self.details();
        if !details.state.status.is_live() {
            let id = short(&self.handle.id);
            let error = Error::conflict(format!(
                "cannot kill container: {id}: container {} is not running",
                self.handle.id
            ));
            return drop(reply.send(Err(error)));
        }
        const SIGKILL: i32 = 9;
        self.mark_stopped_by_user(&details, signal).await;
        if details.state.status == Status::Paused && signal == SIGKILL {
            self.request(Request::Resume, Vec::new(), Pending::Nobody);
        }
        self.request(Request::Signal { signal }, Vec::new(), Pending::Reply(reply));
    }

    async fn mark_stopped_by_user(&mut self, details: &Details, signal: i32) {
        let mut next = details.clone();
        next.state.stopped_by_user = true;
        let event = container_event(details, "kill", [("signal", signal.to_string())]);
        self.commit_details(next, Change::new().event(event)).await;
    }

    fn pause(&mut self, reply: Reply<()>) {
        let error = match self.details().state.status {
            Status::Running => return self.request(Request::Pause, Vec::new(), Pending::Reply(reply)),
            Status::Paused => Error::conflict(format!("Container {} is already paused", self.handle.id)),
            _ => Error::conflict(format!("Container {} is not running", self.handle.id)),
        };
        drop(reply.send(Err(error)));
    }

    fn unpause(&mut self, reply: Reply<()>) {
        if self.details().state.status == Status::Paused {
            return self.request(Request::Resume, Vec::new(), Pending::Reply(reply));
        }
        drop(reply.send(Err(Error::conflict(format!("Container {} is not paused", self.handle.id)))));
    }

    /// The name is reserved before; here it becomes the container's, or is given back.
    async fn rename(&mut self, name: String) -> Result<()> {
        let details = self.details();
        let mut next = (*details).clone();
        next.name.clone_from(&name);
        let event = container_event(&next, "rename", [("oldName", format!("/{}", details.name))]);
        let next = Arc::new(next);
        let change = Change::new().put_container(next.clone()).event(event);
        if let Err(error) = self.engine.db.commit(change).await {
            self.engine.index.release(&name, &self.handle.id);
            return Err(error);
        }
        self.handle.publish(next);
        self.engine.index.release(&details.name, &self.handle.id);
        self.engine.publish_names(crate::network::endpoints::network_ids(&details)).await;
        Ok(())
    }

    async fn attach(&mut self, options: AttachOptions, socket: OwnedFd, reply: Reply<()>) {
        let details = self.details();
        let change = Change::new().event(container_event(&details, "attach", []));
        match details.state.status {
            Status::Running | Status::Paused => {
                self.request(Request::Attach(options), vec![socket], Pending::Reply(reply));
            }
            Status::Created | Status::Exited => {
                const MOST: usize = 64;
                self.early_clients.retain(|(_, socket)| !has_hung_up(socket));
                if self.early_clients.len() >= MOST {
                    let text =
                        format!("{MOST} clients wait already to be attached to {}", short(&self.handle.id));
                    return drop(reply.send(Err(Error::conflict(text))));
                }
                self.early_clients.push((options, socket));
                drop(reply.send(Ok(())));
            }
            Status::Removing | Status::Dead => {
                drop(
                    reply
                        .send(Err(Error::conflict(format!("container {} is being removed", self.handle.id)))),
                );
                return;
            }
        }
        self.commit_or_log(change).await;
    }

    fn hold_wait(&mut self, key: u64, hold: WaitHold) {
        let is_live = self.details().state.status.is_live();
        if is_live {
            match hold.socket.try_clone() {
                Ok(socket) => {
                    let request = Request::HoldWait(wait_options(key, &hold));
                    self.request(request, vec![socket], Pending::Nobody);
                }
                Err(error) => tracing::warn!(%error, "a wait will not outlive the daemon"),
            }
        }
        self.holds.insert(key, hold);
    }

    fn release_wait(&mut self, key: u64) {
        if self.holds.remove(&key).is_some() && self.details().state.status.is_live() {
            self.request(Request::ReleaseWait { key }, Vec::new(), Pending::Nobody);
        }
    }
}

async fn receive(link: Option<&mut Link>) -> Result<Message, palan_supervisor::client::ClientError> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

pub(super) fn wait_options(key: u64, hold: &WaitHold) -> WaitOptions {
    WaitOptions { key, body_prefix: hold.body_prefix.clone(), body_suffix: hold.body_suffix.clone() }
}

fn has_hung_up(socket: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && polled[0].revents().intersects(gone)
}

fn request_error(failure: Failure) -> Error {
    match failure.kind {
        FailureKind::WrongState => Error::conflict(failure.message),
        FailureKind::NoSuchExec => Error::not_found(failure.message),
        FailureKind::Invalid => Error::invalid(failure.message),
        _ => Error::system(failure.message),
    }
}

/// The text of a start that failed, which clients search for what they know.
pub(super) fn start_failure_text(message: &str) -> String {
    format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: \
         unable to start container process: {message}: unknown"
    )
}

pub(crate) fn not_running(id: &str) -> Error {
    Error::conflict(format!("container {id} is not running"))
}

/// The first twelve digits of an id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Nanoseconds since the epoch as a time; nonsense becomes now.
pub(crate) fn timestamp(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_else(|_| Timestamp::now())
}

/// An event about a container: its labels, image and name, and further facts.
pub(crate) fn container_event<const N: usize>(
    details: &Details,
    action: &str,
    facts: [(&str, String); N],
) -> Event {
    let mut attributes: BTreeMap<String, String> = details.config.labels.clone();
    attributes.insert("image".into(), details.config.image.clone());
    attributes.insert("name".into(), details.name.clone());
    attributes.extend(facts.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Event {
        time: Timestamp::now(),
        kind: ObjectKind::Container,
        action: action.into(),
        actor: details.id.clone(),
        attributes,
    }
}
