//! Checkpoints: the container's processes saved by CRIU, a child process that the event loop listens to.
//!
//! 1. The daemon names the checkpoint and hands over the directory that it shall be in. The images are written beside their
//!    later place, to `.<name>.partial`; what a killed supervisor has left there is replaced.
//! 2. CRIU stops the processes and reads them. Clients, names, ports and the daemon are served meanwhile; the health check rests. The
//!    container can be killed, by which the checkpoint fails.
//! 3. CRIU has read everything and waits. The images are synced and renamed to their place, the journal is told. If one of these
//!    fails, CRIU lets the processes go on, and nothing is left.
//! 4. CRIU kills the processes, which is the container's end for good, or lets them go on.
//!
//! **Invariant:** a checkpoint has its name only once it is whole and on the disk, and no process is killed before.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use palan_linux::event::Interest;
use palan_linux::path::Directory;
use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{Namespace, NamespaceKind, Spec};
use palan_runtime::checkpoint::Save;
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::journal::Event;
use crate::launch::{Saved, WORK_DIRECTORY};
use crate::protocol::{CheckpointOptions, Failure, FailureKind, Message, Reply, RequestId};
use crate::serve::{Life, Supervisor};
use crate::start::{Descriptors, read_config};
use crate::watch::Token;

/// A checkpoint that is being made.
#[derive(Debug)]
pub(crate) struct Saving {
    save: Save,
    place: Place,
    request: RequestId,
    leave_running: bool,
    /// It has its name.
    is_complete: bool,
}

impl Saving {
    /// The container is gone for long and CRIU does not come to its end.
    pub(crate) fn give_up(&self) {
        self.save.kill();
    }
}

/// Where the images are and will be.
#[derive(Debug)]
struct Place {
    directory: Directory,
    images: OwnedFd,
    name: OsString,
    partial: OsString,
}

impl Place {
    fn make(directory: OwnedFd, name: &str) -> io::Result<Self> {
        if name.starts_with('.') {
            return Err(Errno::INVAL.into());
        }
        let directory = Directory::from_fd(directory);
        let (name, partial) = (OsString::from(name), OsString::from(format!(".{name}.partial")));
        if directory.metadata_if_exists(&name)?.is_some() {
            return Err(Errno::EXIST.into());
        }
        if directory.metadata_if_exists(&partial)?.is_some() {
            directory.remove_all(&partial)?;
        }
        directory.create_dir(&partial, 0o700)?;
        let images = directory.open_dir(&partial)?.into_fd();
        Ok(Self { directory, images, name, partial })
    }

    /// The images are whole: they get their name, but not before the disk has them.
    fn complete(&self) -> io::Result<()> {
        let images = self.directory.open_dir(&self.partial)?;
        for entry in images.entries()? {
            if let Some(file) = images.open_regular(&entry.name)? {
                rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
                file.sync_all()?;
            }
        }
        images.sync()?;
        self.directory.rename_new(&self.partial, &self.directory, &self.name)?;
        self.directory.sync()
    }

    fn remove(&self, name: &OsStr) {
        // What is left is replaced by the next attempt.
        let _ = self.directory.remove_all(name);
    }
}

impl Supervisor {
    /// See [`crate::protocol::Request::Checkpoint`].
    pub(crate) fn save(&mut self, request: RequestId, options: &CheckpointOptions, descriptors: Descriptors) {
        match self.begin_to_save(request, options, descriptors) {
            Ok(saving) => self.saving = Some(Box::new(saving)),
            Err(failure) => self.send(&Message::Reply { id: request, result: Err(failure) }),
        }
    }

    /// An error while a checkpoint is made: what is stopped can't be stopped otherwise, and what is started would be missing in it.
    pub(crate) fn is_not_being_saved(&self) -> Result<(), Failure> {
        match self.saving {
            None => Ok(()),
            Some(_) => {
                let message = "a checkpoint of the container is being made, wait until it is there";
                Err(Failure::new(FailureKind::WrongState, message))
            }
        }
    }

    fn begin_to_save(
        &mut self,
        request: RequestId,
        options: &CheckpointOptions,
        mut descriptors: Descriptors,
    ) -> Result<Saving, Failure> {
        self.is_not_being_saved()?;
        let running = self.running()?;
        if running.paused {
            return Err(Failure::new(FailureKind::WrongState, "the container is paused, unpause it first"));
        }
        let pid = running.container.pid();
        let config = read_config(&descriptors.take("the configuration")?.into())?;
        crate::launch::check_for_checkpoint(&config)?;
        let mut spec = config.spec;
        if self.restarts.origin().namespaces(&mut spec)?.network_namespace.is_some() {
            join_network_of(pid, &mut spec);
        }
        let directory = descriptors.take("the directory of checkpoints")?;
        let place = Place::make(directory, &options.name).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                FailureKind::Invalid,
                format!("checkpoint with name {} already exists", options.name),
            ),
            _ => Failure::cannot("make the directory of the checkpoint", &error),
        })?;
        let work = self.run_dir.join(WORK_DIRECTORY);
        let begun = palan_stdx::fs::create_dir(&work, 0o700)
            .map_err(|error| Failure::cannot("make a directory for CRIU", &error))
            .and_then(|()| {
                self.suspend_health();
                let pipes = self.stdio.pipes();
                let saved = Saved {
                    spec: &spec,
                    pipes,
                    images: &place.images,
                    work: &work,
                    criu: &options.criu,
                    leave_running: options.leave_running,
                };
                let save = self.running()?.container.save(&saved)?;
                if let Some(descriptor) = save.descriptor() {
                    self.epoll.add(descriptor, Token::Checkpoint.encode(), Interest::READ)?;
                }
                Ok(save)
            });
        match begun {
            Ok(save) => {
                Ok(Saving { save, place, request, leave_running: options.leave_running, is_complete: false })
            }
            Err(failure) => {
                place.remove(&place.partial);
                self.resume_health();
                Err(failure)
            }
        }
    }

    /// CRIU has something to say.
    pub(crate) fn checkpoint_ready(&mut self) {
        let Some(mut saving) = self.saving.take() else { return };
        self.idle_work = true;
        let was_complete = saving.is_complete;
        let Saving { save, place, is_complete, .. } = &mut *saving;
        let outcome = save.advance(&mut || {
            place.complete()?;
            *is_complete = true;
            Ok(())
        });
        if saving.is_complete && !was_complete {
            let stops = !saving.leave_running;
            self.record(Event::Checkpoint { stops });
            if stops {
                // The processes may end from here on.
                self.restarts.forbid();
                self.send(&Message::Reply { id: saving.request, result: Ok(Reply::Done) });
            }
        }
        match outcome {
            Ok(false) => self.saving = Some(saving),
            Ok(true) => self.saved(&saving, None),
            Err(error) => self.saved(&saving, Some(error.into())),
        }
    }

    fn saved(&mut self, saving: &Saving, failure: Option<Failure>) {
        if let Some(descriptor) = saving.save.descriptor() {
            // It is closed with this anyway.
            let _ = self.epoll.remove(descriptor.as_fd());
        }
        let has_answer = saving.is_complete && !saving.leave_running;
        if has_answer {
            if let Life::Running(running) = &self.life {
                // CRIU has killed it already, or could not.
                let _ = running.container.signal(Signal::KILL);
            }
            return;
        }
        if failure.is_some() {
            place_of_failed(saving);
        }
        self.resume_health();
        let result = failure.map_or(Ok(Reply::Done), Err);
        self.send(&Message::Reply { id: saving.request, result });
    }
}

/// Nothing is left of a checkpoint that failed, also where CRIU failed to let the processes go on.
fn place_of_failed(saving: &Saving) {
    let Place { name, partial, .. } = &saving.place;
    saving.place.remove(if saving.is_complete { name } else { partial });
}

/// Names the network namespace of a process, which was given to it.
fn join_network_of(pid: i32, spec: &mut Spec) {
    let namespaces = &mut spec.linux.get_or_insert_default().namespaces;
    namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
    namespaces.push(Namespace { kind: NamespaceKind::Network, path: format!("/proc/{pid}/ns/net") });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn a_checkpoint_has_its_name_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let names = || {
            let entries = std::fs::read_dir(root.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        // What was left by one that was killed goes.
        std::fs::create_dir_all(root.path().join(".one.partial/old")).unwrap();
        let place = Place::make(open(root.path()), "one").unwrap();
        assert_eq!(names(), [".one.partial"]);
        assert_eq!(std::fs::read_dir(root.path().join(".one.partial")).unwrap().count(), 0);
        std::fs::write(root.path().join(".one.partial/pages"), "x").unwrap();
        place.complete().unwrap();
        assert_eq!(names(), ["one"]);
        assert_eq!(Place::make(open(root.path()), "one").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        // Nobody's place is taken, whoever was faster.
        let place = Place::make(open(root.path()), "two").unwrap();
        std::fs::create_dir(root.path().join("two")).unwrap();
        assert_eq!(place.complete().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        place.remove(&place.partial);
        assert_eq!(names(), ["one", "two"]);
    }

    #[test]
    fn names_stay_in_the_directory() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0b"] {
            assert!(Place::make(open(root.path()), name).is_err(), "{name:?}");
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
