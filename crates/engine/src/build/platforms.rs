//! A build for several platforms: which they are, one build for each beside the others, and images of theirs under one name.

use std::sync::{Mutex, PoisonError};
use std::thread;

use palan_oci::{Platform, Reference};
use palan_store::{Image, ImageId};

use super::BuildError;
use super::caches::CacheTarget;
use super::request::{BuildOutcome, BuildRequest};
use super::run::{Parts, Solved, Work};
use crate::container::parse_platform;
use crate::image::store_error;
use crate::{Error, Result};

/// So many at once: each is a build with threads of its own.
const MAX_PLATFORMS: usize = 32;

/// The platforms of a request, each once, in their order.
fn wanted(request: &BuildRequest) -> Result<Vec<Platform>> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in request.platforms.iter().filter(|text| !text.is_empty()) {
        let platform = parse_platform(text)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.len() > MAX_PLATFORMS {
        return Err(Error::invalid(format!("a build is for at most {MAX_PLATFORMS} platforms")));
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    Ok(platforms)
}

/// Which of several platforms serves this host best; the first if none does.
pub(super) fn main<'a>(platforms: impl Iterator<Item = &'a Platform>) -> usize {
    let host = Platform::host();
    let ranked = platforms.enumerate().filter_map(|(number, platform)| Some((host.rank(platform)?, number)));
    ranked.min().map_or(0, |(_, number)| number)
}

impl Work<'_> {
    /// Builds for each platform, and has `finish` done with all results. The first failure ends the others, and is the build's.
    pub(super) fn solve_each(
        &self,
        parts: &Parts<'_>,
        finish: impl FnOnce(Vec<Solved>) -> Result<BuildOutcome, BuildError>,
    ) -> Result<BuildOutcome, BuildError> {
        let platforms = wanted(self.request)?;
        let (cancel, _watch) = self.cancel.child();
        if let [only] = &platforms[..] {
            let (mut outcome, cache) =
                self.solve(parts, only, false, &cancel, |solved| finish(vec![solved]))?;
            outcome.cache = cache;
            return Ok(outcome);
        }
        if self.request.cache_to.iter().any(|export| export.target != CacheTarget::Image) {
            return Err(Error::invalid(
                "an export of the cache of several platforms at once is not supported: build them one after the other",
            )
            .into());
        }
        let failure: Mutex<Option<BuildError>> = Mutex::default();
        let one = |platform: &Platform| {
            let solved = self.solve(parts, platform, true, &cancel, Ok);
            solved.map(|(solved, _)| solved).map_err(|error| {
                // What stopped because another failed is not the cause.
                let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                drop(first);
                cancel.cancel();
            })
        };
        let solved: Vec<Result<Solved, ()>> = thread::scope(|scope| {
            let threads: Vec<_> = platforms
                .iter()
                .map(|platform| {
                    let name = format!("build-{}", platform.architecture);
                    thread::Builder::new().name(name).spawn_scoped(scope, move || one(platform))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| match thread {
                    Ok(thread) => thread.join().unwrap_or(Err(())),
                    Err(_) => Err(()),
                })
                .collect()
        });
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (failure, solved.into_iter().collect::<Result<Vec<_>, ()>>()) {
            (None, Ok(solved)) => finish(solved),
            (Some(error), _) => Err(error),
            (None, Err(())) => Err(Error::system("a build for one of the platforms broke off").into()),
        }
    }

    /// The image for another platform of those that came together with this one.
    pub(super) fn sibling(&self, image: &Image, platform: &Platform) -> Result<Option<Image>> {
        let store = &self.engine.store;
        let Some((_, _, index)) = store.read_index(image).map_err(store_error)? else { return Ok(None) };
        let Some(entry) = index.select(platform) else { return Ok(None) };
        let images = store.images().map_err(store_error)?;
        Ok(images.into_iter().find(|image| image.manifest == entry.digest))
    }

    /// After a pull for another platform than the host's: the name leads to what it led to before, if that is for the host and both came
    /// together. What is pulled for a build is no reason that `run` finds another image.
    pub(super) fn keep_name(&self, name: &Reference, platform: &Platform, before: &ImageId) -> Result<()> {
        let store = &self.engine.store;
        let host = Platform::host();
        if host.matches(platform) || name.digest().is_some() {
            return Ok(());
        }
        let now = store.find(name).map_err(store_error)?.filter(|now| now != before);
        let now = now.map(|now| store.image(&now).map_err(store_error)).transpose()?.flatten();
        let before = store.image(before).map_err(store_error)?;
        let (Some(before), Some(now)) = (before, now) else { return Ok(()) };
        if !host.matches(&before.config.platform()) {
            return Ok(());
        }
        let index = store.read_index(&before).map_err(store_error)?;
        let is_sibling = index
            .is_some_and(|(_, _, index)| index.manifests.iter().any(|entry| entry.digest == now.manifest));
        if !is_sibling {
            return Ok(());
        }
        store.tag(&before.id, name).map(drop).map_err(store_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(platforms: &[&str]) -> BuildRequest {
        let platforms = platforms.iter().map(|text| (*text).to_owned()).collect();
        BuildRequest { platforms, ..BuildRequest::default() }
    }

    #[test]
    fn each_platform_is_built_for_once() {
        let of = |platforms: &[&str]| -> Vec<String> {
            wanted(&request(platforms)).expect("platforms").iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&[]), [Platform::host().to_string()]);
        assert_eq!(of(&["linux/arm64", "", "linux/amd64", "linux/arm64/v8"]), ["linux/arm64", "linux/amd64"]);
        assert!(wanted(&request(&["no platform"])).is_err());
        let many: Vec<String> = (0..=MAX_PLATFORMS).map(|number| format!("linux/x{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(wanted(&request(&many)).is_err());
    }

    #[test]
    fn names_lead_to_the_hosts() {
        let platforms: Vec<Platform> = ["linux/s390x", "linux/amd64", "linux/arm64"]
            .iter()
            .map(|text| text.parse().expect("one"))
            .collect();
        let host = platforms.iter().position(|platform| *platform == Platform::host());
        assert_eq!(main(platforms.iter()), host.unwrap_or(0));
        assert_eq!(main(platforms[..1].iter()), 0);
    }
}
