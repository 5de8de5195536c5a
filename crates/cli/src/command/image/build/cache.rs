//! `--cache-from` and `--cache-to`: where results of earlier builds come from, and where those of this one go.
//!
//! Those of type `local` are directories of ours. The daemon reads and writes their content by digests, over the session; which content is
//! a cache, `index.json` says, which is read before the build and written after it.

use std::path::Path;

use palan_buildkit::session::{ContentStore, Services};
use palan_oci::{Descriptor, Reference};

use super::{fields, layout};
use crate::app::App;
use crate::error::{CliError, Result};

/// The tag of a cache in a directory that has no other.
const TAG: &str = "latest";
/// By what the daemon says what names a cache that it has exported.
const MANIFEST: &str = "cache.manifest";

/// Which of the two flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    From,
    To,
}

/// One cache, in BuildKit's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cache {
    pub(crate) kind: String,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Cache {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The directory of one that is a directory, as it was given.
    fn directory(&self) -> Option<&str> {
        let name = self.attribute("dest").or_else(|| self.attribute("src"));
        name.filter(|_| self.kind == "local")
    }

    fn tag(&self) -> &str {
        self.attribute("tag").filter(|tag| !tag.is_empty()).unwrap_or(TAG)
    }
}

/// Finds what the directories that are named have of caches. One that has none is told and left out, as by BuildKit's client: the first build has
/// none.
pub(super) fn find(app: &App, caches: Vec<Cache>) -> Vec<Cache> {
    let found = |mut cache: Cache| {
        let Some(directory) = cache.directory().map(str::to_owned) else { return Some(cache) };
        if cache.attribute("digest").is_some() {
            return Some(cache);
        }
        let why = match layout::get(Path::new(&directory), cache.tag()) {
            Ok(Some(descriptor)) => {
                cache.attributes.push(("digest".to_owned(), descriptor.digest.to_string()));
                return Some(cache);
            }
            Ok(None) => format!("no digest found for tag {}", cache.tag()),
            Err(error) => error,
        };
        app.streams.say(&format!("WARNING: local cache import at {directory} skipped: {why}"));
        None
    };
    caches.into_iter().filter_map(found).collect()
}

/// Offers the directories to the daemon.
pub(super) fn offer<'a>(mut services: Services, caches: impl Iterator<Item = &'a Cache>) -> Services {
    for directory in caches.filter_map(Cache::directory) {
        services = services.store(&format!("local:{directory}"), ContentStore::new(directory));
    }
    services
}

/// Makes the indexes of directories name what was exported to them.
pub(super) fn name(exports: &[Cache], answers: &std::collections::BTreeMap<String, String>) -> Result<()> {
    let Some(manifest) = answers.get(MANIFEST) else { return Ok(()) };
    for cache in exports {
        let Some(directory) = cache.directory() else { continue };
        let failed = |error: String| CliError::new(format!("cannot name the cache in {directory}: {error}"));
        let manifest: Descriptor =
            serde_json::from_str(manifest).map_err(|error| failed(format!("the daemon says {error}")))?;
        layout::put(Path::new(directory), cache.tag(), manifest).map_err(failed)?;
    }
    Ok(())
}

/// Reads one. The kinds of others' clouds are known and refused.
pub(crate) fn parse(text: &str, direction: Direction) -> std::result::Result<Cache, String> {
    let Some(mut pairs) = fields::pairs(text)? else {
        let attributes = vec![("ref".to_owned(), reference(text)?)];
        return Ok(Cache { kind: "registry".to_owned(), attributes });
    };
    let kind = fields::take(&mut pairs, "type").unwrap_or_default();
    match kind.as_str() {
        "" => return Err(format!("type required form> {text:?}")),
        "registry" => {
            let name =
                fields::take(&mut pairs, "ref").ok_or("ref is required for cache type \"registry\"")?;
            pairs.insert(0, ("ref".to_owned(), reference(&name)?));
        }
        "inline" if direction == Direction::To => {}
        "inline" => {
            return Err("cache type \"inline\" is in an image: name it by type=registry,ref=IMAGE".to_owned());
        }
        "local" => {
            let name = if direction == Direction::From { "src" } else { "dest" };
            let path = fields::take(&mut pairs, name).filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| format!("{name} is required for cache type \"local\""))?;
            pairs.insert(0, (name.to_owned(), path));
            if pairs.iter().any(|(key, _)| key == "reset") {
                return Err(
                    "the option reset of cache type \"local\" is not supported: remove the directory"
                        .to_owned(),
                );
            }
        }
        "gha" | "s3" | "azblob" => return Err(format!("cache type {kind:?} is not supported")),
        _ => return Err(format!("unknown cache type {kind:?}: there are registry, inline, local")),
    }
    Ok(Cache { kind, attributes: pairs })
}

fn reference(text: &str) -> std::result::Result<String, String> {
    Reference::parse(text)
        .map(|reference| {
            if reference.digest().is_some() { reference } else { reference.or_latest() }.to_string()
        })
        .map_err(|error| format!("invalid cache reference {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches() {
        let of = |text: &str, direction: Direction| {
            parse(text, direction).map(|cache| {
                let pairs: Vec<String> = cache.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", cache.kind, pairs.join(" "))
            })
        };
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(of("user/app:cache", Direction::From), ok("registry ref=docker.io/user/app:cache"));
        assert_eq!(
            of("type=registry,mode=max,ref=h:5000/x", Direction::To),
            ok("registry ref=h:5000/x:latest mode=max")
        );
        assert_eq!(of("type=inline", Direction::To), ok("inline "));
        assert_eq!(of("type=local,tag=t,dest=x", Direction::To), ok("local dest=x tag=t"));
        assert_eq!(of("type=local,src=/y", Direction::From), ok("local src=/y"));
        for (text, direction) in [
            ("type=inline", Direction::From),
            ("type=registry", Direction::To),
            ("type=local,src=x", Direction::To),
            ("type=local,dest=x", Direction::From),
            ("type=local,dest=x,reset=true", Direction::To),
            ("type=gha", Direction::From),
            ("type=x", Direction::From),
            ("mode=max", Direction::To),
            ("UPPER", Direction::From),
        ] {
            of(text, direction).unwrap_err();
        }
    }
}
