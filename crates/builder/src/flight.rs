//! Work that several want and one does.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use palan_oci::Digest;

use crate::backend::{Snapshot, StepError};
use crate::cancel::Cancel;

/// Work in progress, by its key.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Arc<Flight>>>);

#[derive(Debug, Default)]
struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    /// Somebody is at it.
    #[default]
    Flying,
    /// The one who was at it had to stop, or could not do it: whoever wakes up first takes over.
    Free,
    Landed(Result<Snapshot, StepError>),
}

/// A result, and whether it was somebody else's work.
pub(crate) struct Landed {
    pub(crate) result: Result<Snapshot, StepError>,
    pub(crate) is_shared: bool,
}

impl Flights {
    /// Does the work, or waits for who does. A command that fails does so for everybody. Anything else that goes
    /// wrong may be of one build alone (its client, its secrets, what it is allowed): who waits tries it for itself.
    pub(crate) fn join(
        &self,
        key: Digest,
        cancel: &Cancel,
        work: impl FnOnce() -> Result<Snapshot, StepError>,
    ) -> Landed {
        let (flight, is_first) = {
            let mut flights = lock(&self.0);
            match flights.get(&key) {
                Some(flight) => (Arc::clone(flight), false),
                None => {
                    let flight = Arc::new(Flight::default());
                    flights.insert(key, Arc::clone(&flight));
                    (flight, true)
                }
            }
        };
        if !is_first && let Some(result) = flight.wait(cancel) {
            self.leave(key, &flight);
            return Landed { result, is_shared: true };
        }
        let mut seat = Seat { flights: self, key, flight: &flight, result: None };
        let result = work();
        seat.result = Some(result.clone());
        drop(seat);
        Landed { result, is_shared: false }
    }
}

impl Flights {
    /// The last one to leave work that nobody is at removes it.
    fn leave(&self, key: Digest, flight: &Arc<Flight>) {
        let mut flights = lock(&self.0);
        let is_it = flights.get(&key).is_some_and(|known| Arc::ptr_eq(known, flight));
        if is_it && Arc::strong_count(flight) == 2 && matches!(*lock(&flight.state), State::Free) {
            flights.remove(&key);
        }
    }
}

/// The place of the one who works. Leaving it, even by a panic, wakes the others.
struct Seat<'a> {
    flights: &'a Flights,
    key: Digest,
    flight: &'a Arc<Flight>,
    result: Option<Result<Snapshot, StepError>>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights.0);
        let mut state = lock(&self.flight.state);
        let is_own = !matches!(self.result, Some(Ok(_) | Err(StepError::ExitCode { .. })));
        // Those who wait, this one and the map hold it: with others there is somebody to take over.
        let has_others = Arc::strong_count(self.flight) > 2;
        if is_own && has_others {
            *state = State::Free;
        } else {
            flights.remove(&self.key);
            *state = State::Landed(self.result.take().unwrap_or(Err(StepError::Cancelled)));
        }
        drop(state);
        self.flight.changed.notify_all();
    }
}

impl Flight {
    /// The result, or none if it is this one's turn to work.
    fn wait(self: &Arc<Self>, cancel: &Cancel) -> Option<Result<Snapshot, StepError>> {
        let flight = Arc::downgrade(self);
        let _watch = cancel.watch(move || {
            if let Some(flight) = flight.upgrade() {
                // Under the lock, so that nobody is between the look and the wait.
                let _state = lock(&flight.state);
                flight.changed.notify_all();
            }
        });
        let mut state = lock(&self.state);
        loop {
            match &*state {
                State::Landed(result) => return Some(result.clone()),
                _ if cancel.is_cancelled() => return Some(Err(StepError::Cancelled)),
                State::Free => {
                    *state = State::Flying;
                    return None;
                }
                State::Flying => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot { layers: vec![Digest::of(text)] }
    }

    #[test]
    fn one_works_and_all_have_the_result() {
        let flights = Flights::default();
        let worked = AtomicU32::new(0);
        let key = Digest::of("key");
        let (started, wait) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                flights.join(key, &Cancel::new(), move || {
                    started.send(()).expect("a listener");
                    gate.recv().expect("a word");
                    Ok(snapshot("a"))
                })
            });
            wait.recv().expect("the start");
            let others: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        flights.join(key, &Cancel::new(), || {
                            worked.fetch_add(1, Ordering::SeqCst);
                            Ok(snapshot("b"))
                        })
                    })
                })
                .collect();
            while Arc::strong_count(&lock(&flights.0)[&key]) < 5 {
                thread::yield_now();
            }
            go.send(()).expect("a worker");
            assert_eq!(first.join().expect("a thread").result.expect("a result"), snapshot("a"));
            for other in others {
                let landed = other.join().expect("a thread");
                assert!(landed.is_shared);
                assert_eq!(landed.result.expect("a result"), snapshot("a"));
            }
        });
        assert_eq!(worked.load(Ordering::SeqCst), 0);
        assert!(lock(&flights.0).is_empty());
    }

    #[test]
    fn who_waits_takes_over_from_who_is_cancelled() {
        let flights = Flights::default();
        let key = Digest::of("key");
        let (go, gate) = mpsc::channel::<()>();
        let (started, wait) = mpsc::channel();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                flights.join(key, &Cancel::new(), move || {
                    started.send(()).expect("a listener");
                    gate.recv().expect("a word");
                    Err(StepError::Cancelled)
                })
            });
            wait.recv().expect("the start");
            let second = scope.spawn(|| flights.join(key, &Cancel::new(), || Ok(snapshot("b"))));
            while Arc::strong_count(&lock(&flights.0)[&key]) < 3 {
                thread::yield_now();
            }
            go.send(()).expect("a worker");
            assert!(matches!(first.join().expect("a thread").result, Err(StepError::Cancelled)));
            let landed = second.join().expect("a thread");
            assert!(!landed.is_shared);
            assert_eq!(landed.result.expect("a result"), snapshot("b"));
        });
        assert!(lock(&flights.0).is_empty());
    }

    #[test]
    fn a_failure_of_one_alone_is_not_everybodys() {
        let flights = Flights::default();
        let key = Digest::of("key");
        let (go, gate) = mpsc::channel::<()>();
        let (started, wait) = mpsc::channel();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                flights.join(key, &Cancel::new(), move || {
                    started.send(()).expect("a listener");
                    gate.recv().expect("a word");
                    Err(StepError::other("secret s: not found"))
                })
            });
            wait.recv().expect("the start");
            let second = scope.spawn(|| flights.join(key, &Cancel::new(), || Ok(snapshot("b"))));
            while Arc::strong_count(&lock(&flights.0)[&key]) < 3 {
                thread::yield_now();
            }
            go.send(()).expect("a worker");
            assert!(first.join().expect("a thread").result.is_err());
            assert_eq!(second.join().expect("a thread").result.expect("a result"), snapshot("b"));
        });
        assert!(lock(&flights.0).is_empty());
    }

    #[test]
    fn who_waits_can_be_cancelled() {
        let flights = Flights::default();
        let key = Digest::of("key");
        let cancel = Cancel::new();
        let (go, gate) = mpsc::channel::<()>();
        let (started, wait) = mpsc::channel();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                flights.join(key, &Cancel::new(), move || {
                    started.send(()).expect("a listener");
                    gate.recv().expect("a word");
                    Ok(snapshot("a"))
                })
            });
            wait.recv().expect("the start");
            let second = scope.spawn(|| flights.join(key, &cancel, || Ok(snapshot("b"))));
            cancel.cancel();
            assert!(matches!(second.join().expect("a thread").result, Err(StepError::Cancelled)));
            go.send(()).expect("a worker");
            assert!(first.join().expect("a thread").result.is_ok());
        });
        assert!(lock(&flights.0).is_empty());
    }
}
