//! Tells followers of logs that something was written, by one inotify instance for all: their number per user is limited.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::Result;
use crate::error::Context;

#[derive(Debug)]
struct Watched {
    /// All who look, and those of them who are told of new lines too.
    watches: usize,
    followers: usize,
    /// Lines were written, or a file got another name.
    changed: Arc<Notify>,
    /// A file got another name.
    named: Arc<Notify>,
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

/// The names of files in a directory.
const NAMES: inotify::WatchFlags = inotify::WatchFlags::CREATE.union(inotify::WatchFlags::MOVED_TO);

/// One follower's interest in a directory; ends with it.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    directory: PathBuf,
    descriptor: i32,
    follows: bool,
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
        self.watch_for(directory, true)
    }

    /// The same for files with new names only: lines that are written wake nobody for it.
    pub(crate) fn watch_names(&self, directory: &Path) -> Result<Watch> {
        self.watch_for(directory, false)
    }

    fn watch_for(&self, directory: &Path, follows: bool) -> Result<Watch> {
        let shared = self.shared()?;
        let mut flags = NAMES | inotify::WatchFlags::MASK_ADD;
        flags.set(inotify::WatchFlags::MODIFY, follows);
        let mut watched = shared.lock();
        let descriptor = inotify::add_watch(&shared.inotify, directory, flags)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot watch {}", directory.display()))?;
        let [changed, named] = [(); 2].map(|()| Arc::new(Notify::new()));
        let entry = watched.entry(descriptor).or_insert(Watched { watches: 0, followers: 0, changed, named });
        entry.watches += 1;
        entry.followers += usize::from(follows);
        let changed = if follows { &entry.changed } else { &entry.named };
        let changed = Arc::clone(changed);
        drop(watched);
        Ok(Watch { shared, directory: directory.to_owned(), descriptor, follows, changed })
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
        entry.watches -= 1;
        entry.followers -= usize::from(self.follows);
        // The directory may be gone, and its watch with it.
        if entry.watches == 0 {
            watched.remove(&self.descriptor);
            let _ = inotify::remove_watch(&self.shared.inotify, self.descriptor);
        } else if entry.followers == 0
            && self.follows
            && let Ok(other) = inotify::add_watch(&self.shared.inotify, &self.directory, NAMES)
            && !watched.contains_key(&other)
        {
            // Another directory has its name now.
            let _ = inotify::remove_watch(&self.shared.inotify, other);
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
                        if !event.events().contains(inotify::ReadFlags::MODIFY) {
                            entry.named.notify_waiters();
                        }
                    } else if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        watched.values().for_each(|entry| {
                            entry.changed.notify_waiters();
                            entry.named.notify_waiters();
                        });
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_looks_for_names_is_not_woken_by_lines() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        let mut log = std::fs::File::create(&path).expect("made");
        let watcher = DirectoryWatcher::default();
        let names = watcher.watch_names(directory.path()).expect("watched");
        let mut line = || log.write_all(b"line\n").expect("written");
        let queued = || {
            let shared = watcher.shared().expect("there");
            shared.lock().values().map(|entry| (entry.watches, entry.followers)).collect::<Vec<_>>()
        };
        let soon = Duration::from_millis(50);
        for follows in [true, false] {
            let follower = follows.then(|| watcher.watch(directory.path()).expect("watched"));
            assert_eq!(queued(), [(1 + usize::from(follows), usize::from(follows))]);
            let named = names.changed();
            tokio::pin!(named);
            named.as_mut().enable();
            let mut changed = follower.as_ref().map(|follower| Box::pin(follower.changed()));
            if let Some(changed) = &mut changed {
                changed.as_mut().enable();
            }
            line();
            if let Some(changed) = changed {
                tokio::time::timeout(Duration::from_secs(30), changed).await.expect("a line");
            }
            tokio::time::timeout(soon, named.as_mut()).await.expect_err("no name");
            std::fs::rename(&path, directory.path().join("log.1")).expect("moved");
            tokio::time::timeout(Duration::from_secs(30), named).await.expect("a name");
            let back = names.changed();
            tokio::pin!(back);
            back.as_mut().enable();
            std::fs::rename(directory.path().join("log.1"), &path).expect("moved");
            tokio::time::timeout(Duration::from_secs(30), back).await.expect("a name");
            tokio::time::sleep(soon).await;
        }
    }
}
