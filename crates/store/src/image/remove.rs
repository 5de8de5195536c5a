//! `rmi`: which names go, whether the image goes with them, and what stands in the way.

use palan_oci::{Digest, ImageConfig, Reference};

use super::parent::children_of;
use super::{Conflict, ImageId, ImageUser, Removed, stored_name};
use crate::database::ImageRow;
use crate::durability::Work;
use crate::store::State;
use crate::{Error, Result, Store, database};

impl Store {
    /// Removes a name or an image, as `docker rmi` does. `users` tells which containers use an image; it is called
    /// without any lock held.
    ///
    /// A name goes first; the image goes when it was the last one. An id takes all names with it if they are of one
    /// repository. A running container keeps its image even by force, a stopped one without it.
    ///
    /// An image that others were made from stays for them, nameless at most. It goes with the last of them, if it has no
    /// name and no container then.
    pub fn remove_image(
        &self,
        name: &str,
        force: bool,
        users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
    ) -> Result<Vec<Removed>> {
        self.remove(name, force, true, users)
    }

    /// As [`Store::remove_image`], but nameless images that it was made from stay.
    pub fn remove_image_only(
        &self,
        name: &str,
        force: bool,
        users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
    ) -> Result<Vec<Removed>> {
        self.remove(name, force, false, users)
    }

    fn remove(
        &self,
        name: &str,
        force: bool,
        prune: bool,
        users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
    ) -> Result<Vec<Removed>> {
        let image = self.resolve(name)?;
        let id = image.id;
        let users_of = users;
        let users = users(&id);
        let has_children = !self.children(&id)?.is_empty();
        let parent = self.parent(&id)?.filter(|_| prune);
        let names: Vec<Reference> = image.tags.iter().chain(&image.digests).cloned().collect();
        let plan = if is_id_prefix(&id, name) {
            plan_by_id(&id, names, force, has_children, &users)?
        } else {
            plan_by_name(&id, name, names, force, has_children, &users)?
        };
        let mut state = self.inner.lock();
        let stored: Vec<String> = plan.untag.iter().map(stored_name).collect();
        database::delete_names(&mut state.db, &stored)?;
        let mut removed: Vec<Removed> =
            plan.untag.into_iter().map(|name| Removed::Untagged(name, id)).collect();
        // Another name may have come meanwhile; then the image stays.
        let is_free = children_of(&state.db, &id)?.is_empty();
        if plan.delete && is_free && (force || database::names_of(&state.db, &id)?.is_empty()) {
            removed.extend(self.delete(&mut state, &id, &image.config)?);
            drop(state);
            self.remove_ancestors(parent, users_of, &mut removed)?;
            self.inner.background.schedule(&self.inner, Work::TRASH);
        }
        Ok(removed)
    }

    /// Removes the images that only stood there for what was made from them.
    fn remove_ancestors(
        &self,
        mut parent: Option<ImageId>,
        users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        while let Some(id) = parent {
            let Some(image) = self.image(&id)? else { break };
            parent = self.parent(&id)?;
            if !users(&id).is_empty() {
                break;
            }
            let mut state = self.inner.lock();
            let is_free =
                database::names_of(&state.db, &id)?.is_empty() && children_of(&state.db, &id)?.is_empty();
            if !is_free {
                break;
            }
            removed.extend(self.delete(&mut state, &id, &image.config)?);
        }
        Ok(())
    }

    fn delete(&self, state: &mut State, id: &ImageId, config: &ImageConfig) -> Result<Vec<Removed>> {
        let Some(row) = database::image(&state.db, id)? else { return Ok(Vec::new()) };
        let chains = state.own_chains(&row, config, self)?;
        let blobs = database::own_blobs(&state.db, id)?;
        database::delete_image(&mut state.db, id)?;
        if state.syncing.forget_image(id) {
            state.remove_unneeded_of_fresh(&self.inner, &row.layers, &blobs)?;
        } else {
            state.remove_unneeded(&self.inner, &row.layers, &blobs)?;
        }
        let mut removed = vec![Removed::Deleted(id.digest())];
        removed.extend(chains.into_iter().rev().map(Removed::Deleted));
        Ok(removed)
    }
}

impl State {
    /// The chain ids of an image's layers that no other image stands on, bottom first.
    fn own_chains(&self, row: &ImageRow, config: &ImageConfig, store: &Store) -> Result<Vec<Digest>> {
        let mut chains: Vec<Digest> = config.chain_ids().iter().map(palan_oci::ChainId::digest).collect();
        let Some(bottom) = row.layers.first() else { return Ok(chains) };
        for other in database::images(&self.db)? {
            if other.id == row.id || other.layers.first() != Some(bottom) {
                continue;
            }
            let shared = store
                .read_blob(&other.id.digest())
                .ok()
                .and_then(|content| ImageConfig::parse(&content).ok())
                .map_or_else(Vec::new, |config| config.chain_ids());
            chains.retain(|chain| !shared.iter().any(|other| other.digest() == *chain));
        }
        Ok(chains)
    }
}

/// What a removal will do.
#[derive(Debug)]
struct Plan {
    untag: Vec<Reference>,
    delete: bool,
}

fn plan_by_id(
    id: &ImageId,
    names: Vec<Reference>,
    force: bool,
    has_children: bool,
    users: &[ImageUser],
) -> Result<Plan> {
    if has_children {
        return Err(Conflict::Children { image: id.digest().short() }.into());
    }
    if names.len() > 1 && !is_one_name(&names) && !force {
        if let Some(conflict) = container_conflict(id, users, true) {
            return Err(conflict.into());
        }
        return Err(Conflict::SeveralNames { image: id.digest().short() }.into());
    }
    match container_conflict(id, users, force) {
        Some(conflict) => Err(conflict.into()),
        None => Ok(Plan { untag: names, delete: true }),
    }
}

fn plan_by_name(
    id: &ImageId,
    name: &str,
    names: Vec<Reference>,
    force: bool,
    has_children: bool,
    users: &[ImageUser],
) -> Result<Plan> {
    if let (false, true, Some(user)) = (force, is_one_name(&names), users.first()) {
        return Err(Conflict::NameInUse {
            name: name.to_owned(),
            container: short(&user.container),
            image: id.digest().short(),
        }
        .into());
    }
    let asked = Reference::parse(name)?.or_latest();
    let asked_name = stored_name(&asked);
    let (mut untag, mut rest): (Vec<Reference>, Vec<Reference>) =
        names.into_iter().partition(|own| stored_name(own) == asked_name);
    if untag.is_empty() {
        return Err(Error::NoSuchImage { name: asked.familiar() });
    }
    let repository_left = rest.iter().any(|own| own.digest().is_none() && own.name() == asked.name());
    if asked.digest().is_none() && !repository_left {
        // The last tag of a repository takes the repository's digests with it.
        let (same, others) = rest.into_iter().partition(|own| own.name() == asked.name());
        untag.extend::<Vec<_>>(same);
        rest = others;
    }
    // A container that still uses the image keeps it, nameless; only the name goes then. So do images made from it.
    let delete = rest.is_empty() && !has_children && container_conflict(id, users, force).is_none();
    Ok(Plan { untag, delete })
}

/// At most one tag, and all digests of the same repository: one name as far as a user can see.
fn is_one_name(names: &[Reference]) -> bool {
    let [first, rest @ ..] = names else { return true };
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    tags <= 1 && rest.iter().all(|name| name.name() == first.name())
}

fn container_conflict(id: &ImageId, users: &[ImageUser], force: bool) -> Option<Conflict> {
    let image = id.digest().short();
    if let Some(user) = users.iter().find(|user| user.running) {
        return Some(Conflict::Running { image, container: short(&user.container) });
    }
    let user = users.first().filter(|_| !force)?;
    Some(Conflict::Stopped { image, container: short(&user.container) })
}

fn is_id_prefix(id: &ImageId, name: &str) -> bool {
    let id = id.to_string();
    id.starts_with(name) || id.trim_start_matches("sha256:").starts_with(name)
}

fn short(container: &str) -> String {
    container.chars().take(12).collect()
}
