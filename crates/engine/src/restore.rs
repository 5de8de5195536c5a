//! After a restart: the database says what was intended, the supervisors and the kernel say what is. In this order:
//!
//! 1. the trash of the last daemon is emptied, directories and holds without a row are removed;
//! 2. for each container whose run directory exists, its supervisor is looked for; the journal's entries that the database
//!    lacks are applied by the driver (from the connection where there is one, else from the file). A supervisor with nothing
//!    to tell is not woken: connections with those are made in the background, when the first clients are served already;
//! 3. a container that should run and has neither supervisor nor entry has ended: 255 when the host was restarted since,
//!    137 when the supervisor was killed;
//! 4. the network gets the endpoints that are alive, and drops all others; so it goes with the file systems of volumes;
//! 5. what is to run by its restart policy is started, in the background.
//!
//! Containers run on meanwhile and notice nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use palan_network::{EndpointRecord, Survey};
use palan_supervisor::client::{self, ClientError, Presence};
use palan_supervisor::journal::Entry;
use palan_supervisor::protocol::{self, Request};

use crate::container::driver::{self, Supervisor};
use crate::container::exit::kill_cgroup;
use crate::container::index::Handle;
use crate::container::link::Link;
use crate::container::restart::KILLED;
use crate::container::{Details, ExecDetails, Status, journal, restart};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::events::Event;
use crate::handover::{EarlyClient, Legacy};
use crate::network::{endpoints, relay};
use crate::{Error, Result};

/// Exit code of a container that ended with its host.
const LOST: i32 = 255;
/// Supervisors that are connected with at a time, between which others have their turn.
const AT_ONCE: usize = 8;

/// What another daemon has left.
#[derive(Debug)]
pub(crate) struct Remains {
    /// What the database has.
    pub(crate) containers: Vec<Arc<Details>>,
    /// What the kernel has.
    pub(crate) survey: Survey,
}

/// What was found of one container.
struct Found {
    details: Arc<Details>,
    /// The one that serves it.
    supervisor: Supervisor,
    /// The row differs from what the database has.
    is_changed: bool,
    /// It was to be removed at its end, which has come.
    is_over: bool,
    /// What the journal has told.
    events: Vec<Event>,
}

impl Found {
    /// What the last daemon had no time to give to the supervisor.
    fn hand_over_ports(&mut self, engine: &Engine) {
        if !self.is_served() {
            return;
        }
        for (request, descriptors) in relay::requests(&[], relay::of(engine, &self.details)) {
            let sent = self.link(engine).and_then(|link| link.send(request, descriptors).map(drop));
            if let Err(error) = sent {
                let error = palan_stdx::error_chain::to_string(&error);
                tracing::warn!(container = self.details.id, error, "a port is not relayed");
            }
        }
    }

    /// Whether a supervisor serves it.
    fn is_served(&self) -> bool {
        !matches!(self.supervisor, Supervisor::Absent)
    }

    fn link(&mut self, engine: &Engine) -> std::result::Result<&mut Link, ClientError> {
        if !matches!(self.supervisor, Supervisor::Connected(_)) {
            let link = Link::find(&engine.run_dir(&self.details.id), self.details.journal_seq)?;
            self.supervisor = Supervisor::Connected(Box::new(link));
        }
        match &mut self.supervisor {
            Supervisor::Connected(link) => Ok(link),
            Supervisor::Absent | Supervisor::Found => Err(ClientError::Closed),
        }
    }
}

/// Restores all containers. `legacy` is what a daemon has left that knew that it would be replaced.
pub(crate) async fn restore(engine: &Arc<Engine>, remains: Remains, legacy: Legacy) -> Result<()> {
    let Remains { containers: rows, survey } = remains;
    let mut early_clients: HashMap<String, Vec<_>> = HashMap::new();
    for EarlyClient { note, socket } in legacy.clients {
        early_clients.entry(note.container).or_default().push((note.options, socket));
    }
    let containers: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let is_known = |session: &ExecDetails| containers.contains(session.container_id.as_str());
    // Before the supervisors tell of theirs.
    engine.sessions.restore(legacy.sessions.into_iter().filter(is_known));
    let working = engine.clone();
    let settled = blocking(move || working.settle_volumes()).await?;
    for volume in settled {
        engine.db.commit(Change::new().put_volume(volume)).await?;
    }
    let working = engine.clone();
    let (found, live) = blocking(move || {
        clean(&working, &rows.iter().map(|row| row.id.as_str()).collect())?;
        let found = look_at_all(&working, rows)?;
        let live: Vec<EndpointRecord> = found.iter().flat_map(live_endpoints).collect();
        for found in found.iter().filter(|found| !found.is_served()) {
            for endpoint in found.details.endpoints.values() {
                working.network.rest(&endpoint.network_id, &endpoint.lease);
            }
        }
        Ok((found, live))
    })
    .await?;
    restore_network(engine, live, survey).await?;
    restore_volumes(engine, &found).await?;
    let (mut over, mut to_start, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    for mut found in found {
        let id = found.details.id.clone();
        found.hand_over_ports(engine);
        if let Err(error) = engine.index.reserve_name(Some(&found.details.name), &id) {
            tracing::error!(
                container = id,
                error = error.report(),
                "two containers have one name in the database"
            );
            continue;
        }
        if found.is_changed {
            let change = Change::new()
                .put_container(Arc::clone(&found.details))
                .events(std::mem::take(&mut found.events));
            engine.db.commit(change).await?;
        }
        // One whose supervisor still serves its last clients can be started, one whose start is under way must not be.
        let is_free =
            !found.is_served() || found.details.state.status == Status::Exited && !found.details.is_attached;
        let starts = is_free && restart::is_to_start(&found.details);
        let (handle, inbox) = Handle::new(found.details);
        engine.index.insert(handle.clone());
        let clients = early_clients.remove(&id).unwrap_or_default();
        match found.supervisor {
            Supervisor::Found => quiet.push((handle.clone(), inbox, clients)),
            other => driver::spawn(engine.clone(), handle.clone(), inbox, other, clients),
        }
        if found.is_over {
            over.push(handle);
        } else if starts {
            to_start.push(handle);
        }
    }
    let networks = engine.networks.all().iter().map(|network| network.id.clone()).collect();
    engine.publish_names(networks).await;
    for handle in over {
        let options = crate::container::RemoveOptions { volumes: true, ..Default::default() };
        if let Err(error) = handle.ask(|reply| driver::Action::Remove { options, reply }).await {
            tracing::warn!(
                container = handle.id,
                error = error.report(),
                "a finished container was not removed"
            );
        }
    }
    restart::start_found(engine, to_start);
    let engine = engine.clone();
    tokio::spawn(async move {
        for (number, (handle, inbox, clients)) in quiet.into_iter().enumerate() {
            driver::spawn(engine.clone(), handle, inbox, Supervisor::Found, clients);
            if number % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        crate::image::commit::thaw_forgotten(&engine);
    });
    Ok(())
}

fn live_endpoints(found: &Found) -> Vec<EndpointRecord> {
    if found.is_served() { endpoints::records(&found.details) } else { Vec::new() }
}

async fn restore_volumes(engine: &Arc<Engine>, found: &[Found]) -> Result<()> {
    let live = found
        .iter()
        .filter(|found| found.is_served())
        .map(|found| (found.details.id.clone(), found.details.volume_names().map(str::to_owned).collect()));
    let (engine, live): (_, Vec<(String, Vec<String>)>) = (engine.clone(), live.collect());
    blocking(move || {
        engine.restore_attached(&live);
        Ok(())
    })
    .await
}

async fn restore_network(engine: &Arc<Engine>, live: Vec<EndpointRecord>, survey: Survey) -> Result<()> {
    let working = engine.clone();
    blocking(move || {
        let restored =
            working.network.restore(&live, survey).context(|| "cannot restore the network".into())?;
        for (endpoint, reason) in restored.lost {
            tracing::warn!(
                endpoint = endpoint.as_str(),
                reason,
                "the network of a running container is damaged"
            );
        }
        for orphan in restored.orphans {
            tracing::info!(orphan, "removed what an earlier daemon left in the network");
        }
        Ok(())
    })
    .await
}

/// Finds out what became of all containers. It is the kernel's work mostly: two threads halve the time.
fn look_at_all(engine: &Engine, mut rows: Vec<Arc<Details>>) -> Result<Vec<Found>> {
    let look_at =
        |rows: Vec<Arc<Details>>| rows.into_iter().map(|row| look(engine, row)).collect::<Vec<Found>>();
    let others = rows.split_off(rows.len() / 2);
    let runtime = tokio::runtime::Handle::current();
    let looking = |others| {
        let _runtime = runtime.enter();
        look_at(others)
    };
    std::thread::scope(|scope| {
        let others = std::thread::Builder::new()
            .name("palan-restore".into())
            .spawn_scoped(scope, || looking(others))
            .context(|| "cannot start a thread".into())?;
        let mut found = look_at(rows);
        let panicked = |_| Error::system("the thread that looks for containers panicked");
        found.extend(others.join().map_err(panicked)?);
        Ok(found)
    })
}

/// Finds out what became of one container.
fn look(engine: &Engine, mut details: Arc<Details>) -> Found {
    let run_dir = engine.run_dir(&details.id);
    let was_live = details.state.status.is_live() || details.is_attached;
    let supervisor = find_supervisor(&run_dir, &details, was_live);
    if !matches!(supervisor, Supervisor::Absent) {
        return Found { details, supervisor, is_changed: false, is_over: false, events: Vec::new() };
    }
    if !was_live {
        let is_over = details.host.auto_remove && details.state.status == Status::Exited;
        return Found { details, supervisor, is_changed: false, is_over, events: Vec::new() };
    }
    // A missing run directory means that the host was restarted: the run root does not survive that.
    let killed = run_dir.exists();
    let entries = client::read_journal(&run_dir, details.journal_seq).unwrap_or_else(|error| {
        let error = palan_stdx::error_chain::to_string(&error);
        tracing::warn!(container = details.id, error, "the journal can't be read");
        Vec::new()
    });
    if killed {
        kill_cgroup(&details.cgroup_path);
    }
    let events = settle(Arc::make_mut(&mut details), &entries, killed);
    let is_over = details.host.auto_remove && !details.state.status.is_live();
    Found { details, supervisor, is_changed: true, is_over, events }
}

fn find_supervisor(run_dir: &std::path::Path, details: &Details, was_live: bool) -> Supervisor {
    if client::presence(run_dir, details.journal_seq) == Presence::Quiet {
        return Supervisor::Found;
    }
    if run_dir.exists() {
        match Link::find(run_dir, details.journal_seq) {
            Ok(link) => return Supervisor::Connected(Box::new(link)),
            Err(error) if was_live => {
                let error = palan_stdx::error_chain::to_string(&error);
                tracing::info!(container = details.id, error, "no supervisor answers");
            }
            Err(_) => {}
        }
    }
    Supervisor::Absent
}

/// Brings the row of a container that has no supervisor to what it is: by the journal and, where a run has no end there, by
/// what must have happened. Returns the events of it.
fn settle(details: &mut Details, entries: &[Entry], killed: bool) -> Vec<Event> {
    let was_starting = !details.state.status.is_live();
    let mut events = Vec::new();
    for entry in entries {
        if let Some((more, _)) = journal::apply(details, entry) {
            events.extend(more);
        }
    }
    let (code, error) = if killed {
        (KILLED, "the supervisor of the container was killed while the daemon was down")
    } else {
        (LOST, "")
    };
    match details.state.status {
        Status::Running | Status::Paused => {
            let delay = restart::after_lost_run(details, code);
            events.extend(journal::run_ended(details, Timestamp::now(), code, false, delay));
            details.state.error = error.into();
        }
        // Between two runs: the next one is the daemon's to start.
        Status::Restarting => {}
        // The start that was under way when the last daemon ended, of which nothing is known.
        _ if was_starting && entries.is_empty() => {
            details.state.exit_code = code;
            details.state.error = error.into();
        }
        _ => {}
    }
    endpoints::forget(details);
    events
}

/// Removes what no row speaks of; `known` are the containers that have one.
pub(crate) fn clean(engine: &Engine, known: &HashSet<&str>) -> Result<()> {
    let report = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(
            error = palan_stdx::error_chain::to_string(error),
            "something was left behind and stays"
        );
    };
    for (owner, _) in engine.store.holds().map_err(crate::image::store_error)? {
        // A container holds the images that it mounts by its id with a number.
        let container = owner.split('/').next().unwrap_or(&owner);
        if !known.contains(container) {
            engine.store.release(&owner).unwrap_or_else(|error| report(&error));
        }
    }
    let data_root = &engine.config.data_root;
    let mut orphans = list(&data_root.join("containers/.trash"), |_| true)?;
    orphans.extend(list(&data_root.join("containers"), |name| name != ".trash" && !known.contains(name))?);
    let is_orphan = |name: &str| engine.volumes.get(name).is_none();
    for path in list(&data_root.join("volumes"), is_orphan)? {
        // What is mounted there is not ours to delete.
        match crate::volume::remove_orphan(&path) {
            Ok(()) => {}
            Err(error) => report(&error),
        }
    }
    let run_dirs = list(&engine.config.run_root.join("containers"), |name| !known.contains(name))?;
    for run_dir in &run_dirs {
        end_orphan(run_dir);
    }
    for path in orphans.iter().chain(&run_dirs) {
        palan_linux::path::remove_tree(path).unwrap_or_else(|error| report(&error));
    }
    Ok(())
}

/// A supervisor without a row: its container was removed while it ended, or the row was lost. Its container is killed.
fn end_orphan(run_dir: &std::path::Path) {
    const SIGKILL: i32 = 9;
    let Ok(mut connection) = client::connect(run_dir) else { return };
    let hello = Request::Hello { version: protocol::VERSION, after_seq: u64::MAX };
    let asked = connection
        .send(hello, Vec::new())
        .and_then(|_| connection.send(Request::Signal { signal: SIGKILL }, Vec::new()));
    if let Err(error) = asked {
        tracing::debug!(%error, "an orphaned supervisor has ended");
    }
}

fn list(directory: &std::path::Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<std::path::PathBuf>> {
    let entries = palan_stdx::fs::if_exists(palan_stdx::fs::read_dir(directory))
        .map_err(|source| Error::system("cannot look for what an earlier daemon left").with_source(source))?;
    let names = entries.unwrap_or_default().into_iter().map(|entry| (entry.file_name(), entry.path()));
    Ok(names.filter(|(name, _)| name.to_str().is_some_and(&wanted)).map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use palan_supervisor::journal::Event as JournalEvent;

    use super::*;

    fn running() -> Details {
        let mut details = Details { journal_seq: 3, ..Details::default() };
        details.state.status = Status::Running;
        details.state.pid = 7;
        details.state.started_at = Some(Timestamp::UNIX_EPOCH);
        details
    }

    fn entry(seq: u64, event: JournalEvent) -> Entry {
        Entry { seq, time_ns: 5_000_000_000, event }
    }

    fn exit(code: i32, restart_in_ms: Option<u64>) -> JournalEvent {
        JournalEvent::Exit { code, signal: None, oom: true, restart_in_ms, by_daemon: false }
    }

    fn actions(events: Vec<Event>) -> Vec<String> {
        events.into_iter().map(|event| event.action).collect()
    }

    #[test]
    fn the_journal_knows_the_end() {
        let mut details = running();
        let events = settle(&mut details, &[entry(2, exit(1, None)), entry(4, exit(42, None))], true);
        assert_eq!(
            (details.state.status, details.state.exit_code, details.journal_seq),
            (Status::Exited, 42, 4)
        );
        assert_eq!((details.state.pid, details.state.oom_killed), (0, true));
        assert_eq!(details.state.finished_at, Timestamp::from_second(5).ok());
        assert_eq!(actions(events), ["oom", "die"]);
    }

    #[test]
    fn without_an_entry_the_cause_decides() {
        let mut killed = running();
        assert_eq!(actions(settle(&mut killed, &[], true)), ["die"]);
        assert_eq!(killed.state.exit_code, KILLED);
        assert!(killed.state.error.contains("was killed"));
        let mut rebooted = running();
        settle(&mut rebooted, &[], false);
        assert_eq!((rebooted.state.exit_code, rebooted.state.error.as_str()), (LOST, ""));
    }

    #[test]
    fn the_policy_counts_for_a_lost_run() {
        let mut details = running();
        details.host.restart_policy.name = "always".into();
        let ends = [entry(4, exit(1, Some(100))), entry(5, JournalEvent::Start { pid: 8 })];
        let events = settle(&mut details, &ends, true);
        assert_eq!(actions(events), ["oom", "die", "start", "die"]);
        assert_eq!((details.state.status, details.state.exit_code), (Status::Restarting, KILLED));
        assert_eq!(details.restart_count, 2);
    }

    #[test]
    fn a_start_that_failed_meanwhile() {
        let mut details = Details::default();
        let kind = palan_supervisor::protocol::FailureKind::NotFound;
        let event = JournalEvent::StartFailed { kind, message: "no".into() };
        settle(&mut details, &[entry(1, event)], true);
        assert_eq!((details.state.status, details.state.exit_code), (Status::Created, 127));
    }
}
