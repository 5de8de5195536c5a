//! Intel RDT and its relatives (`linux.intelRdt`): the container's process in a resource group of the kernel's resctrl
//! file system, which divides caches and memory bandwidth (Documentation/filesystems/resctrl.rst).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use palan_linux::path::RootDir;
use palan_oci::runtime_spec::IntelRdt;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error};
use crate::plan::invalid;

/// What a container has in resctrl: kept with its state, to be removed with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceGroup {
    /// Where the file system is mounted.
    root: String,
    /// The group that its processes are in.
    #[serde(default)]
    group: String,
    /// The group, if it was made for this container.
    own_group: Option<String>,
    /// The monitoring group, if there is one.
    monitoring: Option<String>,
}

/// Checks what can be checked before anything exists.
pub(crate) fn check(rdt: &IntelRdt) -> Result<(), Error> {
    if rdt.clos_id.contains(['/', '\0']) || matches!(rdt.clos_id.as_str(), "." | "..") {
        return Err(invalid(format!("linux.intelRdt.closID: {:?} is no name of a group", rdt.clos_id)));
    }
    let lines = rdt.schemata.iter().chain([&rdt.l3_cache_schema, &rdt.mem_bw_schema]);
    match lines.clone().find(|line| line.contains('\0')) {
        Some(line) => Err(invalid(format!("linux.intelRdt: {line:?} contains a NUL byte"))),
        None => Ok(()),
    }
}

/// Puts process `pid` of container `id` into its group.
pub(crate) fn enter(rdt: &IntelRdt, id: &str, pid: i32) -> Result<ResourceGroup, Error> {
    let place = mount_point().context(|| "find the resctrl file system".to_owned())?.ok_or_else(|| {
        invalid("linux.intelRdt needs the resctrl file system, and none is mounted on this host")
    })?;
    enter_in(&place, rdt, id, pid)
}

fn enter_in(place: &str, rdt: &IntelRdt, id: &str, pid: i32) -> Result<ResourceGroup, Error> {
    let root = RootDir::open(place)?;
    let name = if rdt.clos_id.is_empty() { id } else { &rdt.clos_id };
    let schemata = schemata(rdt);
    let exists = root.metadata(name).is_ok();
    if !exists && !rdt.clos_id.is_empty() && schemata.is_empty() {
        return Err(invalid(format!(
            "linux.intelRdt.closID: there is no group {name:?}, and without schemata none is made"
        )));
    }
    if !exists {
        root.create_dir(name, 0o755)?;
    }
    let mut group = ResourceGroup {
        root: place.to_owned(),
        group: name.to_owned(),
        // A named group is shared; it stays for the next container.
        own_group: (rdt.clos_id.is_empty() && !exists).then(|| name.to_owned()),
        monitoring: None,
    };
    let mut fill = || -> Result<(), Error> {
        if !schemata.is_empty() {
            write(&root, &format!("{name}/schemata"), &schemata)?;
        }
        write(&root, &format!("{name}/tasks"), &pid.to_string())?;
        if rdt.enable_monitoring {
            let monitoring = format!("{name}/mon_groups/{id}");
            root.create_dir(&monitoring, 0o755)?;
            group.monitoring = Some(monitoring.clone());
            write(&root, &format!("{monitoring}/tasks"), &pid.to_string())?;
        }
        Ok(())
    };
    match fill() {
        Ok(()) => Ok(group),
        Err(error) => {
            // The failure is the error to tell.
            let _ = group.remove();
            Err(error)
        }
    }
}

/// The lines to write, each with its end.
fn schemata(rdt: &IntelRdt) -> String {
    let lines = rdt.schemata.iter().chain([&rdt.l3_cache_schema, &rdt.mem_bw_schema]);
    lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

fn write(root: &RootDir, path: &str, text: &str) -> Result<(), Error> {
    let file = root.open_with(path, OFlags::WRONLY)?;
    std::fs::File::from(file)
        .write_all(text.as_bytes())
        .context(|| format!("write {:?} to {path} of the resctrl file system", text.trim_end()))
}

impl ResourceGroup {
    /// Where the file system is mounted.
    pub(crate) fn root(&self) -> &Path {
        Path::new(&self.root)
    }

    /// The group's directory.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root().join(&self.group)
    }

    /// That of the group whose counters are the container's; without one of its own they are of all in its group.
    pub(crate) fn monitored(&self) -> PathBuf {
        self.monitoring.as_ref().map_or_else(|| self.directory(), |monitoring| self.root().join(monitoring))
    }

    #[cfg(test)]
    pub(crate) fn for_test(root: &str, group: &str) -> Self {
        Self { root: root.to_owned(), group: group.to_owned(), ..Self::default() }
    }

    /// Writes one more line of schemata, such as `L3:0=ff`.
    pub(crate) fn set(&self, schema: &str) -> Result<(), Error> {
        let root = RootDir::open(&self.root)?;
        write(&root, &format!("{}/schemata", self.group), &format!("{schema}\n"))
    }

    /// Removes what was made for the container.
    pub fn remove(&self) -> io::Result<()> {
        let root = RootDir::open(&self.root).map_err(|error| error.source)?;
        for path in self.monitoring.iter().chain(&self.own_group) {
            match root.remove_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.source),
            }
        }
        Ok(())
    }
}

/// Whether this host can divide the resource, such as `L3` or `MB`.
pub(crate) fn divides(resource: &str) -> bool {
    // Without the file system nothing is divided.
    let place = mount_point().ok().flatten();
    place.is_some_and(|place| Path::new(&place).join("info").join(resource).is_dir())
}

/// Where resctrl is mounted.
fn mount_point() -> io::Result<Option<String>> {
    let mounts =
        palan_stdx::fs::read_to_string(Path::new("/proc/self/mountinfo")).map_err(io::Error::other)?;
    Ok(mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("resctrl ").then(|| place.split(' ').nth(4).map(str::to_owned))?
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in, since few machines have the file system: a directory in which groups do not get files by themselves.
    fn stand_in(groups: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for group in groups {
            let group = directory.path().join(group);
            std::fs::create_dir_all(group.join("mon_groups")).unwrap();
            std::fs::write(group.join("schemata"), "").unwrap();
            std::fs::write(group.join("tasks"), "").unwrap();
        }
        directory
    }

    #[test]
    fn a_named_group_is_filled_and_stays() {
        let directory = stand_in(&["gold"]);
        let place = directory.path().to_str().unwrap();
        let rdt = IntelRdt {
            clos_id: "gold".into(),
            schemata: vec!["L3:0=ff".into()],
            mem_bw_schema: "MB:0=50".into(),
            ..IntelRdt::default()
        };
        let group = enter_in(place, &rdt, "c1", 42).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join("gold").join(name)).unwrap();
        assert_eq!(read("schemata"), "L3:0=ff\nMB:0=50\n");
        assert_eq!(read("tasks"), "42");
        group.set("MB:0=20").unwrap();
        assert!(read("schemata").starts_with("MB:0=20\n"));
        group.remove().unwrap();
        assert_eq!(read("tasks"), "42");
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let directory = stand_in(&[]);
        let place = directory.path().to_str().unwrap();
        let rdt = IntelRdt { clos_id: "none".into(), ..IntelRdt::default() };
        assert!(enter_in(place, &rdt, "c1", 42).unwrap_err().report().contains("there is no group \"none\""));
        // Its files do not appear in the stand-in: the group that was made goes again.
        assert!(enter_in(place, &IntelRdt::default(), "c1", 42).is_err());
        assert!(!directory.path().join("c1").exists());
        for name in ["..", "a/b", "."] {
            let rdt = IntelRdt { clos_id: name.into(), ..IntelRdt::default() };
            assert!(check(&rdt).unwrap_err().report().contains("linux.intelRdt.closID"));
        }
    }
}
