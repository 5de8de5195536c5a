//! Moving the supervisor to a cgroup of its own, so that it outlives whatever ends the daemon's.
//!
//! Only the hierarchies by which systemd manages services matter for that: `name=systemd` beside v1 controllers, and
//! v2. The others account resources, and a supervisor may as well be accounted where its daemon is. Joining costs an RCU
//! grace period on v2, so it is done when the container has been running for a moment.

use std::path::{Component, Path};

/// Where hosts mount the hierarchies that systemd uses, and the file by which a process with one thread moves itself.
const HIERARCHIES: [(&str, &str); 3] = [
    ("/sys/fs/cgroup/systemd", "tasks"),
    ("/sys/fs/cgroup/unified", "cgroup.procs"),
    ("/sys/fs/cgroup", "cgroup.procs"),
];

/// Moves this process to `path` below every such hierarchy, as far as that can be done.
pub(crate) fn join(path: &str) {
    let relative = Path::new(path.trim_start_matches('/'));
    if relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return;
    }
    for (root, file) in HIERARCHIES {
        let directory = Path::new(root).join(relative);
        // Where there is no such hierarchy, or no permission, the process stays where it is.
        if Path::new(root).join(file).exists() && palan_stdx::fs::create_dir_all(&directory, 0o755).is_ok() {
            let _ = palan_stdx::fs::write(&directory.join(file), "0");
        }
    }
}
