//! Making an image of a tar of a root file system.

use std::io;

use jiff::Timestamp;
use palan_oci::Reference;
use palan_store::archive::ImportOptions;
use tokio::sync::mpsc;

use super::pull::registry_error;
use super::{BACKLOG, Progress, event, give_memory_back, reference_error, store_error};
use crate::db::Change;
use crate::engine::{Engine, waiting_for_client};
use crate::stream::{BodyReader, Items, body_pipe};
use crate::{Error, Result};

/// What to make of an imported tar.
#[derive(Debug, Clone, Default)]
pub struct ImportSpec {
    /// Name for the image; none when empty.
    pub reference: String,
    /// Message in the history.
    pub message: String,
    /// Dockerfile instructions applied to the configuration.
    pub changes: Vec<String>,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Where the bytes come from; `-` for a stream.
    pub source: String,
}

/// Bytes between two words about an import's progress.
const TELL_EVERY: u64 = 512 * 1024;

/// Root file systems as images.
impl Engine {
    /// Makes an image of one layer from a tar of a root filesystem.
    pub async fn import(&self, spec: ImportSpec, body: BodyReader) -> Result<Items<Progress>> {
        let (sender, items) = Items::channel(BACKLOG);
        self.import_from(spec, body, sender)?;
        items.begun().await
    }

    /// The same from the URL `spec.source`, which this daemon fetches. One that names nothing to be fetched is an error
    /// before any progress.
    pub async fn import_from_url(&self, spec: ImportSpec) -> Result<Items<Progress>> {
        let mut download = self.registry.download(&spec.source).await.map_err(registry_error)?;
        let (sender, items) = Items::channel(BACKLOG);
        let status = format!("Downloading from {}", spec.source);
        // The channel is empty, and its other end is in this function.
        let _ = sender.try_send(Ok(Progress { status, ..Progress::default() }));
        let (pipe, body) = body_pipe();
        self.import_from(spec, body, sender.clone())?;
        tokio::spawn(async move {
            let (total, mut current, mut told) = (download.size(), 0, 0);
            loop {
                let piece = match download.next().await {
                    Ok(None) => break,
                    Ok(Some(piece)) => Ok(piece),
                    Err(error) => Err(io::Error::other(palan_stdx::error_chain::to_string(&error))),
                };
                let failed = piece.is_err();
                current += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                if !pipe.send(piece).await || failed {
                    break;
                }
                if current - told >= TELL_EVERY {
                    told = current;
                    let status = "Importing".to_owned();
                    let progress = Progress { status, current: Some(current), total, ..Progress::default() };
                    // A slow client misses a step of a bar.
                    let _ = sender.try_send(Ok(progress));
                }
            }
        });
        items.begun().await
    }

    fn import_from(
        &self,
        spec: ImportSpec,
        mut body: BodyReader,
        sender: mpsc::Sender<Result<Progress>>,
    ) -> Result<()> {
        let name = match spec.reference.as_str() {
            "" => None,
            text => Some(Reference::parse(text).map_err(reference_error)?.or_latest()),
        };
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(Error::invalid("cannot import digest reference"));
        }
        let message = match spec.message.as_str() {
            "" => format!("Imported from {}", spec.source),
            message => message.to_owned(),
        };
        let platform = spec.platform.as_deref().filter(|text| !text.is_empty());
        let platform = platform.map(crate::container::parse_platform).transpose()?;
        let created = Timestamp::now().to_string();
        let options = ImportOptions { name: name.clone(), changes: spec.changes, message, platform, created };
        let engine = self.shared();
        tokio::spawn(async move {
            let working = engine.clone();
            let imported =
                waiting_for_client(move || working.store.import(&mut body, &options).map_err(store_error));
            let outcome = match imported.await {
                Ok(id) => {
                    let id = id.to_string();
                    let label = name.map_or_else(|| id.clone(), |name| name.familiar());
                    let recorded = engine.db.commit(Change::new().event(event("import", &id, &label))).await;
                    recorded.map(|()| Progress { status: id, ..Progress::default() })
                }
                Err(error) => Err(error),
            };
            give_memory_back().await;
            // The client may have gone; the image is there.
            let _ = sender.send(outcome).await;
        });
        Ok(())
    }
}
