//! What an image has at a volume's place is copied into the volume when it is used first, while it is empty.
//!
//! ```text
//! nothing ──copy──▶ .palan-copy (may be half) ──rename──▶ .palan-copied (is whole) ──entry by entry──▶ in the volume
//!                       ▲                                       │
//!                       └── rename: what is left is removed ────┘
//! ```
//!
//! The copy is made beside the volume's content, in a directory that containers don't see (in the volume itself where that is a file
//! system of its own), and moved in when it is whole. So a daemon that is killed leaves either nothing, which is removed, or
//! everything, which is moved in by the next one or by the next user: never half of it that counts as the volume's content.
//! What a container has put there meanwhile stays.

use std::path::{Path, PathBuf};

use palan_linux::copy::{copy_directory_attributes, copy_tree};
use palan_linux::path::{Directory, PathError, RootDir};

use crate::Result;
use crate::error::Context;

const COPYING: &str = ".palan-copy";
const COPIED: &str = ".palan-copied";
/// What was copied.
const CONTENT: &str = "content";
/// A link that says where in the volume it belongs.
const TARGET: &str = "target";

/// Where a volume's content is and where a copy of more is made.
#[derive(Debug)]
pub(crate) struct Fill {
    /// The volume's content.
    volume: RootDir,
    /// On the same file system.
    workshop: RootDir,
}

impl Fill {
    /// For a volume whose content is in `data`. `is_mounted`: that is a file system of its own.
    pub(crate) fn open(data: &Path, is_mounted: bool) -> Result<Self> {
        let what = || format!("cannot open the volume's directory {}", data.display());
        let workshop = if is_mounted { data } else { data.parent().unwrap_or(data) };
        Ok(Self {
            volume: RootDir::open(data).context(what)?,
            workshop: RootDir::open(workshop).context(what)?,
        })
    }

    /// Ends what an earlier daemon has begun.
    pub(crate) fn settle(&self) -> Result<()> {
        let what = || "cannot end the filling of a volume".to_owned();
        remove_if_there(&self.workshop, COPYING).context(what)?;
        if self.workshop.symlink_metadata(COPIED).is_ok() {
            self.move_in().context(what)?;
        }
        Ok(())
    }

    /// Copies what `image` has in directory `inside` into the directory `subpath` of the volume, if that is empty; what is missing on
    /// either side, or is no directory, is left alone.
    pub(crate) fn copy_up(&self, image: &RootDir, inside: &Path, subpath: &Path) -> Result<()> {
        self.settle()?;
        if !image.metadata(inside).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        let Ok(target) = self.target(subpath) else { return Ok(()) };
        let what = || "cannot copy the image's content into the volume".to_owned();
        if !target.entries().context(what)?.is_empty() {
            return Ok(());
        }
        self.copy(image, inside, subpath).and_then(|()| self.move_in()).context(what)
    }

    fn copy(&self, image: &RootDir, inside: &Path, subpath: &Path) -> std::result::Result<(), PathError> {
        self.workshop.create_dir(COPYING, 0o700)?;
        let copying = self.workshop.open_root(COPYING)?;
        copying.create_dir(CONTENT, 0o700)?;
        copying
            .create_symlink(if subpath.as_os_str().is_empty() { Path::new(".") } else { subpath }, TARGET)?;
        copy_tree(image, inside, &copying, Path::new(CONTENT))?;
        self.workshop.rename(COPYING, COPIED)
    }

    fn target(&self, subpath: &Path) -> std::result::Result<Directory, PathError> {
        let path = if subpath.as_os_str().is_empty() { Path::new(".") } else { subpath };
        // Pinned first: what would lead out of the volume is refused, as in the mount itself.
        let pinned = RootDir::from_fd(self.volume.open_path_beneath(path)?);
        pinned.open_dir(".")
    }

    fn move_in(&self) -> std::result::Result<(), PathError> {
        let copied = self.workshop.open_root(COPIED)?;
        let subpath = match copied.read_link(TARGET) {
            // It had been moved in, and was being removed under this name, as it once was.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        if let Some(subpath) = subpath
            && let Ok(target) = self.target(&subpath)
        {
            let failed =
                |source| PathError { action: "move into the volume", path: PathBuf::from(CONTENT), source };
            let content = copied.open_dir(CONTENT)?;
            for entry in content.entries().map_err(failed)? {
                match content.rename_new(&entry.name, &target, &entry.name) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            copy_directory_attributes(&content, &target).map_err(failed)?;
        }
        // Half of it would look like one that is not moved in yet.
        self.workshop.rename(COPIED, COPYING)?;
        self.workshop.remove_all(COPYING)
    }
}

fn remove_if_there(root: &RootDir, name: &str) -> std::result::Result<(), PathError> {
    match root.symlink_metadata(name) {
        Ok(_) => root.remove_all(name),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is beside the content of a volume, and in it.
    fn left(fill: &Fill) -> (Vec<String>, Vec<String>) {
        let names = |root: &RootDir| {
            let entries = root.read_dir(".").expect("lists").into_iter();
            let mut names: Vec<_> = entries.map(|entry| entry.name.to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        (names(&fill.workshop), names(&fill.volume))
    }

    #[test]
    fn whatever_a_kill_has_left_is_settled() {
        type Leave = fn(&Fill);
        let cases: [(&str, Leave, &[&str]); 5] = [
            ("half a copy", |fill| fill.workshop.rename(COPIED, COPYING).expect("renames"), &[]),
            ("a whole one", |_| {}, &["1", "2"]),
            (
                "moved in by half",
                |fill| {
                    let content = fill.workshop.open_dir(Path::new(COPIED).join(CONTENT)).expect("opens");
                    let one = std::ffi::OsStr::new("1");
                    content.rename_new(one, fill.volume.as_directory(), one).expect("renames");
                },
                &["1", "2"],
            ),
            (
                "removed by half",
                |fill| {
                    fill.move_in().expect("moves");
                    fill.workshop.create_dir(COPYING, 0o700).expect("creates");
                    fill.workshop.create_dir(Path::new(COPYING).join(CONTENT), 0o700).expect("creates");
                },
                &["1", "2"],
            ),
            (
                "removed by half under its old name",
                |fill| {
                    fill.move_in().expect("moves");
                    fill.workshop.create_dir(COPIED, 0o700).expect("creates");
                    fill.workshop.create_dir(Path::new(COPIED).join(CONTENT), 0o700).expect("creates");
                },
                &["1", "2"],
            ),
        ];
        for (case, leave, expected) in cases {
            let directory = tempfile::tempdir().expect("temporary");
            let data = directory.path().join("_data");
            std::fs::create_dir(&data).expect("creates");
            let fill = Fill::open(&data, false).expect("opens");
            let image = tempfile::tempdir().expect("temporary");
            for name in ["1", "2"] {
                std::fs::write(image.path().join(name), name).expect("writes");
            }
            let image = RootDir::open(image.path()).expect("opens");
            fill.copy(&image, Path::new("/"), Path::new("")).expect("copies");
            leave(&fill);
            fill.settle().expect(case);
            assert_eq!(
                left(&fill),
                (vec!["_data".to_owned()], expected.iter().map(|name| (*name).to_owned()).collect()),
                "{case}"
            );
            fill.copy_up(&image, Path::new("/"), Path::new("")).expect(case);
            assert_eq!(left(&fill).1, ["1", "2"], "{case}");
        }
    }
}
