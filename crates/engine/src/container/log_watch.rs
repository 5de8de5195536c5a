//! Tells followers of logs that something was written, by one inotify instance for all: their number per user is limited.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::Result;
use crate::error::Context;

#[derive(Debug)]
struct Watched {
    followers: usize,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Shared {
    inotify: OwnedFd,
    watched: Mutex<HashMap<i32, Watched>>,
}

/// Watches directories for followers.
#[derive(Debug)]
pub(crate) struct DirectoryWatcher {
    shared: Arc<Shared>,
    task: OnceLock<()>,
}

/// One follower's interest in a directory; ends with it.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    descriptor: i32,
    changed: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirectoryWatcher {
    /// A watcher of nothing.
    pub(crate) fn new() -> Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .context(|| {
                "cannot watch log files: the limit fs.inotify.max_user_instances may be reached".into()
            })?;
        let shared = Shared { inotify, watched: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), task: OnceLock::new() })
    }

    /// Watches a directory for changes of the files in it. Must be called from within the reactor.
    pub(crate) fn watch(&self, directory: &Path) -> Result<Watch> {
        self.task.get_or_init(|| drop(tokio::spawn(distribute(self.shared.clone()))));
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let mut watched = self.shared.lock();
        let descriptor = inotify::add_watch(&self.shared.inotify, directory, flags)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot watch {}", directory.display()))?;
        let entry = watched
            .entry(descriptor)
            .or_insert_with(|| Watched { followers: 0, changed: Arc::new(Notify::new()) });
        entry.followers += 1;
        Ok(Watch { shared: self.shared.clone(), descriptor, changed: entry.changed.clone() })
    }
}

impl Watch {
    /// A future that completes at the next change after its making; make it before looking at the file.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.shared.lock();
        let Some(entry) = watched.get_mut(&self.descriptor) else { return };
        entry.followers -= 1;
        if entry.followers == 0 {
            watched.remove(&self.descriptor);
            // The directory may be gone, and its watch with it.
            let _ = inotify::remove_watch(&self.shared.inotify, self.descriptor);
        }
    }
}

async fn distribute(shared: Arc<Shared>) {
    let copy =
        match shared.inotify.try_clone().and_then(|fd| crate::reactor::register(fd, Interest::READABLE)) {
            Ok(copy) => copy,
            Err(error) => return tracing::error!(%error, "followers of logs are not told about new lines"),
        };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        let Ok(mut guard) = copy.readable().await else { return };
        let mut reader = inotify::Reader::new(copy.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let watched = shared.lock();
                    if let Some(entry) = watched.get(&event.wd()) {
                        entry.changed.notify_waiters();
                    } else if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        watched.values().for_each(|entry| entry.changed.notify_waiters());
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        guard.clear_ready();
    }
}
