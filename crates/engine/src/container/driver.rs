//! Drives one container through its life. One task owns the state; everyone else sends it an [`Action`].
//!
//! ```text
//!            ┌──────────── start failed ─────────┐           ┌── again ──┐
//!            ▼                                   │           ▼           │
//! Created ─start─▶ (network, supervisor) ─started─▶ Running ◀─pause/unpause─▶ Paused
//!    │                     ▲                          │      exit        │      │
//!    │                     │                          ├──────────────────┴──────┤ by policy
//!    │                     │              the last    ▼                         ▼
//!    │                     └────────── start ────── Exited ◀── stopped ──── Restarting
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
    AttachOptions, CheckpointOptions, Failure, FailureKind, Message, Reply as Answer, Request, RequestId,
    TerminalSize, WaitOptions,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::container::checkpoint::Checkpoint;
use crate::container::exec::{Session, failure_code};
use crate::container::index::{Handle, Reply};
use crate::container::link::Link;
use crate::container::stop::is_restarting;
use crate::container::update::{Update, Updates, Updating};
use crate::container::{Details, RemoveOptions, Status, WaitHold, logging};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::events::{Event, ObjectKind};
use crate::{Class, Error, Result};

/// What can be asked of a driver. The states in which each is legal stand with it.
#[derive(Debug)]
pub(crate) enum Action {
    /// Created, Exited. `NotModified` when Running or Restarting. `from`: instead of anew.
    Start { from: Option<Box<Checkpoint>>, reply: Reply<()> },
    /// Running.
    Checkpoint { options: CheckpointOptions, directory: OwnedFd, reply: Reply<()> },
    /// Any: a daemon that starts asks for what the restart policy says.
    StartByPolicy { reply: Reply<()> },
    /// Running, Paused, Restarting; answered at the end. `NotModified` otherwise. With `again` a start will follow.
    Stop { signal: i32, timeout: Option<Duration>, again: bool, reply: Reply<()> },
    /// Running, Paused, Restarting.
    Kill { signal: i32, reply: Reply<()> },
    /// Running.
    Pause { reply: Reply<()> },
    /// Paused.
    Unpause { reply: Reply<()> },
    /// Running, Paused.
    Resize { size: TerminalSize, reply: Reply<()> },
    /// Any.
    Rename { name: String, reply: Reply<()> },
    /// Takes the link of this alias away.
    Unlink { alias: String, reply: Reply<()> },
    /// Created, Exited, Dead; with force any.
    Remove { options: RemoveOptions, reply: Reply<()> },
    /// Any but Removing.
    Update { update: Box<Update>, reply: Reply<Vec<String>> },
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
    /// Another daemon takes over: as above, and the clients that wait for a start go along.
    Leave { reply: oneshot::Sender<Vec<(AttachOptions, OwnedFd)>> },
}

/// What is done when the supervisor has answered a request.
pub(crate) enum Pending {
    /// The caller gets the outcome.
    Reply(Reply<()>),
    /// The caller gets the outcome; that the container has just ended by itself is none to complain about, as in Docker.
    Signal(Reply<()>),
    /// The caller gets the outcome of an exec start.
    Exec(Arc<Session>, Reply<()>),
    /// The new settings are recorded when they are in force.
    Update(Box<Updating>),
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
    /// Changes of settings that wait for the one that the supervisor is at.
    pub(super) updates: Updates,
    /// It ends only to be started again at once.
    pub(super) stays_for_restart: bool,
    /// Somebody has stopped it that was to be started by its policy when the daemon started.
    pub(super) is_kept_down: bool,
    /// When the daemon starts the next run, where no supervisor does.
    pub(super) restart_at: Option<Instant>,
}

/// Whether the task goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    End,
}

/// The supervisor that a new task has.
#[derive(Debug)]
pub(crate) enum Supervisor {
    /// None.
    Absent,
    /// One that runs, with which the task begins by connecting.
    Found,
    /// One that it is connected with.
    Connected(Box<Link>),
}

/// Starts the task of a container. `early_clients` are those that attached while another daemon was there.
pub(crate) fn spawn(
    engine: Arc<Engine>,
    handle: Arc<Handle>,
    inbox: mpsc::Receiver<Box<Action>>,
    supervisor: Supervisor,
    early_clients: Vec<(AttachOptions, OwnedFd)>,
) {
    logging::ship::start(&engine, &handle);
    logging::compress::start(&engine, &handle);
    let (link, connects) = match supervisor {
        Supervisor::Absent => (None, false),
        Supervisor::Found => (None, true),
        Supervisor::Connected(link) => (Some(*link), false),
    };
    let driver = Driver {
        engine,
        handle,
        inbox,
        link,
        pending: HashMap::new(),
        stoppers: Vec::new(),
        removal: None,
        early_clients,
        holds: BTreeMap::new(),
        start_outcome: None,
        updates: Updates::default(),
        stays_for_restart: false,
        is_kept_down: false,
        restart_at: None,
    };
    tokio::spawn(driver.run(connects));
}

enum Next {
    Action(Option<Box<Action>>),
    Message(Result<Message, palan_supervisor::client::ClientError>),
    Restart,
}

impl Driver {
    async fn run(mut self, connects: bool) {
        if connects && Box::pin(self.connect_to_supervisor()).await == Flow::End {
            return;
        }
        loop {
            let next = tokio::select! {
                biased;
                message = receive(self.link.as_mut()) => Next::Message(message),
                action = self.inbox.recv() => Next::Action(action),
                () = until(self.restart_at) => Next::Restart,
            };
            // Boxed, so that an idle container's task is small.
            let flow = match next {
                Next::Message(Ok(message)) => Box::pin(self.on_message(message)).await,
                Next::Message(Err(error)) => Box::pin(self.on_link_lost(&error)).await,
                Next::Action(Some(action)) => Box::pin(self.on_action(*action)).await,
                Next::Restart => Box::pin(self.restart_now()).await,
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

    /// The supervisor was there a moment ago.
    async fn connect_to_supervisor(&mut self) -> Flow {
        let run_dir = self.engine.run_dir(&self.handle.id);
        match Link::find(&run_dir, self.details().journal_seq) {
            Ok(link) => {
                self.link = Some(link);
                Flow::Continue
            }
            Err(error) => self.on_link_lost(&error).await,
        }
    }

    pub(crate) fn details(&self) -> Arc<Details> {
        self.handle.details()
    }

    async fn on_action(&mut self, action: Action) -> Flow {
        match action {
            Action::Start { from, reply } => {
                let outcome = Box::pin(self.start(from)).await;
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
            Action::Checkpoint { options, directory, reply } => self.checkpoint(options, directory, reply),
            Action::StartByPolicy { reply } => return Box::pin(self.start_by_policy(reply)).await,
            Action::Stop { signal, timeout, again, reply } => {
                return Box::pin(self.stop(signal, timeout, again, reply)).await;
            }
            Action::Kill { signal, reply } => return Box::pin(self.kill(signal, reply)).await,
            Action::Pause { reply } => self.pause(reply),
            Action::Unpause { reply } => self.unpause(reply),
            Action::Resize { size, reply } => match self.live() {
                Ok(()) => self.request(Request::Resize(size), Vec::new(), Pending::Reply(reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Action::Rename { name, reply } => drop(reply.send(self.rename(name).await)),
            Action::Unlink { alias, reply } => drop(reply.send(self.unlink(&alias).await)),
            Action::Remove { options, reply } => return Box::pin(self.remove(options, reply)).await,
            Action::Update { update, reply } => Box::pin(self.update(*update, reply)).await,
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
            Action::Leave { reply } => {
                // Nobody else sends one, and who did waits for the answer.
                let _ = reply.send(std::mem::take(&mut self.early_clients));
                return Flow::End;
            }
        }
        Flow::Continue
    }

    pub(super) async fn on_message(&mut self, message: Message) -> Flow {
        match message {
            Message::Journal(entry) => return Box::pin(self.on_entry(entry)).await,
            Message::Reply { id, result } => Box::pin(self.on_reply(id, result)).await,
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

    async fn on_reply(&mut self, id: RequestId, result: Result<Answer, Failure>) {
        match self.pending.remove(&id) {
            None | Some(Pending::Nobody) => {}
            Some(Pending::Update(updating)) => self.updated(*updating, result.map(drop)).await,
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
            Some(Pending::Signal(reply)) => {
                let outcome = match result {
                    Err(failure) if failure.kind == FailureKind::WrongState => Ok(()),
                    other => other.map(drop).map_err(request_error),
                };
                // The caller may have gone.
                let _ = reply.send(outcome);
            }
            Some(Pending::Exec(session, reply)) => {
                let outcome = match result {
                    Ok(Answer::ExecStarted { pid }) => {
                        session.started(pid);
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                    Err(failure) => {
                        session.ended(failure_code(failure.kind, &failure.message));
                        Err(crate::container::exec::start_error(&failure))
                    }
                };
                // The caller may have gone; the session goes on.
                let _ = reply.send(outcome);
            }
        }
    }

    /// The connection has ended: after an exit that is its proper end, else the supervisor died.
    async fn on_link_lost(&mut self, error: &palan_supervisor::client::ClientError) -> Flow {
        if let Some(link) = self.link.take() {
            link.linger();
        }
        self.fail_pending().await;
        // One that has left the next run to the daemon has ended as it should, too.
        if !self.details().state.status.is_live() || self.restart_at.is_some() {
            return Flow::Continue;
        }
        tracing::warn!(container = self.handle.id, %error, "lost the supervisor of a running container");
        Box::pin(self.settle_without_supervisor()).await
    }

    /// The supervisor will answer no more.
    pub(super) async fn fail_pending(&mut self) {
        // Whatever was asked for, a container that has ended meanwhile does not run.
        let id = self.handle.id.clone();
        let failure = || not_running(&id);
        for pending in std::mem::take(&mut self.pending).into_values() {
            match pending {
                // The caller may have gone.
                Pending::Reply(reply) | Pending::Exec(_, reply) => drop(reply.send(Err(failure()))),
                Pending::Signal(reply) => drop(reply.send(Ok(()))),
                // It will be in force with the next start.
                Pending::Update(updating) => self.updated(*updating, Ok(())).await,
                Pending::Start | Pending::Noted(_) | Pending::Nobody => {}
            }
        }
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
            (Err(error), Pending::Reply(reply) | Pending::Signal(reply) | Pending::Exec(_, reply)) => {
                drop(reply.send(Err(error)));
            }
            (Err(error), Pending::Start) => {
                let message = error.report();
                let failure = Failure { kind: FailureKind::Other, message };
                self.start_outcome = Some(Err(failure));
            }
            (Err(error), Pending::Update(updating)) => {
                self.updates.is_busy = false;
                drop(updating.reply.send(Err(error)));
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

    fn pause(&mut self, reply: Reply<()>) {
        let error = match self.details().state.status {
            Status::Running => return self.request(Request::Pause, Vec::new(), Pending::Reply(reply)),
            Status::Paused => Error::conflict(format!("Container {} is already paused", self.handle.id)),
            Status::Restarting => is_restarting(&self.handle.id),
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

    /// What runs keeps the line in its hosts file; its resolver and the next start know of the link no more.
    async fn unlink(&mut self, alias: &str) -> Result<()> {
        let mut next = (*self.details()).clone();
        let links = next.endpoints.values_mut().map(|endpoint| &mut endpoint.settings.links);
        let mut found = false;
        for links in links.chain([&mut next.host.links]) {
            let before = links.len();
            links.retain(|link| crate::network::names::split_link(link).1 != alias);
            found |= links.len() < before;
        }
        if !found {
            return Err(Error::not_found(format!("container {} has no link named {alias}", next.name)));
        }
        let next = Arc::new(next);
        self.engine.db.commit(Change::new().put_container(next.clone())).await?;
        self.handle.publish(next.clone());
        if next.state.status.is_live() {
            let engine = self.engine.clone();
            blocking(move || engine.write_resolver_config(&next)).await?;
        }
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
            Status::Restarting => return drop(reply.send(Err(is_restarting(&self.handle.id)))),
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

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn receive(link: Option<&mut Link>) -> Result<Message, palan_supervisor::client::ClientError> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

pub(super) fn wait_options(key: u64, hold: &WaitHold) -> WaitOptions {
    WaitOptions {
        key,
        body_prefix: hold.body_prefix.clone(),
        body_suffix: hold.body_suffix.clone(),
        for_good: hold.for_good,
    }
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
        FailureKind::Unsupported => Error::new(Class::NotImplemented, failure.message),
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

/// The same of one that was to be restored.
pub(super) fn restore_failure_text(message: &str) -> String {
    format!(
        "failed to create task for container: failed to create shim task: OCI runtime restore failed: {message}: unknown"
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
