//! Exec sessions: further processes in a running container. A session is made, started once, and known for a while after
//! its end so that its exit code can be asked for.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palan_supervisor::protocol::{AttachOptions, ExecOptions, Failure, FailureKind, Request};

use crate::container::driver::{Driver, Pending, container_event};
use crate::container::index::Reply;
use crate::container::stop::is_restarting;
use crate::container::{ExecDetails, ExecSpec, Status, oci, security};
use crate::db::Change;
use crate::{Class, Error, Result, identifier};

/// Sessions of one container that are kept after their end.
const ENDED_KEPT: usize = 32;
/// Sessions of one container that wait for their start or run.
const MOST_OPEN: usize = 1024;

/// Exit code of a session that could not be started.
const NOT_STARTED: i32 = 126;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: String,
    state: Mutex<ExecDetails>,
}

impl Session {
    fn new(details: ExecDetails) -> Arc<Self> {
        Arc::new(Self { id: details.id.clone(), state: Mutex::new(details) })
    }

    fn lock(&self) -> MutexGuard<'_, ExecDetails> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of it.
    pub(crate) fn details(&self) -> ExecDetails {
        self.lock().clone()
    }

    /// Marks it as being started, once.
    pub(crate) fn begin(&self) -> Result<()> {
        let mut state = self.lock();
        if state.exit_code.is_some() {
            return Err(Error::conflict(format!("exec command {} has already run", self.id)));
        }
        if state.running {
            return Err(Error::conflict(format!("exec command {} is already running", self.id)));
        }
        state.running = true;
        Ok(())
    }

    /// The size of its terminal, as the start asks for it.
    pub(crate) fn set_console_size(&self, size: Option<(u16, u16)>) {
        self.lock().spec.console_size = size;
    }

    /// Its process runs, unless its end is known already.
    pub(crate) fn started(&self, pid: i32) {
        let mut state = self.lock();
        if state.exit_code.is_none() {
            state.running = true;
            state.pid = pid;
        }
    }

    /// Its process has ended.
    pub(crate) fn ended(&self, code: i32) {
        let mut state = self.lock();
        state.running = false;
        state.pid = 0;
        state.exit_code = Some(code);
        state.can_remove = true;
        (state.open_stdin, state.open_stdout, state.open_stderr) = (false, false, false);
    }
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Session>>,
    /// Ids by container: open ones, and ended ones in the order of their ends.
    by_container: HashMap<String, (Vec<String>, VecDeque<String>)>,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a session.
    pub(crate) fn create(&self, container_id: &str, spec: ExecSpec) -> Result<Arc<Session>> {
        let details = ExecDetails {
            id: identifier::new_id(),
            container_id: container_id.into(),
            open_stdin: spec.attach_stdin,
            open_stdout: spec.attach_stdout,
            open_stderr: spec.attach_stderr,
            spec,
            ..ExecDetails::default()
        };
        let mut table = self.lock();
        let open = &mut table.by_container.entry(container_id.into()).or_default().0;
        if open.len() >= MOST_OPEN {
            return Err(Error::conflict(format!(
                "container {container_id} has {MOST_OPEN} exec sessions already"
            )));
        }
        let session = Session::new(details);
        open.push(session.id.clone());
        table.by_id.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    /// All of them: for each container the open ones, then the ended ones in the order of their ends.
    pub(crate) fn all(&self) -> Vec<ExecDetails> {
        let table = self.lock();
        let ids = table.by_container.values().flat_map(|(open, ended)| open.iter().chain(ended));
        ids.filter_map(|id| table.by_id.get(id)).map(|session| session.details()).collect()
    }

    /// Takes over the sessions that another daemon knew, as [`Self::all`] gave them.
    pub(crate) fn restore(&self, sessions: impl IntoIterator<Item = ExecDetails>) {
        let mut table = self.lock();
        for details in sessions {
            let (open, ended) = table.by_container.entry(details.container_id.clone()).or_default();
            if details.exit_code.is_some() {
                ended.push_back(details.id.clone());
            } else {
                open.push(details.id.clone());
            }
            table.by_id.insert(details.id.clone(), Session::new(details));
        }
    }

    /// Finds one.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Session>> {
        let found = self.lock().by_id.get(id).cloned();
        found.ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// Ids of a container's sessions that have not ended.
    pub(crate) fn open_ids(&self, container_id: &str) -> Vec<String> {
        self.lock().by_container.get(container_id).map(|(open, _)| open.clone()).unwrap_or_default()
    }

    /// A supervisor says that a session runs; it may be one of an earlier daemon.
    pub(crate) fn found_running(&self, container_id: &str, id: &str, pid: i32) {
        self.found(container_id, id).started(pid);
    }

    /// A supervisor says that a session has ended.
    pub(crate) fn ended(&self, container_id: &str, id: &str, code: i32) {
        self.found(container_id, id).ended(code);
        let mut table = self.lock();
        let Some((open, ended)) = table.by_container.get_mut(container_id) else { return };
        open.retain(|open| open != id);
        ended.push_back(id.into());
        let dropped = if ended.len() > ENDED_KEPT { ended.pop_front() } else { None };
        if let Some(dropped) = dropped {
            table.by_id.remove(&dropped);
        }
    }

    /// A session that a supervisor names, made up if this daemon does not know it.
    fn found(&self, container_id: &str, id: &str) -> Arc<Session> {
        let mut table = self.lock();
        if let Some(session) = table.by_id.get(id) {
            return session.clone();
        }
        let details =
            ExecDetails { id: id.into(), container_id: container_id.into(), ..ExecDetails::default() };
        let session = Session::new(details);
        table.by_id.insert(id.into(), session.clone());
        table.by_container.entry(container_id.into()).or_default().0.push(id.into());
        session
    }

    /// The container's run is over: no session of it runs any more.
    pub(crate) fn container_ended(&self, container_id: &str) {
        const KILLED: i32 = 137;
        for id in self.open_ids(container_id) {
            self.ended(container_id, &id, KILLED);
        }
    }

    /// The container is gone, its sessions too.
    pub(crate) fn container_removed(&self, container_id: &str) {
        let mut table = self.lock();
        if let Some((open, ended)) = table.by_container.remove(container_id) {
            for id in open.iter().chain(&ended) {
                table.by_id.remove(id);
            }
        }
    }
}

impl Driver {
    pub(super) async fn exec_start(
        &mut self,
        session: Arc<Session>,
        client: Option<(AttachOptions, OwnedFd)>,
        reply: Reply<()>,
    ) {
        match self.exec_request(&session, client) {
            Ok((request, descriptors)) => {
                let details = self.details();
                let command = shown(&session.details().spec.cmd);
                let facts = [("execID", session.id.clone())];
                let event = container_event(&details, &format!("exec_start: {command}"), facts);
                self.commit_or_log(Change::new().event(event)).await;
                self.request(request, descriptors, Pending::Exec(session, reply));
            }
            Err(error) => {
                self.engine.sessions.ended(&self.handle.id, &session.id, NOT_STARTED);
                drop(reply.send(Err(error)));
            }
        }
    }

    fn exec_request(
        &self,
        session: &Session,
        client: Option<(AttachOptions, OwnedFd)>,
    ) -> Result<(Request, Vec<OwnedFd>)> {
        let details = self.details();
        match details.state.status {
            Status::Running => {}
            Status::Paused => return Err(paused(&details.name)),
            Status::Restarting => return Err(is_restarting(&details.id)),
            _ => return Err(crate::container::driver::not_running(&details.id)),
        }
        let exec = session.details().spec;
        let options = security::options(&details.host.security_opt, &self.engine.host, &self.engine.config)?;
        let mut host = details.host.clone();
        host.privileged |= exec.privileged;
        let seccomp = self.engine.seccomp.descriptor(&host, &options)?;
        let (attach, socket) = client.unzip();
        let user = if exec.user.is_empty() { &details.config.user } else { &exec.user };
        let (user, groups) = oci::user_names(user, &details.host);
        let request = ExecOptions {
            exec: session.id.clone(),
            process: oci::exec_process(&details, &exec, &options)?,
            user,
            groups,
            attach,
            seccomp: seccomp.is_some(),
        };
        Ok((Request::Exec(Box::new(request)), seccomp.into_iter().chain(socket).collect()))
    }
}

/// A session's command as its events name it: Docker joins program and arguments, be there any or not.
pub(crate) fn shown(command: &[String]) -> String {
    let (program, arguments) =
        command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    format!("{program} {}", arguments.join(" "))
}

/// The container is paused, in Docker's words.
pub(crate) fn paused(name: &str) -> Error {
    Error::conflict(format!("container {name} is paused, unpause the container before exec"))
}

/// Why an exec session could not be started, in the form that clients search.
pub(crate) fn start_error(failure: &Failure) -> Error {
    let class = match failure.kind {
        FailureKind::WrongState => return Error::conflict(failure.message.clone()),
        FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::Invalid => Class::InvalidParameter,
        _ => Class::System,
    };
    Error::new(class, start_failure_text(&failure.message))
}

/// The text of it. Docker looks users up itself, before the runtime is asked.
pub(crate) fn start_failure_text(message: &str) -> String {
    if is_about_identity(message) {
        return message.to_owned();
    }
    // As Go's look-up of programs puts it.
    let denied = if message.ends_with(": is a directory") { ": permission denied" } else { "" };
    format!(
        "OCI runtime exec failed: exec failed: unable to start container process: {message}{denied}: unknown"
    )
}

/// The exit code of a session that could not be started, as Docker tells it from the text.
pub(crate) fn failure_code(kind: FailureKind, message: &str) -> i32 {
    match kind {
        FailureKind::Invalid if is_about_identity(message) => 126,
        FailureKind::Invalid if message.contains("no such file or directory") => 127,
        other => other.exit_code(),
    }
}

fn is_about_identity(message: &str) -> bool {
    ["unable to find user ", "unable to find group "].iter().any(|text| message.starts_with(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_run_once_and_are_forgotten_in_the_end() {
        let sessions = Sessions::default();
        let session = sessions.create("c", ExecSpec::default()).expect("made");
        session.begin().expect("the first start");
        assert!(session.begin().expect_err("the second").to_string().contains("already running"));
        sessions.ended("c", &session.id, 3);
        assert!(session.begin().expect_err("the third").to_string().contains("has already run"));
        assert_eq!(sessions.find(&session.id).expect("kept").details().exit_code, Some(3));
        for _ in 0..ENDED_KEPT {
            let other = sessions.create("c", ExecSpec::default()).expect("made");
            sessions.ended("c", &other.id, 0);
        }
        sessions.find(&session.id).expect_err("too old");
        let open = sessions.create("c", ExecSpec::default()).expect("made");
        assert_eq!(sessions.open_ids("c"), std::slice::from_ref(&open.id));
        sessions.container_removed("c");
        sessions.find(&open.id).expect_err("gone with the container");
        assert!(sessions.lock().by_id.is_empty());
    }

    #[test]
    fn sessions_go_to_another_daemon() {
        let (old, new) = (Sessions::default(), Sessions::default());
        let spec = ExecSpec { cmd: vec!["ls".into()], ..ExecSpec::default() };
        let [made, running, ended] = [(); 3].map(|()| old.create("c", spec.clone()).expect("made"));
        running.begin().expect("started");
        running.started(7);
        ended.begin().expect("started");
        old.ended("c", &ended.id, 3);
        let text = serde_json::to_string(&old.all()).expect("text");
        new.restore(serde_json::from_str::<Vec<ExecDetails>>(&text).expect("the same"));
        for session in [&made, &running, &ended] {
            assert_eq!(new.find(&session.id).expect("known").details(), session.details());
        }
        new.ended("c", &running.id, 4);
        assert_eq!(new.open_ids("c"), std::slice::from_ref(&made.id));
    }

    #[test]
    fn sessions_of_an_earlier_daemon() {
        let sessions = Sessions::default();
        sessions.found_running("c", "x", 7);
        assert!(sessions.find("x").expect("known").details().running);
        sessions.container_ended("c");
        assert_eq!(sessions.find("x").expect("known").details().exit_code, Some(137));
    }
}
