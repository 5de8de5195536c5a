//! Two directories, compared with everything that a container could see.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use palan_linux::path::{Directory, FileKind, Metadata, RootDir};
use palan_linux::xattr;
use rustix::fs::OFlags;

/// What differs first, in words; `None` if nothing does. How many names a file has is not compared: it may have others in other
/// layers.
pub(super) fn first_difference(kept: &RootDir, fresh: &RootDir) -> io::Result<Option<String>> {
    let (kept, fresh) = (kept.as_directory(), fresh.as_directory());
    if let Some(what) = of_metadata(&Metadata::of(kept)?, &Metadata::of(fresh)?) {
        return Ok(Some(format!("its root has {what}")));
    }
    let mut pending = vec![(kept.try_clone()?, fresh.try_clone()?, PathBuf::new())];
    while let Some((kept, fresh, path)) = pending.pop() {
        let names = |directory: &Directory| -> io::Result<BTreeMap<_, _>> {
            Ok(directory.entries()?.into_iter().map(|entry| (entry.name, entry.kind)).collect())
        };
        let (here, there) = (names(&kept)?, names(&fresh)?);
        if let Some(name) = here.keys().find(|name| !there.contains_key(*name)) {
            return Ok(Some(format!("{} is not part of it", path.join(name).display())));
        }
        for (name, kind) in there {
            let path = path.join(&name);
            let Some(own) = kept.metadata_if_exists(&name)? else {
                return Ok(Some(format!("{} is gone", path.display())));
            };
            let wanted = fresh.metadata(&name)?;
            let mut what = of_metadata(&own, &wanted);
            if what.is_none() {
                what = of_attributes(&kept, &fresh, &name)?;
            }
            // Only what has the same type is opened.
            if what.is_none() {
                what = match kind {
                    FileKind::Regular => of_content(&kept, &fresh, &name)?,
                    FileKind::Symlink if kept.read_link(&name)? != fresh.read_link(&name)? => {
                        Some("another target".to_owned())
                    }
                    _ => None,
                };
            }
            if let Some(what) = what {
                return Ok(Some(format!("{} has {what}", path.display())));
            }
            if kind == FileKind::Directory {
                pending.push((kept.open_dir(&name)?, fresh.open_dir(&name)?, path));
            }
        }
    }
    Ok(None)
}

fn of_metadata(own: &Metadata, wanted: &Metadata) -> Option<String> {
    if own.kind != wanted.kind || own.node != wanted.node {
        return Some("another type".to_owned());
    }
    if own.mode != wanted.mode {
        return Some(format!("mode {:o} in place of {:o}", own.mode, wanted.mode));
    }
    if (own.uid, own.gid) != (wanted.uid, wanted.gid) {
        return Some(format!("owner {}:{} in place of {}:{}", own.uid, own.gid, wanted.uid, wanted.gid));
    }
    if own.kind == FileKind::Regular && own.size != wanted.size {
        return Some(format!("{} bytes in place of {}", own.size, wanted.size));
    }
    // Marks and made-up directories have the time at which they were made.
    let is_given = own.kind == FileKind::Regular || own.kind == FileKind::Symlink;
    if is_given && own.modified != wanted.modified {
        return Some("another modification time".to_owned());
    }
    None
}

fn of_attributes(kept: &Directory, fresh: &Directory, name: &std::ffi::OsStr) -> io::Result<Option<String>> {
    let attributes = |directory: &Directory| -> io::Result<BTreeMap<_, _>> {
        let names = xattr::list_at(directory, name)?;
        // Overlay notes where a file came from by the identity of an inode, which is another one each time.
        let kept = names.into_iter().filter(|name| {
            !matches!(
                name.to_str(),
                Some("trusted.overlay.origin" | "trusted.overlay.impure" | "trusted.overlay.nlink")
            )
        });
        kept.map(|attribute| Ok((attribute.clone(), xattr::get_at(directory, name, &attribute)?))).collect()
    };
    Ok((attributes(kept)? != attributes(fresh)?).then(|| "other extended attributes".to_owned()))
}

fn of_content(kept: &Directory, fresh: &Directory, name: &std::ffi::OsStr) -> io::Result<Option<String>> {
    let open = |directory: &Directory| -> io::Result<File> {
        Ok(File::from(directory.open(name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?))
    };
    let (mut kept, mut fresh) = (open(kept)?, open(fresh)?);
    let (mut own, mut wanted) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    loop {
        let length = fresh.read(&mut wanted)?;
        if length == 0 {
            return Ok(None);
        }
        let same = kept.read_exact(&mut own[..length]).is_ok() && own[..length] == wanted[..length];
        if !same {
            return Ok(Some("other content".to_owned()));
        }
    }
}
