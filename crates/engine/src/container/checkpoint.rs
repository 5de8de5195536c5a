//! Checkpoints: a container's processes saved to files, and a start that makes them anew from these instead of from the image.
//!
//! ```text
//! <data root>/containers/<id>/checkpoints/<name>/   or   <directory of the caller>/<name>/
//!     CRIU's images, and what the standard streams were
//! ```
//!
//! The supervisor makes them, with the program that is found here; its module `checkpoint` says in which steps. It gets directories as
//! descriptors, so that what was looked at here is what is used there. A name is one entry of a directory and can't be hidden: what is,
//! is on its way to be made or removed.
//!
//! **Invariant:** images come from root alone. Whoever can write them decides what is executed, with which capabilities, and where.
//!
//! **Invariant:** what was confined is confined as before. What this host's CRIU does not restore is a reason to refuse, before anything ends.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use palan_linux::path::{Directory, FileKind};
use palan_stdx::fs;
use palan_supervisor::protocol::{CheckpointOptions, CriuProgram, Request};
use palan_supervisor::runtime::checkpoint::{Criu, CriuError, Version};

use crate::container::driver::{Action, Driver, Pending, not_running};
use crate::container::index::Reply;
use crate::container::start::Prepared;
use crate::container::stop::is_restarting;
use crate::container::{Details, Status, security, validate};
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::{Class, Error, Result};

/// The program, in the `PATH` of the daemon.
const PROGRAM: &str = "criu";

/// How long the end of a container is waited for that was saved.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// A checkpoint that shall be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointSpec {
    /// Its name.
    pub name: String,
    /// The absolute path of the directory that it shall be in; empty for the container's own.
    pub directory: String,
    /// Whether the container ends with it.
    pub exit: bool,
}

/// Where a container is started from.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The directory of its images.
    pub(crate) images: OwnedFd,
    /// Who makes the processes.
    pub(crate) criu: CriuProgram,
}

impl Engine {
    /// Saves a container that runs.
    pub async fn create_checkpoint(&self, container: &str, spec: CheckpointSpec) -> Result<()> {
        check_name(&spec.name)?;
        let handle = self.index.find(container)?;
        let details = handle.details();
        let cannot = |error: Error| {
            Error::new(error.class(), format!("Cannot checkpoint container {container}: {}", error.report()))
        };
        check_state(&details)?;
        if spec.exit && spec.directory.is_empty() && details.host.auto_remove {
            let text = "it is removed when it ends (--rm), and the checkpoint with it; leave it running, or give another \
                        directory for the checkpoint";
            return Err(cannot(Error::conflict(text)));
        }
        let (place, name, called) =
            (self.checkpoints_of(&details, &spec.directory)?, spec.name.clone(), container.to_owned());
        let keeps_privileges = self.keeps_privileges(&details)?;
        let found = blocking(move || {
            if place.join(&name).exists() {
                let text = format!("checkpoint with name {name} already exists for container {called}");
                return Err(Error::conflict(text));
            }
            let criu = find_criu(keeps_privileges)?;
            fs::create_dir_all(&place, 0o700).map_err(unusable)?;
            Ok((criu, open(&place)?.into_fd()))
        });
        let (criu, directory) = found.await.map_err(cannot)?;
        let mut life = handle.life.subscribe();
        let options = CheckpointOptions { name: spec.name, leave_running: !spec.exit, criu };
        handle.ask(|reply| Action::Checkpoint { options, directory, reply }).await.map_err(cannot)?;
        if spec.exit {
            let ended = life.wait_for(|life| !life.status.is_live() || life.removed);
            // The checkpoint is there; a process that can't be killed is another matter.
            let _ = tokio::time::timeout(END_PATIENCE, ended).await;
        }
        Ok(())
    }

    /// The names of a container's checkpoints, in order.
    pub async fn list_checkpoints(&self, container: &str, directory: &str) -> Result<Vec<String>> {
        let handle = self.index.find(container)?;
        let place = self.checkpoints_of(&handle.details(), directory)?;
        let (is_own, called) = (directory.is_empty(), container.to_owned());
        blocking(move || {
            let entries = fs::if_exists(fs::read_dir(&place)).map_err(unusable)?;
            let Some(entries) = entries else {
                let text =
                    format!("checkpoint directory {} does not exist for container {called}", place.display());
                return if is_own { Ok(Vec::new()) } else { Err(Error::not_found(text)) };
            };
            let is_directory = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            let names = entries.into_iter().filter(is_directory).map(|entry| entry.file_name());
            let names = names.filter_map(|name| name.into_string().ok());
            let mut names: Vec<String> = names.filter(|name| validate::is_name(name)).collect();
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    /// Removes a checkpoint.
    pub async fn remove_checkpoint(&self, container: &str, name: &str, directory: &str) -> Result<()> {
        check_name(name)?;
        let handle = self.index.find(container)?;
        let place = self.checkpoints_of(&handle.details(), directory)?;
        let (name, called) = (name.to_owned(), container.to_owned());
        blocking(move || {
            find(&place, &name, &called)?;
            let directory = open(&place)?;
            // Out of sight at once, so that what a crash leaves is no checkpoint.
            let (name, removed) = (OsString::from(&name), OsString::from(format!(".{name}.removed")));
            let remove = || -> std::io::Result<()> {
                if directory.metadata_if_exists(&removed)?.is_some() {
                    directory.remove_all(&removed)?;
                }
                directory.rename_new(&name, &directory, &removed)?;
                directory.remove_all(&removed)
            };
            remove().context(|| "cannot remove the checkpoint".into())
        })
        .await
    }

    /// Starts a container from a checkpoint. Class `NotModified` when it runs already.
    pub async fn start_from_checkpoint(&self, container: &str, name: &str, directory: &str) -> Result<()> {
        check_name(name)?;
        let handle = self.index.find(container)?;
        handle.promises_settled().await;
        let details = handle.details();
        let place = self.checkpoints_of(&details, directory)?;
        let (name, called) = (name.to_owned(), details.name.clone());
        let keeps_privileges = self.keeps_privileges(&details)?;
        let from = blocking(move || {
            let images = find(&place, &name, &called)?;
            check_owner(&images, &place.join(&name))?;
            Ok(Checkpoint { images, criu: find_criu(keeps_privileges)? })
        });
        let from = Some(Box::new(from.await?));
        handle.ask(|reply| Action::Start { from, reply }).await
    }

    /// Whether its processes gain no privileges by what they execute.
    fn keeps_privileges(&self, details: &Details) -> Result<bool> {
        let list = &details.host.security_opt;
        Ok(security::options(list, &self.host, &self.config)?.no_new_privileges)
    }

    /// The directory of a container's checkpoints.
    fn checkpoints_of(&self, details: &Details, directory: &str) -> Result<PathBuf> {
        if directory.is_empty() {
            return Ok(self.container_dir(&details.id).join("checkpoints"));
        }
        let path = PathBuf::from(directory);
        if !path.is_absolute() || directory.contains('\0') {
            let text = format!("invalid checkpoint directory {directory:?}: it must be an absolute path");
            return Err(Error::invalid(text));
        }
        Ok(path)
    }
}

impl Driver {
    /// Asks the supervisor for a checkpoint.
    pub(super) fn checkpoint(&mut self, options: CheckpointOptions, directory: OwnedFd, reply: Reply<()>) {
        let details = self.details();
        let prepared = check_state(&details).and_then(|()| Prepared::new(&self.engine, &details));
        match prepared {
            Ok(prepared) => {
                let descriptors = vec![prepared.config, directory];
                self.request(Request::Checkpoint(options), descriptors, Pending::Reply(reply));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }
}

fn check_state(details: &Details) -> Result<()> {
    match details.state.status {
        Status::Running => Ok(()),
        Status::Paused => {
            Err(Error::conflict(format!("Container {} is paused, unpause it first", details.id)))
        }
        Status::Restarting => Err(is_restarting(&details.id)),
        _ => Err(not_running(&details.id)),
    }
}

fn check_name(name: &str) -> Result<()> {
    if validate::is_name(name) {
        return Ok(());
    }
    let allowed = validate::NAME_CHARACTERS;
    Err(Error::invalid(format!("invalid checkpoint ID {name:?}, only {allowed} are allowed")))
}

fn open(place: &Path) -> Result<Directory> {
    Ok(Directory::from_fd(fs::open(place).map_err(unusable)?.into()))
}

/// A directory that can't be that of checkpoints; for most reasons it is the caller who has named it.
fn unusable(error: fs::PathError) -> Error {
    let class = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Class::System,
        _ => Class::InvalidParameter,
    };
    Error::new(class, "the directory of checkpoints can't be used").with_source(error)
}

/// The directory of a checkpoint.
fn find(place: &Path, name: &str, container: &str) -> Result<OwnedFd> {
    let missing = || Error::not_found(format!("checkpoint {name} does not exist for container {container}"));
    let directory = fs::if_exists(fs::open(place)).map_err(unusable)?;
    let directory = Directory::from_fd(directory.ok_or_else(missing)?.into());
    let name = OsStr::new(name);
    let found = directory.metadata_if_exists(name);
    match found {
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err(Error::invalid(format!("{} is not a directory", place.display())))
        }
        Err(error) => Err(Error::system("cannot look for the checkpoint").with_source(error)),
        Ok(None) => Err(missing()),
        Ok(Some(found)) if found.kind != FileKind::Directory => {
            let path = place.join(name);
            Err(Error::conflict(format!("{} exists and is not a directory", path.display())))
        }
        Ok(Some(_)) => {
            let images = directory.open_dir(name).context(|| "cannot open the checkpoint".into())?;
            Ok(images.into_fd())
        }
    }
}

/// See the module's invariant.
fn check_owner(images: impl AsFd, path: &Path) -> Result<()> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let found = rustix::fs::fstat(images)
        .map_err(std::io::Error::from)
        .context(|| "cannot inspect the checkpoint".into())?;
    let is_ours = found.st_uid == 0 || found.st_uid == rustix::process::geteuid().as_raw();
    if is_ours && found.st_mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(Error::new(
        Class::Forbidden,
        format!(
            "the checkpoint {} can be changed by others than root, who would decide what is executed: give it to root, with \
             mode 0700",
            path.display()
        ),
    ))
}

/// The first CRIU that restores `no_new_privs` (prctl(2)): with an earlier one a container would have it no more afterwards.
const KEEPS_NO_NEW_PRIVILEGES: Version = Version(31_900);

/// Looks for the program, which must be able to keep what the container is confined by.
fn find_criu(keeps_privileges: bool) -> Result<CriuProgram> {
    match Criu::find(PROGRAM) {
        Ok(criu) if keeps_privileges && criu.version() < KEEPS_NO_NEW_PRIVILEGES => Err(Error::new(
            Class::NotImplemented,
            format!(
                "CRIU {} does not restore no-new-privileges, which the container runs with: {KEEPS_NO_NEW_PRIVILEGES} or \
                 newer is needed",
                criu.version()
            ),
        )),
        Ok(criu) => Ok(CriuProgram { path: criu.program().to_owned(), version: criu.version().0 }),
        Err(CriuError::Missing(_)) => Err(Error::new(
            Class::NotImplemented,
            "checkpoints need CRIU, and there is no program criu in the PATH of the daemon: install the package criu",
        )),
        Err(error) => Err(Error::system("criu can't be used").with_source(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_entries() {
        for name in ["a1", "before-upgrade", "2026.08.01"] {
            check_name(name).expect(name);
        }
        for name in ["", "a", ".", "..", ".a", "a/b", "../a", "/a", "a\0b", "ä1", "-a"] {
            let error = check_name(name).expect_err(name);
            assert_eq!(error.class(), Class::InvalidParameter);
            assert!(error.to_string().contains("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"), "{error}");
        }
    }

    #[test]
    fn what_is_found_is_a_directory_of_root() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("temporary");
        let text = |name: &str| find(root.path(), name, "web").map(drop).map_err(|error| error.to_string());
        assert_eq!(text("one").unwrap_err(), "checkpoint one does not exist for container web");
        let place = root.path().join("one");
        std::fs::write(&place, "").expect("written");
        assert!(text("one").unwrap_err().ends_with("one exists and is not a directory"));
        std::fs::remove_file(&place).expect("removed");
        std::os::unix::fs::symlink("/etc", &place).expect("linked");
        assert!(text("one").is_err(), "a symlink is no checkpoint");
        std::fs::remove_file(&place).expect("removed");
        std::fs::create_dir(&place).expect("made");
        for (mode, is_safe) in [(0o700, true), (0o755, true), (0o777, false), (0o720, false)] {
            std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).expect("set");
            let images = find(root.path(), "one", "web").expect("found");
            assert_eq!(check_owner(images, &place).is_ok(), is_safe, "{mode:o}");
        }
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).expect("set");
            std::os::unix::fs::chown(&place, Some(1000), None).expect("given away");
            let images = find(root.path(), "one", "web").expect("found");
            assert_eq!(check_owner(images, &place).expect_err("others").class(), Class::Forbidden);
        }
    }
}
