//! `cp`: what a path in a container is, a part of its files as a tar, and a tar into a directory of it.
//!
//! A copy is one stream with no file between. The container may run and change everything meanwhile; see [`super::view`] for what
//! is seen, and [`palan_store::tree`] for how it is read and written.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use palan_linux::mount;
use palan_linux::path::{FileKind, Metadata, PathError, RootDir};
use palan_store::Limits;
use palan_store::tree::{Picked, Unpacking, unpack_into};
use palan_supervisor::runtime::user::resolve;
use rustix::io::Errno;

use super::Details;
use super::driver::container_event;
use super::files::{archive, check_still_there};
use super::view::View;
use crate::db::Change;
use crate::engine::{Engine, waiting_for_client};
use crate::error::Context;
use crate::image::store_error;
use crate::stream::{BodyReader, Items};
use crate::{Class, Error, Result};

/// What a path in a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last name of the path.
    pub name: String,
    /// The entry itself; a symlink is not followed.
    pub metadata: Metadata,
    /// Where a symlink leads in the end, as an absolute path in the container; empty for all else.
    pub link_target: String,
}

/// How files come into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Refuse to replace a directory by something else and the other way round.
    pub keep_kinds: bool,
    /// What comes in belongs to the container's user.
    pub to_user: bool,
}

/// Copies.
impl Engine {
    /// What is at a path.
    pub async fn stat_path(&self, name: &str, path: &str) -> Result<PathStat> {
        let handle = self.index.find(name)?;
        let place = Place::new(name, path)?;
        let view = self.open_files(&handle).await?;
        waiting_for_client(move || Ok(place.find(&view)?.1)).await
    }

    /// What is at a path, and its content as a tar.
    pub async fn read_path(&self, name: &str, path: &str) -> Result<(PathStat, Items<Bytes>)> {
        let handle = self.index.find(name)?;
        let place = Place::new(name, path)?;
        let view = self.open_files(&handle).await?;
        let (place, view, picked, stat) = waiting_for_client(move || {
            let (picked, stat) = place.find(&view)?;
            if picked.is_of_kernel() {
                return Err(of_kernel(&place));
            }
            Ok((place, view, picked, stat))
        })
        .await?;
        let details = handle.details();
        let items = archive(self, move |sink| {
            let mut sink = Watched { inner: sink, view: &view };
            let written = picked.write(place.base.as_encoded_bytes(), &mut sink);
            written.map_err(|error| store_error(error.into()))?;
            check_still_there(&handle, "copied from")?;
            Ok(Change::new().event(container_event(&details, "archive-path", [])))
        });
        Ok((stat, items.await?))
    }

    /// Unpacks a tar, which may be compressed, into the directory at a path.
    pub async fn write_path(
        &self,
        name: &str,
        path: &str,
        options: CopyOptions,
        mut body: BodyReader,
    ) -> Result<()> {
        let handle = self.index.find(name)?;
        let place = Place::new(name, path)?;
        let view = self.open_files(&handle).await?;
        let details = handle.details();
        let of = details.clone();
        waiting_for_client(move || place.unpack(&view, &of, options, &mut body)).await?;
        self.db.commit(Change::new().event(container_event(&details, "extract-to-dir", []))).await
    }
}

/// A path as a client gave it.
#[derive(Debug)]
struct Place {
    /// The container as the client named it.
    container: String,
    given: String,
    /// Absolute, without `.`, `..` and slashes too many.
    clean: PathBuf,
    /// It ends in a slash or `/.`: only a directory will do, and a symlink is followed.
    asserts_directory: bool,
    /// What the first entry of an archive is called: the last name, `.` where the path ends in `/.`, `/` for the root.
    base: OsString,
}

impl Place {
    fn new(container: &str, given: &str) -> Result<Self> {
        if given.is_empty() {
            return Err(Error::invalid("bad parameter: path cannot be empty"));
        }
        if given.contains('\0') {
            return Err(Error::invalid("a path contains a NUL byte"));
        }
        let mut clean = PathBuf::from("/");
        for component in Path::new(given).components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => drop(clean.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let ends_in_dot = given == "." || given.ends_with("/.");
        let base = match clean.file_name() {
            _ if ends_in_dot => ".".into(),
            Some(name) => name.to_owned(),
            None => "/".into(),
        };
        let asserts_directory = ends_in_dot || given.ends_with('/');
        Ok(Self { container: container.to_owned(), given: given.to_owned(), clean, asserts_directory, base })
    }

    fn find(&self, view: &View) -> Result<(Picked, PathStat)> {
        let picked = Picked::find(&view.root, &self.clean, self.asserts_directory);
        let picked = picked.map_err(|error| self.failed(error))?;
        let is_link = picked.metadata.kind == FileKind::Symlink;
        let link_target = if is_link { follow(&view.root, &self.clean) } else { PathBuf::new() };
        let stat = PathStat {
            name: self.base.to_string_lossy().into_owned(),
            metadata: picked.metadata.clone(),
            link_target: link_target.to_string_lossy().into_owned(),
        };
        Ok((picked, stat))
    }

    fn unpack(
        &self,
        view: &View,
        details: &Details,
        options: CopyOptions,
        body: &mut BodyReader,
    ) -> Result<()> {
        // A last symlink is followed.
        let opened = view.root.open_path(&self.clean).map_err(|error| self.failed(error))?;
        let metadata = Metadata::of(&opened).context(|| format!("cannot inspect {}", self.given))?;
        if !metadata.is_dir() {
            return Err(Error::invalid("extraction point is not a directory"));
        }
        if mount::is_kernel_file_system(&opened) {
            return Err(of_kernel(self));
        }
        let is_read_only =
            mount::is_read_only(&opened).context(|| format!("cannot inspect {}", self.given))?;
        if is_read_only {
            let on_root = mount::id_of(&opened).ok() == mount::id_of(&view.root).ok();
            let what = if on_root { "container rootfs" } else { "mounted volume" };
            return Err(Error::invalid(format!("{what} is marked read-only")));
        }
        drop(opened);
        let owner = if options.to_user { user(&view.root, &details.config.user)? } else { None };
        let unpacking = Unpacking { owner, keep_kinds: options.keep_kinds };
        let mut body = Watched { inner: body, view };
        let unpacked = unpack_into(&mut body, &view.root, &self.clean, &unpacking, &Limits::default());
        unpacked.map_err(|error| match error.kept_kind() {
            Some(text) => Error::invalid(text),
            None => {
                let class = if error.is_bad_archive() { Class::InvalidParameter } else { Class::System };
                let what = format!("cannot copy to {} in container {}", self.given, self.container);
                Error::new(class, what).with_source(error)
            }
        })
    }

    fn failed(&self, error: PathError) -> Error {
        match error.errno() {
            Some(Errno::NOENT) => Error::not_found(format!(
                "Could not find the file {} in container {}",
                self.given, self.container
            )),
            Some(Errno::NOTDIR) => Error::invalid(format!("{}: not a directory", self.given)),
            _ => Error::system(format!("cannot copy from container {}", self.container)).with_source(error),
        }
    }
}

fn of_kernel(place: &Place) -> Error {
    Error::invalid(format!(
        "{} is on a file system of the kernel's own, which holds no files to copy: use exec to look at it",
        place.given
    ))
}

/// Where a symlink leads inside the root, or as far as there is something.
fn follow(root: &RootDir, path: &Path) -> PathBuf {
    /// As many as Go follows.
    const MAX_LINKS: usize = 255;
    let reversed = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut remaining: Vec<OsString> = reversed(path);
    let (mut done, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = remaining.pop() {
        match part.as_encoded_bytes() {
            b"/" => done = PathBuf::from("/"),
            b"." => {}
            b".." => drop(done.pop()),
            _ => {
                done.push(&part);
                if let Ok(target) = root.read_link(&done)
                    && links < MAX_LINKS
                {
                    links += 1;
                    done.pop();
                    remaining.extend::<Vec<OsString>>(reversed(&target));
                }
            }
        }
    }
    done
}

/// The numbers of `name|uid[:name|gid]` by the container's own files, as a start finds them; none for a container without a user.
fn user(root: &RootDir, text: &str) -> Result<Option<(u32, u32)>> {
    if text.is_empty() {
        return Ok(None);
    }
    let user = resolve(root, text, &[]).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Some((user.uid, user.gid)))
}

/// A stream of a copy, which ends when the container is about to start.
struct Watched<'a, T: ?Sized> {
    inner: &'a mut T,
    view: &'a View,
}

impl<T: Read + ?Sized> Read for Watched<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.view.check()?;
        self.inner.read(buffer)
    }
}

impl<T: Write + ?Sized> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.view.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_is_meant() {
        let place = |given: &str| {
            let place = Place::new("c", given).expect(given);
            (
                place.clean.display().to_string(),
                place.asserts_directory,
                place.base.to_string_lossy().into_owned(),
            )
        };
        let is = |clean: &str, asserts, base: &str| (clean.to_owned(), asserts, base.to_owned());
        assert_eq!(place("a/b"), is("/a/b", false, "b"));
        assert_eq!(place("/a//b/"), is("/a/b", true, "b"));
        assert_eq!(place("/a/./b/."), is("/a/b", true, "."));
        assert_eq!(place("/a/../../b"), is("/b", false, "b"));
        assert_eq!(place("/"), is("/", true, "/"));
        assert_eq!(place("."), is("/", true, "."));
        assert!(Place::new("c", "").is_err() && Place::new("c", "a\0b").is_err());
    }

    #[test]
    fn links_are_followed_as_far_as_they_lead() {
        let directory = tempfile::tempdir().expect("temporary");
        let root = RootDir::open(directory.path()).expect("opens");
        root.create_dir_all("a/b", 0o755).expect("creates");
        for (target, link) in
            [("b", "a/relative"), ("/a/relative/new", "absolute"), ("../../..", "a/up"), ("loop", "loop")]
        {
            root.create_symlink(target, link).expect("links");
        }
        let follow = |path: &str| follow(&root, Path::new(path)).display().to_string();
        assert_eq!(follow("/a/relative"), "/a/b");
        assert_eq!(follow("/absolute"), "/a/b/new");
        assert_eq!(follow("/a/up"), "/");
        assert_eq!(follow("/loop"), "/loop");
    }

    #[test]
    fn users_are_those_of_the_container() {
        let directory = tempfile::tempdir().expect("temporary");
        let root = RootDir::open(directory.path()).expect("opens");
        assert_eq!(user(&root, "12:34").expect("numbers"), Some((12, 34)));
        root.create_dir("etc", 0o755).expect("creates");
        root.write("etc/passwd", b"me:x:1000:100::/:/bin/sh\n", 0o644).expect("writes");
        root.write("etc/group", b"us:x:50:\n", 0o644).expect("writes");
        assert_eq!(user(&root, "").expect("none"), None);
        assert_eq!(user(&root, "me").expect("named"), Some((1000, 100)));
        assert_eq!(user(&root, "1000").expect("named"), Some((1000, 100)));
        assert_eq!(user(&root, "me:us").expect("named"), Some((1000, 50)));
        assert!(user(&root, "you").is_err() && user(&root, "me:them").is_err());
        // A number is nobody's name (CVE-2026-46680).
        root.write("etc/passwd", b"1000:x:0:0::/:/bin/sh\nme:x:1000:100::/:/bin/sh\n", 0o644)
            .expect("writes");
        root.write("etc/group", b"50:x:0:\n", 0o644).expect("writes");
        assert_eq!(user(&root, "1000").expect("a number"), Some((1000, 100)));
        assert_eq!(user(&root, "1000:50").expect("numbers"), Some((1000, 50)));
        assert!(user(&root, "4294967295").is_err() && user(&root, "0:4294967295").is_err());
    }
}
