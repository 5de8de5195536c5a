//! Processes made by another OCI runtime, which is driven by runc's command line:
//!
//! | what | command |
//! |---|---|
//! | create | `create --bundle B --pid-file F [--console-socket S] ID`, its standard streams being the container's |
//! | start | `start ID` |
//! | exec | `exec --process P --detach --pid-file F [--console-socket S] ID` |
//! | signal to init | `kill ID NUMBER` |
//! | pause, resume | `pause ID`, `resume ID` |
//! | update | `update --resources F ID` |
//! | end | `delete --force ID` |
//!
//! The runtime's process ends with each command. What it has made is an orphan then and becomes a child of the nearest
//! subreaper, which this process is: so its end is learned as that of any other child, and the runtime is not asked. Other
//! orphans are reaped by the event loop.
//!
//! The kernel does not kill the container with this process, as it does with Palan's own runtime: a parent-death signal
//! can only be asked for by the process itself. The daemon kills it, at once or when it starts.

mod command;
mod console;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use palan_linux::process;
use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{Process, Resources};
use palan_runtime::cgroup::{Cgroup, Place};
use palan_runtime::checkpoint::Save;
use palan_runtime::seccomp::Program;
use rustix::process::Pid;

use self::command::{MAKING, Runtime, Streams};
use self::console::ConsoleSocket;
use super::bundle::{Bundle, Paths};
use super::own::checkpoint::not_with;
use super::stdio::{Pipes, terminal_size};
use super::{Container, Created, Execed, Given, Saved};
use crate::protocol::{Config, ExecOptions, ExternalRuntime, Failure, FailureKind};
use crate::session::Ends;

/// A container that another runtime has created. Dropped before it was retired, it is killed and deleted.
#[derive(Debug)]
struct External {
    init: Child,
    cgroup: Option<Cgroup>,
    workshop: Workshop,
}

/// A process that a runtime has made and left to us.
#[derive(Debug)]
struct Child {
    pid: i32,
    pidfd: OwnedFd,
}

/// What a runtime works with. Dropped, the runtime knows nothing of the container any more, and nothing is mounted.
#[derive(Debug)]
struct Workshop {
    runtime: Runtime,
    bundle: Bundle,
    paths: Paths,
    is_cleared: bool,
}

pub(super) fn create(
    config: &Config,
    settings: &ExternalRuntime,
    run_dir: &Path,
    given: Given,
) -> Result<(Box<dyn Created>, Ends), Failure> {
    let process = config.spec.process.as_ref();
    let process =
        process.ok_or_else(|| Failure::new(FailureKind::Invalid, "the specification has no process"))?;
    let paths = Paths::new(run_dir);
    let runtime = Runtime::new(settings, &paths.state, &paths.bundle);
    if paths.exist() {
        // Its supervisor was killed. What the runtime can't take back does not matter: the cgroup is killed already.
        let _ = runtime.run("delete", &[OsStr::new("--force")], &[]);
        paths.clear()?;
    }
    let bundle = Bundle::make(&paths, config, given)?;
    let path = bundle.path.clone();
    let workshop = Workshop { runtime, bundle, paths, is_cleared: false };
    let pipes = Pipes::for_process(process, config.open_stdin, true)?;
    let words = [OsStr::new("--bundle"), path.as_os_str()];
    let (init, ends) = workshop.make("create", &words, process, pipes)?;
    // A runtime that runs the container elsewhere, in a virtual machine say, may have none here.
    let cgroup =
        config.spec.linux.as_ref().and_then(|linux| Cgroup::open(&Place::root(&linux.cgroups_path)).ok());
    Ok((Box::new(External { init, cgroup, workshop }), ends))
}

impl Workshop {
    /// `create` or `exec`: what makes a process that shall be ours.
    fn make(
        &self,
        command: &str,
        options: &[&OsStr],
        process: &Process,
        pipes: Pipes,
    ) -> Result<(Child, Ends), Failure> {
        let pid_file = self.bundle.path.join("pid");
        // A runtime that writes none must not lead us to the process of an earlier command.
        palan_stdx::fs::if_exists(palan_stdx::fs::remove_file(&pid_file))
            .map_err(|error| Failure::cannot("prepare the bundle", &error))?;
        let console = process.terminal.then(|| ConsoleSocket::listen(&self.bundle.directory)).transpose()?;
        let console_path = console.as_ref().map(ConsoleSocket::path);
        let mut all = options.to_vec();
        all.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        if let Some(path) = &console_path {
            all.extend([OsStr::new("--console-socket"), path.as_os_str()]);
        }
        // The supervisor's own stdin is /dev/null, open in both directions.
        let streams = Streams::OfProcess {
            streams: pipes.theirs().unwrap_or_else(|| [rustix::stdio::stdin(); 3]),
            errors: pipes.our_stderr().map(AsFd::as_fd),
        };
        self.runtime.run_with(command, &all, &[], streams, MAKING)?;
        let child = Child::from_file(&pid_file)?;
        let master = console.map(|console| console.receive(terminal_size(process))).transpose();
        match master.and_then(|master| pipes.ends(master.as_ref())) {
            Ok(ends) => Ok((child, ends)),
            Err(failure) => {
                child.discard();
                Err(failure)
            }
        }
    }

    fn clear(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.is_cleared, true) {
            return Ok(());
        }
        let deleted = self.runtime.run("delete", &[OsStr::new("--force")], &[]);
        let removed = self.bundle.unmount().and_then(|()| self.paths.clear());
        deleted.and(removed)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // The failure that led here is the one to tell.
        let _ = self.clear();
    }
}

impl Child {
    /// The process whose number a runtime has written.
    fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = palan_stdx::fs::read_to_string(path)
            .map_err(|error| Failure::cannot("find the process that the runtime has made", &error))?;
        let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| {
            Failure::new(FailureKind::Other, format!("the runtime wrote {text:?} as a process id"))
        })?;
        let failed =
            |error: std::io::Error| Failure::cannot("watch the process that the runtime has made", &error);
        let pidfd = process::open_pidfd(pid).map_err(failed)?;
        if !process::is_child(&pidfd).map_err(failed)? {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!(
                    "the runtime has not left its process {pid} to its caller, so its end can't be learned"
                ),
            ));
        }
        Ok(Self { pid: pid.as_raw_nonzero().get(), pidfd })
    }

    /// Kills and reaps it.
    fn discard(&self) {
        // It may have ended already: then only the reaping is left.
        let _ = process::send_signal(&self.pidfd, Signal::KILL);
        let _ = process::wait(&self.pidfd);
    }
}

impl Created for External {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.init.pidfd.as_fd()
    }

    fn start(self: Box<Self>) -> Result<Box<dyn Container>, Failure> {
        self.workshop.runtime.run_with("start", &[], &[], Streams::Own, MAKING)?;
        Ok(self)
    }
}

impl Container for External {
    fn pid(&self) -> i32 {
        self.init.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.init.pidfd.as_fd()
    }

    fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let number = signal.as_raw().to_string();
        let outcome = self.workshop.runtime.run("kill", &[], &[OsStr::new(&number)]);
        if outcome.is_err() && signal == Signal::KILL {
            // Whatever is the matter with the runtime, a container must be killable.
            return process::send_signal(&self.init.pidfd, signal)
                .map_err(|error| Failure::cannot("signal init", &error));
        }
        outcome
    }

    fn pause(&self) -> Result<(), Failure> {
        self.workshop.runtime.run("pause", &[], &[]).inspect_err(|_| {
            // Half frozen is worse than not at all.
            let _ = self.workshop.runtime.run("resume", &[], &[]);
        })
    }

    fn resume(&self) -> Result<(), Failure> {
        self.workshop.runtime.run("resume", &[], &[])
    }

    fn update(&mut self, limits: &Resources) -> Result<(), Failure> {
        const FILE: &str = "limits.json";
        self.workshop.bundle.write(FILE, limits)?;
        let file = self.workshop.bundle.path.join(FILE);
        self.workshop.runtime.run("update", &[OsStr::new("--resources"), file.as_os_str()], &[])
    }

    fn exec(&self, options: &ExecOptions, _seccomp: Option<&Program>) -> Result<Execed, Failure> {
        const FILE: &str = "exec.json";
        let mut process = options.process.clone();
        self.workshop.bundle.settle_user(&mut process, options.user.as_deref(), &options.groups)?;
        self.workshop.bundle.write(FILE, &process)?;
        let open_stdin = options.attach.as_ref().is_some_and(|attach| attach.stdin);
        let pipes = Pipes::for_process(&process, open_stdin, options.attach.is_some())?;
        let file = self.workshop.bundle.path.join(FILE);
        let words = [OsStr::new("--detach"), OsStr::new("--process"), file.as_os_str()];
        let made = self.workshop.make("exec", &words, &process, pipes);
        // It may hold secrets in its environment, and has been read. Where it stays, only root comes.
        let _ = palan_stdx::fs::remove_file(&file);
        let (child, ends) = made?;
        Ok(Execed { pid: child.pid, pidfd: child.pidfd, ends })
    }

    fn save(&self, _: &Saved<'_>) -> Result<Save, Failure> {
        Err(not_with("another runtime than Palan's own"))
    }

    fn end(&self) {
        if let Some(cgroup) = &self.cgroup {
            // A process that can't be killed shows when the cgroup can't be removed.
            let _ = cgroup.kill();
        }
    }

    fn retire(&mut self) -> Result<(), Failure> {
        self.workshop.clear()
    }

    fn remove_cgroup(&self) -> Result<(), Failure> {
        // The runtime has done it; this is for one that was hindered.
        match &self.cgroup {
            Some(cgroup) => {
                cgroup.remove().map_err(|error| Failure::cannot("remove the container's cgroup", &error))
            }
            None => Ok(()),
        }
    }
}

impl Drop for External {
    fn drop(&mut self) {
        if self.workshop.is_cleared {
            return;
        }
        // It was not started, or that failed. The failure that led here is the one to tell.
        self.init.discard();
        let _ = self.workshop.clear();
        let _ = self.remove_cgroup();
    }
}
