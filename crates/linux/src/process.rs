//! Creating and watching processes.
//!
//! Two ways to make one:
//! - [`fork`] copies a *single-threaded* process by clone3, with namespaces, a cgroup and a pidfd in the same call;
//!   the child may run any code.
//! - [`spawn`] starts another program from any process, also one with threads: the child shares the memory until it
//!   executes and does nothing but system calls (like posix_spawn, with a session, a cgroup and exact descriptors).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions};

use crate::namespace::Kinds;
use crate::signal::{Signal, SignalSet};

/// libc's constant of this name is an `int`, which it overflows.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`fork`] gives the new process beyond a copy of the caller.
#[derive(Debug, Default)]
pub struct ForkOptions<'a> {
    /// New namespaces.
    pub namespaces: Option<Kinds>,
    /// Directory of the cgroup v2 that the child is born into (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Make the child a sibling (`CLONE_PARENT`): its parent is the caller's parent.
    pub sibling: bool,
}

/// Which side of [`fork`] the caller is.
#[derive(Debug)]
pub enum Forked {
    /// The process that called.
    Parent(Child),
    /// The new process.
    Child,
}

/// A process that this one started.
#[derive(Debug)]
pub struct Child {
    /// Its PID in the caller's namespace.
    pub pid: Pid,
    /// Its pidfd: readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Why [`fork`] did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// Only the calling thread would exist in the child, with every lock of the others held for ever.
    #[error("this process has {0} threads, it can only be copied while it has one")]
    Threads(u32),
    /// The count of threads is unknown.
    #[error("cannot count the threads in /proc/self/task")]
    CountThreads(#[source] io::Error),
    /// clone3 failed.
    #[error("cannot create a process")]
    Clone(#[source] io::Error),
}

/// The knowledge that this process has one thread, for a [`fork_again`] where no trusted /proc is at hand to count
/// them. Its holder starts none.
#[derive(Debug)]
pub struct SingleThreaded(());

/// Counts the threads of this process in the procfs `proc` (or /proc).
pub fn single_threaded(proc: Option<BorrowedFd<'_>>) -> Result<SingleThreaded, ForkError> {
    let (start, path) = match proc {
        Some(proc) => (proc, "self/task"),
        None => (rustix::fs::CWD, "/proc/self/task"),
    };
    let task = rustix::fs::statx(start, path, rustix::fs::AtFlags::empty(), rustix::fs::StatxFlags::NLINK)
        .map_err(|error| ForkError::CountThreads(error.into()))?;
    // The directory has one link for each thread, one for itself and one from its parent.
    match task.stx_nlink.saturating_sub(2) {
        1 => Ok(SingleThreaded(())),
        threads => Err(ForkError::Threads(threads)),
    }
}

/// Copies the calling process. Refused in a process with several threads.
pub fn fork(options: &ForkOptions<'_>) -> Result<Forked, ForkError> {
    fork_again(&single_threaded(None)?, options)
}

/// Copies the calling process, whose threads have been counted before.
pub fn fork_again(_proof: &SingleThreaded, options: &ForkOptions<'_>) -> Result<Forked, ForkError> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.flags |= options.namespaces.map_or(0, |kinds| u64::from(kinds.bits()));
    arguments.pidfd = &raw mut pidfd as u64;
    if options.sibling {
        // With CLONE_PARENT the exit signal is the caller's own and must be 0 here.
        arguments.flags |= libc::CLONE_PARENT as u64;
    } else {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = options.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM and with no stack given the child continues here on its own copy of the memory; the
    // process has one thread, so no lock of the C library is held by a thread that the child lacks.
    let mut result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() == Some(libc::ENOSYS) && options.cgroup.is_none() {
        // A seccomp filter that is already in force may know only the older call, whose flags it can look at.
        let flags = arguments.flags | arguments.exit_signal;
        // SAFETY: as above; the third argument, which CLONE_PIDFD fills, is the same on all architectures.
        result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    }
    if result == 0 {
        return Ok(Forked::Child);
    }
    if result < 0 {
        return Err(ForkError::Clone(io::Error::last_os_error()));
    }
    let pid = i32::try_from(result).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| ForkError::Clone(io::Error::from_raw_os_error(libc::ERANGE)))?;
    // SAFETY: CLONE_PIDFD stored a descriptor that it has just opened for us.
    Ok(Forked::Parent(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }))
}

/// The PID, in this process's namespace, of the process behind `pidfd`. `None` if it has ended or has none here.
pub fn pid_of(pidfd: impl AsFd) -> io::Result<Option<Pid>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    Ok(number.filter(|number| *number > 0).and_then(Pid::from_raw))
}

/// The program that [`spawn`] executes.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// An open file, such as a sealed memfd.
    Fd(BorrowedFd<'a>),
    /// An absolute path.
    Path(&'a CStr),
}

/// A program to start with [`spawn`].
#[derive(Debug)]
pub struct Spawn<'a> {
    /// What to execute.
    pub program: Program<'a>,
    /// Its arguments, with the name first.
    pub arguments: Vec<CString>,
    /// Its whole environment, `NAME=value`.
    pub environment: Vec<CString>,
    /// Its descriptors 0, 1, 2, …; everything else is closed at exec.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Its working directory.
    pub directory: &'a CStr,
    /// Start a session of its own.
    pub new_session: bool,
    /// An open `cgroup.procs` (or v1 `tasks`) that it enters first.
    pub cgroup_procs: Option<BorrowedFd<'a>>,
    /// Its umask.
    pub umask: u32,
    /// It is killed when the thread that starts it ends, and all that it has started ends with it: it is the first process of a PID
    /// namespace of its own. When it has been waited for, nothing of it is left.
    pub bound: bool,
}

/// The soft limit of open files that this process was started with, once it has raised its own.
static FIRST_DESCRIPTOR_LIMIT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();

/// Raises this process's soft limit of open files to the hard one. What [`spawn`] starts has the limit that was: programs that use
/// select(2), or close all descriptors that there could be, rely on a small one.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    if let Some(current) = limit.current {
        FIRST_DESCRIPTOR_LIMIT.get_or_init(|| current);
    }
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?)
}

/// Starts a program from any process, also one with many threads, and returns when it is executing.
///
/// The child is one of the caller's and must be waited for, or belongs to init when the caller has gone.
pub fn spawn(command: &Spawn<'_>) -> io::Result<Child> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let arguments = pointers(&command.arguments);
    let environment = pointers(&command.environment);
    let mut scratch = vec![-1; command.descriptors.len()];
    let descriptors: Vec<RawFd> = command.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut plan = SpawnPlan {
        program: match command.program {
            Program::Fd(fd) => (fd.as_raw_fd(), c"".as_ptr()),
            Program::Path(path) => (libc::AT_FDCWD, path.as_ptr()),
        },
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        descriptors: descriptors.as_ptr(),
        scratch: scratch.as_mut_ptr(),
        count: c_int::try_from(descriptors.len()).map_err(io::Error::other)?,
        directory: command.directory.as_ptr(),
        new_session: command.new_session,
        cgroup_procs: command.cgroup_procs.map_or(-1, |fd| fd.as_raw_fd()),
        umask: command.umask,
        bound: command.bound,
        descriptor_limit: FIRST_DESCRIPTOR_LIMIT.get().copied(),
        errno: 0,
    };
    let mut stack = vec![0u128; 4096];
    let mut pidfd: RawFd = -1;
    let namespace = if command.bound { libc::CLONE_NEWPID } else { 0 };
    // No handler of this process may run in the child, which shares its memory.
    let mask = crate::signal::set_mask(&SignalSet::all())?;
    // SAFETY: the child runs `spawn_child` on `stack`, 64 KiB that outlive it because CLONE_VFORK holds the caller
    // until the child has executed or ended; `plan` and all it points to live equally long and only the child
    // touches them meanwhile; `spawn_child` makes nothing but system calls. The stack pointer is 16-byte aligned.
    let result = unsafe {
        libc::clone(
            spawn_child,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | namespace,
            (&raw mut plan).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let error = io::Error::last_os_error();
    crate::signal::set_mask(&mask)?;
    if result < 0 {
        return Err(error);
    }
    let pid = Pid::from_raw(result).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: CLONE_PIDFD stored a descriptor that it has just opened for us.
    let child = Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    // SAFETY: the child has written it, if at all, before it ended.
    let errno = unsafe { ptr::read_volatile(&raw const plan.errno) };
    if errno != 0 {
        // It has ended without executing: nobody else will reap it.
        let _ = wait(&child.pidfd);
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(child)
}

/// Everything `spawn_child` needs, prepared so that it allocates nothing.
struct SpawnPlan {
    program: (RawFd, *const c_char),
    arguments: *const *const c_char,
    environment: *const *const c_char,
    descriptors: *const RawFd,
    scratch: *mut RawFd,
    count: c_int,
    directory: *const c_char,
    new_session: bool,
    cgroup_procs: RawFd,
    umask: u32,
    bound: bool,
    descriptor_limit: Option<u64>,
    errno: c_int,
}

/// The child's side of [`spawn`]: system calls only, in the parent's memory.
extern "C" fn spawn_child(plan: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its SpawnPlan, which nobody else touches while this function runs.
    let plan = unsafe { &mut *plan.cast::<SpawnPlan>() };
    // SAFETY: all pointers in the plan are valid for the counts beside them (see `spawn`), and the calls are
    // async-signal-safe. errno is the parent's thread-local, which the parent reads only after this has ended.
    unsafe {
        let failed = |plan: &mut SpawnPlan| {
            plan.errno = *libc::__errno_location();
            127
        };
        crate::signal::reset_dispositions();
        if plan.cgroup_procs >= 0 && libc::write(plan.cgroup_procs, c"0".as_ptr().cast(), 1) < 0 {
            return failed(plan);
        }
        if plan.new_session && libc::setsid() < 0 {
            return failed(plan);
        }
        if plan.bound
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(libc::SIGKILL.unsigned_abs()), 0, 0, 0)
                < 0
        {
            return failed(plan);
        }
        libc::umask(plan.umask);
        if libc::chdir(plan.directory) < 0 {
            return failed(plan);
        }
        let first_free = plan.count;
        for index in 0..plan.count {
            let copy =
                libc::fcntl(*plan.descriptors.offset(index as isize), libc::F_DUPFD_CLOEXEC, first_free);
            if copy < 0 {
                return failed(plan);
            }
            *plan.scratch.offset(index as isize) = copy;
        }
        // The program's own descriptor may lie where one of the numbered ones goes.
        let mut program = plan.program.0;
        if program >= 0 {
            program = libc::fcntl(program, libc::F_DUPFD_CLOEXEC, first_free);
            if program < 0 {
                return failed(plan);
            }
        }
        for index in 0..plan.count {
            if libc::dup2(*plan.scratch.offset(index as isize), index) < 0 {
                return failed(plan);
            }
        }
        if libc::syscall(libc::SYS_close_range, first_free, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0
        {
            return failed(plan);
        }
        if let Some(soft) = plan.descriptor_limit {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) < 0 {
                return failed(plan);
            }
            limit.rlim_cur = soft.min(limit.rlim_max);
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
                return failed(plan);
            }
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        let flags = if plan.program.0 >= 0 { libc::AT_EMPTY_PATH } else { 0 };
        libc::syscall(libc::SYS_execveat, program, plan.program.1, plan.arguments, plan.environment, flags);
        failed(plan)
    }
}

/// Whether this process may execute the file at `path`, with the rights that it has now (faccessat2(2), Linux 5.8): unlike
/// access(2) not with those of its real user.
pub fn may_execute(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string that lives through the call, which changes nothing.
    let result = unsafe {
        libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces this process by the program at `path`. Returns only if that failed.
pub fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    execute_at(None, path, arguments, environment)
}

/// Replaces this process by the program in the open file `program`. Returns only if that failed.
pub fn execute_fd(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    execute_at(Some(program), c"", arguments, environment)
}

fn execute_at(
    program: Option<BorrowedFd<'_>>,
    path: &CStr,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and the strings behind them live through the call.
    unsafe {
        match program {
            Some(fd) => libc::syscall(
                libc::SYS_execveat,
                fd.as_raw_fd(),
                path.as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            ),
            None => libc::c_long::from(libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr())),
        };
    }
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on to be closed at exec.
pub fn close_at_exec_from(first: u32) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor from `first` on, for a process that keeps running our code in a container.
///
/// # Panics later
/// Every `OwnedFd` with such a number dangles: call this only where none is used or dropped afterwards.
pub fn close_all_from(first: u32) -> io::Result<()> {
    close_range(first, 0)
}

/// Closes every descriptor from `first` on except those of `keep`. What [`close_all_from`] says holds here too.
pub fn close_all_but(first: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut next = first;
    for number in kept {
        if number > next {
            close_range_to(next, number - 1, 0)?;
        }
        next = next.max(number + 1);
    }
    close_range(next, 0)
}

fn close_range(first: u32, flags: libc::c_uint) -> io::Result<()> {
    close_range_to(first, libc::c_uint::MAX, flags)
}

fn close_range_to(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers only. Closing descriptors that are owned elsewhere is the caller's declared intent.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets `fd` survive exec (or not).
pub fn set_close_at_exec(fd: impl AsFd, close: bool) -> io::Result<()> {
    let flags = if close { rustix::io::FdFlags::CLOEXEC } else { rustix::io::FdFlags::empty() };
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

/// Makes descriptor number `target` (0 to 2, or a number that nothing in this process owns) a copy of `fd`.
pub fn place_descriptor(fd: impl AsFd, target: u32) -> io::Result<()> {
    let target = c_int::try_from(target).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: takes integers only; what `target` was before is closed, which the caller has declared unowned.
    match unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => set_close_at_exec(fd_number(target), false),
    }
}

fn fd_number(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the only caller has just made this descriptor with dup2 and uses it before anything can close it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Takes ownership of a descriptor that this process was started with (`LISTEN_FDS`, a number on the command line).
///
/// Fails if the number is not open, or is one that this process has opened itself: those close at exec, which an inherited
/// one has survived.
pub fn inherited_descriptor(number: u32) -> io::Result<OwnedFd> {
    let not_open = || io::Error::from_raw_os_error(libc::EBADF);
    let number = c_int::try_from(number).map_err(|_| not_open())?;
    // SAFETY: fcntl with F_GETFD only reads the descriptor's flags.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(not_open());
    }
    // SAFETY: it is open, and nobody owns it: whatever has an owner here closes at exec, as this does from the next line on.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    set_close_at_exec(&fd, true)?;
    Ok(fd)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit with this code.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal.
        signal: Signal,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
}

impl ExitStatus {
    /// The code as shells and Docker show it: 128 + signal for a signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled { signal, .. } => 128 + signal.as_raw(),
        }
    }
}

/// Waits for the child behind `pidfd` to end and reaps it.
pub fn wait(pidfd: impl AsFd) -> io::Result<ExitStatus> {
    loop {
        match wait_with(&pidfd, WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps the child behind `pidfd` if it has ended.
pub fn try_wait(pidfd: impl AsFd) -> io::Result<Option<ExitStatus>> {
    wait_with(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait_with(pidfd: impl AsFd, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
    let Some(status) = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options)? else {
        return Ok(None);
    };
    Ok(exit_status(&status))
}

fn exit_status(status: &rustix::process::WaitIdStatus) -> Option<ExitStatus> {
    if let Some(code) = status.exit_status() {
        return Some(ExitStatus::Exited(code));
    }
    let signal = Signal::from_raw(status.terminating_signal()?)?;
    Some(ExitStatus::Signaled { signal, core_dumped: status.dumped() })
}

/// Reaps any child that has ended, waiting for one if `block`. `None`: none has ended. An error with `ECHILD`: there
/// is no child. For a process that is an init or a subreaper.
pub fn reap_any(block: bool) -> io::Result<Option<(Pid, ExitStatus)>> {
    let options = if block { WaitOptions::empty() } else { WaitOptions::NOHANG };
    let Some((pid, status)) = rustix::process::wait(options)? else { return Ok(None) };
    if let Some(code) = status.exit_status() {
        return Ok(Some((pid, ExitStatus::Exited(code))));
    }
    let signal = status.terminating_signal().and_then(Signal::from_raw);
    let core_dumped = status.as_raw() & 0x80 != 0;
    Ok(signal.map(|signal| (pid, ExitStatus::Signaled { signal, core_dumped })))
}

/// The PID of some child that has ended and was not waited for yet; it stays to be reaped. For a subreaper, which must
/// tell the children that it knows from the orphans that have become its own.
pub fn ended_child() -> io::Result<Option<Pid>> {
    // SAFETY: siginfo_t is plain integers and pointers, for which zero is a value; waitid fills it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: takes integers and a pointer to a siginfo_t that lives through the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: waitid fills the fields of a child's signal, or leaves zeros where none has ended.
    Ok(Pid::from_raw(unsafe { info.si_pid() }))
}

/// Whether the process behind `pidfd` is a child of this one, so that [`wait`] will tell its end.
pub fn is_child(pidfd: impl AsFd) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::CHILD) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Reaps the child `pid` if it has ended.
pub fn reap(pid: Pid) -> io::Result<()> {
    rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(())
}

/// What the processes that this one has waited for, and those that they have waited for, have used (getrusage(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user and in kernel mode.
    pub cpu: std::time::Duration,
    /// The largest resident set that one of them had, in bytes.
    pub peak_memory: u64,
}

/// What this process's children have used so far.
pub fn usage_of_children() -> io::Result<Usage> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the kernel fills the whole structure if the call succeeds.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        std::time::Duration::from_secs(time.tv_sec.unsigned_abs())
            + std::time::Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok(Usage { cpu, peak_memory: usage.ru_maxrss.unsigned_abs() * 1024 })
}

/// Opens a pidfd of `pid`.
pub fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends `signal` to the process behind `pidfd`.
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    // SAFETY: takes a descriptor, an integer, a null siginfo and no flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal.as_raw(),
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends `signal` to `pid`: -1 means all that the caller may signal, a negative number a process group.
pub fn kill(pid: i32, signal: Signal) -> io::Result<()> {
    // SAFETY: takes integers only.
    if unsafe { libc::kill(pid, signal.as_raw()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for `signal` when the parent ends. A later change of credentials or an exec of a privileged file clears it.
pub fn set_parent_death_signal(signal: Option<Signal>) -> io::Result<()> {
    let number = signal.map_or(0, Signal::as_raw);
    // SAFETY: PR_SET_PDEATHSIG takes an integer.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, number) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes orphaned descendants children of this process.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes an integer.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ends this process at once: no destructor, no buffered output. For the child of a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}
