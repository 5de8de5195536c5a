//! What is known about a container between two commands: `<root>/<id>/state.json`, with runc's names where it has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use palan_linux::process as os;
use palan_oci::runtime_spec::{
    Hooks, MemoryPolicy, NamespaceKind, Personality, Process, Resources, Seccomp, Spec,
};
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::{error_chain, fs};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::{Failure, Global, time};
use crate::cgroup::{Cgroup, Place};
use crate::checkpoint::External;
use crate::hooks::HookState;
use crate::resctrl::ResourceGroup;

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) init_process_pid: i32,
    /// When that process started, in the kernel's ticks: another one that got its PID started later.
    pub(super) init_process_start: u64,
    pub(super) created: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) cgroup: Place,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    /// What `exec` starts from.
    pub(super) process: Process,
    pub(super) seccomp: Option<Seccomp>,
    /// Those of them that are left to run.
    #[serde(default)]
    pub(super) hooks: Option<Hooks>,
    /// What is the container's in resctrl.
    #[serde(default)]
    pub(super) resource_group: Option<ResourceGroup>,
    /// What `exec` gives every process of the container.
    #[serde(default)]
    pub(super) personality: Option<Personality>,
    #[serde(default)]
    pub(super) memory_policy: Option<MemoryPolicy>,
    /// Its mounts are the host's to remove.
    #[serde(default)]
    pub(super) mounts_on_host: bool,
    /// Who made it, by number.
    #[serde(default)]
    pub(super) owner: u32,
    /// The limits, as `update` has left them.
    #[serde(default)]
    pub(super) resources: Resources,
    /// What `checkpoint` must know.
    #[serde(default)]
    pub(super) external: External,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's directory.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) path: PathBuf,
}

const STATE: &str = "state.json";
const FIFO: &str = "exec.fifo";

fn report(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(error_chain::to_string(error))
}

impl Home {
    fn of(global: &Global, id: &str) -> Self {
        Self { path: global.root.join(id) }
    }

    /// Claims the directory of a new container.
    pub(super) fn claim(global: &Global, id: &str) -> Result<Self, Failure> {
        let home = Self::of(global, id);
        let create = || rustix::fs::mkdir(&home.path, Mode::from_raw_mode(0o711));
        let mut created = create();
        if created == Err(Errno::NOENT) {
            fs::create_dir_all(&global.root, 0o700).map_err(|error| report(&error))?;
            created = create();
        }
        match created {
            Ok(()) => Ok(home),
            Err(Errno::EXIST) => Err(Failure::new("container with given ID already exists")),
            Err(errno) => Err(Failure::new(format!("cannot create {}: {errno}", home.path.display()))),
        }
    }

    /// Makes the fifo that `start` writes into, and opens both ends of it.
    pub(super) fn make_fifo(&self) -> Result<OwnedFd, Failure> {
        let path = self.path.join(FIFO);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o600), 0)
            .and_then(|()| rustix::fs::open(&path, flags, Mode::empty()))
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", path.display())))
    }

    /// Writes into the fifo. Whoever takes it away first is the one who starts the container.
    pub(super) fn start(&self) -> Result<(), Failure> {
        let path = self.path.join(FIFO);
        let taken = self.path.join(".started");
        if let Err(error) = fs::rename(&path, &taken) {
            return Err(match error.kind() {
                std::io::ErrorKind::NotFound => Failure::new("cannot start an already running container"),
                _ => report(&error),
            });
        }
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(&taken, flags, Mode::empty())
            .and_then(|fifo| rustix::io::write(fifo, &[1]).map(drop))
            .map_err(|error| Failure::new(format!("cannot start the container's process: {error}")))?;
        fs::remove_file(&taken).map_err(|error| report(&error))
    }

    pub(super) fn save(&self, state: &State) -> Result<(), Failure> {
        let json = serde_json::to_vec(state).map_err(|error| report(&error))?;
        atomic_file::write(&self.path.join(STATE), &json, 0o600, Durability::Process)
            .map_err(|error| report(&error))
    }

    pub(super) fn remove(&self) -> Result<(), Failure> {
        fs::if_exists(fs::remove_dir_all(&self.path)).map(drop).map_err(|error| report(&error))
    }
}

/// A container that exists.
#[derive(Debug)]
pub(super) struct Existing {
    pub(super) home: Home,
    pub(super) state: State,
    /// Its first process, if it still runs.
    pub(super) pidfd: Option<OwnedFd>,
}

impl Existing {
    pub(super) fn load(global: &Global, id: &str) -> Result<Self, Failure> {
        let home = Home::of(global, id);
        let json = fs::if_exists(fs::read(&home.path.join(STATE))).map_err(|error| report(&error))?;
        let json = json.ok_or_else(|| Failure::new("container does not exist"))?;
        let state: State = serde_json::from_slice(&json)
            .map_err(|error| Failure::new(format!("{}: {error}", home.path.join(STATE).display())))?;
        let pidfd = find_process(state.init_process_pid, state.init_process_start);
        Ok(Self { home, state, pidfd })
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup, Failure> {
        Ok(Cgroup::open(&self.state.cgroup)?)
    }

    pub(super) fn status(&self) -> Result<Status, Failure> {
        if self.pidfd.is_none() {
            return Ok(Status::Stopped);
        }
        match Cgroup::open(&self.state.cgroup) {
            Ok(cgroup) if cgroup.is_frozen()? => return Ok(Status::Paused),
            // It has left its cgroup, and somebody has removed that.
            Err(error) if error.is_missing() => {}
            opened => drop(opened?),
        }
        Ok(if self.home.path.join(FIFO).exists() { Status::Created } else { Status::Running })
    }

    /// Whether the first process is process 1 of a namespace of its own. Of one that has ended nobody knows.
    pub(super) fn has_own_pid_namespace(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.state.init_process_pid));
        let status = status.ok().filter(|_| self.pidfd.is_some()).unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.is_some_and(|pids| pids.split_whitespace().skip(1).last() == Some("1"))
    }
}

/// Removes the directory of a container that has no state, as it is left when a creation is killed. Whether there is
/// none now.
pub(super) fn remove_remains(global: &Global, id: &str) -> Result<bool, Failure> {
    let home = Home::of(global, id);
    if home.path.join(STATE).exists() {
        return Ok(false);
    }
    home.remove()?;
    Ok(true)
}

/// The ID directories below the root that hold a state.
pub(super) fn all_ids(global: &Global) -> Result<Vec<String>, Failure> {
    let entries = fs::if_exists(fs::read_dir(&global.root)).map_err(|error| report(&error))?;
    let entries = match entries {
        Some(entries) => entries,
        // Before the first container there is none; but one that was named must be there.
        None if !global.root_named => Vec::new(),
        None => return Err(Failure::new(format!("{}: no such directory", global.root.display()))),
    };
    let mut ids: Vec<String> = entries
        .into_iter()
        .filter(|entry| entry.path().join(STATE).exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    ids.sort();
    Ok(ids)
}

/// State and start time of a process (fields 3 and 22 of its `stat`).
fn process_facts(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_generated_at(format!("/proc/{pid}/stat").as_ref()).ok()?;
    // The name is in parentheses and may contain any character.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// The start time of a process that has just been created.
pub(super) fn start_time(pid: i32) -> u64 {
    process_facts(pid).map_or(0, |(_, start)| start)
}

fn find_process(pid: i32, start: u64) -> Option<OwnedFd> {
    let pidfd = os::open_pidfd(Pid::from_raw(pid)?).ok()?;
    // Asked after the descriptor was opened: what holds now holds for the descriptor's process.
    let (state, started) = process_facts(pid)?;
    (started == start && !matches!(state, 'Z' | 'X')).then_some(pidfd)
}

impl State {
    pub(super) fn new(
        id: &str,
        pid: i32,
        cgroup: &Place,
        bundle: &Path,
        rootfs: PathBuf,
        spec: &Spec,
    ) -> Self {
        Self {
            oci_version: spec.oci_version.clone(),
            id: id.to_owned(),
            init_process_pid: pid,
            init_process_start: start_time(pid),
            created: time::now(),
            bundle: bundle.to_owned(),
            rootfs,
            cgroup: cgroup.clone(),
            annotations: spec.annotations.clone(),
            process: spec.process.clone().unwrap_or_default(),
            seccomp: spec.linux.as_ref().and_then(|linux| linux.seccomp.clone()),
            hooks: spec.hooks.clone(),
            resource_group: None,
            personality: spec.linux.as_ref().and_then(|linux| linux.personality.clone()),
            memory_policy: spec.linux.as_ref().and_then(|linux| linux.memory_policy.clone()),
            mounts_on_host: spec.linux.as_ref().is_none_or(|linux| {
                linux.namespaces.iter().all(|namespace| namespace.kind != NamespaceKind::Mount)
            }),
            owner: rustix::process::geteuid().as_raw(),
            resources: spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default(),
            external: External::new(spec, pid),
        }
    }

    /// What hooks are told.
    pub(super) fn for_hooks(&self) -> HookState<'_> {
        HookState {
            oci_version: &self.oci_version,
            id: &self.id,
            bundle: &self.bundle,
            annotations: &self.annotations,
        }
    }
}

/// Waits until the process behind `pidfd` has ended. False: it has not in time.
pub(super) fn wait_until_ended(pidfd: impl AsFd, milliseconds: i64) -> bool {
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let timeout =
        rustix::event::Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
    rustix::event::poll(&mut poll, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Writes a PID file whole.
pub(super) fn write_pid_file(path: Option<&str>, pid: i32) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    atomic_file::write(path.as_ref(), pid.to_string().as_bytes(), 0o644, Durability::Process).map_err(
        |error| Failure::new(format!("cannot write --pid-file {path}: {}", error_chain::to_string(&error))),
    )
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let file: File = fs::open(path).map_err(|error| report(&error))?;
    let size = file.metadata().map_or(0, |found| found.len());
    // One byte more finds the end without another call; a size may be anything.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(limit).min(limit) + 1);
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    if bytes.len() > limit {
        return Err(Failure::new(format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(bytes)
}
