//! Tells followers of logs that something was written, by one inotify instance for all: their number per user is limited.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Watches directories for followers. The instance is made with the first one.
#[derive(Debug, Default)]
pub(crate) struct DirectoryWatcher {
    shared: Mutex<Option<Arc<Shared>>>,
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
    /// Watches a directory for changes of the files in it. Must be called from within the reactor.
    pub(crate) fn watch(&self, directory: &Path) -> Result<Watch> {
        let shared = self.shared()?;
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let mut watched = shared.lock();
        let descriptor = inotify::add_watch(&shared.inotify, directory, flags)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot watch {}", directory.display()))?;
        let entry = watched
            .entry(descriptor)
            .or_insert_with(|| Watched { followers: 0, changed: Arc::new(Notify::new()) });
        entry.followers += 1;
        let changed = entry.changed.clone();
        drop(watched);
        Ok(Watch { shared, descriptor, changed })
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = &*shared {
            return Ok(shared.clone());
        }
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .context(|| {
                "cannot follow logs: the limit fs.inotify.max_user_instances may be reached".into()
            })?;
        let made = Arc::new(Shared { inotify, watched: Mutex::default() });
        tokio::spawn(distribute(made.clone()));
        Ok(shared.insert(made).clone())
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
