//! Giving a cgroup to a user, who may then make cgroups below it and share its means among them.

use rustix::fs::{AtFlags, Uid};
use rustix::io::Errno;

use super::{Cgroup, CgroupError};

/// Where the kernel lists the files that go with a cgroup (Linux 4.15).
const FILES: &str = "/sys/kernel/cgroup/delegate";

/// The list of cgroups(7), for kernels without that.
const USUAL_FILES: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Makes `uid`, of the host, the owner of the cgroup on v2: of its directory and of those files that don't lift
    /// its own limits. On v1 a cgroup can't be given away safely, and is not.
    pub fn delegate(&self, uid: u32) -> Result<(), CgroupError> {
        let Some(group) = self.unified().filter(|_| self.is_v2()) else { return Ok(()) };
        let owner = Some(Uid::from_raw(uid));
        rustix::fs::fchown(&group.directory, owner, None)
            .map_err(|errno| self.failed(format!("give it to user {uid}"), errno))?;
        let files = std::fs::read_to_string(FILES).unwrap_or_else(|_| USUAL_FILES.to_owned());
        for file in files.lines().filter(|file| !file.is_empty() && !file.contains('/')) {
            match rustix::fs::chownat(&group.directory, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed(format!("give {file} to user {uid}"), errno)),
            }
        }
        Ok(())
    }
}
