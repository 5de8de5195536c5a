//! A container's own directory over the layers of its image: what changed, as a list and as a layer's tar, and the whole as
//! a tar.
//!
//! Both sides are read where they lie, without a mount of the two together: the own directory may belong to an overlay
//! that is mounted and written to at this moment, and the kernel calls a second mount of it undefined. What the kernel shows
//! is simple enough to be told from the two: a whiteout (character device 0/0) hides a name, an opaque directory hides all
//! that is below it, anything but a directory hides what has its name.
//!
//! **Invariant:** every name is reached by a handle on its directory and never through a symlink, and the walk keeps its
//! own stack: a container may nest directories deeper than any thread's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::vec::IntoIter;

use palan_linux::path::{Directory, Metadata, RootDir};
use palan_linux::xattr;
use palan_tar::pack::{MAX_DEPTH, absolute, failed, is_gone};
pub use palan_tar::pack::{Picked, TreeError};

mod changes;
mod copy;
mod pack;
mod plain;
mod settle;

pub use changes::{Change, ChangeKind};
pub use copy::{Unpacking, unpack_into};
pub use plain::{UnpackError, is_archive, pack, pack_several, unpack};

const OPAQUE: &str = "trusted.overlay.opaque";

/// The two sides.
#[derive(Debug)]
pub struct Overlaid {
    /// What the container wrote.
    upper: RootDir,
    /// What was there before, merged.
    lower: RootDir,
    /// A file in the root that the engine put there: no change of the container's while it is empty.
    mark: OsString,
}

impl Overlaid {
    /// `upper` over `lower`. An empty file `mark` in the root of `upper` is not looked at.
    pub fn new(upper: RootDir, lower: RootDir, mark: &str) -> Self {
        Self { upper, lower, mark: mark.into() }
    }

    /// Visits names in order, each directory before what is in it.
    fn walk(
        &self,
        scope: Scope,
        visit: &mut dyn FnMut(&Visited<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let root = |side: &RootDir| {
            // A fresh mount is given as a descriptor that can't be read from.
            let opened = side.open_dir(".");
            opened.map_err(|error| TreeError::Read {
                action: "open",
                path: "/".to_owned(),
                source: error.source,
            })
        };
        let mut levels =
            vec![Level::open(Vec::new(), Some(root(&self.upper)?), Some(root(&self.lower)?), false, scope)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, found)) = level.names.next() else {
                levels.pop();
                continue;
            };
            let path = below(&level.path, &name);
            let is_root = level.path.is_empty();
            let Some(visited) = level.look(&path, &name, found, is_root.then_some(&*self.mark))? else {
                continue;
            };
            visit(&visited)?;
            let Some(next) = visited.descend(scope)? else { continue };
            if levels.len() >= MAX_DEPTH {
                return Err(TreeError::Depth { path: absolute(&path) });
            }
            levels.push(next);
        }
        Ok(())
    }
}

/// Which names are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// What the container wrote, and what its opaque directories hide.
    Own,
    /// What the container sees.
    Visible,
}

/// One directory of the walk.
struct Level {
    path: Vec<u8>,
    upper: Option<Directory>,
    lower: Option<Directory>,
    /// Nothing of the lower side shows through.
    opaque: bool,
    names: IntoIter<(OsString, Sides)>,
}

/// On which sides a name is.
#[derive(Debug, Clone, Copy, Default)]
struct Sides {
    upper: bool,
    lower: bool,
}

/// A name, and what is there.
struct Visited<'l> {
    path: &'l [u8],
    name: &'l OsStr,
    upper: Option<(&'l Directory, Metadata)>,
    /// What is below, seen or hidden.
    lower: Option<(&'l Directory, Metadata)>,
    /// Where the directory that it is in is opaque.
    in_opaque: bool,
    /// It is a directory that hides what is below.
    opaque: bool,
}

impl Level {
    fn open(
        path: Vec<u8>,
        upper: Option<Directory>,
        lower: Option<Directory>,
        opaque: bool,
        scope: Scope,
    ) -> Result<Self, TreeError> {
        let mut names: BTreeMap<OsString, Sides> = BTreeMap::new();
        let entries = |directory: &Directory| directory.entries().map_err(failed("list", &path));
        if let Some(upper) = &upper {
            for entry in entries(upper)? {
                names.entry(entry.name).or_default().upper = true;
            }
        }
        let wanted = match scope {
            Scope::Own => opaque,
            Scope::Visible => !opaque,
        };
        if let Some(lower) = lower.as_ref().filter(|_| wanted) {
            for entry in entries(lower)? {
                names.entry(entry.name).or_default().lower = true;
            }
        }
        let names = names.into_iter().collect::<Vec<_>>().into_iter();
        Ok(Self { path, upper, lower, opaque, names })
    }

    /// What a name is on both sides; nothing where it went meanwhile.
    fn look<'l>(
        &'l self,
        path: &'l [u8],
        name: &'l OsStr,
        found: Sides,
        mark: Option<&OsStr>,
    ) -> Result<Option<Visited<'l>>, TreeError> {
        let metadata =
            |directory: &Directory| directory.metadata_if_exists(name).map_err(failed("inspect", path));
        let mut upper = None;
        if let (true, Some(directory)) = (found.upper, &self.upper) {
            upper = metadata(directory)?.map(|metadata| (directory, metadata));
        }
        if mark == Some(name) {
            upper = upper.filter(|(_, metadata)| !metadata.is_file() || metadata.size > 0);
        }
        let mut lower = None;
        if let (true, Some(directory)) = (upper.is_some() || found.lower, &self.lower) {
            lower = metadata(directory)?.map(|metadata| (directory, metadata));
        }
        if upper.is_none() && (lower.is_none() || !found.lower) {
            return Ok(None);
        }
        let mut opaque = false;
        if let Some((directory, _)) = upper.as_ref().filter(|(_, metadata)| metadata.is_dir()) {
            opaque = match xattr::get_at(directory, name, OsStr::new(OPAQUE)) {
                Err(error) if is_gone(&error) => false,
                value => value.map_err(failed("read the attributes of", path))?.as_deref() == Some(b"y"),
            };
        }
        Ok(Some(Visited { path, name, upper, lower, in_opaque: self.opaque, opaque }))
    }
}

impl Visited<'_> {
    fn is_whiteout(&self) -> bool {
        self.upper.as_ref().is_some_and(|(_, metadata)| metadata.is_whiteout())
    }

    /// The directory to walk next, if this is one that is looked into.
    fn descend(&self, scope: Scope) -> Result<Option<Level>, TreeError> {
        let open = |side: &Option<(&Directory, Metadata)>| match side {
            Some((directory, metadata)) if metadata.is_dir() => match directory.open_dir(self.name) {
                Err(error) if is_gone(&error) => Ok(None),
                other => other.map(Some).map_err(failed("open", self.path)),
            },
            _ => Ok(None),
        };
        let upper = open(&self.upper)?;
        if upper.is_none() && (self.upper.is_some() || scope == Scope::Own) {
            return Ok(None);
        }
        let lower = open(&self.lower)?;
        if upper.is_none() && lower.is_none() {
            return Ok(None);
        }
        // Below an opaque directory everything is the container's own.
        let lower = lower.filter(|_| !self.in_opaque || scope == Scope::Own);
        let opaque = self.opaque || self.in_opaque;
        Level::open(self.path.to_vec(), upper, lower, opaque, scope).map(Some)
    }
}

fn below(directory: &[u8], name: &OsStr) -> Vec<u8> {
    if directory.is_empty() {
        return name.as_bytes().to_vec();
    }
    [directory, b"/", name.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
