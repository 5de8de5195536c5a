//! The new process on its way to becoming the container's first: from the clone to the exec.
//!
//! The order matters, each step says why it stands where it does:
//!
//! 1. [`enter`]: cgroups first, so that all that follows is accounted; then namespaces.
//! 2. [`rootfs`]: attach the root, open what is bound from the host, and pivot: from here on no path leads out.
//! 3. [`mounts`], [`devices`]: fill the root; every target is a descriptor inside of it.
//! 4. [`identity`]: the terminal and streams, limits, user, capabilities, seccomp.
//! 5. [`program`]: find the program as that user, say `Ready`, wait, execute.
//!
//! A failure anywhere is told to the caller and ends the process; with it goes the mount namespace and all in it.

pub(crate) mod devices;
pub(crate) mod identity;
mod mounts;
pub(crate) mod program;
pub mod reaper;
mod rootfs;

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palan_linux::namespace::{self, Kind};
use palan_linux::path::RootDir;
use palan_linux::process::{self as os, ForkOptions, Forked};
use palan_linux::{signal, tty};
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context, Error};
use crate::handshake::{Channel, wait_for_byte};
use crate::plan::{Plan, ProcessPlan};
use crate::streams::Streams;

/// What the clone takes along.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) plan: Plan,
    pub(crate) streams: Streams,
    pub(crate) channel: Channel,
    /// Open `tasks` files of cgroup v1.
    pub(crate) entrances: Vec<OwnedFd>,
    /// What a container without a cgroup namespace sees of the host, by hierarchy.
    pub(crate) cgroup_views: Vec<(String, std::path::PathBuf)>,
    pub(crate) cgroup_v2: bool,
    pub(crate) parent_death_signal: bool,
    pub(crate) start_fifo: Option<BorrowedFd<'a>>,
}

/// Becomes the container's first process.
pub(crate) fn run(setup: Setup<'_>) -> ! {
    let Ok((channel, proc)) = prepare_process(setup.channel, &setup.streams) else { os::exit_now(1) };
    let body = Body {
        plan: setup.plan,
        streams: setup.streams,
        entrances: setup.entrances,
        cgroup_views: setup.cgroup_views,
        cgroup_v2: setup.cgroup_v2,
        parent_death_signal: setup.parent_death_signal,
        start_fifo: setup.start_fifo,
    };
    let error = match body.run(&channel, &proc) {
        Err(error) => error,
        Ok(never) => match never {},
    };
    channel.fail(&error);
    os::exit_now(1)
}

/// [`Setup`] without the channel, which must outlive everything else to report how it went.
struct Body<'a> {
    plan: Plan,
    streams: Streams,
    entrances: Vec<OwnedFd>,
    cgroup_views: Vec<(String, std::path::PathBuf)>,
    cgroup_v2: bool,
    parent_death_signal: bool,
    start_fifo: Option<BorrowedFd<'a>>,
}

/// A function's result when it only returns by failing.
pub(crate) enum Never {}

/// First steps of every new process: the caller's signal handling goes, and the descriptors that are needed to the
/// end move out of the way of the program's.
pub(crate) fn prepare_process(channel: Channel, streams: &Streams) -> Result<(Channel, OwnedFd), ()> {
    signal::reset_dispositions();
    let first_free = streams.first_free();
    // Without a channel there is nobody to tell.
    let channel = channel.moved_above(first_free).map_err(drop)?;
    match host_proc(first_free) {
        Ok(proc) => Ok((channel, proc)),
        Err(error) => {
            channel.fail(&error);
            Err(())
        }
    }
}

/// The host's procfs: parameters and attributes of this process are written through it, never through the
/// container's, which may be anything (CVE-2019-16884, CVE-2025-52881).
fn host_proc(minimum: i32) -> Result<OwnedFd, Error> {
    const PROC_MAGIC: u64 = 0x9fa0;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || -> rustix::io::Result<OwnedFd> {
        let proc = rustix::fs::openat(CWD, "/proc", flags, Mode::empty())?;
        let found = rustix::fs::fstatfs(&proc)?.f_type;
        if u64::try_from(found).is_ok_and(|magic| magic == PROC_MAGIC) {
            rustix::io::fcntl_dupfd_cloexec(&proc, minimum)
        } else {
            Err(rustix::io::Errno::NODEV)
        }
    };
    open().context(|| "use /proc of the host: no procfs is mounted there".to_owned())
}

/// Writes `value` to the file `path` below the host's procfs.
pub(crate) fn write_proc(proc: impl AsFd, path: &str, value: &str) -> std::io::Result<()> {
    let fd = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = std::fs::File::from(fd).write(value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

impl Body<'_> {
    fn run(self, channel: &Channel, proc: &OwnedFd) -> Result<Never, Error> {
        let Body { plan, streams, entrances, cgroup_views, cgroup_v2, .. } = self;
        enter(&plan, entrances)?;
        // Files and directories made from here on have exactly the modes they are made with.
        rustix::process::umask(Mode::empty());

        let sources = rootfs::open_sources(&plan, &cgroup_views, cgroup_v2)?;
        let root = rootfs::pivot(&plan.root)?;
        let outcome = mounts::mount_all(&root, &plan.mounts, sources, cgroup_v2)?;
        for (path, value) in &plan.sysctl {
            write_proc(proc, &format!("sys/{path}"), value)
                .context(|| format!("write sysctl {}", path.replace('/', ".")))?;
        }
        if plan.fill_dev {
            devices::fill_dev(&root, &plan.devices)?;
        }
        let terminal = match streams.terminal() {
            Some(size) => {
                let size = size.or_else(|| plan.process.window_size());
                let console = plan.fill_dev.then_some(&root);
                Some(devices::open_terminal(&outcome, console, size, channel)?)
            }
            None => None,
        };
        mounts::protect(&root, &plan.readonly_paths, &plan.masked_paths)?;
        mounts::finish(&root, outcome, plan.root.readonly)?;
        set_names(&plan)?;

        identity::set_limits(&plan.process, proc, channel)?;
        let user = identity::resolve_user(&root, &plan.process)?;
        let cwd = program::WorkingDirectory::open(root, &plan.process.cwd, plan.create_cwd)?;
        let last = Last {
            process: plan.process,
            user,
            parent_death_signal: self.parent_death_signal,
            ending: if plan.init { Ending::Init } else { Ending::Execute },
        };
        last.run(channel, proc, streams, terminal, cwd, self.start_fifo)
    }
}

/// What is left when a process is in its namespaces and cgroups: the same for the first and for further ones.
pub(crate) struct Last {
    pub(crate) process: ProcessPlan,
    pub(crate) user: crate::user::ResolvedUser,
    pub(crate) parent_death_signal: bool,
    pub(crate) ending: Ending,
}

/// Which process executes the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// This one.
    Execute,
    /// A child of this one, which stays as the container's init.
    Init,
    /// A sibling in another PID namespace, which sees nothing of what this process needed on its way: other processes
    /// there may look into it (CVE-2016-9962), even with CAP_SYS_PTRACE.
    Sibling,
}

impl Last {
    pub(crate) fn run(
        self,
        channel: &Channel,
        proc: &OwnedFd,
        streams: Streams,
        terminal: Option<OwnedFd>,
        cwd: program::WorkingDirectory,
        start_fifo: Option<BorrowedFd<'_>>,
    ) -> Result<Never, Error> {
        identity::own_terminal(terminal.as_ref(), self.user.uid)?;
        streams.give_pipes_to(self.user.uid);
        let has_terminal = terminal.is_some();
        let entered = cwd.enter();
        // The fifo, too, must not lie where the program's descriptors go.
        let fifo = start_fifo
            .map(|fifo| rustix::io::fcntl_dupfd_cloexec(fifo, streams.first_free()))
            .transpose()
            .context(|| "duplicate a descriptor".to_owned())?;
        // Keys of the host's session are not the container's.
        palan_linux::keyring::join_new_session().context(|| "start a session keyring".to_owned())?;
        identity::set_labels(&self.process, proc)?;
        let first_free = streams.first_free();
        streams.place(terminal).context(|| "set up the standard streams".to_owned())?;

        identity::become_user(&self.process, &self.user)?;
        entered.or_else(|error| error.again_as_user())?;
        rustix::process::umask(Mode::from_raw_mode(self.process.umask));
        let filter = self.process.seccomp.as_ref();
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs".to_owned())?;
        } else if let Some(filter) = filter {
            // Loading it needs a capability that the program may not have, so it comes before they go.
            identity::load_filter(filter, channel)?;
        }
        identity::set_capabilities(&self.process.capabilities)?;
        let program = program::find(&self.process)?;
        let environment = program::environment(&self.process, &self.user);
        program::close_others(first_free)?;
        let proof = os::single_threaded(Some(proc.as_fd()))?;
        if self.ending == Ending::Sibling {
            channel.close_others(first_free).context(|| "close descriptors".to_owned())?;
            hand_over(&proof, channel)?;
            rustix::process::setsid().context(|| "start a session".to_owned())?;
        }
        if has_terminal {
            tty::set_controlling(rustix::stdio::stdin())
                .context(|| "take the terminal as the controlling one".to_owned())?;
        }
        if self.parent_death_signal {
            // Only now: a change of credentials clears it, and it is no heritage of a new process.
            os::set_parent_death_signal(Some(signal::Signal::KILL))
                .context(|| "set the parent-death signal".to_owned())?;
        }
        channel.ready().context(|| "tell the caller".to_owned())?;
        let go = match &fifo {
            Some(fifo) => wait_for_byte(fifo),
            None => channel.wait_for_start(),
        };
        if !go.context(|| "wait for the start".to_owned())? {
            os::exit_now(1);
        }
        if let Some(filter) = filter.filter(|_| self.process.no_new_privileges) {
            identity::load_filter(filter, channel)?;
        }
        if self.ending == Ending::Init {
            reaper::split(&proof, has_terminal)?;
        }
        program::execute(&program, &self.process.arguments, &environment)
    }
}

/// Goes on in a sibling, of which the caller is told; this process ends.
fn hand_over(proof: &os::SingleThreaded, channel: &Channel) -> Result<(), Error> {
    let options = ForkOptions { sibling: true, ..ForkOptions::default() };
    match os::fork_again(proof, &options)? {
        Forked::Child => Ok(()),
        Forked::Parent(sibling) => {
            let told = channel.process(sibling.pidfd.as_fd());
            os::exit_now(i32::from(told.is_err()))
        }
    }
}

/// Cgroups and namespaces.
fn enter(plan: &Plan, entrances: Vec<OwnedFd>) -> Result<(), Error> {
    for tasks in entrances {
        // `0` is the writer itself: the only form that takes no global lock (see `cgroup`).
        rustix::io::write(&tasks, b"0").context(|| "enter the container's cgroup".to_owned())?;
    }
    rustix::process::setsid().context(|| "start a session".to_owned())?;
    for (kind, fd) in &plan.namespaces.join {
        namespace::join(fd, *kind).context(|| format!("join the {} namespace", kind.file_name()))?;
    }
    if plan.namespaces.new_cgroup {
        namespace::unshare(Kind::Cgroup.bit()).context(|| "make a cgroup namespace".to_owned())?;
    }
    Ok(())
}

fn set_names(plan: &Plan) -> Result<(), Error> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).context(|| format!("set the hostname {name:?}"))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).context(|| format!("set the domainname {name:?}"))?;
    }
    Ok(())
}

/// The root directory of the calling process, as a handle.
pub(crate) fn own_root() -> Result<RootDir, Error> {
    Ok(RootDir::open("/")?)
}
