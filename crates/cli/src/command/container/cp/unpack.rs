//! A container's tar on this host's disk.
//!
//! What comes out of a container is not trusted: it stays below the destination whatever its names and links say, devices are
//! left out, and what could run with somebody's rights (set-id bits) loses them unless owners are kept, too.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use palan_linux::path::{Directory, FileKind, RootDir};
use palan_linux::xattr;
use palan_stdx::error_chain;
use palan_tar::{Entry, Kind, Limits, Reader, lossy};
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::error::{CliError, Result};

/// Where and how.
#[derive(Debug)]
pub(crate) struct Unpacking<'a> {
    pub(crate) root: &'a RootDir,
    /// The path of the root, for messages.
    pub(crate) shown: &'a str,
    /// What the names in the archive begin with, …
    pub(crate) from: Vec<u8>,
    /// … and what they begin with here.
    pub(crate) to: Vec<u8>,
    /// Owners and set-id bits are those of the container, as far as the user may do that.
    pub(crate) keep_owners: bool,
}

impl Unpacking<'_> {
    /// Unpacks all. How many devices were left out.
    pub(crate) fn run(&self, archive: &mut dyn Read) -> Result<u64> {
        let limits = Limits::default();
        let mut reader = Reader::new(archive, &limits);
        let mut left_out = 0;
        let mut directories = Vec::new();
        let mut parent: Option<(Vec<u8>, Directory)> = None;
        let broken = |error: &palan_tar::TarError| CliError::new(error_chain::to_string(error));
        while let Some(entry) = reader.next_entry().map_err(|error| broken(&error))? {
            let name = self.place(&entry.path)?;
            if name.is_empty() {
                continue;
            }
            if matches!(entry.kind, Kind::CharacterDevice | Kind::BlockDevice) {
                left_out += 1;
                continue;
            }
            let (above, last) = split(&name);
            if parent.as_ref().is_none_or(|(path, _)| path != above) {
                let directory = self.root.create_dir_all(Path::new(OsStr::from_bytes(above)), 0o755);
                parent =
                    Some((above.to_vec(), directory.map_err(|error| self.failed(&name, &error.source))?));
            }
            let Some((_, directory)) = &parent else { continue };
            let last = OsStr::from_bytes(last);
            let done = match entry.kind {
                Kind::Directory => {
                    self.make_directory(directory, last, &name)?;
                    directories.push((name.clone(), entry));
                    continue;
                }
                Kind::Regular => {
                    self.make_room(directory, last, &name)?;
                    let file = directory.create_file(last, 0o600);
                    let mut file = file.map_err(|error| self.failed(&name, &error))?;
                    self.fill(&mut file, &entry, &mut reader, &name)?;
                    self.dress_file(&file, &entry)
                }
                Kind::HardLink => {
                    self.make_room(directory, last, &name)?;
                    let target = self.place(&entry.link)?;
                    let target = self.root.parent_of(Path::new(OsStr::from_bytes(&target)));
                    let (from, of) = target.map_err(|error| self.failed(&name, &error.source))?;
                    directory.create_hard_link(last, &from, &of)
                }
                Kind::Symlink => {
                    self.make_room(directory, last, &name)?;
                    let target = OsStr::from_bytes(&entry.link);
                    directory
                        .create_symlink(last, target)
                        .and_then(|()| self.dress_at(directory, last, &entry))
                }
                Kind::Fifo => {
                    self.make_room(directory, last, &name)?;
                    let made = directory.create_node(last, FileKind::Fifo, 0o600, (0, 0));
                    made.and_then(|()| directory.set_mode(last, self.mode(&entry)))
                        .and_then(|()| self.dress_at(directory, last, &entry))
                }
                Kind::CharacterDevice | Kind::BlockDevice => Ok(()),
            };
            done.map_err(|error| self.failed(&name, &error))?;
        }
        // What goes wrong at last is told behind the archive.
        reader.drain().map_err(|error| broken(&error))?;
        // Backwards: what is in a directory changes its time, and may need its permissions.
        for (name, entry) in directories.iter().rev() {
            let path = Path::new(OsStr::from_bytes(name));
            let finished = self.root.open_dir(path).map_err(|error| error.source);
            let finished = finished.and_then(|directory| self.dress_file(&directory, entry));
            finished.map_err(|error| self.failed(name, &error))?;
        }
        Ok(left_out)
    }

    /// The path of an entry below the root: renamed, without `.`, and empty for the root itself.
    fn place(&self, name: &[u8]) -> Result<Vec<u8>> {
        let renamed = match name.strip_prefix(self.from.as_slice()) {
            Some(rest) => [&self.to, rest].concat(),
            None => name.to_vec(),
        };
        let parts = renamed.split(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.']));
        let parts: Vec<&[u8]> = parts.collect();
        if parts.iter().any(|part| *part == b".." || part.contains(&0)) {
            return Err(CliError::new(format!("{:?} is outside of {:?}", lossy(name), self.shown)));
        }
        Ok(parts.join(&b'/'))
    }

    fn make_directory(&self, parent: &Directory, last: &OsStr, name: &[u8]) -> Result<()> {
        match parent.create_dir(last, 0o700) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let found = parent.metadata(last).map_err(|error| self.failed(name, &error))?;
                if found.is_dir() {
                    return Ok(());
                }
                Err(CliError::new(format!(
                    "cannot overwrite non-directory {:?} with directory {:?}",
                    self.path(name),
                    self.shown
                )))
            }
            other => other.map_err(|error| self.failed(name, &error)),
        }
    }

    /// Takes away what is in the way of anything but a directory.
    fn make_room(&self, parent: &Directory, last: &OsStr, name: &[u8]) -> Result<()> {
        match parent.metadata_if_exists(last).map_err(|error| self.failed(name, &error))? {
            None => Ok(()),
            Some(found) if found.is_dir() => Err(CliError::new(format!(
                "cannot overwrite directory {:?} with non-directory {:?}",
                self.path(name),
                self.shown
            ))),
            Some(_) => parent.remove_file(last).map_err(|error| self.failed(name, &error)),
        }
    }

    fn fill<R: Read>(
        &self,
        file: &mut std::fs::File,
        entry: &Entry,
        reader: &mut Reader<'_, R>,
        name: &[u8],
    ) -> Result<()> {
        let mut places = entry.sparse.iter().flatten().filter(|segment| segment.length > 0).copied();
        let mut place = places.next();
        while let Some(mut chunk) =
            reader.next_chunk().map_err(|error| CliError::new(error_chain::to_string(&error)))?
        {
            if entry.sparse.is_none() {
                file.write_all(chunk).map_err(|error| self.failed(name, &error))?;
                continue;
            }
            while let (Some(segment), false) = (place.as_mut(), chunk.is_empty()) {
                let length = usize::try_from(segment.length).unwrap_or(usize::MAX).min(chunk.len());
                file.write_all_at(&chunk[..length], segment.offset)
                    .map_err(|error| self.failed(name, &error))?;
                chunk = &chunk[length..];
                segment.offset += length as u64;
                segment.length -= length as u64;
                if segment.length == 0 {
                    place = places.next();
                }
            }
        }
        match &entry.sparse {
            Some(_) => file.set_len(entry.size).map_err(|error| self.failed(name, &error)),
            None => Ok(()),
        }
    }

    fn mode(&self, entry: &Entry) -> u32 {
        let sticky = if entry.kind == Kind::Directory { 0o1000 } else { 0 };
        entry.mode & if self.keep_owners { 0o7777 } else { 0o777 | sticky }
    }

    /// Owner, attributes, mode and time of what can be opened.
    fn dress_file(&self, file: &impl std::os::fd::AsFd, entry: &Entry) -> io::Result<()> {
        if self.keeps_owner() {
            let (uid, gid) = (rustix::fs::Uid::from_raw(entry.uid), rustix::fs::Gid::from_raw(entry.gid));
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        for (attribute, value) in entry.xattrs.iter().filter(|(name, _)| name.starts_with(b"user.")) {
            match xattr::set(file, &lossy(attribute), value) {
                // A file system without them.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
                other => other?,
            }
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode(entry)))?;
        let time = rustix::fs::Timespec {
            tv_sec: entry.modified.seconds,
            tv_nsec: entry.modified.nanoseconds.into(),
        };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::futimens(file, &times)?)
    }

    /// Owner and time of what can't.
    fn dress_at(&self, parent: &Directory, last: &OsStr, entry: &Entry) -> io::Result<()> {
        if self.keeps_owner() {
            parent.set_owner(last, entry.uid, entry.gid)?;
        }
        parent.set_times(last, entry.modified, entry.modified)
    }

    /// Only root may give files away.
    fn keeps_owner(&self) -> bool {
        self.keep_owners && rustix::process::geteuid().is_root()
    }

    fn path(&self, name: &[u8]) -> String {
        format!("{}/{}", self.shown.trim_end_matches('/'), lossy(name))
    }

    fn failed(&self, name: &[u8], error: &io::Error) -> CliError {
        CliError::new(format!("cannot create {}: {error}", self.path(name)))
    }
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use palan_tar::testing::{Header, Tar};

    use super::*;

    fn unpack(into: &Path, tar: Tar, rename: (&str, &str)) -> Result<u64, String> {
        let root = RootDir::open(into).expect("opens");
        let shown = into.display().to_string();
        let (from, to) = (rename.0.as_bytes().to_vec(), rename.1.as_bytes().to_vec());
        let unpacking = Unpacking { root: &root, shown: &shown, from, to, keep_owners: false };
        unpacking.run(&mut tar.finish().as_slice()).map_err(|error| error.message)
    }

    #[test]
    fn names_are_changed_and_kept_inside() {
        let scratch = tempfile::tempdir().expect("temporary");
        let into = scratch.path().join("into");
        std::fs::create_dir(&into).expect("creates");
        let tar = Tar::new().directory("a/").file("a/f", b"x").hard_link("a/g", "a/f").symlink("a/s", "/etc");
        assert_eq!(unpack(&into, tar, ("a", "b")), Ok(0));
        assert_eq!(std::fs::metadata(into.join("b/g")).expect("there").nlink(), 2);
        let outside = format!("\"b/../../x\" is outside of {:?}", into.display().to_string());
        assert_eq!(unpack(&into, Tar::new().file("b/../../x", b""), ("", "")), Err(outside));
        // A link that the archive brought leads nowhere but to a place below the directory.
        assert_eq!(unpack(&into, Tar::new().file("b/s/palan-test", b""), ("", "")), Ok(0));
        assert!(into.join("etc/palan-test").exists());
        assert!(!Path::new("/etc/palan-test").exists() && !scratch.path().join("x").exists());
    }

    #[test]
    fn an_error_behind_the_archive_is_one() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("it went away"))
            }
        }
        let scratch = tempfile::tempdir().expect("temporary");
        let root = RootDir::open(scratch.path()).expect("opens");
        let (from, to) = (Vec::new(), Vec::new());
        let unpacking = Unpacking { root: &root, shown: "here", from, to, keep_owners: false };
        let archive = Tar::new().file("f", b"x").finish();
        let error = unpacking.run(&mut archive.as_slice().chain(Broken)).expect_err("broken");
        assert!(error.message.contains("it went away"), "{}", error.message);
    }

    #[test]
    fn what_is_dangerous_stays_behind() {
        let scratch = tempfile::tempdir().expect("temporary");
        let set_id = Header { mode: 0o6755, ..Header::new("s", b'0') };
        let device = Header { device: (8, 0), ..Header::new("sda", b'4') };
        let tar = Tar::new().entry(&set_id, b"").entry(&device, b"");
        assert_eq!(unpack(scratch.path(), tar, ("", "")), Ok(1));
        let mode = std::fs::metadata(scratch.path().join("s")).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        assert!(!scratch.path().join("sda").exists());
    }

    #[test]
    fn kinds_are_kept() {
        let scratch = tempfile::tempdir().expect("temporary");
        let into = scratch.path();
        std::fs::create_dir(into.join("d")).expect("creates");
        std::fs::write(into.join("f"), "old").expect("writes");
        let shown = into.display();
        assert_eq!(
            unpack(into, Tar::new().file("d", b""), ("", "")),
            Err(format!("cannot overwrite directory \"{shown}/d\" with non-directory \"{shown}\""))
        );
        assert_eq!(
            unpack(into, Tar::new().directory("f/"), ("", "")),
            Err(format!("cannot overwrite non-directory \"{shown}/f\" with directory \"{shown}\""))
        );
        assert_eq!(unpack(into, Tar::new().file("f", b"new"), ("", "")), Ok(0));
        assert_eq!(std::fs::read(into.join("f")).expect("there"), b"new");
    }
}
