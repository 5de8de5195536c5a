//! Files that several layers have, kept once: behind everybody's back, after the layers' blobs were compacted.
//!
//! Most of what layers have in common is what an upgrade of an image left as it was: the same path, the same content. So a
//! file is compared with those of the same path and size in the other layers.
//!
//! - Where the file system can share blocks (btrfs, xfs: `FICLONE`), the file becomes a clone of the other, with its own
//!   metadata: containers see no difference at all.
//! - Elsewhere it becomes a second name of the other, if owner, mode, times and extended attributes are the same, too.
//!   Containers see a link count above one, nothing else: layers are never written to.
//!
//! **Invariant:** the new file is complete under a temporary name outside of any layer before it takes the place of the old
//! one by a rename, and the directory's times are put back. A kill leaves a temporary name at worst.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use palan_linux::path::{Directory, FileKind, Metadata, RootDir};
use palan_linux::xattr;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::store::Inner;
use crate::{Result, database};

/// Smaller files share a block of the directory or inode anyway, or are not worth three system calls.
const SMALLEST: u64 = 4096;

/// What was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shared {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Inner {
    /// Shares the files of layers that were not looked at yet with those of all others. Ends early, with what was done, when
    /// `stop` says so.
    pub(crate) fn share_layers(self: &Arc<Self>, stop: &dyn Fn() -> bool) -> Result<Shared> {
        let new = database::recipe::unshared(&self.lock().db)?;
        let mut shared = Shared::default();
        for key in new {
            let others: Vec<String> = database::recipe::shared(&self.lock().db)?;
            match self.share_layer(&key, &others, stop, &mut shared) {
                Ok(()) => {}
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let path = self.layers.join(&key);
                    return Err(palan_stdx::fs::PathError::new("share files of", path, error).into());
                }
            }
            if stop() {
                break;
            }
            database::recipe::insert_shared(&mut self.lock().db, &key)?;
        }
        Ok(shared)
    }

    fn share_layer(
        &self,
        key: &str,
        others: &[String],
        stop: &dyn Fn() -> bool,
        shared: &mut Shared,
    ) -> io::Result<()> {
        let layers = RootDir::open(&self.layers)?;
        let open = |key: &str| layers.as_directory().open_dir(OsStr::new(key));
        let others: Vec<Directory> = others.iter().filter_map(|other| open(other).ok()).collect();
        let mut way = Way::Clone;
        // A directory of the layer with those of the same path in other layers.
        let mut pending = vec![(open(key)?, others)];
        while let Some((directory, others)) = pending.pop() {
            if stop() || others.is_empty() {
                continue;
            }
            let before = Metadata::of(&directory)?;
            let mut changed = false;
            for entry in directory.entries()? {
                match entry.kind {
                    FileKind::Directory => {
                        let below = others.iter().filter_map(|other| other.open_dir(&entry.name).ok());
                        pending.push((directory.open_dir(&entry.name)?, below.collect()));
                    }
                    FileKind::Regular => {
                        let file = Candidate {
                            layers: layers.as_directory(),
                            directory: &directory,
                            name: &entry.name,
                        };
                        if let Some(bytes) = file.share(&others, &mut way)? {
                            crate::fault::point("put a directory's times back");
                            changed = true;
                            shared.files += 1;
                            shared.bytes += bytes;
                        }
                    }
                    _ => {}
                }
                if stop() {
                    break;
                }
            }
            if changed {
                let time = |time: palan_linux::path::Time| rustix::fs::Timespec {
                    tv_sec: time.seconds,
                    tv_nsec: time.nanoseconds.into(),
                };
                let times = rustix::fs::Timestamps {
                    last_access: time(before.accessed),
                    last_modification: time(before.modified),
                };
                rustix::fs::futimens(&directory, &times)?;
            }
        }
        Ok(())
    }
}

/// What the file system can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Clone,
    Link,
}

/// A file that may be kept once with another.
struct Candidate<'a> {
    layers: &'a Directory,
    directory: &'a Directory,
    name: &'a OsStr,
}

impl Candidate<'_> {
    /// Shares the file with the first of the others that has the same. The bytes that were saved.
    fn share(&self, others: &[Directory], way: &mut Way) -> io::Result<Option<u64>> {
        let own = self.directory.metadata(self.name)?;
        // One with several names is shared within its layer already, and the names must stay one file.
        if own.size < SMALLEST || own.links > 1 {
            return Ok(None);
        }
        for other in others {
            let Some(found) = other.metadata_if_exists(self.name)? else { continue };
            if found.kind != FileKind::Regular || found.size != own.size || found.device != own.device {
                continue;
            }
            if !is_same_content(self.directory, other, self.name)? {
                continue;
            }
            if *way == Way::Clone {
                match self.clone_from(other, &own) {
                    Err(error) if is_unsupported(&error) => *way = Way::Link,
                    done => return done.map(|()| Some(own.blocks * 512)),
                }
            }
            let is_same = is_same_metadata(&own, &found)
                && attributes(self.directory, self.name)? == attributes(other, self.name)?;
            if is_same && self.link_to(other)? {
                return Ok(Some(own.blocks * 512));
            }
        }
        Ok(None)
    }

    fn clone_from(&self, other: &Directory, own: &Metadata) -> io::Result<()> {
        let source = open(other, self.name)?;
        self.replace(|temporary| {
            let file = self.layers.create_file(temporary, 0o600)?;
            rustix::fs::ioctl_ficlone(&file, &source)?;
            // Owner first: changing it clears set-id bits and capabilities.
            self.layers.set_owner(temporary, own.uid, own.gid)?;
            for (attribute, value) in attributes(self.directory, self.name)? {
                xattr::set_at(self.layers, temporary, &attribute, &value)?;
            }
            self.layers.set_mode(temporary, own.mode)?;
            self.layers.set_times(temporary, own.accessed, own.modified)
        })
    }

    /// `false` if the other has as many names as a file may have.
    fn link_to(&self, other: &Directory) -> io::Result<bool> {
        match self.replace(|temporary| self.layers.create_hard_link(temporary, other, self.name)) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::MLINK) => Ok(false),
            done => done.map(|()| true),
        }
    }

    fn replace(&self, make: impl FnOnce(&OsStr) -> io::Result<()>) -> io::Result<()> {
        let temporary = OsString::from(format!(".tmp-{}", crate::store::random_name()));
        crate::fault::point("make a shared file");
        let replaced = make(&temporary).and_then(|()| {
            crate::fault::point("put a shared file in its place");
            self.layers.rename(&temporary, self.directory, self.name)
        });
        if replaced.is_err() {
            // The error to tell is the one at hand; it may not even be there.
            let _ = self.layers.remove_file(&temporary);
        }
        replaced
    }
}

fn open(directory: &Directory, name: &OsStr) -> io::Result<File> {
    Ok(File::from(directory.open(name, OFlags::RDONLY | OFlags::NONBLOCK)?))
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS)
    )
}

fn is_same_content(one: &Directory, other: &Directory, name: &OsStr) -> io::Result<bool> {
    let (mut one, mut other) = (open(one, name)?, open(other, name)?);
    let (mut own, mut wanted) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let length = one.read(&mut own)?;
        if length == 0 {
            return Ok(other.read(&mut wanted)? == 0);
        }
        if other.read_exact(&mut wanted[..length]).is_err() || own[..length] != wanted[..length] {
            return Ok(false);
        }
    }
}

fn is_same_metadata(own: &Metadata, other: &Metadata) -> bool {
    (own.uid, own.gid, own.mode, own.modified) == (other.uid, other.gid, other.mode, other.modified)
}

fn attributes(directory: &Directory, name: &OsStr) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for attribute in xattr::list_at(directory, name)? {
        if let Some(value) = xattr::get_at(directory, name, &attribute)? {
            all.insert(attribute, value);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
