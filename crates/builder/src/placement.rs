//! Which file of a `COPY` goes where.
//!
//! - A directory stands for its content, which goes to the destination.
//! - A file goes into the destination if that is a directory (by its `/` or because there is one), else it becomes it.
//! - With `--parents`, the path of each source from the context's root, or from behind `/./` in it, is kept below the destination.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use palan_linux::path::RootDir;

use crate::content::{ContentError, Depth, select};
use crate::graph::{Copy, Source};

/// A source, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its path, relative to the input's root. Symlinks on the way, and itself if it is one, are followed inside of it.
    pub from: PathBuf,
    /// Absolute, in the new layer. For a directory: where its content goes.
    pub to: PathBuf,
    /// It is a directory.
    pub is_directory: bool,
    /// Directories above it that are made, with what they are in the input: path there, and in the new layer.
    pub parents: Vec<(PathBuf, PathBuf)>,
}

/// Sources that don't fit the destination.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// A source can't be found or read.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Several files can't become one.
    #[error(
        "when copying more than one source file, the destination must be a directory and end with a /: {0}"
    )]
    NotADirectory(String),
}

/// Places the sources of one copy. `root` is an input's root by its number; `is_directory` says whether the destination is one already.
pub fn place<'a>(
    copy: &Copy,
    root: &dyn Fn(usize) -> Option<&'a RootDir>,
    is_directory: bool,
) -> Result<Vec<Placed>, PlacementError> {
    let mut placed = Vec::new();
    for source in &copy.sources {
        if let Some(root) = root(source.input) {
            placed.append(&mut of_source(
                copy,
                source,
                root,
                is_directory || copy.destination.ends_with('/'),
            )?);
        }
    }
    let files = placed.iter().filter(|placed| !placed.is_directory).count() + copy.inline.len();
    let is_one = !copy.destination.ends_with('/') && !is_directory && !copy.parents;
    if is_one && (files > 1 || (files == 1 && placed.iter().any(|placed| placed.is_directory))) {
        return Err(PlacementError::NotADirectory(copy.destination.clone()));
    }
    Ok(placed)
}

fn of_source(
    copy: &Copy,
    source: &Source,
    root: &RootDir,
    into_directory: bool,
) -> Result<Vec<Placed>, ContentError> {
    let destination = Path::new(&copy.destination);
    let (depth, pivot) = match copy.parents {
        true => (Depth::Any, pivot(&source.path)),
        false => (Depth::One, 0),
    };
    let mut placed = Vec::new();
    for from in select(root, &source.path, depth)? {
        let is_directory = root.metadata(&from).map_err(ContentError::from)?.is_dir();
        let mut parents = Vec::new();
        let to = if copy.parents {
            let kept: PathBuf = from.iter().skip(pivot).collect();
            let above = from.iter().count().saturating_sub(kept.iter().count());
            for depth in 1..kept.iter().count() {
                let here: PathBuf = from.iter().take(above + depth).collect();
                parents.push((here, destination.join(kept.iter().take(depth).collect::<PathBuf>())));
            }
            destination.join(kept)
        } else if is_directory || !into_directory {
            destination.to_owned()
        } else {
            destination.join(Path::new(from.file_name().unwrap_or_default()))
        };
        placed.push(Placed { from, to, is_directory, parents });
    }
    Ok(placed)
}

/// How many names are in front of `/./`.
fn pivot(path: &str) -> usize {
    let before = path.split_once("/./").map_or("", |(before, _)| before);
    before.split('/').filter(|part| !matches!(*part, "" | ".")).count()
}

/// Whether the destination is a directory in the files so far.
pub fn is_directory(base: &RootDir, destination: &str) -> Result<bool, ContentError> {
    if Path::new(destination).as_os_str().as_bytes().contains(&0) {
        return Err(ContentError::Pattern(destination.to_owned()));
    }
    match base.metadata(destination) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["a/b/c/x", "a/b2/c/y", "f", "g"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, name).expect("a file");
        }
        root
    }

    fn copy(sources: &[&str], destination: &str, parents: bool) -> Copy {
        let source = |path: &&str| Source { input: 1, path: (*path).to_owned(), unpack: false };
        Copy {
            sources: sources.iter().map(source).collect(),
            inline: Vec::new(),
            destination: destination.to_owned(),
            owner: None,
            mode: None,
            parents,
            exclude: Vec::new(),
            link: false,
        }
    }

    /// `from -> to`, with what is made above.
    fn places(copy: &Copy, is_directory: bool) -> Result<Vec<String>, String> {
        let tree = tree();
        let root = RootDir::open(tree.path()).expect("the root");
        let placed = place(copy, &|input| (input == 1).then_some(&root), is_directory);
        let text = |placed: &Placed| {
            let parents: String =
                placed.parents.iter().map(|(_, to)| format!(" +{}", to.display())).collect();
            format!("{} -> {}{parents}", placed.from.display(), placed.to.display())
        };
        placed.map(|placed| placed.iter().map(text).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn files_and_directories() {
        assert_eq!(places(&copy(&["f"], "/x", false), false), Ok(vec!["f -> /x".to_owned()]));
        assert_eq!(places(&copy(&["f"], "/x", false), true), Ok(vec!["f -> /x/f".to_owned()]));
        assert_eq!(
            places(&copy(&["f", "g"], "/x/", false), false),
            Ok(vec!["f -> /x/f".into(), "g -> /x/g".into()])
        );
        assert_eq!(places(&copy(&["a"], "/x", false), false), Ok(vec!["a -> /x".to_owned()]));
        assert_eq!(
            places(&copy(&["a/*"], "/x/", false), false),
            Ok(vec!["a/b -> /x/".into(), "a/b2 -> /x/".into()])
        );
        let error = "when copying more than one source file, the destination must be a directory and end with a /: /x";
        assert_eq!(places(&copy(&["f", "g"], "/x", false), false), Err(error.to_owned()));
        assert_eq!(places(&copy(&["?"], "/x", false), false), Err(error.to_owned()));
        assert_eq!(places(&copy(&["none"], "/x", false), false), Err("\"/none\": not found".to_owned()));
    }

    #[test]
    fn paths_are_kept() {
        assert_eq!(
            places(&copy(&["a/b/c/x", "f"], "/x", true), false),
            Ok(vec!["a/b/c/x -> /x/a/b/c/x +/x/a +/x/a/b +/x/a/b/c".to_owned(), "f -> /x/f".to_owned()])
        );
        assert_eq!(
            places(&copy(&["/a/./*/c"], "/x/", true), false),
            Ok(vec!["a/b/c -> /x/b/c +/x/b".into(), "a/b2/c -> /x/b2/c +/x/b2".into()])
        );
        assert_eq!(
            places(&copy(&["./a/**/c"], "/x/", true), false),
            Ok(vec!["a/b/c -> /x/a/b/c +/x/a +/x/a/b".into(), "a/b2/c -> /x/a/b2/c +/x/a +/x/a/b2".into()])
        );
        assert_eq!(
            places(&copy(&["a/b/c/."], "/x/", true), false),
            Ok(vec!["a/b/c -> /x/a/b/c +/x/a +/x/a/b".to_owned()])
        );
    }

    #[test]
    fn destinations() {
        let tree = tree();
        let root = RootDir::open(tree.path()).expect("the root");
        let is = |path: &str| is_directory(&root, path).expect(path);
        assert!(is("/a/b") && !is("/f") && !is("/none") && !is("/f/x"));
    }
}
