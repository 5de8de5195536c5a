//! Hearing of kills for lack of memory when they happen.
//!
//! v2 marks `memory.events` as changed for poll(2), until it is read again by the same descriptor. v1 adds to an eventfd
//! when memory has run out, which is a moment *before* the killed process is counted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palan_linux::event::Interest;
use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, write_file};

/// Something to wait for by epoll(7) that tells when [`Cgroup::oom_kills`] may have risen, or is about to.
#[derive(Debug)]
pub struct OomNotifier {
    descriptor: OwnedFd,
    interest: Interest,
}

impl Cgroup {
    /// Makes a notifier; `None` if the cgroup has no memory controller. It may tell of what happened before.
    pub fn oom_notifier(&self) -> Result<Option<OomNotifier>, CgroupError> {
        let made = if self.is_v2() {
            let Some(group) = self.unified() else { return Ok(None) };
            OomNotifier::of_file(&group.directory, "memory.events")
        } else {
            let Ok(group) = self.controller("memory", "memory") else { return Ok(None) };
            OomNotifier::by_eventfd(&group.directory)
        };
        match made {
            Ok(notifier) => Ok(Some(notifier)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("watch its memory", errno)),
        }
    }
}

impl OomNotifier {
    fn of_file(directory: &OwnedFd, file: &str) -> Result<Self, Errno> {
        let descriptor =
            rustix::fs::openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Such a file is always readable; a change is an error to poll(2).
        let notifier = Self { descriptor, interest: Interest::NONE };
        notifier.clear();
        Ok(notifier)
    }

    fn by_eventfd(directory: &OwnedFd) -> Result<Self, Errno> {
        let descriptor = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let control = rustix::fs::openat(directory, "memory.oom_control", flags, Mode::empty())?;
        let number = |descriptor: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(descriptor);
        let registration = format!("{} {}", number(&descriptor), number(&control));
        write_file(directory, "cgroup.event_control", &registration)?;
        Ok(Self { descriptor, interest: Interest::READ })
    }

    /// What to wait for.
    pub fn interest(&self) -> Interest {
        self.interest
    }

    /// Makes it wait for the next change. To be called before the number is looked at.
    pub fn clear(&self) {
        let mut buffer = [0; 64];
        // Whether there was something to read does not matter.
        let _ = if self.interest.read {
            rustix::io::read(&self.descriptor, &mut buffer)
        } else {
            rustix::io::pread(&self.descriptor, &mut buffer, 0)
        };
    }
}

impl AsFd for OomNotifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use palan_linux::event::Epoll;

    use super::*;

    fn is_told(epoll: &Epoll) -> bool {
        is_told_within(epoll, Duration::from_secs(10))
    }

    fn stays_quiet(epoll: &Epoll) -> bool {
        !is_told_within(epoll, Duration::from_millis(200))
    }

    fn is_told_within(epoll: &Epoll, time: Duration) -> bool {
        let mut ready = Vec::new();
        epoll.wait(&mut ready, Some(time)).unwrap();
        !ready.is_empty()
    }

    /// `cgroup.events` changes as `memory.events` does, also where v2 has no memory controller.
    #[test]
    fn changes_of_a_v2_file_are_told_once() {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let Some(root) = roots.into_iter().find(|root| root.join("cgroup.subtree_control").exists()) else {
            return;
        };
        let path = root.join(format!("palan-test-oom-{}", std::process::id()));
        if std::fs::create_dir(&path).is_err() {
            return;
        }
        let directory = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let notifier = OomNotifier::of_file(&directory, "cgroup.events").unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&notifier, 1, notifier.interest()).unwrap();
        assert!(stays_quiet(&epoll));
        #[allow(clippy::disallowed_methods, reason = "any process will do")]
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let added = write_file(&directory, "cgroup.procs", &child.id().to_string());
        let told_of_start = is_told(&epoll);
        notifier.clear();
        let told_once = stays_quiet(&epoll);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((added, told_of_start, told_once), (Ok(()), true, true));
        assert!(is_told(&epoll));
        notifier.clear();
        assert!(stays_quiet(&epoll));
        std::fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn a_v1_cgroup_that_goes_is_told() {
        let path = Path::new("/sys/fs/cgroup/memory").join(format!("palan-test-oom-{}", std::process::id()));
        if !path.parent().unwrap().join("cgroup.event_control").exists()
            || std::fs::create_dir(&path).is_err()
        {
            return;
        }
        let directory = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let notifier = OomNotifier::by_eventfd(&directory).unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&notifier, 1, notifier.interest()).unwrap();
        assert!(stays_quiet(&epoll));
        std::fs::remove_dir(&path).unwrap();
        // The kernel tells of it in the background, when it gets to it.
        assert!(is_told(&epoll));
        notifier.clear();
        assert!(stays_quiet(&epoll));
    }
}
