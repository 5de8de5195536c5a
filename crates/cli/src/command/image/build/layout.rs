//! `index.json` of an OCI layout: which content of a directory has which tag.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use palan_oci::manifest::MAX_MANIFEST_SIZE;
use palan_oci::{Descriptor, Document, Index, media_type};
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::error_chain;
use rustix::fs::FlockOperation;

/// The annotation that has a tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// The annotation that has the name of an image, which a tag of a cache has not.
const IMAGE: &str = "io.containerd.image.name";
/// What an `oci-layout` file says.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What has a tag.
pub(super) fn get(directory: &Path, tag: &str) -> Result<Option<Descriptor>, String> {
    let index =
        read(directory)?.ok_or_else(|| format!("there is no {}", directory.join("index.json").display()))?;
    Ok(index.manifests.into_iter().find(|entry| is_tagged(entry, tag)))
}

/// Gives a tag to something else.
pub(super) fn put(directory: &Path, tag: &str, mut entry: Descriptor) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let lock = File::open(directory).map_err(failed)?;
    // Another build may put its own there at the same time.
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let mut index = read(directory)?.unwrap_or_else(|| Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: Default::default(),
    });
    index.manifests.retain(|entry| !is_tagged(entry, tag) || entry.annotations.contains_key(IMAGE));
    entry.annotations.insert(TAG.to_owned(), tag.to_owned());
    index.manifests.push(entry);
    let content = serde_json::to_vec(&index).map_err(|error| error.to_string())?;
    for (name, content) in [("oci-layout", LAYOUT), ("index.json", &content)] {
        atomic_file::write(&directory.join(name), content, 0o644, Durability::Process)
            .map_err(|error| error_chain::to_string(&error))?;
    }
    Ok(())
}

fn is_tagged(entry: &Descriptor, tag: &str) -> bool {
    entry.annotations.get(TAG).is_some_and(|name| name == tag)
}

fn read(directory: &Path) -> Result<Option<Index>, String> {
    let path = directory.join("index.json");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut content).map_err(failed)?;
    // BuildKit leaves an empty file where it was killed.
    if content.is_empty() {
        return Ok(None);
    }
    match Document::parse(&content, None) {
        Ok(Document::Index(index)) => Ok(Some(index)),
        Ok(Document::Manifest(_)) => Err(format!("{} is no index", path.display())),
        Err(error) => Err(format!("{}: {}", path.display(), error_chain::to_string(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_leads_to_the_last_that_got_it() {
        let directory = tempfile::tempdir().unwrap();
        let entry = |content: &str| Descriptor::of(media_type::OCI_MANIFEST, content.as_bytes());
        let digest = |tag: &str| get(directory.path(), tag).unwrap().map(|entry| entry.digest);
        get(directory.path(), "latest").unwrap_err();
        for (tag, content) in [("latest", "a"), ("other", "b"), ("latest", "c")] {
            put(directory.path(), tag, entry(content)).unwrap();
        }
        assert_eq!(digest("latest"), Some(entry("c").digest));
        assert_eq!(digest("other"), Some(entry("b").digest));
        assert_eq!(digest("none"), None);
        assert_eq!(std::fs::read(directory.path().join("oci-layout")).unwrap(), LAYOUT);
        std::fs::write(directory.path().join("index.json"), "{").unwrap();
        get(directory.path(), "latest").unwrap_err();
        put(directory.path(), "latest", entry("d")).unwrap_err();
        std::fs::write(directory.path().join("index.json"), "").unwrap();
        put(directory.path(), "latest", entry("d")).unwrap();
        assert_eq!(digest("latest"), Some(entry("d").digest));
    }
}
