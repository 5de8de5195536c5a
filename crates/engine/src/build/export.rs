//! The files that were built, for those who want them and no image.

use bytes::Bytes;
use palan_linux::path::{RootDir, Time};
use palan_oci::Reference;
use palan_store::archive::SaveItem;
use palan_store::{ImageId, Lease, NewLayer};

use super::request::{BuildOutcome, BuiltImage};
use crate::container::files::archive;
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::image::store_error;
use crate::stream::Items;
use crate::{Error, Result};

/// What was built, as a directory, for as long as this lives.
#[derive(Debug)]
pub struct BuiltFiles {
    root: RootDir,
    _lease: Lease,
    /// An image without layers has an empty directory.
    _empty: Option<NewLayer>,
}

impl BuiltFiles {
    /// Its root.
    pub fn root(&self) -> &RootDir {
        &self.root
    }
}

impl Engine {
    /// The files that a build has made.
    pub async fn built_files(&self, image: &BuiltImage) -> Result<BuiltFiles> {
        let engine = self.shared();
        let layers = image.config.rootfs.diff_ids.clone();
        blocking(move || {
            let lease = engine.store.lease();
            if layers.is_empty() {
                let empty = engine.store.new_layer().map_err(store_error)?;
                let root = empty
                    .root()
                    .try_clone()
                    .map_err(|source| Error::system("cannot open what was built").with_source(source))?;
                return Ok(BuiltFiles { root, _lease: lease, _empty: Some(empty) });
            }
            let root = engine.store.view_layers(&layers, &lease).map_err(store_error)?;
            let root = root.ok_or_else(|| Error::system("what was built is gone already; build again"))?;
            Ok(BuiltFiles { root, _lease: lease, _empty: None })
        })
        .await
    }

    /// The files of all platforms as an archive: of several, each in a directory.
    pub async fn built_archive(&self, outcome: &BuildOutcome) -> Result<Items<Bytes>> {
        let mut all = Vec::with_capacity(outcome.images.len());
        for image in &outcome.images {
            let directory = outcome.several.then(|| image.directory());
            all.push((directory, self.built_files(image).await?));
        }
        let time = outcome.epoch.map(|epoch| Time { seconds: epoch.as_second(), nanoseconds: 0 });
        archive(self, move |sink| {
            let trees: Vec<(Option<&str>, &RootDir)> =
                all.iter().map(|(directory, files)| (directory.as_deref(), files.root())).collect();
            palan_store::tree::pack_several(&trees, time, sink)
                .map_err(|source| Error::system("cannot pack what was built").with_source(source))?;
            Ok(Change::new())
        })
        .await
    }

    /// Compresses the layers of the image that was built and recorded, as a push of it would.
    pub async fn compress_built(&self, outcome: &mut BuildOutcome) -> Result<()> {
        if outcome.index.is_some() {
            return Ok(());
        }
        let (engine, image) = (self.shared(), ImageId(outcome.image().image));
        let compressed = blocking(move || {
            let lease = engine.store.lease();
            let manifest = engine.store.compress_image(&image, &lease).map_err(store_error)?;
            let size = |manifest| engine.store.read_blob(&manifest).map(|content| content.len() as u64);
            manifest.map(|manifest| Ok((manifest, size(manifest)?))).transpose().map_err(store_error)
        })
        .await?;
        if let Some((manifest, size)) = compressed {
            let paper = &mut outcome.images[outcome.main].manifest;
            (paper.digest, paper.size) = (manifest, size);
        }
        Ok(())
    }

    /// The image that was built and recorded, as an archive: an OCI layout that is in Docker's format, too. It has these names there,
    /// whichever it has here.
    pub async fn save_built(&self, outcome: &BuildOutcome, names: Vec<Reference>) -> Result<Items<Bytes>> {
        let engine = self.shared();
        let item = SaveItem { image: ImageId(outcome.image().image), names };
        let saving = blocking(move || engine.store.begin_save(&[item]).map_err(store_error)).await?;
        archive(self, move |sink| {
            saving.write(sink).map_err(store_error)?;
            Ok(Change::new())
        })
        .await
    }
}
