//! Where a container's cgroup is: how it is asked for, and how it is found again.

use std::collections::BTreeMap;

use palan_stdx::fs;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::hierarchy::{Hierarchy, Layout};
use super::systemd::{Unit, UnitRequest};
use super::{Cgroup, CgroupError};

/// Where a new cgroup is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Location<'a> {
    /// At this path below the root of each hierarchy, such as `/palan/<id>`.
    Root(&'a str),
    /// At this relative path below the cgroups that the calling process is in. On v2 it is beside the caller's: a
    /// cgroup that has processes can't have ones with controllers below it.
    Own {
        /// The path.
        path: &'a str,
        /// Do without a hierarchy that the caller may not write to.
        optional: bool,
    },
    /// In a unit that systemd makes.
    Unit(&'a UnitRequest),
}

impl<'a> Location<'a> {
    /// What a specification's `cgroupsPath` asks for of a container `id`, as runc reads it. A `rootless` container does
    /// without a cgroup that it can't have, unless it is named.
    pub fn of(cgroups_path: &'a str, id: &'a str, rootless: bool) -> Self {
        match cgroups_path.trim_end_matches('/') {
            "" => Self::Own { path: id, optional: rootless },
            path if path.starts_with('/') => Self::Root(path),
            path => Self::Own { path, optional: false },
        }
    }

    /// Whether an error means that the cgroup is done without.
    pub(super) fn does_without(self, error: &CgroupError) -> bool {
        let Self::Own { optional: true, .. } = self else { return false };
        let CgroupError::Io { source, .. } = error else { return false };
        matches!(
            Errno::from_io_error(source),
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP)
        )
    }
}

/// An existing cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its path below the root of each hierarchy; empty if it is in none.
    pub(super) path: String,
    /// Hierarchies where it is elsewhere, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) elsewhere: BTreeMap<String, String>,
    /// The unit of systemd that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<Unit>,
}

impl Place {
    /// At the same path, such as `/palan/<id>`, in each hierarchy.
    pub fn root(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Its path below the root of each hierarchy, of v2 where they differ; empty if it is in none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same, with another path in one hierarchy.
    pub(super) fn moved(&mut self, hierarchy: &Hierarchy, path: String) {
        self.elsewhere.insert(hierarchy.name(), path);
    }

    /// At this path below the roots, which is checked.
    pub(super) fn at_root(path: &str) -> Result<Self, CgroupError> {
        check(path)?;
        Ok(Self::root(path))
    }

    /// At this path below the caller's own cgroups.
    pub(super) fn below_own(path: &str, layout: &Layout) -> Result<Self, CgroupError> {
        check(&format!("/{path}"))?;
        let table =
            fs::read_generated_at("/proc/self/cgroup".as_ref()).map_err(|_| CgroupError::NoCgroups)?;
        let in_hierarchy = |hierarchy: &Hierarchy| {
            let own = own_path(&table, hierarchy).ok_or(CgroupError::NoCgroups)?;
            let parent = match own.rsplit_once('/') {
                Some((parent, _)) if layout.is_v2() => parent,
                _ => own.trim_end_matches('/'),
            };
            let whole = format!("{parent}/{path}");
            check(&whole)?;
            Ok(whole)
        };
        let paths = layout.hierarchies.iter().map(|hierarchy| Ok((hierarchy, in_hierarchy(hierarchy)?)));
        let paths: Vec<_> = paths.collect::<Result<_, CgroupError>>()?;
        let main = paths.iter().find(|(hierarchy, _)| hierarchy.unified).or_else(|| paths.first());
        let path = main.ok_or(CgroupError::NoCgroups)?.1.clone();
        let others = paths.into_iter().filter(|(_, other)| *other != path);
        let elsewhere = others.map(|(hierarchy, other)| (hierarchy.name(), other)).collect();
        Ok(Self { path, elsewhere, unit: None })
    }

    /// Its path in one hierarchy, relative to the root.
    pub(super) fn in_hierarchy(&self, hierarchy: &Hierarchy) -> &str {
        let other = if self.elsewhere.is_empty() { None } else { self.elsewhere.get(&hierarchy.name()) };
        other.unwrap_or(&self.path).trim_start_matches('/')
    }
}

/// Every component is a name.
pub(super) fn check(path: &str) -> Result<(), CgroupError> {
    let valid = path.strip_prefix('/').is_some_and(|relative| {
        relative.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']))
    });
    if valid && path.len() <= 3000 { Ok(()) } else { Err(CgroupError::InvalidPath(path.to_owned())) }
}

/// The path of a `/proc/<pid>/cgroup` table in one hierarchy, below what is mounted of it.
fn own_path<'a>(table: &'a str, hierarchy: &Hierarchy) -> Option<&'a str> {
    let path = table.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let same = if hierarchy.unified {
            controllers.is_empty()
        } else {
            controllers.split(',').all(|name| hierarchy.has(name))
        };
        same.then_some(path)
    })?;
    // A container without a cgroup namespace has only its own part mounted.
    match path.strip_prefix(hierarchy.mounted.trim_end_matches('/')) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Some(rest),
        _ => Some(path),
    }
}

impl Cgroup {
    /// What finds it again.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its path below the root of each hierarchy, of v2 where they differ; empty if it is in none.
    pub fn path(&self) -> &str {
        &self.place.path
    }
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Version;
    use super::*;

    #[test]
    fn specifications_are_read_as_runc_does() {
        for optional in [false, true] {
            assert_eq!(Location::of("", "id", optional), Location::Own { path: "id", optional });
        }
        assert_eq!(Location::of("a/b/", "id", true), Location::Own { path: "a/b", optional: false });
        assert_eq!(Location::of("/a/b", "id", true), Location::Root("/a/b"));
    }

    #[test]
    fn paths_have_names_only() {
        check("/a/b.c/d:e").unwrap();
        for bad in ["", "/", "a", "/a//b", "/a/", "/..", "/a/../b", "/./a", "/a\nb", &"/a".repeat(1600)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_callers_own_cgroups() {
        let table = "9:name=systemd:/s\n4:cpuacct,cpu:/c/d\n3:memory:/docker/x/y\n0::/u.slice/v\n";
        let hierarchy = |controllers: &[&str], unified: bool, mounted: &str| {
            Hierarchy::for_test(controllers, unified, mounted)
        };
        for (hierarchy, path) in [
            (hierarchy(&["cpu", "cpuacct"], false, "/"), Some("/c/d")),
            (hierarchy(&["name=systemd"], false, "/"), Some("/s")),
            (hierarchy(&["memory"], false, "/docker/x"), Some("/y")),
            (hierarchy(&["memory"], false, "/docker/xy"), Some("/docker/x/y")),
            (hierarchy(&["memory"], true, "/"), Some("/u.slice/v")),
            (hierarchy(&["pids"], false, "/"), None),
        ] {
            assert_eq!(own_path(table, &hierarchy), path);
        }
    }

    #[test]
    fn a_place_has_a_path_for_each_hierarchy() {
        let mut place = Place::root("/a/b");
        place.elsewhere.insert("memory".to_owned(), "/m/a".to_owned());
        let json = serde_json::to_string(&place).unwrap();
        assert_eq!(serde_json::from_str::<Place>(&json).unwrap(), place);
        assert_eq!(place.in_hierarchy(&Hierarchy::for_test(&["memory"], false, "/")), "m/a");
        assert_eq!(place.in_hierarchy(&Hierarchy::for_test(&["cpu"], false, "/")), "a/b");
        let layout = Layout { version: Version::V2, hierarchies: vec![Hierarchy::for_test(&[], true, "/")] };
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        if let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::")) {
            let place = Place::below_own("x", &layout).unwrap();
            let parent = own.rsplit_once('/').unwrap().0;
            assert_eq!(place.path, format!("{parent}/x"));
        }
    }
}
