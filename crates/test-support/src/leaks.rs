//! What a test must not leave: processes, mounts, cgroups, links, tables, files. Everything that belongs to a daemon
//! under test carries its directory or one of its names, so nothing of others is ever counted or touched.

use std::path::{Path, PathBuf};

use crate::daemon::Daemon;

/// Lists what is left of a daemon that has ended.
pub(crate) fn find(daemon: &Daemon) -> Vec<String> {
    let directory = daemon.scratch().display().to_string();
    let mut found = Vec::new();
    for (pid, command) in processes(&directory) {
        found.push(format!("process {pid}: {command}"));
    }
    for line in mounts(&directory) {
        found.push(format!("mount {line}"));
    }
    for path in cgroups(daemon.cgroup()) {
        found.push(format!("cgroup {}", path.display()));
    }
    if Path::new("/sys/class/net").join(daemon.bridge()).exists() {
        found.push(format!("link {}", daemon.bridge()));
    }
    for link in links(daemon.bridge()) {
        found.push(format!("link {link}"));
    }
    for table in tables(daemon.bridge()) {
        found.push(format!("table {table}"));
    }
    for directory in [daemon.data_root().join("containers"), daemon.run_root().join("containers")] {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let empty_trash = entry.file_name().to_string_lossy().starts_with('.')
                && std::fs::read_dir(entry.path()).is_ok_and(|mut inside| inside.next().is_none());
            if !empty_trash {
                found.push(format!("file {}", entry.path().display()));
            }
        }
    }
    found
}

/// Removes what [`find`] finds, after a test that failed.
pub(crate) fn clear(daemon: &Daemon) {
    let directory = daemon.scratch().display().to_string();
    for (pid, _) in processes(&directory) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
    for _ in 0..50 {
        let left = cgroups(daemon.cgroup());
        for path in left.iter().rev() {
            std::fs::remove_dir(path).ok();
        }
        if left.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for line in mounts(&directory) {
        if let Some(target) = line.split(' ').nth(1) {
            rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
    run("ip", &["link", "delete", daemon.bridge()]);
    for table in tables(daemon.bridge()) {
        let words: Vec<&str> = ["delete", "table"].into_iter().chain(table.split(' ')).collect();
        run("nft", &words);
    }
}

/// Processes whose command line names the directory, the caller excepted.
fn processes(directory: &str) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            command.contains(directory).then_some((pid, command))
        })
        .collect()
}

fn mounts(directory: &str) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines().filter(|line| line.contains(directory)).map(str::to_owned).collect()
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let name = name.trim_start_matches('/');
    let hierarchies =
        std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in std::iter::once(PathBuf::from("/sys/fs/cgroup")).chain(hierarchies) {
        descend(&hierarchy.join(name), &mut found);
    }
    found
}

fn descend(directory: &Path, found: &mut Vec<PathBuf>) {
    if !directory.is_dir() {
        return;
    }
    found.push(directory.to_path_buf());
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), found);
        }
    }
}

/// Interfaces whose text says that they are of the bridge, or of a network of the daemon that has it.
fn links(bridge: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let is_of = |path: &Path| {
        let alias = std::fs::read_to_string(path.join("ifalias")).unwrap_or_default();
        alias.trim_end().split(':').any(|part| part == bridge)
    };
    let found = entries.filter(|entry| is_of(&entry.path()));
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// `family name` of each nftables table that is named after the bridge.
fn tables(bridge: &str) -> Vec<String> {
    let listed = run("nft", &["list", "tables"]).unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| line.strip_prefix("table "))
        .filter(|table| table.ends_with(bridge))
        .map(str::to_owned)
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "the test looks at the host from outside of the product")]
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
