//! Which images there are.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use palan_oci::media_type::OCI_MANIFEST;
use palan_oci::{ChainId, Digest, Manifest, Platform, Reference};
use palan_store::{Image, ImageId};

use super::{created, store_error};
use crate::engine::{Engine, blocking};
use crate::spec::Filters;
use crate::{Error, Result};

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
    /// What it is as a manifest, when asked for.
    pub manifest: Option<ManifestSummary>,
}

/// An image as the manifest that it was delivered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSummary {
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
                    summary.manifest = Some(engine.manifest_summary(image)?);
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

    /// What an image is as a manifest. Blocking.
    pub(super) fn manifest_summary(&self, image: &Image) -> Result<ManifestSummary> {
        let content = self.store.read_blob(&image.manifest).map_err(store_error)?;
        let manifest = Manifest::parse(&content, None).map_err(|source| {
            Error::system(format!("the manifest of image {} is broken", image.id)).with_source(source)
        })?;
        let own = content.len() as u64;
        let layers: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
        let users = self.containers_of(&image.id);
        Ok(ManifestSummary {
            digest: image.manifest.to_string(),
            media_type: manifest.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned()),
            size: own,
            content_size: own + manifest.config.size + layers,
            unpacked_size: image.size,
            platform: image.config.platform(),
            containers: users.into_iter().map(|user| user.container).collect(),
        })
    }

    /// Ids of the images of all containers.
    fn image_users(&self) -> Vec<String> {
        self.index.all().iter().map(|handle| handle.details().image_id.clone()).collect()
    }
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
