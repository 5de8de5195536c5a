//! Visiting the files of a context.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use palan_linux::path::{DirEntry, Directory, FileKind, Metadata, RootDir};

use crate::{Ignore, Matches};

/// How deep directories may be nested. Each one on the way holds a descriptor.
const MAX_DEPTH: usize = 256;

/// A file, directory or symlink of a context.
#[derive(Debug)]
pub struct Entry<'a> {
    directory: &'a Directory,
    name: &'a OsStr,
    /// Its path, relative to the context.
    pub path: &'a Path,
    /// What it is; never a socket.
    pub metadata: Metadata,
}

/// A context that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// An entry can't be looked at.
    #[error("cannot read {} in the build context", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Directories in directories without an end.
    #[error("the build context has more than {MAX_DEPTH} directories in each other: {}", path.display())]
    TooDeep {
        /// The first one too many.
        path: PathBuf,
    },
}

impl Entry<'_> {
    /// The directory that it is in, and its name there.
    pub fn place(&self) -> (&Directory, &OsStr) {
        (self.directory, self.name)
    }

    /// Opens a regular file for reading.
    pub fn open(&self) -> Result<File, WalkError> {
        let opened = self.directory.open_file(self.name);
        opened.map_err(|source| WalkError::Read { path: self.path.to_owned(), source })
    }

    /// Where a symlink points to, as written.
    pub fn read_link(&self) -> Result<PathBuf, WalkError> {
        let link = self.directory.read_link(self.name);
        link.map_err(|source| WalkError::Read { path: self.path.to_owned(), source })
    }
}

/// Visits what the ignore file leaves, each directory before what is in it, names in the order of their bytes. A directory
/// that is left out comes, too, if an exception in it does. Sockets are no content of a file system and are left out.
pub fn walk<E: From<WalkError>>(
    root: &RootDir,
    ignore: &Ignore,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let unreadable = |path: &Path, source| WalkError::Read { path: path.to_owned(), source };
    let top = root.as_directory().try_clone().map_err(|source| unreadable(Path::new("."), source))?;
    let mut stack =
        vec![Frame::new(top, OsString::new()).map_err(|source| unreadable(Path::new("."), source))?];
    let mut path = PathBuf::new();
    while let Some(frame) = stack.last_mut() {
        let Some(entry) = frame.entries.next() else {
            stack.pop();
            path.pop();
            continue;
        };
        path.push(&entry.name);
        let (is_ignored, matches) = ignore.step(&path.to_string_lossy(), &frame.matches);
        let is_dir = entry.kind == FileKind::Directory;
        let is_skipped = is_ignored && !(is_dir && ignore.may_have_exceptions_in(&path.to_string_lossy()));
        // What vanishes meanwhile was never there.
        let metadata = match frame.directory.metadata(&entry.name) {
            _ if is_skipped || entry.kind == FileKind::Socket => None,
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(unreadable(&path, source).into()),
        };
        let Some(metadata) = metadata.filter(|metadata| metadata.is_dir() == is_dir) else {
            path.pop();
            continue;
        };
        if !is_ignored {
            tell_parents(&mut stack, &path, visit)?;
            let directory = &stack[stack.len() - 1].directory;
            visit(&Entry { directory, name: &entry.name, path: &path, metadata })?;
        }
        if !is_dir {
            path.pop();
            continue;
        }
        if stack.len() > MAX_DEPTH {
            return Err(WalkError::TooDeep { path }.into());
        }
        let opened = stack[stack.len() - 1]
            .directory
            .open_dir(&entry.name)
            .and_then(|directory| Frame::new(directory, entry.name));
        match opened {
            Ok(next) => stack.push(Frame { matches, is_told: !is_ignored, ..next }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.pop();
            }
            // Nobody asked for what is left out.
            Err(error) if is_ignored && error.kind() == io::ErrorKind::PermissionDenied => {
                path.pop();
            }
            Err(source) => return Err(unreadable(&path, source).into()),
        }
    }
    Ok(())
}

/// Visits the directories on the way that are left out themselves.
fn tell_parents<E: From<WalkError>>(
    stack: &mut [Frame],
    path: &Path,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    for index in 1..stack.len() {
        if stack[index].is_told {
            continue;
        }
        stack[index].is_told = true;
        let above: PathBuf = path.iter().take(index).collect();
        let (directory, name) = (&stack[index - 1].directory, &stack[index].name);
        let metadata =
            directory.metadata(name).map_err(|source| WalkError::Read { path: above.clone(), source })?;
        visit(&Entry { directory, name, path: &above, metadata })?;
    }
    Ok(())
}

/// A directory on the way down.
struct Frame {
    directory: Directory,
    name: OsString,
    entries: std::vec::IntoIter<DirEntry>,
    matches: Matches,
    /// It was visited, or is the root.
    is_told: bool,
}

impl Frame {
    fn new(directory: Directory, name: OsString) -> io::Result<Self> {
        let mut entries = directory.entries()?;
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self { directory, name, entries: entries.into_iter(), matches: Matches::default(), is_told: true })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for file in files {
            let path = root.path().join(file);
            match file.strip_suffix('/') {
                Some(_) => fs::create_dir_all(path).expect("a directory"),
                None => {
                    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                    fs::write(path, file).expect("a file");
                }
            }
        }
        root
    }

    fn paths(root: &Path, ignore: &str) -> Vec<String> {
        let root = RootDir::open(root).expect("the root");
        let ignore = Ignore::parse(ignore.as_bytes()).expect("an ignore file");
        let mut found = Vec::new();
        walk::<WalkError>(&root, &ignore, &mut |entry| {
            found.push(entry.path.to_string_lossy().into_owned());
            Ok(())
        })
        .expect("a walk");
        found
    }

    #[test]
    fn everything_in_order() {
        let root = tree(&["b/x", "b/a/y", "a", "b.c", "empty/"]);
        assert_eq!(paths(root.path(), ""), ["a", "b", "b/a", "b/a/y", "b/x", "b.c", "empty"]);
    }

    #[test]
    fn ignored_files_and_their_exceptions() {
        let root = tree(&["a/b/c", "a/b/d", "a/e", "f", "g/h"]);
        assert_eq!(paths(root.path(), "a\n"), ["f", "g", "g/h"].map(String::from));
        assert_eq!(paths(root.path(), "a\n!a/b/c"), ["a", "a/b", "a/b/c", "f", "g", "g/h"]);
        assert_eq!(paths(root.path(), "*\n!**/h"), ["g", "g/h"]);
        assert_eq!(paths(root.path(), "*\n!a/*/**"), ["a", "a/b", "a/b/c", "a/b/d"]);
        assert_eq!(paths(root.path(), "**"), [""; 0]);
        assert_eq!(paths(root.path(), "**/b/\nf"), ["a", "a/e", "g", "g/h"]);
    }

    #[test]
    fn ignored_directories_are_not_entered() {
        let root = tree(&["secret/x", "a"]);
        let secret = root.path().join("secret");
        // Root reads everything, so what tells is that nothing below is listed; for others it is an error avoided.
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("a mode");
        assert_eq!(paths(root.path(), "secret"), ["a"]);
        assert_eq!(paths(root.path(), "secret\n!secret/nothing"), ["a"]);
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    #[test]
    fn symlinks_are_entries_and_never_ways() {
        let root = tree(&["d/x"]);
        symlink("/etc", root.path().join("out")).expect("a link");
        symlink("d", root.path().join("in")).expect("a link");
        symlink(".", root.path().join("d/loop")).expect("a link");
        assert_eq!(paths(root.path(), ""), ["d", "d/loop", "d/x", "in", "out"]);
        let handle = RootDir::open(root.path()).expect("the root");
        let mut links = Vec::new();
        walk::<WalkError>(&handle, &Ignore::default(), &mut |entry| {
            if entry.metadata.kind == FileKind::Symlink {
                links.push(entry.read_link()?);
                assert!(entry.open().is_err(), "a link is not opened");
            }
            Ok(())
        })
        .expect("a walk");
        assert_eq!(links, [".", "d", "/etc"].map(PathBuf::from));
    }

    #[test]
    fn sockets_are_left_out_and_fifos_do_not_block() {
        let root = tree(&["a"]);
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).expect("a socket");
        let handle = RootDir::open(root.path()).expect("the root");
        handle.as_directory().create_node(OsStr::new("fifo"), FileKind::Fifo, 0o600, (0, 0)).expect("a fifo");
        let mut seen = Vec::new();
        walk::<WalkError>(&handle, &Ignore::default(), &mut |entry| {
            seen.push((entry.path.to_owned(), entry.open().is_ok()));
            Ok(())
        })
        .expect("a walk");
        assert_eq!(seen, [(PathBuf::from("a"), true), (PathBuf::from("fifo"), false)]);
    }

    #[test]
    fn depth_is_bounded() {
        let root = tempfile::tempdir().expect("a directory");
        let mut path = root.path().to_owned();
        for _ in 0..=MAX_DEPTH {
            path.push("d");
        }
        fs::create_dir_all(&path).expect("directories");
        let handle = RootDir::open(root.path()).expect("the root");
        let error = walk::<WalkError>(&handle, &Ignore::default(), &mut |_| Ok(())).expect_err("too deep");
        assert!(matches!(error, WalkError::TooDeep { .. }), "{error}");
        assert!(paths(root.path(), "d").is_empty());
    }
}
