//! The files that were built, for those who want them and no image.

use bytes::Bytes;
use palan_linux::path::RootDir;
use palan_oci::Reference;
use palan_store::archive::SaveItem;
use palan_store::{ImageId, Lease, NewLayer};

use super::request::BuildOutcome;
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
    pub async fn built_files(&self, outcome: &BuildOutcome) -> Result<BuiltFiles> {
        let engine = self.shared();
        let layers = outcome.config.rootfs.diff_ids.clone();
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

    /// The same as an archive.
    pub async fn built_archive(&self, outcome: &BuildOutcome) -> Result<Items<Bytes>> {
        let files = self.built_files(outcome).await?;
        archive(self, move |sink| {
            palan_store::tree::pack(files.root(), sink)
                .map_err(|source| Error::system("cannot pack what was built").with_source(source))?;
            Ok(Change::new())
        })
        .await
    }

    /// Compresses the layers of the image that was built and recorded, as a push of it would.
    pub async fn compress_built(&self, outcome: &mut BuildOutcome) -> Result<()> {
        let (engine, image) = (self.shared(), ImageId(outcome.image));
        let compressed = blocking(move || {
            let lease = engine.store.lease();
            let manifest = engine.store.compress_image(&image, &lease).map_err(store_error)?;
            let size = |manifest| engine.store.read_blob(&manifest).map(|content| content.len() as u64);
            manifest.map(|manifest| Ok((manifest, size(manifest)?))).transpose().map_err(store_error)
        })
        .await?;
        if let Some((manifest, size)) = compressed {
            (outcome.manifest, outcome.size) = (manifest, size);
        }
        Ok(())
    }

    /// The image that was built and recorded, as an archive: an OCI layout that is in Docker's format, too. It has these names there,
    /// whichever it has here.
    pub async fn save_built(&self, outcome: &BuildOutcome, names: Vec<Reference>) -> Result<Items<Bytes>> {
        let engine = self.shared();
        let item = SaveItem { image: ImageId(outcome.image), names };
        let saving = blocking(move || engine.store.begin_save(&[item]).map_err(store_error)).await?;
        archive(self, move |sink| {
            saving.write(sink).map_err(store_error)?;
            Ok(Change::new())
        })
        .await
    }
}
