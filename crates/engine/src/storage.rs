//! Upkeep of the image store: its check, what is taken over from Docker, and room for new images.

use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

pub use palan_store::check::{Problem, Report};
pub use palan_store::docker_root::TakenOver;
use palan_store::gc::Watermarks;

use crate::build::CachePruneSpec;
use crate::engine::{Engine, blocking};
use crate::error::Context as _;
use crate::{Error, Result};

/// How long after a layer is on the disk its compressed blob is replaced by a recipe: a push or save right after a pull
/// still finds the file.
pub(crate) const COMPACTION_DELAY: Duration = Duration::from_secs(60);
/// How often it is looked whether the disk is full.
const GC_INTERVAL: Duration = Duration::from_secs(5 * 60);

impl Engine {
    /// Checks every byte of the image store (`system fsck`), and with `repair` puts right what can be.
    pub async fn check_store(&self, repair: bool) -> Result<Report> {
        let engine = self.shared();
        blocking(move || engine.store.check(repair).context(|| "cannot check the image store".to_owned()))
            .await
    }

    /// Takes over the images of a Docker data root (`image import-docker`).
    pub async fn import_docker(&self, root: PathBuf) -> Result<Vec<TakenOver>> {
        if !root.is_absolute() {
            return Err(Error::invalid(format!("the path {root:?} of Docker's data root must be absolute")));
        }
        let engine = self.shared();
        blocking(move || engine.store.import_docker(&root).map_err(crate::image::store_error)).await
    }

    /// Keeps the disk below the high watermark, for as long as the engine lives.
    pub(crate) fn start_image_gc(engine: Weak<Self>, watermarks: Watermarks) {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(GC_INTERVAL).await;
                let Some(engine) = engine.upgrade() else { return };
                let freed = blocking(move || {
                    let failed = || "cannot remove images that nobody uses".to_owned();
                    let in_use: Vec<String> =
                        engine.index.all().iter().map(|handle| handle.details().image_id.clone()).collect();
                    // Results of builds first: they are made again, and while they are here no image's removal frees their layers.
                    if engine.store.is_fuller_than(watermarks.high).context(failed)? {
                        let all = CachePruneSpec { all: true, ..CachePruneSpec::default() };
                        if let Err(error) = engine.prune_cache(&all) {
                            tracing::warn!(error = error.report(), "the build cache was not emptied");
                        }
                    }
                    let is_used = |image: &palan_store::ImageId| in_use.contains(&image.to_string());
                    engine.store.make_room(watermarks, &is_used).context(failed)
                });
                match freed.await {
                    Ok(removed) if removed.is_empty() => {}
                    Ok(removed) => tracing::info!(
                        images = removed.len(),
                        "the disk was full: unused images were removed"
                    ),
                    Err(error) => tracing::warn!(error = error.report(), "the disk is full"),
                }
            }
        });
    }
}
