//! What the paths of a copy mean, as Docker has it: a slash or `/.` at the end, a symlink, a name that isn't there.

use std::path::Path;

use crate::error::{CliError, Result};

/// `CONTAINER:PATH`, or a local path: one that begins with `/` or `.`, or has no colon.
pub(super) fn split_argument(argument: &str) -> (Option<&str>, &str) {
    match argument.split_once(':') {
        Some((container, path)) if !argument.starts_with('/') && !container.starts_with('.') => {
            // Nothing before the colon names no container.
            (Some(container).filter(|container| !container.is_empty()), path)
        }
        _ => (None, argument),
    }
}

/// The shortest path that means the same by its letters.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    match (rooted, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}

/// The last name of a path, without slashes behind it: `.` for none at all and where the path ends in `/.`.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None if path.is_empty() => ".",
        Some("") | None => "/",
        Some(name) => name,
    }
}

fn means_its_content(path: &str) -> bool {
    base(path) == "."
}

/// Whether only a directory will do.
fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || means_its_content(path)
}

/// A cleaned path with the slash or `/.` that it had at its end.
fn with_its_end(clean: String, original: &str) -> String {
    let slash = if clean.ends_with('/') { "" } else { "/" };
    match () {
        () if means_its_content(original) && !means_its_content(&clean) => format!("{clean}{slash}."),
        () if original.ends_with('/') => format!("{clean}{slash}"),
        () => clean,
    }
}

/// The directory and the name in it; the name is `.` where the path ends in `/.`.
pub(super) fn split_entry(path: &str) -> (String, String) {
    let cleaned = clean(path);
    if means_its_content(path) {
        return (cleaned, ".".to_owned());
    }
    let directory = match cleaned.rfind('/') {
        Some(0) => "/",
        Some(slash) => &cleaned[..slash],
        None => ".",
    };
    (directory.to_owned(), base(&cleaned).to_owned())
}

/// A local path from the root on, with its end.
pub(super) fn absolute(path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(with_its_end(clean(path), path));
    }
    let here = std::env::current_dir().map_err(|error| CliError::io("find the working directory", &error))?;
    Ok(with_its_end(clean(&format!("{}/{path}", text(&here)?)), path))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| CliError::new(format!("the path {} is not UTF-8", path.display())))
}

fn failed(what: &str, path: &str, error: &std::io::Error) -> CliError {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        _ => error.to_string(),
    };
    CliError::new(format!("{what} {path}: {why}"))
}

/// Refuses a destination whose directory is missing, and devices.
pub(super) fn check_output(path: &str) -> Result<()> {
    let cleaned = clean(path);
    let directory = match cleaned.rfind('/') {
        Some(slash) if slash > 0 => &cleaned[..slash],
        _ => "/",
    };
    if std::fs::metadata(directory).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(CliError::new(format!("invalid output path: directory {directory:?} does not exist")));
    }
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("stat", path, &error)),
        Ok(metadata) if metadata.file_type().is_char_device() || metadata.file_type().is_block_device() => {
            Err(CliError::new(format!(
                "invalid output path: {path:?} must be a directory or a regular file: got a device"
            )))
        }
        Ok(_) => Ok(()),
    }
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) is_directory: bool,
    /// What it is called in an existing directory; `.` for what is in it, without itself.
    pub(super) name: String,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) path: String,
    pub(super) exists: bool,
    pub(super) is_directory: bool,
}

impl Destination {
    /// What is at an absolute local path, with symlinks followed as far as they lead.
    pub(super) fn local(path: &str) -> Result<Self> {
        const MAX_LINKS: usize = 10;
        let mut path = path.to_owned();
        let mut links = 0;
        loop {
            match std::fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(CliError::new(format!("too many symlinks in {path}")));
                    }
                    let target =
                        std::fs::read_link(&path).map_err(|error| failed("readlink", &path, &error))?;
                    let target = text(&target)?;
                    let (directory, _) = split_entry(&path);
                    path = if target.starts_with('/') {
                        target.to_owned()
                    } else {
                        clean(&format!("{directory}/{target}"))
                    };
                }
                Ok(metadata) => return Ok(Self { path, exists: true, is_directory: metadata.is_dir() }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(failed("lstat", &path, &error)),
            }
        }
        let (directory, _) = split_entry(&path);
        let above = std::fs::metadata(&directory).map_err(|error| failed("stat", &directory, &error))?;
        if !above.is_dir() {
            return Err(CliError::new("not a directory"));
        }
        Ok(Self { path, exists: false, is_directory: false })
    }
}

/// The directory to unpack in, and what the content is called there.
pub(super) fn prepare(content: &Content, destination: &Destination) -> Result<(String, String)> {
    if destination.is_directory {
        return Ok((destination.path.clone(), content.name.clone()));
    }
    if destination.exists && content.is_directory {
        return Err(CliError::new("cannot copy directory"));
    }
    if !destination.exists && !content.is_directory && asserts_directory(&destination.path) {
        return Err(CliError::new("no such directory"));
    }
    Ok(split_entry(&destination.path))
}

/// A local file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Without symlinks.
    pub(super) directory: String,
    /// In the directory: a name, `.` for the directory itself, or `/`.
    pub(super) entry: String,
    pub(super) content: Content,
}

impl Source {
    /// Finds what an absolute path names: with `follow` what a last symlink leads to, else the link itself, unless the path ends
    /// in a slash.
    pub(super) fn local(path: &str, follow: bool) -> Result<Self> {
        let resolve = |path: &str| {
            let found = std::fs::canonicalize(path).map_err(|error| failed("lstat", path, &error))?;
            text(&found).map(str::to_owned)
        };
        let resolved = if follow || asserts_directory(path) {
            // The kernel says what is missing, and what is no directory.
            resolve(path)?
        } else {
            let (directory, name) = split_entry(path);
            with_its_end(clean(&format!("{}/{name}", resolve(&directory)?)), path)
        };
        let metadata =
            std::fs::symlink_metadata(&resolved).map_err(|error| failed("lstat", &resolved, &error))?;
        let is_directory = metadata.is_dir();
        if means_its_content(path) {
            let content = Content { is_directory, name: ".".to_owned() };
            return Ok(Self { directory: resolved, entry: ".".to_owned(), content });
        }
        let (directory, entry) = split_entry(&resolved);
        Ok(Self { directory, entry, content: Content { is_directory, name: base(path).to_owned() } })
    }
}

/// A path behind a symlink, and the link's name if that is another: the copy is called like the link.
pub(super) fn behind_link(link: &str, target: &str) -> (String, Option<String>) {
    let target = with_its_end(target.to_owned(), link);
    let name = (base(link) != base(&target)).then(|| base(link).to_owned());
    (target, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(split_argument("c:/a"), (Some("c"), "/a"));
        assert_eq!(split_argument("c:a:b"), (Some("c"), "a:b"));
        for local in ["/a:b", "./a:b", "../a:b", "a", "-"] {
            assert_eq!(split_argument(local), (None, local));
        }
    }

    #[test]
    fn ends_are_kept() {
        for (path, cleaned, end, entry) in [
            ("/a/b", "/a/b", "/a/b", ("/a", "b")),
            ("/a//b/", "/a/b", "/a/b/", ("/a", "b")),
            ("/a/./b/.", "/a/b", "/a/b/.", ("/a/b", ".")),
            ("/", "/", "/", ("/", "/")),
            ("/.", "/", "/.", ("/", ".")),
            ("a", "a", "a", (".", "a")),
            (".", ".", ".", (".", ".")),
            ("../a", "../a", "../a", ("..", "a")),
            ("/../a", "/a", "/a", ("/", "a")),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
            assert_eq!(with_its_end(clean(path), path), end, "{path}");
            assert_eq!(split_entry(path), (entry.0.to_owned(), entry.1.to_owned()), "{path}");
        }
    }

    /// Docker's table of what a copy does ("docker cp", the manual).
    #[test]
    fn where_it_goes() {
        let content = |is_directory, name: &str| Content { is_directory, name: name.into() };
        let place =
            |path: &str, exists, is_directory| Destination { path: path.into(), exists, is_directory };
        let check = |content: &Content, destination: &Destination, expected: Result<(&str, &str), &str>| {
            let found = prepare(content, destination).map_err(|error| error.message);
            let expected = expected.map(|(directory, name)| (directory.to_owned(), name.to_owned()));
            assert_eq!(found, expected.map_err(str::to_owned), "{content:?} {destination:?}");
        };
        let (file, directory, inside) = (content(false, "f"), content(true, "d"), content(true, "."));
        check(&file, &place("/x/new", false, false), Ok(("/x", "new")));
        check(&file, &place("/x/new/", false, false), Err("no such directory"));
        check(&file, &place("/x/old", true, false), Ok(("/x", "old")));
        check(&file, &place("/x", true, true), Ok(("/x", "f")));
        check(&directory, &place("/x/new", false, false), Ok(("/x", "new")));
        check(&directory, &place("/x/new/", false, false), Ok(("/x", "new")));
        check(&directory, &place("/x/old", true, false), Err("cannot copy directory"));
        check(&directory, &place("/x", true, true), Ok(("/x", "d")));
        check(&inside, &place("/x", true, true), Ok(("/x", ".")));
        check(&inside, &place("/x/new", false, false), Ok(("/x", "new")));
    }

    #[test]
    fn links() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", scratch.path().canonicalize().unwrap().display());
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("f"), "x").unwrap();
        std::os::unix::fs::symlink("d", at("link")).unwrap();
        std::os::unix::fs::symlink("f", at("file-link")).unwrap();
        let entry = |path: &str, follow| {
            let source = Source::local(path, follow).map_err(|error| error.message)?;
            Ok((source.entry, source.content.name, source.content.is_directory))
        };
        let is = |entry: &str, name: &str, directory| {
            Ok::<_, String>((entry.to_owned(), name.to_owned(), directory))
        };
        assert_eq!(entry(&at("link"), false), is("link", "link", false));
        assert_eq!(entry(&at("link"), true), is("d", "link", true));
        assert_eq!(entry(&at("link/"), false), is("d", "link", true));
        assert_eq!(entry(&at("link/."), false), is(".", ".", true));
        assert_eq!(entry(&at("file-link"), true), is("f", "file-link", false));
        assert_eq!(entry(&at("f/"), false), Err(format!("lstat {}: not a directory", at("f/"))));
        assert_eq!(entry(&at("no"), false), Err(format!("lstat {}: no such file or directory", at("no"))));
        assert_eq!(behind_link("/a/link", "/b/t"), ("/b/t".to_owned(), Some("link".to_owned())));
        assert_eq!(behind_link("/a/link/.", "/b/t"), ("/b/t/.".to_owned(), None));
        let destination = Destination::local(&at("link")).unwrap();
        assert_eq!((destination.path, destination.is_directory), (at("d"), true));
        assert!(!Destination::local(&at("new")).unwrap().exists);
        assert!(Destination::local(&at("no/new")).is_err());
        assert!(check_output(&at("no/new")).unwrap_err().message.ends_with("does not exist"));
    }
}
