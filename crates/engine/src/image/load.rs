//! Loading archives of images.

use palan_store::archive::{LoadProgress, Loaded};
use tokio::sync::mpsc;

use super::{BACKLOG, Progress, event, give_memory_back, store_error};
use crate::Result;
use crate::db::Change;
use crate::engine::{Engine, waiting_for_client};
use crate::stream::{BodyReader, Items};

/// Archives of images.
impl Engine {
    /// Loads an archive of images (`docker save` or OCI layout), of several platforms the one asked for or the host's.
    pub async fn load(
        &self,
        body: BodyReader,
        quiet: bool,
        platform: Option<String>,
    ) -> Result<Items<Progress>> {
        let platform = platform.as_deref().map(crate::container::parse_platform).transpose()?;
        let (sender, items) = Items::channel(BACKLOG);
        let engine = self.shared();
        tokio::spawn(async move {
            let (progress_sender, mut body) = (sender.clone(), body);
            let working = engine.clone();
            let loaded = waiting_for_client(move || {
                let mut tell = |progress: LoadProgress| {
                    let LoadProgress::Layer { id, current, total } = progress;
                    let (id, status) =
                        (crate::container::driver::short(&id.hex()).to_owned(), "Loading layer".to_owned());
                    let progress = Progress {
                        id,
                        status,
                        current: Some(current),
                        total: Some(total),
                        ..Progress::default()
                    };
                    if !quiet {
                        // A slow client misses a step of a bar.
                        let _ = progress_sender.try_send(Ok(progress));
                    }
                };
                working.store.load_for(platform.as_ref(), &mut body, &mut tell).map_err(store_error)
            });
            let outcome = match loaded.await {
                Ok(loaded) => engine.announce_loaded(loaded, &sender).await,
                Err(error) => Err(error),
            };
            give_memory_back().await;
            if let Err(error) = outcome {
                // The client may have gone.
                let _ = sender.send(Err(error)).await;
            }
        });
        items.begun().await
    }

    async fn announce_loaded(
        &self,
        loaded: Vec<Loaded>,
        sender: &mpsc::Sender<Result<Progress>>,
    ) -> Result<()> {
        for image in loaded {
            let id = image.image.to_string();
            self.db.commit(Change::new().event(event("load", &id, &id))).await?;
            let mut lines: Vec<String> =
                image.names.iter().map(|name| format!("Loaded image: {}\n", name.familiar())).collect();
            if lines.is_empty() {
                lines.push(format!("Loaded image ID: {id}\n"));
            }
            for (name, old) in &image.replaced {
                lines.insert(
                    0,
                    format!(
                        "The image {} already exists, renaming the old one with ID {old} to empty string\n",
                        name.familiar()
                    ),
                );
            }
            for line in lines {
                // The client may have gone; the images are there.
                let _ = sender.send(Ok(Progress { stream: Some(line), ..Progress::default() })).await;
            }
        }
        Ok(())
    }
}
