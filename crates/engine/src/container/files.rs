//! A container's files as they lie on the disk: what it changed (`diff`) and all that it sees (`export`).
//!
//! Both read the container's directory and its image's layers, running or not; see [`palan_store::tree`]. Volumes and other
//! mounts are not part of it, as in Docker.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use palan_linux::mount::{OverlayOptions, overlay};
use palan_linux::path::RootDir;
use palan_store::tree::Overlaid;
pub use palan_store::tree::{Change, ChangeKind};
use tokio::sync::mpsc;

use crate::container::create::CONTAINER_MARK;
use crate::container::driver::container_event;
use crate::container::index::Handle;
use crate::container::{Details, Status};
use crate::db;
use crate::engine::{Engine, base_layer, blocking, waiting_for_client};
use crate::error::Context;
use crate::image::store_error;
use crate::stream::Items;
use crate::{Error, Result};

/// Pieces of an archive that a slow client has not taken yet.
const PIECES: usize = 8;
const PIECE: usize = 128 * 1024;

/// Files.
impl Engine {
    /// What a container changed in its root file system, sorted by path.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<Change>> {
        let (engine, details) = (self.shared(), self.index.find(name)?.details());
        blocking(move || {
            let tree = engine.overlaid(&details)?;
            tree.changes().map_err(|error| store_error(error.into()))
        })
        .await
    }

    /// A container's root file system as a tar. What fails before the first piece is returned, what fails later is the
    /// stream's last item.
    pub async fn export_container(&self, name: &str) -> Result<Items<Bytes>> {
        let handle = self.index.find(name)?;
        let details = handle.details();
        check_alive(&details, "export")?;
        let engine = self.shared();
        archive(self, move |sink| {
            let written = engine.overlaid(&details)?.write_all(sink);
            written.map_err(|error| store_error(error.into()))?;
            check_still_there(&handle, "exported")?;
            Ok(db::Change::new().event(container_event(&details, "export", [])))
        })
        .await
    }

    /// The container's directory over the layers of its image. Blocking.
    pub(crate) fn overlaid(&self, details: &Details) -> Result<Overlaid> {
        let what = || format!("cannot open the files of container {}", details.name);
        let upper = RootDir::open(Path::new(&details.overlay.upper)).context(what)?;
        let mut lowers: Vec<_> = details.overlay.lowers.iter().map(Into::into).collect();
        lowers.push(base_layer(&self.config));
        let lower = overlay(&OverlayOptions { lowers, ..OverlayOptions::default() }).context(what)?;
        Ok(Overlaid::new(upper, RootDir::from_fd(lower), CONTAINER_MARK))
    }
}

/// Docker's refusals for a container that is on its way out.
pub(crate) fn check_alive(details: &Details, verb: &str) -> Result<()> {
    let (id, state) = (&details.id, details.state.status);
    match state {
        Status::Dead => Err(Error::conflict(format!("You cannot {verb} container {id} which is Dead"))),
        Status::Removing => {
            Err(Error::conflict(format!("You cannot {verb} container {id} which is being removed")))
        }
        _ => Ok(()),
    }
}

/// Files that went while they were read are missing in what was made of them.
pub(crate) fn check_still_there(handle: &Handle, participle: &str) -> Result<()> {
    if handle.life.borrow().removed || handle.details().state.status == Status::Removing {
        return Err(Error::conflict(format!(
            "container {} was removed while it was {participle}",
            handle.details().id
        )));
    }
    Ok(())
}

/// Runs blocking code that writes an archive, and hands it over piece by piece. The change is committed at the end.
pub(crate) async fn archive(
    engine: &Engine,
    write: impl FnOnce(&mut dyn Write) -> Result<db::Change> + Send + 'static,
) -> Result<Items<Bytes>> {
    let (sender, items) = Items::channel(PIECES);
    let engine: Arc<Engine> = engine.shared();
    tokio::spawn(async move {
        let mut pieces = Pieces { sender: sender.clone(), piece: Vec::new() };
        let written = waiting_for_client(move || {
            let change = write(&mut pieces)?;
            pieces.flush().context(|| "cannot hand over the archive".into())?;
            Ok(change)
        });
        let outcome = match written.await {
            Ok(change) => engine.db.commit(change).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // The client may have gone, and that may be the error.
            let _ = sender.send(Err(error)).await;
        }
    });
    items.begun().await
}

/// The writing end of an archive, for blocking code.
struct Pieces {
    sender: mpsc::Sender<Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
