//! Volumes: directories below the data root that outlive containers. Made by name on first use or anonymously; only the
//! driver `local` exists.
//!
//! # On disk
//!
//! ```text
//! <data root>/volumes/<name>/_data          the content; with options (`type`, `device`, `o`) a file system is mounted here in use
//!                     <name>/.palan-copy…   what an image has there, on its way into the volume (see `fill`)
//!                     .<id>                 being made or deleted: no name of a volume begins with a dot
//! ```
//!
//! **Invariant:** a directory without a row is not a volume, and the next start of the daemon deletes it. So what is made gets its
//! directory first and its row then, and what is removed loses its row first. What takes long, a clone or an import, is done in a
//! directory with a dot, which gets its name in one step when it is whole.
//!
//! **Invariant:** a name means one thing at a time: whoever changes that holds a claim on it (see `table`), so a volume is never
//! removed from under a container in the making, nor made anew while the old one is still on its way to the trash.
//!
//! A rename is two steps, row and directory, of which the row comes first and says where the directory still is
//! ([`Volume::renamed_from`]); a start of the daemon finishes it.
//!
//! Who uses a volume is not stored but follows from the containers' rows, so it can't be wrong after a crash. What is mounted is
//! known to the kernel alone (see `attached`).

mod attached;
mod copies;
mod fill;
mod options;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use self::attached::{check_nothing_mounted, remove_orphan};
pub use self::copies::CopySpec;
pub(crate) use self::fill::Fill;
use self::options::LocalMount;
pub(crate) use self::table::{Claim, Volumes};
use crate::container::{Details, mounts};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::events::{Event, ObjectKind};
use crate::spec::Filters;
use crate::{Error, Result, identifier};

/// Label of volumes made without a name, as Docker sets it.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// One volume as the database stores it and `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Directory on the host.
    pub mountpoint: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// The name under which its directory still is, while it is being renamed; empty otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub renamed_from: String,
}

/// A request for a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name; generated when empty.
    pub name: String,
    /// Driver; empty or `local`.
    pub driver: String,
    /// Options of the driver: `type`, `device`, `o`.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names or ids of what is gone.
    pub deleted: Vec<String>,
    /// Bytes given back.
    pub space_reclaimed: u64,
}

/// An event about a volume.
pub(crate) fn event(name: &str, action: &str) -> Event {
    Event {
        time: Timestamp::now(),
        kind: ObjectKind::Volume,
        action: action.into(),
        actor: name.into(),
        attributes: [("driver".to_owned(), "local".to_owned())].into(),
    }
}

/// A volume found or made.
#[derive(Debug)]
pub(crate) struct Ensured {
    pub(crate) volume: Volume,
    /// It was made now.
    pub(crate) is_new: bool,
    /// The database does not have it yet: the caller records it with what is to use it.
    pub(crate) is_unrecorded: bool,
}

/// Volumes.
impl Engine {
    /// Makes a volume, or finds the one of that name.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Volume> {
        let spec = checked(spec)?;
        let engine = self.shared();
        let owner = identifier::new_id();
        let pinned_by = owner.clone();
        let outcome = blocking(move || engine.ensure_volume(spec, &pinned_by)).await;
        let outcome = match outcome {
            Ok(ensured) if ensured.is_unrecorded => self.record_volume(ensured).await,
            other => other.map(|ensured| ensured.volume),
        };
        self.volumes.unpin(&owner);
        outcome
    }

    async fn record_volume(&self, ensured: Ensured) -> Result<Volume> {
        let Ensured { volume, is_new, .. } = ensured;
        let mut change = Change::new().put_volume(volume.clone());
        if is_new {
            change = change.event(event(&volume.name, "create"));
        }
        match self.db.commit(change).await {
            Ok(()) => {
                self.volumes.recorded([volume.name.as_str()].into_iter());
                Ok(volume)
            }
            Err(error) => {
                // Its directory has no row: the next start of the daemon deletes it, unless somebody makes it a volume before.
                self.volumes.forget(&[volume.name]);
                Err(error)
            }
        }
    }

    /// The volume of that name, made if it is missing, and kept for `owner` until it is unpinned. Blocking.
    pub(crate) fn ensure_volume(&self, spec: VolumeSpec, owner: &str) -> Result<Ensured> {
        let _claim = self.volumes.claim(&[&spec.name]);
        if self.volumes.pin(&spec.name, owner) {
            let table = self.volumes.lock();
            if let Some(volume) = table.by_name.get(&spec.name) {
                let is_unrecorded = table.unrecorded.contains(&spec.name);
                return Ok(Ensured { volume: volume.clone(), is_new: false, is_unrecorded });
            }
        }
        self.clear_place(&spec.name)?;
        palan_stdx::fs::create_dir_all(&self.volume_dir(&spec.name).join("_data"), 0o755)
            .context(|| format!("cannot make the volume {}", spec.name))?;
        let volume = self.new_volume(spec.name, spec.labels, spec.options);
        let mut table = self.volumes.lock();
        table.by_name.insert(volume.name.clone(), volume.clone());
        table.unrecorded.insert(volume.name.clone());
        table.pins.push((volume.name.clone(), owner.to_owned()));
        Ok(Ensured { volume, is_new: true, is_unrecorded: true })
    }

    /// Takes a volume away that was made for the container `owner`, which failed; unless others use it by now, who will record it.
    /// Blocking.
    pub(crate) fn unmake_volume(&self, volume: &Volume, owner: &str) -> Result<()> {
        let _claim = self.volumes.claim(&[&volume.name]);
        {
            let mut table = self.volumes.lock();
            let is_wanted =
                table.pins.iter().any(|(name, pinned_by)| *name == volume.name && pinned_by != owner);
            if is_wanted || !table.unrecorded.contains(&volume.name) {
                return Ok(());
            }
            table.by_name.remove(&volume.name);
            table.unrecorded.remove(&volume.name);
        }
        attached::take_off(Path::new(&volume.mountpoint))?;
        self.clear_place(&volume.name)
    }

    /// Removes what a failed attempt has left where a volume shall be: a directory that no row speaks of. The caller has a claim on
    /// the name. Blocking.
    fn clear_place(&self, name: &str) -> Result<()> {
        if let Some(other) = self.volumes.all().into_iter().find(|volume| volume.renamed_from == name) {
            return Err(Error::conflict(format!(
                "the volume {} is still being renamed from {name}; restart the daemon to end it",
                other.name
            )));
        }
        let directory = self.volume_dir(name);
        check_nothing_mounted(&directory)?;
        palan_linux::path::remove_tree(&directory)
            .context(|| format!("cannot make room for the volume {name}"))?;
        Ok(())
    }

    fn new_volume(
        &self,
        name: String,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Volume {
        let mountpoint = self.volume_dir(&name).join("_data").to_string_lossy().into_owned();
        Volume { name, created: Timestamp::now(), mountpoint, labels, options, renamed_from: String::new() }
    }

    /// All volumes. Filters: `dangling`, `driver`, `label`, `name`.
    pub async fn list_volumes(&self, filters: Filters) -> Result<Vec<Volume>> {
        filters.check(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.boolean("dangling")?;
        let fits = |volume: &Volume| {
            let by_name =
                !filters.has("name") || filters.values("name").any(|part| volume.name.contains(part));
            by_name
                && filters.exact("driver", "local")
                && filters.labels("label", &volume.labels)
                && dangling.is_none_or(|dangling| dangling == self.volume_users(&volume.name).is_empty())
        };
        Ok(self.volumes.all().into_iter().filter(fits).collect())
    }

    /// One volume.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        self.volumes.get(name).ok_or_else(|| no_such_volume(name))
    }

    /// Removes a volume; with `force` it may be missing.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || engine.remove_volume_now(&name, force)).await
    }

    fn remove_volume_now(&self, name: &str, force: bool) -> Result<()> {
        let claim = self.volumes.claim(&[name]);
        let Some(volume) = self.volumes.get(name) else {
            return if force { Ok(()) } else { Err(no_such_volume(name)) };
        };
        self.check_unused(name, "remove")?;
        let directory = self.volume_dir(name);
        attached::take_off(Path::new(&volume.mountpoint))?;
        check_nothing_mounted(&directory)?;
        self.commit_now(Change::new().delete_volume(name).event(event(name, "destroy")))?;
        self.volumes.forget(&[name.to_owned()]);
        let (trash, what) = (self.volume_trash(), || "the volume's files could not be removed".into());
        palan_stdx::fs::rename(&directory, &trash).context(what)?;
        // The name is free from here on.
        drop(claim);
        palan_linux::path::remove_tree(&trash).context(what)
    }

    /// Commits from blocking code. Who holds a claim must not wait for another blocking thread: all of them may be waiting for that
    /// claim.
    pub(crate) fn commit_now(&self, change: Change) -> Result<()> {
        let runtime = tokio::runtime::Handle::try_current().context(|| "cannot reach the database".into())?;
        runtime.block_on(self.db.commit(change))
    }

    /// Docker's refusal of a volume that somebody uses; the caller has a claim on it.
    fn check_unused(&self, name: &str, verb: &str) -> Result<()> {
        // First the containers in the making: one that is made meanwhile is in the index before its pin is gone.
        let mut users: Vec<String> = {
            let table = self.volumes.lock();
            let pins = table.pins.iter().filter(|(pinned, _)| pinned == name);
            pins.map(|(_, owner)| owner.clone()).collect()
        };
        users.extend(self.volume_users(name));
        if users.is_empty() {
            return Ok(());
        }
        users.sort_unstable();
        users.dedup();
        Err(Error::conflict(format!("{verb} {name}: volume is in use - [{}]", users.join(", "))))
    }

    /// Removes unused anonymous volumes (all unused ones with `all=true`). Filters: `all`, `label`, `label!`.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<Pruned> {
        filters.check(&["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(false);
        let mut pruned = Pruned::default();
        for volume in self.volumes.all() {
            let fits = (all || volume.labels.contains_key(ANONYMOUS_LABEL))
                && filters.labels("label", &volume.labels)
                && (!filters.has("label!") || !filters.labels("label!", &volume.labels));
            if !fits || !self.volume_users(&volume.name).is_empty() {
                continue;
            }
            let data = PathBuf::from(&volume.mountpoint);
            let size = blocking(move || Ok(crate::container::list::size_of_tree(&data))).await?;
            match self.remove_volume(&volume.name, false).await {
                Ok(()) => {
                    pruned.deleted.push(volume.name);
                    pruned.space_reclaimed += size;
                }
                // Somebody uses it now, or was faster.
                Err(error) if error.class() != crate::Class::System => {}
                Err(error) => return Err(error),
            }
        }
        let mut told = event("", "prune");
        told.attributes = [("reclaimed".to_owned(), pruned.space_reclaimed.to_string())].into();
        self.db.commit(Change::new().event(told)).await?;
        Ok(pruned)
    }

    /// Ids of the containers that mount a volume.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let handles = self.index.all();
        let uses = |details: &Details| details.volume_names().any(|mounted| mounted == name);
        handles.iter().filter(|handle| uses(&handle.details())).map(|handle| handle.id.clone()).collect()
    }

    /// Deletes the rows of a container and of the volumes that go with it: those that were made for it without a name and are used by
    /// nobody else. Their directories are in the trash afterwards, at the places returned. Blocking.
    pub(crate) fn remove_with_volumes(&self, details: &Details, change: Change) -> Result<Vec<PathBuf>> {
        let claimed = self.claim_anonymous_volumes(details);
        let remove = |change: Change, (name, _): &(String, Claim)| {
            change.delete_volume(name).event(event(name, "destroy"))
        };
        self.commit_now(claimed.iter().fold(change, remove))?;
        let mut trash = Vec::with_capacity(claimed.len());
        for (name, claim) in claimed {
            let target = self.volume_trash();
            self.volumes.forget(std::slice::from_ref(&name));
            match palan_stdx::fs::rename(&self.volume_dir(&name), &target) {
                Ok(()) => trash.push(target),
                Err(error) => tracing::warn!(
                    error = palan_stdx::error_chain::to_string(&error),
                    "files of a volume were left behind"
                ),
            }
            drop(claim);
        }
        Ok(trash)
    }

    fn claim_anonymous_volumes(&self, details: &Details) -> Vec<(String, Claim)> {
        let own = details.mounts.iter().filter(|mount| mount.anonymous && mount.kind == "volume");
        let claimed = own.map(|mount| (mount.name.clone(), self.volumes.claim(&[&mount.name])));
        let is_free = |name: &str| {
            let is_pinned = self.volumes.lock().pins.iter().any(|(pinned, _)| pinned == name);
            !is_pinned && self.volume_users(name).iter().all(|user| *user == details.id)
        };
        let is_ours = |name: &str| {
            let volume = self.volumes.get(name);
            volume.is_some_and(|volume| attached::take_off(Path::new(&volume.mountpoint)).is_ok())
                && check_nothing_mounted(&self.volume_dir(name)).is_ok()
        };
        claimed.filter(|(name, _)| is_free(name) && is_ours(name)).collect()
    }

    /// A directory beside the volumes for one on its way: what is left in it is deleted by the next start of the daemon.
    pub(crate) fn volume_trash(&self) -> PathBuf {
        self.config.data_root.join("volumes").join(format!(".{}", identifier::new_id()))
    }
}

fn no_such_volume(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

/// Refuses drivers that don't exist.
pub(crate) fn check_driver(driver: &str) -> Result<()> {
    if matches!(driver, "" | "local") {
        return Ok(());
    }
    Err(Error::not_found(format!("error looking up volume plugin {driver}: plugin \"{driver}\" not found")))
}

/// The request with a name and checked options.
pub(crate) fn checked(mut spec: VolumeSpec) -> Result<VolumeSpec> {
    check_driver(&spec.driver)?;
    if spec.name.is_empty() {
        spec.name = identifier::new_id();
        spec.labels.entry(ANONYMOUS_LABEL.into()).or_default();
    } else {
        mounts::check_volume_name(&spec.name)?;
    }
    LocalMount::parse(&spec.options).map_err(|error| {
        let text = format!("create {}", spec.name);
        Error::new(error.class(), text).with_source(error)
    })?;
    Ok(spec)
}
