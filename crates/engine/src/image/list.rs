//! Which images there are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use palan_oci::Reference;
use palan_store::Image;

use super::{created, store_error};
use crate::Result;
use crate::engine::{Engine, blocking};
use crate::spec::Filters;

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
            let fits = |image: &Image| {
                let time = created(image).unwrap_or_default();
                before.is_none_or(|before| time < before)
                    && since.is_none_or(|since| time > since)
                    && until.is_none_or(|until| time < until)
                    && dangling.is_none_or(|dangling| dangling == image.tags.is_empty())
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

    /// Ids of the images of all containers.
    fn image_users(&self) -> Vec<String> {
        self.index.all().iter().map(|handle| handle.details().image_id.clone()).collect()
    }
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
