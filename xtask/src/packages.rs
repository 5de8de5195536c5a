//! Debian packages that tasks need and install themselves.

use std::path::Path;
use std::process::Stdio;

use crate::Failure;
use crate::process::{check, command, find};

/// A package's name, and a program by which we see that it is installed.
pub(crate) type Package = (&'static str, &'static str);

/// Installs the packages that are missing, with the start of their services denied.
#[expect(clippy::print_stderr, reason = "tasks talk to the person at the terminal")]
pub(crate) fn install(packages: &[Package]) -> Result<(), Failure> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, program)| find(program).is_none()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("this task needs root, and these packages: {}", missing.join(" ")).into());
    }
    eprintln!("installing {}", missing.join(" "));
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let own_policy = !policy.exists();
    if own_policy {
        std::fs::write(policy, "#!/bin/sh\nexit 101\n")?;
        check(command("chmod").arg("0755").arg(policy))?;
    }
    let installed = update_lists().and_then(|()| {
        check(
            command("apt-get")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::null()),
        )
    });
    if own_policy {
        std::fs::remove_file(policy)?;
    }
    installed
}

/// Brings the lists of what can be installed up to date.
pub(crate) fn update_lists() -> Result<(), Failure> {
    check(command("apt-get").args(["update", "-qq"]))
}
