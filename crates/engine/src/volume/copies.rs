//! What Docker has no commands for: a volume cloned, written to an archive, made of one, and renamed.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use palan_linux::copy::copy_tree;
use palan_linux::path::RootDir;
use palan_store::tree;

use super::{ANONYMOUS_LABEL, Volume, check_nothing_mounted, event, fill, no_such_volume};
use crate::container::mounts;
use crate::db::Change;
use crate::engine::{Engine, blocking, waiting_for_client};
use crate::error::Context;
use crate::stream::{BodyReader, Items};
use crate::{Class, Error, Result, identifier};

/// A request for a volume with content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopySpec {
    /// Its name; generated when empty.
    pub name: String,
    /// Labels, beside those of the volume that it is a clone of.
    pub labels: BTreeMap<String, String>,
}

/// Copies.
impl Engine {
    /// Makes a volume with the content of another: a plain directory, whatever the other's options are. What containers write
    /// meanwhile may be in it or not.
    pub async fn clone_volume(&self, source: &str, spec: CopySpec) -> Result<Volume> {
        let spec = self.named(spec)?;
        let Some(original) = self.volumes.get(source) else { return Err(no_such_volume(source)) };
        let mut labels = original.labels;
        labels.remove(ANONYMOUS_LABEL);
        labels.extend(spec.labels);
        let (engine, source) = (self.shared(), source.to_owned());
        // It takes its time, for which nobody else shall lack a thread.
        waiting_for_client(move || {
            let made = engine.make_copy(|target| {
                engine.reading(&source, |content| {
                    let copied = copy_tree(content, Path::new("."), target, Path::new("."));
                    copied.context(|| format!("cannot copy the volume {source}")).map(drop)
                })
            })?;
            engine.place_copy(made, spec.name, labels)
        })
        .await
    }

    /// Makes a volume of a tar archive, which may be compressed.
    pub async fn import_volume(&self, spec: CopySpec, mut archive: BodyReader) -> Result<Volume> {
        let spec = self.named(spec)?;
        let engine = self.shared();
        waiting_for_client(move || {
            let made = engine.make_copy(|target| {
                let unpacked = tree::unpack(&mut archive, target, &palan_store::Limits::default());
                unpacked.map_err(|error| {
                    let class = if error.is_bad_archive() { Class::InvalidParameter } else { Class::System };
                    Error::new(class, "cannot import the volume").with_source(error)
                })
            })?;
            engine.place_copy(made, spec.name, spec.labels)
        })
        .await
    }

    /// A volume's content as a tar.
    pub async fn export_volume(&self, name: &str) -> Result<Items<Bytes>> {
        let (engine, name) = (self.shared(), name.to_owned());
        if self.volumes.get(&name).is_none() {
            return Err(no_such_volume(&name));
        }
        crate::container::files::archive(self, move |sink| {
            engine.reading(&name, |content| {
                tree::pack(content, None, sink).context(|| format!("cannot export the volume {name}"))
            })?;
            Ok(Change::new())
        })
        .await
    }

    /// Gives a volume that nobody uses another name.
    pub async fn rename_volume(&self, name: &str, new_name: &str) -> Result<()> {
        mounts::check_volume_name(new_name)?;
        let (engine, name, new_name) = (self.shared(), name.to_owned(), new_name.to_owned());
        blocking(move || engine.rename_volume_now(&name, &new_name)).await
    }

    fn rename_volume_now(&self, name: &str, new_name: &str) -> Result<()> {
        let _claim = self.volumes.claim(&[name, new_name]);
        let Some(volume) = self.volumes.get(name) else { return Err(no_such_volume(name)) };
        if self.volumes.get(new_name).is_some() {
            return Err(in_the_way(new_name));
        }
        self.check_unused(name, "rename")?;
        let (from, to) = (self.volume_dir(name), self.volume_dir(new_name));
        super::attached::take_off(Path::new(&volume.mountpoint))?;
        check_nothing_mounted(&from)?;
        self.clear_place(new_name)?;
        let renamed = Volume {
            name: new_name.to_owned(),
            mountpoint: to.join("_data").to_string_lossy().into_owned(),
            renamed_from: name.to_owned(),
            ..volume
        };
        let mut renaming = event(new_name, "rename");
        renaming.attributes.insert("oldName".to_owned(), name.to_owned());
        let change = Change::new().delete_volume(name).put_volume(renamed.clone()).event(renaming);
        self.commit_now(change)?;
        self.volumes.forget(&[name.to_owned()]);
        self.volumes.insert(renamed.clone());
        palan_stdx::fs::rename(&from, &to).context(|| "cannot rename the volume".into())?;
        let done = Volume { renamed_from: String::new(), ..renamed };
        self.volumes.insert(done.clone());
        self.commit_now(Change::new().put_volume(done))
    }

    fn named(&self, mut spec: CopySpec) -> Result<CopySpec> {
        if spec.name.is_empty() {
            spec.name = identifier::new_id();
            spec.labels.entry(ANONYMOUS_LABEL.into()).or_default();
        } else {
            mounts::check_volume_name(&spec.name)?;
        }
        // Asked again when the content is there; this saves the copying.
        if self.volumes.get(&spec.name).is_some() { Err(in_the_way(&spec.name)) } else { Ok(spec) }
    }

    /// Fills a directory with a dot. Blocking.
    fn make_copy(&self, fill: impl FnOnce(&RootDir) -> Result<()>) -> Result<Unplaced> {
        let made = Unplaced { directory: Some(self.volume_trash()) };
        let what = || "cannot make the volume".to_owned();
        let data = made.path().join("_data");
        palan_stdx::fs::create_dir_all(&data, 0o755).context(what)?;
        fill(&RootDir::open(&data).context(what)?)?;
        Ok(made)
    }

    /// Lets `read` look at a volume's content, which stays and is mounted meanwhile. Blocking.
    fn reading<T>(&self, name: &str, read: impl FnOnce(&RootDir) -> Result<T>) -> Result<T> {
        let owner = identifier::new_id();
        if !self.volumes.pin(name, &owner) {
            return Err(no_such_volume(name));
        }
        let result = self.attach_volumes(&owner, [name].into_iter()).and_then(|()| {
            let Some(volume) = self.volumes.get(name) else { return Err(no_such_volume(name)) };
            let content = RootDir::open(&volume.mountpoint);
            read(&content.context(|| format!("cannot open the volume {name}"))?)
        });
        self.detach_volumes(&owner);
        self.volumes.unpin(&owner);
        result
    }

    /// Gives what was filled its name. Blocking.
    fn place_copy(&self, made: Unplaced, name: String, labels: BTreeMap<String, String>) -> Result<Volume> {
        let _claim = self.volumes.claim(&[&name]);
        if self.volumes.get(&name).is_some() {
            return Err(in_the_way(&name));
        }
        let volume = self.new_volume(name, labels, BTreeMap::new());
        self.clear_place(&volume.name)?;
        made.place(&self.volume_dir(&volume.name))?;
        // Without its row the directory is deleted by the next start of the daemon, or by whoever wants its name.
        self.commit_now(Change::new().put_volume(volume.clone()).event(event(&volume.name, "create")))?;
        self.volumes.insert(volume.clone());
        Ok(volume)
    }

    /// After a restart: ends renames and fillings that an earlier daemon has begun. Blocking; before anything without a row is
    /// deleted. Rows that changed.
    pub(crate) fn settle_volumes(&self) -> Result<Vec<Volume>> {
        let mut settled = Vec::new();
        for mut volume in self.volumes.all() {
            if !volume.renamed_from.is_empty() {
                let (from, to) = (self.volume_dir(&volume.renamed_from), self.volume_dir(&volume.name));
                if !to.exists() && from.exists() {
                    palan_stdx::fs::rename(&from, &to).context(|| "cannot end a volume's renaming".into())?;
                }
                volume.renamed_from.clear();
                self.volumes.insert(volume.clone());
                settled.push(volume.clone());
            }
            // What a mounted file system has of it waits for the next user of the volume.
            let data = Path::new(&volume.mountpoint);
            let ended = if data.exists() {
                fill::Fill::open(data, false).and_then(|fill| fill.settle())
            } else {
                Ok(())
            };
            if let Err(error) = ended {
                tracing::warn!(
                    volume = volume.name,
                    error = error.report(),
                    "a volume was not filled to its end"
                );
            }
        }
        Ok(settled)
    }
}

fn in_the_way(name: &str) -> Error {
    Error::conflict(format!("a volume named {name} exists already; remove it first, or choose another name"))
}

/// A volume's directory without a name; deleted when it gets none.
#[derive(Debug)]
struct Unplaced {
    directory: Option<std::path::PathBuf>,
}

impl Unplaced {
    fn path(&self) -> &Path {
        self.directory.as_deref().unwrap_or(Path::new(""))
    }

    fn place(mut self, target: &Path) -> Result<()> {
        palan_stdx::fs::rename(self.path(), target).context(|| "cannot give the volume its name".into())?;
        self.directory = None;
        Ok(())
    }
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            // The failure that led here is the one to tell; the next start of the daemon deletes what is left.
            let _ = palan_linux::path::remove_tree(&directory);
        }
    }
}
