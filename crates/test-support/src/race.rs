//! Races: two paths change places over and over, as somebody does who wants to be looked at as the one and used as the
//! other.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Exchanges two paths until it is dropped.
#[derive(Debug)]
pub struct Exchange {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    /// Starts; both paths must exist, on one file system (`RENAME_EXCHANGE`, rename(2)).
    #[track_caller]
    pub fn start(first: &Path, second: &Path) -> Self {
        let exchange =
            |first: &Path, second: &Path| renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE);
        exchange(first, second).expect("the paths can be exchanged");
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (first, second) = (first.to_owned(), second.to_owned());
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            // In turn as fast as can be, and as slow as what may stand between a look and a use.
            for pause in [0, 0, 0, 0, 50, 100, 300, 1000].into_iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // Something may stand in the way for a moment, such as a mount on one of them.
                if exchange(&first, &second).is_ok() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                if pause > 0 {
                    std::thread::sleep(Duration::from_micros(pause));
                }
            }
        });
        Self { stop, count, thread: Some(thread) }
    }

    /// How often the paths have changed places so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
