//! Images as an archive.

use bytes::Bytes;
use palan_oci::Reference;
use palan_store::Image;
use palan_store::archive::SaveItem;

use super::{check_platforms, event, store_error};
use crate::container::files::archive;
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::stream::Items;
use crate::{Error, Result};

/// Archives of images.
impl Engine {
    /// Writes images to an archive: an OCI layout that is in Docker's format, too. A name without a tag means every tag of
    /// its repository; what is named by its id or digest is saved without a name. Where `platforms` are given,
    /// each image must be for one of them.
    pub async fn save_images(&self, names: Vec<String>, platforms: Vec<String>) -> Result<Items<Bytes>> {
        if names.is_empty() {
            return Err(Error::invalid("no image is named to be saved"));
        }
        let engine = self.shared();
        let (saving, events) = blocking(move || {
            let mut items: Vec<SaveItem> = Vec::new();
            for name in &names {
                for (image, tag) in engine.meant_by(name)? {
                    check_platforms(&image, name, &platforms)?;
                    let position = items.iter().position(|item| item.image == image.id);
                    let position = position.unwrap_or_else(|| {
                        items.push(SaveItem { image: image.id, names: Vec::new() });
                        items.len() - 1
                    });
                    let names = &mut items[position].names;
                    names.extend(tag.filter(|tag| !names.contains(tag)));
                }
            }
            let saving = engine.store.begin_save(&items).map_err(store_error)?;
            let events = items.iter().fold(Change::new(), |change, item| {
                let id = item.image.to_string();
                change.event(event("save", &id, &id))
            });
            Ok((saving, events))
        })
        .await?;
        archive(self, move |sink| {
            saving.write(sink).map_err(store_error)?;
            Ok(events)
        })
        .await
    }

    /// The images that a name means, each with the tag to save it by.
    fn meant_by(&self, name: &str) -> Result<Vec<(Image, Option<Reference>)>> {
        let reference = Reference::parse(name).ok();
        if let Some(repository) = reference.filter(|name| name.tag().is_none() && name.digest().is_none()) {
            let mut found = Vec::new();
            for image in self.store.images().map_err(store_error)? {
                let own = image.tags.iter().filter(|tag| tag.name() == repository.name());
                found.extend(own.map(|tag| (image.clone(), Some(tag.clone()))));
            }
            if !found.is_empty() {
                found.sort_by(|one, other| one.1.cmp(&other.1));
                return Ok(found);
            }
        }
        let image = self.store.resolve(name).map_err(store_error)?;
        let tag = Reference::parse(name).ok().filter(|name| name.tag().is_some() && name.digest().is_none());
        let tag = tag.filter(|tag| image.tags.contains(tag));
        Ok(vec![(image, tag)])
    }
}
