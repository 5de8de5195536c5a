//! Directories that clients have sent before, so that only what has changed is sent again.
//!
//! A client says the same shared key for the same directory. Under each key lies a mirror of what was sent last; a transfer brings it
//! up to date, and then a build gets a tree of hard links to it.
//!
//! **Invariant:** a file of a mirror is never written again once it is whole: what has changed is made anew under the same name. So
//! nobody who has a link to it sees it change, and builds need no lock for longer than a transfer.
//!
//! Nothing is flushed: mirrors that are older than the host's start are not trusted, and removed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use palan_linux::path::{Directory, FileKind, RootDir, Time};
use palan_oci::Digest;
use rustix::fs::OFlags;
use tokio::sync::Mutex as AsyncMutex;

use crate::fsutil::{Devices, Owners, Progress, Receive, Received};
use crate::grpc::{ClientCall, Code, Status};

/// How many mirrors are kept.
const MAX_MIRRORS: usize = 32;

/// What says since when the host is up.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// All mirrors.
#[derive(Debug)]
pub struct Mirrors {
    directory: PathBuf,
    locks: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Mirrors {
    /// Opens the directory of the mirrors, which is made if it is not there.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        let boot_id = std::fs::read(BOOT_ID).unwrap_or_default();
        let known = directory.join("boot-id");
        if boot_id.is_empty() || std::fs::read(&known).unwrap_or_default() != boot_id {
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            std::fs::write(&known, boot_id)?;
        }
        Ok(Self { directory, locks: Mutex::default() })
    }

    /// Receives a directory into `into`, which is empty and on the same file system. What was received under this key before is not
    /// sent again.
    pub async fn receive(
        &self,
        key: &str,
        call: ClientCall,
        into: RootDir,
        progress: Option<Progress>,
    ) -> Result<Received, Status> {
        let receive = Receive { mirror: true, owners: Owners::Mine, devices: Devices::Refused, progress };
        let ClientCall { incoming, outgoing } = call;
        if key.is_empty() {
            return receive.run(into, incoming, outgoing).await;
        }
        let name = Digest::of(key).hex();
        let lock = self.lock(&name);
        // Until the last thread that may write or link has ended, whatever becomes of this future.
        let locked = Arc::new(lock.lock_owned().await);
        let path = self.directory.join(&name);
        let prepared = tokio::task::spawn_blocking({
            let (path, directory) = (path.clone(), self.directory.clone());
            move || {
                make_room(&directory, &path)?;
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

    /// Removes all mirrors that nothing is received into.
    pub fn clear(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let lock = self.lock(name);
            if entry.file_type()?.is_dir()
                && let Ok(_locked) = lock.try_lock()
            {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

fn flat<T>(outcome: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, Status> {
    outcome.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Status {
    Status::new(Code::Internal, format!("cannot keep what the client sends: {error}"))
}

/// Removes the mirrors that were not used for longest.
fn make_room(directory: &Path, keep: &Path) -> io::Result<()> {
    let mut mirrors = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() && entry.path() != keep {
            mirrors.push((metadata.modified()?, entry.path()));
        }
    }
    mirrors.sort();
    let surplus = (mirrors.len() + 1).saturating_sub(MAX_MIRRORS);
    // One that is in use at this moment fails, and is built again without it.
    mirrors.iter().take(surplus).try_for_each(|(_, path)| std::fs::remove_dir_all(path))
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
