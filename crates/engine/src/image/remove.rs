//! Names and images that go.

use palan_store::ImageId;
use palan_store::image::{ImageUser, Removed};

use super::{check_platform, created, event, store_error};
use crate::Result;
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::spec::Filters;

/// What removing an image did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRemoval {
    /// A name was taken away.
    Untagged(String),
    /// An image or layer was deleted.
    Deleted(String),
}

/// Removal.
impl Engine {
    /// Takes a name from an image, and deletes it with its last name; and with it the nameless images that it was made
    /// from, unless they are to stay (`no_prune`). Every one of `platforms` must be the image's own.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
        platforms: Vec<String>,
    ) -> Result<Vec<ImageRemoval>> {
        let (engine, wanted) = (self.shared(), name.to_owned());
        let removed = blocking(move || {
            if !platforms.is_empty() {
                let image = engine.store.resolve(&wanted).map_err(store_error)?;
                for platform in &platforms {
                    check_platform(&image, &wanted, Some(platform))?;
                }
            }
            let users = |id: &ImageId| engine.containers_of(id);
            let removed = if no_prune {
                engine.store.remove_image_only(&wanted, force, &users)
            } else {
                engine.store.remove_image(&wanted, force, &users)
            };
            removed.map_err(store_error)
        });
        self.announce_removed(removed.await?).await
    }

    async fn announce_removed(&self, removed: Vec<Removed>) -> Result<Vec<ImageRemoval>> {
        let mut change = Change::new();
        let mut list = Vec::with_capacity(removed.len());
        // Names by digest that go along with a tag are no event of their own.
        let has_tag =
            removed.iter().any(|item| matches!(item, Removed::Untagged(name, _) if name.tag().is_some()));
        for item in removed {
            match item {
                Removed::Untagged(name, image) => {
                    if name.tag().is_some() || !has_tag {
                        let id = image.to_string();
                        change = change.event(event("untag", &id, &id));
                    }
                    list.push(ImageRemoval::Untagged(name.familiar()));
                }
                Removed::Deleted(digest) => {
                    let id = digest.to_string();
                    // Layers follow the image in the answer; only the image is an object with events.
                    if !list.iter().any(|item| matches!(item, ImageRemoval::Deleted(_))) {
                        change = change.event(event("delete", &id, &id));
                    }
                    list.push(ImageRemoval::Deleted(id));
                }
            }
        }
        self.db.commit(change).await?;
        Ok(list)
    }

    pub(crate) fn containers_of(&self, id: &ImageId) -> Vec<ImageUser> {
        let id = id.to_string();
        let all = self.index.all();
        let uses = |details: &std::sync::Arc<crate::container::Details>| {
            details.image_id == id || details.mounts.iter().any(|mount| mount.image_id == id)
        };
        let details = all.iter().map(|handle| handle.details()).filter(uses);
        details
            .map(|details| ImageUser {
                container: details.id.clone(),
                running: details.state.status.is_live(),
            })
            .collect()
    }

    /// Deletes images without names (all unused ones with `dangling=false`). Filters: `dangling`, `label`, `label!`, `until`.
    pub async fn prune_images(&self, filters: Filters) -> Result<(Vec<ImageRemoval>, u64)> {
        filters.check(&["dangling", "label", "label!", "until"])?;
        let only_dangling = filters.boolean("dangling")?.unwrap_or(true);
        let until = filters.until()?;
        let engine = self.shared();
        let (removed, freed) = blocking(move || {
            let before = engine.store.usage().map_err(store_error)?;
            let mut removed = Vec::new();
            for image in engine.store.images().map_err(store_error)? {
                let labels = &image.config.config.labels;
                let fits = (!only_dangling || image.tags.is_empty())
                    && until.is_none_or(|until| created(&image).unwrap_or_default() < until)
                    && filters.labels("label", labels)
                    && (!filters.has("label!") || !filters.labels("label!", labels));
                let is_needed = || -> Result<bool> {
                    let has_children = !engine.store.children(&image.id).map_err(store_error)?.is_empty();
                    Ok(has_children || !engine.containers_of(&image.id).is_empty())
                };
                if !fits || is_needed()? {
                    continue;
                }
                let users = |id: &ImageId| engine.containers_of(id);
                match engine.store.remove_image(&image.id.to_string(), true, &users) {
                    Ok(items) => removed.extend(items),
                    // Used or removed meanwhile.
                    Err(palan_store::Error::Conflict(_) | palan_store::Error::NoSuchImage { .. }) => {}
                    Err(error) => return Err(store_error(error)),
                }
            }
            engine.store.remove_parts().map_err(store_error)?;
            let after = engine.store.usage().map_err(store_error)?;
            Ok((removed, before.content().saturating_sub(after.content())))
        })
        .await?;
        Ok((self.announce_removed(removed).await?, freed))
    }
}
