//! The new process on its way to becoming the container's first: from the clone to the exec.
//!
//! The order matters, each step says why it stands where it does:
//!
//! 1. [`enter`]: cgroups first, so that all that follows is accounted; then namespaces. With a user namespace that is a
//!    process of its own (see [`stage`]), whose sibling goes on.
//! 2. [`rootfs`]: open what is bound from the host and attach the root in its place.
//! 3. [`mounts`], [`devices`]: fill the root; every target is a descriptor inside of it. A procfs can be mounted in a user
//!    namespace only while the host's is still there to be seen, hence before the pivot.
//! 4. Hooks: the caller's, then `createContainer`, which work on the finished root from outside of it.
//! 5. [`rootfs::pivot`]: from here on no path leads out.
//! 6. [`identity`]: the terminal and streams, limits, user, capabilities, seccomp.
//! 7. [`program`]: find the program as that user, say `Ready`, wait, run `startContainer` hooks, execute.
//!
//! A failure anywhere is told to the caller and ends the process; with it goes the mount namespace and all in it.

mod bind_flags;
pub(crate) mod devices;
pub(crate) mod identity;
mod mounts;
pub(crate) mod program;
pub mod reaper;
pub(crate) mod rootfs;
mod stage;

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palan_linux::event::SignalFd;
use palan_linux::namespace::{self, Kind};
use palan_linux::path::RootDir;
use palan_linux::process::{self as os, ForkError, ForkOptions, Forked};
use palan_linux::{signal, tty};
use palan_oci::runtime_spec::TimeOffset;
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context, Error, InField};
use crate::handshake::{Channel, wait_for_byte};
use crate::hooks::{HookPlan, HookState};
use crate::plan::{MountNamespace, Plan, ProcessPlan};
use crate::streams::Streams;
use devices::Nodes;
use rootfs::{Host, Sources};

pub(crate) use mounts::{lexical, make_places};

/// What the clone takes along.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) plan: Plan,
    pub(crate) streams: Streams,
    pub(crate) channel: Channel,
    /// Open `tasks` files of cgroup v1.
    pub(crate) entrances: Vec<OwnedFd>,
    pub(crate) host: Host,
    /// What the caller has opened already.
    pub(crate) sources: Option<Sources>,
    /// What hooks are told.
    pub(crate) state: HookState<'a>,
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
        host: setup.host,
        sources: setup.sources,
        state: setup.state,
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
    host: Host,
    sources: Option<Sources>,
    state: HookState<'a>,
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
        let Body { mut plan, streams, entrances, host, .. } = self;
        for tasks in entrances {
            // `0` is the writer itself: the only form that takes no global lock (see `cgroup`).
            rustix::io::write(&tasks, b"0").context(|| "enter the container's cgroup".to_owned())?;
        }
        let in_user_namespace = match plan.namespaces.user.take() {
            None => false,
            Some(user) => {
                stage::enter(&mut plan, &user, proc, channel)?;
                // Bind sources may have to be mapped like it.
                plan.namespaces.user = Some(user);
                true
            }
        };
        enter(&plan, proc)?;
        // Files and directories made from here on have exactly the modes they are made with.
        rustix::process::umask(Mode::empty());

        if plan.namespaces.mount != MountNamespace::Callers {
            rootfs::cut_loose(&plan.root)?;
        }
        // What has the rights on the host's mounts that this process has given up.
        let caller = (in_user_namespace && self.sources.is_some()).then_some(channel);
        let sources = match self.sources {
            Some(sources) => sources,
            None => Sources::open_in_new_namespace(&plan, &host)?,
        };
        let (binds, root_copy) = sources.split();
        let root = rootfs::attach(&plan.root, root_copy)?;
        let outcome = mounts::mount_all(&root, &plan, binds, host.cgroup_v2, caller)?;
        if plan.fill_dev {
            let nodes = if in_user_namespace { Nodes::Bind } else { Nodes::Make };
            devices::fill_dev(&root, &plan.devices, nodes)?;
        }
        let terminal = match streams.terminal() {
            Some(terminal) => {
                let terminal = terminal.or_size(plan.process.window_size());
                let console = plan.fill_dev.then_some(&root);
                Some(devices::open_terminal(&outcome, console, terminal, channel)?)
            }
            None => None,
        };
        if plan.hooks.has_caller_hooks() || plan.has_net_devices {
            channel.prepared().context(|| "let the caller do its part".to_owned())?;
        }
        plan.hooks.run_in_namespaces(&self.state, &root)?;
        match plan.namespaces.mount {
            MountNamespace::Callers => rootfs::change_root(&root)?,
            MountNamespace::New | MountNamespace::Joined => rootfs::pivot(&plan.root, &root, proc)?,
        }
        for sysctl in &plan.sysctl {
            write_proc(proc, &format!("sys/{}", sysctl.path), &sysctl.value)
                .context(|| format!("set linux.sysctl.{} to {:?}", sysctl.name, sysctl.value))?;
        }
        mounts::protect(&root, &outcome, &plan.readonly_paths, &plan.masked_paths)?;
        mounts::finish(&root, outcome, plan.root.readonly)?;
        set_names(&plan)?;

        if !in_user_namespace {
            identity::raise_limits(&plan.process, proc, channel)?;
        }
        identity::set_scheduling(&plan)?;
        let user = identity::resolve_user(&root, &plan.process)?;
        let cwd = program::WorkingDirectory::open(root, &plan.process.cwd, plan.create_cwd)
            .in_field("process.cwd")?;
        let last = Last {
            process: plan.process,
            user,
            parent_death_signal: self.parent_death_signal,
            ending: if plan.init { Ending::Init } else { Ending::Execute },
            keep_keyring: plan.keep_keyring,
            hooks: Some((plan.hooks, self.state)),
        };
        last.run(channel, proc, streams, terminal, cwd, self.start_fifo)
    }
}

/// What is left when a process is in its namespaces and cgroups: the same for the first and for further ones.
pub(crate) struct Last<'a> {
    pub(crate) process: ProcessPlan,
    pub(crate) user: crate::user::ResolvedUser,
    pub(crate) parent_death_signal: bool,
    pub(crate) ending: Ending,
    /// Keep the session keyring that this process has.
    pub(crate) keep_keyring: bool,
    /// Hooks that run before the program, with what they are told.
    pub(crate) hooks: Option<(HookPlan, HookState<'a>)>,
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

impl Last<'_> {
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
        let waiting = start_fifo.map(|fifo| Waiting::new(fifo, streams.first_free())).transpose()?;
        if !self.keep_keyring {
            // Keys of the host's session are not the container's.
            palan_linux::keyring::join_new_session().context(|| "start a session keyring".to_owned())?;
        }
        identity::set_labels(&self.process, proc)?;
        let first_free = streams.first_free();
        streams.place(terminal).context(|| "set up the standard streams".to_owned())?;
        devices::use_own_null().context(|| "use the container's /dev/null".to_owned())?;

        identity::become_user(&self.process, &self.user, proc)?;
        entered.or_else(|error| error.again_as_user())?;
        rustix::process::umask(Mode::from_raw_mode(self.process.umask));
        let proof = os::single_threaded(Some(proc.as_fd()))?;
        // Nothing of the host stays open: while the container waits for its start others in it may look into this
        // process (CVE-2016-9962, CVE-2024-21626). Before the filter, which may not know the call.
        let kept: Vec<_> = waiting.iter().flat_map(Waiting::descriptors).collect();
        channel.close_others(first_free, &kept).context(|| "close descriptors".to_owned())?;
        // What owned them must not be dropped any more: this ends here, whatever happens.
        let error = match self.finish(channel, &proof, waiting.as_ref(), has_terminal) {
            Err(error) => error,
            Ok(never) => match never {},
        };
        channel.fail(&error);
        os::exit_now(1)
    }

    /// The rest, with nothing open but the program's descriptors, the channel, and what is waited on.
    fn finish(
        &self,
        channel: &Channel,
        proof: &os::SingleThreaded,
        waiting: Option<&Waiting>,
        has_terminal: bool,
    ) -> Result<Never, Error> {
        // Before the filter, which may not know the call, and after the last descriptor that only we need.
        identity::set_limits(&self.process)?;
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
        if self.ending == Ending::Sibling {
            hand_over(proof, channel)?;
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
        // One with an agent comes while the caller is there to tell it; with `create` it goes before the start.
        let late = filter.filter(|_| self.process.no_new_privileges);
        if let Some(filter) = late.filter(|filter| filter.agent().is_some()) {
            identity::load_filter(filter, channel)?;
        }
        channel.ready().context(|| "tell the caller".to_owned())?;
        let go = match waiting {
            Some(waiting) => waiting.wait(),
            None => channel.wait_for_start(),
        };
        if !go.context(|| "wait for the start".to_owned())? {
            os::exit_now(1);
        }
        if let Some(filter) = late.filter(|filter| filter.agent().is_none()) {
            identity::load_filter(filter, channel)?;
        }
        // Programs of the container, so under its filter.
        if let Some((hooks, state)) = &self.hooks {
            hooks.run_in_container(state, &environment)?;
        }
        if self.ending == Ending::Init {
            reaper::split(proof, has_terminal)?;
        }
        program::execute(&program, &self.process.arguments, &environment)
    }
}

/// A process that waits to be started by whoever writes to a fifo, and can be told to end meanwhile.
struct Waiting {
    fifo: OwnedFd,
    /// The first process of a PID namespace is spared by signals that it does not handle: it takes them from here.
    signals: SignalFd,
}

impl Waiting {
    /// Both at numbers where they are in the way of nothing that the program gets.
    fn new(fifo: BorrowedFd<'_>, minimum: i32) -> Result<Self, Error> {
        const HUP_INT_QUIT_TERM: [i32; 4] = [1, 2, 3, 15];
        let fifo =
            rustix::io::fcntl_dupfd_cloexec(fifo, minimum).context(|| "duplicate a descriptor".to_owned())?;
        let signals = SignalFd::new(&HUP_INT_QUIT_TERM)
            .and_then(|signals| signals.moved_above(minimum))
            .context(|| "watch for signals".to_owned())?;
        Ok(Self { fifo, signals })
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.fifo.as_fd(), self.signals.as_fd()]
    }

    /// Waits for the start; does not return after a signal that ends.
    fn wait(&self) -> std::io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut both = [PollFd::new(&self.fifo, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        loop {
            match poll(&mut both, None) {
                Ok(_) if !both[0].revents().is_empty() => return wait_for_byte(&self.fifo),
                Ok(_) => {
                    if let Some(number) = self.signals.next()? {
                        os::exit_now(128 + number);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // A filter from before the start that does not know the call: only the start is waited for.
                Err(_) => return wait_for_byte(&self.fifo),
            }
        }
    }
}

/// Goes on in a sibling, of which the caller is told; this process ends.
fn hand_over(proof: &os::SingleThreaded, channel: &Channel) -> Result<(), Error> {
    let options = ForkOptions { sibling: true, ..ForkOptions::default() };
    match os::fork_again(proof, &options) {
        Ok(Forked::Child) => channel.wait_until_known(),
        Ok(Forked::Parent(sibling)) => {
            let told = channel.process(sibling.pidfd.as_fd());
            os::exit_now(i32::from(told.is_err()))
        }
        // A PID namespace whose first process has ended takes no new one.
        Err(ForkError::Clone(source)) if source.kind() == std::io::ErrorKind::OutOfMemory => {
            Err(Error::NotRunning)
        }
        Err(error) => Err(error.into()),
    }
}

/// The session and the namespaces that the clone has not made.
fn enter(plan: &Plan, proc: &OwnedFd) -> Result<(), Error> {
    rustix::process::setsid().context(|| "start a session".to_owned())?;
    // Where the caller may run is not the container's business; its cpuset is. Without NUMA or CPUs to choose from
    // there is nothing to reset.
    let _ = palan_linux::scheduling::reset_affinity();
    join_all(&plan.namespaces.join)?;
    if plan.namespaces.new_cgroup {
        namespace::unshare(Kind::Cgroup.bit()).context(|| "make a cgroup namespace".to_owned())?;
    }
    if let Some(offsets) = &plan.namespaces.new_time {
        new_time_namespace(offsets, proc)?;
    }
    Ok(())
}

fn join_all(namespaces: &[(Kind, OwnedFd)]) -> Result<(), Error> {
    for (kind, fd) in namespaces {
        namespace::join(fd, *kind).context(|| format!("join the {} namespace", kind.file_name()))?;
    }
    Ok(())
}

/// Makes a time namespace, sets its clocks while nobody is in it, and enters (time_namespaces(7)).
fn new_time_namespace(offsets: &[(String, TimeOffset)], proc: &OwnedFd) -> Result<(), Error> {
    namespace::unshare(Kind::Time.bit()).context(|| "make a time namespace".to_owned())?;
    let lines: String = offsets
        .iter()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs))
        .collect();
    if !lines.is_empty() {
        write_proc(proc, "self/timens_offsets", &lines)
            .context(|| "set the clocks to linux.timeOffsets".to_owned())?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(proc, "self/ns/time_for_children", flags, Mode::empty())
        .context(|| "open the time namespace".to_owned())?;
    namespace::join(&made, Kind::Time).context(|| "enter the time namespace".to_owned())
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
