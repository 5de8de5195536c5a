//! The flags that say which namespaces a container has of its own, and those that no Linux host knows.

use palan_docker_api::types::HostConfig;

use crate::flags::Parsed;

/// Fills in the modes of the namespaces. `--ipc` is left to the daemon to judge, as in Docker.
pub(crate) fn set(flags: &Parsed, host: &mut HostConfig) -> Result<(), String> {
    refuse_windows_only(flags)?;
    let is_container = |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    let known = |mode: &str, modes: &[&str]| mode.is_empty() || modes.contains(&mode);
    let of = |name: &str| flags.string(name).to_owned();
    (host.pid_mode, host.uts_mode, host.userns_mode) = (of("pid"), of("uts"), of("userns"));
    (host.cgroupns_mode, host.ipc_mode, host.isolation) = (of("cgroupns"), of("ipc"), of("isolation"));
    if !known(&host.pid_mode, &["host"]) && !is_container(&host.pid_mode) {
        return Err("--pid: invalid PID mode".to_owned());
    }
    if !known(&host.uts_mode, &["host"]) {
        return Err("--uts: invalid UTS mode".to_owned());
    }
    if !known(&host.userns_mode, &["host"]) {
        return Err("--userns: invalid USER mode".to_owned());
    }
    if !known(&host.cgroupns_mode, &["host", "private"]) {
        return Err("--cgroupns: invalid CGROUP mode".to_owned());
    }
    Ok(())
}

fn refuse_windows_only(flags: &Parsed) -> Result<(), String> {
    let names = ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"];
    let given = names.iter().filter(|name| flags.changed(name));
    let errors: Vec<String> = given
        .map(|name| {
            format!(
                "\"--{name}\" is only supported on a Docker daemon running on windows, but the Docker daemon is \
                 running on linux"
            )
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}
