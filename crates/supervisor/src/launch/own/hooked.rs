//! A container whose specification has hooks, as those of a vendor's devices have.
//!
//! Hooks are told where the bundle is and look for its `config.json` and root file system there, so there is one:
//!
//! ```text
//! <run directory>/bundle/   config.json  rootfs/
//! ```
//!
//! It is seen by root only, and gone when the container is. The root file system is at its place in the container's mount
//! namespace, where `createContainer` hooks run, until the root changes.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{Resources, Spec};
use palan_runtime::cgroup::Cgroup;
use palan_runtime::checkpoint::Save;
use palan_runtime::hooks::{self, HookState};
use palan_runtime::seccomp::Program;
use palan_stdx::fs;

use super::super::{Container, Created, Execed, Saved};
use super::checkpoint::not_with;
use crate::protocol::{ExecOptions, Failure};

/// How many seconds a `poststop` hook may take that names no limit: nobody hears of the container's end before, nor does anybody
/// answer its clients.
const POSTSTOP_PATIENCE: u32 = 30;

/// The bundle. Dropped, `poststop` hooks have run, and it is gone.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    /// What the hooks call the container.
    id: String,
    spec: Spec,
    is_closed: bool,
}

impl Bundle {
    /// Makes it. An earlier one, of a supervisor that was killed, is replaced.
    pub(super) fn make(run_dir: &Path, id: &str, spec: &Spec) -> Result<Self, Failure> {
        let path = run_dir.join("bundle");
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::cannot("make the bundle for the hooks", error)
        };
        let json = serde_json::to_vec(spec).map_err(|error| failed(&error))?;
        let make = || -> Result<(), fs::PathError> {
            fs::if_exists(fs::remove_dir_all(&path))?;
            fs::create_dir(&path, 0o700)?;
            fs::create_dir(&path.join("rootfs"), 0o755)?;
            fs::write(&path.join("config.json"), json)
        };
        make().map_err(|error| failed(&error))?;
        Ok(Self { path, id: id.to_owned(), spec: spec.clone(), is_closed: false })
    }

    fn state(&self) -> HookState<'_> {
        HookState {
            oci_version: &self.spec.oci_version,
            id: &self.id,
            bundle: &self.path,
            annotations: &self.spec.annotations,
        }
    }

    fn close(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        let stopped = hooks::poststop(self.spec.hooks.as_ref(), &self.state(), Some(POSTSTOP_PATIENCE));
        let stopped = stopped.map_err(Failure::from);
        let removed = fs::remove_dir_all(&self.path)
            .map_err(|error| Failure::cannot("remove the bundle of the hooks", &error));
        stopped.and(removed)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // The failure that led here is the one to tell.
        let _ = self.close();
    }
}

/// A container with hooks, in either state of its life.
#[derive(Debug)]
pub(super) struct Hooked<C: ?Sized> {
    container: Box<C>,
    /// After the container, which ends before its hooks are told.
    bundle: Bundle,
}

impl Hooked<dyn Created> {
    pub(super) fn new(container: Box<dyn Created>, bundle: Bundle) -> Self {
        Self { container, bundle }
    }
}

impl Created for Hooked<dyn Created> {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.container.pidfd()
    }

    fn start(self: Box<Self>) -> Result<Box<dyn Container>, Failure> {
        let Self { container, bundle } = *self;
        let container = container.start()?;
        let started = hooks::poststart(bundle.spec.hooks.as_ref(), &bundle.state(), container.pid());
        if let Err(error) = started {
            let _ = container.signal(Signal::KILL);
            let _ = palan_linux::process::wait(container.pidfd());
            container.end();
            let _ = container.remove_cgroup();
            return Err(error.into());
        }
        Ok(Box::new(Hooked { container, bundle }))
    }
}

impl Container for Hooked<dyn Container> {
    fn pid(&self) -> i32 {
        self.container.pid()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.container.pidfd()
    }

    fn cgroup(&self) -> Option<&Cgroup> {
        self.container.cgroup()
    }

    fn warnings(&self) -> Vec<String> {
        self.container.warnings()
    }

    fn update(&mut self, limits: &Resources) -> Result<(), Failure> {
        self.container.update(limits)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        self.container.signal(signal)
    }

    fn pause(&self) -> Result<(), Failure> {
        self.container.pause()
    }

    fn resume(&self) -> Result<(), Failure> {
        self.container.resume()
    }

    fn exec(&self, options: &ExecOptions, seccomp: Option<&Program>) -> Result<Execed, Failure> {
        self.container.exec(options, seccomp)
    }

    fn save(&self, _: &Saved<'_>) -> Result<Save, Failure> {
        Err(not_with("hooks"))
    }

    fn end(&self) {
        self.container.end();
    }

    fn retire(&mut self) -> Result<(), Failure> {
        let retired = self.container.retire();
        retired.and(self.bundle.close())
    }

    fn remove_cgroup(&self) -> Result<(), Failure> {
        self.container.remove_cgroup()
    }
}
