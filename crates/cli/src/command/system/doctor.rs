//! `palan doctor`: checks what the host gives to containers, and says what to do where something is missing.

use std::fmt::Write as _;
use std::path::Path;

use palan_docker_api::client::ClientError;
use palan_stdx::{fs, size};

use super::super::{Arity, Command};
use crate::app::App;
use crate::environment::NO_COLOR;
use crate::error::{CliError, Kind, Result};
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command {
    long: "Check whether this host can run containers.\nEach finding comes with what to do about it.",
    ..Command::new("", "Check whether this host can run containers", Arity::None, run)
};

/// Where the daemon keeps its data unless told otherwise.
const DATA_ROOT: &str = "/var/lib/palan";

/// The oldest kernel with all that is used: openat2 and clone3 into a cgroup, with their early faults repaired.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

const ENOUGH_SPACE: u64 = 2 << 30;
const LITTLE_SPACE: u64 = 200 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Something works worse than it could.
    Doubtful,
    /// Containers won't run.
    Bad,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    text: String,
    /// What to do, unless all is well.
    remedy: &'static str,
}

impl Finding {
    fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, text: text.into(), remedy: "" }
    }

    fn doubtful(subject: &'static str, text: impl Into<String>, remedy: &'static str) -> Self {
        Self { subject, verdict: Verdict::Doubtful, text: text.into(), remedy }
    }

    fn bad(subject: &'static str, text: impl Into<String>, remedy: &'static str) -> Self {
        Self { subject, verdict: Verdict::Bad, text: text.into(), remedy }
    }
}

fn run(app: &App, _: &Parsed) -> Result<()> {
    let findings = [
        kernel(&rustix::system::uname().release().to_string_lossy()),
        privileges(),
        namespaces(),
        cgroups(Path::new("/sys/fs/cgroup")),
        filesystem(),
        firewall(),
        forwarding(&read("/proc/sys/net/ipv4/ip_forward")),
        seccomp(&read("/proc/sys/kernel/seccomp/actions_avail")),
        disk(Path::new(DATA_ROOT)),
        daemon(app),
    ];
    let coloured = app.streams.output_is_terminal() && app.environment.set(NO_COLOR).is_none();
    app.streams.print(&report(&findings, coloured))?;
    if findings.iter().any(|finding| finding.verdict == Verdict::Bad) {
        return Err(CliError::of(Kind::General, ""));
    }
    Ok(())
}

fn report(findings: &[Finding], coloured: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (mark, colour) = match finding.verdict {
            Verdict::Good => ("ok", "\x1b[32m"),
            Verdict::Doubtful => ("warn", "\x1b[33m"),
            Verdict::Bad => ("FAIL", "\x1b[31m"),
        };
        let (on, off) = if coloured { (colour, "\x1b[0m") } else { ("", "") };
        let _ = writeln!(text, "[{on}{mark:^4}{off}] {}: {}", finding.subject, finding.text);
        if !finding.remedy.is_empty() {
            let _ = writeln!(text, "       → {}", finding.remedy);
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = match (count(Verdict::Bad), count(Verdict::Doubtful)) {
        (0, 0) => writeln!(text, "\nThis host is fit for containers."),
        (0, doubtful) => {
            let deserve = if doubtful == 1 { "finding deserves" } else { "findings deserve" };
            writeln!(text, "\nThis host can run containers; {doubtful} {deserve} a look.")
        }
        (bad, _) => {
            let are = if bad == 1 { "finding is" } else { "findings are" };
            writeln!(text, "\nContainers will not run on this host until {bad} {are} settled.")
        }
    };
    text
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(path)).unwrap_or_default()
}

fn kernel(release: &str) -> Finding {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL {
        return Finding::bad(
            "Kernel",
            format!("Linux {release} is older than 5.10"),
            "Install a kernel of version 5.10 or newer and restart the machine.",
        );
    }
    Finding::good("Kernel", format!("Linux {release}"))
}

fn privileges() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::good("User", "root");
    }
    Finding::doubtful(
        "User",
        "not root: some of the checks below can't see everything",
        "Run 'palan doctor' as root to be sure; the daemon itself has to run as root.",
    )
}

fn namespaces() -> Finding {
    let missing: Vec<&str> = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    let forbidden: Vec<&str> = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|name| read(&format!("/proc/sys/user/max_{name}_namespaces")).trim() == "0")
        .collect();
    if !missing.is_empty() {
        return Finding::bad(
            "Namespaces",
            format!("the kernel lacks {}", missing.join(", ")),
            "Use a kernel that is built with all namespaces (CONFIG_NAMESPACES).",
        );
    }
    if !forbidden.is_empty() {
        return Finding::bad(
            "Namespaces",
            format!("the limit of {} is 0", forbidden.join(", ")),
            "Raise the limits with 'sysctl user.max_<name>_namespaces=10000'.",
        );
    }
    Finding::good("Namespaces", "mount, PID, network, IPC, UTS and cgroup are there")
}

fn cgroups(root: &Path) -> Finding {
    const SUBJECT: &str = "Cgroups";
    const WANTED: [&str; 3] = ["cpu", "memory", "pids"];
    if let Ok(controllers) = fs::read_to_string(&root.join("cgroup.controllers")) {
        let missing: Vec<&str> = WANTED
            .into_iter()
            .filter(|name| !controllers.split_whitespace().any(|known| known == *name))
            .collect();
        if missing.is_empty() {
            return Finding::good(SUBJECT, format!("version 2 with {}", controllers.trim()));
        }
        return Finding::doubtful(
            SUBJECT,
            format!("version 2 without {}: such limits can't be set", missing.join(", ")),
            "Enable the controllers in the parent's cgroup.subtree_control, or on the kernel's command line.",
        );
    }
    let missing: Vec<&str> = WANTED.into_iter().filter(|name| !root.join(name).is_dir()).collect();
    if missing.len() == WANTED.len() {
        return Finding::bad(
            SUBJECT,
            "none are mounted",
            "Mount them: 'mount -t cgroup2 none /sys/fs/cgroup', or let systemd do it.",
        );
    }
    if !missing.is_empty() {
        return Finding::doubtful(
            SUBJECT,
            format!("version 1 without {}: such limits can't be set", missing.join(", ")),
            "Mount the missing controllers below /sys/fs/cgroup.",
        );
    }
    Finding::good(SUBJECT, "version 1 with cpu, memory, pids")
}

/// Whether the kernel has a module built in or loaded, or can load it.
fn has_module(name: &str) -> bool {
    if Path::new("/sys/module").join(name).exists() {
        return true;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    ["modules.builtin", "modules.dep"].iter().any(|list| {
        let text = read(&format!("/lib/modules/{release}/{list}"));
        text.lines().any(|line| {
            let path = line.split(':').next().unwrap_or_default();
            let file = path.rsplit('/').next().unwrap_or_default();
            file.split('.').next() == Some(name)
        })
    })
}

fn filesystem() -> Finding {
    let known =
        read("/proc/filesystems").lines().any(|line| line.split_whitespace().next_back() == Some("overlay"));
    if known || has_module("overlay") {
        return Finding::good("Overlay file system", "there");
    }
    Finding::bad(
        "Overlay file system",
        "the kernel has none",
        "Load it with 'modprobe overlay', or use a kernel with CONFIG_OVERLAY_FS.",
    )
}

fn firewall() -> Finding {
    // A built-in module without parameters shows nowhere but in its effects.
    let active =
        Path::new("/proc/sys/net/netfilter/nf_log").exists() || Path::new("/proc/net/netfilter").exists();
    if has_module("nf_tables") || active {
        return Finding::good("nftables", "there");
    }
    Finding::bad(
        "nftables",
        "the kernel has none, so no port can be published and no container reaches the outside",
        "Load it with 'modprobe nf_tables', or use a kernel with CONFIG_NF_TABLES.",
    )
}

fn forwarding(setting: &str) -> Finding {
    match setting.trim() {
        "1" => Finding::good("IP forwarding", "on"),
        "0" => Finding::doubtful(
            "IP forwarding",
            "off",
            "The daemon turns it on; to keep it so set 'net.ipv4.ip_forward = 1' in /etc/sysctl.d.",
        ),
        _ => Finding::doubtful("IP forwarding", "can't be read", "Look at /proc/sys/net/ipv4/ip_forward."),
    }
}

fn seccomp(actions: &str) -> Finding {
    if actions.split_whitespace().any(|action| action == "errno") {
        return Finding::good("Seccomp", "filters are supported");
    }
    Finding::doubtful(
        "Seccomp",
        "the kernel has no filters: containers run without a system call profile",
        "Use a kernel with CONFIG_SECCOMP_FILTER.",
    )
}

fn disk(data_root: &Path) -> Finding {
    const SUBJECT: &str = "Disk";
    let place = data_root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(state) = rustix::fs::statvfs(place) else {
        return Finding::doubtful(SUBJECT, format!("{} can't be looked at", place.display()), "Run as root.");
    };
    let free = state.f_bavail.saturating_mul(state.f_frsize);
    let text = format!("{} free in {}", size::format_decimal(free), place.display());
    if state.f_files > 0 && state.f_favail < 1000 {
        return Finding::bad(
            SUBJECT,
            format!("{text}, but only {} inodes", state.f_favail),
            "Delete files, or use a file system with more inodes.",
        );
    }
    match free {
        ..LITTLE_SPACE => Finding::bad(SUBJECT, text, "Free space, or move the data with --data-root."),
        LITTLE_SPACE..ENOUGH_SPACE => Finding::doubtful(
            SUBJECT,
            text,
            "Images may not fit: free space, or move the data with --data-root.",
        ),
        _ => Finding::good(SUBJECT, text),
    }
}

fn daemon(app: &App) -> Finding {
    const SUBJECT: &str = "Daemon";
    let target = match app.target() {
        Ok(target) => target,
        Err(error) => return Finding::bad(SUBJECT, error.message, "Correct -H, -c or the environment."),
    };
    let host = target.host.to_string();
    // Not through the application's client: that would start a daemon instead of saying that there is none.
    let client = match target.client(None) {
        Ok(client) => client,
        Err(error) => return Finding::bad(SUBJECT, error.message, "Correct the paths of the certificates."),
    };
    match client.ping().and_then(|_| client.server_version()) {
        Ok(version) => Finding::good(
            SUBJECT,
            format!("version {} answers at {host} (API {})", version.version, version.api_version),
        ),
        Err(ClientError::Connect { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::bad(
                SUBJECT,
                format!("no permission to connect to {host}"),
                "Run as root, or as a member of the group that owns the socket.",
            )
        }
        Err(ClientError::Connect { .. }) if target.by_default => Finding::doubtful(
            SUBJECT,
            format!("none answers at {host}"),
            "The next command starts one; or run 'palan daemon' or 'systemctl start palan.socket'.",
        ),
        Err(error) => Finding::bad(
            SUBJECT,
            CliError::from(error).message,
            "Look at the daemon's log, and whether -H, PALAN_HOST or DOCKER_HOST names the right one.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_version() {
        assert_eq!(kernel("6.18.0-test").verdict, Verdict::Good);
        assert_eq!(kernel("5.10.0").verdict, Verdict::Good);
        assert_eq!(kernel("5.9.99").verdict, Verdict::Bad);
        assert_eq!(kernel("4.19.0-27-amd64").verdict, Verdict::Bad);
    }

    #[test]
    fn cgroups_are_judged_by_their_controllers() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(directory.path()).verdict, Verdict::Bad);
        for name in ["cpu", "memory"] {
            fs::create_dir_all(&directory.path().join(name), 0o700).unwrap();
        }
        assert_eq!(cgroups(directory.path()).text, "version 1 without pids: such limits can't be set");
        let controllers = directory.path().join("cgroup.controllers");
        fs::write(&controllers, "cpuset cpu io memory pids\n").unwrap();
        assert_eq!(
            cgroups(directory.path()),
            Finding::good("Cgroups", "version 2 with cpuset cpu io memory pids")
        );
    }

    #[test]
    fn findings_come_with_a_remedy_and_a_sum() {
        let text = report(&[forwarding("1\n"), forwarding("0\n"), kernel("4.0")], false);
        assert_eq!(
            text,
            "[ ok ] IP forwarding: on\n\
             [warn] IP forwarding: off\n       → The daemon turns it on; to keep it so set 'net.ipv4.ip_forward = 1' in /etc/sysctl.d.\n\
             [FAIL] Kernel: Linux 4.0 is older than 5.10\n       → Install a kernel of version 5.10 or newer and restart the machine.\n\
             \nContainers will not run on this host until 1 finding is settled.\n"
        );
    }
}
