//! `create`, `start`, and both in one: `run`.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use palan_linux::process as os;
use palan_linux::signal::Signal;
use palan_linux::{socket, tty};
use palan_oci::runtime_spec::{MAX_SIZE, Spec};

use super::arguments::{Arguments, Flag, flag, option};
use super::notify::{self, Notify};
use super::state::{self, Existing, Home, State, Status};
use super::{Failure, Global, Outcome, foreground, protect};
use crate::cgroup::{Location, Manager, UnitRequest};
use crate::container::{CreateRequest, Created, Rootfs, Stdio};
use crate::hooks::{self, HookState};
use crate::plan::Plan;
use crate::seccomp;

pub(super) const FLAGS: &[Flag] = &[
    option("bundle").short('b'),
    option("console-socket"),
    flag("detach").short('d'),
    option("pid-file"),
    option("pidfd-socket"),
    flag("no-subreaper"),
    flag("no-pivot"),
    flag("no-new-keyring"),
    option("preserve-fds"),
    flag("keep"),
];

/// A bundle, read and checked.
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    rootfs: Rootfs,
    pub(super) rootfs_path: PathBuf,
    pub(super) spec: Spec,
    pub(super) terminal: bool,
}

impl Bundle {
    pub(super) fn load(arguments: &Arguments) -> Result<Self, Failure> {
        let given = arguments.value("bundle").unwrap_or(".");
        let path =
            std::path::absolute(given).map_err(|error| Failure::new(format!("bundle {given:?}: {error}")))?;
        let json = state::read_limited(&path.join("config.json"), MAX_SIZE)?;
        let spec = Spec::from_json(&json)
            .map_err(|error| Failure::new(palan_stdx::error_chain::to_string(&error)))?;
        palan_oci::runtime_spec::check_version(&spec.oci_version)
            .map_err(|error| Failure::new(palan_stdx::error_chain::to_string(&error)))?;
        let root = spec.root.as_ref().filter(|root| !root.path.is_empty());
        let root = root.ok_or_else(|| Failure::new("root.path: config.json has none"))?;
        let rootfs_path = path.join(&root.path);
        match palan_stdx::fs::metadata(&rootfs_path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(Failure::new(format!("root.path: {} is no directory", rootfs_path.display())));
            }
            Err(error) => {
                let error = palan_stdx::error_chain::to_string(&error);
                return Err(Failure::new(format!("root.path: {error}")));
            }
        }
        Ok(Self {
            rootfs: Rootfs::Directory(rootfs_path.clone()),
            rootfs_path,
            terminal: spec.process.as_ref().is_some_and(|process| process.terminal),
            path,
            spec,
        })
    }
}

/// What `--preserve-fds` keeps: descriptors from `first` on.
pub(super) fn preserved(arguments: &Arguments, first: usize) -> Result<Vec<OwnedFd>, Failure> {
    let count = arguments.number("preserve-fds")?.unwrap_or(0);
    notify::inherited(u32::try_from(first).unwrap_or(u32::MAX), count)
        .map_err(|(number, error)| Failure::new(format!("--preserve-fds: descriptor {number}: {error}")))
}

/// Sends a descriptor with its name to a socket, as runc does.
fn send_descriptor(path: &str, name: &str, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    socket::send_with_descriptors(&stream, name.as_bytes(), &[descriptor])?;
    Ok(())
}

/// Sends the master of a terminal to the socket at `path`.
pub(super) fn send_console(path: &str, master: BorrowedFd<'_>) -> Result<(), Failure> {
    send_descriptor(path, "/dev/ptmx", master).map_err(|error| {
        Failure::new(format!("cannot send the terminal to --console-socket {path}: {error}"))
    })
}

/// Sends the pidfd of a new process to the socket that was asked for, if one was.
pub(super) fn send_pidfd(arguments: &Arguments, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
    let Some(path) = arguments.value("pidfd-socket") else { return Ok(()) };
    send_descriptor(path, "anon_inode:[pidfd]", pidfd)
        .map_err(|error| Failure::new(format!("cannot send the pidfd to --pidfd-socket {path}: {error}")))
}

/// The unit that systemd is to make for the container, if it makes cgroups.
pub(super) fn unit(global: &Global, spec: &Spec, id: &str) -> Result<Option<UnitRequest>, Failure> {
    let request = |manager: &Manager| UnitRequest::of(spec, id, manager.clone());
    Ok(global.systemd.as_ref().map(request).transpose()?)
}

/// Why there is no container.
enum Abandoned {
    /// It can't be what was asked for; nothing has been made.
    Refused(Failure),
    /// It was on its way.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Abandoned {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Everything up to the start.
fn set_up(
    global: &Global,
    arguments: &Arguments,
    bundle: &Bundle,
    home: &Home,
    notify: Option<&Notify>,
    fifo: Option<BorrowedFd<'_>>,
) -> Result<(Created, State), Abandoned> {
    let id = arguments.container_id()?;
    let cgroups_path = bundle.spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    let unit = unit(global, &bundle.spec, id).map_err(Abandoned::Refused)?;
    // What the container gets beyond its specification comes from whoever has started this process.
    let mut spec = Cow::Borrowed(&bundle.spec);
    let mut extra = Vec::new();
    if std::env::var_os("LISTEN_FDS").is_some() {
        extra = notify::listen_fds(spec.to_mut()).map_err(Abandoned::Refused)?;
    }
    if let Some(notify) = notify {
        notify.prepare(spec.to_mut()).map_err(Abandoned::Refused)?;
    }
    extra.extend(preserved(arguments, 3 + extra.len()).map_err(Abandoned::Refused)?);
    let extra: Vec<_> = extra.iter().map(AsFd::as_fd).collect();
    let rules = bundle.spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    for name in rules.into_iter().flat_map(seccomp::unknown_calls) {
        global.log.debug(&format!("unknown seccomp syscall {name:?} ignored"));
    }
    let request = CreateRequest {
        id,
        spec: &spec,
        bundle: &bundle.path,
        rootfs: &bundle.rootfs,
        user: None,
        groups: &[],
        create_cwd: true,
        network_namespace: None,
        seccomp: None,
        stdio: if bundle.terminal { terminal(arguments.value("console-socket")) } else { Stdio::Inherit },
        cgroup: unit.as_ref().map_or_else(|| Location::of(cgroups_path, id, global.rootless), Location::Unit),
        parent_death_signal: false,
        init: false,
        extra_descriptors: &extra,
        start_fifo: fifo,
        no_pivot: arguments.has("no-pivot"),
        keep_keyring: arguments.has("no-new-keyring"),
        sources: &[],
    };
    let plan = Plan::new(&request).map_err(|error| Abandoned::Refused(error.into()))?;
    let created = crate::container::create_planned(&request, plan)?;
    let container = created.container();
    for warning in &container.warnings {
        global.log.warning(warning);
    }
    let rootfs = bundle.rootfs_path.clone();
    let place = container.cgroup.place();
    let mut state = State::new(id, container.pid, place, &bundle.path, rootfs, &spec);
    if let (Cow::Owned(_), Some(process)) = (&spec, &bundle.spec.process) {
        // Those sockets are for the first process only.
        state.process.clone_from(process);
    }
    state.resource_group.clone_from(&container.resource_group);
    home.save(&state)?;
    if let (Some(socket), Some(master)) = (arguments.value("console-socket"), &container.console_master) {
        send_console(socket, master.as_fd())?;
    }
    send_pidfd(arguments, container.pidfd.as_fd())?;
    state::write_pid_file(arguments.value("pid-file"), container.pid)?;
    Ok((created, state))
}

/// The terminal to make: for this process's own to relay, or for whoever gets it by the socket.
pub(super) fn terminal(console_socket: Option<&str>) -> Stdio<'static> {
    if console_socket.is_some() {
        return Stdio::Terminal { size: None, translate_newlines: true };
    }
    // One without a size is none to go by.
    let size = tty::window_size(rustix::stdio::stdin()).ok().filter(|size| size.rows > 0 && size.columns > 0);
    Stdio::Terminal { size, translate_newlines: false }
}

/// The rules about terminals and their sockets, before anything exists.
pub(super) fn check_console(arguments: &Arguments, terminal: bool, detached: bool) -> Result<(), Failure> {
    let socket = arguments.value("console-socket").is_some();
    match (terminal, detached, socket) {
        (true, true, false) => {
            Err(Failure::new("cannot allocate tty if runc will detach without setting console socket"))
        }
        (true, false, true) | (false, _, true) => {
            Err(Failure::new("cannot use console socket if runc will not detach or allocate tty"))
        }
        _ => Ok(()),
    }
}

pub(super) fn create(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    protect::ensure()?;
    let bundle = Bundle::load(arguments)?;
    check_console(arguments, bundle.terminal, true)?;
    let home = Home::claim(global, arguments.container_id()?)?;
    let set_up = || {
        let fifo = home.make_fifo().map_err(Abandoned::Refused)?;
        let notify = Notify::from_environment(&home).map_err(Abandoned::Refused)?;
        set_up(global, arguments, &bundle, &home, notify.as_ref(), Some(fifo.as_fd()))
    };
    let created = set_up();
    match created {
        Ok((created, _)) => {
            created.leave()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(abandoned) => Err(give_up(global, arguments, &bundle, &home, abandoned)),
    }
}

/// Takes back what a container that did not come to life has left, `poststop` hooks included unless it was refused, and
/// returns the failure.
fn give_up(
    global: &Global,
    arguments: &Arguments,
    bundle: &Bundle,
    home: &Home,
    abandoned: Abandoned,
) -> Failure {
    let state = HookState {
        oci_version: &bundle.spec.oci_version,
        id: arguments.container_id().unwrap_or_default(),
        bundle: &bundle.path,
        annotations: &bundle.spec.annotations,
    };
    // The first failure is the one to tell.
    let failure = match abandoned {
        // Its hooks may be what was refused.
        Abandoned::Refused(failure) => failure,
        Abandoned::Failed(failure) => {
            if let Err(error) = hooks::poststop(bundle.spec.hooks.as_ref(), &state, None) {
                global.log.warning(&error.report());
            }
            failure
        }
    };
    if let Err(error) = home.remove() {
        global.log.warning(&error.message);
    }
    failure
}

/// Runs the `poststart` hooks. When one fails the container ends, as with runc.
fn poststart(state: &State, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
    hooks::poststart(state.hooks.as_ref(), &state.for_hooks(), state.init_process_pid).map_err(|error| {
        // It may have ended by itself just now.
        let _ = os::send_signal(pidfd, Signal::KILL);
        Failure::from(error)
    })
}

pub(super) fn start(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    match existing.status()? {
        Status::Created => {
            let notify = Notify::from_environment(&existing.home)?;
            let listener = notify.as_ref().map(Notify::listen).transpose()?;
            existing.home.start()?;
            if let Some(pidfd) = &existing.pidfd {
                poststart(&existing.state, pidfd.as_fd())?;
                if let Some(listener) = &listener {
                    listener.attend(existing.state.init_process_pid, pidfd)?;
                }
            }
        }
        Status::Stopped => return Err(Failure::new("cannot start a container that has stopped")),
        _ => return Err(Failure::new("cannot start an already running container")),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    protect::ensure()?;
    let bundle = Bundle::load(arguments)?;
    let detached = arguments.has("detach");
    check_console(arguments, bundle.terminal, detached)?;
    let home = Home::claim(global, arguments.container_id()?)?;
    // From here on signals are for the container.
    let signals = if detached { None } else { Some(foreground::Signals::block()?) };
    let start = || {
        let notify = Notify::from_environment(&home).map_err(Abandoned::Refused)?;
        let (created, state) = set_up(global, arguments, &bundle, &home, notify.as_ref(), None)?;
        let listener = notify.as_ref().map(Notify::listen).transpose()?;
        Ok((created.start()?, state, listener))
    };
    let (mut container, state, listener) = match start() {
        Ok(started) => started,
        Err(abandoned) => return Err(give_up(global, arguments, &bundle, &home, abandoned)),
    };
    if let Err(failure) = poststart(&state, container.pidfd.as_fd()) {
        os::wait(&container.pidfd).ok();
        container.cgroup.kill()?;
        container.cgroup.remove()?;
        return Err(give_up(global, arguments, &bundle, &home, Abandoned::Failed(failure)));
    }
    let Some(signals) = signals else {
        if let Some(listener) = &listener
            && let Err(failure) = listener.attend(container.pid, &container.pidfd)
        {
            // The container runs, which is what was asked for.
            global.log.warning(&failure.message);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let console = container.console_master.as_ref();
    let status = foreground::attend(&signals, &container.pidfd, console, listener.as_ref())?;
    // Processes that the first one has left behind, if it shares its PID namespace, end with it.
    if arguments.has("keep") {
        container.cgroup.kill()?;
    } else {
        // `update` may have made it in one more hierarchy.
        container.cgroup.look_again();
        super::manage::remove(&home, &state, Some(&container.cgroup))?;
    }
    Ok(foreground::exit_code(status))
}
