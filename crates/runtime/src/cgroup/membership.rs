//! Below a container's cgroup: where a process of it has gone, and where one more is to go.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use palan_stdx::fs;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Place, location, open_directory};

impl Cgroup {
    /// Existing cgroups below this one, for one more process: `paths` are by controller, such as `memory` and `sub`; one
    /// without a controller is for all. Where none is given it is this cgroup.
    pub fn below(mut self, paths: &[(Option<&str>, &str)]) -> Result<Self, CgroupError> {
        for &(controller, sub) in paths {
            let mut found = false;
            for index in 0..self.groups.len() {
                let hierarchy = &self.layout.hierarchies[self.groups[index].hierarchy];
                let of_v1 = |name: &str| hierarchy.has(name) || hierarchy.has(&format!("name={name}"));
                if controller.is_some_and(|name| hierarchy.unified || !of_v1(name)) {
                    continue;
                }
                found = true;
                let sub = sub.trim_matches('/');
                if sub.is_empty() {
                    continue;
                }
                let bad = |_| CgroupError::Invalid(format!("bad sub cgroup path: {sub}"));
                location::check(&format!("/{sub}")).map_err(bad)?;
                let path = format!("/{}/{sub}", self.place.in_hierarchy(hierarchy));
                // A hierarchy in which there is none must not be left out: its limits would not hold.
                let directory = open_directory(&hierarchy.root, path.trim_start_matches('/'));
                let directory = directory.map_err(|errno| CgroupError::Io {
                    path: path.clone(),
                    action: format!("open it in {}", hierarchy.name()),
                    source: errno.into(),
                })?;
                self.place.moved(hierarchy, path);
                self.groups[index].directory = directory;
            }
            if let Some(name) = controller.filter(|_| !found) {
                return Err(CgroupError::Invalid(format!(
                    "unknown controller {name}: the container has no cgroup of it"
                )));
            }
        }
        self.named = true;
        Ok(self)
    }

    /// The v2 cgroup that process `pid` is in, wherever that is: for a container that has left its own, which is gone.
    pub(crate) fn of_process(pid: i32) -> Result<Self, CgroupError> {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup").as_ref()).unwrap_or_default();
        let path = table.lines().find_map(|line| line.strip_prefix("0::"));
        let cgroup = Self::open(&Place::root(path.ok_or(CgroupError::NoCgroups)?))?;
        if cgroup.is_v2() { Ok(cgroup) } else { Err(CgroupError::NoCgroups) }
    }

    /// The directory with the files that freeze it, as a path of the host.
    pub(crate) fn freezer(&self) -> Option<PathBuf> {
        let group = self.unified().or_else(|| self.controller("freezer", "processes").ok())?;
        let hierarchy = self.hierarchy(group);
        Some(hierarchy.place.join(self.place.in_hierarchy(hierarchy)))
    }

    /// The v2 directory that process `pid` is in, for `CLONE_INTO_CGROUP`: this cgroup's or one below it.
    ///
    /// A container that may write to its cgroup and passes controllers down to cgroups of its own (with an init system
    /// or a container engine inside) has moved its processes there: the kernel lets no more into the cgroup at the top.
    pub(crate) fn place_of(&self, pid: i32) -> Result<OwnedFd, CgroupError> {
        if self.named {
            return Err(self.failed("put a process into it", Errno::BUSY));
        }
        let failed = |errno| self.failed("find where the container's processes are", errno);
        let group = self.unified().ok_or_else(|| failed(Errno::OPNOTSUPP))?;
        let table =
            fs::read_to_string(format!("/proc/{pid}/cgroup").as_ref()).map_err(|_| failed(Errno::SRCH))?;
        let below = below(&table, self.path()).ok_or_else(|| failed(Errno::XDEV))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&group.directory, below, flags, Mode::empty()).map_err(failed)
    }
}

/// The v2 cgroup in a `/proc/<pid>/cgroup` table, relative to `top`. `None` if it is elsewhere.
fn below<'a>(table: &'a str, top: &str) -> Option<&'a str> {
    let path = table.lines().find_map(|line| line.strip_prefix("0::"))?;
    match path.strip_prefix(top)? {
        "" => Some("."),
        rest => {
            rest.strip_prefix('/').filter(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_counts() {
        assert_eq!(below("0::/palan/x/init\n", "/palan/x"), Some("init"));
        assert_eq!(below("4:pids:/y\n0::/palan/x/a/b\n", "/palan/x"), Some("a/b"));
        assert_eq!(below("0::/palan/x\n", "/palan/x"), Some("."));
        for elsewhere in
            ["0::/palan/xy\n", "0::/\n", "0::/palan/x/../y\n", "0::/palan/x/\n", "1:a:/palan/x\n", ""]
        {
            assert_eq!(below(elsewhere, "/palan/x"), None, "{elsewhere:?}");
        }
    }
}
