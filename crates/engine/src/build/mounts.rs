//! `RUN --mount`: what a step has beside its root file system.
//!
//! | kind | what is mounted |
//! |---|---|
//! | `bind` | a part of layers or of a context; with `rw` under an upper directory that is thrown away |
//! | `cache` | a directory of `build/mounts`, which outlives builds |
//! | `tmpfs` | memory |
//! | `secret` | one file in memory, made by the supervisor |
//! | `ssh` | a socket in the step's run directory, behind which the client's agent is (`ssh`) |
//!
//! Places that the root file system lacks are made by the runtime, and taken away afterwards ([`Placeholders`]).

use std::collections::btree_map;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use palan_builder::backend::{Material, StepError};
use palan_builder::cancel::Cancel;
use palan_builder::graph::{MountKind, Owner, Run};
use palan_dockerfile::mount::Sharing;
use palan_linux::path::{Directory, FileKind, RootDir};
use palan_oci::Digest;
use palan_oci::runtime_spec::Mount;
use palan_store::NewLayer;
use palan_supervisor::protocol::{Bytes, MountSource, MountWhole};

use super::copy::Copier;
use super::layers::BuildLayers;
use super::request::{Access, BuildClient};

/// What a step's mounts come to.
#[derive(Default)]
pub(super) struct Mounts {
    /// For the specification, in this order.
    pub(super) list: Vec<(Mount, Option<(MountWhole, PathBuf)>)>,
    /// `NAME=value`: secrets as variables, the agent's socket.
    pub(super) env: Vec<String>,
    /// Agents to listen for: the socket's name in the step's directory, which one, who may connect.
    pub(super) agents: Vec<(String, String, Owner)>,
    /// Where they are put.
    pub(super) targets: Vec<PathBuf>,
    /// Upper directories that are thrown away.
    scratch: Vec<NewLayer>,
    /// Directories that nobody else may use meanwhile, by the ids of their caches.
    claims: BTreeMap<String, Claim>,
}

impl Mounts {
    /// Makes ready to be mounted again.
    pub(super) fn renew(&self) -> Result<(), StepError> {
        self.scratch.iter().try_for_each(|layer| layer.renew_work().map_err(StepError::other))
    }
}

/// Everything that the mounts of a step are made from.
pub(super) struct Making<'a> {
    pub(super) layers: &'a BuildLayers<'a>,
    pub(super) client: &'a dyn BuildClient,
    pub(super) caches: &'a Arc<CacheMounts>,
    /// The step's directory, for its sockets.
    pub(super) directory: &'a Path,
    pub(super) inputs: &'a [Material],
    pub(super) cancel: &'a Cancel,
}

impl Making<'_> {
    pub(super) fn mounts(&self, run: &Run) -> Result<Mounts, StepError> {
        let mut mounts = Mounts { claims: self.claims(run)?, ..Mounts::default() };
        for mount in &run.mounts {
            let target = mount.target.as_deref();
            match &mount.kind {
                MountKind::Bind { input, source } => {
                    let whole = self.bind(*input, mount.read_only, &mut mounts)?;
                    let part = PathBuf::from(source.trim_matches('/'));
                    add(&mut mounts, target, mount.read_only, Some((whole, part)));
                }
                MountKind::Cache { id, seed, owner, .. } => {
                    let Some(claim) = mounts.claims.get_mut(id) else {
                        return Err(StepError::other(format!("the cache {id:?} was not claimed")));
                    };
                    self.fill(claim, seed.as_ref(), *owner)?;
                    let whole = MountWhole::Directory(claim.path.clone());
                    add(&mut mounts, target, mount.read_only, Some((whole, PathBuf::new())));
                }
                MountKind::Tmpfs { size } => tmpfs(&mut mounts, target, *size),
                MountKind::Secret { id, env, required, owner } => {
                    let Some(value) = self.client.secret(id).map_err(report)? else {
                        if *required {
                            return Err(StepError::other(format!("secret {id}: not found")));
                        }
                        continue;
                    };
                    if let Some(name) = env {
                        let text = String::from_utf8(value.clone()).map_err(|_| {
                            StepError::other(format!(
                                "secret {id} is no text: it can't be the variable {name}"
                            ))
                        })?;
                        mounts.env.push(format!("{name}={text}"));
                    }
                    if target.is_some() {
                        let Owner { mode, uid, gid } = *owner;
                        let whole = MountWhole::File { content: Bytes(value), mode, uid, gid };
                        add(&mut mounts, target, true, Some((whole, PathBuf::new())));
                    }
                }
                MountKind::Ssh { id, required, owner } => {
                    if self.client.ssh(id, Access::Check).map_err(report)?.is_none() {
                        if *required {
                            let text = format!("no ssh agent {id:?} was forwarded: build with --ssh {id}");
                            return Err(StepError::other(text));
                        }
                        continue;
                    }
                    let name = format!("ssh-{}", mounts.agents.len());
                    if mounts.agents.is_empty()
                        && let Some(target) = target
                    {
                        mounts.env.push(format!("SSH_AUTH_SOCK={target}"));
                    }
                    let whole = MountWhole::Directory(self.directory.to_owned());
                    add(&mut mounts, target, mount.read_only, Some((whole, PathBuf::from(&name))));
                    mounts.agents.push((name, id.clone(), *owner));
                }
            }
        }
        if let Some((name, content)) = &run.program {
            let content = Bytes(content.clone().into_bytes());
            let whole = MountWhole::File { content, mode: 0o755, uid: 0, gid: 0 };
            let target = format!("/dev/pipes/{name}");
            add(&mut mounts, Some(&target), true, Some((whole, PathBuf::new())));
        }
        Ok(mounts)
    }

    /// Claims every cache of a step, each once however often it is mounted, and all steps claim in the same order: nobody waits for
    /// who waits for him.
    fn claims(&self, run: &Run) -> Result<BTreeMap<String, Claim>, StepError> {
        let mut claims = BTreeMap::new();
        for (id, sharing) in caches(run) {
            claims.insert(id.to_owned(), self.caches.claim(id, sharing, self.cancel)?);
        }
        Ok(claims)
    }

    fn bind(&self, input: usize, read_only: bool, mounts: &mut Mounts) -> Result<MountWhole, StepError> {
        let material =
            self.inputs.get(input).ok_or_else(|| StepError::other("a mount without its source"))?;
        let lowers = match material {
            Material::Context(name) if read_only => {
                self.layers.contexts.get(name)?;
                return Ok(MountWhole::Directory(self.layers.contexts.path(name)?));
            }
            Material::Context(name) => {
                self.layers.contexts.get(name)?;
                vec![self.layers.contexts.path(name)?]
            }
            Material::Snapshot(snapshot) => {
                let mut lowers = self.layers.directories(snapshot)?;
                if read_only && lowers.len() == 1 {
                    return Ok(MountWhole::Directory(lowers.remove(0)));
                }
                lowers
            }
        };
        if read_only {
            return Ok(MountWhole::Layers(lowers));
        }
        let mut scratch = self.layers.store.new_layer().map_err(StepError::other)?;
        let work = scratch.work().map_err(StepError::other)?.to_owned();
        let lower = RootDir::open(&lowers[0]).map_err(StepError::other)?;
        super::layers::inherit(Some(&lower), scratch.root())?;
        let whole = MountWhole::Overlay { lowers, upper: scratch.path().to_owned(), work };
        mounts.scratch.push(scratch);
        Ok(whole)
    }

    /// Gives a new cache directory what it starts with.
    fn fill(&self, claim: &mut Claim, seed: Option<&(usize, String)>, owner: Owner) -> Result<(), StepError> {
        if !claim.is_new {
            return Ok(());
        }
        let root = RootDir::open(&claim.path).map_err(StepError::other)?;
        if let Some((input, path)) = seed {
            let material =
                self.inputs.get(*input).ok_or_else(|| StepError::other("a mount without its source"))?;
            let source = match material {
                Material::Snapshot(snapshot) => self.layers.view(snapshot)?,
                Material::Context(name) => self.layers.contexts.get(name)?,
            };
            let path = Path::new(path.trim_matches('/'));
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            palan_linux::copy::copy_tree(&source, path, &root, Path::new(".")).map_err(StepError::other)?;
        } else {
            root.set_owner("/", owner.uid, owner.gid).map_err(StepError::other)?;
            root.set_mode("/", owner.mode).map_err(StepError::other)?;
        }
        claim.is_filled()
    }
}

/// The caches of a step in the order of their ids, each with the strictest way in which it is shared.
fn caches(run: &Run) -> BTreeMap<&str, Sharing> {
    let strictness = |sharing: Sharing| match sharing {
        Sharing::Shared => 0,
        Sharing::Private => 1,
        Sharing::Locked => 2,
    };
    let mut caches: BTreeMap<&str, Sharing> = BTreeMap::new();
    for mount in &run.mounts {
        let MountKind::Cache { id, sharing, .. } = &mount.kind else { continue };
        match caches.entry(id) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(*sharing);
            }
            btree_map::Entry::Occupied(mut entry) if strictness(*entry.get()) < strictness(*sharing) => {
                entry.insert(*sharing);
            }
            btree_map::Entry::Occupied(_) => {}
        }
    }
    caches
}

fn report(error: crate::Error) -> StepError {
    StepError::other(error.report())
}

fn add(mounts: &mut Mounts, target: Option<&str>, read_only: bool, source: Option<(MountWhole, PathBuf)>) {
    let Some(target) = target else { return };
    let access = if read_only { "ro" } else { "rw" };
    let mount = Mount {
        destination: target.to_owned(),
        kind: "bind".to_owned(),
        source: "build".to_owned(),
        options: ["rbind", "rprivate", "nosuid", "nodev", access].map(str::to_owned).to_vec(),
        ..Mount::default()
    };
    mounts.targets.push(PathBuf::from(target));
    mounts.list.push((mount, source));
}

fn tmpfs(mounts: &mut Mounts, target: Option<&str>, size: Option<u64>) {
    let Some(target) = target else { return };
    let mut options = ["nosuid", "nodev", "mode=1777"].map(str::to_owned).to_vec();
    options.extend(size.map(|size| format!("size={size}")));
    let mount = Mount {
        destination: target.to_owned(),
        kind: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options,
        ..Mount::default()
    };
    mounts.targets.push(PathBuf::from(target));
    mounts.list.push((mount, None));
}

/// Finds the sources of mounts that were added to a specification from index `first` on.
pub(super) fn sources(list: &[(Mount, Option<(MountWhole, PathBuf)>)], first: usize) -> Vec<MountSource> {
    let numbered = list.iter().enumerate();
    let source = numbered.filter_map(|(index, (_, source))| {
        let (whole, subpath) = source.clone()?;
        Some(MountSource { mount: first + index, whole, subpath })
    });
    source.collect()
}

/// Directories of `RUN --mount=type=cache`: `<digest of its name>[.N]/data`, with a file `filled` beside it once it has what it starts with.
/// One that is removed is renamed to `.trash-…` first, so that nobody waits for that.
#[derive(Debug)]
pub(crate) struct CacheMounts {
    directory: PathBuf,
    in_use: Mutex<BTreeMap<String, Use>>,
    freed: Condvar,
}

/// What the names of directories begin with that are being removed.
const TRASH: &str = ".trash-";

/// Who uses a directory.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    count: usize,
    is_exclusive: bool,
}

/// The right to use a cache directory.
#[derive(Debug)]
pub(super) struct Claim {
    caches: Arc<CacheMounts>,
    key: String,
    pub(super) path: PathBuf,
    is_new: bool,
}

/// A cache directory, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheMount {
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) in_use: bool,
}

impl CacheMounts {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, in_use: Mutex::default(), freed: Condvar::new() }
    }

    /// Removes what an earlier daemon was about to remove. Nobody waits for that.
    pub(crate) fn empty_trash(&self) -> Result<(), palan_stdx::fs::PathError> {
        let mut trash = palan_stdx::fs::read_dir(&self.directory)?;
        trash.retain(|entry| entry.file_name().to_string_lossy().starts_with(TRASH));
        if trash.is_empty() {
            return Ok(());
        }
        let remove = move || {
            for entry in trash {
                if let Err(error) = palan_linux::path::remove_tree(&entry.path()) {
                    tracing::warn!(%error, "a removed directory of the build cache stays until the next start");
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("build-removal".to_owned()).spawn(remove) {
            tracing::warn!(%error, "removed directories of the build cache stay until the next start");
        }
        Ok(())
    }

    /// Takes a directory, if it is there, out of the way. It is removed when nobody waits.
    fn put_aside(&self, path: &Path) -> Result<Option<PathBuf>, palan_stdx::fs::PathError> {
        let trash = self.directory.join(format!("{TRASH}{}", crate::identifier::new_id()));
        let renamed = palan_stdx::fs::if_exists(palan_stdx::fs::rename(path, &trash))?;
        Ok(renamed.map(|()| trash))
    }

    fn claim(self: &Arc<Self>, id: &str, sharing: Sharing, cancel: &Cancel) -> Result<Claim, StepError> {
        let name = Digest::of(id).hex();
        let this = Arc::downgrade(self);
        let _watch = cancel.watch(move || {
            if let Some(this) = this.upgrade() {
                let _in_use = this.in_use.lock().unwrap_or_else(PoisonError::into_inner);
                this.freed.notify_all();
            }
        });
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = 0;
        loop {
            if cancel.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            let key = if number == 0 { name.clone() } else { format!("{name}.{number}") };
            let used = in_use.get(&key).copied().unwrap_or_default();
            let is_free = match sharing {
                Sharing::Shared => !used.is_exclusive,
                Sharing::Private | Sharing::Locked => used.count == 0,
            };
            if is_free {
                let path = self.directory.join(&key);
                // Who shares it with somebody who fills it at this moment sees it grow.
                let is_new = used.count == 0 && !path.join("filled").exists();
                let mut trash = None;
                if is_new {
                    // What was begun and not ended.
                    trash = self.put_aside(&path).map_err(StepError::other)?;
                    palan_stdx::fs::create_dir_all(&path.join("data"), 0o755).map_err(StepError::other)?;
                }
                let is_exclusive = sharing != Sharing::Shared;
                in_use.insert(key.clone(), Use { count: used.count + 1, is_exclusive });
                drop(in_use);
                let claim = Claim { caches: Arc::clone(self), key, path: path.join("data"), is_new };
                if let Some(trash) = trash {
                    palan_linux::path::remove_tree(&trash).map_err(StepError::other)?;
                }
                return Ok(claim);
            }
            match sharing {
                Sharing::Private => number += 1,
                _ => in_use = self.freed.wait(in_use).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// All directories.
    pub(crate) fn list(&self) -> crate::Result<Vec<CacheMount>> {
        use crate::error::Context as _;
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let entries =
            palan_stdx::fs::read_dir(&self.directory).context(|| "cannot list the build cache".into())?;
        let mount = |entry: &std::fs::DirEntry| {
            let key = entry.file_name().to_string_lossy().into_owned();
            CacheMount { in_use: in_use.contains_key(&key), path: entry.path(), key }
        };
        let mounts = entries.iter().map(mount).filter(|mount| !mount.key.starts_with('.'));
        Ok(mounts.collect())
    }

    /// Removes a directory that nobody uses.
    pub(crate) fn remove(&self, mount: &CacheMount) -> crate::Result<bool> {
        use crate::error::Context as _;
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if in_use.contains_key(&mount.key) {
            return Ok(false);
        }
        let failed = || "cannot remove a directory of the build cache".to_owned();
        let trash = self.put_aside(&mount.path).context(failed)?;
        drop(in_use);
        if let Some(trash) = trash {
            palan_linux::path::remove_tree(&trash).context(failed)?;
        }
        Ok(true)
    }
}

impl Claim {
    fn is_filled(&mut self) -> Result<(), StepError> {
        self.is_new = false;
        let mark = self.path.with_file_name("filled");
        palan_stdx::fs::write(&mark, "").map_err(StepError::other)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut in_use = self.caches.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = in_use.get_mut(&self.key) {
            used.count -= 1;
            if used.count == 0 {
                in_use.remove(&self.key);
            }
        }
        self.caches.freed.notify_all();
    }
}

/// Places of mounts that the root file system does not have: made for the step, and no part of what it did.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    /// Paths that were missing, the outermost first.
    missing: Vec<PathBuf>,
    /// Directories that were there, in which the outermost missing ones are made.
    above: HashSet<PathBuf>,
}

impl Placeholders {
    /// Looks before the step. The runtime makes a place where the path leads, through symlinks of the files below `layer`.
    pub(super) fn look(
        base: Option<&RootDir>,
        layer: &RootDir,
        targets: &[PathBuf],
    ) -> Result<Self, StepError> {
        let cancel = Cancel::new();
        let copier = Copier::new(base, layer, &cancel);
        let mut found = Self::default();
        for target in targets {
            let target = copier.resolve(target)?;
            let mut path = PathBuf::new();
            let mut is_missing = false;
            for part in target.components() {
                let above = path.clone();
                path.push(part);
                is_missing = is_missing || base.is_none_or(|base| base.symlink_metadata(&path).is_err());
                if !is_missing {
                    continue;
                }
                if !found.missing.contains(&path) {
                    found.missing.push(path.clone());
                    if !found.missing.contains(&above) {
                        found.above.insert(above);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Takes them away after it, and the directories that only were copied up to hold them.
    pub(super) fn remove(&self, layer: &RootDir, base: Option<&RootDir>) {
        for path in self.missing.iter().rev() {
            // Something else may be there by now, or something in it: that is the step's own.
            let Ok((directory, name)) = layer.parent_of(path) else { continue };
            let Ok(metadata) = directory.metadata(&name) else { continue };
            let removed = match metadata.kind {
                FileKind::Directory => directory.remove_dir(&name),
                FileKind::Regular if metadata.size == 0 => directory.remove_file(&name),
                _ => continue,
            };
            if let Err(error) = removed {
                tracing::debug!(%error, path = %path.display(), "the place of a mount is kept");
            }
        }
        for above in &self.above {
            let mut path = above.clone();
            while let Some((parent, name)) = split(layer, &path) {
                if !is_unchanged(layer, base, &path) || parent.remove_dir(&name).is_err() {
                    break;
                }
                path.pop();
            }
        }
    }
}

fn split(layer: &RootDir, path: &Path) -> Option<(Directory, OsString)> {
    if path.as_os_str().is_empty() { None } else { layer.parent_of(path).ok() }
}

/// Whether a directory of the layer says nothing that the one below does not.
fn is_unchanged(layer: &RootDir, base: Option<&RootDir>, path: &Path) -> bool {
    let (Ok(own), Some(Ok(below))) =
        (layer.symlink_metadata(path), base.map(|base| base.symlink_metadata(path)))
    else {
        return false;
    };
    own.is_dir() && below.is_dir() && (own.mode, own.uid, own.gid) == (below.mode, below.uid, below.gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches_in(directory: &Path) -> Arc<CacheMounts> {
        Arc::new(CacheMounts::new(directory.to_owned()))
    }

    #[test]
    fn what_is_removed_is_gone_at_once_however_deep_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let caches = caches_in(directory.path());
        let mut claim = caches.claim("deep", Sharing::Locked, &Cancel::new()).expect("a claim");
        let mut at =
            RootDir::open(&claim.path).expect("the cache").as_directory().try_clone().expect("a handle");
        for _ in 0..5000 {
            at.create_dir("d".as_ref(), 0o755).expect("a directory");
            at = at.open_dir("d".as_ref()).expect("a directory");
        }
        claim.is_filled().expect("filled");
        let listed = caches.list().expect("a list");
        assert!(matches!(&listed[..], [mount] if mount.in_use && !caches.remove(mount).expect("no removal")));
        drop(claim);
        assert!(caches.remove(&listed[0]).expect("a removal"));
        assert!(std::fs::read_dir(directory.path()).expect("a list").next().is_none());
        // What an earlier daemon did not come to.
        std::fs::create_dir_all(directory.path().join(".trash-x/y")).expect("directories");
        assert!(caches.list().expect("a list").is_empty());
        caches.empty_trash().expect("an empty trash");
        while directory.path().join(".trash-x").exists() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn places_behind_symlinks_are_taken_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = |name: &str| {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
            RootDir::open(directory.path().join(name)).expect("a root")
        };
        let (base, layer) = (open("base"), open("layer"));
        base.create_dir_all("real", 0o755).expect("directories");
        base.as_directory().create_symlink("link".as_ref(), "/real".as_ref()).expect("a link");
        let targets = [PathBuf::from("/link/a/b")];
        let places = Placeholders::look(Some(&base), &layer, &targets).expect("places");
        // As overlay has it: the directory above is copied up.
        layer.create_dir_all("real/a/b", 0o755).expect("directories");
        places.remove(&layer, Some(&base));
        assert!(layer.read_dir("/").expect("a list").is_empty());
    }

    #[test]
    fn a_step_claims_each_cache_once_and_in_the_order_of_all() {
        let cache = |id: &str, sharing| palan_builder::graph::Mount {
            target: Some("/x".to_owned()),
            read_only: false,
            kind: MountKind::Cache {
                id: id.to_owned(),
                sharing,
                seed: None,
                owner: Owner { mode: 0o755, uid: 0, gid: 0 },
            },
        };
        let run = Run {
            args: Vec::new(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            program: None,
            mounts: vec![
                cache("b", Sharing::Shared),
                cache("a", Sharing::Locked),
                cache("b", Sharing::Locked),
                cache("b", Sharing::Private),
            ],
            network: palan_dockerfile::ast::Network::Default,
            default_network: String::new(),
            extra_hosts: Vec::new(),
            security: palan_dockerfile::ast::Security::Sandbox,
            devices: Vec::new(),
            shell: Vec::new(),
            platform: String::new(),
        };
        let claimed: Vec<(&str, Sharing)> = caches(&run).into_iter().collect();
        assert_eq!(claimed, [("a", Sharing::Locked), ("b", Sharing::Locked)]);
    }
}
