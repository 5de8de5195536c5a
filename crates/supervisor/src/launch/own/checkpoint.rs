//! Checkpoints of containers that Palan's own runtime has made.
//!
//! CRIU wants the root file system, and all that is bound into the container, at paths. So a restore takes place in a mount namespace
//! of its own, with a bundle as another runtime would get it; then this process returns to where it was, and of the bundle nothing
//! is left but what the container has mounted.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use palan_linux::tty;
use palan_oci::runtime_spec::Spec;
use palan_runtime::Container as Made;
use palan_runtime::cgroup::Location;
use palan_runtime::checkpoint::{
    self, Criu, External, RestoreRequest, Save, SaveRequest, Saving, Settings, Version,
};
use palan_stdx::fs;

use super::super::bundle::{Bundle, Paths};
use super::super::home::Home;
use super::super::stdio::{Pipes, terminal_size};
use super::super::{Checkpoint, Container, Created, Given, Saved, WORK_DIRECTORY};
use crate::protocol::{Config, CriuProgram, Failure, FailureKind};
use crate::session::Ends;

/// Options of CRIU that an administrator gives for all containers: the file that runc documents.
const CONFIGURATION: &str = "/etc/criu/runc.conf";

/// The refusal of a container that has something which a checkpoint can't keep.
pub(in crate::launch) fn not_with(what: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, format!("a container with {what} has no checkpoints"))
}

/// Refuses what could be saved but not restored, or not even saved.
pub(in crate::launch) fn check(config: &Config) -> Result<(), Failure> {
    if config.runtime.is_some() {
        return Err(not_with("another runtime than Palan's own"));
    }
    if config.init {
        // It executes a file that no mount of the container has.
        return Err(not_with("Palan's own init (--init)"));
    }
    if config.spec.hooks.is_some() {
        return Err(not_with("hooks"));
    }
    Ok(())
}

pub(super) fn save(container: &Made, saved: &Saved<'_>) -> Result<Save, Failure> {
    let settings = settings(saved.images, saved.work);
    let save = Save::begin(
        &known(saved.criu)?,
        SaveRequest {
            pid: container.pid,
            rootfs: Path::new("/"),
            cgroup: &container.cgroup,
            external: &External::with_streams(saved.spec, saved.pipes.clone()),
            saving: if saved.leave_running { Saving::LeaveRunning } else { Saving::Stop },
            settings: &settings,
            parent_images: None,
            tcp_skip_in_flight: false,
            link_remap: false,
            page_server: None,
            status: None,
        },
    )?;
    Ok(save)
}

/// The container's processes, made from a checkpoint, and our ends of their streams.
pub(in crate::launch) fn restore(
    config: &Config,
    run_dir: &Path,
    given: Given,
    checkpoint: &Checkpoint,
) -> Result<(Box<dyn Created>, Ends), Failure> {
    check(config)?;
    let work = run_dir.join(WORK_DIRECTORY);
    fs::create_dir(&work, 0o700).map_err(|error| Failure::cannot("make a directory for CRIU", &error))?;
    let paths = Paths::new(run_dir);
    // A supervisor that was killed may have left one.
    paths.clear()?;
    let home = Home::note().map_err(|error| Failure::cannot("find the own mount namespace", &error))?;
    let restored = restore_in_bundle(
        config,
        run_dir,
        &paths,
        given,
        &settings(&checkpoint.images, &work),
        &checkpoint.criu,
    );
    home.enter();
    let cleared = paths.clear();
    let (restored, ends) = restored?;
    cleared?;
    Ok((Box::new(restored), ends))
}

/// This process is in another mount namespace afterwards.
fn restore_in_bundle(
    config: &Config,
    run_dir: &Path,
    paths: &Paths,
    given: Given,
    settings: &Settings,
    criu: &CriuProgram,
) -> Result<(Restored, Ends), Failure> {
    let mut bundle = Bundle::make(paths, config, given)?;
    let json = fs::read(&bundle.path.join("config.json"))
        .map_err(|error| Failure::cannot("read the bundle", &error))?;
    let spec = Spec::from_json(&json).map_err(|error| Failure::cannot("read the bundle", &error))?;
    let process = spec.process.as_ref();
    let process =
        process.ok_or_else(|| Failure::new(FailureKind::Invalid, "the specification has no process"))?;
    let cgroup = spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    let rootfs = spec.root.as_ref().map_or(PathBuf::new(), |root| PathBuf::from(&root.path));
    let pipes = Pipes::for_process(process, config.open_stdin, true)?;
    let request = RestoreRequest {
        streams: pipes.theirs(),
        id: run_dir.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
        spec: &spec,
        bundle: &bundle.path,
        rootfs: &rootfs,
        cgroup: Location::Root(cgroup),
        settings,
        lsm_profile: None,
        lsm_mount_context: None,
    };
    let restored = checkpoint::restore(&known(criu)?, &request, &mut |_, _| Ok(()));
    let unmounted = bundle.unmount();
    let restored = Restored(Some(restored?));
    unmounted?;
    let master = restored.0.as_ref().and_then(|container| container.console_master.as_ref());
    if let (Some(master), Some(size)) = (master, terminal_size(process)) {
        tty::set_window_size(master, size)
            .map_err(|error| Failure::cannot("set the size of the terminal", &error))?;
    }
    if process.terminal && master.is_none() {
        return Err(Failure::new(
            FailureKind::Invalid,
            "the checkpoint is of a container without a terminal",
        ));
    }
    let ends = pipes.ends(master)?;
    Ok((restored, ends))
}

/// A container whose processes run already. Dropped, it is killed.
#[derive(Debug)]
struct Restored(Option<Made>);

impl Created for Restored {
    fn pidfd(&self) -> BorrowedFd<'_> {
        // It is taken only by what consumes `self`.
        self.0.as_ref().unwrap_or_else(|| unreachable!("a restored container has been taken")).pidfd()
    }

    fn start(mut self: Box<Self>) -> Result<Box<dyn Container>, Failure> {
        let made = self.0.take();
        let mut made = made.ok_or_else(|| Failure::new(FailureKind::WrongState, "it was started already"))?;
        // The session has copies.
        made.console_master = None;
        Ok(Box::new(made))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(container) = self.0.take() {
            // The failure that led here is the one to tell.
            let _ = container.cgroup.kill();
            let _ = palan_linux::process::wait(&container.pidfd);
            let _ = container.cgroup.remove();
        }
    }
}

fn known(criu: &CriuProgram) -> Result<Criu, Failure> {
    Criu::known(&criu.path, Version(criu.version)).map_err(|error| palan_runtime::Error::from(error).into())
}

fn settings(images: &OwnedFd, work: &Path) -> Settings {
    Settings {
        images: PathBuf::from(format!("/proc/self/fd/{}", images.as_raw_fd())),
        work: Some(work.to_owned()),
        configuration: Some(CONFIGURATION.to_owned()),
        ..Settings::default()
    }
}
