//! Waiting for an exit or the removal.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Result;
use crate::container::driver::Action;
use crate::container::index::{Handle, Life};
use crate::container::lifecycle::has_exited_since;
use crate::container::{Status, WaitCondition, WaitHold, WaitOutcome};
use crate::engine::Engine;

/// A registered wait. The front door sends its response head, optionally hands over a duplicate of the connection, then
/// awaits the outcome. Dropping it ends the wait.
#[derive(Debug)]
pub struct WaitTicket {
    handle: Arc<Handle>,
    life: watch::Receiver<Life>,
    condition: WaitCondition,
    /// Exits when the wait began.
    exits: u64,
    key: Option<u64>,
}

/// How it stands with a container that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitProspect {
    /// It runs: its supervisor can answer.
    Live,
    /// It waits for somebody to do something: any daemon can answer.
    Resting,
    /// It has ended and is being removed: this daemon is about to answer.
    Ending,
}

impl Engine {
    /// Registers a wait for an exit or the removal.
    pub async fn wait(&self, name: &str, condition: WaitCondition) -> Result<WaitTicket> {
        let handle = self.index.find(name)?;
        let life = handle.life.subscribe();
        let exits = life.borrow().exits;
        Ok(WaitTicket { handle, life, condition, exits, key: None })
    }
}

impl WaitTicket {
    /// Hands a duplicate of the client's connection to the supervisor, which answers on it if the daemon has died.
    pub fn hold(&mut self, hold: WaitHold) {
        if self.is_over(&self.life.borrow()) {
            return;
        }
        let key = self.handle.next_key();
        self.key = Some(key);
        self.handle.try_send(Action::HoldWait { key, hold });
    }

    /// Tells who can answer.
    pub fn prospect(&self) -> impl Fn() -> WaitProspect + Send + Sync + 'static {
        let handle = Arc::clone(&self.handle);
        move || {
            let details = handle.details();
            match details.state.status {
                status if status.is_live() => WaitProspect::Live,
                Status::Created => WaitProspect::Resting,
                Status::Exited if !details.host.auto_remove => WaitProspect::Resting,
                _ => WaitProspect::Ending,
            }
        }
    }

    /// Waits. When this returns, the supervisor no longer holds the connection: the answer is the caller's to write.
    pub async fn outcome(mut self) -> WaitOutcome {
        let mut life = self.life.clone();
        let seen = life.wait_for(|life| self.is_over(life)).await.map(|life| life.clone());
        // The sending end lives in the handle that this holds, so there is always an answer.
        let life = seen.unwrap_or_default();
        if life.removed {
            self.key = None;
        }
        WaitOutcome { exit_code: life.exit_code, error: life.removal_error }
    }

    fn is_over(&self, life: &Life) -> bool {
        match self.condition {
            WaitCondition::NotRunning => !life.status.is_live() || has_exited_since(life, self.exits),
            WaitCondition::NextExit => has_exited_since(life, self.exits),
            WaitCondition::Removed => life.removed || life.removal_error.is_some(),
        }
    }
}

impl Drop for WaitTicket {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.handle.try_send(Action::ReleaseWait { key });
        }
    }
}
