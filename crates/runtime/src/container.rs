//! Creating a container: the caller's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use palan_linux::namespace::{self, Kind};
use palan_linux::process::{self, Child, ExitStatus, ForkOptions, Forked};
use palan_linux::signal::Signal;
use palan_linux::tty::WindowSize;
use palan_oci::runtime_spec::{Resources, Spec};
use palan_oci::runtime_state::State;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, CgroupError, Location};
use crate::error::{Context, Error};
use crate::handshake::{Channel, Message};
use crate::hooks::{HookPlan, HookState};
use crate::id_maps::Mappings;
use crate::init;
use crate::init::rootfs::{Host, Sources};
use crate::net_devices::NetDevicePlan;
use crate::plan::{Plan, UserNamespace, user_namespace};
use crate::resctrl::{self, ResourceGroup};
use crate::seccomp::Program;
use crate::seccomp::agent::Agent;
use crate::streams::Streams;

/// Everything that makes one container.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The container's name, as those outside of it are told.
    pub id: &'a str,
    /// The specification. `root.path` is not used: see `rootfs`.
    pub spec: &'a Spec,
    /// Directory that relative paths of bind mounts start from; must exist.
    pub bundle: &'a Path,
    /// The root file system.
    pub rootfs: &'a Rootfs,
    /// A user as an image names it (`name`, `uid`, `name:group`, …), looked up inside the root file system;
    /// overrides `process.user` of the specification (but not its umask and additional groups).
    pub user: Option<&'a str>,
    /// Further groups by name or number, looked up there as well. Not without `user`.
    pub groups: &'a [String],
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
    /// Move the root over the host's instead of pivoting: for a host whose root is a ramfs. What the host mounts stays
    /// in the namespace, out of sight only.
    pub no_pivot: bool,
    /// Keep the session keyring of the calling process.
    pub keep_keyring: bool,
    /// Detached mounts of the calling process that bind mounts show, by their index in `spec.mounts`, in place of what is at
    /// their sources' paths: for what no path of the host leads to, or none that could be trusted until it is opened.
    pub sources: &'a [(usize, OwnedFd)],
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
        /// Whether a line end that the program writes becomes a carriage return and a line feed, as on a terminal that
        /// somebody looks at. Not for a caller that relays bytes to such a terminal of its own.
        translate_newlines: bool,
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
    /// What those outside are told of it.
    pub state: State,
    /// The container's cgroup; remove it when the process has been reaped.
    pub cgroup: Cgroup,
    /// Its resource group of the resctrl file system, if it has one; remove it with the cgroup.
    pub resource_group: Option<ResourceGroup>,
    /// What was asked for and could not be had, one sentence each (such as a refused rlimit).
    pub warnings: Vec<String>,
}

/// Creates a container up to the point before its program executes.
///
/// When this fails, nothing is left behind: no process, no cgroup, no mount.
pub fn create(request: &CreateRequest<'_>) -> Result<Created, Error> {
    create_planned(request, Plan::new(request)?)
}

/// Whether [`create`] would begin: refuses what it would refuse before anything exists.
pub fn check(request: &CreateRequest<'_>) -> Result<(), Error> {
    Plan::new(request).map(drop)
}

/// [`create`] for a request that has been checked.
pub(crate) fn create_planned(request: &CreateRequest<'_>, mut plan: Plan) -> Result<Created, Error> {
    let mut warnings = std::mem::take(&mut plan.process.warnings);
    let streams = Streams::open(&request.stdio, request.extra_descriptors)?;
    let mut cgroup = Cgroup::create(request.cgroup).map_err(|error| match error {
        CgroupError::InvalidPath(_) => {
            Error::Field { field: "linux.cgroupsPath".to_owned(), source: Box::new(error.into()) }
        }
        other => other.into(),
    })?;
    let created = limit(&mut cgroup, request.spec)
        .and_then(|warnings| delegate(&cgroup, &plan).map(|()| warnings))
        .and_then(|warnings| Ok((warnings, launch(plan, streams, &cgroup, request)?)));
    match created {
        Ok((limits, (child, channel, said))) => {
            warnings.extend(limits);
            warnings.extend(said.warnings);
            let pid = child.pid.as_raw_nonzero().get();
            let rdt = request.spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref());
            let resource_group = match rdt.map(|rdt| resctrl::enter(rdt, request.id, pid)).transpose() {
                Ok(group) => group,
                Err(error) => {
                    discard(&child.pidfd);
                    // The failure is the error to tell.
                    let _ = cgroup.remove();
                    return Err(error);
                }
            };
            cgroup.settle();
            let container = Container {
                pid,
                pidfd: child.pidfd,
                console_master: said.console,
                state: told(request.id, request.spec, request.bundle).at("running", pid),
                cgroup,
                resource_group,
                warnings,
            };
            Ok(Created { container: Some(container), channel })
        }
        Err(error) => {
            let error = for_lack_of_memory(error, &cgroup);
            // The failure is the error to tell.
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// The reason why a process has ended without a word, if it is the limit of its memory.
fn for_lack_of_memory(error: Error, cgroup: &Cgroup) -> Error {
    if !matches!(error, Error::ChildEnded(_)) || !cgroup.oom_kills().is_ok_and(|kills| kills > 0) {
        return error;
    }
    Error::Field { field: "linux.resources.memory.limit: it is too low".to_owned(), source: Box::new(error) }
}

/// Sets the limits of a new cgroup. Without device rules only what every container may use is allowed.
pub(crate) fn limit(cgroup: &mut Cgroup, spec: &Spec) -> Result<Vec<String>, Error> {
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    if cgroup.is_none() {
        let limits = resources.is_some_and(|resources| {
            *resources != Resources { devices: resources.devices.clone(), ..Resources::default() }
        });
        let warning = "this process may make no cgroup: linux.resources has no effect".to_owned();
        return Ok(limits.then_some(warning).into_iter().collect());
    }
    if resources.is_none_or(|resources| resources.devices.is_empty()) {
        cgroup.set_devices(&[])?;
    }
    match resources {
        Some(resources) => Ok(cgroup.apply(resources)?),
        None => Ok(Vec::new()),
    }
}

/// Gives the cgroup to the root of the container's user namespace, if it sees a cgroup file system that it may write to.
fn delegate(cgroup: &Cgroup, plan: &Plan) -> Result<(), Error> {
    let Some(UserNamespace::New { users, .. }) = &plan.namespaces.user else { return Ok(()) };
    let root = users.iter().find(|mapping| mapping.container_id == 0);
    match root {
        Some(root) if plan.namespaces.new_cgroup && plan.has_writable_cgroup() => {
            Ok(cgroup.delegate(root.host_id)?)
        }
        _ => Ok(()),
    }
}

/// Clones the new process and listens until it is ready.
fn launch(
    mut plan: Plan,
    streams: Streams,
    cgroup: &Cgroup,
    request: &CreateRequest<'_>,
) -> Result<(Child, Channel, Said), Error> {
    let entrances = cgroup.entrances()?;
    let (ours, theirs) = Channel::pair().context(|| "make a socket pair".to_owned())?;
    let birthplace = cgroup.birthplace();
    let in_stages = plan.namespaces.user.is_some();
    let mut part = CallersPart::new(&mut plan, request);
    let host = Host { cgroup_views: cgroup.views(), cgroup_v2: cgroup.is_v2() };
    let sources = if plan.takes_callers_sources() && user_namespace::is_privileged()? {
        Some(Sources::open_in_caller(&plan, &host)?)
    } else {
        None
    };
    let forked = if in_stages {
        // The new process makes its namespaces itself, one stage after the other.
        process::fork(&ForkOptions { cgroup: birthplace, ..ForkOptions::default() })?
    } else {
        let namespaces = Some(plan.namespaces.new);
        let options = ForkOptions { namespaces, cgroup: birthplace, ..ForkOptions::default() };
        match &plan.namespaces.join_pid {
            Some(namespace) => fork_into(namespace, &options)?,
            None => process::fork(&options)?,
        }
    };
    match forked {
        Forked::Child => {
            drop(ours);
            let setup = init::Setup {
                plan,
                streams,
                channel: theirs,
                entrances,
                host,
                sources,
                state: part.state.clone(),
                parent_death_signal: request.parent_death_signal,
                start_fifo: request.start_fifo,
            };
            init::run(setup)
        }
        Forked::Parent(child) => {
            drop(theirs);
            let mut said =
                listen(&ours, &child, in_stages, &mut |question, pid| match (question, &sources) {
                    (Question::IdMapping(index, mount), Some(sources)) => {
                        sources.map_ids(&plan, index, &mount)
                    }
                    (question, _) => part.answer(question, pid),
                })?;
            let Some(pidfd) = said.process.take() else { return Ok((child, ours, said)) };
            // The stage is done; the process that it made is our child as well.
            process::wait(&child.pidfd).context(|| "wait for the first stage".to_owned())?;
            let pid = process::pid_of(&pidfd).context(|| "find the new process's PID".to_owned())?;
            let pid = pid.ok_or_else(|| Error::ChildEnded("after it was ready".to_owned()))?;
            Ok((Child { pid, pidfd }, ours, said))
        }
    }
}

/// What those outside are told of the container.
pub(crate) fn told<'a>(id: &'a str, spec: &'a Spec, bundle: &'a Path) -> HookState<'a> {
    HookState { oci_version: &spec.oci_version, id, bundle, annotations: &spec.annotations }
}

/// What the new process asks of the caller on its way.
#[derive(Debug)]
pub(crate) enum Question {
    /// Write the maps of my user namespace.
    Mappings,
    /// Map the ids of this detached mount as this entry of the plan's mounts says.
    IdMapping(usize, OwnedFd),
    /// Everything is mounted: do your part before the root changes.
    Prepared,
    /// Tell the agent of my seccomp filter.
    Listener(OwnedFd),
}

/// What the caller does while a container is being created.
struct CallersPart<'a> {
    hooks: HookPlan,
    state: HookState<'a>,
    mappings: Option<Mappings>,
    net_devices: Vec<NetDevicePlan>,
    agent: Option<Agent>,
}

impl<'a> CallersPart<'a> {
    fn new(plan: &mut Plan, request: &CreateRequest<'a>) -> Self {
        let mappings = match &plan.namespaces.user {
            Some(UserNamespace::New { users, groups }) => {
                Some(Mappings { users: users.clone(), groups: groups.clone() })
            }
            _ => None,
        };
        Self {
            hooks: plan.hooks.take_callers(),
            state: told(request.id, request.spec, request.bundle),
            mappings,
            net_devices: std::mem::take(&mut plan.net_devices),
            agent: plan.process.seccomp.as_ref().and_then(Program::agent).cloned(),
        }
    }

    fn answer(&mut self, question: Question, pid: i32) -> Result<(), Error> {
        match question {
            Question::Mappings => self.mappings.as_ref().map_or(Ok(()), |mappings| mappings.write(pid)),
            // Only a process with a source that this one has opened asks for it.
            Question::IdMapping(..) => {
                Err(Error::Invalid("a mount to map that nobody has opened".to_owned()))
            }
            Question::Prepared => {
                crate::net_devices::move_all(&self.net_devices, pid)?;
                self.hooks.run_in_caller(&self.state, pid)
            }
            Question::Listener(listener) => match &self.agent {
                Some(agent) => agent.send(pid, &self.state.at("creating", pid), listener),
                None => Ok(()),
            },
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
    pub(crate) warnings: Vec<String>,
    /// The process that takes the last step, if it is another one.
    pub(crate) process: Option<OwnedFd>,
}

/// Listens to a new process until it is ready, and, if it hands over to another one, has said to which. `answer` does
/// what it asks for, for the process with the given PID. On failure all are reaped.
pub(crate) fn listen(
    channel: &Channel,
    child: &Child,
    hands_over: bool,
    answer: &mut dyn FnMut(Question, i32) -> Result<(), Error>,
) -> Result<Said, Error> {
    let mut said = Said::default();
    let heard = hear(channel, child, hands_over, answer, &mut said);
    if let Ok(true) = heard {
        return Ok(said);
    }
    said.process.iter().for_each(discard);
    match heard {
        Ok(_) => Err(ended(child)),
        Err(error) => {
            discard(&child.pidfd);
            Err(error)
        }
    }
}

/// False: it ended without a word.
fn hear(
    channel: &Channel,
    child: &Child,
    hands_over: bool,
    answer: &mut dyn FnMut(Question, i32) -> Result<(), Error>,
    said: &mut Said,
) -> Result<bool, Error> {
    let mut ready = false;
    // A listener that came before it is known for which process.
    let mut early: Option<OwnedFd> = None;
    while !ready || (hands_over && said.process.is_none()) {
        if let Some(listener) = early.take() {
            let asks = channel.is_preceded_by(&listener);
            if asks.context(|| "wait for the new process".to_owned())? {
                // It needs an answer of the agent before it can say more.
                answer(Question::Listener(listener), current_pid(child, None)?)?;
            } else {
                early = Some(listener);
            }
        }
        match channel.receive().context(|| "read from the new process".to_owned())? {
            Some(Message::Warning(text)) => said.warnings.push(text),
            Some(Message::Console(master)) => said.console = Some(master),
            Some(Message::Listener(named)) => {
                let sender = said.process.as_ref().unwrap_or(&child.pidfd);
                let listener = channel.take_listener(sender, named);
                let listener = listener.context(|| "take over the seccomp listener".to_owned())?;
                if hands_over && said.process.is_none() {
                    early = listener;
                } else if let Some(listener) = listener {
                    answer(Question::Listener(listener), current_pid(child, said.process.as_ref())?)?;
                }
            }
            Some(Message::Process(pidfd)) => {
                let pidfd = said.process.insert(pidfd);
                if let Some(listener) = early.take() {
                    answer(Question::Listener(listener), current_pid(child, Some(pidfd))?)?;
                }
                go_on(channel)?;
            }
            Some(Message::NeedsMappings) => {
                answer(Question::Mappings, current_pid(child, None)?)?;
                go_on(channel)?;
            }
            Some(Message::NeedsIdMapping(index, mount)) => {
                answer(Question::IdMapping(index, mount), current_pid(child, said.process.as_ref())?)?;
                go_on(channel)?;
            }
            Some(Message::Prepared) => {
                answer(Question::Prepared, current_pid(child, said.process.as_ref())?)?;
                go_on(channel)?;
            }
            Some(Message::Ready) => ready = true,
            Some(Message::Failed(error)) => return Err(error),
            None => return Ok(false),
        }
    }
    Ok(true)
}

fn go_on(channel: &Channel) -> Result<(), Error> {
    channel.start().context(|| "answer the new process".to_owned())
}

/// The PID of the process that is becoming the container's.
pub(crate) fn current_pid(child: &Child, handed_over_to: Option<&OwnedFd>) -> Result<i32, Error> {
    let pid = match handed_over_to {
        None => Some(child.pid),
        Some(pidfd) => process::pid_of(pidfd).context(|| "find the new process's PID".to_owned())?,
    };
    pid.map(|pid| pid.as_raw_nonzero().get()).ok_or(Error::NotRunning)
}

/// Lets a process that is ready execute. On failure it is reaped.
pub(crate) fn release(channel: &Channel, child: &impl AsFd) -> Result<(), Error> {
    if let Err(error) = channel.start() {
        discard(child);
        return Err(Error::system("start the new process", error));
    }
    let error = loop {
        match channel.receive() {
            Ok(None) => return Ok(()),
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
        let Some(container) = self.container.take() else {
            return Err(Error::NotRunning);
        };
        match release(&self.channel, &container.pidfd) {
            Ok(()) => Ok(container),
            Err(error) => {
                container.remove_traces();
                Err(error)
            }
        }
    }

    /// Leaves the process waiting on [`CreateRequest::start_fifo`], independent of this process.
    pub fn leave(mut self) -> Result<Container, Error> {
        self.container.take().ok_or(Error::NotRunning)
    }
}

impl Container {
    /// Removes what is left of a container that did not come to life.
    fn remove_traces(&self) {
        // Nobody is left to be told.
        let _ = self.cgroup.remove();
        let _ = self.resource_group.as_ref().map(ResourceGroup::remove);
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            discard(&container.pidfd);
            container.remove_traces();
        }
    }
}
