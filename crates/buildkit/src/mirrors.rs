//! Directories that clients have sent before, so that only what has changed is sent again.
//!
//! A client says the same shared key for the same directory. Under each key lies a mirror of what was sent last; a transfer brings it
//! up to date, and then a build gets a tree of hard links to it.
//!
//! **Invariant:** a file of a mirror is never written again once it is whole: what has changed is made anew under the same name. So
//! nobody who has a link to it sees it change, and builds need no lock for longer than a transfer.
//!
//! A mirror goes when there are too many, or when the build cache is pruned, but never while a transfer has its lock: a transfer
//! would go on into what is removed, and the build would lack files. A transfer takes the lock before it asks the client to send:
//! several may share one connection, and what waits there unread would stop those that are read.
//!
//! Nothing is flushed: mirrors that are older than the host's start are not trusted. They are renamed, and removed by and by.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use palan_linux::path::{Directory, FileKind, RootDir, Time};
use palan_oci::Digest;
use rustix::fs::OFlags;
use tokio::sync::Mutex as AsyncMutex;

use crate::fsutil::{Devices, Owners, Progress, Receive, Received};
use crate::grpc::{ClientCall, Code, Status};

/// How many mirrors are kept.
const MAX_MIRRORS: usize = 32;

/// How what is to be removed is called.
const ASIDE: &str = ".aside-";

/// What says since when the host is up.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// All mirrors. Clones are the same.
#[derive(Debug, Clone)]
pub struct Mirrors {
    directory: PathBuf,
    locks: Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its name in the directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// When something was received into it last.
    pub used: SystemTime,
    /// Something is received into it at this moment.
    pub in_use: bool,
}

impl Mirrors {
    /// Opens the directory of the mirrors, which is made if it is not there.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        let boot_id = std::fs::read(BOOT_ID).unwrap_or_default();
        let known = directory.join("boot-id");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mirrors = Self { directory, locks: Arc::default() };
        if boot_id.is_empty() || std::fs::read(&known).unwrap_or_default() != boot_id {
            for mirror in mirrors.list()? {
                mirrors.set_aside(&mirror)?;
            }
            std::fs::write(&known, boot_id)?;
        }
        mirrors.remove_aside();
        Ok(mirrors)
    }

    /// Gives a mirror a name under which it is none. It takes no time, however large it is.
    fn set_aside(&self, mirror: &Mirror) -> io::Result<()> {
        let aside = (0_u32..)
            .map(|number| self.directory.join(format!("{ASIDE}{}-{number}", mirror.name)))
            .find(|path| !path.exists());
        std::fs::rename(&mirror.path, aside.unwrap_or_default())
    }

    /// Removes what was set aside, now or before the process was killed, on a thread of its own.
    fn remove_aside(&self) {
        let directory = self.directory.clone();
        let remove = move || {
            let root = RootDir::open(&directory)?;
            for entry in root.as_directory().entries()? {
                if entry.name.as_encoded_bytes().starts_with(ASIDE.as_bytes()) {
                    root.as_directory().remove_all(&entry.name)?;
                }
            }
            Ok(())
        };
        let run = move || {
            let removed: io::Result<()> = remove();
            if let Err(error) = removed {
                tracing::warn!(%error, "what clients had sent stays until the next start");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("sent-remove".to_owned()).spawn(run) {
            tracing::warn!(%error, "what clients had sent stays until the next start");
        }
    }

    /// Receives a directory into `into`, which is empty and on the same file system. What was received under this key before is not
    /// sent again. `call` is what asks the client to send; it is polled when it is this transfer's turn.
    pub async fn receive(
        &self,
        key: &str,
        call: impl Future<Output = Result<ClientCall, Status>>,
        into: RootDir,
        progress: Option<Progress>,
    ) -> Result<Received, Status> {
        let receive = Receive { mirror: true, owners: Owners::Mine, devices: Devices::Refused, progress };
        if key.is_empty() {
            let ClientCall { incoming, outgoing } = call.await?;
            return receive.run(into, incoming, outgoing).await;
        }
        let name = Digest::of(key).hex();
        let lock = self.lock(&name);
        // Until the last thread that may write or link has ended, whatever becomes of this future.
        let locked = Arc::new(lock.lock_owned().await);
        let path = self.directory.join(&name);
        let prepared = tokio::task::spawn_blocking({
            let mirrors = self.clone();
            let locked = Arc::clone(&locked);
            move || {
                let _locked = locked;
                mirrors.make_room(&name);
                match std::fs::create_dir(&path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                // The time of its last use.
                std::fs::File::open(&path)?.set_modified(std::time::SystemTime::now())?;
                RootDir::open(&path).map_err(io::Error::from)
            }
        });
        let root = flat(prepared.await)?;
        let mirror = root.try_clone().map_err(|error| failed(&error.into()))?;
        let ClientCall { incoming, outgoing } = call.await?;
        let received = receive.run_holding(root, incoming, outgoing, Arc::clone(&locked)).await?;
        let linked = tokio::task::spawn_blocking(move || {
            let linked = link(mirror.as_directory(), into.as_directory());
            drop(locked);
            linked
        });
        flat(linked.await)?;
        Ok(received)
    }

    fn lock(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Who waits for a lock or has it, has it counted.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }

    /// All mirrors, in no particular order.
    pub fn list(&self) -> io::Result<Vec<Mirror>> {
        let mut mirrors = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            // One that has just gone is none.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if !metadata.is_dir() || name.starts_with('.') {
                continue;
            }
            let in_use = self.lock(&name).try_lock().is_err();
            mirrors.push(Mirror { name, path: entry.path(), used: metadata.modified()?, in_use });
        }
        Ok(mirrors)
    }

    /// Removes a mirror, unless something is received into it: whether it is gone.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let lock = self.lock(name);
        let Ok(_locked) = lock.try_lock() else { return Ok(false) };
        match RootDir::open(&self.directory)?.as_directory().remove_all(OsStr::new(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    /// Removes the mirrors that were not used for longest, but none that is in use. What can't be removed is in nobody's way.
    fn make_room(&self, keep: &str) {
        let mut mirrors = self.list().unwrap_or_default();
        mirrors.retain(|mirror| mirror.name != keep);
        mirrors.sort_by_key(|mirror| mirror.used);
        let mut surplus = (mirrors.len() + 1).saturating_sub(MAX_MIRRORS);
        for mirror in mirrors {
            if surplus == 0 {
                break;
            }
            match self.remove(&mirror.name) {
                Ok(is_gone) => surplus -= usize::from(is_gone),
                Err(error) => {
                    tracing::warn!(%error, name = mirror.name, "what a client had sent can't be removed");
                }
            }
        }
    }
}

fn flat<T>(outcome: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, Status> {
    outcome.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Status {
    Status::new(Code::Internal, format!("cannot keep what the client sends: {error}"))
}

/// Fills a directory with links to the files of another.
fn link(from: &Directory, into: &Directory) -> io::Result<()> {
    for entry in from.entries()? {
        let name = entry.name.as_os_str();
        match entry.kind {
            FileKind::Directory => {
                let metadata = from.metadata(name)?;
                into.create_dir(name, 0o700)?;
                link(&from.open_dir(name)?, &into.open_dir(name)?)?;
                into.set_mode(name, metadata.mode)?;
                into.set_times(name, metadata.modified, metadata.modified)?;
            }
            FileKind::Symlink => into.create_symlink(name, from.read_link(name)?.as_os_str())?,
            _ => match into.create_hard_link(name, from, name) {
                // A file has only so many names; file systems differ in how many.
                Err(error) if error.kind() == io::ErrorKind::TooManyLinks => copy(from, into, name)?,
                linked => linked?,
            },
        }
    }
    Ok(())
}

fn copy(from: &Directory, into: &Directory, name: &OsStr) -> io::Result<()> {
    let metadata = from.metadata(name)?;
    let mut source = std::fs::File::from(from.open(name, OFlags::RDONLY)?);
    let mut target = into.create_file(name, 0o600)?;
    io::copy(&mut source, &mut target)?;
    into.set_mode(name, metadata.mode)?;
    let modified: Time = metadata.modified;
    into.set_times(name, modified, modified)
}

#[cfg(test)]
mod tests;
