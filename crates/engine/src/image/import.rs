//! Making an image of a tar of a root file system.

use jiff::Timestamp;
use palan_oci::Reference;
use palan_store::archive::ImportOptions;

use super::{BACKLOG, Progress, event, give_memory_back, reference_error, store_error};
use crate::db::Change;
use crate::engine::{Engine, waiting_for_client};
use crate::stream::{BodyReader, Items};
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
    /// Where the bytes come from, for the message; `-` for a stream.
    pub source: String,
}

/// Root file systems as images.
impl Engine {
    /// Makes an image of one layer from a tar of a root filesystem.
    pub async fn import(&self, spec: ImportSpec, mut body: BodyReader) -> Result<Items<Progress>> {
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
        let (sender, items) = Items::channel(BACKLOG);
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
        items.begun().await
    }
}
