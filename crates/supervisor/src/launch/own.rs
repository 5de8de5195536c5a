//! Processes made by Palan's own runtime, inside of this process.

pub(super) mod checkpoint;
mod hooked;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use palan_linux::process;
use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{Process, Resources};
use palan_runtime::cgroup::Cgroup;
use palan_runtime::cgroup::Location;
use palan_runtime::checkpoint::Save;
use palan_runtime::seccomp::Program;
use palan_runtime::{CreateRequest, ExecRequest, Stdio};

use self::hooked::{Bundle, Hooked};
use super::stdio::{Pipes, terminal_size};
use super::{Container, Created, Execed, Given, Saved, sources};
use crate::protocol::{Config, ExecOptions, Failure, FailureKind};
use crate::session::Ends;

pub(super) fn create(
    config: &Config,
    run_dir: &Path,
    seccomp: Option<&Program>,
    given: &Given,
) -> Result<(Box<dyn Created>, Ends), Failure> {
    let Some(process) = &config.spec.process else {
        return Err(Failure::new(FailureKind::Invalid, "the specification has no process"));
    };
    let cgroup = config.spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    if cgroup.is_empty() {
        return Err(Failure::new(FailureKind::Invalid, "the specification has no linux.cgroupsPath"));
    }
    // The directory bears the container's name.
    let id = run_dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let bundle = config.spec.hooks.as_ref().map(|_| Bundle::make(run_dir, id, &config.spec)).transpose()?;
    let sources = sources::open(&config.sources, run_dir, given.shared_mounts.as_ref())?;
    let pipes = Pipes::for_process(process, config.open_stdin, true)?;
    let created = palan_runtime::create(&CreateRequest {
        id,
        spec: &config.spec,
        bundle: bundle.as_ref().map_or(run_dir, |bundle| &bundle.path),
        rootfs: &config.rootfs,
        user: config.user.as_deref(),
        groups: &config.groups,
        create_cwd: config.create_cwd,
        network_namespace: given.network_namespace.as_ref().map(AsFd::as_fd),
        seccomp,
        stdio: stdio(&pipes, process),
        cgroup: Location::Root(cgroup),
        parent_death_signal: true,
        init: config.init,
        extra_descriptors: &[],
        start_fifo: None,
        no_pivot: false,
        keep_keyring: false,
        sources: &sources,
    })?;
    let ends = pipes.ends(created.container().console_master.as_ref())?;
    let created: Box<dyn Created> = Box::new(created);
    Ok(match bundle {
        None => (created, ends),
        Some(bundle) => (Box::new(Hooked::new(created, bundle)), ends),
    })
}

fn stdio<'a>(pipes: &'a Pipes, process: &Process) -> Stdio<'a> {
    if process.terminal {
        return Stdio::Terminal { size: terminal_size(process), translate_newlines: true };
    }
    match pipes.theirs() {
        Some([stdin, stdout, stderr]) => Stdio::Descriptors { stdin, stdout, stderr },
        None => Stdio::Null,
    }
}

impl Created for palan_runtime::Created {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.container().pidfd.as_fd()
    }

    fn start(self: Box<Self>) -> Result<Box<dyn Container>, Failure> {
        let mut container = (*self).start()?;
        // The session has copies.
        container.console_master = None;
        Ok(Box::new(container))
    }
}

impl Container for palan_runtime::Container {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn cgroup(&self) -> Option<&Cgroup> {
        Some(&self.cgroup)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        process::send_signal(&self.pidfd, signal).map_err(|error| Failure::cannot("signal init", &error))
    }

    fn pause(&self) -> Result<(), Failure> {
        self.cgroup.freeze().map_err(|error| {
            // Half frozen is worse than not at all.
            let _ = self.cgroup.thaw();
            Failure::cannot("freeze the container", &error)
        })
    }

    fn resume(&self) -> Result<(), Failure> {
        self.cgroup.thaw().map_err(|error| Failure::cannot("thaw the container", &error))
    }

    fn update(&mut self, limits: &Resources) -> Result<(), Failure> {
        // What the kernel can't do is known since the start.
        self.cgroup.update(limits).map(drop).map_err(|error| Failure::cannot("set the limits", &error))
    }

    fn exec(&self, options: &ExecOptions, seccomp: Option<&Program>) -> Result<Execed, Failure> {
        let process = &options.process;
        let open_stdin = options.attach.as_ref().is_some_and(|attach| attach.stdin);
        let pipes = Pipes::for_process(process, open_stdin, options.attach.is_some())?;
        let execed = palan_runtime::exec(&ExecRequest {
            pid: self.pid,
            pidfd: self.pidfd.as_fd(),
            cgroup: &self.cgroup,
            process,
            personality: None,
            memory_policy: None,
            user: options.user.as_deref(),
            groups: &options.groups,
            seccomp,
            state: &self.state,
            stdio: stdio(&pipes, process),
            extra_descriptors: &[],
            parent_death_signal: true,
        })?;
        let ends = pipes.ends(execed.console_master.as_ref())?;
        Ok(Execed { pid: execed.pid, pidfd: execed.pidfd, ends })
    }

    fn save(&self, saved: &Saved<'_>) -> Result<Save, Failure> {
        checkpoint::save(self, saved)
    }

    fn end(&self) {
        // A process that can't be killed shows when the cgroup can't be removed.
        let _ = self.cgroup.kill();
    }

    fn retire(&mut self) -> Result<(), Failure> {
        // The mounts went with init.
        Ok(())
    }

    fn remove_cgroup(&self) -> Result<(), Failure> {
        self.cgroup.remove().map_err(|error| Failure::cannot("remove the container's cgroup", &error))
    }
}
