//! Compresses rotated log files, for containers whose options ask for it.
//!
//! One task for each such container looks at its files whenever one gets another name; what nobody compressed while no daemon was
//! there is compressed when one is. The files are `log_files`' business.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::container::index::Handle;
use crate::container::log_files;
use crate::engine::{Engine, blocking};
use crate::error::Context;

/// The least time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// The same after a failure, which is mostly a full disk.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// One log at a time: each takes a processor, and a thread of the few that all of the daemon's blocking work has.
static TURN: Semaphore = Semaphore::const_new(1);

/// Starts to look after a container's log.
pub(crate) fn start(engine: &Arc<Engine>, handle: &Arc<Handle>) {
    let details = handle.details();
    let log = &details.host.log;
    if log.driver == "none" || !super::rotation(log).is_ok_and(|rotation| rotation.compress) {
        return;
    }
    let (engine, handle) = (Arc::clone(engine), Arc::clone(handle));
    tokio::spawn(async move {
        let path = Path::new(&details.log_path);
        let Some(directory) = path.parent() else { return };
        let mut life = handle.life.subscribe();
        loop {
            let watch = match engine.watcher.watch_names(directory) {
                Ok(watch) => watch,
                Err(error) => {
                    if life.borrow().removed {
                        return;
                    }
                    tracing::warn!(container = handle.id, error = error.report(), "a log is not compressed");
                    tokio::time::sleep(LONG_PAUSE).await;
                    continue;
                }
            };
            let changed = watch.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // It is never closed.
            let turn = TURN.acquire().await;
            let log = path.to_owned();
            let compressed = blocking(move || {
                log_files::compress(&log).context(|| format!("cannot compress {}.1", log.display()))
            });
            let compressed = compressed.await;
            drop(turn);
            let pause = match compressed {
                Ok(()) => PAUSE,
                Err(_) if life.borrow().removed => return,
                Err(error) => {
                    tracing::warn!(container = handle.id, error = error.report(), "a log is not compressed");
                    LONG_PAUSE
                }
            };
            tokio::select! {
                () = changed => {}
                removed = life.wait_for(|life| life.removed) => {
                    // An error means that nobody is left who could say it.
                    let _ = removed;
                    return;
                }
            }
            tokio::time::sleep(pause).await;
        }
    });
}
