//! The transfer of a directory: `fsutil` packets over a call with streams in both directions.
//!
//! ```text
//! sender                                  receiver
//! STAT each file, in order            ──▶ compares with what it has
//! STAT without content: that was all  ──▶
//!                                     ◀── REQ id: the content of the id-th file is wanted
//! DATA id …, DATA id without content  ──▶ the file is whole
//!                                     ◀── FIN: nothing more is wanted
//! FIN                                 ──▶
//! ```
//!
//! All of this is interleaved. Either side may send `ERR` with a text. An id is the number of a STAT, from 0.
//!
//! The order is that of a walk: a directory before what is in it, names in a directory in the order of their bytes. So the receiver
//! holds one open directory for each level, and each name is used in the directory that it belongs to.

use std::future::Future;

use tokio::sync::oneshot;

use crate::grpc::{Code, Status};

mod mode;
mod receive;
mod send;

pub use mode::{from_go, to_go};
pub use receive::{Devices, Owners, Progress, Receive, Received};
pub use send::{Selection, Send};

/// Runs what waits for the other side on a thread of its own: a peer may take as long as it likes, and the runtime has few threads
/// for what blocks.
///
/// It begins at once, and the future is its result.
fn on_thread<T: std::marker::Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, Status> + std::marker::Send + 'static,
) -> impl Future<Output = Result<T, Status>> {
    let (done, outcome) = oneshot::channel();
    let run = move || {
        // Nobody may wait any more.
        let _ = done.send(work());
    };
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop);
    async move {
        started.map_err(|error| {
            let text = format!("cannot start a thread for a transfer: {error}");
            Status::new(Code::ResourceExhausted, text)
        })?;
        let ended = |_| Status::new(Code::Internal, "the thread of a transfer has ended without a result");
        outcome.await.map_err(ended)?
    }
}

#[cfg(test)]
mod tests;
