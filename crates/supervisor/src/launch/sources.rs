//! What bind mounts show that is no path of the host: parts of volumes, and images (see [`MountSource`]).
//!
//! **Invariant:** a subpath is resolved once, by the kernel, with a descriptor of the whole as its bound, and what was found is
//! what is mounted: a symlink that leads out is refused, and whoever exchanges a directory afterwards exchanges it for nobody.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use palan_linux::mount::{self, Attributes, Change, OverlayOptions, Propagation};
use palan_linux::namespace::{self, Kind};
use palan_linux::path::{PathError, RootDir};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::home::Home;
use crate::protocol::{Failure, FailureKind, MountSource, MountWhole};

/// Detached mounts of all sources, with the index of the mount each is for. `place` is a directory of ours that is empty or whose
/// content need not be seen any more, `shared` the mount namespace of another container.
pub(super) fn open(
    sources: &[MountSource],
    place: &Path,
    shared: Option<&OwnedFd>,
) -> Result<Vec<(usize, OwnedFd)>, Failure> {
    sources.iter().map(|source| Ok((source.mount, open_one(source, place, shared)?))).collect()
}

fn open_one(source: &MountSource, place: &Path, shared: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let copy = match &source.whole {
        MountWhole::Directory(path) => {
            let root = RootDir::open(path).map_err(|error| Failure::cannot("open the volume", &error))?;
            let whole = source.subpath.as_os_str().is_empty();
            let subpath = if whole { Path::new(".") } else { &source.subpath };
            let part = part_of(&root, subpath, path)?;
            clone(&part).map_err(cannot_bind)?
        }
        MountWhole::Layers(layers) => {
            let image = mount_image(layers)?;
            if source.subpath.as_os_str().is_empty() {
                image
            } else {
                part_of_image(image, &source.subpath, place)?
            }
        }
        MountWhole::File { content, mode, uid, gid } => {
            let memory = file_in_memory(&content.0, *mode, (*uid, *gid))?;
            part_of_image(memory, Path::new(FILE), place)?
        }
        MountWhole::Overlay { lowers, upper, work } => {
            let merged = mount::overlay(&OverlayOptions {
                lowers: lowers.clone(),
                upper: Some(upper.clone()),
                work: Some(work.clone()),
                volatile: true,
                attributes: Attributes::empty(),
            });
            let merged = merged.map_err(|error| Failure::cannot("mount the files of the build", &error))?;
            match source.subpath.as_os_str().is_empty() {
                true => merged,
                false => part_of_image(merged, &source.subpath, place)?,
            }
        }
        MountWhole::Shared(path) => {
            let namespace = shared.ok_or_else(|| {
                Failure::new(FailureKind::Invalid, "the request lacks the other container's mount namespace")
            })?;
            mount_of_other(namespace, path)
                .map_err(|error| Failure::cannot("share the other container's mount", &error))?
        }
    };
    let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
    mount::change(&copy, &private, true).map_err(cannot_bind)?;
    Ok(copy)
}

/// A copy of what another container has mounted at `path`. The kernel copies mounts of the caller's namespace only, so this
/// process, which has one thread, is in the other one for the time of one call.
fn mount_of_other(namespace: &OwnedFd, path: &Path) -> std::io::Result<OwnedFd> {
    let home = Home::note()?;
    namespace::join(namespace, Kind::Mount)?;
    let inside = RootDir::open(Path::new("/")).map_err(std::io::Error::other).and_then(|root| {
        let found = root.open_path_beneath(path.strip_prefix("/").unwrap_or(path));
        clone(found.map_err(|error| error.source)?)
    });
    home.enter();
    inside
}

fn cannot_bind(error: std::io::Error) -> Failure {
    Failure::cannot("mount the part of the volume or image", &error)
}

fn clone(part: impl AsFd) -> std::io::Result<OwnedFd> {
    mount::clone_of(part, true)
}

/// Pins the part, in the words that Docker has for what can be wrong with it.
fn part_of(whole: &RootDir, subpath: &Path, name: &Path) -> Result<OwnedFd, Failure> {
    let shown = name.join(subpath);
    whole.open_path_beneath(subpath).map_err(|error: PathError| match error.errno() {
        // A magic link or a loop of links leads nowhere that is inside.
        Some(Errno::XDEV | Errno::LOOP) => Failure::new(
            FailureKind::Invalid,
            format!(
                "path concatenation escapes the base directory, base: {}, subpath: {}",
                name.display(),
                subpath.display()
            ),
        ),
        Some(errno @ (Errno::NOENT | Errno::NOTDIR)) => Failure::new(
            FailureKind::NotFound,
            format!(
                "cannot access path {}: {}",
                shown.display(),
                if errno == Errno::NOENT { "no such file or directory" } else { "not a directory" }
            ),
        ),
        _ => Failure::cannot(&format!("access path {}", shown.display()), &error),
    })
}

/// What the one file is called in its file system.
const FILE: &str = "file";

/// A file system in memory with one file, which ends with its last mount.
fn file_in_memory(content: &[u8], mode: u32, (uid, gid): (u32, u32)) -> Result<OwnedFd, Failure> {
    let attributes = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV;
    let mount = mount::FileSystem::new("tmpfs")
        .and_then(|memory| memory.set("mode", "0700"))
        .and_then(|memory| memory.mount(attributes))
        .map_err(|error| Failure::cannot("make a file system in memory", &error))?;
    let root = RootDir::from_fd(mount);
    root.write(FILE, content, 0o600)
        .and_then(|()| root.set_owner(FILE, uid, gid))
        .and_then(|()| root.set_mode(FILE, mode))
        .map_err(|error| Failure::cannot("write a file in memory", &error))?;
    Ok(root.into_fd())
}

/// All of an image, read-only.
fn mount_image(layers: &[std::path::PathBuf]) -> Result<OwnedFd, Failure> {
    mount::overlay(&OverlayOptions {
        lowers: layers.to_vec(),
        upper: None,
        work: None,
        volatile: false,
        attributes: Attributes::MOUNT_ATTR_RDONLY,
    })
    .map_err(|error| Failure::cannot("mount the image", &error))
}

/// A part of a detached mount. Before Linux 6.15 only what is attached can be cloned: then this process moves to a mount
/// namespace of its own, where the image is attached on `place`, out of everyone's sight.
fn part_of_image(image: OwnedFd, subpath: &Path, place: &Path) -> Result<OwnedFd, Failure> {
    let image = RootDir::from_fd(image);
    let part = part_of(&image, subpath, Path::new("/"))?;
    match clone(&part) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
        other => return other.map_err(cannot_bind),
    }
    drop(part);
    let attach = || -> std::io::Result<()> {
        namespace::unshare(Kind::Mount.bit())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, place, flags, Mode::empty())?;
        let cut_off = Change { propagation: Some(Propagation::Slave), ..Change::default() };
        mount::change(mount::root_of(&place)?, &cut_off, false)?;
        mount::attach(&image, &place)
    };
    attach().map_err(cannot_bind)?;
    let part = part_of(&image, subpath, Path::new("/"))?;
    let copy = clone(&part).map_err(cannot_bind)?;
    drop(part);
    let place = std::ffi::CString::new(place.as_os_str().as_encoded_bytes())
        .map_err(|error| cannot_bind(error.into()))?;
    mount::detach(&place).map_err(cannot_bind)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(whole: &Path, subpath: &str) -> String {
        let source =
            MountSource { mount: 0, whole: MountWhole::Directory(whole.into()), subpath: subpath.into() };
        match open(&[source], Path::new("/"), None) {
            Ok(_) => "mounted".into(),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn a_part_never_leads_out() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let volume = tempfile::tempdir().expect("temporary");
        let path = volume.path();
        std::fs::create_dir_all(path.join("hack/dir")).expect("creates");
        for (target, name) in [("/", "root"), ("root", "bad"), ("dir", "good"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, path.join("hack").join(name)).expect("links");
        }
        assert_eq!(message(path, "hack/good"), "mounted");
        for name in ["root", "bad", "loop", "root/etc"] {
            let found = message(path, &format!("hack/{name}"));
            assert!(found.starts_with("path concatenation escapes the base directory"), "{found}");
        }
        let missing = message(path, "missing/x");
        assert!(missing.starts_with("cannot access path "), "{missing}");
        assert!(missing.ends_with("/missing/x: no such file or directory"), "{missing}");
    }
}
