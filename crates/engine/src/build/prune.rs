//! The build cache as an object: what is in it, and removing from it.
//!
//! Three kinds of things are in it: results of steps (records, and the layers that they name), directories of
//! `RUN --mount=type=cache`, and contexts that clients have sent. A layer that no record names is released; the store removes it unless
//! an image or a build in progress has it. One that an image has is in the cache only as long as a record names it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use palan_builder::cache::{Entry, Limits};
use palan_oci::Digest;

use crate::engine::{Engine, blocking};
use crate::error::Context as _;
use crate::image::store_error;
use crate::spec::Filters;
use crate::{Error, Result};

/// One thing in the build cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildCacheRecord {
    /// Its id.
    pub id: String,
    /// `regular`, `exec.cachemount`, or `source.local`.
    pub kind: String,
    /// What made it.
    pub description: String,
    /// A build uses it at this moment.
    pub in_use: bool,
    /// An image has it, too.
    pub shared: bool,
    /// Bytes.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it was used last.
    pub used: Option<Timestamp>,
}

/// What is to be removed.
#[derive(Debug, Clone, Default)]
pub struct CachePruneSpec {
    /// Also what images have: the next build runs those steps again.
    pub all: bool,
    /// So many bytes may stay; none: nothing needs to go for its size.
    pub keep_bytes: Option<u64>,
    /// `until` (unused for longer), `id`, `type`, `shared`, `inuse`.
    pub filters: Filters,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CachePruned {
    /// Ids.
    pub removed: Vec<String>,
    /// Bytes.
    pub reclaimed: u64,
}

impl Engine {
    /// What is in the build cache.
    pub async fn build_cache(&self) -> Result<Vec<BuildCacheRecord>> {
        let engine = self.shared();
        blocking(move || engine.cache_records()).await
    }

    /// Removes from the build cache.
    pub async fn prune_build_cache(&self, spec: CachePruneSpec) -> Result<CachePruned> {
        let engine = self.shared();
        blocking(move || engine.prune_cache(&spec)).await
    }

    fn cache_records(&self) -> Result<Vec<BuildCacheRecord>> {
        let mut records = self.layer_records()?;
        for mount in self.builds.mounts.list()? {
            let metadata = palan_stdx::fs::metadata(&mount.path).ok();
            let time = metadata.and_then(|metadata| metadata.modified().ok()).and_then(timestamp);
            records.push(BuildCacheRecord {
                size: crate::container::list::size_of_tree(&mount.path),
                id: mount.key,
                kind: "exec.cachemount".to_owned(),
                description: "mount of a RUN step".to_owned(),
                in_use: mount.in_use,
                shared: false,
                created: time.unwrap_or_default(),
                used: time,
            });
        }
        records.extend(self.kept_contexts()?);
        Ok(records)
    }

    /// Layers of results; each one once, with what made it.
    fn layer_records(&self) -> Result<Vec<BuildCacheRecord>> {
        let entries = self.entries()?;
        let mut by_layer: BTreeMap<Digest, &Entry> = BTreeMap::new();
        let named: BTreeSet<Digest> =
            entries.iter().flat_map(|entry| entry.record.snapshot.layers.iter().copied()).collect();
        for entry in &entries {
            let Some(layer) = entry.record.snapshot.layers.last() else { continue };
            let newest = by_layer.entry(*layer).or_insert(entry);
            if newest.used < entry.used {
                *newest = entry;
            }
        }
        let made = self.store.made_layers().map_err(store_error)?;
        let record = |layer: palan_store::MadeLayer| {
            let entry = by_layer.get(&layer.diff_id);
            BuildCacheRecord {
                id: layer.diff_id.hex(),
                kind: "regular".to_owned(),
                description: entry.map(|entry| entry.record.description.clone()).unwrap_or_default(),
                in_use: false,
                shared: layer.is_in_image,
                size: layer.size,
                created: entry
                    .and_then(|entry| i64::try_from(entry.record.created).ok())
                    .and_then(|seconds| Timestamp::from_second(seconds).ok())
                    .unwrap_or_default(),
                used: entry.and_then(|entry| timestamp(entry.used)),
            }
        };
        let is_cached = |layer: &palan_store::MadeLayer| !layer.is_in_image || named.contains(&layer.diff_id);
        Ok(made.into_iter().filter(is_cached).map(record).collect())
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        self.builds.solver.cache().entries().context(|| "cannot read the build cache".into())
    }

    pub(crate) fn prune_cache(&self, spec: &CachePruneSpec) -> Result<CachePruned> {
        let chosen = Chosen::new(&spec.filters)?;
        let mut pruned = CachePruned::default();
        let records = self.layer_records()?;
        let total: u64 = records.iter().map(|record| record.size).sum();
        let mut mounts = self.cache_records()?;
        mounts.retain(|record| record.kind != "regular");
        let mut left = total + mounts.iter().map(|record| record.size).sum::<u64>();
        let keep = spec.keep_bytes.unwrap_or(0);
        let mut candidates: Vec<BuildCacheRecord> = records.into_iter().chain(mounts).collect();
        candidates.retain(|record| !record.in_use && chosen.takes(record) && (spec.all || !record.shared));
        candidates.sort_by_key(|record| record.used);
        let mut layers = BTreeSet::new();
        for record in candidates {
            if spec.keep_bytes.is_some() && left <= keep {
                break;
            }
            if record.kind == "regular" {
                if let Ok(layer) = Digest::from_hex(&record.id) {
                    layers.insert(layer);
                }
            } else if record.kind == super::kept::KIND {
                if !self.remove_context(&record.id)? {
                    continue;
                }
            } else {
                let list = self.builds.mounts.list()?;
                let Some(mount) = list.iter().find(|mount| mount.key == record.id) else { continue };
                if !self.builds.mounts.remove(mount)? {
                    continue;
                }
            }
            left = left.saturating_sub(record.size);
            if !record.shared {
                pruned.reclaimed += record.size;
            }
            pruned.removed.push(record.id);
        }
        self.forget(&layers)?;
        Ok(pruned)
    }

    /// Removes the records that name these layers, and releases the layers.
    fn forget(&self, layers: &BTreeSet<Digest>) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        let cache = self.builds.solver.cache();
        cache
            .remove(&|entry: &Entry| entry.record.snapshot.layers.iter().any(|layer| layers.contains(layer)))
            .context(|| "cannot remove from the build cache".into())?;
        for layer in layers {
            self.store.release_layer(layer).map_err(store_error)?;
        }
        Ok(())
    }

    /// Keeps the cache within a tenth of the disk, as Docker does, the longest unused first. After a build, and not after each.
    pub(super) fn limit_cache(&self) {
        const PAUSE: Duration = Duration::from_secs(60);
        {
            let mut last = self.builds.limited.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < PAUSE) {
                return;
            }
            *last = Some(Instant::now());
        }
        let limited = rustix::fs::statvfs(&self.config.data_root)
            .map_err(|errno| {
                Error::system("cannot measure the data root").with_source(std::io::Error::from(errno))
            })
            .and_then(|space| self.limit_cache_to(space.f_blocks.saturating_mul(space.f_frsize) / 10));
        if let Err(error) = limited {
            tracing::warn!(error = error.report(), "the build cache is not kept within its limit");
        }
    }

    fn limit_cache_to(&self, max_bytes: u64) -> Result<()> {
        // They are only sent again; results would have to be made again.
        let layers: u64 =
            self.layer_records()?.iter().map(|record| if record.shared { 0 } else { record.size }).sum();
        let contexts = self.limit_contexts(max_bytes.saturating_sub(layers))?;
        let max_bytes = max_bytes.saturating_sub(contexts);
        let made: BTreeMap<Digest, palan_store::MadeLayer> = self
            .store
            .made_layers()
            .map_err(store_error)?
            .into_iter()
            .map(|layer| (layer.diff_id, layer))
            .collect();
        let size =
            |layer: &Digest| made.get(layer).filter(|layer| !layer.is_in_image).map_or(0, |layer| layer.size);
        let limits = Limits { max_bytes: Some(max_bytes), max_age: None };
        let cache = self.builds.solver.cache();
        let removed = cache.prune(&limits, SystemTime::now(), &size);
        if removed.context(|| "cannot remove from the build cache".into())?.is_empty() {
            return Ok(());
        }
        let named: BTreeSet<Digest> =
            self.entries()?.into_iter().flat_map(|entry| entry.record.snapshot.layers).collect();
        for layer in made.keys().filter(|layer| !named.contains(layer)) {
            self.store.release_layer(layer).map_err(store_error)?;
        }
        Ok(())
    }
}

/// What filters choose.
struct Chosen {
    unused_for: Option<Duration>,
    ids: Option<BTreeSet<String>>,
    kinds: Option<BTreeSet<String>>,
    shared: Option<bool>,
}

impl Chosen {
    fn new(filters: &Filters) -> Result<Self> {
        let mut chosen = Self { unused_for: None, ids: None, kinds: None, shared: None };
        for (name, values) in &filters.0 {
            let values: BTreeSet<String> = values.iter().cloned().collect();
            let one = || values.first().cloned().unwrap_or_default();
            match name.as_str() {
                "until" | "unused-for" => chosen.unused_for = Some(age(&one())?),
                "id" => chosen.ids = Some(values),
                "type" => chosen.kinds = Some(values),
                "shared" => chosen.shared = Some(matches!(one().as_str(), "1" | "true" | "")),
                "private" => chosen.shared = Some(!matches!(one().as_str(), "1" | "true" | "")),
                // What is in use is never removed.
                "inuse" if !matches!(one().as_str(), "1" | "true" | "") => {}
                _ => return Err(Error::invalid(format!("invalid filter '{name}'"))),
            }
        }
        Ok(chosen)
    }

    fn takes(&self, record: &BuildCacheRecord) -> bool {
        let age = |used: Timestamp| Timestamp::now().duration_since(used);
        let is_old = self.unused_for.is_none_or(|limit| {
            record.used.is_none_or(|used| Duration::try_from(age(used)).is_ok_and(|age| age > limit))
        });
        is_old
            && self.ids.as_ref().is_none_or(|ids| ids.iter().any(|id| record.id.starts_with(id.as_str())))
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&record.kind))
            && self.shared.is_none_or(|shared| record.shared == shared)
    }
}

/// `24h`, or a moment in seconds since 1970 or in RFC 3339.
fn age(text: &str) -> Result<Duration> {
    if let Ok(duration) = palan_stdx::duration::parse(text) {
        return Ok(duration);
    }
    let moment = match text.parse::<i64>() {
        Ok(seconds) => Timestamp::from_second(seconds).ok(),
        Err(_) => text.parse().ok(),
    };
    let moment: Timestamp = moment.ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))?;
    Ok(Duration::try_from(Timestamp::now().duration_since(moment)).unwrap_or_default())
}

pub(super) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()
}
