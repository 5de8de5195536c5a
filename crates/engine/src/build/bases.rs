//! The images that a build stands on: those that are here, and what is pulled of others.

use std::sync::Arc;

use jiff::Timestamp;
use palan_builder::lower::ImageRequest;
use palan_oci::{Digest, Platform, Reference};
use palan_registry::{ProgressEvent, PullRequest};
use palan_store::{Image, Lease};

use super::BuildError;
use super::progress::{Event, Status, Vertex};
use super::run::{Parts, Work, cancelled};
use crate::container::parse_platform;
use crate::image::{credentials, registry_error, store_error};
use crate::{Class, Error, Result};

impl Work<'_> {
    /// An image of a name, for a platform: from here, or else from its registry.
    pub(super) fn image(&self, wanted: &ImageRequest, parts: &Parts<'_>) -> Result<Image, BuildError> {
        let name = self.request.image_contexts.get(&wanted.name).unwrap_or(&wanted.name);
        let platform: Platform = parse_platform(&wanted.platform)?;
        if let Ok(reference) = Reference::parse(name) {
            self.client.allow(&format!("docker-image://{reference}"))?;
        }
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        if !self.request.pull
            && let Some(image) = self.known(name, &platform, parts.lease)?
        {
            return Ok(image);
        }
        let reference = Reference::parse(name).map_err(crate::image::reference_error)?;
        let pulling = parts.pulling.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let named = reference.clone().or_latest();
        let before = self.engine.store.find(&named).map_err(store_error)?;
        self.pull(&reference, &platform)?;
        if let Some(before) = before {
            self.keep_name(&named, &platform, &before)?;
        }
        drop(pulling);
        let found = self.known(name, &platform, parts.lease)?;
        found.ok_or_else(|| {
            let text = format!("image {name} does not provide the platform {platform}");
            Error::not_found(text).into()
        })
    }

    fn known(&self, name: &str, platform: &Platform, lease: &Lease) -> Result<Option<Image>, BuildError> {
        let store = &self.engine.store;
        let image = match store.resolve(name) {
            Ok(image) => image,
            Err(error) => {
                let error = store_error(error);
                return if error.class() == Class::NotFound { Ok(None) } else { Err(error.into()) };
            }
        };
        let image = match platform.matches(&image.config.platform()) {
            true => image,
            // Of an image for several platforms the name leads to one.
            false => self.sibling(&image, platform)?.unwrap_or(image),
        };
        lease.protect(image.id.digest());
        lease.protect(image.manifest);
        // Who removes the image meanwhile takes nothing that the result is recorded with.
        for layer in &image.config.rootfs.diff_ids {
            match store.describe(layer, lease) {
                Err(palan_store::Error::NoSuchBlob { .. }) => return Ok(None),
                other => other.map_err(store_error)?,
            };
        }
        let actual = image.config.platform();
        // An image that was made by hand may say nothing of what it is for.
        let is_right = platform.matches(&actual) || actual.os.is_empty();
        Ok(is_right.then_some(image))
    }

    fn pull(&self, reference: &Reference, platform: &Platform) -> Result<(), BuildError> {
        let auth = self.client.credentials(reference)?;
        let digest = Digest::of(format!("pull {reference} {platform}"));
        let mut vertex = Vertex::begun(digest, format!("[internal] load metadata for {reference}"));
        self.progress.event(Event::Vertex(vertex.clone()));
        let request = PullRequest {
            reference: reference.clone(),
            platform: Some(platform.clone()),
            credentials: credentials(auth),
        };
        let tell = |news: ProgressEvent| {
            if let ProgressEvent::Layer { id, status } = news {
                let (current, total) = status.progress().unwrap_or((0, 0));
                self.progress.event(Event::Status(Status {
                    vertex: digest,
                    id,
                    name: status.to_string(),
                    current,
                    total,
                    started: vertex.started,
                    completed: None,
                }));
            }
        };
        let stop = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&stop);
        let _watch = self.cancel.watch(move || told.notify_one());
        let pulled = self.runtime.block_on(async {
            tokio::select! {
                outcome = self.engine.registry.pull(&request, &self.engine.store, tell) => {
                    outcome.map(drop).map_err(|error| BuildError::from(registry_error(error)))
                }
                () = stop.notified() => Err(cancelled()),
            }
        });
        vertex.completed = Some(Timestamp::now());
        if let Err(error) = &pulled {
            vertex.error = error.to_string();
        }
        self.progress.event(Event::Vertex(vertex));
        pulled
    }
}

/// By which digest others know an image of this name: that which its registry has, else its manifest's.
pub(super) fn known_as(image: &Image, name: &str) -> Digest {
    let own = Reference::parse(name).ok();
    let names = image.digests.iter();
    let mut same = names.filter(|known| own.as_ref().is_some_and(|own| own.name() == known.name()));
    same.find_map(Reference::digest).unwrap_or(image.manifest)
}
