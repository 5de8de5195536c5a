//! Control groups: one handle over cgroup v1, v2 and the hybrid of both.
//!
//! A [`Cgroup`] is the same path in every hierarchy it has joined. On v1 those are the ones that limits or counters
//! need; others (cpuset, hugetlb, …) join when a limit asks for them, since each costs time at every start.
//! On hybrid hosts the v2 hierarchy without controllers is joined too: it kills and freezes a whole group at once.
//!
//! Processes enter in one of two ways, neither of which takes the kernel's global lock and RCU grace period:
//! v2 at birth (`CLONE_INTO_CGROUP`), v1 by writing `0` to `tasks` as the process itself.

mod delegation;
mod details;
mod devices;
mod hierarchy;
mod limits;
mod location;
mod membership;
mod oom;
mod stats;
mod systemd;

use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use palan_linux::process;
use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{DeviceRule, Resources};
use palan_stdx::fs;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

pub use details::{BlockIoKind, CpuSet, Details, HugePageUse, MemoryUse, Pressure, PressureData};
pub(crate) use hierarchy::unescape;
use hierarchy::{Hierarchy, Layout};
pub use hierarchy::{Version, version};
pub use location::{Location, Place};
pub use oom::OomNotifier;
pub use stats::{BlockIoEntry, BlockIoStats, CpuStats, MemoryStats, PidsStats, Stats};
pub use systemd::{BusError, Manager, Unit, UnitRequest};

/// For the fuzz targets.
#[cfg(feature = "fuzz")]
pub mod fuzz {
    /// Panics where device rules can be neither refused nor written down.
    pub fn device_rules(rules: &[palan_oci::runtime_spec::DeviceRule]) {
        super::devices::fuzz(rules);
    }
}

/// An operation on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no usable cgroups.
    #[error("no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NoCgroups,
    /// A controller that a limit needs is missing: the host has none, or the caller may not use it.
    #[error("cannot limit {what}: the container has no {controller} cgroup controller")]
    NoController {
        /// What was to be limited.
        what: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// The path can't name a cgroup.
    #[error("invalid cgroup path {0:?}: it must be absolute, without empty, . or .. components")]
    InvalidPath(String),
    /// There is such a cgroup, and it is not to be taken over.
    #[error("container's cgroup {how}: {path}")]
    InUse {
        /// The cgroup's path.
        path: String,
        /// What is the matter with it.
        how: &'static str,
    },
    /// There is no systemd that could make a cgroup.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NoSystemd,
    /// systemd did not do what it was asked for.
    #[error("cannot {action} systemd unit {unit}")]
    Systemd {
        /// What was being done.
        action: &'static str,
        /// The unit.
        unit: String,
        /// Why it failed.
        source: BusError,
    },
    /// A value is out of range or not possible on this host.
    #[error("{0}")]
    Invalid(String),
    /// A failure that is about one limit.
    #[error("{field}")]
    Field {
        /// Its path in the specification, such as `linux.resources.pids.limit`.
        field: String,
        /// What is the matter with it.
        source: Box<Self>,
    },
    /// The kernel refused.
    #[error("cgroup {path}: cannot {action}")]
    Io {
        /// The cgroup's path.
        path: String,
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl CgroupError {
    /// Whether there is no such cgroup.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Adds which limit a failure is about.
trait InField<T> {
    /// `field` is its path below `linux.resources`.
    fn in_field(self, field: impl fmt::Display) -> Result<T, CgroupError>;
}

impl<T> InField<T> for Result<T, CgroupError> {
    fn in_field(self, field: impl fmt::Display) -> Self {
        self.map_err(|source| CgroupError::Field {
            field: format!("linux.resources.{field}"),
            source: Box::new(source),
        })
    }
}

/// A cgroup of one container, in every hierarchy of the host that it uses.
#[derive(Debug)]
pub struct Cgroup {
    place: Place,
    layout: Layout,
    groups: Vec<Group>,
    /// While systemd's unit has no process of the container.
    birth: Option<systemd::Birth>,
    /// Whether somebody has named it: then it is this one and no other that processes are to be in.
    named: bool,
}

/// The cgroup's directory in one hierarchy.
#[derive(Debug)]
struct Group {
    /// Index in `layout.hierarchies`.
    hierarchy: usize,
    directory: OwnedFd,
}

/// How long processes may take to freeze, or to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Makes a cgroup and its missing parents.
    pub fn create(location: Location<'_>) -> Result<Self, CgroupError> {
        let layout = Layout::detect()?;
        let place = match location {
            Location::Root(path) => Place::at_root(path)?,
            Location::Own { path, .. } => Place::below_own(path, &layout)?,
            Location::Unit(request) => return Self::create_unit(request, layout),
        };
        let mut cgroup = Self { place, layout, groups: Vec::new(), birth: None, named: false };
        for hierarchy in 0..cgroup.layout.hierarchies.len() {
            if !cgroup.layout.hierarchies[hierarchy].always_joined() {
                continue;
            }
            match cgroup.join_hierarchy(hierarchy) {
                Err(error) if !location.does_without(&error) => {
                    // The failure is the error to tell; what was made so far is empty and goes.
                    let _ = cgroup.remove();
                    return Err(error);
                }
                _ => {}
            }
        }
        if cgroup.groups.is_empty() {
            cgroup.place = Place::default();
        }
        Ok(cgroup)
    }

    /// A handle on an existing cgroup.
    pub fn open(place: &Place) -> Result<Self, CgroupError> {
        let mut cgroup = Self {
            place: place.clone(),
            layout: Layout::detect()?,
            groups: Vec::new(),
            birth: None,
            named: false,
        };
        if place.path.is_empty() {
            return Ok(cgroup);
        }
        for path in [&place.path].into_iter().chain(place.elsewhere.values()) {
            location::check(path)?;
        }
        for (index, hierarchy) in cgroup.layout.hierarchies.iter().enumerate() {
            match open_directory(&hierarchy.root, place.in_hierarchy(hierarchy)) {
                Ok(directory) => cgroup.groups.push(Group { hierarchy: index, directory }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(cgroup.failed(format!("open it in {}", hierarchy.name()), errno)),
            }
        }
        if cgroup.groups.is_empty() {
            return Err(cgroup.failed("open it", Errno::NOENT));
        }
        Ok(cgroup)
    }

    /// Takes in hierarchies that it has been made in since, by somebody else with a handle of it.
    pub(crate) fn look_again(&mut self) {
        // One that is none has no path: nothing may be taken for it, least of all the root of a hierarchy.
        if self.is_none() {
            return;
        }
        for (index, hierarchy) in self.layout.hierarchies.iter().enumerate() {
            let known = self.groups.iter().any(|group| group.hierarchy == index);
            if !known
                && let Ok(directory) = open_directory(&hierarchy.root, self.place.in_hierarchy(hierarchy))
            {
                self.groups.push(Group { hierarchy: index, directory });
            }
        }
    }

    /// Whether it is none at all, for somebody who may make none: nothing is limited, counted or frozen.
    pub fn is_none(&self) -> bool {
        self.groups.is_empty() && self.place.path().is_empty()
    }

    /// Sets limits; a limit that is not given stays as it is. Returns sentences about what this host can't do and
    /// nobody depends on. Device rules are set when there are any.
    pub fn apply(&mut self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        if !resources.devices.is_empty() {
            devices::apply(self, &resources.devices)?;
        }
        self.apply_limits(resources)
    }

    /// Like [`Self::apply`] for a cgroup in use: what stays allowed is never denied in between.
    pub fn update(&mut self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        // On v1 systemd writes the device list anew whatever it is told: nobody may look meanwhile.
        let freeze = self.place.unit.is_some() && !self.is_v2() && !self.is_frozen()?;
        if freeze {
            self.freeze()?;
        }
        let devices = &resources.devices;
        let changed = if devices.is_empty() { Ok(()) } else { devices::change(self, devices) };
        let updated = changed.and_then(|()| self.apply_limits(resources));
        if freeze {
            self.thaw()?;
        }
        updated
    }

    fn apply_limits(&mut self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        if self.place.unit.is_none() {
            return limits::apply(self, resources);
        }
        let told = self.tell_limits(resources)?;
        limits::apply(self, &told)
    }

    /// Sets which devices may be used: `rules` in order, then the devices that every container has.
    pub fn set_devices(&mut self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        devices::apply(self, rules)
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        for group in &self.groups {
            self.write_in(group, "cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }

    /// Files that a single-threaded process enters the v1 hierarchies with, by writing `0` into each.
    pub(crate) fn entrances(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let v1 = self.groups.iter().filter(|group| !self.hierarchy(group).unified);
        v1.map(|group| {
            rustix::fs::openat(&group.directory, "tasks", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| self.failed("open tasks", errno))
        })
        .collect()
    }

    /// The directory for `CLONE_INTO_CGROUP`.
    pub(crate) fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.unified().map(|group| group.directory.as_fd())
    }

    /// What a container without a cgroup namespace sees, as paths of the host, each with the name of its hierarchy: of
    /// v1 its own directories, of v2 the whole hierarchy.
    pub(crate) fn views(&self) -> Vec<(String, std::path::PathBuf)> {
        if self.is_v2() {
            return self.layout.hierarchies.iter().map(|all| (all.name(), all.place.clone())).collect();
        }
        let v1 = self.groups.iter().map(|group| self.hierarchy(group)).filter(|group| !group.unified);
        v1.map(|group| (group.name(), group.place.join(self.place.in_hierarchy(group)))).collect()
    }

    /// Whether the host has nothing but cgroup v2.
    pub(crate) fn is_v2(&self) -> bool {
        self.layout.is_v2()
    }

    /// Whether somebody has removed it meanwhile.
    pub(crate) fn is_gone(&self) -> bool {
        self.groups.iter().all(|group| read_file(&group.directory, "cgroup.procs").is_err())
    }

    /// Processes in it and below.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let Some(group) = self.unified().or_else(|| self.groups.first()) else { return Ok(Vec::new()) };
        collect_processes(&group.directory).map_err(|errno| self.failed("list its processes", errno))
    }

    /// Stops all its processes; returns when they stand still. When they don't, all go on.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let frozen = self.wait_until_frozen();
        if frozen.is_err() {
            // Half of a container that stands is worse than none; the failure is the error to tell.
            let _ = self.thaw();
        }
        frozen
    }

    fn wait_until_frozen(&self) -> Result<(), CgroupError> {
        const STUBBORN: &str = "freeze it: its processes don't stop";
        let give_up = Instant::now() + PATIENCE;
        if let Some(group) = self.unified() {
            self.write_in(group, "cgroup.freeze", "1")?;
            while !self.is_frozen()? {
                self.pause_until(give_up, STUBBORN)?;
            }
            return Ok(());
        }
        let group = self.controller("freezer", "processes")?;
        // The kernel may need the request again when processes forked meanwhile.
        loop {
            self.write_in(group, "freezer.state", "FROZEN")?;
            if self.read_in(group, "freezer.state")?.trim() == "FROZEN" {
                return Ok(());
            }
            self.pause_until(give_up, STUBBORN)?;
        }
    }

    /// Lets its processes go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.unified() {
            Some(group) => self.write_in(group, "cgroup.freeze", "0"),
            None => self.write_in(self.controller("freezer", "processes")?, "freezer.state", "THAWED"),
        }
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        if let Some(group) = self.unified() {
            return Ok(self.read_in(group, "cgroup.events")?.lines().any(|line| line == "frozen 1"));
        }
        let Ok(group) = self.controller("freezer", "processes") else { return Ok(false) };
        // A cgroup above may be what is frozen.
        let by_itself = || self.read_in(group, "freezer.self_freezing").is_ok_and(|text| text.trim() == "1");
        Ok(self.read_in(group, "freezer.state")?.trim() != "THAWED" && by_itself())
    }

    /// Kills every process in it and below, also while frozen. Returns when the signals are sent.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(group) = self.unified() {
            match write_file(&group.directory, "cgroup.kill", "1") {
                // Another runtime may have frozen them by the v1 freezer, beside v2: so they don't die before they thaw.
                Ok(()) => match self.controller("freezer", "processes") {
                    Ok(group) => return self.write_in(group, "freezer.state", "THAWED"),
                    Err(_) => return Ok(()),
                },
                // Linux before 5.14.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed("kill its processes", errno)),
            }
        }
        let give_up = Instant::now() + PATIENCE;
        loop {
            let pids = self.processes()?;
            for pid in &pids {
                // One that has ended already is what we want.
                let _ = process::kill(*pid, Signal::KILL);
            }
            if self.unified().is_none() && self.is_frozen()? {
                self.thaw()?;
            }
            if pids.is_empty() {
                return Ok(());
            }
            self.pause_until(give_up, "kill its processes: they don't end")?;
        }
    }

    /// How many of its processes the kernel's out-of-memory killer has killed.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let (group, file) = if self.is_v2() {
            (self.unified(), "memory.events")
        } else {
            (self.controller("memory", "memory").ok(), "memory.oom_control")
        };
        let Some(group) = group else { return Ok(0) };
        let text = match read_file(&group.directory, file) {
            Ok(text) => text,
            Err(Errno::NOENT) => return Ok(0),
            Err(errno) => return Err(self.failed(format!("read {file}"), errno)),
        };
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        Ok(count.unwrap_or(0))
    }

    /// What its processes use.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        stats::read(self)
    }

    /// Removes it with what is below; processes that are still ending get a moment to do so.
    pub fn remove(&self) -> Result<(), CgroupError> {
        // When systemd can't be reached the unit goes with its last process, as the cgroup does.
        let _ = self.place.unit.as_ref().map(Unit::stop);
        let give_up = Instant::now() + PATIENCE;
        for group in &self.groups {
            let hierarchy = self.hierarchy(group);
            loop {
                match remove_tree(hierarchy.root.as_fd(), self.place.in_hierarchy(hierarchy), 0) {
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(Errno::BUSY) => self.pause_until(give_up, "remove it: its processes don't end")?,
                    Err(errno) => return Err(self.failed("remove it", errno)),
                }
            }
        }
        Ok(())
    }

    fn hierarchy(&self, group: &Group) -> &Hierarchy {
        &self.layout.hierarchies[group.hierarchy]
    }

    fn unified(&self) -> Option<&Group> {
        self.groups.iter().find(|group| self.hierarchy(group).unified)
    }

    /// Makes the cgroup in one more hierarchy while it has no processes.
    fn join_hierarchy(&mut self, index: usize) -> Result<(), CgroupError> {
        let hierarchy = &self.layout.hierarchies[index];
        let adopt = self.place.unit.is_some();
        let directory =
            hierarchy.make(self.place.in_hierarchy(hierarchy), adopt).map_err(|errno| match errno {
                Errno::EXIST => CgroupError::InUse { path: self.path().to_owned(), how: "is not empty" },
                Errno::BUSY => {
                    CgroupError::InUse { path: self.path().to_owned(), how: "unexpectedly frozen" }
                }
                _ => self.failed(format!("create it in {}", hierarchy.name()), errno),
            })?;
        self.groups.push(Group { hierarchy: index, directory });
        Ok(())
    }

    /// Makes the cgroup in one more hierarchy for a limit that comes while the container may run: its processes follow.
    fn extend_to_hierarchy(&mut self, index: usize) -> Result<(), CgroupError> {
        let processes = self.processes()?;
        self.join_hierarchy(index)?;
        let Some(group) = self.groups.last() else { return Ok(()) };
        for pid in processes {
            match write_file(&group.directory, "cgroup.procs", &pid.to_string()) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let error = self.failed("move its processes", errno);
                    // Half of a container is not under a limit.
                    self.groups.pop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The group that has `controller`, joined already; `what` names the thing that it limits.
    fn controller(&self, controller: &'static str, what: &'static str) -> Result<&Group, CgroupError> {
        self.groups
            .iter()
            .find(|group| self.hierarchy(group).has(controller))
            .ok_or(CgroupError::NoController { what, controller })
    }

    /// The group that has `controller`, joining its hierarchy if need be.
    fn controller_for_limit(
        &mut self,
        controller: &'static str,
        what: &'static str,
    ) -> Result<&Group, CgroupError> {
        if self.controller(controller, what).is_err() {
            let index = self.layout.hierarchies.iter().position(|hierarchy| hierarchy.has(controller));
            self.extend_to_hierarchy(index.ok_or(CgroupError::NoController { what, controller })?)?;
        }
        self.controller(controller, what)
    }

    /// Whether a controller that has been joined is one of v2.
    fn is_in_unified(&self, controller: &str) -> bool {
        let group = self.groups.iter().find(|group| self.hierarchy(group).has(controller));
        group.is_some_and(|group| self.hierarchy(group).unified)
    }

    /// Makes a controller of v2 available, as far as the cgroups above let it through. Whether it is now.
    fn pass_down(&self, controller: &str) -> bool {
        self.unified().is_some_and(|group| {
            let hierarchy = self.hierarchy(group);
            hierarchy.pass_down(self.place.in_hierarchy(hierarchy), &group.directory, controller)
        })
    }

    /// Writes one value after the other.
    fn write_all_in(&self, group: &Group, file: &str, values: &[String]) -> Result<(), CgroupError> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&group.directory, file, flags, Mode::empty())
            .map_err(|errno| self.failed(format!("open {file}"), errno))?;
        values.iter().try_for_each(|value| {
            rustix::io::write(&opened, value.as_bytes())
                .map(drop)
                .map_err(|errno| self.failed(format!("write {value:?} to {file}"), errno))
        })
    }

    fn write_in(&self, group: &Group, file: &str, value: &str) -> Result<(), CgroupError> {
        write_file(&group.directory, file, value)
            .map_err(|errno| self.failed(format!("write {value:?} to {file}"), errno))
    }

    fn read_in(&self, group: &Group, file: &str) -> Result<String, CgroupError> {
        read_file(&group.directory, file).map_err(|errno| self.failed(format!("read {file}"), errno))
    }

    fn failed(&self, action: impl Into<String>, errno: Errno) -> CgroupError {
        CgroupError::Io { path: self.path().to_owned(), action: action.into(), source: errno.into() }
    }

    fn pause_until(&self, give_up: Instant, action: &str) -> Result<(), CgroupError> {
        if Instant::now() >= give_up {
            return Err(self.failed(action, Errno::TIMEDOUT));
        }
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}

/// Whether this process is not root of the host: an ordinary user, or root in a user namespace.
pub(crate) fn is_rootless() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let user_namespace = !map.is_empty() && !map.split_whitespace().eq(["0", "0", "4294967295"]);
    user_namespace || !rustix::process::geteuid().is_root()
}

fn open_directory(parent: impl AsFd, relative: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, relative, flags, Mode::empty())
}

fn write_file(directory: impl AsFd, file: &str, value: &str) -> Result<(), Errno> {
    let fd = rustix::fs::openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // One write: the kernel takes each as a whole value.
    std::fs::File::from(fd)
        .write(value.as_bytes())
        .map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn read_file(directory: impl AsFd, file: &str) -> Result<String, Errno> {
    let fd = rustix::fs::openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    fs::read_generated(fd.into()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// How deep a container's own cgroups are looked at.
const MAX_DEPTH: usize = 64;

fn child_names(directory: &OwnedFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == rustix::fs::FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Processes of a cgroup and of those below it.
fn collect_processes(directory: &OwnedFd) -> Result<Vec<i32>, Errno> {
    let mut pids = Vec::new();
    collect_processes_into(directory, 0, &mut pids)?;
    Ok(pids)
}

fn collect_processes_into(directory: &OwnedFd, depth: usize, pids: &mut Vec<i32>) -> Result<(), Errno> {
    match read_file(directory, "cgroup.procs") {
        Ok(text) => {
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0))
        }
        // Removed meanwhile, or a threaded group of v2, whose processes its domain lists.
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    if depth < MAX_DEPTH {
        for name in child_names(directory)? {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(child) = rustix::fs::openat(directory, &*name, flags, Mode::empty()) {
                collect_processes_into(&child, depth + 1, pids)?;
            }
        }
    }
    Ok(())
}

fn remove_tree(parent: BorrowedFd<'_>, name: &str, depth: usize) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::BUSY) if depth < MAX_DEPTH => {}
        other => return other,
    }
    let directory = open_directory(parent, name)?;
    for child in child_names(&directory)? {
        if let Ok(child) = child.to_str() {
            match remove_tree(directory.as_fd(), child, depth + 1) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
