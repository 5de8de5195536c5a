//! `palan.db`: containers, networks, volumes and events, in SQLite.
//!
//! One thread owns the writing connection and carries out one [`Change`] after another, each in a transaction of its own
//! together with its events; so the order of commits is the order in which subscribers see events. Commits don't sync (WAL,
//! `synchronous=NORMAL`): after a power loss the last moments may be missing, never half of a change. Checkpoints, which do
//! sync, run on a second thread with a connection of its own: beside the commits, and to the end of the log when there have been none for
//! a moment or the log has grown long. A daemon that was killed reads the log when it starts, at some 1 GB/s. The log's file keeps its
//! blocks, and has some from the beginning: with a full disk there is room for commits in it.
//!
//! Space is reserved in the file `reserve`: when a commit finds the disk full, the reserve is given up and the commit tried
//! again, so that containers can be stopped and removed with 0 bytes free. It is made again as soon as a
//! commit finds room for it.
//!
//! Bodies are JSON with a version of their own; columns exist only for what SQL must look at. What is as in a container of which nothing
//! was asked is left out of its body: that is more than half of it, for each commit to write and each start to read.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use palan_stdx::fs;
use serde_json::Value;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{broadcast, oneshot};

use crate::container::Details;
use crate::error::Context;
use crate::events::Event;
use crate::network::Network;
use crate::volume::Volume;
use crate::{Error, Result};

/// 2 added networks.
const SCHEMA_VERSION: i64 = 2;
/// Stored events; older ones are deleted.
const EVENT_CAP: i64 = 10_000;
/// Events that a subscriber may be behind before it loses some.
const SUBSCRIBER_CAP: usize = 1024;
const RESERVE_BYTES: u64 = 4 << 20;
/// Commits between two checkpoints; about 1,000 pages of log.
const CHECKPOINT_INTERVAL: u32 = 250;
/// Pages of log with which commits wait for a checkpoint of all of it; 32 MiB.
const LONG_LOG: u32 = 8192;
/// So long nothing is committed, then the log is brought to its end.
const QUIET: Duration = Duration::from_millis(500);
/// Bytes that the log's file keeps.
const KEPT_LOG: i64 = 4 << 20;
/// Bytes that are set aside for it; some twenty commits.
const LOG_ROOM: u64 = 512 << 10;

/// What one transaction does.
#[derive(Debug, Default)]
pub(crate) struct Change {
    operations: Vec<Operation>,
    events: Vec<Event>,
}

#[derive(Debug)]
enum Operation {
    PutContainer(Arc<Details>),
    DeleteContainer(String),
    PutVolume(Volume),
    DeleteVolume(String),
    PutNetwork(Box<Network>),
    DeleteNetwork(String),
}

impl Change {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Inserts or replaces a container's row.
    pub(crate) fn put_container(mut self, details: Arc<Details>) -> Self {
        self.operations.push(Operation::PutContainer(details));
        self
    }

    /// Deletes a container's row.
    pub(crate) fn delete_container(mut self, id: &str) -> Self {
        self.operations.push(Operation::DeleteContainer(id.into()));
        self
    }

    /// Inserts or replaces a volume's row.
    pub(crate) fn put_volume(mut self, volume: Volume) -> Self {
        self.operations.push(Operation::PutVolume(volume));
        self
    }

    /// Deletes a volume's row.
    pub(crate) fn delete_volume(mut self, name: &str) -> Self {
        self.operations.push(Operation::DeleteVolume(name.into()));
        self
    }

    /// Inserts or replaces a network's row.
    pub(crate) fn put_network(mut self, network: Network) -> Self {
        self.operations.push(Operation::PutNetwork(Box::new(network)));
        self
    }

    /// Deletes a network's row.
    pub(crate) fn delete_network(mut self, id: &str) -> Self {
        self.operations.push(Operation::DeleteNetwork(id.into()));
        self
    }

    /// Records an event with the change.
    pub(crate) fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    /// Records several events with the change.
    pub(crate) fn events(mut self, events: impl IntoIterator<Item = Event>) -> Self {
        self.events.extend(events);
        self
    }
}

/// An event with its place in the journal.
pub(crate) type Numbered = (i64, Arc<Event>);

enum Job {
    Commit(Change, oneshot::Sender<Result<()>>),
    ReadEvents { from_ns: i64, until_ns: i64, reply: oneshot::Sender<Result<Vec<Numbered>>> },
    Stop,
}

/// All rows, as read at start.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Containers.
    pub(crate) containers: Containers,
    /// Volumes.
    pub(crate) volumes: Vec<Volume>,
    /// Networks, apart from those that always exist.
    pub(crate) networks: Vec<Network>,
    /// Random identity of this data root, 64 hexadecimal digits.
    pub(crate) daemon_id: String,
    /// When the data root was first used.
    pub(crate) first_start: jiff::Timestamp,
}

/// The containers' rows, which a thread reads: it takes long, and little else needs them.
#[derive(Debug)]
pub(crate) struct Containers(JoinHandle<Result<Vec<Arc<Details>>>>);

impl Containers {
    fn read(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let reading = move || {
            let connection = open_connection(&path)?;
            let query = "SELECT id, body FROM containers";
            read_bodies::<Details, _>(&connection, query).context(|| cannot_read(&path))
        };
        spawn("palan-rows", reading).map(Self)
    }

    /// Waits for them.
    pub(crate) fn wait(self) -> Result<Vec<Arc<Details>>> {
        let panicked = |_| Error::system("the thread that reads the containers panicked");
        self.0.join().map_err(panicked)?
    }
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read the database {}", path.display())
}

/// The database. Dropping it ends its threads.
#[derive(Debug)]
pub(crate) struct Database {
    jobs: mpsc::Sender<Job>,
    subscribers: broadcast::Sender<Numbered>,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Database {
    /// Opens or makes the database below the data root and reads it.
    pub(crate) fn open(data_root: &Path) -> Result<(Self, Contents)> {
        let path = data_root.join("palan.db");
        let mut connection = open_connection(&path)?;
        migrate(&mut connection, &path)?;
        let containers = Containers::read(&path)?;
        let contents = read_all(&connection, containers).context(|| cannot_read(&path))?;
        let (jobs, queue) = mpsc::channel();
        let (subscribers, _) = broadcast::channel(SUBSCRIBER_CAP);
        let (wake, woken) = mpsc::sync_channel(1);
        // The log of a daemon that was killed.
        let _ = wake.try_send(Checkpoint::Whole);
        let reserve = Reserve { path: data_root.join("reserve") };
        reserve.make();
        let checkpointer = open_connection(&path)?;
        let log = data_root.join("palan.db-wal");
        let checkpoints =
            spawn("palan-checkpoint", move || checkpoint_loop(&checkpointer, &woken, &reserve, &log))?;
        let reserve = Reserve { path: data_root.join("reserve") };
        let mut writer = Writer {
            connection,
            reserve,
            subscribers: subscribers.clone(),
            wake,
            commits: 0,
            is_behind: false,
            without_reserve: false,
        };
        let writes = spawn("palan-database", move || writer.run(&queue))?;
        let threads = std::sync::Mutex::new(vec![writes, checkpoints]);
        Ok((Self { jobs, subscribers, threads }, contents))
    }

    /// Carries out a change. When this returns, the change is there and its events were sent.
    pub(crate) async fn commit(&self, change: Change) -> Result<()> {
        let (reply, outcome) = oneshot::channel();
        self.jobs.send(Job::Commit(change, reply)).map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    /// Stored events between two times.
    pub(crate) async fn read_events(&self, from_ns: i64, until_ns: i64) -> Result<Vec<Numbered>> {
        let (reply, outcome) = oneshot::channel();
        self.jobs.send(Job::ReadEvents { from_ns, until_ns, reply }).map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    /// Events from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Numbered> {
        self.subscribers.subscribe()
    }

    /// How many subscribers there are.
    pub(crate) fn subscriber_count(&self) -> usize {
        self.subscribers.receiver_count()
    }

    /// Ends the threads after all that was asked before.
    pub(crate) fn close(&self) {
        // The writer may have ended already.
        let _ = self.jobs.send(Job::Stop);
        let threads = match self.threads.lock() {
            Ok(mut threads) => std::mem::take(&mut *threads),
            Err(_) => return,
        };
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn closed() -> Error {
    Error::new(crate::Class::Unavailable, "the daemon is shutting down")
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(512 * 1024)
        .spawn(body)
        .context(|| format!("cannot start the thread {name}"))
}

fn open_connection(path: &Path) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", KEPT_LOG)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // Rows are read once, at start: a large page cache would only cost memory.
        connection.pragma_update(None, "cache_size", -256)?;
        Ok(connection)
    };
    open().context(|| format!("cannot open the database {}", path.display()))
}

/// Brings the schema to this version. A newer database is refused: it may hold what this version would destroy.
fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    let what = || format!("cannot prepare the database {}", path.display());
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).context(what)?;
    if version > SCHEMA_VERSION {
        return Err(Error::system(format!(
            "the database {} was written by a newer version (schema {version}, this version knows {SCHEMA_VERSION})",
            path.display()
        )));
    }
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).context(what)?;
    if version == 0 {
        first_schema(&transaction).context(what)?;
    }
    // Since the first version; a table that is there stays as it is.
    transaction
        .execute_batch("CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, body TEXT NOT NULL);")
        .context(what)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).context(what)?;
    transaction.commit().context(what)
}

/// The tables of version 1, and what is noted once.
fn first_schema(transaction: &rusqlite::Transaction<'_>) -> rusqlite::Result<()> {
    transaction
        .execute_batch(
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
             CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, body TEXT NOT NULL);
             CREATE TABLE volumes (name TEXT PRIMARY KEY, body TEXT NOT NULL);
             CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, body TEXT NOT NULL);",
        )
        ?;
    let facts = [crate::identifier::new_id(), jiff::Timestamp::now().to_string()];
    transaction.execute("INSERT INTO meta VALUES ('daemon-id', ?1), ('first-start', ?2)", facts).map(|_| ())
}

fn read_all(connection: &Connection, containers: Containers) -> rusqlite::Result<Contents> {
    let fact = |key: &str| -> rusqlite::Result<String> {
        let value = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
        Ok(value.optional()?.unwrap_or_default())
    };
    let daemon_id = fact("daemon-id")?;
    let first_start = fact("first-start")?.parse().unwrap_or_default();
    Ok(Contents {
        containers,
        volumes: read_bodies::<Volume, _>(connection, "SELECT name, body FROM volumes")?,
        networks: read_bodies::<Network, _>(connection, "SELECT id, body FROM networks")?,
        daemon_id,
        first_start,
    })
}

/// A row that can't be read is left where it is and reported: one bad row must not keep the others from running.
fn read_bodies<T: serde::de::DeserializeOwned, V: From<T>>(
    connection: &Connection,
    query: &str,
) -> rusqlite::Result<Vec<V>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut values = Vec::new();
    for row in rows {
        let (key, body) = row?;
        match serde_json::from_str::<T>(&body) {
            Ok(value) => values.push(V::from(value)),
            Err(error) => tracing::error!(key, %error, "a row of the database can't be read; it is left out"),
        }
    }
    Ok(values)
}

struct Writer {
    connection: Connection,
    reserve: Reserve,
    subscribers: broadcast::Sender<Numbered>,
    wake: mpsc::SyncSender<Checkpoint>,
    commits: u32,
    /// Something was committed since the log was brought to its end.
    is_behind: bool,
    /// The reserve was given up and is not there again yet.
    without_reserve: bool,
}

impl Writer {
    fn run(&mut self, queue: &mpsc::Receiver<Job>) {
        while let Some(job) = self.next(queue) {
            match job {
                Job::Commit(change, reply) => {
                    let outcome = self.commit(change);
                    // The caller may have gone; the change stands.
                    let _ = reply.send(outcome);
                }
                Job::ReadEvents { from_ns, until_ns, reply } => {
                    let events = read_events(&self.connection, from_ns, until_ns);
                    let _ = reply.send(events.context(|| "cannot read the events of the database".into()));
                }
                Job::Stop => return,
            }
        }
    }

    fn next(&mut self, queue: &mpsc::Receiver<Job>) -> Option<Job> {
        while self.is_behind {
            match queue.recv_timeout(QUIET) {
                Ok(job) => return Some(job),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // Full means that one is under way, behind which another is asked for after the next commit.
                    self.is_behind = self.wake.try_send(Checkpoint::Whole).is_err();
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        queue.recv().ok()
    }

    fn commit(&mut self, change: Change) -> Result<()> {
        let mut outcome = carry_out(&mut self.connection, &change);
        if outcome.as_ref().is_err_and(is_disk_full) && self.reserve.give_up() {
            tracing::warn!("the disk is full, the database uses its reserve");
            self.without_reserve = true;
            outcome = carry_out(&mut self.connection, &change);
        }
        let numbers = outcome.context(|| "cannot write to the database".into())?;
        for (number, event) in numbers.into_iter().zip(change.events) {
            // No subscriber is no failure.
            let _ = self.subscribers.send((number, Arc::new(event)));
        }
        self.commits += 1;
        self.is_behind = true;
        self.without_reserve &= !self.reserve.path.exists();
        if self.commits >= CHECKPOINT_INTERVAL || self.without_reserve {
            self.commits = 0;
            // Full means that a checkpoint is on its way already.
            let _ = self.wake.try_send(Checkpoint::Part);
        }
        Ok(())
    }
}

fn is_disk_full(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

fn carry_out(connection: &mut Connection, change: &Change) -> rusqlite::Result<Vec<i64>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for operation in &change.operations {
        match operation {
            Operation::PutContainer(details) => {
                let body = container_body(details)?;
                transaction
                    .prepare_cached(
                        "INSERT INTO containers VALUES (?1, ?2, ?3)
                         ON CONFLICT (id) DO UPDATE SET name = excluded.name, body = excluded.body",
                    )?
                    .execute(params![details.id, details.name, body])?;
            }
            Operation::DeleteContainer(id) => {
                transaction.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute([id])?;
            }
            Operation::PutVolume(volume) => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO volumes VALUES (?1, ?2)")?
                    .execute(params![volume.name, to_json(volume)?])?;
            }
            Operation::DeleteVolume(name) => {
                transaction.prepare_cached("DELETE FROM volumes WHERE name = ?1")?.execute([name])?;
            }
            Operation::PutNetwork(network) => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO networks VALUES (?1, ?2)")?
                    .execute(params![network.id, to_json(&**network)?])?;
            }
            Operation::DeleteNetwork(id) => {
                transaction.prepare_cached("DELETE FROM networks WHERE id = ?1")?.execute([id])?;
            }
        }
    }
    let mut numbers = Vec::with_capacity(change.events.len());
    for event in &change.events {
        let time = nanoseconds(event.time);
        transaction
            .prepare_cached("INSERT INTO events (time, body) VALUES (?1, ?2)")?
            .execute(params![time, to_json(event)?])?;
        numbers.push(transaction.last_insert_rowid());
    }
    if let Some(last) = numbers.last() {
        transaction.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([last - EVENT_CAP])?;
    }
    transaction.commit()?;
    Ok(numbers)
}

fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn container_body(details: &Details) -> rusqlite::Result<String> {
    static EMPTY: LazyLock<Value> =
        LazyLock::new(|| serde_json::to_value(Details::default()).unwrap_or_default());
    let failed = |error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let mut body = serde_json::to_value(details).map_err(failed)?;
    leave_out(&mut body, &EMPTY);
    to_json(&body)
}

/// Removes members that have the values of `empty`, which a reader puts in their places.
fn leave_out(body: &mut Value, empty: &Value) {
    let (Value::Object(body), Value::Object(empty)) = (body, empty) else { return };
    body.retain(|name, value| match empty.get(name) {
        Some(empty) if value == empty => false,
        Some(empty) => {
            leave_out(value, empty);
            true
        }
        None => true,
    });
}

/// Nanoseconds since the epoch; times beyond the year 2262 are cut there.
pub(crate) fn nanoseconds(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time.as_second() < 0 { i64::MIN } else { i64::MAX })
}

fn read_events(connection: &Connection, from_ns: i64, until_ns: i64) -> rusqlite::Result<Vec<Numbered>> {
    let mut statement = connection
        .prepare_cached("SELECT seq, body FROM events WHERE time BETWEEN ?1 AND ?2 ORDER BY seq")?;
    let rows = statement
        .query_map([from_ns, until_ns], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut events = Vec::new();
    for row in rows {
        let (number, body) = row?;
        if let Ok(event) = serde_json::from_str(&body) {
            events.push((number, Arc::new(event)));
        }
    }
    Ok(events)
}

/// Disk space set aside for a full disk.
#[derive(Debug)]
struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Makes the file with its blocks, if it is not there. Without space there is no reserve; that is no error.
    fn make(&self) {
        if self.path.exists() {
            return;
        }
        let Ok(file) = fs::create_new(&self.path, 0o600) else { return };
        let flags = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(file.as_fd(), flags, 0, RESERVE_BYTES).is_err() {
            // Nothing or too little was reserved: the next checkpoint tries again.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Gives the space back; false when there was none.
    fn give_up(&self) -> bool {
        self.path.exists() && fs::remove_file(&self.path).is_ok()
    }
}

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checkpoint {
    /// As far as it comes beside the commits.
    Part,
    /// To the end of the log, which begins anew then.
    Whole,
}

fn checkpoint_loop(
    connection: &Connection,
    woken: &mpsc::Receiver<Checkpoint>,
    reserve: &Reserve,
    log: &Path,
) {
    while let Ok(wanted) = woken.recv() {
        match checkpoint(connection, wanted) {
            Ok(()) => {
                make_room(log);
                reserve.make();
            }
            Err(error) => {
                tracing::warn!(%error, "a checkpoint of the database failed, the next one will catch up")
            }
        }
    }
}

/// Sets blocks aside for the log, behind its end. Without space there are none; that is no error.
fn make_room(log: &Path) {
    let Ok(file) = std::fs::OpenOptions::new().write(true).open(log) else { return };
    let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
    let _ = rustix::fs::fallocate(&file, flags, 0, LOG_ROOM);
}

fn checkpoint(connection: &Connection, wanted: Checkpoint) -> rusqlite::Result<()> {
    let log: i64 = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))?;
    if wanted == Checkpoint::Whole || log > i64::from(LONG_LOG) {
        // Commits wait for this one, but nearly all of its work is done.
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        // The first commit that changes anything begins the log anew, whose old pages are read no more from then on.
        let now = jiff::Timestamp::now().to_string();
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('log-begun', ?1)", [now])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::events::ObjectKind;

    fn event(action: &str) -> Event {
        Event {
            time: Timestamp::now(),
            kind: ObjectKind::Container,
            action: action.into(),
            actor: "a".into(),
            attributes: BTreeMap::new(),
        }
    }

    fn container(id: &str, name: &str) -> Arc<Details> {
        Arc::new(Details { id: id.into(), name: name.into(), ..Details::default() })
    }

    #[tokio::test]
    async fn a_change_and_its_events_are_there_after_a_restart() {
        let root = tempfile::tempdir().expect("a directory");
        let (database, contents) = Database::open(root.path()).expect("a new database");
        assert!(contents.containers.wait().expect("readable").is_empty());
        let mut events = database.subscribe();
        let change =
            Change::new().put_container(container("1", "x")).event(event("create")).event(event("start"));
        database.commit(change).await.expect("committed");
        assert_eq!(events.try_recv().expect("sent").1.action, "create");
        let taken = Change::new().put_container(container("2", "x")).event(event("create"));
        database.commit(taken).await.expect_err("the name is taken");
        assert_eq!(events.try_recv().expect("sent").1.action, "start");
        assert!(events.try_recv().is_err(), "a failed change has no event");
        drop(database);

        let (database, again) = Database::open(root.path()).expect("the same database");
        assert_eq!(again.containers.wait().expect("readable").len(), 1);
        assert_eq!(again.daemon_id, contents.daemon_id);
        assert_eq!(database.read_events(0, i64::MAX).await.expect("readable").len(), 2);
        database.commit(Change::new().delete_container("1")).await.expect("deleted");
        database.commit(Change::new().put_container(container("2", "x"))).await.expect("the name is free");
    }

    /// Nothing, an empty list and a zero that were asked for are not what was not asked for.
    #[test]
    fn a_body_says_what_is_not_as_ever() {
        let mut details = Details { id: "1".into(), name: "x".into(), ..Details::default() };
        assert_eq!(container_body(&details).expect("text"), r#"{"id":"1","name":"x"}"#);
        details.config.entrypoint = Some(Vec::new());
        details.config.env = vec![String::new()];
        details.config.labels.insert("empty".into(), String::new());
        details.host.resources.memory_swappiness = Some(0);
        details.host.init = Some(false);
        details.host.masked_paths = Some(Vec::new());
        details.host.mounts.push(crate::spec::Mount { bind: Some(Default::default()), ..Default::default() });
        details.state.exit_code = 3;
        details.endpoints.insert("bridge".into(), Default::default());
        details.ports.insert("80/tcp".into(), None);
        let body = container_body(&details).expect("text");
        assert_eq!(serde_json::from_str::<Details>(&body).expect("readable"), details, "{body}");
    }

    #[tokio::test]
    async fn old_events_are_dropped() {
        let root = tempfile::tempdir().expect("a directory");
        let (database, _) = Database::open(root.path()).expect("a new database");
        let cap = usize::try_from(EVENT_CAP).expect("fits");
        database.commit(Change::new().events((0..cap + 10).map(|_| event("x")))).await.expect("committed");
        assert_eq!(database.read_events(0, i64::MAX).await.expect("readable").len(), cap);
    }

    #[tokio::test]
    async fn a_daemon_with_nothing_to_do_leaves_no_log_to_read() {
        const EVENTS: usize = 10;
        let root = tempfile::tempdir().expect("a directory");
        let (database, _) = Database::open(root.path()).expect("a new database");
        let log = root.path().join("palan.db-wal");
        // Those that are read by who opens it: they have the salts of the log's head.
        let pages = || {
            let log = fs::read(&log).expect("there");
            let salts = log.get(16..24).expect("a head").to_owned();
            log[32..].chunks(24 + 4096).take_while(|frame| frame.get(8..16) == Some(&salts[..])).count()
        };
        let mut most = 0;
        for round in 0..2 {
            // In one, after which it can hardly have been quiet for long enough already.
            let change = Change::new().events((0..EVENTS).map(|_| event(&"x".repeat(4096))));
            database.commit(change).await.expect("committed");
            most = most.max(pages());
            let begun = std::time::Instant::now();
            while pages() > 1 {
                assert!(begun.elapsed() < Duration::from_secs(20), "round {round}: {}", pages());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(most >= 10, "{most}");
        assert!(fs::metadata(&log).expect("there").len() > 10 * 4096, "its room is kept");
        assert_eq!(database.read_events(0, i64::MAX).await.expect("readable").len(), 2 * EVENTS);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        drop(Database::open(root.path()).expect("a new database"));
        let connection = Connection::open(root.path().join("palan.db")).expect("opens");
        connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).expect("set");
        drop(connection);
        let error = Database::open(root.path()).expect_err("refused");
        assert!(error.report().contains("newer version"));
    }

    #[test]
    fn the_reserve_is_made_and_given_up() {
        let root = tempfile::tempdir().expect("a directory");
        let reserve = Reserve { path: root.path().join("reserve") };
        reserve.make();
        assert_eq!(fs::metadata(&reserve.path).expect("there").len(), RESERVE_BYTES);
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
    }
}
