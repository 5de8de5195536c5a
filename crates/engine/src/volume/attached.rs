//! Volumes with options: their file systems are mounted on the host, on the volume's directory, while somebody uses them, so that
//! all containers see one file system (and the administrator, too), as in Docker.
//!
//! ```text
//!  taken off ──first user──▶ mounted ──last user ends──▶ taken off
//! ```
//!
//! **Invariant:** what is mounted is known to the kernel alone; who uses it follows from the containers that run. So there is
//! nothing to lose with the daemon: one that starts takes off what nobody uses, and leaves the rest.
//!
//! **Invariant:** nothing is ever deleted below a volume's directory while something is mounted there: it would be what the device
//! holds, or a directory of the host.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use palan_linux::mount;

use super::Volume;
use super::options::LocalMount;
use crate::engine::Engine;
use crate::error::Context;
use crate::{Error, Result};

impl Engine {
    /// Mounts for `owner` the volumes among `names` that have something to mount. When one can't be, none is. Blocking.
    pub(crate) fn attach_volumes<'a>(&self, owner: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let names: BTreeSet<&str> = names.collect();
        let attached = names.into_iter().try_for_each(|name| self.attach_volume(owner, name));
        if attached.is_err() {
            self.detach_volumes(owner);
        }
        attached
    }

    fn attach_volume(&self, owner: &str, name: &str) -> Result<()> {
        if self.volumes.get(name).is_some_and(|volume| volume.options.is_empty()) {
            // What most are; nobody has to wait for anybody.
            return Ok(());
        }
        let _claim = self.volumes.claim(&[name]);
        let Some(volume) = self.volumes.get(name) else {
            return Err(Error::not_found(format!("get {name}: no such volume")));
        };
        let Some(local) = LocalMount::parse(&volume.options)? else { return Ok(()) };
        let place = Path::new(&volume.mountpoint);
        if !is_mounted(place)? {
            let failed = |source: Error| {
                let text = format!("error while mounting volume '{}'", volume.mountpoint);
                Error::new(source.class(), text).with_source(source)
            };
            let local = with_server_address(local).map_err(failed)?;
            local.mount(place).map_err(failed)?;
        }
        self.volumes.lock().mounted_for.entry(name.to_owned()).or_default().insert(owner.to_owned());
        Ok(())
    }

    /// Takes off what is mounted for nobody but `owner`. A failure is reported, and the next start of the daemon tries again.
    /// Blocking.
    pub(crate) fn detach_volumes(&self, owner: &str) {
        let names: Vec<String> = {
            let table = self.volumes.lock();
            let used = table.mounted_for.iter().filter(|(_, owners)| owners.contains(owner));
            used.map(|(name, _)| name.clone()).collect()
        };
        for name in names {
            let _claim = self.volumes.claim(&[&name]);
            let is_last = {
                let mut table = self.volumes.lock();
                let Some(owners) = table.mounted_for.get_mut(&name) else { continue };
                owners.remove(owner);
                let is_last = owners.is_empty();
                if is_last {
                    table.mounted_for.remove(&name);
                }
                is_last
            };
            if let Some(volume) = self.volumes.get(&name).filter(|_| is_last) {
                take_off_or_tell(&volume);
            }
        }
    }

    /// After a restart: `live` are the containers that run, with the names of their volumes. What is mounted for nobody is taken
    /// off. Blocking.
    pub(crate) fn restore_attached(&self, live: &[(String, Vec<String>)]) {
        let with_options = self.volumes.all().into_iter().filter(|volume| !volume.options.is_empty());
        for volume in with_options {
            let users = live.iter().filter(|(_, names)| names.contains(&volume.name));
            let owners: BTreeSet<String> = users.map(|(id, _)| id.clone()).collect();
            if owners.is_empty() {
                take_off_or_tell(&volume);
            } else {
                self.volumes.lock().mounted_for.insert(volume.name, owners);
            }
        }
    }
}

/// A name of a server is looked up anew at each mount.
fn with_server_address(local: LocalMount) -> Result<LocalMount> {
    let Some(name) = local.host_name() else { return Ok(local) };
    let runtime = tokio::runtime::Handle::try_current().context(|| "cannot look up a name".into())?;
    let found = runtime.block_on(palan_registry::lookup_host(name));
    let found = found.context(|| "error resolving passed in network volume address".into())?;
    match found.first() {
        Some(address) => Ok(local.with_address(*address)),
        None => Err(Error::system(format!(
            "error resolving passed in network volume address: lookup {name}: no such host"
        ))),
    }
}

/// Whether something is mounted on a volume's directory.
fn is_mounted(place: &Path) -> Result<bool> {
    let what = || format!("cannot look at the volume's directory {}", place.display());
    let above = place.parent().unwrap_or(Path::new("/"));
    let id = |path: &Path| -> Result<u64> {
        let directory = palan_stdx::fs::open(path).context(what)?;
        mount::id_of(&directory).context(what)
    };
    Ok(id(place)? != id(above)?)
}

fn take_off_or_tell(volume: &Volume) {
    if let Err(error) = take_off(Path::new(&volume.mountpoint)) {
        tracing::warn!(volume = volume.name, error = error.report(), "a volume's file system stays mounted");
    }
}

/// Takes off what is mounted on a volume's directory, if anything is. Containers that still show it keep it alive.
pub(super) fn take_off(place: &Path) -> Result<()> {
    /// More mounts on top of each other than anyone has made.
    const LAYERS: usize = 16;
    let path = CString::new(place.as_os_str().as_bytes()).context(|| "a path contains a NUL byte".into())?;
    for _ in 0..LAYERS {
        if !place.exists() || !is_mounted(place)? {
            return Ok(());
        }
        mount::detach(&path).context(|| format!("cannot unmount {}", place.display()))?;
    }
    Err(Error::system(format!("{} stays mounted", place.display())))
}

/// Deletes the directory of a volume without a row, from which our own mount is taken off first.
pub(crate) fn remove_orphan(directory: &Path) -> Result<()> {
    take_off(&directory.join("_data"))?;
    check_nothing_mounted(directory)?;
    palan_stdx::fs::remove_dir_all(directory).context(|| "cannot delete the directory of no volume".into())
}

/// An error if something is mounted in a volume's directory, which may then not be deleted: what is mounted there is not ours.
pub(crate) fn check_nothing_mounted(directory: &Path) -> Result<()> {
    let what = || format!("cannot look at the volume's directory {}", directory.display());
    let Some(open) = palan_stdx::fs::if_exists(palan_stdx::fs::open(directory)).context(what)? else {
        return Ok(());
    };
    let mounted = mount::mounted_at_or_below(&open).context(what)?;
    match mounted.first() {
        Some(place) => Err(Error::conflict(format!(
            "something is mounted on {}: unmount it first, it would be deleted with the volume",
            place.display()
        ))),
        None => Ok(()),
    }
}
