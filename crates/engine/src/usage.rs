//! What takes how much of the disk: `system df`.

use crate::Result;
use crate::build::BuildCacheRecord;
use crate::container::{ListQuery, Status, Summary};
use crate::engine::{Engine, blocking};
use crate::image::{ImageListQuery, ImageSummary, store_error};
use crate::volume::Volume;

/// Which kinds of objects to look at; what is not asked for costs nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub struct UsageQuery {
    pub images: bool,
    pub containers: bool,
    pub volumes: bool,
    pub build_cache: bool,
}

/// What takes how much.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// Images, when asked for.
    pub images: Option<ImagesUsage>,
    /// Containers with their sizes, when asked for.
    pub containers: Option<Vec<Summary>>,
    /// Volumes, when asked for.
    pub volumes: Option<Vec<VolumeUsage>>,
    /// The build cache, when asked for.
    pub build_cache: Option<Vec<BuildCacheRecord>>,
}

/// Images and what they take.
#[derive(Debug, Clone, Default)]
pub struct ImagesUsage {
    /// All that a list shows, with shared sizes and users.
    pub list: Vec<ImageSummary>,
    /// Bytes of all of them on the disk, layers and transferred content, each counted once.
    pub total: u64,
}

/// A volume and what it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Which.
    pub volume: Volume,
    /// Bytes of its files.
    pub size: u64,
    /// Containers that mount it.
    pub users: usize,
}

impl ImagesUsage {
    /// Images that a container uses.
    pub fn active(&self) -> usize {
        self.list.iter().filter(|image| image.containers > 0).count()
    }

    /// Bytes that would be free if all images without a container went: Docker's estimate, all but what those in use have.
    pub fn reclaimable(&self) -> u64 {
        let used = self.list.iter().filter(|image| image.containers > 0);
        let used: u64 = used.map(|image| image.size - image.shared_size.unwrap_or(0).min(image.size)).sum();
        self.total.saturating_sub(used)
    }
}

/// Whether a container keeps its files from being reclaimed.
pub fn is_active(container: &Summary) -> bool {
    matches!(container.details.state.status, Status::Running | Status::Paused)
}

impl Engine {
    /// What takes how much of the disk.
    pub async fn disk_usage(&self, query: UsageQuery) -> Result<DiskUsage> {
        let mut usage = DiskUsage::default();
        if query.images {
            let images = ImageListQuery { containers: true, shared_size: true, ..ImageListQuery::default() };
            let list = self.list_images(images).await?;
            let engine = self.shared();
            let total = blocking(move || Ok(engine.store.usage().map_err(store_error)?.content())).await?;
            usage.images = Some(ImagesUsage { list, total });
        }
        if query.containers {
            let containers = ListQuery { all: true, size: true, ..ListQuery::default() };
            usage.containers = Some(self.list(containers).await?);
        }
        if query.volumes {
            usage.volumes = Some(self.volumes_usage().await?);
        }
        if query.build_cache {
            usage.build_cache = Some(self.build_cache().await?);
        }
        Ok(usage)
    }

    async fn volumes_usage(&self) -> Result<Vec<VolumeUsage>> {
        let volumes = self.list_volumes(crate::spec::Filters::default()).await?;
        let engine = self.shared();
        blocking(move || {
            let measure = |volume: Volume| VolumeUsage {
                size: crate::container::list::size_of_tree(volume.mountpoint.as_ref()),
                users: engine.volume_users(&volume.name).len(),
                volume,
            };
            Ok(volumes.into_iter().map(measure).collect())
        })
        .await
    }
}
