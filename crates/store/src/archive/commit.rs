//! `commit`: an image made of a container, its image's layers and one more with what the container changed.

use flate2::write::GzEncoder;
use palan_oci::image_config::{ExecutionConfig, HistoryEntry};
use palan_oci::media_type::{self, Class, Compression};
use palan_oci::{Descriptor, ImageConfig, Manifest, Reference};

use super::spool::Parts;
use super::to_json;
use super::unpack::WantedLayer;
use crate::image::{ImageCommit, ImageId};
use crate::tree::Overlaid;
use crate::{Error, Lease, Result, Store};

/// What `commit` makes of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The name that the image gets.
    pub name: Option<Reference>,
    /// How it wants to be run.
    pub config: ExecutionConfig,
    /// Who makes it.
    pub author: String,
    /// The remark in its history.
    pub comment: String,
    /// What the container ran, for the history.
    pub created_by: String,
    /// When it is made, RFC 3339.
    pub created: String,
}

impl Store {
    /// Makes an image of a container that was made from `parent`. A container that changed no file gives an image without
    /// a layer of its own, as in Docker. The new image remembers its parent.
    pub fn commit_container(
        &self,
        parent: &ImageId,
        changes: &Overlaid,
        options: CommitOptions,
    ) -> Result<ImageId> {
        let lease = self.lease();
        let mut parts = Parts::new(self);
        let committed = self.commit_changes(&mut parts, parent, changes, options, &lease);
        drop(lease);
        if committed.is_err() {
            // What came in vain; the first error is the one to tell.
            let _ = self.collect();
        }
        committed
    }

    fn commit_changes(
        &self,
        parts: &mut Parts<'_>,
        parent: &ImageId,
        changes: &Overlaid,
        options: CommitOptions,
        lease: &Lease,
    ) -> Result<ImageId> {
        // Protected before they are looked up, so that they can't go between the two.
        lease.protect(parent.digest());
        let base = self.image(parent)?.ok_or_else(|| Error::NoSuchImage { name: parent.to_string() })?;
        lease.protect(base.manifest);
        let mut layers = self.stored_layers(&base, lease)?;
        let mut config = ImageConfig { config: options.config, ..ImageConfig::clone(&base.config) };
        let (blob, any) = parts.fill(Compression::Gzip, lease, |part| {
            let mut gzip = GzEncoder::new(part, flate2::Compression::default());
            let any = changes.write_layer(&mut gzip)?;
            gzip.finish().map_err(crate::tree::TreeError::Write)?;
            Ok(any)
        })?;
        if any {
            let descriptor = blob.descriptor();
            let layer = self.unpack_layer(&WantedLayer { blob, diff_id: None }, lease)?;
            config.rootfs.diff_ids.push(layer.diff_id);
            layers.push(descriptor);
        }
        config.created = Some(options.created.clone());
        config.author.clone_from(&options.author);
        config.comment.clone_from(&options.comment);
        config.docker_version.clear();
        config.history.push(HistoryEntry {
            created: Some(options.created),
            created_by: options.created_by,
            author: options.author,
            comment: options.comment,
            empty_layer: !any,
        });
        let content = to_json(&config);
        let commit = ImageCommit {
            manifest: manifest(&content, layers),
            manifest_media_type: None,
            config: content,
            tags: options.name.into_iter().collect(),
            digests: Vec::new(),
            made_here: true,
        };
        let id = self.commit_image(&commit, lease)?.id;
        self.set_parent(&id, parent)?;
        Ok(id)
    }
}

/// The manifest of these layers, whichever manifest they were in before.
pub(super) fn manifest(config: &[u8], layers: Vec<Descriptor>) -> Vec<u8> {
    to_json(&Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(media_type::OCI_CONFIG, config),
        layers: layers.into_iter().map(in_oci_terms).collect(),
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    })
}

/// Docker's media type of a layer as OCI's. A layer that may only be fetched from its own URLs stays what it is.
fn in_oci_terms(mut layer: Descriptor) -> Descriptor {
    if let Class::Layer { compression, foreign: false } = layer.class() {
        let media_type = match compression {
            Compression::None => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        };
        media_type.clone_into(&mut layer.media_type);
    }
    layer
}
