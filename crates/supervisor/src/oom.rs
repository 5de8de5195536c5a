//! Kills for lack of memory: noticed when they happen, told once.
//!
//! The kernel's notice wakes the loop, which compares the number of kills with the one that is in the journal. On cgroup
//! v1 the notice comes before the process is counted, so the number is looked at again a little later.
//!
//! Asking for notices takes system calls that nobody shall wait for, so it is done [`START`] after the container's start;
//! a short run does without. A container that does nothing but run out of memory must neither keep the supervisor busy nor
//! fill the journal: after an entry the next one is [`PAUSE`] later, and stands for all kills since.

use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::event::Epoll;
use palan_runtime::cgroup::{Cgroup, OomNotifier};

use crate::watch::Token;

/// From the container's start to the beginning of the watch.
const START: Duration = Duration::from_millis(100);

/// From a notice to the look at what it is about.
const SOON: Duration = Duration::from_millis(10);

/// After a look that brought nothing: the kernel may be busy killing.
const LATER: Duration = Duration::from_millis(200);

/// After a look that brought something.
const PAUSE: Duration = Duration::from_secs(1);

/// The watch over one container's memory.
#[derive(Debug)]
pub(crate) struct OomWatch {
    notifier: Notifier,
    /// Kills that are in the journal.
    told: u64,
    /// When to look at the number.
    look_at: Option<Instant>,
    /// The look after a notice has brought nothing yet, and is made once more.
    again: bool,
    /// Before this nothing is told.
    rests_until: Option<Instant>,
}

#[derive(Debug)]
enum Notifier {
    NotYet,
    Watched(OomNotifier, Rc<Epoll>),
    /// The container has ended, or the kernel has refused: kills are told when a process ends.
    None,
}

impl OomWatch {
    /// The container has been started now.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            notifier: Notifier::NotYet,
            told: 0,
            look_at: Some(now + START),
            again: false,
            rests_until: None,
        }
    }

    /// The container has ended: no more notices are wanted.
    pub(crate) fn end(&mut self) {
        if let Notifier::Watched(notifier, epoll) = std::mem::replace(&mut self.notifier, Notifier::None) {
            // It can only fail for a descriptor that is not watched.
            let _ = epoll.remove(&notifier);
        }
        self.look_at = None;
    }

    /// The notifier is ready.
    pub(crate) fn notice(&mut self, now: Instant) {
        let Notifier::Watched(notifier, _) = &self.notifier else { return };
        notifier.clear();
        let soon = now + SOON;
        self.look_at = Some(self.rests_until.map_or(soon, |until| until.max(soon)));
        self.again = true;
    }

    /// When [`Self::is_due`] will be `true`.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether [`Self::look`] should be called.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.look_at.is_some_and(|at| at <= now)
    }

    /// Looks at the number, and asks for notices if that is still to be done. `true`: there are kills that have not been
    /// told; now they count as told.
    pub(crate) fn look(&mut self, cgroup: &Cgroup, epoll: &Rc<Epoll>, now: Instant) -> bool {
        if matches!(self.notifier, Notifier::NotYet) && self.is_due(now) {
            self.notifier = Self::watch(cgroup, epoll);
        }
        // Where it can't be read the end will tell.
        self.looked(cgroup.oom_kills().unwrap_or(0), now)
    }

    fn watch(cgroup: &Cgroup, epoll: &Rc<Epoll>) -> Notifier {
        match cgroup.oom_notifier() {
            Ok(Some(notifier)) if epoll.add(&notifier, Token::Oom.encode(), notifier.interest()).is_ok() => {
                Notifier::Watched(notifier, Rc::clone(epoll))
            }
            _ => Notifier::None,
        }
    }

    fn looked(&mut self, kills: u64, now: Instant) -> bool {
        let new = kills > self.told;
        self.told = self.told.max(kills);
        if !matches!(self.notifier, Notifier::NotYet) {
            self.look_at = None;
        }
        if new {
            (self.rests_until, self.again) = (Some(now + PAUSE), false);
        } else if std::mem::take(&mut self.again) {
            self.look_at = Some(now + LATER);
        }
        new
    }

    /// Whether there were any at any time.
    pub(crate) fn any(&self) -> bool {
        self.told > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_that_comes_before_the_kill_is_counted_is_looked_into_twice() {
        let now = Instant::now();
        let mut watch = OomWatch::new(now);
        watch.notifier = Notifier::None;
        (watch.look_at, watch.again) = (Some(now), true);
        assert!(!watch.looked(0, now));
        assert_eq!(watch.deadline(), Some(now + LATER));
        assert!(watch.looked(1, now + LATER));
        assert_eq!((watch.deadline(), watch.any()), (None, true));
        // A notice that is about nothing ends, too.
        (watch.look_at, watch.again) = (Some(now), true);
        assert!(!watch.looked(1, now) && !watch.looked(1, now + LATER));
        assert_eq!(watch.deadline(), None);
    }

    #[test]
    fn the_end_of_a_process_before_the_watch_begins_does_not_put_it_off() {
        let now = Instant::now();
        let mut watch = OomWatch::new(now);
        assert!(!watch.looked(0, now));
        assert_eq!(watch.deadline(), Some(now + START));
    }
}
