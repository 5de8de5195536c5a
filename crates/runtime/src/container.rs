//! Creating a container: the caller's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use palan_linux::namespace::{self, Kind};
use palan_linux::process::{self, Child, ExitStatus, ForkOptions, Forked};
use palan_linux::signal::Signal;
use palan_linux::tty::WindowSize;
use palan_oci::runtime_spec::Spec;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Location};
use crate::error::{Context, Error};
use crate::handshake::{Channel, Message};
use crate::init;
use crate::plan::Plan;
use crate::seccomp::Program;
use crate::streams::Streams;

/// Everything that makes one container.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The specification. `root.path` is not used: see `rootfs`.
    pub spec: &'a Spec,
    /// Directory that relative paths of bind mounts start from; must exist.
    pub bundle: &'a Path,
    /// The root file system.
    pub rootfs: &'a Rootfs,
    /// A user as an image names it (`name`, `uid`, `name:group`, …), looked up inside the root file system;
    /// overrides `process.user` of the specification (but not its umask and additional groups).
    pub user: Option<&'a str>,
    /// Create the working directory if it is missing.
    pub create_cwd: bool,
    /// Network namespace to join, instead of what the specification says.
    pub network_namespace: Option<BorrowedFd<'a>>,
    /// Compiled filter, instead of `linux.seccomp` of the specification.
    pub seccomp: Option<&'a Program>,
    /// Where the standard streams go.
    pub stdio: Stdio<'a>,
    /// Where its cgroup is to be.
    pub cgroup: Location<'a>,
    /// Kill the container when the creating process ends.
    pub parent_death_signal: bool,
    /// Stay as process 1, which passes signals on and reaps, and run the program as its child.
    pub init: bool,
    /// Descriptors from 3 on that the program gets (`LISTEN_FDS`, `--preserve-fds`), in this order.
    pub extra_descriptors: &'a [BorrowedFd<'a>],
    /// A fifo, open for reading and writing, that the process waits on (one byte starts it) instead of on
    /// [`Created::start`]; with it the creating process may end before.
    pub start_fifo: Option<BorrowedFd<'a>>,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// A directory, used as it is.
    Directory(PathBuf),
    /// Layers below a directory for changes.
    Overlay {
        /// Read-only layers, topmost first.
        lowers: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// The empty directory beside `upper` that overlay works in.
        work: PathBuf,
        /// Never sync `upper`: it is thrown away with the container.
        #[serde(default)]
        volatile: bool,
    },
}

/// Where a process's standard streams go.
#[derive(Debug, Default)]
pub enum Stdio<'a> {
    /// All three are /dev/null.
    #[default]
    Null,
    /// Those of the calling process.
    Inherit,
    /// These.
    Descriptors {
        /// Input.
        stdin: BorrowedFd<'a>,
        /// Output.
        stdout: BorrowedFd<'a>,
        /// Errors.
        stderr: BorrowedFd<'a>,
    },
    /// A new pseudo terminal of the container's own devpts; its master is returned.
    Terminal {
        /// Its first size.
        size: Option<WindowSize>,
    },
}

/// A container whose first process is set up and stands before executing the program. Dropped, it is killed.
#[derive(Debug)]
pub struct Created {
    container: Option<Container>,
    channel: Channel,
}

/// A container's first process and its cgroup.
#[derive(Debug)]
pub struct Container {
    /// PID in the caller's namespace. Its parent, which must wait for it, is the creating process.
    pub pid: i32,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    /// The master of the terminal, if one was asked for.
    pub console_master: Option<OwnedFd>,
    /// The listener of a seccomp profile with `notify` actions.
    pub seccomp_listener: Option<OwnedFd>,
    /// The container's cgroup; remove it when the process has been reaped.
    pub cgroup: Cgroup,
    /// What was asked for and could not be had, one sentence each (such as a refused rlimit).
    pub warnings: Vec<String>,
}

/// Creates a container up to the point before its program executes.
///
/// When this fails, nothing is left behind: no process, no cgroup, no mount.
pub fn create(request: &CreateRequest<'_>) -> Result<Created, Error> {
    let plan = Plan::new(request)?;
    let streams = Streams::open(&request.stdio, request.extra_descriptors)?;
    let mut cgroup = Cgroup::create(request.cgroup)?;
    let created = limit(&mut cgroup, request.spec)
        .and_then(|warnings| Ok((warnings, launch(plan, streams, &cgroup, request)?)));
    match created {
        Ok((mut warnings, (child, channel, said))) => {
            warnings.extend(said.warnings);
            cgroup.settle();
            let container = Container {
                pid: child.pid.as_raw_nonzero().get(),
                pidfd: child.pidfd,
                console_master: said.console,
                seccomp_listener: said.listener,
                cgroup,
                warnings,
            };
            Ok(Created { container: Some(container), channel })
        }
        Err(error) => {
            // The failure is the error to tell.
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// Sets the limits of a new cgroup. Without device rules only what every container may use is allowed.
fn limit(cgroup: &mut Cgroup, spec: &Spec) -> Result<Vec<String>, Error> {
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    if resources.is_none_or(|resources| resources.devices.is_empty()) {
        cgroup.set_devices(&[])?;
    }
    match resources {
        Some(resources) => Ok(cgroup.apply(resources)?),
        None => Ok(Vec::new()),
    }
}

/// Clones the new process and listens until it is ready.
fn launch(
    plan: Plan,
    streams: Streams,
    cgroup: &Cgroup,
    request: &CreateRequest<'_>,
) -> Result<(Child, Channel, Said), Error> {
    let entrances = cgroup.entrances()?;
    let views = cgroup.views();
    let (ours, theirs) = Channel::pair().context(|| "make a socket pair".to_owned())?;
    let options = ForkOptions {
        namespaces: Some(plan.namespaces.new),
        cgroup: cgroup.birthplace(),
        ..ForkOptions::default()
    };
    let forked = match &plan.namespaces.join_pid {
        Some(namespace) => fork_into(namespace, &options)?,
        None => process::fork(&options)?,
    };
    match forked {
        Forked::Child => {
            drop(ours);
            let setup = init::Setup {
                plan,
                streams,
                channel: theirs,
                entrances,
                cgroup_views: views,
                cgroup_v2: cgroup.is_v2(),
                parent_death_signal: request.parent_death_signal,
                start_fifo: request.start_fifo,
            };
            init::run(setup)
        }
        Forked::Parent(child) => {
            drop(theirs);
            match listen(&ours, &child, false) {
                Ok(said) => Ok((child, ours, said)),
                Err(error) => Err(error),
            }
        }
    }
}

/// Forks with the child in another PID namespace; the caller stays in its own.
pub(crate) fn fork_into(namespace: &OwnedFd, options: &ForkOptions<'_>) -> Result<Forked, Error> {
    let own = crate::plan::own_pid_namespace()?;
    namespace::join(namespace, Kind::Pid).context(|| "join the PID namespace".to_owned())?;
    let forked = process::fork(options);
    // The child, too, only changes what its own children would get.
    let back = namespace::join(&own, Kind::Pid);
    let forked = forked?;
    if let Forked::Parent(_) = forked {
        back.context(|| "return to this process's PID namespace".to_owned())?;
    }
    Ok(forked)
}

/// What a new process has said before it was ready.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) console: Option<OwnedFd>,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) warnings: Vec<String>,
    /// The process that takes the last step, if it is another one.
    pub(crate) process: Option<OwnedFd>,
}

/// Listens to a new process until it is ready, and, if it hands over to another one, has said to which. On failure
/// all are reaped.
pub(crate) fn listen(channel: &Channel, child: &Child, hands_over: bool) -> Result<Said, Error> {
    let mut said = Said::default();
    let mut ready = false;
    let error = loop {
        if ready && (said.process.is_some() || !hands_over) {
            return Ok(said);
        }
        match channel.receive() {
            Ok(Some(Message::Warning(text))) => said.warnings.push(text),
            Ok(Some(Message::Console(master))) => said.console = Some(master),
            Ok(Some(Message::Listener(listener))) => said.listener = Some(listener),
            Ok(Some(Message::Process(pidfd))) => said.process = Some(pidfd),
            Ok(Some(Message::Ready)) => ready = true,
            Ok(Some(Message::Failed(error))) => break error,
            Ok(None) => {
                said.process.iter().for_each(discard);
                return Err(ended(child));
            }
            Err(error) => break Error::system("read from the new process", error),
        }
    };
    said.process.iter().for_each(discard);
    discard(&child.pidfd);
    Err(error)
}

/// Lets a process that is ready execute. On failure it is reaped.
pub(crate) fn release(channel: &Channel, child: &impl AsFd) -> Result<Option<OwnedFd>, Error> {
    let mut listener = None;
    if let Err(error) = channel.start() {
        discard(child);
        return Err(Error::system("start the new process", error));
    }
    let error = loop {
        match channel.receive() {
            Ok(None) => return Ok(listener),
            Ok(Some(Message::Listener(fd))) => listener = Some(fd),
            Ok(Some(Message::Failed(error))) => break error,
            Ok(Some(_)) => {}
            Err(error) => break Error::system("read from the new process", error),
        }
    };
    discard(child);
    Err(error)
}

/// Reaps a process that ended without a word.
fn ended(child: &Child) -> Error {
    match process::wait(&child.pidfd) {
        Ok(ExitStatus::Exited(code)) => Error::ChildEnded(format!("exit code {code}")),
        Ok(ExitStatus::Signaled { signal, .. }) => Error::ChildEnded(format!("killed by {signal}")),
        Err(error) => Error::system("wait for the new process", error),
    }
}

/// Kills and reaps a process that nobody wants any more.
fn discard(child: &impl AsFd) {
    // It may have ended already: then only the reaping is left.
    let _ = process::send_signal(child, Signal::KILL);
    let _ = process::wait(child);
}

impl Created {
    /// The container as it stands, for instance to note its PID before it starts.
    pub fn container(&self) -> &Container {
        // `container` is taken only by the two methods that consume `self`.
        self.container.as_ref().unwrap_or_else(|| unreachable!("a created container has been taken"))
    }

    /// Executes the program. On failure the process has been reaped and the cgroup removed.
    pub fn start(mut self) -> Result<Container, Error> {
        let Some(mut container) = self.container.take() else {
            return Err(Error::NotRunning);
        };
        match release(&self.channel, &container.pidfd) {
            Ok(listener) => {
                container.seccomp_listener = listener.or(container.seccomp_listener);
                Ok(container)
            }
            Err(error) => {
                let _ = container.cgroup.remove();
                Err(error)
            }
        }
    }

    /// Leaves the process waiting on [`CreateRequest::start_fifo`], independent of this process.
    pub fn leave(mut self) -> Result<Container, Error> {
        self.container.take().ok_or(Error::NotRunning)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            discard(&container.pidfd);
            // Nobody is left to be told.
            let _ = container.cgroup.remove();
        }
    }
}
