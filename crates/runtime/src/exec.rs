//! Running a further process in a container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palan_linux::namespace::{self, Kind};
use palan_linux::process::{self as os, ForkError, ForkOptions, Forked};
use palan_oci::runtime_spec::{MemoryPolicy, Personality, Process};
use palan_oci::runtime_state::State;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::container::{Question, Stdio, current_pid, listen, release};
use crate::error::{Context, Error};
use crate::handshake::Channel;
use crate::init::devices::{find_devpts, new_terminal};
use crate::init::identity::{
    raise_limits, resolve_user, set_memory, set_process_scheduling, setting_scheduler,
};
use crate::init::program::WorkingDirectory;
use crate::init::{Ending, Last, Never, own_root, prepare_process};
use crate::plan::kernel::{self, MemoryPolicyPlan};
use crate::plan::{ProcessPlan, user_namespace};
use crate::seccomp::Program;
use crate::streams::Streams;

/// A further process for a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// PID of the container's first process.
    pub pid: i32,
    /// Its pidfd: guards against another process having got the PID.
    pub pidfd: BorrowedFd<'a>,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// What to execute, as whom, with which rights.
    pub process: &'a Process,
    /// The execution domain that the container's processes have.
    pub personality: Option<&'a Personality>,
    /// Where the memory of the container's processes comes from.
    pub memory_policy: Option<&'a MemoryPolicy>,
    /// A user as written on a command line (`name`, `uid:gid`, …), looked up in the container; overrides
    /// `process.user`.
    pub user: Option<&'a str>,
    /// Further groups by name or number, looked up there as well. Not without `user`.
    pub groups: &'a [String],
    /// The container's filter.
    pub seccomp: Option<&'a Program>,
    /// The container, as the filter's agent is told.
    pub state: &'a State,
    /// Where the standard streams go.
    pub stdio: Stdio<'a>,
    /// Descriptors from 3 on that the program gets.
    pub extra_descriptors: &'a [BorrowedFd<'a>],
    /// Kill the process when the calling one ends.
    pub parent_death_signal: bool,
}

/// A process that is executing in a container.
#[derive(Debug)]
pub struct Execed {
    /// PID in the caller's namespace. Its parent, which must wait for it, is the calling process.
    pub pid: i32,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    /// The master of the terminal, if one was asked for.
    pub console_master: Option<OwnedFd>,
    /// What was asked for and could not be had.
    pub warnings: Vec<String>,
}

/// Starts a further process in a running container; returns when its program is executing.
pub fn exec(request: &ExecRequest<'_>) -> Result<Execed, Error> {
    let mut process =
        ProcessPlan::new(request.process, request.user, request.groups, request.seccomp.cloned())?;
    let mut warnings = std::mem::take(&mut process.warnings);
    let scheduler = process.scheduler.take();
    let personality = request.personality.map(kernel::personality).transpose()?;
    let memory_policy = request.memory_policy.map(kernel::memory_policy).transpose()?;
    let streams = Streams::open(&request.stdio, request.extra_descriptors)?;
    let target = Target::open(request)?;
    let entrances = request.cgroup.entrances()?;
    let (ours, theirs) = Channel::pair().context(|| "make a socket pair".to_owned())?;
    let options = ForkOptions { cgroup: request.cgroup.birthplace(), ..ForkOptions::default() };
    let forked = match os::fork(&options) {
        Err(ForkError::Clone(error)) if error.kind() == io::ErrorKind::ResourceBusy => {
            let place = request.cgroup.place_of(request.pid)?;
            os::fork(&ForkOptions { cgroup: Some(place.as_fd()), ..ForkOptions::default() })?
        }
        other => other?,
    };
    let Forked::Parent(entering) = forked else {
        drop(ours);
        run(Entering {
            channel: theirs,
            streams,
            entrances,
            target,
            process,
            personality,
            memory_policy,
            parent_death_signal: request.parent_death_signal,
        })
    };
    drop(theirs);
    let agent = request.seccomp.and_then(Program::agent);
    let mut said = listen(&ours, &entering, true, &mut |question, pid| match (question, agent) {
        (Question::Listener(listener), Some(agent)) => agent.send(pid, request.state, listener),
        _ => Ok(()),
    })?;
    // The process that has entered is done; the one that it made is our child as well.
    os::wait(&entering.pidfd).context(|| "wait for the entering process".to_owned())?;
    let pidfd = said.process.take().ok_or(Error::NotRunning)?;
    let pid = current_pid(&entering, Some(&pidfd))?;
    if let Some(attributes) = &scheduler {
        // Not by the process that has entered: a policy with RESET_ON_FORK would not reach the one that it makes.
        palan_linux::scheduling::set_scheduler(pid, attributes).context(|| setting_scheduler(attributes))?;
    }
    release(&ours, &pidfd)?;
    warnings.extend(said.warnings);
    Ok(Execed { pid, pidfd, console_master: said.console, warnings })
}

/// The namespaces of the container's first process.
struct Target {
    pid: OwnedFd,
    /// The user namespace, if it is another one.
    user: Option<OwnedFd>,
    /// Those that are not the caller's anyway, in the order to join them: the mount namespace last.
    others: Vec<(Kind, OwnedFd)>,
}

impl Target {
    fn open(request: &ExecRequest<'_>) -> Result<Self, Error> {
        let pid = u32::try_from(request.pid).map_err(|_| Error::NotRunning)?;
        let open = |kind: Kind| {
            namespace::open(pid, kind).map_err(|error| match error.raw_os_error() {
                // Ended, or a zombie without namespaces.
                Some(code) if code == Errno::NOENT.raw_os_error() || code == Errno::SRCH.raw_os_error() => {
                    Error::NotRunning
                }
                _ => {
                    Error::system(format!("open the {} namespace of the container", kind.file_name()), error)
                }
            })
        };
        let other = |kind: Kind| -> Result<Option<OwnedFd>, Error> {
            let theirs = open(kind)?;
            let own = namespace::open(0, kind).context(|| "open this process's namespaces".to_owned())?;
            let same = namespace::identity(&theirs)
                .and_then(|theirs| Ok(theirs == namespace::identity(&own)?))
                .context(|| "compare namespaces".to_owned())?;
            Ok((!same).then_some(theirs))
        };
        let mut others = Vec::new();
        for kind in [Kind::Cgroup, Kind::Ipc, Kind::Uts, Kind::Network, Kind::Mount] {
            others.extend(other(kind)?.map(|theirs| (kind, theirs)));
        }
        if has_time_namespaces() {
            // Before the mount namespace, as all others.
            others.splice(0..0, other(Kind::Time)?.map(|theirs| (Kind::Time, theirs)));
        }
        let target = Self { pid: open(Kind::Pid)?, user: other(Kind::User)?, others };
        // Everything was opened by number: only if the process still lives was it the right one all along.
        if is_ended(request.pidfd)? {
            return Err(Error::NotRunning);
        }
        Ok(target)
    }
}

impl Target {
    /// Joins all: for a caller with all rights on the host the user namespace comes last, since every other is open to it;
    /// for any other caller it comes first and gives the rights to the rest.
    fn join(self) -> Result<(), Error> {
        let failed = |kind: Kind| move || format!("join the {} namespace of the container", kind.file_name());
        let join_user = |user: &Option<OwnedFd>| -> Result<(), Error> {
            let Some(user) = user else { return Ok(()) };
            namespace::join(user, Kind::User).context(failed(Kind::User))?;
            let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
            rustix::thread::set_thread_res_gid(gid, gid, gid)
                .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
                .context(|| "become root of the container's user namespace".to_owned())
        };
        let privileged = user_namespace::is_privileged()?;
        if !privileged {
            join_user(&self.user)?;
        }
        for (kind, fd) in &self.others {
            namespace::join(fd, *kind).context(failed(*kind))?;
        }
        namespace::join(&self.pid, Kind::Pid).context(failed(Kind::Pid))?;
        if privileged {
            join_user(&self.user)?;
        }
        Ok(())
    }
}

fn has_time_namespaces() -> bool {
    rustix::fs::access("/proc/self/ns/time", rustix::fs::Access::EXISTS).is_ok()
}

fn set_affinity(cpus: &[usize]) -> Result<(), Error> {
    if cpus.is_empty() {
        return Ok(());
    }
    palan_linux::scheduling::set_affinity(cpus).context(|| format!("set the CPU affinity to {cpus:?}"))
}

/// A pidfd is readable when its process has ended.
fn is_ended(pidfd: BorrowedFd<'_>) -> Result<bool, Error> {
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
    let nothing = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut poll, Some(&nothing))
        .context(|| "look at the container's process".to_owned())?;
    Ok(ready > 0)
}

/// What the new process works with.
struct Entering {
    channel: Channel,
    streams: Streams,
    entrances: Vec<OwnedFd>,
    target: Target,
    process: ProcessPlan,
    personality: Option<u32>,
    memory_policy: Option<MemoryPolicyPlan>,
    parent_death_signal: bool,
}

/// The process that enters, up to the point where it has become what the program is to be; the program itself runs in
/// a sibling, which alone is in the PID namespace.
fn run(entering: Entering) -> ! {
    let Entering {
        channel,
        streams,
        entrances,
        target,
        process,
        personality,
        memory_policy,
        parent_death_signal,
    } = entering;
    let Ok((channel, proc)) = prepare_process(channel, &streams) else { os::exit_now(1) };
    let execute = || -> Result<Never, Error> {
        for tasks in entrances {
            rustix::io::write(&tasks, b"0").context(|| "enter the container's cgroup".to_owned())?;
        }
        // As for the first process (see `init`).
        let _ = palan_linux::scheduling::reset_affinity();
        set_affinity(&process.affinity.initial)?;
        raise_limits(&process, &proc, &channel)?;
        set_process_scheduling(&process)?;
        set_memory(memory_policy.as_ref(), personality)?;
        target.join()?;
        // Joining a mount namespace has made its root ours.
        let root = own_root()?;
        let terminal = match streams.terminal() {
            Some(terminal) => {
                let devpts = find_devpts(&root)?;
                Some(new_terminal(devpts, terminal.or_size(process.window_size()), &channel)?)
            }
            None => None,
        };
        let user = resolve_user(&root, &process)?;
        let cwd = WorkingDirectory::open(root, &process.cwd, false)?;
        set_affinity(&process.affinity.last)?;
        let last = Last {
            process,
            user,
            parent_death_signal,
            ending: Ending::Sibling,
            keep_keyring: false,
            hooks: None,
        };
        last.run(&channel, &proc, streams, terminal, cwd, None)
    };
    let error = match execute() {
        Err(error) => error,
        Ok(never) => match never {},
    };
    channel.fail(&error);
    os::exit_now(1)
}
