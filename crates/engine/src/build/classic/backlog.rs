//! What a build has to say and its client has not read.
//!
//! A step that writes more than the client reads waits for it, as it would for a terminal; but not for ever, for other builds may be waiting for
//! the step's result. Of a client that has read nothing for a while, output is left out, and the client is told where. What only says how far
//! something is waits for nobody.

use std::collections::HashSet;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use palan_oci::Digest;

use super::super::progress::{Event, Log, Output, ProgressSink, Vertex};

/// How many bytes of events wait.
const MAX_WAITING: usize = 4 << 20;

/// How long a step waits for a client that reads nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stands where output was left out.
pub(super) const CLIPPED: &str = "\n[output clipped: it was not read]\n";

/// The end that events are put in.
pub(super) struct Sink {
    sender: mpsc::Sender<Event>,
    waiting: Arc<Waiting>,
    patience: Duration,
}

/// The other end of a [`Sink`].
pub(super) struct Heard {
    receiver: mpsc::Receiver<Event>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: usize,
    /// Nobody waits any more, until there is room.
    is_given_up: bool,
    /// Nobody listens.
    is_over: bool,
    /// Steps whose output has a gap that was not told yet.
    clipped: HashSet<Digest>,
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    pub(super) fn new() -> (Self, Heard) {
        Self::with_patience(PATIENCE)
    }

    fn with_patience(patience: Duration) -> (Self, Heard) {
        let (sender, receiver) = mpsc::channel();
        let waiting = Arc::new(Waiting::default());
        (Self { sender, waiting: Arc::clone(&waiting), patience }, Heard { receiver, waiting })
    }

    /// Waits until there is room for an event of this size; false if there will be none.
    fn wait(&self, size: usize) -> bool {
        let mut state = self.waiting.state();
        let mut before = state.bytes;
        let mut deadline = Instant::now() + self.patience;
        // One larger than all of it goes alone.
        while state.bytes > 0 && state.bytes.saturating_add(size) > MAX_WAITING {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.is_over || state.is_given_up || left.is_zero() {
                state.is_given_up = true;
                return false;
            }
            state = self.waiting.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            if state.bytes < before {
                deadline = Instant::now() + self.patience;
            }
            before = state.bytes;
        }
        state.is_given_up = false;
        true
    }

    fn send(&self, event: Event) {
        self.waiting.state().bytes += weight(&event);
        // Who listened may have gone.
        let _ = self.sender.send(event);
    }

    fn tell_of_gap(&self, vertex: Digest, time: jiff::Timestamp) {
        let is_clipped = self.waiting.state().clipped.remove(&vertex);
        if is_clipped {
            let bytes = CLIPPED.as_bytes().to_vec();
            self.send(Event::Log(Log { vertex, stream: Output::Stdout, time, bytes }));
        }
    }
}

impl ProgressSink for Sink {
    fn event(&self, event: Event) {
        match &event {
            Event::Log(log) => {
                if !self.wait(weight(&event)) {
                    self.waiting.state().clipped.insert(log.vertex);
                    return;
                }
                self.tell_of_gap(log.vertex, log.time);
            }
            Event::Status(_) => {
                if self.waiting.state().bytes.saturating_add(weight(&event)) > MAX_WAITING {
                    return;
                }
            }
            Event::Vertex(Vertex { digest, completed: Some(completed), .. }) => {
                self.tell_of_gap(*digest, *completed);
            }
            Event::Vertex(_) | Event::Steps(_) | Event::Warning(_) => {}
        }
        self.send(event);
    }
}

impl Heard {
    pub(super) fn next(&self) -> Option<Event> {
        let event = self.receiver.recv().ok()?;
        let size = weight(&event);
        if size > 0 {
            let mut state = self.waiting.state();
            state.bytes = state.bytes.saturating_sub(size);
            drop(state);
            self.waiting.changed.notify_all();
        }
        Some(event)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.waiting.state().is_over = true;
        self.waiting.changed.notify_all();
    }
}

/// The bytes of an event of which a build may have any number; nothing for others, of which it has as many as it has steps.
fn weight(event: &Event) -> usize {
    match event {
        Event::Log(log) => size_of::<Event>() + log.bytes.len(),
        Event::Status(status) => size_of::<Event>() + status.id.len() + status.name.len(),
        Event::Steps(_) | Event::Vertex(_) | Event::Warning(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const PIECE: usize = 1 << 20;

    fn log(bytes: usize) -> Event {
        let vertex = Digest::of("a");
        Event::Log(Log {
            vertex,
            stream: Output::Stdout,
            time: Timestamp::UNIX_EPOCH,
            bytes: vec![b'x'; bytes],
        })
    }

    fn end() -> Event {
        Event::Vertex(Vertex {
            digest: Digest::of("a"),
            name: String::new(),
            inputs: Vec::new(),
            started: None,
            completed: Some(Timestamp::UNIX_EPOCH),
            cached: false,
            error: String::new(),
            result: None,
        })
    }

    fn text(events: &[Event]) -> String {
        let bytes = events.iter().filter_map(|event| match event {
            Event::Log(log) => Some(String::from_utf8_lossy(&log.bytes).into_owned()),
            _ => None,
        });
        bytes.collect()
    }

    #[test]
    fn a_slow_client_gets_everything() {
        let (sink, heard) = Sink::with_patience(Duration::from_secs(60));
        let writing = std::thread::spawn(move || {
            (0..32).for_each(|_| sink.event(log(PIECE)));
            sink.event(end());
        });
        let events: Vec<Event> = std::iter::from_fn(|| {
            std::thread::sleep(Duration::from_millis(2));
            heard.next()
        })
        .collect();
        writing.join().unwrap();
        assert_eq!(text(&events).len(), 32 * PIECE);
    }

    #[test]
    fn one_that_does_not_read_is_waited_for_once_and_told() {
        let (sink, heard) = Sink::with_patience(Duration::from_secs(1));
        let began = Instant::now();
        (0..64).for_each(|_| sink.event(log(PIECE)));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        for _ in 0..3 {
            heard.next().unwrap();
        }
        sink.event(log(1));
        (0..64).for_each(|_| sink.event(log(PIECE)));
        sink.event(end());
        drop(sink);
        let events: Vec<Event> = std::iter::from_fn(|| heard.next()).collect();
        assert!(matches!(events.last(), Some(Event::Vertex(_))));
        let text = text(&events);
        assert!(text.starts_with(&format!("{CLIPPED}x")) && text.ends_with(CLIPPED), "{}", text.len());
        assert!(text.len() < 5 * PIECE);
        assert_eq!(heard.waiting.state().bytes, 0);
    }

    #[test]
    fn nobody_waits_for_one_that_has_gone() {
        let (sink, heard) = Sink::with_patience(Duration::from_secs(60));
        let writing = std::thread::spawn(move || (0..64).for_each(|_| sink.event(log(PIECE))));
        std::thread::sleep(Duration::from_millis(20));
        drop(heard);
        writing.join().unwrap();
    }

    #[test]
    fn what_is_larger_than_all_of_it_comes_alone() {
        let (sink, heard) = Sink::with_patience(Duration::from_millis(10));
        sink.event(log(MAX_WAITING + 1));
        drop(sink);
        assert_eq!(std::iter::from_fn(|| heard.next()).count(), 1);
    }
}
