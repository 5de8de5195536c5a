//! One download for everybody who wants the same layer.
//!
//! ```text
//!                    join (first)                     the task ends
//!   (not in the map) ───────────▶ flying, n waiters ───────────────▶ (not in the map), outcome published
//!                                   │        ▲
//!                          ticket   │        │ join, ticket dropped while others wait
//!                          dropped, └────────┘
//!                          n = 0 ──▶ (not in the map), the task is aborted
//! ```
//! A flight is a task of its own, so the client that began it may go away while others wait. The map's lock is held for
//! moments only and decides all races: who finds an entry is counted before its task can be aborted.
//! An aborted task's thread may still be writing its last chunk; the store makes the next flight wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palan_oci::Digest;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::auth::AuthKey;
use crate::error::RegistryError;
use crate::progress::LayerStatus;

/// What is fetched: a blob, as the layer with this diff-id. Two images that disagree about what is in a blob are two
/// flights, of which one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
}

/// What the waiting see: the newest status, and in the end the outcome.
#[derive(Debug, Clone)]
pub(crate) struct FlightState {
    pub(crate) status: LayerStatus,
    pub(crate) outcome: Option<Result<(), Arc<RegistryError>>>,
}

/// The layers that are being fetched in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flying: Mutex<Flying>,
}

#[derive(Debug, Default)]
struct Flying {
    last_id: u64,
    entries: HashMap<FlightKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Tells this flight from a later one with the same key.
    id: u64,
    waiters: usize,
    state: watch::Receiver<FlightState>,
    task: AbortHandle,
    source: AuthKey,
}

/// A place among the waiting; dropping it may end the download.
#[derive(Debug)]
pub(crate) struct Ticket {
    flights: Arc<Flights>,
    key: FlightKey,
    id: u64,
    /// The flight's state.
    pub(crate) state: watch::Receiver<FlightState>,
    /// From where and for whom the flight fetches.
    pub(crate) source: AuthKey,
}

impl Flights {
    /// Joins the flight for `key`, or begins it with the future that `fetch` makes.
    pub(crate) fn join<F>(
        self: &Arc<Self>,
        key: FlightKey,
        source: &AuthKey,
        fetch: impl FnOnce(watch::Sender<FlightState>) -> F,
    ) -> Ticket
    where
        F: Future<Output = Landing> + Send + 'static,
    {
        let mut flying = self.flying();
        if let Some(entry) = flying.entries.get_mut(&key) {
            entry.waiters += 1;
            return self.ticket(key, entry);
        }
        flying.last_id += 1;
        let id = flying.last_id;
        let initial = FlightState { status: LayerStatus::Pulling, outcome: None };
        let (sender, state) = watch::channel(initial);
        let flights = Arc::clone(self);
        let fetching = fetch(sender);
        // A runtime that shuts down drops the task here and now, while the map is locked; so nothing that the task
        // captures may lock it when dropped.
        let task = tokio::spawn(async move {
            let departure = Departure { flights, key, id };
            let landing = fetching.await;
            // First out of the map, so that nobody joins a flight that is over.
            drop(departure);
            let outcome = landing.outcome.map_err(Arc::new);
            landing.sender.send_modify(|state| state.outcome = Some(outcome));
        });
        let entry = Entry { id, waiters: 1, state, task: task.abort_handle(), source: source.clone() };
        let ticket = self.ticket(key, &entry);
        flying.entries.insert(key, entry);
        ticket
    }

    fn ticket(self: &Arc<Self>, key: FlightKey, entry: &Entry) -> Ticket {
        Ticket {
            flights: Arc::clone(self),
            key,
            id: entry.id,
            state: entry.state.clone(),
            source: entry.source.clone(),
        }
    }

    fn flying(&self) -> MutexGuard<'_, Flying> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a flight ended, with the channel to say it on.
pub(crate) struct Landing {
    pub(crate) sender: watch::Sender<FlightState>,
    pub(crate) outcome: Result<(), RegistryError>,
}

/// Takes the flight out of the map when its task ends, however it ends.
struct Departure {
    flights: Arc<Flights>,
    key: FlightKey,
    id: u64,
}

impl Drop for Departure {
    fn drop(&mut self) {
        let mut flying = self.flights.flying();
        if flying.entries.get(&self.key).is_some_and(|entry| entry.id == self.id) {
            flying.entries.remove(&self.key);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut flying = self.flights.flying();
        let Some(entry) = flying.entries.get_mut(&self.key).filter(|entry| entry.id == self.id) else {
            return;
        };
        entry.waiters -= 1;
        let abandoned = entry.waiters == 0;
        let entry = if abandoned { flying.entries.remove(&self.key) } else { None };
        drop(flying);
        if let Some(entry) = entry {
            entry.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn key() -> FlightKey {
        FlightKey { digest: Digest::of("a"), diff_id: Digest::of("b") }
    }

    fn source() -> AuthKey {
        AuthKey {
            origin: "http://r/".into(),
            scope: String::new(),
            credentials: Credentials::Anonymous.fingerprint(),
        }
    }

    async fn outcome(ticket: &mut Ticket) -> Option<Result<(), Arc<RegistryError>>> {
        let state = ticket.state.wait_for(|state| state.outcome.is_some()).await.ok()?;
        state.outcome.clone()
    }

    #[tokio::test]
    async fn one_flight_serves_all_and_a_later_one_is_new() {
        let flights = Arc::<Flights>::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let join = || {
            let begun = Arc::clone(&begun);
            flights.join(key(), &source(), |sender| async move {
                begun.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Landing { sender, outcome: Ok(()) }
            })
        };
        let mut tickets: Vec<Ticket> = (0..10).map(|_| join()).collect();
        for ticket in &mut tickets {
            assert!(outcome(ticket).await.unwrap().is_ok());
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        let mut later = join();
        drop(tickets);
        assert!(outcome(&mut later).await.unwrap().is_ok());
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_last_to_go_ends_the_flight() {
        let flights = Arc::<Flights>::default();
        let alive = Arc::new(());
        let join = || {
            let alive = Arc::clone(&alive);
            flights.join(key(), &source(), |sender| async move {
                let _alive = alive;
                std::future::pending::<()>().await;
                Landing { sender, outcome: Ok(()) }
            })
        };
        let (first, second) = (join(), join());
        drop(first);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(flights.flying().entries.len(), 1);
        drop(second);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(flights.flying().entries.len(), 0);
        assert_eq!(Arc::strong_count(&alive), 1, "the task is gone");
    }

    #[tokio::test]
    async fn a_panic_is_no_endless_wait() {
        let flights = Arc::<Flights>::default();
        let mut ticket = flights.join(key(), &source(), |sender| async move {
            assert!(sender.is_closed(), "on purpose");
            Landing { sender, outcome: Ok(()) }
        });
        assert!(outcome(&mut ticket).await.is_none());
        assert_eq!(flights.flying().entries.len(), 0);
    }
}
