//! Which images there are.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use palan_oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use palan_oci::{ChainId, Descriptor, Digest, Document, ImageConfig, Manifest, Platform, Reference};
use palan_store::{Image, ImageId};

use super::{created, store_error};
use crate::engine::{Engine, blocking};
use crate::spec::Filters;
use crate::{Error, Result};

/// Annotations by which an index says that a manifest has statements about another.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Which images a list shows.
///
/// Filters: `before`, `dangling`, `label`, `reference`, `since`, `until`.
#[derive(Debug, Clone, Default)]
pub struct ImageListQuery {
    /// Intermediate ones too.
    pub all: bool,
    /// Filters.
    pub filters: Filters,
    /// Count containers.
    pub containers: bool,
    /// Add up what each shares with others.
    pub shared_size: bool,
    /// Tell each image's manifest.
    pub manifests: bool,
}

/// One line of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:…`.
    pub id: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `name:tag`, familiar form.
    pub repo_tags: Vec<String>,
    /// `name@digest`, familiar form.
    pub repo_digests: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers that use it; -1 when not counted.
    pub containers: i64,
    /// The image that it was made from here; empty for none.
    pub parent: String,
    /// Bytes of its layers that other images have, too, when asked for.
    pub shared_size: Option<u64>,
    /// What it is as manifests, when asked for.
    pub manifests: Option<Manifests>,
}

/// An image as what it was delivered with: a manifest, or an index of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifests {
    /// Digest of the manifest or index.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// The manifest itself, or what the index has.
    pub list: Vec<ManifestSummary>,
}

/// What a manifest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// An image.
    Image,
    /// Statements about the image with this manifest.
    Attestation(String),
}

/// One manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSummary {
    /// What it is.
    pub kind: ManifestKind,
    /// All that it names is here.
    pub available: bool,
    /// Digest of the manifest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// Bytes of the manifest and of what it names, as transferred.
    pub content_size: u64,
    /// Bytes of the layers, unpacked.
    pub unpacked_size: u64,
    /// What it is for.
    pub platform: Platform,
    /// Ids of the containers that use it.
    pub containers: Vec<String>,
}

/// Lists.
impl Engine {
    /// A list, newest first.
    pub async fn list_images(&self, query: ImageListQuery) -> Result<Vec<ImageSummary>> {
        query.filters.check(&["before", "dangling", "label", "reference", "since", "until"])?;
        let dangling = query.filters.boolean("dangling")?;
        let until = query.filters.until()?;
        let users = query.containers.then(|| self.image_users());
        let engine = self.shared();
        blocking(move || {
            let filters = &query.filters;
            let time_of = |key: &str| -> Result<Vec<Timestamp>> {
                let images = filters.values(key).map(|name| engine.store.resolve(name).map_err(store_error));
                images.map(|image| Ok(created(&image?).unwrap_or_default())).collect()
            };
            let before = time_of("before")?.into_iter().min();
            let since = time_of("since")?.into_iter().max();
            let images = engine.store.images().map_err(store_error)?;
            let parents = engine.store.parents().map_err(store_error)?;
            let is_behind = |image: &Image| {
                let is_nameless = image.tags.is_empty() && image.digests.is_empty();
                is_nameless && parents.iter().any(|(_, parent)| *parent == image.id)
            };
            let shared = if query.shared_size { shared_sizes(&engine, &images)? } else { Vec::new() };
            let fits = |image: &Image| {
                let time = created(image).unwrap_or_default();
                before.is_none_or(|before| time < before)
                    && since.is_none_or(|since| time > since)
                    && until.is_none_or(|until| time < until)
                    && dangling.is_none_or(|dangling| dangling == image.tags.is_empty())
                    && (query.all || !is_behind(image))
                    && filters.labels("label", &image.config.config.labels)
            };
            let mut list = Vec::new();
            for image in images.iter().filter(|image| fits(image)) {
                let mut summary = summary(image);
                if filters.has("reference") {
                    summary.repo_tags = matching(filters, &image.tags);
                    summary.repo_digests = matching(filters, &image.digests);
                    if summary.repo_tags.is_empty() && summary.repo_digests.is_empty() {
                        continue;
                    }
                }
                let parent = parents.iter().find(|(child, _)| *child == image.id);
                summary.parent = parent.map(|(_, parent)| parent.to_string()).unwrap_or_default();
                summary.shared_size = shared.iter().find(|(id, _)| *id == image.id).map(|(_, size)| *size);
                if query.manifests {
                    summary.manifests = Some(engine.manifests(image)?);
                }
                if let Some(users) = &users {
                    let count = users.iter().filter(|user| *user == &summary.id).count();
                    summary.containers = i64::try_from(count).unwrap_or(i64::MAX);
                }
                list.push(summary);
            }
            Ok(list)
        })
        .await
    }

    /// What an image is as manifests. Blocking.
    pub(super) fn manifests(&self, image: &Image) -> Result<Manifests> {
        if let Some(index) = self.store.index_of(&image.id).map_err(store_error)? {
            let content = self.store.read_blob(&index).map_err(store_error)?;
            let broken = |source| {
                Error::system(format!("the index of image {} is broken", image.id)).with_source(source)
            };
            if let Document::Index(parsed) = Document::parse(&content, None).map_err(broken)? {
                let list: Result<Vec<ManifestSummary>> =
                    parsed.manifests.iter().map(|entry| self.manifest_of_index(image, entry)).collect();
                return Ok(Manifests {
                    digest: index.to_string(),
                    media_type: parsed.media_type.unwrap_or_else(|| OCI_INDEX.to_owned()),
                    size: content.len() as u64,
                    list: list?,
                });
            }
        }
        let content = self.store.read_blob(&image.manifest).map_err(store_error)?;
        let media_type = parse(image, &content)?.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
        let size = content.len() as u64;
        let entry = Descriptor::new(media_type.clone(), image.manifest, size);
        let only = self.manifest_of_index(image, &entry)?;
        Ok(Manifests { digest: only.digest.clone(), media_type, size, list: vec![only] })
    }

    /// One manifest of an image's.
    fn manifest_of_index(&self, image: &Image, entry: &Descriptor) -> Result<ManifestSummary> {
        let content = self.store.read_blob(&entry.digest).map_err(store_error)?;
        let manifest = parse(image, &content)?;
        let config = self.store.read_blob(&manifest.config.digest).ok();
        let config = config.and_then(|content| ImageConfig::parse(&content).ok());
        let own = content.len() as u64;
        let layers: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
        let about = entry
            .annotations
            .get(REFERENCE_DIGEST)
            .filter(|_| entry.annotations.contains_key(REFERENCE_TYPE));
        let is_own = entry.digest == image.manifest;
        let unpacked = match &config {
            _ if is_own => image.size,
            Some(config) if about.is_none() => {
                let sizes = config.rootfs.diff_ids.iter().map(|layer| self.store.layer_size(layer));
                sizes.collect::<palan_store::Result<Vec<_>>>().map_err(store_error)?.into_iter().sum()
            }
            _ => 0,
        };
        let users = if is_own { self.containers_of(&image.id) } else { Vec::new() };
        let platform = entry.platform.clone().or_else(|| config.map(|config| config.platform()));
        let blobs = manifest.layers.iter().chain([&manifest.config]);
        Ok(ManifestSummary {
            kind: about.map_or(ManifestKind::Image, |about| ManifestKind::Attestation(about.clone())),
            available: is_own || blobs.clone().all(|blob| self.store.has_blob(&blob.digest)),
            digest: entry.digest.to_string(),
            media_type: entry.media_type.clone(),
            size: own,
            content_size: own + manifest.config.size + layers,
            unpacked_size: unpacked,
            platform: platform.unwrap_or_else(|| image.config.platform()),
            containers: users.into_iter().map(|user| user.container).collect(),
        })
    }

    /// Ids of the images of all containers.
    fn image_users(&self) -> Vec<String> {
        self.index.all().iter().map(|handle| handle.details().image_id.clone()).collect()
    }
}

fn parse(image: &Image, content: &[u8]) -> Result<Manifest> {
    Manifest::parse(content, None).map_err(|source| {
        Error::system(format!("a manifest of image {} is broken", image.id)).with_source(source)
    })
}

/// The bytes of each image's layers that other images have, too.
pub(crate) fn shared_sizes(engine: &Engine, images: &[Image]) -> Result<Vec<(ImageId, u64)>> {
    let mut layers = Vec::with_capacity(images.len());
    let mut owners: HashMap<Digest, usize> = HashMap::new();
    for image in images {
        // Gone since it was listed: it shares nothing.
        let own = engine.store.layer_sizes(&image.id).unwrap_or_default();
        for (chain, _) in &own {
            *owners.entry(chain.digest()).or_default() += 1;
        }
        layers.push((image.id, own));
    }
    let is_shared = |chain: &ChainId| owners.get(&chain.digest()).is_some_and(|count| *count > 1);
    let sum = |own: Vec<(ChainId, u64)>| {
        own.iter().filter(|(chain, _)| is_shared(chain)).map(|(_, size)| size).sum()
    };
    Ok(layers.into_iter().map(|(id, own)| (id, sum(own))).collect())
}

fn summary(image: &Image) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        created: created(image),
        repo_tags: image.tags.iter().map(Reference::familiar).collect(),
        repo_digests: image.digests.iter().map(Reference::familiar).collect(),
        size: image.size,
        labels: image.config.config.labels.clone(),
        containers: -1,
        ..ImageSummary::default()
    }
}

/// The names that a filter `reference` selects.
fn matching(filters: &Filters, names: &[Reference]) -> Vec<String> {
    let fits = |name: &&Reference| {
        let (short, full) = (name.familiar_name(), name.familiar());
        filters.values("reference").any(|pattern| glob(pattern, &short) || glob(pattern, &full))
    };
    names.iter().filter(fits).map(Reference::familiar).collect()
}

/// Whether a text fits a pattern with `*` (not across `/`), `?` and `[…]`.
fn glob(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let mut characters = text.chars();
    match first {
        '*' => {
            let ends = text.char_indices().map(|(index, _)| index).chain([text.len()]);
            let within = ends.take_while(|end| !text[..*end].contains('/'));
            let mut within = within;
            within.any(|end| glob(rest, &text[end..]))
        }
        '?' => characters.next().is_some_and(|character| character != '/' && glob(rest, characters.as_str())),
        '[' => {
            let Some(end) = rest.find(']') else { return false };
            let (set, rest) = (&rest[..end], &rest[end + 1..]);
            let (is_negated, set) = set.strip_prefix('^').map_or((false, set), |set| (true, set));
            characters.next().is_some_and(|character| {
                in_set(set, character) != is_negated && glob(rest, characters.as_str())
            })
        }
        literal => characters.next() == Some(literal) && glob(rest, characters.as_str()),
    }
}

fn in_set(set: &str, wanted: char) -> bool {
    let characters: Vec<char> = set.chars().collect();
    let mut index = 0;
    while index < characters.len() {
        match characters[index..] {
            [first, '-', last, ..] => {
                if (first..=last).contains(&wanted) {
                    return true;
                }
                index += 3;
            }
            [only, ..] => {
                if only == wanted {
                    return true;
                }
                index += 1;
            }
            [] => break,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("busy*", "busybox"),
            ("*", "busybox"),
            ("*/*", "library/busybox"),
            ("busybox:*", "busybox:1.36"),
            ("b?sybox", "busybox"),
            ("[a-c]usybox", "busybox"),
            ("[^x]usybox", "busybox"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("busy", "busybox"), ("*", "library/busybox"), ("[", "b"), ("[^b]usybox", "busybox")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
