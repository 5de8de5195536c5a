//! What a daemon knows that neither the database nor the supervisors do, for the daemon that takes its place: exec sessions (made and
//! not started, running, or ended and still asked for), and the clients that are attached to containers which do not run yet.

use std::os::fd::OwnedFd;

use palan_supervisor::protocol::AttachOptions;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::container::ExecDetails;
use crate::container::driver::Action;
use crate::engine::{Engine, blocking};

/// A client that waits for the start of a container.
#[derive(Debug)]
pub struct EarlyClient {
    /// Who it is.
    pub note: EarlyClientNote,
    /// Its connection.
    pub socket: OwnedFd,
}

/// Who waits for the start of which container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EarlyClientNote {
    /// The container's id.
    pub container: String,
    /// How it is attached.
    pub options: AttachOptions,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Legacy {
    /// Exec sessions; open ones and ended ones in the order of their ends.
    pub sessions: Vec<ExecDetails>,
    /// Clients of containers that don't run.
    pub clients: Vec<EarlyClient>,
}

impl Engine {
    /// Ends the daemon's work for another one to go on with it: containers, networks and rules stay as they are, the database is
    /// flushed. Whoever still has the engine gets errors from it.
    pub async fn hand_over(&self) -> Legacy {
        let mut clients = Vec::new();
        for handle in self.index.all() {
            let (reply, left) = oneshot::channel();
            // A driver that is gone has no clients.
            if handle.send(Action::Leave { reply }).await.is_err() {
                continue;
            }
            for (options, socket) in left.await.unwrap_or_default() {
                let note = EarlyClientNote { container: handle.id.clone(), options };
                clients.push(EarlyClient { note, socket });
            }
        }
        let sessions = self.sessions.all();
        let engine = self.shared();
        let closed = blocking(move || {
            engine.db.close();
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::warn!(error = error.report(), "the database was not closed in order");
        }
        Legacy { sessions, clients }
    }
}
