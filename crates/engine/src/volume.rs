//! Volumes: directories below the data root that outlive containers. Made by name on first use or anonymously; only the
//! driver `local` exists.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::{Details, mounts, validate};
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
}

/// A request for a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name; generated when empty.
    pub name: String,
    /// Driver; empty or `local`.
    pub driver: String,
    /// Options of the driver (none are supported).
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

#[derive(Debug, Default)]
struct Table {
    by_name: BTreeMap<String, Volume>,
    /// Volumes that containers in the making use, by name and container id.
    pins: Vec<(String, String)>,
}

/// All volumes in memory; the database has the same.
#[derive(Debug)]
pub(crate) struct Volumes {
    table: Mutex<Table>,
}

impl Volumes {
    /// Those that the database has.
    pub(crate) fn new(volumes: Vec<Volume>) -> Self {
        let by_name = volumes.into_iter().map(|volume| (volume.name.clone(), volume)).collect();
        Self { table: Mutex::new(Table { by_name, pins: Vec::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container is made, or not: its mounts speak for themselves now.
    pub(crate) fn unpin(&self, container_id: &str) {
        self.lock().pins.retain(|(_, owner)| owner != container_id);
    }

    /// Names of all.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().by_name.keys().cloned().collect()
    }
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

/// Volumes.
impl Engine {
    /// Makes a volume, or finds the one of that name.
    pub async fn create_volume(&self, mut spec: VolumeSpec) -> Result<Volume> {
        if !matches!(spec.driver.as_str(), "" | "local") {
            let driver = spec.driver;
            return Err(Error::not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        if let Some(option) = spec.options.keys().next() {
            return Err(validate::unsupported(format!("the option {option:?} of the volume driver local")));
        }
        if spec.name.is_empty() {
            spec.name = identifier::new_id();
            spec.labels.entry(ANONYMOUS_LABEL.into()).or_default();
        } else {
            mounts::check_volume_name(&spec.name)?;
        }
        let engine = self.shared();
        let (volume, is_new) = blocking(move || engine.ensure_volume(spec, None)).await?;
        if is_new {
            let change = Change::new().put_volume(volume.clone()).event(event(&volume.name, "create"));
            if let Err(error) = self.db.commit(change).await {
                self.forget_volumes(&[volume.name]);
                return Err(error);
            }
        }
        Ok(volume)
    }

    /// The volume of that name, made if it is missing; true when it was made. Blocking. The caller records a new one; `user`
    /// is a container in the making, for which the volume is kept.
    pub(crate) fn ensure_volume(&self, spec: VolumeSpec, user: Option<&str>) -> Result<(Volume, bool)> {
        let mut table = self.volumes.lock();
        if let Some(id) = user {
            table.pins.push((spec.name.clone(), id.to_owned()));
        }
        if let Some(volume) = table.by_name.get(&spec.name) {
            return Ok((volume.clone(), false));
        }
        let data = self.volume_dir(&spec.name).join("_data");
        palan_stdx::fs::create_dir_all(&data, 0o755)
            .context(|| format!("cannot make the volume {}", spec.name))?;
        let volume = Volume {
            name: spec.name,
            created: Timestamp::now(),
            mountpoint: data.to_string_lossy().into_owned(),
            labels: spec.labels,
            options: spec.options,
        };
        table.by_name.insert(volume.name.clone(), volume.clone());
        Ok((volume, true))
    }

    /// All volumes. Filters: `dangling`, `driver`, `label`, `name`.
    pub async fn list_volumes(&self, filters: Filters) -> Result<Vec<Volume>> {
        filters.check(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.boolean("dangling")?;
        let volumes: Vec<Volume> = self.volumes.lock().by_name.values().cloned().collect();
        let fits = |volume: &Volume| {
            let by_name =
                !filters.has("name") || filters.values("name").any(|part| volume.name.contains(part));
            by_name
                && filters.exact("driver", "local")
                && filters.labels("label", &volume.labels)
                && dangling.is_none_or(|dangling| dangling == self.volume_users(&volume.name).is_empty())
        };
        Ok(volumes.into_iter().filter(fits).collect())
    }

    /// One volume.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        let found = self.volumes.lock().by_name.get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// Removes a volume; with `force` it may be missing.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        if !self.volumes.lock().by_name.contains_key(name) {
            return if force { Ok(()) } else { Err(Error::not_found(format!("get {name}: no such volume"))) };
        }
        let users = self.volume_users(name);
        let is_pinned = self.volumes.lock().pins.iter().any(|(pinned, _)| pinned == name);
        if !users.is_empty() || is_pinned {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        self.db.commit(Change::new().delete_volume(name).event(event(name, "destroy"))).await?;
        self.forget_volumes(&[name.to_owned()]);
        let (directory, trash) = (self.volume_dir(name), self.trash_name());
        blocking(move || {
            let what = || "the volume's files could not be removed".into();
            palan_stdx::fs::rename(&directory, &trash).context(what)?;
            palan_stdx::fs::remove_dir_all(&trash).context(what)
        })
        .await
    }

    /// Removes unused anonymous volumes (all unused ones with `all=true`). Filters: `all`, `label`, `label!`.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<Pruned> {
        filters.check(&["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(false);
        let volumes: Vec<Volume> = self.volumes.lock().by_name.values().cloned().collect();
        let mut pruned = Pruned::default();
        for volume in volumes {
            let fits = (all || volume.labels.contains_key(ANONYMOUS_LABEL))
                && filters.labels("label", &volume.labels)
                && (!filters.has("label!") || !filters.labels("label!", &volume.labels));
            if !fits || !self.volume_users(&volume.name).is_empty() {
                continue;
            }
            let data = std::path::PathBuf::from(&volume.mountpoint);
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
        Ok(pruned)
    }

    /// Ids of the containers that mount a volume.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let handles = self.index.all();
        let uses = |details: &Details| details.mounts.iter().any(|mount| mount.name == name);
        handles.iter().filter(|handle| uses(&handle.details())).map(|handle| handle.id.clone()).collect()
    }

    /// The volumes that go with a container: made for it without a name, and mounted by no other.
    pub(crate) fn anonymous_volumes_of(&self, details: &Details) -> Vec<String> {
        let own = details.mounts.iter().filter(|mount| mount.anonymous && mount.kind == "volume");
        own.map(|mount| mount.name.clone())
            .filter(|name| self.volume_users(name).iter().all(|user| *user == details.id))
            .collect()
    }

    /// Takes volumes out of the memory, after the database.
    pub(crate) fn forget_volumes(&self, names: &[String]) {
        let mut table = self.volumes.lock();
        for name in names {
            table.by_name.remove(name);
        }
    }
}
