//! A new image: everything checked, every layer where it belongs, then one record.

use palan_oci::{ChainId, Digest, ImageConfig, Manifest, Reference};

use super::{Image, ImageCommit, ImageId, now, stack, stored_name};
use crate::database::ImageRow;
use crate::durability::Work;
use crate::layer::{LayerRecord, Standing, chain_key, layer_key};
use crate::store::State;
use crate::{Error, Lease, Result, Store, database};

/// A layer in its place in an image.
struct Placed {
    key: String,
    record: LayerRecord,
}

impl Store {
    /// Records an image whose layers were all brought under `lease`. Checks that manifest and configuration are
    /// sound and agree, unpacks over their parents the layers that are not self-contained, then writes the record and
    /// the names in one transaction.
    pub fn commit_image(&self, commit: &ImageCommit, lease: &Lease) -> Result<Image> {
        let id = ImageId(Digest::of(&commit.config));
        let manifest_digest = Digest::of(&commit.manifest);
        let manifest = Manifest::parse(&commit.manifest, commit.manifest_media_type.as_deref())
            .map_err(|source| Error::Manifest { digest: manifest_digest, source })?;
        if manifest.config.digest != id.digest() {
            let (expected, actual) = (manifest.config.digest, id.digest());
            return Err(palan_oci::digest::VerifyError::Digest { expected, actual }.into());
        }
        let config = ImageConfig::parse(&commit.config)
            .map_err(|source| Error::Config { digest: id.digest(), source })?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::LayerCount { image: id.digest(), layers, diff_ids });
        }
        lease.protect(id.digest());
        lease.protect(manifest_digest);
        let placed = self.place_layers(id, diff_ids, lease)?;
        self.put_blob(&commit.config)?;
        self.put_blob(&commit.manifest)?;
        let mut blobs = vec![id.digest(), manifest_digest];
        blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        // A layer that was here before may have come from another blob than this manifest names.
        blobs.extend(placed.iter().map(|layer| layer.record.blob));
        // An index that it came by, so that the whole can be pushed once all of it is here.
        blobs.extend(
            commit.digests.iter().filter_map(Reference::digest).filter(|digest| self.has_blob(digest)),
        );
        let row = ImageRow {
            id,
            manifest: manifest_digest,
            size: placed.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.record.size)),
            layers: placed.iter().map(|layer| layer.key.clone()).collect(),
            last_tagged: (!commit.tags.is_empty()).then(now),
        };
        self.inner.lock().record(&row, &placed, &blobs, commit)?;
        self.inner.background.schedule(&self.inner, Work::SYNC);
        self.image(&id)?.ok_or_else(|| Error::NoSuchImage { name: id.to_string() })
    }

    /// Finds each layer's directory, making those that need their parents.
    fn place_layers(&self, id: ImageId, diff_ids: &[Digest], lease: &Lease) -> Result<Vec<Placed>> {
        let mut placed: Vec<Placed> = Vec::with_capacity(diff_ids.len());
        let mut chain = None;
        for diff_id in diff_ids {
            let own_chain = ChainId::extend(chain, diff_id);
            let is_bottom = chain.replace(own_chain).is_none();
            lease.protect(*diff_id);
            lease.protect(own_chain.digest());
            let record = self.inner.lock().layer(diff_id)?;
            let record = record.ok_or(Error::MissingLayer { image: id.digest(), diff_id: *diff_id })?;
            match record.standing {
                Standing::SelfContained => placed.push(Placed { key: layer_key(diff_id), record }),
                Standing::MadeUpParents if is_bottom => {
                    placed.push(Placed { key: layer_key(diff_id), record })
                }
                Standing::Incomplete if is_bottom => {
                    return Err(Error::IncompleteBottom { image: id.digest(), diff_id: *diff_id });
                }
                Standing::MadeUpParents | Standing::Incomplete => {
                    let layer = self.place_over_parents(record, own_chain, &placed)?;
                    placed.push(layer);
                }
            }
        }
        Ok(placed)
    }

    fn place_over_parents(
        &self,
        mut record: LayerRecord,
        chain: ChainId,
        below: &[Placed],
    ) -> Result<Placed> {
        let key = chain_key(&chain.digest());
        let known = database::layer(&self.inner.lock().db, &key)?;
        if let Some(record) = known {
            return Ok(Placed { key, record });
        }
        let keys: Vec<String> = below.iter().map(|layer| layer.key.clone()).collect();
        let opaque = |key: &str| Ok(below.iter().any(|layer| layer.key == key && layer.record.opaque_root));
        let parents = self.inner.directories(&stack(&keys, opaque)?);
        record.size = self.inner.unpack_over_parents(&record, &key, parents)?;
        record.standing = Standing::SelfContained;
        // The kernel has written what hides the layers below, as marks on the directories in the root.
        record.opaque_root = false;
        Ok(Placed { key, record })
    }
}

impl State {
    /// A layer by its diff-id, recorded or just unpacked.
    fn layer(&self, diff_id: &Digest) -> Result<Option<LayerRecord>> {
        match self.pending.get(diff_id) {
            Some(record) => Ok(Some(record.clone())),
            None => database::layer(&self.db, &layer_key(diff_id)),
        }
    }

    /// A layer by its diff-id, or by the blob it comes from where that is not known.
    pub(crate) fn layer_by(&self, diff_id: Option<&Digest>, blob: &Digest) -> Result<Option<LayerRecord>> {
        match diff_id {
            Some(diff_id) => self.layer(diff_id),
            None => match self.pending.values().find(|record| record.blob == *blob) {
                Some(record) => Ok(Some(record.clone())),
                None => database::layer_by_blob(&self.db, blob),
            },
        }
    }

    fn record(
        &mut self,
        row: &ImageRow,
        placed: &[Placed],
        blobs: &[Digest],
        commit: &ImageCommit,
    ) -> Result<()> {
        let is_new = database::image(&self.db, &row.id)?.is_none();
        let mut new_layers = Vec::new();
        database::write(&mut self.db, "record an image", |transaction| {
            for layer in placed {
                if database::insert_layer(transaction, &layer.key, &layer.record)? {
                    new_layers.push(layer.key.clone());
                }
            }
            database::insert_image(transaction, row, blobs)?;
            super::index::forget(transaction, &row.id)?;
            if commit.made_here {
                crate::compress::put_made(transaction, &row.id, &row.manifest)?;
            }
            for name in
                commit.tags.iter().map(|name| name.clone().or_latest()).chain(commit.digests.iter().cloned())
            {
                database::set_name(transaction, &stored_name(&name), &row.id)?;
            }
            if let Some(time) = row.last_tagged {
                database::set_last_tagged(transaction, &row.id, time)?;
            }
            Ok(())
        })?;
        self.syncing.recorded(new_layers, is_new.then_some(row.id));
        for layer in placed.iter().filter(|layer| !layer.key.starts_with("chain-")) {
            self.pending.remove(&layer.record.diff_id);
        }
        Ok(())
    }
}
