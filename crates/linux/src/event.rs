//! Waiting for many things at once: epoll(7) with caller-chosen tokens, and signalfd(2).
//!
//! Timers need no descriptor of their own: the caller computes the time to its nearest deadline and passes it to
//! [`Epoll::wait`].

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, Result};

/// What to wait for on a descriptor. An error or a hang-up is always reported too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Bytes to read, a connection to accept, or the end of the stream.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// To read only.
    pub const READ: Self = Self { read: true, write: false };
    /// To write only.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Nothing but errors and hang-ups.
    pub const NONE: Self = Self { read: false, write: false };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN | epoll::EventFlags::RDHUP, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags
    }
}

/// One thing that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The token that the descriptor was added with.
    pub token: u64,
    /// A read will not block: there are bytes, the end, or an error.
    pub read: bool,
    /// A write will not block, or fails at once.
    pub write: bool,
    /// The other end is gone, or the descriptor has failed (`EPOLLHUP`, `EPOLLERR`).
    pub closed: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    descriptor: OwnedFd,
}

/// How many events one wait takes at most; the rest comes with the next one.
const BATCH: usize = 32;

impl Epoll {
    /// Makes an instance, close-on-exec.
    pub fn new() -> Result<Self> {
        Ok(Self { descriptor: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Starts watching `source` (level-triggered).
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        epoll::add(&self.descriptor, source, epoll::EventData::new_u64(token), interest.flags())
    }

    /// Changes what is waited for on `source`.
    pub fn modify(&self, source: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        epoll::modify(&self.descriptor, source, epoll::EventData::new_u64(token), interest.flags())
    }

    /// Reports nothing more on `source`, not even a hang-up, until [`Self::modify`]. One event that is under way may still
    /// come. Unlike [`Self::remove`] it can always be undone: a new watch may be refused for lack of memory, or because
    /// the user has too many of them.
    pub fn mute(&self, source: impl AsFd, token: u64) -> Result<()> {
        epoll::modify(&self.descriptor, source, epoll::EventData::new_u64(token), epoll::EventFlags::ONESHOT)
    }

    /// Reports on `source` what there is to read, or its failure, once for each change instead of as long as it lasts.
    pub fn modify_to_changes(&self, source: impl AsFd, token: u64) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::modify(&self.descriptor, source, epoll::EventData::new_u64(token), flags)
    }

    /// Stops watching `source`. Needed also before closing it where another process may hold the same open file.
    pub fn remove(&self, source: impl AsFd) -> Result<()> {
        epoll::delete(&self.descriptor, source)
    }

    /// Waits until something is ready or `timeout` has passed, and appends what is ready to `ready`.
    /// Interruption by a signal counts as a wait with nothing ready.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<()> {
        // epoll_pwait2 is newer than the kernels we run on, so the timeout is in whole milliseconds, rounded up: waking
        // up too early would only spin.
        let timeout = timeout.map(|duration| {
            let millis = duration.as_micros().div_ceil(1000).min(i32::MAX.unsigned_abs().into());
            Timespec {
                tv_sec: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
            }
        });
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; BATCH];
        let (events, _) = match epoll::wait(&self.descriptor, &mut events[..], timeout.as_ref()) {
            Ok(events) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in events.iter() {
            let flags = event.flags;
            let closed = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            ready.push(Ready {
                token: event.data.u64(),
                read: closed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                write: closed || flags.contains(epoll::EventFlags::OUT),
                closed,
            });
        }
        Ok(())
    }
}

/// It is readable while anything is ready, so it can be watched by another instance.
impl AsFd for Epoll {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Signals as a readable descriptor. The signals are blocked for the calling thread from then on, so a child must
/// reset its mask before it executes foreign code.
#[derive(Debug)]
pub struct SignalFd {
    descriptor: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` (by number) for this thread and makes a descriptor that reports them, non-blocking.
    pub fn new(signals: &[i32]) -> Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the whole set that it is given a valid pointer to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in signals {
            // SAFETY: the set was initialised above; an invalid number is refused with EINVAL, not undefined.
            if unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) } != 0 {
                return Err(Errno::INVAL);
            }
        }
        // SAFETY: the set is initialised and lives across the call; a null old set is allowed by sigprocmask(2).
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if error != 0 {
            return Err(Errno::from_raw_os_error(error));
        }
        // SAFETY: -1 asks for a new descriptor; the set is initialised and only read.
        let descriptor = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
        }
        // SAFETY: signalfd returned a new descriptor that nothing else owns.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Takes the next pending signal's number, if there is one.
    pub fn next(&self) -> Result<Option<i32>> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.descriptor, &mut record) {
            Ok(read) if read == record.len() => {
                let number = [record[0], record[1], record[2], record[3]];
                Ok(Some(i32::from_ne_bytes(number)))
            }
            Ok(_) | Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl SignalFd {
    /// The same at a descriptor number of at least `minimum`.
    pub fn moved_above(self, minimum: i32) -> Result<Self> {
        Ok(Self { descriptor: rustix::io::fcntl_dupfd_cloexec(&self.descriptor, minimum)? })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_token_of_what_is_ready() {
        let epoll = Epoll::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        epoll.add(&reader, 7, Interest::READ).unwrap();
        let mut ready = Vec::new();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        rustix::io::write(&writer, b"x").unwrap();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [Ready { token: 7, read: true, write: false, closed: false }]);
        ready.clear();
        drop(writer);
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [Ready { token: 7, read: true, write: true, closed: true }]);
    }

    #[test]
    fn a_signal_is_read_from_the_descriptor() {
        let signals = SignalFd::new(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        // SAFETY: raise(3) with a valid signal number; it is blocked for this thread, so no handler runs.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR2));
    }
}
