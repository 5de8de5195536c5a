//! The exit code of a container, through restarts of the daemon.
//!
//! 1. The wait is registered before the container starts, so no exit is missed.
//! 2. A daemon that dies takes the connection with it, unless the supervisor holds it too and writes the code itself.
//! 3. If it broke: ask again, for as long as the session's output goes on and ten seconds more.
//! 4. A container that was removed meanwhile (`--rm`) is unknown to the new daemon; its `die` event has the code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use palan_docker_api::client::{Client, ClientError, PendingWait, WaitCondition};
use palan_docker_api::filters::Filters;
use palan_docker_api::timestamp;
use palan_docker_api::types::WaitResponse;

use super::Event;
use crate::error::{CliError, Kind, Result};

/// How long a daemon may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// A registered wait and what is needed to repeat it.
#[derive(Debug)]
pub(crate) struct ExitCode {
    client: Client,
    id: String,
    removed: bool,
    since: SystemTime,
    pending: PendingWait,
}

impl ExitCode {
    /// Registers the wait; with `removed` for the end of the container itself.
    pub(crate) fn register(
        client: &Client,
        id: &str,
        condition: WaitCondition,
    ) -> std::result::Result<Self, ClientError> {
        let since = SystemTime::now() - Duration::from_secs(1);
        let pending = client.wait_container(id, condition)?;
        let removed = condition == WaitCondition::Removed;
        Ok(Self { client: client.clone(), id: id.to_owned(), removed, since, pending })
    }

    /// Reports the code from a thread of its own.
    pub(crate) fn report(self, output_done: Arc<AtomicBool>, sender: Sender<Event>) {
        thread::spawn(move || {
            let code = self.wait(&output_done);
            let _ = sender.send(Event::Exited(code));
        });
    }

    /// Waits for the code.
    pub(crate) fn wait(self, output_done: &AtomicBool) -> Result<i64> {
        let Self { client, id, removed, since, pending } = self;
        let mut broken = match pending.finish() {
            Ok(answer) => return code_of(answer),
            Err(error) => error,
        };
        // What was learnt of the connection is not worth much any more: the daemon may be another version.
        let mut deadline = None;
        loop {
            if output_done.load(Ordering::Acquire) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() >= deadline {
                    return Err(lost(&id, &CliError::from(broken)));
                }
            }
            thread::sleep(PAUSE);
            let condition = if removed { WaitCondition::Removed } else { WaitCondition::NotRunning };
            let answer = client.wait_container(&id, condition).and_then(PendingWait::finish);
            match answer {
                Ok(answer) => return code_of(answer),
                Err(error) if error.is_not_found() => return from_events(&client, &id, since),
                Err(error) => broken = error,
            }
        }
    }
}

fn code_of(answer: WaitResponse) -> Result<i64> {
    match answer.error.filter(|error| !error.message.is_empty()) {
        Some(error) => {
            Err(CliError::of(Kind::Usage, format!("Error waiting for container: {}", error.message)))
        }
        None => Ok(answer.status_code),
    }
}

fn lost(id: &str, why: &CliError) -> CliError {
    CliError::of(Kind::Usage, format!("the exit code of container {id} is not known: {}", why.message))
}

/// The code from the last `die` event of a container that is gone.
fn from_events(client: &Client, id: &str, since: SystemTime) -> Result<i64> {
    let mut filters = Filters::new();
    filters.add("type", "container");
    filters.add("container", id);
    filters.add("event", "die");
    let (since, until) = (timestamp::format(since), timestamp::format(SystemTime::now()));
    let events = client.events(Some(&since), Some(&until), &filters)?;
    let code = events
        .map_while(std::result::Result::ok)
        .filter_map(|event| event.actor.attributes.get("exitCode")?.parse::<i64>().ok())
        .last();
    code.ok_or_else(|| lost(id, &CliError::new("it was removed while the daemon restarted")))
}
