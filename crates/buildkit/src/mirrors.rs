//! Directories that clients have sent before, so that only what has changed is sent again.
//!
//! A client says the same shared key for the same directory. Under each key lies a mirror of what was sent last; a transfer brings it
//! up to date, and then it is lent to the build, as it is:
//!
//! ```text
//! free ──transfer──▶ lent ──the build ends──▶ free
//!                     └─ another transfer ─▶ its files are linked into a new mirror, which takes its place;
//!                                            the old one goes with the build that has it
//! ```
//!
//! **Invariant:** a file of a mirror is never written again once it is whole: what has changed is made anew under the same name. So
//! nobody who has a link to it sees it change, and builds need no lock for longer than a transfer.
//!
//! **Invariant:** a mirror has the same stamp only as long as it has the same files: what was learned of them holds for as long. What was
//! learned of single files outlives the stamp and the daemon ([`digests`]).
//!
//! ```text
//! sent/boot-id              of which start of the host this is
//! sent/<name>/              a mirror; the name is a digest of the key
//! sent/<name>.digests       what is known of its files' content
//! sent/<name>.<number>/     a mirror that took another's place, and its .digests; only this daemon knows it
//! sent/gone.<number>        what is being removed
//! ```
//!
//! Nothing is flushed: mirrors that are older than the host's start are not trusted, and removed.
//!
//! Whoever knows a key can tell, by what is not asked for, which files of which sizes and times lie under it. So a key is to have in it who
//! sends, and a client's own part is to be hard to guess.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use palan_linux::path::{Directory, FileKind, Metadata, RootDir, Time};
use palan_oci::Digest;
use rustix::fs::OFlags;
use tokio::sync::Mutex as AsyncMutex;

use crate::fsutil::{Devices, Owners, Progress, Receive, Received};
use crate::grpc::{ClientCall, Code, Status};

pub mod digests;

use digests::{Changes, Digests};

/// How many mirrors are kept.
const MAX_MIRRORS: usize = 32;

/// What begins the name of what is being removed.
const GONE: &str = "gone.";

/// What says since when the host is up.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Stamps and numbers of mirrors: never the same twice. 0 is none.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// All mirrors.
#[derive(Debug)]
pub struct Mirrors {
    directory: PathBuf,
    known: Mutex<HashMap<String, Arc<Mirror>>>,
}

/// What is known of one.
#[derive(Debug)]
struct Mirror {
    /// Held by who writes to it.
    lock: Arc<AsyncMutex<()>>,
    state: Mutex<State>,
    stamp: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    digests: Arc<Digests>,
    lent: Weak<Loan>,
}

impl State {
    fn new(path: PathBuf) -> Self {
        Self { digests: Arc::new(Digests::new(path.clone())), path, lent: Weak::new() }
    }
}

#[derive(Debug)]
struct Loan {
    path: PathBuf,
    digests: Arc<Digests>,
    stamp: Arc<AtomicU64>,
    is_replaced: AtomicBool,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.is_replaced.load(Ordering::Acquire) {
            // What stays, the next daemon removes.
            let _ = remove_tree(&self.path).and_then(|()| self.digests.remove());
        } else {
            self.digests.settle();
        }
    }
}

/// What is kept under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// The bytes that its removal frees: files that another mirror has, too, stay.
    pub size: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// It is being filled, or a build has it.
    pub in_use: bool,
}

/// A mirror in a build's hands: nobody else changes it.
#[derive(Debug)]
pub struct Lent {
    loan: Arc<Loan>,
    stamp: u64,
}

impl Lent {
    /// Where the files are, for as long as this lives.
    pub fn path(&self) -> &Path {
        &self.loan.path
    }

    /// Different whenever the files are; within this process.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// What is known of the content of its files.
    pub fn digests(&self) -> &Arc<Digests> {
        &self.loan.digests
    }

    /// Files were taken out of it.
    pub fn altered(&self) {
        self.loan.stamp.store(0, Ordering::Release);
    }
}

impl Mirror {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a directory ready that may be written to.
    fn prepare(&self, directory: &Path, name: &str) -> io::Result<RootDir> {
        let (path, digests, loan) = {
            let state = self.state();
            (state.path.clone(), Arc::clone(&state.digests), state.lent.upgrade())
        };
        let path = match loan {
            None => {
                match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) => self.stamp.store(0, Ordering::Release),
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    Err(_) => {}
                }
                path
            }
            Some(loan) => {
                let other = another(directory, name);
                std::fs::DirBuilder::new().mode(0o700).create(&other)?;
                let digests = Arc::new(digests.copy(other.clone()));
                let changes = Changes::new(Arc::clone(&digests));
                link(RootDir::open(&path)?.as_directory(), RootDir::open(&other)?.as_directory(), &changes)?;
                drop(changes);
                loan.is_replaced.store(true, Ordering::Release);
                // The build may take files out of its own at this moment.
                self.stamp.store(0, Ordering::Release);
                let mut state = self.state();
                *state = State { path: other.clone(), digests, lent: Weak::new() };
                other
            }
        };
        // The time of its last use. That of its last change is the build's to set.
        let used = std::fs::FileTimes::new().set_accessed(std::time::SystemTime::now());
        std::fs::File::open(&path)?.set_times(used)?;
        RootDir::open(&path).map_err(io::Error::from)
    }
}

impl Mirrors {
    /// Opens the directory of the mirrors, which is made if it is not there. What can't be trusted is put aside; a thread removes it.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let boot_id = std::fs::read(BOOT_ID).unwrap_or_default();
        let known = directory.join("boot-id");
        let is_trusted = !boot_id.is_empty() && std::fs::read(&known).unwrap_or_default() == boot_id;
        let mut gone = Vec::new();
        for entry in std::fs::read_dir(&directory)? {
            let name = entry?.file_name();
            let path = directory.join(&name);
            let name = name.to_string_lossy();
            // Those with a number have taken others' places, under a daemon that is gone.
            let is_kept = match name.strip_suffix(digests::SUFFIX) {
                Some(name) => !name.contains('.') && directory.join(name).is_dir(),
                None => !name.contains('.'),
            };
            if name.starts_with(GONE) {
                gone.push(path);
            } else if name != "boot-id" && !(is_trusted && is_kept) {
                let aside = aside(&directory)?;
                std::fs::rename(&path, &aside)?;
                gone.push(aside);
            }
        }
        if !is_trusted {
            std::fs::write(&known, boot_id)?;
        }
        if !gone.is_empty() {
            std::thread::Builder::new().name("sent-removal".to_owned()).spawn(move || {
                for path in gone {
                    if let Err(error) = remove_tree(&path) {
                        tracing::warn!(%error, "what a client has sent stays until the next start");
                    }
                }
            })?;
        }
        Ok(Self { directory, known: Mutex::default() })
    }

    /// Receives a directory. What was received under this key before is not sent again; with no key the files come into `into`, which
    /// is empty.
    pub async fn receive(
        &self,
        key: &str,
        call: impl Future<Output = Result<ClientCall, Status>>,
        into: RootDir,
        progress: Option<Progress>,
    ) -> Result<(Received, Option<Lent>), Status> {
        let receive = Receive { mirror: true, owners: Owners::Mine, devices: Devices::Refused, progress };
        if key.is_empty() {
            let ClientCall { incoming, outgoing } = call.await?;
            return Ok((receive.run(into, incoming, outgoing).await?, None));
        }
        let name = Digest::of(key).hex();
        let mirror = self.mirror(&name);
        // Until the last thread that may write has ended, whatever becomes of this future.
        let locked = Arc::new(Arc::clone(&mirror.lock).lock_owned().await);
        self.make_room(&name).map_err(|error| failed(&error))?;
        let prepared = tokio::task::spawn_blocking({
            let (mirror, directory, locked) =
                (Arc::clone(&mirror), self.directory.clone(), Arc::clone(&locked));
            move || {
                let prepared = mirror.prepare(&directory, &name);
                drop(locked);
                prepared
            }
        });
        let root = flat(prepared.await)?;
        // Only now: several transfers may share one connection, and what waits there unread would stop those that are read.
        let ClientCall { incoming, outgoing } = call.await?;
        let before = mirror.stamp.swap(0, Ordering::AcqRel);
        let changes = Some(Changes::new(Arc::clone(&mirror.state().digests)));
        let received = receive.run_holding(root, incoming, outgoing, changes, Arc::clone(&locked)).await?;
        let is_same = before != 0 && !received.is_changed;
        let stamp = if is_same { before } else { NEXT.fetch_add(1, Ordering::Relaxed) };
        mirror.stamp.store(stamp, Ordering::Release);
        let loan = {
            let mut state = mirror.state();
            let stamp = Arc::clone(&mirror.stamp);
            let digests = Arc::clone(&state.digests);
            let is_replaced = AtomicBool::new(false);
            let loan = Arc::new(Loan { path: state.path.clone(), digests, stamp, is_replaced });
            state.lent = Arc::downgrade(&loan);
            loan
        };
        drop(locked);
        Ok((received, Some(Lent { loan, stamp })))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Mirror>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror(&self, name: &str) -> Arc<Mirror> {
        let mut known = self.known();
        let mirror = known.entry(name.to_owned()).or_insert_with(|| {
            let state = State::new(self.directory.join(name));
            Arc::new(Mirror { lock: Arc::default(), state: Mutex::new(state), stamp: Arc::default() })
        });
        Arc::clone(mirror)
    }

    /// Removes a mirror that nobody fills; one that is lent goes with its build. Whether it has gone.
    fn remove(&self, path: &Path) -> io::Result<bool> {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let name = name.split('.').next().unwrap_or_default();
        let mirror = self.mirror(name);
        let Ok(_locked) = mirror.lock.try_lock() else { return Ok(false) };
        let digests = {
            let mut state = mirror.state();
            // One whose place was taken goes with its build.
            if state.path != path {
                return Ok(false);
            }
            if let Some(loan) = state.lent.upgrade() {
                *state = State::new(another(&self.directory, name));
                loan.is_replaced.store(true, Ordering::Release);
                return Ok(false);
            }
            Arc::clone(&state.digests)
        };
        // At once: whoever is next begins with nothing.
        let gone = aside(&self.directory)?;
        let moved = std::fs::rename(path, &gone);
        mirror.stamp.store(0, Ordering::Release);
        digests.remove()?;
        match moved {
            Ok(()) => remove_tree(&gone)?,
            // Somebody has removed it by hand.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Here and in the table: nobody waits for it. Under another path than its first one it stays known, for a build may have that.
        let mut known = self.known();
        if Arc::strong_count(&mirror) == 2 && path == self.directory.join(name) {
            known.remove(name);
        }
        Ok(true)
    }

    /// Removes a mirror by its name. Whether it was there and has gone: those in use stay.
    pub fn forget(&self, name: &str) -> io::Result<bool> {
        let is_it = |path: &PathBuf| path.file_name() == Some(OsStr::new(name));
        let path = self.by_use()?.into_iter().map(|(_, path)| path).find(is_it);
        match path.filter(|path| !self.is_in_use(path)) {
            Some(path) => self.remove(&path),
            None => Ok(false),
        }
    }

    /// All mirrors.
    pub fn list(&self) -> io::Result<Vec<Kept>> {
        let kept = |(used, path): (SystemTime, PathBuf)| Kept {
            name: path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned(),
            size: RootDir::open(&path).map_or(0, |root| own_size(root.as_directory())),
            used,
            in_use: self.is_in_use(&path),
        };
        Ok(self.by_use()?.into_iter().map(kept).collect())
    }

    fn is_in_use(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let known = self.known().get(name.split('.').next().unwrap_or_default()).map(Arc::clone);
        known.is_some_and(|mirror| {
            let state = mirror.state();
            state.path != path || state.lent.strong_count() > 0 || mirror.lock.try_lock().is_err()
        })
    }

    /// Where they are, those first that were not used for longest.
    fn by_use(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let mut mirrors = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            // One may be removed at this moment.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && !entry.file_name().to_string_lossy().starts_with(GONE) {
                mirrors.push((metadata.accessed()?, entry.path()));
            }
        }
        mirrors.sort();
        Ok(mirrors)
    }

    /// Removes the mirrors that were not used for longest.
    fn make_room(&self, keep: &str) -> io::Result<()> {
        let mut mirrors = self.by_use()?;
        mirrors.retain(|(_, path)| !path.file_name().unwrap_or_default().to_string_lossy().starts_with(keep));
        let surplus = (mirrors.len() + 1).saturating_sub(MAX_MIRRORS);
        mirrors.iter().take(surplus).try_for_each(|(_, path)| self.remove(path).map(drop))
    }
}

/// Where a mirror is that takes the place of one.
fn another(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A name for what is to be removed, which nothing has.
fn aside(directory: &Path) -> io::Result<PathBuf> {
    loop {
        let path = directory.join(format!("{GONE}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        // An earlier daemon's may still be there.
        match std::fs::symlink_metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
}

/// Removes a file or directory, if it is there.
fn remove_tree(path: &Path) -> io::Result<()> {
    palan_linux::path::remove_tree(path).map_err(io::Error::from)
}

/// The bytes of files that have no other name: two mirrors share some while one is lent. What can't be read counts nothing.
fn own_size(directory: &Directory) -> u64 {
    let size = |entry: palan_linux::path::DirEntry| match entry.kind {
        FileKind::Directory => directory.open_dir(&entry.name).map_or(0, |below| own_size(&below)),
        FileKind::Regular => match directory.metadata(&entry.name) {
            Ok(metadata) if metadata.links == 1 => metadata.size,
            _ => 0,
        },
        _ => 0,
    };
    directory.entries().unwrap_or_default().into_iter().map(size).sum()
}

fn flat<T>(outcome: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, Status> {
    outcome.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Status {
    Status::new(Code::Internal, format!("cannot keep what the client sends: {error}"))
}

/// Fills a directory with links to the files of another.
fn link(from: &Directory, into: &Directory, changes: &Changes) -> io::Result<()> {
    for entry in from.entries()? {
        let name = entry.name.as_os_str();
        match entry.kind {
            FileKind::Directory => {
                let metadata = from.metadata(name)?;
                into.create_dir(name, 0o700)?;
                link(&from.open_dir(name)?, &into.open_dir(name)?, changes)?;
                into.set_mode(name, metadata.mode)?;
                into.set_times(name, metadata.modified, metadata.modified)?;
            }
            FileKind::Symlink => into.create_symlink(name, from.read_link(name)?.as_os_str())?,
            _ => match into.create_hard_link(name, from, name) {
                // A file has only so many names; file systems differ in how many.
                Err(error) if error.kind() == io::ErrorKind::TooManyLinks => copy(from, into, name, changes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                linked => linked?,
            },
        }
    }
    Ok(())
}

fn copy(from: &Directory, into: &Directory, name: &OsStr, changes: &Changes) -> io::Result<()> {
    let metadata = from.metadata(name)?;
    let mut source = std::fs::File::from(from.open(name, OFlags::RDONLY)?);
    changes.begin()?;
    let mut target = into.create_file(name, 0o600)?;
    changes.made(Metadata::of(&target)?.inode);
    io::copy(&mut source, &mut target)?;
    into.set_mode(name, metadata.mode)?;
    let modified: Time = metadata.modified;
    into.set_times(name, modified, modified)
}

#[cfg(test)]
mod tests;
