//! Cgroups that systemd makes: a transient scope (systemd.scope(5)) for each container.
//!
//! A scope can't be without a process, and a container's process is born into its cgroup. So:
//! 1. A placeholder is forked that does nothing.
//! 2. systemd makes the scope around it (`StartTransientUnit`) and delegates the cgroup to us.
//! 3. The cgroup is where the placeholder is now; limits are set as properties of the unit and in the cgroup's files.
//! 4. The container's process is born in it, and the placeholder goes ([`Cgroup::settle`]).
//!
//! systemd removes the scope when its last process has ended; [`Cgroup::remove`] stops it before.

mod bus;
mod properties;
mod variant;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use palan_linux::process::{self, Child, ForkOptions, Forked};
use palan_linux::signal::{self, Signal, SignalSet};
use palan_oci::runtime_spec::{Resources, Spec};
use serde::{Deserialize, Serialize};

use super::devices::List;
use super::hierarchy::Layout;
use super::limits::check_memory_usage;
use super::{Cgroup, CgroupError, Place, is_rootless};
use bus::Bus;
pub use bus::BusError;
use properties::{Property, property};
use wire::Value;

/// A unit that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitRequest {
    unit: Unit,
    slice: String,
    /// From annotations.
    properties: Vec<Property>,
    /// What `memory.oom.group` of v2 asks for; systemd takes it only when it makes the unit.
    kill_all: Option<bool>,
}

/// An existing unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    /// Addresses of the bus that its manager is on. Empty: where the system's is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bus: Vec<String>,
}

/// What holds a cgroup that is being made until the container's process is in it.
#[derive(Debug)]
pub(super) struct Birth {
    bus: Bus,
    /// Dropped, it goes.
    _placeholder: Placeholder,
}

/// Where the system's manager is: on the bus, and for root by its own socket, which also works before there is a bus.
const SYSTEM: [&str; 2] = ["unix:path=/run/dbus/system_bus_socket", "unix:path=/run/systemd/private"];

/// Whose manager is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manager {
    /// The system's, on a bus at this address if there is one.
    System(Option<String>),
    /// The user's, at these addresses.
    User(Vec<String>),
}

impl UnitRequest {
    /// The unit for a container: `linux.cgroupsPath` is `slice:prefix:name`, each of which may be empty, and annotations
    /// `org.systemd.property.<Name>` are properties.
    pub fn of(spec: &Spec, id: &str, manager: Manager) -> Result<Self, CgroupError> {
        let invalid = |text: String| Err(CgroupError::Invalid(text));
        let path = spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
        let parts: Vec<&str> = path.split(':').collect();
        let (slice, prefix, name) = match parts[..] {
            [""] => ("", "palan", id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => {
                return invalid(format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                ));
            }
        };
        let slice = match (slice, &manager) {
            ("", Manager::System(_)) => "system.slice",
            ("", Manager::User(_)) => "user.slice",
            (slice, _) => slice,
        };
        if !is_slice(slice) {
            return invalid(format!("invalid slice name: {slice}"));
        }
        if name.is_empty() || name.ends_with(".slice") || name.contains('/') {
            return invalid(format!("{path:?} names no scope that a container could be in"));
        }
        let kill_all = spec
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref()?.unified.get("memory.oom.group"))
            .map(|value| value.trim() == "1");
        let bus = match manager {
            Manager::System(address) => address.into_iter().collect(),
            Manager::User(addresses) if addresses.is_empty() => {
                return invalid(
                    "could not detect DBUS_SESSION_BUS_ADDRESS from the environment; systemd of this user has no address"
                        .to_owned(),
                );
            }
            Manager::User(addresses) => addresses,
        };
        Ok(Self {
            unit: Unit { name: format!("{prefix}-{name}.scope"), bus },
            slice: slice.to_owned(),
            properties: from_annotations(&spec.annotations)?,
            kill_all,
        })
    }

    fn properties(&self, pid: i32, v2: bool, version: u32) -> Vec<Property> {
        let pids = vec![Value::U32(pid.unsigned_abs())];
        let io = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
        let mut all = vec![
            property("Description", Value::text(format!("container {}", self.unit.name))),
            property("Slice", Value::text(self.slice.as_str())),
            property("Delegate", Value::Bool(true)),
            property("PIDs", Value::Array("u".to_owned(), pids)),
        ];
        // Without accounting a controller is joined only when its first limit comes.
        for name in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
            all.push(property(name, Value::Bool(true)));
        }
        all.push(property("DefaultDependencies", Value::Bool(false)));
        all.extend(self.properties.iter().cloned());
        if let Some(kill_all) = self.kill_all.filter(|_| v2 && version >= properties::OOM_POLICY) {
            all.push(property("OOMPolicy", Value::text(if kill_all { "kill" } else { "continue" })));
        }
        all
    }
}

/// `a-b.slice`, or `-.slice`, which is the root.
fn is_slice(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".slice") else { return false };
    stem == "-" || (!stem.contains('/') && stem.split('-').all(|part| !part.is_empty()))
}

fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, CgroupError> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else { continue };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(CgroupError::Invalid(format!("annotation {key} names no property of systemd")));
        }
        let invalid = |error| CgroupError::Invalid(format!("annotation {key}={text}: {error}"));
        let value = variant::parse(text).map_err(invalid)?;
        // Unit files have seconds where the bus has microseconds.
        let seconds =
            name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        properties.push(match seconds {
            Some(stem) => (format!("{stem}USec"), variant::seconds_as_microseconds(&value).map_err(invalid)?),
            None => (name.to_owned(), value),
        });
    }
    Ok(properties)
}

impl Unit {
    fn connect(&self, action: &'static str) -> Result<Bus, CgroupError> {
        let system = SYSTEM.map(str::to_owned);
        let addresses = if self.bus.is_empty() { &system } else { self.bus.as_slice() };
        Bus::connect(addresses).map_err(|error| {
            if self.bus.is_empty() && !Path::new("/run/systemd/system").is_dir() {
                return CgroupError::NoSystemd;
            }
            self.failed(action, error)
        })
    }

    fn failed(&self, action: &'static str, source: BusError) -> CgroupError {
        CgroupError::Systemd { action, unit: self.name.clone(), source }
    }

    /// Stops it; returns when it has gone.
    pub(super) fn stop(&self) -> Result<(), CgroupError> {
        let mut bus = self.connect("stop")?;
        let mode = [Value::text(self.name.as_str()), Value::text("replace")].to_vec();
        let stopped = bus.job(&self.name, "StopUnit", mode);
        // What has failed stays until it is forgotten; mostly there is nothing to forget.
        let _ = bus.manager("ResetFailedUnit", vec![Value::text(self.name.as_str())]);
        match stopped {
            // It goes by itself with its last process.
            Err(error) if error.is("org.freedesktop.systemd1.NoSuchUnit") => Ok(()),
            other => other.map_err(|error| self.failed("stop", error)),
        }
    }
}

fn list(properties: Vec<Property>) -> Value {
    let pair = |(name, value)| Value::Struct(vec![Value::Str(name), Value::Variant(Box::new(value))]);
    Value::Array("(sv)".to_owned(), properties.into_iter().map(pair).collect())
}

/// The number of a version such as `v252.39-1~deb12u1`; 0 if there is none.
fn version_number(text: &str) -> u32 {
    let digits = text.trim_start_matches(['"', 'v']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

impl UnitRequest {
    /// The unit, once it is there.
    pub(super) fn unit(&self) -> &Unit {
        &self.unit
    }

    /// Makes the unit. Returns the path of its cgroup, and what holds it.
    pub(super) fn start(&self, v2: bool) -> Result<(String, Birth), CgroupError> {
        let mut bus = self.unit.connect("start")?;
        let placeholder = Placeholder::new().map_err(|error| self.unit.failed("start", error))?;
        self.start_around(&placeholder, &mut bus, v2).map_err(|error| self.unit.failed("start", error))?;
        let path = placeholder.cgroup(v2).map_err(|error| self.unit.failed("find the cgroup of", error))?;
        Ok((path, Birth { bus, _placeholder: placeholder }))
    }

    fn start_around(&self, placeholder: &Placeholder, bus: &mut Bus, v2: bool) -> Result<(), BusError> {
        let name = &self.unit.name;
        // The version decides about one property only.
        let version = if self.kill_all.is_some() { bus.version()? } else { 0 };
        let body = vec![
            Value::text(name.as_str()),
            Value::text("replace"),
            list(self.properties(placeholder.pid(), v2, version)),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let mut started = bus.job(name, "StartTransientUnit", body.clone());
        if started.as_ref().is_err_and(|error| error.is("org.freedesktop.systemd1.UnitExists")) {
            // One that has failed stays until it is forgotten. Of one that runs, the second answer tells.
            let _ = bus.manager("ResetFailedUnit", vec![Value::text(name.as_str())]);
            started = bus.job(name, "StartTransientUnit", body);
        }
        if matches!(started, Err(BusError::Job { .. })) {
            // It has failed; that is what is told.
            let _ = bus.manager("ResetFailedUnit", vec![Value::text(name.as_str())]);
        }
        started
    }
}

/// A process that does nothing and ends with this one.
#[derive(Debug)]
struct Placeholder(Child);

impl Placeholder {
    fn new() -> Result<Self, BusError> {
        match process::fork(&ForkOptions::default())
            .map_err(|error| BusError::Talk(io::Error::other(error)))?
        {
            Forked::Parent(child) => Ok(Self(child)),
            Forked::Child => {
                // Nobody would hear of a failure; a process that stays is removed with the unit.
                let _ = process::set_parent_death_signal(Some(Signal::KILL));
                signal::reset_dispositions();
                let _ = signal::set_mask(&SignalSet::empty());
                let _ = process::close_all_from(0);
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
        }
    }

    fn pid(&self) -> i32 {
        self.0.pid.as_raw_nonzero().get()
    }

    /// Where systemd has moved it.
    fn cgroup(&self, v2: bool) -> Result<String, BusError> {
        let table =
            std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).map_err(BusError::Talk)?;
        let hierarchy = if v2 { "0::" } else { ":name=systemd:" };
        let path = table.lines().find_map(|line| line.split_once(hierarchy)).map(|(_, path)| path.to_owned());
        path.filter(|path| path != "/")
            .ok_or_else(|| BusError::Talk(io::Error::other("no process has been moved into a cgroup")))
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // It may have ended with its cgroup.
        let _ = process::send_signal(&self.0.pidfd, Signal::KILL);
        let _ = process::wait(&self.0.pidfd);
    }
}

impl Cgroup {
    /// Makes the cgroup around a placeholder, in every hierarchy.
    pub(super) fn create_unit(request: &UnitRequest, layout: Layout) -> Result<Self, CgroupError> {
        if is_rootless() && !layout.is_v2() {
            return Err(CgroupError::Invalid(
                "cannot use rootless systemd cgroups manager on cgroup v1".to_owned(),
            ));
        }
        let (path, birth) = request.start(layout.is_v2())?;
        let place = Place { unit: Some(request.unit().clone()), ..Place::root(path) };
        let mut cgroup = Self { place, layout, groups: Vec::new(), birth: Some(birth), named: false };
        for hierarchy in 0..cgroup.layout.hierarchies.len() {
            if cgroup.layout.hierarchies[hierarchy].always_joined()
                && let Err(error) = cgroup.join_hierarchy(hierarchy)
            {
                cgroup.settle();
                // The failure is the error to tell.
                let _ = cgroup.remove();
                return Err(error);
            }
        }
        Ok(cgroup)
    }

    /// The container's process is in it: what has held it until now goes.
    pub(crate) fn settle(&mut self) {
        self.birth = None;
    }

    /// Tells systemd about limits, so that it won't set them back. Returns them as they are to be written.
    pub(super) fn tell_limits(&mut self, resources: &Resources) -> Result<Resources, CgroupError> {
        let mut rounded = resources.clone();
        let v2 = self.is_v2();
        if let (true, Some(memory)) = (v2, resources.memory.as_ref())
            && memory.check_before_update == Some(true)
        {
            // systemd would kill until the limit holds.
            check_memory_usage(self, memory)?;
        }
        self.tell(|version| properties::of(&mut rounded, v2, version))?;
        Ok(rounded)
    }

    /// Tells systemd about devices.
    pub(super) fn tell_devices(&mut self, list: Option<&List>) -> Result<(), CgroupError> {
        self.tell(|version| Ok(properties::of_devices(list, version)))
    }

    fn tell(
        &mut self,
        properties: impl FnOnce(u32) -> Result<Vec<Property>, CgroupError>,
    ) -> Result<(), CgroupError> {
        let Some(unit) = self.place.unit.clone() else { return Ok(()) };
        let failed = |error| unit.failed("set properties of", error);
        let mut connected = None;
        let bus = match &mut self.birth {
            Some(birth) => &mut birth.bus,
            None => connected.insert(unit.connect("set properties of")?),
        };
        let properties = properties(bus.version().map_err(failed)?)?;
        if properties.is_empty() {
            return Ok(());
        }
        let body = vec![Value::text(unit.name.as_str()), Value::Bool(true), list(properties)];
        bus.manager("SetUnitProperties", body).map(drop).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cgroups_path: &str, annotations: &[(&str, &str)]) -> Spec {
        let mut spec = Spec::default();
        spec.linux.get_or_insert_default().cgroups_path = cgroups_path.to_owned();
        spec.annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        spec
    }

    #[test]
    fn names_of_units() {
        let of = |path: &str, manager| UnitRequest::of(&spec(path, &[]), "id", manager);
        for (path, slice, name) in [
            ("", "system.slice", "palan-id.scope"),
            ("a-b.slice:docker:x", "a-b.slice", "docker-x.scope"),
            (":docker:x", "system.slice", "docker-x.scope"),
            ("-.slice:p:x", "-.slice", "p-x.scope"),
        ] {
            let request = of(path, Manager::System(None)).unwrap();
            assert_eq!((request.slice.as_str(), request.unit.name.as_str()), (slice, name));
        }
        let user = of("", Manager::User(vec!["unix:path=/x".to_owned()])).unwrap();
        assert_eq!((user.slice.as_str(), user.unit.bus.len()), ("user.slice", 1));
        for bad in [
            "/a/b",
            "a",
            "a.slice:b",
            "a.slice:b:c:d",
            "a:b:c",
            "a--b.slice:p:x",
            "a.slice:p:",
            "a.slice:p:x.slice",
        ] {
            assert!(of(bad, Manager::System(None)).is_err(), "{bad}");
        }
    }

    #[test]
    fn annotations_are_properties() {
        let of = |key: &str, value: &str| {
            UnitRequest::of(&spec("", &[(key, value)]), "id", Manager::System(None))
                .map(|request| request.properties)
        };
        assert_eq!(
            of("org.systemd.property.TimeoutStopUSec", "uint64 5").unwrap(),
            [property("TimeoutStopUSec", Value::U64(5))]
        );
        assert_eq!(
            of("org.systemd.property.TimeoutStopSec", "5").unwrap(),
            [property("TimeoutStopUSec", Value::U64(5_000_000))]
        );
        assert_eq!(of("org.other", "5").unwrap(), []);
        for (key, value) in [
            ("org.systemd.property.", "5"),
            ("org.systemd.property.Ab", "5"),
            ("org.systemd.property.A_b", "5"),
            ("org.systemd.property.CollectMode", "inactive"),
            ("org.systemd.property.TimeoutStopSec", "'x'"),
        ] {
            assert!(of(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn versions() {
        for (text, number) in [("252.39-1~deb12u1", 252), ("v245", 245), ("\"249\"", 249), ("", 0), ("x", 0)]
        {
            assert_eq!(version_number(text), number);
        }
    }
}
