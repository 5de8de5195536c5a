//! Looking through a root file system.

use std::io;
use std::path::{Path, PathBuf};

use palan_linux::path::{FileKind, PathError, RootDir};

use crate::package::{Distribution, Package};
use crate::{apk, dpkg, npm, os, python};

/// The largest database of a distribution.
const MAX_DATABASE: u64 = 128 << 20;
/// The largest file about one package.
const MAX_FILE: u64 = 4 << 20;
/// Directories that are looked through, one in another.
const MAX_DEPTH: usize = 64;
/// Packages that are listed.
const MAX_PACKAGES: usize = 1 << 20;

/// Where RPM keeps what it knows.
const RPM: [&str; 5] = [
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/Packages",
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "usr/lib/sysimage/rpm/Packages.db",
];

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A database that can't be read.
    #[error("the packages of /{path} can't be listed")]
    Database {
        /// Which.
        path: String,
        /// Why.
        source: PathError,
    },
    /// A database of a kind that is not known here.
    #[error(
        "the packages of /{path} can't be listed: RPM's database is not supported by this scanner; build without --sbom"
    )]
    Rpm {
        /// Which.
        path: &'static str,
    },
    /// The file system itself.
    #[error("the image's files can't be looked through")]
    Walk(#[source] PathError),
    /// More than any image has.
    #[error("more than {MAX_PACKAGES} packages are installed")]
    TooMany,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whose distribution it is.
    pub distribution: Distribution,
    /// In order, each once.
    pub packages: Vec<Package>,
}

/// Looks through a root file system. `is_over` is asked now and then whether anybody still waits.
pub fn scan(root: &RootDir, is_over: &dyn Fn() -> bool) -> Result<Found, ScanError> {
    let mut found = Found::default();
    for path in os::FILES {
        if let Some(text) = database(root, path, MAX_FILE)? {
            found.distribution = os::parse(&text);
            break;
        }
    }
    for path in apk::DATABASES {
        if let Some(text) = database(root, path, MAX_DATABASE)? {
            found.packages.extend(apk::parse(&text, path));
        }
    }
    if let Some(text) = database(root, dpkg::STATUS, MAX_DATABASE)? {
        found.packages.extend(dpkg::parse(&text, dpkg::STATUS));
    }
    for entry in root.read_dir(dpkg::STATUS_D).unwrap_or_default() {
        let path = format!("{}/{}", dpkg::STATUS_D, entry.name.to_string_lossy());
        if entry.kind == FileKind::Regular
            && !path.ends_with(".md5sums")
            && let Some(text) = database(root, &path, MAX_FILE)?
        {
            found.packages.extend(dpkg::parse(&text, &path));
        }
    }
    if let Some(path) = RPM.iter().find(|path| is_file(root, path)) {
        return Err(ScanError::Rpm { path });
    }
    walk(root, is_over, &mut found.packages)?;
    found.packages.sort_unstable();
    found.packages.dedup();
    Ok(found)
}

fn is_file(root: &RootDir, path: &str) -> bool {
    root.metadata(path).is_ok_and(|metadata| metadata.kind == FileKind::Regular && metadata.size > 0)
}

/// A file that is there or not; everything else is an error.
fn database(root: &RootDir, path: &str, limit: u64) -> Result<Option<String>, ScanError> {
    match root.metadata(path) {
        Ok(metadata) if metadata.kind == FileKind::Regular => {}
        Ok(_) => return Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(ScanError::Database { path: path.to_owned(), source }),
    }
    let content = root.read(path, limit);
    let content = content.map_err(|source| ScanError::Database { path: path.to_owned(), source })?;
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}

/// Packages of languages, wherever they lie. Symlinks are not followed: what they lead to is found where it is.
fn walk(root: &RootDir, is_over: &dyn Fn() -> bool, packages: &mut Vec<Package>) -> Result<(), ScanError> {
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        if is_over() {
            return Ok(());
        }
        if packages.len() > MAX_PACKAGES {
            return Err(ScanError::TooMany);
        }
        let at = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        let mut entries = root.read_dir(at).map_err(ScanError::Walk)?;
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            let path = directory.join(&entry.name);
            match entry.kind {
                FileKind::Directory => {
                    if let Some(file) = path.to_str().and_then(python::file_of) {
                        packages.extend(read(root, &path.join(file), |text, at| {
                            python::parse(&String::from_utf8_lossy(text), at)
                        }));
                    } else if path.components().count() <= MAX_DEPTH && !is_kernels(&path) {
                        directories.push(path);
                    }
                }
                FileKind::Regular if entry.name == npm::FILE && is_in_modules(&directory) => {
                    packages.extend(read(root, &path, npm::parse));
                }
                // A package without a directory of its own.
                FileKind::Regular if path.extension().is_some_and(|name| name == "egg-info") => {
                    packages.extend(read(root, &path, |text, at| {
                        python::parse(&String::from_utf8_lossy(text), at)
                    }));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// File systems of the kernel's own are empty in an image, or somebody's joke.
fn is_kernels(path: &Path) -> bool {
    ["proc", "sys", "dev"].iter().any(|name| path == Path::new(name))
}

/// Whether a directory is `…/node_modules/name` or `…/node_modules/@scope/name`.
fn is_in_modules(directory: &Path) -> bool {
    let mut above = directory.ancestors().skip(1).filter_map(Path::file_name);
    match above.next() {
        Some(name) if name == "node_modules" => true,
        Some(scope) if scope.as_encoded_bytes().starts_with(b"@") => {
            above.next().is_some_and(|name| name == "node_modules")
        }
        _ => false,
    }
}

/// A package's file; one that can't be read says nothing.
fn read(root: &RootDir, path: &Path, parse: impl Fn(&[u8], &str) -> Option<Package>) -> Option<Package> {
    if root.symlink_metadata(path).ok()?.kind != FileKind::Regular {
        return None;
    }
    let content = root.read(path, MAX_FILE).ok()?;
    parse(&content, &path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, RootDir) {
        let directory = tempfile::tempdir().expect("temporary");
        for (name, content) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            std::fs::write(path, content).expect("writes");
        }
        let root = RootDir::open(directory.path()).expect("opens");
        (directory, root)
    }

    fn names(root: &RootDir) -> Vec<String> {
        let found = scan(root, &|| false).expect("a list");
        found.packages.into_iter().map(|package| format!("{} {}", package.name, package.version)).collect()
    }

    #[test]
    fn all_kinds_are_found_where_they_are() {
        let (directory, root) = tree(&[
            ("etc/os-release", "ID=debian\nVERSION_ID=12\n"),
            ("var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\n"),
            ("var/lib/dpkg/status.d/b", "Package: b\nVersion: 2\n"),
            ("var/lib/dpkg/status.d/b.md5sums", "Package: no\nVersion: 2\n"),
            ("lib/apk/db/installed", "P:c\nV:3\n"),
            ("usr/lib/python3/site-packages/d-4.dist-info/METADATA", "Name: d\nVersion: 4\n"),
            ("opt/e.egg-info", "Name: e\nVersion: 5\n"),
            ("srv/node_modules/f/package.json", r#"{"name":"f","version":"6"}"#),
            ("srv/node_modules/@s/g/package.json", r#"{"name":"@s/g","version":"7"}"#),
            ("srv/node_modules/f/lib/package.json", r#"{"name":"no","version":"6"}"#),
            ("srv/package.json", r#"{"name":"no","version":"6"}"#),
            ("proc/node_modules/x/package.json", r#"{"name":"no","version":"6"}"#),
        ]);
        std::os::unix::fs::symlink("/srv", directory.path().join("again")).expect("links");
        assert_eq!(names(&root), ["c 3", "a 1", "b 2", "@s/g 7", "f 6", "d 4", "e 5"]);
        let found = scan(&root, &|| false).expect("a list");
        assert_eq!(found.distribution, Distribution { id: "debian".to_owned(), version: "12".to_owned() });
        assert_eq!(scan(&root, &|| true).expect("in vain").packages.len(), 3);
    }

    #[test]
    fn nothing_is_a_list_too_and_what_leads_out_is_nothing() {
        let (directory, root) = tree(&[]);
        assert_eq!(names(&root), [""; 0]);
        let outside = tempfile::tempdir().expect("temporary");
        std::fs::write(outside.path().join("status"), "Package: out\nVersion: 1\n").expect("writes");
        std::fs::create_dir_all(directory.path().join("var/lib")).expect("makes");
        std::os::unix::fs::symlink(outside.path(), directory.path().join("var/lib/dpkg")).expect("links");
        assert_eq!(names(&root), [""; 0]);
    }

    #[test]
    fn a_database_that_is_not_known_is_no_empty_list() {
        let (_directory, root) = tree(&[("var/lib/rpm/rpmdb.sqlite", "x")]);
        let error = scan(&root, &|| false).expect_err("RPM").to_string();
        assert!(error.contains("RPM's database is not supported"), "{error}");
    }
}
