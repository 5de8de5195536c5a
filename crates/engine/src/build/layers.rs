//! The builder's `Layers` on the store: looks at files, copies, new directories.

use std::path::{Path, PathBuf};

use palan_builder::backend::{Layers, Material, Snapshot, StepError};
use palan_builder::cancel::Cancel;
use palan_builder::graph::Copy;
use palan_builder::mode::Mode;
use palan_builder::placement::{self, Placed};
use palan_context::Ignore;
use palan_linux::mount::{OverlayOptions, overlay};
use palan_linux::path::{FileKind, RootDir};
use palan_oci::Digest;
use palan_store::{Lease, Limits, NewLayer, Recent, Store};
use palan_supervisor::runtime::user;

use super::copy::{Copier, Looks, NewDirectories};
use super::sources::Contexts;

/// The layers of one build.
pub(super) struct BuildLayers<'a> {
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    pub(super) contexts: &'a Contexts<'a>,
    /// Results are only taken from the cache if they are the bottom of one of these stacks; none: any.
    pub(super) only: Option<Vec<Vec<Digest>>>,
}

impl BuildLayers<'_> {
    /// The directories of a snapshot's layers, topmost first.
    pub(super) fn directories(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, StepError> {
        let found = self.store.layer_dirs(&snapshot.layers, self.lease).map_err(StepError::other)?;
        found.ok_or_else(|| StepError::other("a layer that was there is gone; build again"))
    }

    pub(super) fn view(&self, snapshot: &Snapshot) -> Result<RootDir, StepError> {
        let found = self.store.view_layers(&snapshot.layers, self.lease).map_err(StepError::other)?;
        found.ok_or_else(|| StepError::other("a layer that was there is gone; build again"))
    }

    /// Makes a layer of what was filled, on top of a snapshot.
    pub(super) fn keep(
        &self,
        base: &Snapshot,
        layer: NewLayer,
        below: Option<&RootDir>,
    ) -> Result<Snapshot, StepError> {
        let made = self.store.keep_layer(layer, below, self.lease).map_err(StepError::other)?;
        let mut layers = base.layers.clone();
        layers.push(made.diff_id);
        Ok(Snapshot { layers })
    }

    fn root(&self, material: &Material) -> Result<RootDir, StepError> {
        match material {
            Material::Snapshot(snapshot) => self.view(snapshot),
            Material::Context(name) => self.contexts.get(name),
        }
    }

    /// A new layer whose root is what the one below it is.
    fn begin(&self, base: Option<&RootDir>) -> Result<NewLayer, StepError> {
        let layer = self.store.new_layer().map_err(StepError::other)?;
        inherit(base, layer.root())?;
        Ok(layer)
    }
}

/// The root of a stack is the topmost layer's: it must look like the one below.
pub(super) fn inherit(base: Option<&RootDir>, root: &RootDir) -> Result<(), StepError> {
    let Some(base) = base else { return Ok(()) };
    let below = base.metadata(".").map_err(StepError::other)?;
    root.set_owner("/", below.uid, below.gid).map_err(StepError::other)?;
    root.set_mode("/", below.mode).map_err(StepError::other)
}

impl Layers for BuildLayers<'_> {
    fn has(&self, snapshot: &Snapshot) -> bool {
        let is_allowed = self
            .only
            .as_ref()
            .is_none_or(|stacks| stacks.iter().any(|stack| stack.starts_with(&snapshot.layers)));
        is_allowed && self.hold(snapshot)
    }

    fn hold(&self, snapshot: &Snapshot) -> bool {
        matches!(self.store.layer_dirs(&snapshot.layers, self.lease), Ok(Some(_)))
    }

    fn open(&self, snapshot: &Snapshot) -> Result<RootDir, StepError> {
        self.view(snapshot)
    }

    fn copy(
        &self,
        base: &Snapshot,
        inputs: &[Material],
        copy: &Copy,
        cancel: &Cancel,
    ) -> Result<Snapshot, StepError> {
        let base_root = if base.layers.is_empty() { None } else { Some(self.view(base)?) };
        let looks = looks(copy, base_root.as_ref())?;
        let mut roots: Vec<Option<RootDir>> = Vec::with_capacity(inputs.len());
        for (number, input) in inputs.iter().enumerate() {
            let is_used = number > 0 && copy.sources.iter().any(|source| source.input == number);
            roots.push(is_used.then(|| self.root(input)).transpose()?);
        }
        // What doesn't depend on what it is copied to doesn't look at it.
        let below = base_root.as_ref().filter(|_| !copy.link);
        let work = CopyWork { inputs, roots: &roots, copy, looks, cancel };
        let into_directory = match below {
            Some(below) => placement::is_directory(below, &copy.destination).map_err(StepError::other)?,
            None => copy.destination.trim_matches('/').is_empty(),
        };
        let mut layer = self.begin(below)?;
        let archives = work.archives()?;
        if archives.is_empty() {
            work.plain(below, layer.root(), into_directory, &archives, Some(layer.recent()))?;
            return self.keep(base, layer, None);
        }
        let Some(below) = below else {
            work.plain(None, layer.root(), into_directory, &archives, None)?;
            return self.keep(base, layer, None);
        };
        let merged = self.merged(base, &mut layer)?;
        work.plain(None, &merged, into_directory, &archives, None)?;
        drop(merged);
        self.keep(base, layer, Some(below))
    }

    fn make_directory(&self, base: &Snapshot, path: &str, owner: &str) -> Result<Snapshot, StepError> {
        let below = if base.layers.is_empty() { None } else { Some(self.view(base)?) };
        let owner = match owner {
            "" => None,
            owner => Some(resolve_owner(owner, below.as_ref())?),
        };
        let layer = self.begin(below.as_ref())?;
        let cancel = Cancel::new();
        let mut copier = Copier::new(below.as_ref(), layer.root(), &cancel);
        let resolved = copier.resolve(Path::new(path))?;
        let is_there = copier.look(&resolved)?.is_some_and(|found| found.is_dir());
        if !is_there {
            copier.directory(&resolved, NewDirectories { owner, mode: 0o755 })?;
        }
        copier.finish()?;
        self.keep(base, layer, None)
    }
}

impl BuildLayers<'_> {
    /// Layer and base together, writable.
    fn merged(&self, base: &Snapshot, layer: &mut NewLayer) -> Result<RootDir, StepError> {
        let options = OverlayOptions {
            lowers: self.directories(base)?,
            upper: Some(layer.path().to_owned()),
            work: Some(layer.work().map_err(StepError::other)?.to_owned()),
            volatile: true,
            ..OverlayOptions::default()
        };
        let mount = overlay(&options).map_err(StepError::other)?;
        RootDir::from_fd(mount).open_root(".").map_err(StepError::other)
    }
}

/// One copy.
struct CopyWork<'a> {
    inputs: &'a [Material],
    roots: &'a [Option<RootDir>],
    copy: &'a Copy,
    looks: Looks,
    cancel: &'a Cancel,
}

impl CopyWork<'_> {
    /// The sources that are archives to unpack, by input and path.
    fn archives(&self) -> Result<Vec<(usize, PathBuf)>, StepError> {
        let mut archives = Vec::new();
        for source in self.copy.sources.iter().filter(|source| source.unpack) {
            let Some(root) = self.roots.get(source.input).and_then(Option::as_ref) else { continue };
            let found =
                palan_builder::content::select(root, &source.path, palan_builder::content::Depth::One);
            for path in found.map_err(StepError::other)? {
                let metadata = root.metadata(&path).map_err(StepError::other)?;
                if metadata.kind != FileKind::Regular {
                    continue;
                }
                let mut file = root.open_file(&path).map_err(StepError::other)?;
                let is_archive = palan_store::tree::is_archive(&mut file).map_err(|error| {
                    StepError::other(format!(
                        "cannot unpack {}: {error}; COPY takes it as it is",
                        path.display()
                    ))
                })?;
                if is_archive {
                    archives.push((source.input, path));
                }
            }
        }
        Ok(archives)
    }

    fn plain(
        &self,
        below: Option<&RootDir>,
        target: &RootDir,
        into_directory: bool,
        archives: &[(usize, PathBuf)],
        recent: Option<&Recent>,
    ) -> Result<(), StepError> {
        let exclude = Ignore::parse(self.copy.exclude.join("\n").as_bytes()).map_err(StepError::other)?;
        let mut copier = Copier::new(below, target, self.cancel);
        recent.into_iter().for_each(|recent| copier.set_recent(recent));
        let destination = copier.resolve(Path::new(&self.copy.destination))?;
        let into_directory = into_directory || !archives.is_empty() || self.copy.destination.ends_with('/');
        // All sources at once, so that several files for one name are refused; then each with its input.
        let every = |input: usize| self.roots.get(input).and_then(Option::as_ref);
        placement::place(self.copy, &every, into_directory).map_err(StepError::other)?;
        for source in &self.copy.sources {
            let Some(root) = self.roots.get(source.input).and_then(Option::as_ref) else { continue };
            let one = Copy { sources: vec![source.clone()], inline: Vec::new(), ..self.copy.clone() };
            let only = |input: usize| (input == source.input).then_some(root);
            let placed = placement::place(&one, &only, into_directory).map_err(StepError::other)?;
            for placed in placed {
                if archives.iter().any(|(input, path)| *input == source.input && *path == placed.from) {
                    copier
                        .directory(&destination, NewDirectories { owner: self.looks.chown, mode: 0o755 })?;
                    self.unpack(root, &placed, target, &destination)?;
                    continue;
                }
                let looks = self.owned(source.input, self.looks.clone());
                for (from, to) in &placed.parents {
                    let to = self.below(&destination, to);
                    copier.parent(root, from, &to, &looks)?;
                }
                let to = self.below(&destination, &placed.to);
                copier.source(root, &placed, &to, &exclude, &looks)?;
            }
        }
        for (name, content) in &self.copy.inline {
            let to = if into_directory { destination.join(name) } else { destination.clone() };
            copier.inline(&to, content.as_bytes(), &self.looks)?;
        }
        Ok(copier.finish()?)
    }

    /// A placed path below the destination, of which it is known where it leads.
    fn below(&self, destination: &Path, to: &Path) -> PathBuf {
        let rest = to.strip_prefix(&self.copy.destination).unwrap_or(Path::new(""));
        if rest.as_os_str().is_empty() { destination.to_owned() } else { destination.join(rest) }
    }

    fn unpack(
        &self,
        root: &RootDir,
        placed: &Placed,
        target: &RootDir,
        destination: &Path,
    ) -> Result<(), StepError> {
        let mut file = root.open_file(&placed.from).map_err(StepError::other)?;
        let unpacking = palan_store::tree::Unpacking { owner: self.looks.owner, keep_kinds: false };
        palan_store::tree::unpack_into(&mut file, target, destination, &unpacking, &Limits::default())
            .map_err(StepError::other)
    }

    /// Files of a context are root's.
    fn owned(&self, input: usize, mut looks: Looks) -> Looks {
        if let Some(Material::Context(_)) = self.inputs.get(input) {
            looks.owner.get_or_insert((0, 0));
        }
        looks
    }
}

fn looks(copy: &Copy, base: Option<&RootDir>) -> Result<Looks, StepError> {
    let owner = copy.owner.as_deref().map(|owner| resolve_owner(owner, base)).transpose()?;
    let mode = copy.mode.as_deref().map(Mode::parse).transpose().map_err(StepError::other)?;
    Ok(Looks { owner, chown: owner, mode })
}

/// `user[:group]` in the terms of an image. A user by number has the group of that number, as BuildKit has it.
pub(super) fn resolve_owner(text: &str, base: Option<&RootDir>) -> Result<(u32, u32), StepError> {
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| i32::try_from(*id).is_ok());
    let look = |user: &str| match base {
        Some(base) => user::resolve(base, user, &[]).map_err(StepError::other),
        None => Err(StepError::other(format!("unable to find {user}: there are no files yet"))),
    };
    let (uid, mut gid) = match number(name) {
        Some(uid) => (uid, uid),
        None if name.is_empty() => (0, 0),
        None => {
            let found = look(name)?;
            (found.uid, found.gid)
        }
    };
    if let Some(group) = group.filter(|group| !group.is_empty()) {
        gid = match number(group) {
            Some(gid) => gid,
            None => look(&format!("0:{group}"))?.gid,
        };
    }
    Ok((uid, gid))
}
