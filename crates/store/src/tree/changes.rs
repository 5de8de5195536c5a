//! What a container changed, as `docker diff` tells it.
//!
//! Docker compares the two sides name by name (moby's `pkg/archive`, `ChangesDirs`): a file counts as changed when its kind,
//! mode, owner, device, size, time or capabilities differ, a directory when its mode or owner does or something in it
//! changed; its time says nothing. What is below a directory that went is not told.

use std::ffi::OsStr;

use palan_linux::path::{FileKind, Metadata};
use palan_linux::xattr;

use super::{Overlaid, Scope, TreeError, Visited, absolute, failed, is_gone};

/// What happened to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there and is different.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As the container sees it.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
}

impl Overlaid {
    /// What changed, sorted by path; a directory stands before what is in it.
    pub fn changes(&self) -> Result<Vec<Change>, TreeError> {
        let mut list = List::default();
        self.walk(Scope::Own, &mut |visited| {
            list.leave_for(visited.path);
            match kind_of(visited)? {
                Some(kind) => list.add(visited.path, kind),
                None => list.enter(visited.path),
            }
            Ok(())
        })?;
        Ok(list.changes)
    }
}

fn kind_of(visited: &Visited<'_>) -> Result<Option<ChangeKind>, TreeError> {
    match (&visited.upper, &visited.lower) {
        (Some(_), None) if visited.is_whiteout() => Ok(None),
        (Some(_), Some(_)) if visited.is_whiteout() => Ok(Some(ChangeKind::Deleted)),
        (None, Some(_)) if visited.in_opaque => Ok(Some(ChangeKind::Deleted)),
        (Some(_), None) => Ok(Some(ChangeKind::Added)),
        (Some((_, own)), Some((_, old))) => {
            let differs = differ(own, old) || capabilities_differ(visited, own)?;
            Ok(differs.then_some(ChangeKind::Modified))
        }
        (None, _) => Ok(None),
    }
}

fn differ(own: &Metadata, old: &Metadata) -> bool {
    let alike = own.kind == old.kind
        && own.mode == old.mode
        && own.uid == old.uid
        && own.gid == old.gid
        && own.node == old.node;
    !alike || (!own.is_dir() && (own.modified != old.modified || own.size != old.size))
}

fn capabilities_differ(visited: &Visited<'_>, own: &Metadata) -> Result<bool, TreeError> {
    let (Some((upper, _)), Some((lower, _))) = (&visited.upper, &visited.lower) else { return Ok(false) };
    if own.kind != FileKind::Regular {
        return Ok(false);
    }
    let capability =
        |directory| match xattr::get_at(directory, visited.name, OsStr::new("security.capability")) {
            Err(error) if is_gone(&error) => Ok(None),
            other => other.map_err(failed("read the attributes of", visited.path)),
        };
    Ok(capability(upper)? != capability(lower)?)
}

/// The changes so far, and the directories above the current name that are not in it.
#[derive(Default)]
struct List {
    changes: Vec<Change>,
    unchanged: Vec<Vec<u8>>,
}

impl List {
    /// Forgets the directories that the name is not in.
    fn leave_for(&mut self, path: &[u8]) {
        while self.unchanged.last().is_some_and(|last| !is_below(last, path)) {
            self.unchanged.pop();
        }
    }

    fn enter(&mut self, path: &[u8]) {
        self.unchanged.push(path.to_vec());
    }

    /// A directory in which something changed is changed.
    fn add(&mut self, path: &[u8], kind: ChangeKind) {
        let above = self.unchanged.drain(..).map(|path| (path, ChangeKind::Modified));
        let new = above.chain([(path.to_vec(), kind)]);
        self.changes.extend(new.map(|(path, kind)| Change { path: absolute(&path), kind }));
    }
}

fn is_below(directory: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}
