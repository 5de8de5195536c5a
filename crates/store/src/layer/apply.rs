//! Applies a layer's entries to a directory, which nothing in the layer can leave.
//!
//! Three forms of the same thing:
//!
//! - **Alone:** the directory holds this layer only. Whiteouts become overlay's marks (character device 0/0,
//!   `trusted.overlay.opaque`). An entry whose parent directory the layer does not contain gets a plain one (0755,
//!   root), and the layer counts as not self-contained; a hard link to a file that it does not contain makes it
//!   incomplete.
//! - **Merged:** the directory is an overlay mount of the parents with this layer on top. Whiteouts remove, and the
//!   kernel writes the marks.
//! - **Plain:** the directory is no layer, a volume say. Every name means itself.
//!
//! Where an entry meets an earlier one, Docker's rule holds: a directory over a directory keeps the content, all else
//! replaces. What was whited out or replaced before it becomes a directory again is opaque: the lower layers' content is gone.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use palan_linux::path::{Directory, FileKind, RootDir, Time};
use palan_linux::xattr;
use rustix::fs::Mode;
use rustix::io::Errno;

use attributes::{dress, is_inherited, kept_xattrs, strip, timestamps, tolerate_unsupported};

use super::LayerError;
use super::name::{Meaning, Name, meaning};
use super::tar::{Entry, Kind, Reader, Segment, lossy};
use crate::Limits;

mod attributes;

/// How the directory relates to the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Alone,
    Merged,
    Plain,
}

/// Where in the root the entries go, and what is done otherwise than in a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Placement {
    /// The directory, cleaned, without slash at either end; empty for the root itself. Symlinks in it are followed.
    pub(crate) directory: Vec<u8>,
    /// Who owns what is created, whatever the entries say.
    pub(crate) owner: Option<(u32, u32)>,
    /// A directory and anything else never replace each other.
    pub(crate) keep_kinds: bool,
    /// The directory and what exists in it have attributes of their own, which stay where an entry says nothing of them.
    pub(crate) adds: bool,
}

/// What a layer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// Bytes of its files: each inode once, without directories.
    pub(crate) size: u64,
    /// A parent directory was missing and made up.
    pub(crate) made_up_parents: bool,
    /// Why it can't be applied alone at all; the directory is worthless then.
    pub(crate) incomplete: Option<String>,
    /// Nothing of the lower layers shows through anywhere.
    pub(crate) opaque_root: bool,
}

const OPAQUE: &str = "trusted.overlay.opaque";
/// Directory handles that are kept open along the current path.
const MAX_HANDLES: usize = 32;

/// Reads a layer's tar to its end and applies it to `root`.
pub(crate) fn apply(
    source: impl Read,
    root: &RootDir,
    form: Form,
    limits: &Limits,
) -> Result<Applied, LayerError> {
    apply_at(source, root, form, &Placement::default(), limits)
}

/// Reads a tar to its end and applies it to a directory in `root`.
pub(crate) fn apply_at(
    source: impl Read,
    root: &RootDir,
    form: Form,
    placement: &Placement,
    limits: &Limits,
) -> Result<Applied, LayerError> {
    let mut reader = Reader::new(source, limits);
    let mut applier = Applier::new(root, form, placement, limits);
    let mut entries = 0;
    while let Some(mut entry) = reader.next_entry()? {
        entries += 1;
        if let Some((uid, gid)) = placement.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if entries > limits.entries {
            return Err(LayerError::Entries { limit: limits.entries });
        }
        if applier.applied.incomplete.is_none() {
            applier.entry(&entry, &mut reader)?;
        }
    }
    reader.drain()?;
    applier.finish()
}

struct Applier<'a> {
    root: &'a RootDir,
    form: Form,
    placement: &'a Placement,
    limits: &'a Limits,
    applied: Applied,
    /// Handles of directories along the path in use, outermost first. Emptied whenever something is removed, since a
    /// name may lead elsewhere then.
    handles: Vec<(Vec<u8>, Directory)>,
    /// Directories whose times are set at the end, when nothing is created in them any more.
    directories: Vec<Unfinished>,
    /// Merged form: what this layer wrote, which its own whiteouts don't hide.
    written: HashSet<Vec<u8>>,
    /// Directories that were made opaque already: doing it again for each of a million markers must cost nothing.
    opaque: HashSet<Vec<u8>>,
    remembered: usize,
    /// An entry replaced another: the sum of sizes is wrong and is taken from the tree instead.
    replaced: bool,
}

/// A directory whose times, and the access lists that entries in it would inherit, are still to be set.
struct Unfinished {
    name: Name,
    modified: Time,
    inherited: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Applier<'a> {
    fn new(root: &'a RootDir, form: Form, placement: &'a Placement, limits: &'a Limits) -> Self {
        Self {
            root,
            form,
            placement,
            limits,
            applied: Applied::default(),
            handles: Vec::new(),
            directories: Vec::new(),
            written: HashSet::new(),
            opaque: HashSet::new(),
            remembered: 0,
            replaced: false,
        }
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<'_, R>) -> Result<(), LayerError> {
        crate::fault::point("unpack an entry");
        let name = Name::parse(&entry.path, self.limits)?;
        if name.is_root() {
            return self.root_entry(entry);
        }
        let name = name.below(&self.placement.directory);
        let (parent, last) = name.split();
        let meaning = if self.form == Form::Plain { Meaning::Plain } else { meaning(parent, last) };
        match meaning {
            Meaning::Bookkeeping => return Ok(()),
            Meaning::Invalid => return Err(LayerError::InvalidWhiteout { entry: lossy(&entry.path) }),
            Meaning::Opaque => return self.opaque(entry, parent),
            Meaning::Whiteout(hidden) => return self.whiteout(entry, parent, hidden),
            Meaning::Plain => {}
        }
        match entry.kind {
            Kind::Directory => self.directory(entry, &name)?,
            Kind::Regular => self.regular(entry, &name, reader)?,
            Kind::HardLink => self.hard_link(entry, &name)?,
            Kind::Symlink => self.symlink(entry, &name)?,
            Kind::CharacterDevice if entry.device == (0, 0) && self.form != Form::Plain => {
                return self.whiteout(entry, parent, last);
            }
            Kind::CharacterDevice => self.node(entry, &name, FileKind::CharacterDevice)?,
            Kind::BlockDevice => self.node(entry, &name, FileKind::BlockDevice)?,
            Kind::Fifo => self.node(entry, &name, FileKind::Fifo)?,
        }
        if self.form == Form::Merged {
            self.mark_written(name.as_bytes())?;
        }
        Ok(())
    }

    // --- One method for each kind -----------------------------------------------------------------------------

    fn root_entry(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != Kind::Directory {
            return Err(LayerError::RootNotDirectory { entry: lossy(&entry.path) });
        }
        if self.placement.adds {
            return Ok(());
        }
        let root =
            self.root.as_directory().try_clone().map_err(failed(entry, "open the layer's root for"))?;
        dress(&root, entry).map_err(failed(entry, "set the attributes of"))?;
        self.set_times_at_the_end(Name::parse(b"", self.limits)?, entry)
    }

    fn directory(&mut self, entry: &Entry, name: &Name) -> Result<(), LayerError> {
        let (parent_path, last) = name.split();
        let last = OsStr::from_bytes(last);
        let parent = self.parent(entry, parent_path)?;
        let (mut created, mut replaces) = (true, false);
        match parent.create_dir(last, 0o700) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let old = parent.metadata(last).map_err(failed(entry, "inspect"))?;
                created = !old.is_dir();
                if created && self.placement.keep_kinds {
                    return Err(self.wont_replace(name, true));
                }
                if created {
                    self.make_room(entry, parent_path, last)?;
                    let parent = self.parent(entry, parent_path)?;
                    parent.create_dir(last, 0o700).map_err(failed(entry, "create directory"))?;
                    replaces = true;
                }
            }
            Err(error) => return Err(failed(entry, "create directory")(error)),
        }
        let parent = self.parent(entry, parent_path)?;
        let directory = parent.open_dir(last).map_err(failed(entry, "open directory"))?;
        if created && replaces && self.form == Form::Alone {
            xattr::set(&directory, OPAQUE, b"y").map_err(failed(entry, "make opaque"))?;
        }
        if !created && !self.placement.adds {
            strip(&directory, entry).map_err(failed(entry, "set the attributes of"))?;
        }
        dress(&directory, entry).map_err(failed(entry, "set the attributes of"))?;
        // At the end once more, when all is in it; but a symlink on the way may lead elsewhere then.
        rustix::fs::futimens(&directory, &timestamps(entry.modified))
            .map_err(|error| failed(entry, "set the times of")(error.into()))?;
        self.keep_handle(name.as_bytes(), directory);
        self.set_times_at_the_end(name.clone(), entry)
    }

    fn regular<R: Read>(
        &mut self,
        entry: &Entry,
        name: &Name,
        reader: &mut Reader<'_, R>,
    ) -> Result<(), LayerError> {
        let file = self.create(entry, name, "create", |parent, last| parent.create_file(last, 0o600))?;
        match &entry.sparse {
            None => {
                while let Some(chunk) = reader.next_chunk()? {
                    io::Write::write_all(&mut &file, chunk).map_err(failed(entry, "write"))?;
                }
            }
            Some(segments) => {
                write_segments(&file, segments, entry, reader)?;
                file.set_len(entry.size).map_err(failed(entry, "set the size of"))?;
            }
        }
        self.applied.size = self.applied.size.saturating_add(entry.size);
        dress(&file, entry).map_err(failed(entry, "set the attributes of"))?;
        rustix::fs::futimens(&file, &timestamps(entry.modified))
            .map_err(|error| failed(entry, "set the times of")(error.into()))
    }

    fn hard_link(&mut self, entry: &Entry, name: &Name) -> Result<(), LayerError> {
        let target = Name::parse(&entry.link, self.limits).map_err(|_| LayerError::HardLinkOutside {
            entry: lossy(&entry.path),
            target: lossy(&entry.link),
        })?;
        let target = if target.is_root() { target } else { target.below(&self.placement.directory) };
        let missing = || format!("hard link {:?} leads to {:?}", lossy(&entry.path), lossy(&entry.link));
        if target.is_root() || target == *name {
            return Err(LayerError::HardLinkTarget { entry: lossy(&entry.path), target: lossy(&entry.link) });
        }
        let path = Path::new(OsStr::from_bytes(target.as_bytes()));
        let source = match self.root.parent_of(path) {
            Ok((directory, last)) => match directory.metadata_if_exists(&last) {
                Ok(found) => found
                    .filter(|found| self.form == Form::Plain || !found.is_whiteout())
                    .map(|found| (directory, last, found)),
                Err(error) => return Err(failed(entry, "inspect the target of")(error)),
            },
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => None,
            Err(error) => return Err(failed(entry, "find the target of")(error.source)),
        };
        let Some((directory, last, found)) = source else {
            return match self.form {
                Form::Alone => {
                    self.applied.incomplete = Some(missing());
                    Ok(())
                }
                Form::Merged | Form::Plain => {
                    Err(LayerError::HardLinkTarget { entry: lossy(&entry.path), target: lossy(&entry.link) })
                }
            };
        };
        if found.is_dir() {
            return Err(LayerError::HardLinkTarget { entry: lossy(&entry.path), target: lossy(&entry.link) });
        }
        self.create(entry, name, "create hard link", |parent, own| {
            parent.create_hard_link(own, &directory, &last)
        })
    }

    fn symlink(&mut self, entry: &Entry, name: &Name) -> Result<(), LayerError> {
        let target = OsStr::from_bytes(&entry.link);
        self.create(entry, name, "create symlink", |parent, last| parent.create_symlink(last, target))?;
        self.applied.size = self.applied.size.saturating_add(entry.link.len() as u64);
        self.dress_at(entry, name)
    }

    fn node(&mut self, entry: &Entry, name: &Name, kind: FileKind) -> Result<(), LayerError> {
        self.create(entry, name, "create special file", |parent, last| {
            parent.create_node(last, kind, 0o600, entry.device)
        })?;
        self.dress_at(entry, name)
    }

    fn whiteout(&mut self, entry: &Entry, parent_path: &[u8], hidden: &[u8]) -> Result<(), LayerError> {
        let last = OsStr::from_bytes(hidden);
        if self.form == Form::Merged {
            return self.whiteout_merged(entry, parent_path, hidden);
        }
        let parent = self.parent(entry, parent_path)?;
        match parent.create_node(last, FileKind::CharacterDevice, 0, (0, 0)) {
            Ok(()) => Ok(()),
            // Only what is below is hidden, not what this layer brings itself: a directory shows its own content
            // alone, anything else hides what is below by being there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !parent.metadata(last).map_err(failed(entry, "inspect"))?.is_dir() {
                    return Ok(());
                }
                let directory = parent.open_dir(last).map_err(failed(entry, "open directory"))?;
                xattr::set(&directory, OPAQUE, b"y").map_err(failed(entry, "make opaque"))
            }
            Err(error) => Err(failed(entry, "create whiteout")(error)),
        }
    }

    fn whiteout_merged(
        &mut self,
        entry: &Entry,
        parent_path: &[u8],
        hidden: &[u8],
    ) -> Result<(), LayerError> {
        let path = join(parent_path, hidden);
        let last = OsStr::from_bytes(hidden);
        if self.written.contains(&path) {
            let parent = self.parent(entry, parent_path)?;
            if parent.metadata(last).map_err(failed(entry, "inspect"))?.is_dir() {
                return self.opaque(entry, &path);
            }
            return Ok(());
        }
        let parent = self.parent(entry, parent_path)?;
        if parent.metadata_if_exists(last).map_err(failed(entry, "inspect"))?.is_some() {
            self.make_room(entry, parent_path, last)?;
        }
        Ok(())
    }

    fn opaque(&mut self, entry: &Entry, path: &[u8]) -> Result<(), LayerError> {
        if self.opaque.contains(path) {
            return Ok(());
        }
        if path.is_empty() {
            self.applied.opaque_root = true;
        }
        match self.form {
            Form::Alone if path.is_empty() => {}
            Form::Alone => {
                let directory = self.parent(entry, path)?;
                xattr::set(directory, OPAQUE, b"y").map_err(failed(entry, "make opaque"))?;
            }
            Form::Merged => self.remove_unwritten(entry, path)?,
            // Its names mean themselves.
            Form::Plain => {}
        }
        self.remember(path.len())?;
        self.opaque.insert(path.to_vec());
        Ok(())
    }

    /// Removes what the lower layers show in a directory; what this layer wrote stays, with what it wrote below.
    fn remove_unwritten(&mut self, entry: &Entry, path: &[u8]) -> Result<(), LayerError> {
        let mut pending = vec![path.to_vec()];
        self.handles.clear();
        while let Some(path) = pending.pop() {
            let relative = Path::new(OsStr::from_bytes(&path));
            let directory =
                self.root.open_dir(relative).map_err(|error| failed(entry, "open")(error.source))?;
            for child in directory.entries().map_err(failed(entry, "list"))? {
                let below = join(&path, child.name.as_bytes());
                if !self.written.contains(&below) {
                    directory.remove_all(&child.name).map_err(failed(entry, "make opaque"))?;
                } else if child.kind == FileKind::Directory {
                    pending.push(below);
                }
            }
        }
        Ok(())
    }

    // --- What they share ----------------------------------------------------------------------------------------

    /// Creates an entry that is not a directory; whatever is in the way gives way.
    fn create<T>(
        &mut self,
        entry: &Entry,
        name: &Name,
        action: &'static str,
        mut create: impl FnMut(&Directory, &OsStr) -> io::Result<T>,
    ) -> Result<T, LayerError> {
        let (parent_path, last) = name.split();
        let last = OsStr::from_bytes(last);
        let keep_kinds = self.placement.keep_kinds;
        let parent = self.parent(entry, parent_path)?;
        match create(parent, last) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map_err(failed(entry, action)),
        }
        if keep_kinds && parent.metadata(last).map_err(failed(entry, "inspect"))?.is_dir() {
            return Err(self.wont_replace(name, false));
        }
        self.make_room(entry, parent_path, last)?;
        let parent = self.parent(entry, parent_path)?;
        create(parent, last).map_err(failed(entry, action))
    }

    fn wont_replace(&self, name: &Name, by_directory: bool) -> LayerError {
        let path = |path: &[u8]| format!("/{}", lossy(path));
        let (existing, target) = (path(name.as_bytes()), path(&self.placement.directory));
        LayerError::OtherKind { existing, target, by_directory }
    }

    fn make_room(&mut self, entry: &Entry, parent_path: &[u8], last: &OsStr) -> Result<(), LayerError> {
        let parent = self.parent(entry, parent_path)?;
        parent.remove_all(last).map_err(failed(entry, "replace"))?;
        self.handles.clear();
        self.replaced = true;
        Ok(())
    }

    /// The directory at `path`, from the handles at hand, resolved inside the root, or made up.
    fn parent(&mut self, entry: &Entry, path: &[u8]) -> Result<&Directory, LayerError> {
        if path.is_empty() {
            return Ok(self.root.as_directory());
        }
        while self.handles.last().is_some_and(|(open, _)| !is_at_or_above(open, path)) {
            self.handles.pop();
        }
        if self.handles.last().is_none_or(|(open, _)| open != path) {
            let directory = self.resolve_parent(entry, path)?;
            self.keep_handle(path, directory);
        }
        match self.handles.last() {
            Some((_, directory)) => Ok(directory),
            None => Ok(self.root.as_directory()),
        }
    }

    fn keep_handle(&mut self, path: &[u8], directory: Directory) {
        while self.handles.last().is_some_and(|(open, _)| !is_at_or_above(open, path) || open == path) {
            self.handles.pop();
        }
        if self.handles.len() >= MAX_HANDLES {
            self.handles.clear();
        }
        self.handles.push((path.to_vec(), directory));
    }

    fn resolve_parent(&mut self, entry: &Entry, path: &[u8]) -> Result<Directory, LayerError> {
        let relative = Path::new(OsStr::from_bytes(path));
        match self.root.open_dir(relative) {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => {}
            other => return other.map_err(|error| failed(entry, "open the parent of")(error.source)),
        }
        self.applied.made_up_parents = true;
        if self.form == Form::Alone {
            self.lift_whiteouts(entry, path)?;
        }
        let plain = |directory: &Directory| Ok(rustix::fs::fchmod(directory, Mode::from_raw_mode(0o755))?);
        self.root
            .create_dir_all_with(relative, 0o755, plain)
            .map_err(|error| failed(entry, "create the parent of")(error.source))
    }

    /// Something is created below a name that this layer has whited out: the name becomes an opaque directory.
    fn lift_whiteouts(&mut self, entry: &Entry, path: &[u8]) -> Result<(), LayerError> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain(std::iter::once(path.len())) {
            let prefix = Path::new(OsStr::from_bytes(&path[..end]));
            let Ok((directory, last)) = self.root.parent_of(prefix) else { return Ok(()) };
            match directory.metadata_if_exists(&last) {
                Ok(Some(found)) if found.is_whiteout() => {
                    let lift = || {
                        directory.remove_file(&last)?;
                        directory.create_dir(&last, 0o755)?;
                        let created = directory.open_dir(&last)?;
                        rustix::fs::fchmod(&created, Mode::from_raw_mode(0o755))?;
                        xattr::set(&created, OPAQUE, b"y")
                    };
                    lift().map_err(failed(entry, "create the parent of"))?;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Owner, attributes, mode and times of an entry that can't be opened.
    fn dress_at(&mut self, entry: &Entry, name: &Name) -> Result<(), LayerError> {
        let (parent_path, last) = name.split();
        let last = OsStr::from_bytes(last);
        let parent = self.parent(entry, parent_path)?;
        let dress = || {
            parent.set_owner(last, entry.uid, entry.gid)?;
            for (attribute, value) in kept_xattrs(entry) {
                let set = xattr::set_at(parent, last, OsStr::from_bytes(attribute), value);
                tolerate_unsupported(set, attribute)?;
            }
            if entry.kind != Kind::Symlink {
                parent.set_mode(last, entry.mode)?;
            }
            parent.set_times(last, entry.modified, entry.modified)
        };
        dress().map_err(failed(entry, "set the attributes of"))
    }

    /// Times, and the access lists that new entries would inherit.
    fn set_times_at_the_end(&mut self, name: Name, entry: &Entry) -> Result<(), LayerError> {
        let inherited: Vec<_> = kept_xattrs(entry).filter(|(name, _)| is_inherited(name)).cloned().collect();
        self.remember(
            name.as_bytes().len()
                + size_of::<Unfinished>()
                + inherited.iter().map(|(_, value)| value.len()).sum::<usize>(),
        )?;
        self.directories.push(Unfinished { name, modified: entry.modified, inherited });
        Ok(())
    }

    /// Notes that this layer wrote here, and so in every directory above.
    fn mark_written(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let mut path = path;
        while !path.is_empty() && !self.written.contains(path) {
            self.remember(path.len())?;
            self.written.insert(path.to_vec());
            path = path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash]);
        }
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.remembered += bytes + 64;
        if self.remembered > self.limits.remembered_bytes {
            return Err(LayerError::Directories { limit: self.limits.remembered_bytes });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Applied, LayerError> {
        if self.applied.incomplete.is_some() {
            return Ok(self.applied);
        }
        self.handles.clear();
        for Unfinished { name, modified, inherited } in &self.directories {
            let path = Path::new(OsStr::from_bytes(name.as_bytes()));
            // What was replaced since by something else has its own times.
            let Ok(found) = self.root.symlink_metadata(path) else { continue };
            if !found.is_dir() {
                continue;
            }
            let finish = || {
                let directory = self.root.open_dir(path)?;
                for (attribute, value) in inherited {
                    let name = String::from_utf8_lossy(attribute);
                    tolerate_unsupported(xattr::set(&directory, &name, value), attribute)?;
                }
                Ok(rustix::fs::futimens(&directory, &timestamps(*modified))?)
            };
            finish().map_err(|source: io::Error| LayerError::Entry {
                action: "set the times of",
                entry: lossy(name.as_bytes()),
                source,
            })?;
        }
        if self.replaced && self.form == Form::Alone {
            self.applied.size = tree_size(self.root.as_directory())?;
        }
        Ok(self.applied)
    }
}

/// Bytes of the files in a tree: each inode once, without directories, as Docker counts a layer.
pub(crate) fn tree_size(root: &Directory) -> Result<u64, LayerError> {
    let at = |source| LayerError::Entry { action: "measure", entry: "/".to_owned(), source };
    let mut seen = HashSet::new();
    let mut size = 0u64;
    let mut pending = vec![root.try_clone().map_err(at)?];
    while let Some(directory) = pending.pop() {
        for child in directory.entries().map_err(at)? {
            if child.kind == FileKind::Directory {
                pending.push(directory.open_dir(&child.name).map_err(at)?);
                continue;
            }
            let metadata = directory.metadata(&child.name).map_err(at)?;
            if metadata.links < 2 || seen.insert(metadata.inode) {
                size = size.saturating_add(metadata.size);
            }
        }
    }
    Ok(size)
}

fn write_segments<R: Read>(
    file: &File,
    segments: &[Segment],
    entry: &Entry,
    reader: &mut Reader<'_, R>,
) -> Result<(), LayerError> {
    let mut places = segments.iter().filter(|segment| segment.length > 0);
    let mut place = places.next().copied();
    while let Some(mut chunk) = reader.next_chunk()? {
        while let (Some(segment), false) = (place.as_mut(), chunk.is_empty()) {
            let length = usize::try_from(segment.length.min(chunk.len() as u64)).unwrap_or(chunk.len());
            let (now, later) = chunk.split_at(length);
            file.write_all_at(now, segment.offset).map_err(failed(entry, "write"))?;
            chunk = later;
            segment.offset += length as u64;
            segment.length -= length as u64;
            if segment.length == 0 {
                place = places.next().copied();
            }
        }
    }
    Ok(())
}

fn is_at_or_above(open: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn join(parent: &[u8], last: &[u8]) -> Vec<u8> {
    if parent.is_empty() { last.to_vec() } else { [parent, b"/", last].concat() }
}

fn failed<'e>(entry: &'e Entry, action: &'static str) -> impl Fn(io::Error) -> LayerError + 'e {
    move |source| LayerError::Entry { action, entry: lossy(&entry.path), source }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod generated;
