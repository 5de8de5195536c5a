//! OCI image layouts: `index.json` leads to manifests, those to configurations and layers, all by digest.

use palan_oci::media_type::Class;
use palan_oci::{Descriptor, Digest, Document, Index, Manifest, Platform, Reference};

use super::spool::Entries;
use super::{ArchiveError, Found};

const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Attestations are manifests beside the images that they are about.
const ATTESTATION: &str = "vnd.docker.reference.type";
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

pub(super) fn images(entries: &Entries, wanted: &Platform) -> Result<Vec<Found>, ArchiveError> {
    let content = entries.document("index.json").ok_or(ArchiveError::NoImage)?;
    let index = match parse(content, "index.json", None)? {
        Document::Index(index) => index,
        Document::Manifest(_) => return Err(ArchiveError::NoImage),
    };
    let mut found: Vec<Found> = Vec::new();
    for (name, descriptors) in by_name(&index)? {
        // Several with one name are one image for several platforms.
        let descriptor = match descriptors[..] {
            [only] => only.clone(),
            _ => select(
                &Index { manifests: descriptors.into_iter().cloned().collect(), ..index.clone() },
                wanted,
            )?,
        };
        let mut image = image(entries, &descriptor, wanted, MAX_DEPTH)?;
        image.names.extend(name);
        match found.iter_mut().find(|other| other.config == image.config) {
            Some(same) => same.names.append(&mut image.names),
            None => found.push(image),
        }
    }
    if found.is_empty() {
        return Err(ArchiveError::NoImage);
    }
    Ok(found)
}

type Group<'a> = (Option<Reference>, Vec<&'a Descriptor>);

/// The entries of the index, those of one name together, in order.
fn by_name(index: &Index) -> Result<Vec<Group<'_>>, ArchiveError> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let is_image = |entry: &&Descriptor| {
        matches!(entry.class(), Class::Manifest | Class::Index)
            && !entry.annotations.contains_key(ATTESTATION)
    };
    for entry in index.manifests.iter().filter(is_image) {
        let name = name_of(entry)?;
        match groups.iter_mut().find(|(other, _)| *other == name) {
            // Without names only entries that say what they are for are alternatives.
            Some((other, group)) if other.is_some() || entry.platform.is_some() => group.push(entry),
            _ => groups.push((name, vec![entry])),
        }
    }
    Ok(groups)
}

/// The full name that containerd writes, or a reference name that is more than a tag.
fn name_of(entry: &Descriptor) -> Result<Option<Reference>, ArchiveError> {
    let full = entry.annotations.get(NAME);
    let reference = entry.annotations.get(REF_NAME).filter(|name| name.contains(['/', ':']));
    let Some(name) = full.or(reference) else { return Ok(None) };
    match Reference::parse(name) {
        Ok(reference) => Ok(Some(reference.or_latest())),
        Err(source) => Err(ArchiveError::Name { name: name.clone(), source }),
    }
}

fn image(
    entries: &Entries,
    descriptor: &Descriptor,
    wanted: &Platform,
    depth: usize,
) -> Result<Found, ArchiveError> {
    let name = blob_name(&descriptor.digest);
    let content = entries.need_document(&name)?;
    match parse(content, &name, Some(&descriptor.media_type))? {
        Document::Index(_) if depth == 0 => {
            Err(ArchiveError::Limit { what: "nested indexes", limit: MAX_DEPTH as u64 })
        }
        Document::Index(index) => image(entries, &select(&index, wanted)?, wanted, depth - 1),
        Document::Manifest(manifest) => from_manifest(entries, &manifest, content, descriptor),
    }
}

fn from_manifest(
    entries: &Entries,
    manifest: &Manifest,
    content: &[u8],
    descriptor: &Descriptor,
) -> Result<Found, ArchiveError> {
    let config_name = blob_name(&manifest.config.digest);
    let layers = manifest.layers.iter().map(|layer| entries.need_blob(&blob_name(&layer.digest)));
    Ok(Found {
        config: entries.need_document(&config_name)?.to_vec(),
        config_name,
        layers: layers.collect::<Result<_, _>>()?,
        manifest: Some((content.to_vec(), Some(descriptor.media_type.clone()))),
        names: Vec::new(),
    })
}

fn select(index: &Index, wanted: &Platform) -> Result<Descriptor, ArchiveError> {
    index.select(wanted).cloned().ok_or_else(|| ArchiveError::NoPlatform { wanted: wanted.clone() })
}

fn parse(content: &[u8], name: &str, media_type: Option<&str>) -> Result<Document, ArchiveError> {
    Document::parse(content, media_type)
        .map_err(|source| ArchiveError::Document { name: name.to_owned(), source })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
