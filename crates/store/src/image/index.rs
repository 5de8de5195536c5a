//! Images that are several: an index with an image for each platform, and with what is said about them.
//!
//! The store's image is the one for this host (or the first); it has the configuration, the layers and the names. The index, the manifests and
//! configurations of the others, their layers' blobs and statements about them are blobs that this image needs: a push or `save`
//! brings all of it, and it goes with the image. What a layer's blob is made from stays as long as the blob is needed (`garbage`).
//!
//! **Invariant:** a row is written when all that its index names is here. An image that is recorded again without one has none.

use palan_oci::manifest::DocumentError;
use palan_oci::media_type::Class;
use palan_oci::{Digest, Document, Index, Manifest};
use rusqlite::Transaction;

use super::ImageId;
use crate::compress::put_image_blob;
use crate::{Error, Lease, Result, Store, database};

/// Only ever added to the tables that are there, so an older program that does not know it is not disturbed.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS image_indexes (
    image TEXT PRIMARY KEY REFERENCES images ON DELETE CASCADE,
    digest TEXT NOT NULL            -- of an index, a blob of the image's
) WITHOUT ROWID;
";

/// What makes an image one of several.
#[derive(Debug, Clone, Default)]
pub struct IndexCommit {
    /// The index.
    pub index: Vec<u8>,
    /// What it leads to and is not here yet: manifests, configurations, statements.
    pub papers: Vec<Vec<u8>>,
}

impl Store {
    /// Makes a recorded image one of several. All layers are here under `lease`.
    pub fn commit_index(&self, id: &ImageId, commit: &IndexCommit, lease: &Lease) -> Result<Digest> {
        let digest = Digest::of(&commit.index);
        lease.protect(digest);
        for paper in &commit.papers {
            lease.protect(Digest::of(paper));
        }
        for paper in commit.papers.iter().chain([&commit.index]) {
            self.put_blob(paper)?;
            self.sync_blob(&Digest::of(paper))?;
        }
        let mut blobs = vec![digest];
        let parsed =
            Document::parse(&commit.index, None).map_err(|source| Error::Manifest { digest, source })?;
        let Document::Index(index) = parsed else {
            let source =
                DocumentError::WrongFields { media_type: "an image index".to_owned(), actual: "a manifest" };
            return Err(Error::Manifest { digest, source });
        };
        for entry in index.manifests.iter().filter(|entry| entry.class() == Class::Manifest) {
            let manifest = Manifest::parse(&self.read_blob(&entry.digest)?, Some(&entry.media_type))
                .map_err(|source| Error::Manifest { digest: entry.digest, source })?;
            blobs.push(entry.digest);
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                lease.protect(blob.digest);
                if !self.has_blob(&blob.digest) {
                    return Err(Error::NoSuchBlob { digest: blob.digest });
                }
                blobs.push(blob.digest);
            }
        }
        let mut state = self.inner.lock();
        database::write(&mut state.db, "record an index", |transaction| {
            blobs.iter().try_for_each(|blob| put_image_blob(transaction, id, blob))?;
            let query = "INSERT OR REPLACE INTO image_indexes VALUES (?1, ?2)";
            transaction.execute(query, [id.to_string(), digest.to_string()]).map(drop)
        })?;
        Ok(digest)
    }

    /// The index of an image that is one of several.
    pub fn index_of(&self, id: &ImageId) -> Result<Option<Digest>> {
        let query = "SELECT digest FROM image_indexes WHERE image = ?1";
        let state = self.inner.lock();
        database::first(&state.db, "look up an index", query, &id.to_string(), |row| database::digest(row, 0))
    }

    /// The same, read: the index that an image was made with, or came by, if that is here.
    pub fn read_index(&self, image: &super::Image) -> Result<Option<(Digest, Vec<u8>, Index)>> {
        let made = self.index_of(&image.id)?;
        // A name by digest leads to the image that was pulled by it last; the others of the index are in it all the same.
        let others = self.images()?.into_iter().flat_map(|image| image.digests);
        let names = image.digests.iter().cloned().chain(others);
        let named: Vec<Digest> = names.filter_map(|name| name.digest()).collect();
        let mut seen = std::collections::HashSet::from([image.manifest]);
        for digest in made.into_iter().chain(named).filter(|digest| seen.insert(*digest)) {
            if !self.has_blob(&digest) {
                continue;
            }
            let content = self.read_blob(&digest)?;
            if let Ok(Document::Index(index)) = Document::parse(&content, None)
                && index.manifests.iter().any(|entry| entry.digest == image.manifest)
            {
                return Ok(Some((digest, content, index)));
            }
        }
        Ok(None)
    }
}

/// An image that is recorded anew is what its own manifest says.
pub(crate) fn forget(transaction: &Transaction<'_>, id: &ImageId) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM image_indexes WHERE image = ?1", [id.to_string()]).map(drop)
}

#[cfg(test)]
mod tests {
    use palan_oci::{Descriptor, Platform, media_type};

    use super::*;
    use crate::archive::SaveItem;
    use crate::testing::{Tar, TestStore};

    fn index(store: &TestStore, manifests: &[Digest]) -> IndexCommit {
        let entry = |digest: &Digest| {
            let content = store.read_blob(digest).expect("reads");
            let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &content);
            entry.platform = Some(Platform::host());
            entry
        };
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests: manifests.iter().map(entry).collect(),
            subject: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let index = serde_json::to_vec(&index).expect("serializes");
        IndexCommit { index, ..IndexCommit::default() }
    }

    #[test]
    fn an_index_keeps_what_it_names_and_goes_with_its_image() {
        let mut store = TestStore::new();
        let own = store.make("own", &[Tar::new().file("a", b"own").finish()]).expect("makes");
        let other = store.make("other", &[Tar::new().file("a", b"other").finish()]).expect("makes");
        let commit = index(&store, &[own.manifest, other.manifest]);
        let lease = store.lease();
        let digest = store.commit_index(&own.id, &commit, &lease).expect("records");
        drop(lease);
        store.remove_image("other", false, &|_| Vec::new()).expect("removes");
        store.reopen();
        assert_eq!(store.index_of(&own.id).expect("looks"), Some(digest));
        let (found, content, _) = store.read_index(&own).expect("reads").expect("an index");
        assert_eq!((found, &content), (digest, &commit.index));
        let manifest =
            Manifest::parse(&store.read_blob(&other.manifest).expect("kept"), None).expect("parses");
        let layer = manifest.layers[0].digest;
        assert!(store.has_blob(&layer) && store.has_blob(&manifest.config.digest));
        // What is saved has all of it.
        let saving = store.begin_save(&[SaveItem { image: own.id, names: own.tags.clone() }]).expect("finds");
        let mut archive = Vec::new();
        saving.write(&mut archive).expect("writes");
        drop(saving);
        let archive = String::from_utf8_lossy(&archive);
        for digest in [digest, own.manifest, other.manifest, layer] {
            assert!(archive.contains(&format!("blobs/sha256/{}", digest.hex())), "{digest}");
        }
        store.remove_image("own", false, &|_| Vec::new()).expect("removes");
        store.settle();
        assert!(!store.has_blob(&layer) && !store.has_blob(&digest) && !store.has_blob(&other.manifest));
    }

    #[test]
    fn an_image_that_is_recorded_anew_is_one_again() {
        let store = TestStore::new();
        let layers = [Tar::new().file("a", b"own").finish()];
        let own = store.make("own", &layers).expect("makes");
        let lease = store.lease();
        store.commit_index(&own.id, &index(&store, &[own.manifest]), &lease).expect("records");
        store.make("own", &layers).expect("makes");
        assert_eq!(store.index_of(&own.id).expect("looks"), None);
    }

    #[test]
    fn what_is_not_here_is_no_index() {
        let store = TestStore::new();
        let own = store.make("own", &[Tar::new().file("a", b"own").finish()]).expect("makes");
        let lease = store.lease();
        let mut commit = index(&store, &[own.manifest]);
        let text = String::from_utf8(commit.index).expect("text");
        commit.index = text.replace(&own.manifest.hex(), &Digest::of("nothing").hex()).into_bytes();
        assert!(store.commit_index(&own.id, &commit, &lease).is_err());
        commit.index = store.read_blob(&own.manifest).expect("reads");
        assert!(store.commit_index(&own.id, &commit, &lease).is_err(), "a manifest is no index");
        assert_eq!(store.index_of(&own.id).expect("looks"), None);
    }
}
