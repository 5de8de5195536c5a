//! What files are, as far as keys are concerned: names, kinds, modes, owners, link targets, bytes, and the extended attributes that
//! a copy keeps. No times.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use palan_context::{Entry, Ignore, Pattern, WalkError, walk};
use palan_linux::path::{FileKind, Metadata, PathError, RootDir};
use palan_linux::xattr;
use palan_oci::{Digest, digest::Hasher};

/// Files that can't be digested.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// There is no such file.
    #[error("{path:?}: not found")]
    NotFound {
        /// As the Dockerfile names it, from the root.
        path: String,
    },
    /// Brackets without an end, or the like.
    #[error("syntax error in pattern {0:?}")]
    Pattern(String),
    /// It can't be looked at.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Something in it can't be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A file can't be read to its end.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whose owners count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those of the files: of a stage or an image.
    Kept,
    /// Root's: the files of a context belong to nobody in the image.
    Root,
}

/// What is known of the content of files that only change with their inode, size or time of change.
pub trait KnownContent: Send + Sync {
    /// The digest of a file's bytes. Such a file has no extended attributes that a copy keeps.
    fn get(&self, file: &Metadata) -> Option<Digest>;

    /// Told of such a file that was read.
    fn put(&self, file: &Metadata, digest: Digest);
}

/// What a pattern's characters mean, and `**` among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// There are no wildcards: a path, by its letters.
    Literal,
    /// The same as `*`.
    One,
    /// Any number of directories.
    Any,
}

/// The paths that a pattern stands for, in order. Symlinks on the way are followed inside of the root. A path without wildcards
/// must exist; with wildcards it may be none.
pub fn select(root: &RootDir, pattern: &str, depth: Depth) -> Result<Vec<PathBuf>, ContentError> {
    let mut paths = vec![PathBuf::new()];
    let mut has_wildcards = false;
    for part in pattern.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            // Above the root there is the root.
            paths.iter_mut().for_each(|path| {
                path.pop();
            });
            continue;
        }
        if part == "**" && depth == Depth::Any {
            has_wildcards = true;
            let mut found = Vec::new();
            for path in paths {
                directories(root, &path, &mut found)?;
            }
            paths = found;
            continue;
        }
        if depth == Depth::Literal {
            paths.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let compiled = Pattern::new(part).ok_or_else(|| ContentError::Pattern(pattern.to_owned()))?;
        if !part.contains(['*', '?', '[', '\\']) {
            paths.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        has_wildcards = true;
        let mut found = Vec::new();
        for path in paths {
            // What is no directory has nothing that could match.
            let Ok(entries) = root.read_dir(&path) else { continue };
            let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
            names.retain(|name| compiled.matches(&name.to_string_lossy()));
            names.sort();
            found.extend(names.into_iter().map(|name| path.join(name)));
        }
        paths = found;
    }
    let mut existing = Vec::new();
    for path in paths {
        match root.metadata(&path) {
            Ok(_) => existing.push(path),
            Err(error) if has_wildcards && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(ContentError::NotFound { path: format!("/{}", path.display()) });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(existing)
}

/// A directory and all that are in it. Symlinks are no directories here.
fn directories(root: &RootDir, path: &Path, found: &mut Vec<PathBuf>) -> Result<(), ContentError> {
    if !root.metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    found.push(path.to_owned());
    let below = root.open_root(path)?;
    walk::<WalkError>(&below, &Ignore::default(), &mut |entry| {
        if entry.metadata.is_dir() {
            found.push(path.join(entry.path));
        }
        Ok(())
    })?;
    Ok(())
}

/// A digest of what the patterns stand for, without what `exclude` leaves out of it. With [`Depth::Any`], which is what
/// `--parents` has, the directories above count, too. Files are read that are not `known`.
pub fn digest(
    root: &RootDir,
    patterns: &[&str],
    depth: Depth,
    exclude: &Ignore,
    owners: Owners,
    known: Option<&dyn KnownContent>,
) -> Result<Digest, ContentError> {
    let mut summer = Summer { hasher: Hasher::new(), owners, known, buffer: vec![0; 256 * 1024] };
    for pattern in patterns {
        let paths = select(root, pattern, depth)?;
        summer.number(paths.len() as u64);
        for path in paths {
            if depth == Depth::Any {
                summer.parents(root, &path)?;
            }
            summer.source(root, &path, exclude)?;
        }
    }
    Ok(summer.hasher.finish())
}

/// The extended attributes that a copy keeps, by their names: all but what overlay and this host's security modules say.
pub fn kept_attributes(file: impl AsFd) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for name in xattr::list(&file)? {
        let text = name.as_bytes();
        let is_of_host = text.starts_with(b"trusted.overlay.")
            || text.starts_with(b"user.overlay.")
            || (text.starts_with(b"security.") && text != b"security.capability");
        if !is_of_host
            && let Some(text) = name.to_str()
            && let Some(value) = xattr::get(&file, text)?
        {
            attributes.push((name, value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> ContentError + '_ {
    move |source| ContentError::Read { path: path.to_owned(), source }
}

struct Summer<'a> {
    hasher: Hasher,
    owners: Owners,
    known: Option<&'a dyn KnownContent>,
    buffer: Vec<u8>,
}

impl Summer<'_> {
    fn number(&mut self, number: u64) {
        self.hasher.update(&number.to_be_bytes());
    }

    /// With its length, so that two texts in a row are never another two.
    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.hasher.update(text);
    }

    fn parents(&mut self, root: &RootDir, path: &Path) -> Result<(), ContentError> {
        let above: Vec<&Path> =
            path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        self.number(above.len() as u64);
        for directory in above {
            self.text(directory.as_os_str().as_bytes());
            self.attributes(&root.metadata(directory)?);
            self.extended(root.open_root(directory)?.as_directory(), directory)?;
        }
        Ok(())
    }

    /// A source itself is followed; what is in it is not.
    fn source(&mut self, root: &RootDir, path: &Path, exclude: &Ignore) -> Result<(), ContentError> {
        let metadata = root.metadata(path)?;
        self.text(path.file_name().unwrap_or_default().as_bytes());
        self.attributes(&metadata);
        match metadata.kind {
            FileKind::Directory => {
                let below = root.open_root(path)?;
                self.extended(below.as_directory(), path)?;
                walk(&below, exclude, &mut |entry| self.entry(entry))?;
                // The end, which no name's length is.
                self.number(u64::MAX);
            }
            FileKind::Regular => self.file(&metadata, path, || Ok(root.open_file(path)?))?,
            _ => {}
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), ContentError> {
        self.text(entry.path.as_os_str().as_bytes());
        self.attributes(&entry.metadata);
        match entry.metadata.kind {
            FileKind::Regular => self.file(&entry.metadata, entry.path, || Ok(entry.open()?))?,
            FileKind::Directory => {
                let (above, name) = entry.place();
                let directory = above.open_dir(name).map_err(read(entry.path))?;
                self.extended(&directory, entry.path)?;
            }
            FileKind::Symlink => {
                let target = entry.read_link()?;
                self.text(target.as_os_str().as_bytes());
            }
            _ => {}
        }
        Ok(())
    }

    fn attributes(&mut self, metadata: &Metadata) {
        let (uid, gid) = match self.owners {
            Owners::Kept => (metadata.uid, metadata.gid),
            Owners::Root => (0, 0),
        };
        let kind = match metadata.kind {
            FileKind::Regular => 1,
            FileKind::Directory => 2,
            FileKind::Symlink => 3,
            FileKind::Fifo => 4,
            FileKind::CharacterDevice => 5,
            FileKind::BlockDevice => 6,
            FileKind::Socket | FileKind::Unknown => 7,
        };
        // A symlink's mode is nothing that anybody could change.
        let mode = if metadata.kind == FileKind::Symlink { 0 } else { metadata.mode };
        for number in [kind, mode, uid, gid, metadata.node.0, metadata.node.1] {
            self.number(number.into());
        }
    }

    /// Extended attributes of a file or directory; how many there are.
    fn extended(&mut self, file: impl AsFd, path: &Path) -> Result<usize, ContentError> {
        let attributes = kept_attributes(file).map_err(read(path))?;
        let count = attributes.len();
        self.number(count as u64);
        for (name, value) in attributes {
            self.text(name.as_bytes());
            self.text(&value);
        }
        Ok(count)
    }

    /// A file's extended attributes and content.
    fn file(
        &mut self,
        metadata: &Metadata,
        path: &Path,
        open: impl FnOnce() -> Result<File, ContentError>,
    ) -> Result<(), ContentError> {
        if let Some(digest) = self.known.and_then(|known| known.get(metadata)) {
            self.number(0);
            self.hasher.update(digest.as_bytes());
            return Ok(());
        }
        let mut file = open()?;
        let attributes = self.extended(&file, path)?;
        let digest = self.bytes(&mut file, path)?;
        self.hasher.update(digest.as_bytes());
        if let Some(known) = self.known.filter(|_| attributes == 0) {
            known.put(metadata, digest);
        }
        Ok(())
    }

    fn bytes(&mut self, file: &mut impl Read, path: &Path) -> Result<Digest, ContentError> {
        let mut content = Hasher::new();
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => content.update(&self.buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(read(path)(source)),
            }
        }
        Ok(content.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::SystemTime;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("src/lib")).expect("directories");
        for name in ["src/a.c", "src/b.c", "src/lib/x.h", "top"] {
            fs::write(root.path().join(name), name).expect("a file");
        }
        symlink("src", root.path().join("link")).expect("a link");
        root
    }

    fn of(root: &Path, patterns: &[&str]) -> Digest {
        let root = RootDir::open(root).expect("the root");
        digest(&root, patterns, Depth::One, &Ignore::default(), Owners::Root, None).expect("a digest")
    }

    fn selected(root: &Path, pattern: &str) -> Vec<String> {
        let root = RootDir::open(root).expect("the root");
        let paths = select(&root, pattern, Depth::One).expect("paths");
        paths.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn patterns_stand_for_paths() {
        let root = tree();
        assert_eq!(selected(root.path(), "src/*.c"), ["src/a.c", "src/b.c"]);
        assert_eq!(selected(root.path(), "/s*/lib/./x.h"), ["src/lib/x.h"]);
        assert_eq!(selected(root.path(), "link/*.c"), ["link/a.c", "link/b.c"]);
        assert_eq!(selected(root.path(), "../../top"), ["top"]);
        assert_eq!(selected(root.path(), "."), [""]);
        assert_eq!(selected(root.path(), "no*"), [""; 0]);
        let root = RootDir::open(root.path()).expect("the root");
        let error = select(&root, "src/none", Depth::One).expect_err("no such file");
        assert_eq!(error.to_string(), "\"/src/none\": not found");
        assert_eq!(
            select(&root, "top/x", Depth::One).expect_err("no directory").to_string(),
            "\"/top/x\": not found"
        );
        assert!(matches!(select(&root, "[", Depth::One).expect_err("a pattern"), ContentError::Pattern(_)));
    }

    #[test]
    fn content_counts_and_times_do_not() {
        let root = tree();
        let before = of(root.path(), &["src"]);
        fs::File::open(root.path().join("src/a.c"))
            .expect("a file")
            .set_modified(SystemTime::UNIX_EPOCH)
            .expect("a time");
        assert_eq!(of(root.path(), &["src"]), before);
        assert_eq!(of(root.path(), &["link"]).to_string().len(), before.to_string().len());
        fs::set_permissions(root.path().join("src/a.c"), fs::Permissions::from_mode(0o755)).expect("a mode");
        let changed = of(root.path(), &["src"]);
        assert_ne!(changed, before);
        fs::write(root.path().join("src/lib/x.h"), "other").expect("a file");
        let other = of(root.path(), &["src"]);
        assert_ne!(other, changed);
        fs::rename(root.path().join("src/lib/x.h"), root.path().join("src/lib/y.h")).expect("a name");
        assert_ne!(of(root.path(), &["src"]), other);
    }

    #[test]
    fn extended_attributes_count() {
        let root = tree();
        let mut before = of(root.path(), &["src"]);
        for (path, value) in [("src/a.c", "1"), ("src/a.c", "2"), ("src/lib", "1"), ("src", "1")] {
            let file = fs::File::open(root.path().join(path)).expect("a file");
            xattr::set(&file, "user.palan", value.as_bytes()).expect("an attribute");
            let after = of(root.path(), &["src"]);
            assert_ne!(after, before, "{path} {value}");
            before = after;
        }
        let file = fs::File::open(root.path().join("src/a.c")).expect("a file");
        xattr::set(&file, "user.overlay.palan", b"1").expect("an attribute");
        assert_eq!(of(root.path(), &["src"]), before, "what no copy keeps does not count");
    }

    /// Knows what it is told, by inode.
    #[derive(Default)]
    struct Memory(std::sync::Mutex<std::collections::HashMap<u64, Digest>>);

    impl KnownContent for Memory {
        fn get(&self, file: &Metadata) -> Option<Digest> {
            self.0.lock().expect("a map").get(&file.inode).copied()
        }

        fn put(&self, file: &Metadata, digest: Digest) {
            self.0.lock().expect("a map").insert(file.inode, digest);
        }
    }

    #[test]
    fn what_is_known_is_not_read() {
        let root = tree();
        let with_attribute = fs::File::open(root.path().join("src/b.c")).expect("a file");
        xattr::set(&with_attribute, "user.palan", b"1").expect("an attribute");
        let memory = Memory::default();
        let handle = RootDir::open(root.path()).expect("the root");
        let of = |known: Option<&dyn KnownContent>| {
            let patterns = ["src", "link/a.c", "top"];
            digest(&handle, &patterns, Depth::One, &Ignore::default(), Owners::Root, known).expect("a digest")
        };
        let read = of(None);
        assert_eq!(of(Some(&memory)), read);
        assert_eq!(memory.0.lock().expect("a map").len(), 3, "not the one with an attribute");
        fs::write(root.path().join("top"), "new").expect("a file");
        assert_eq!(of(Some(&memory)), read);
        memory.0.lock().expect("a map").clear();
        assert_ne!(of(Some(&memory)), read);
    }

    #[test]
    fn a_literal_path_has_no_wildcards() {
        let root = tree();
        fs::create_dir(root.path().join("[x]*")).expect("a directory");
        let root = RootDir::open(root.path()).expect("the root");
        let literal = |path: &str| select(&root, path, Depth::Literal);
        assert_eq!(literal("/[x]*/.").expect("a path"), [PathBuf::from("[x]*")]);
        assert!(matches!(literal("src/*.c"), Err(ContentError::NotFound { .. })));
        assert!(matches!(literal("["), Err(ContentError::NotFound { .. })));
    }

    #[test]
    fn what_is_not_selected_does_not_count() {
        let root = tree();
        let before = of(root.path(), &["src/*.c"]);
        fs::write(root.path().join("src/lib/new"), "").expect("a file");
        fs::write(root.path().join("top"), "other").expect("a file");
        assert_eq!(of(root.path(), &["src/*.c"]), before);
        let handle = RootDir::open(root.path()).expect("the root");
        let without = Ignore::parse(b"lib").expect("patterns");
        let excluded = digest(&handle, &["src"], Depth::One, &without, Owners::Root, None).expect("a digest");
        fs::write(root.path().join("src/lib/new"), "more").expect("a file");
        assert_eq!(
            digest(&handle, &["src"], Depth::One, &without, Owners::Root, None).expect("a digest"),
            excluded
        );
    }

    #[test]
    fn links_inside_are_links() {
        let root = tree();
        symlink("/etc/passwd", root.path().join("src/out")).expect("a link");
        let before = of(root.path(), &["src"]);
        fs::remove_file(root.path().join("src/out")).expect("no link");
        symlink("/etc/group", root.path().join("src/out")).expect("a link");
        assert_ne!(of(root.path(), &["src"]), before);
        // A source that leads out ends at the root, where there is no such file.
        let handle = RootDir::open(root.path()).expect("the root");
        assert!(matches!(select(&handle, "src/out", Depth::One), Err(ContentError::NotFound { .. })));
    }
}
