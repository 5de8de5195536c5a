//! `state`, `kill`, `delete`, `list`, `ps`, `pause`, `resume`.

use std::process::ExitCode;

use palan_linux::process as os;
use palan_linux::signal::Signal;
use serde_json::{Value, json};

use super::arguments::{Arguments, Flag, flag, option};
use super::state::{self, Existing, Status, wait_until_ended};
use super::{Failure, Global, Outcome};

pub(super) const DELETE_FLAGS: &[Flag] = &[flag("force").short('f')];
pub(super) const KILL_FLAGS: &[Flag] = &[flag("all").short('a')];
pub(super) const LIST_FLAGS: &[Flag] = &[option("format").short('f'), flag("quiet").short('q')];
pub(super) const PS_FLAGS: &[Flag] = &[option("format").short('f')];

/// How long a killed process may take to end.
const KILL_PATIENCE_MS: i64 = 10_000;

fn describe(existing: &Existing) -> Result<Value, Failure> {
    let state = &existing.state;
    let status = existing.status()?;
    let pid = if status == Status::Stopped { 0 } else { state.init_process_pid };
    Ok(json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": pid,
        "status": status.as_str(),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "annotations": state.annotations,
        "owner": "",
    }))
}

pub(super) fn state(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    print_json(&describe(&existing)?)
}

fn print_json(value: &Value) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(error.to_string()))?;
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn kill(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(2)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    let name = arguments.positional.get(1).map_or(Some("TERM"), |word| word.to_str()).unwrap_or_default();
    let signal: Signal = name.parse().map_err(|_| Failure::new(format!("unknown signal {name:?}")))?;
    if arguments.has("all") {
        let cgroup = existing.cgroup()?;
        if signal == Signal::KILL {
            cgroup.kill()?;
        } else {
            for pid in cgroup.processes()? {
                // One that has ended meanwhile needs no signal.
                let _ = os::kill(pid, signal);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(pidfd) = &existing.pidfd else { return Err(Failure::new("container not running")) };
    os::send_signal(pidfd, signal).map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::SRCH.raw_os_error() => Failure::new("container not running"),
        _ => Failure::new(format!("cannot signal the container's process: {error}")),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn delete(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let id = arguments.container_id()?;
    let force = arguments.has("force");
    let existing = match Existing::load(global, id) {
        Ok(existing) => existing,
        Err(_) if force && !global.root.join(id).exists() => return Ok(ExitCode::SUCCESS),
        Err(failure) => return Err(failure),
    };
    if let Some(pidfd) = &existing.pidfd {
        let status = existing.status()?;
        // A container that was never started may go.
        if !force && status != Status::Created {
            return Err(Failure::new(format!(
                "cannot delete container {id} that is not stopped: {}",
                status.as_str()
            )));
        }
        // It may end by itself just now.
        let _ = os::send_signal(pidfd, Signal::KILL);
        if let Ok(cgroup) = existing.cgroup() {
            cgroup.kill()?;
        }
        if !wait_until_ended(pidfd, KILL_PATIENCE_MS) {
            return Err(Failure::new("the container's process does not end"));
        }
    }
    remove(&existing)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes what is left of a container whose process has ended, then runs its `poststop` hooks.
pub(super) fn remove(existing: &Existing) -> Result<(), Failure> {
    // Without its cgroup there is nothing left to remove there.
    if let Ok(cgroup) = existing.cgroup() {
        cgroup.kill()?;
        cgroup.remove()?;
    }
    if let Some(group) = &existing.state.resource_group {
        group.remove().map_err(|error| Failure::new(format!("cannot remove the resource group: {error}")))?;
    }
    let state = &existing.state;
    if state.mounts_on_host {
        // With the root goes all that is mounted in it. Somebody may have taken it off before.
        if let Ok(path) = std::ffi::CString::new(state.rootfs.as_os_str().as_encoded_bytes()) {
            let _ = palan_linux::mount::detach(&path);
        }
    }
    existing.home.remove()?;
    Ok(crate::hooks::poststop(state.hooks.as_ref(), &state.for_hooks())?)
}

pub(super) fn list(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(0)?;
    let mut containers = Vec::new();
    for id in state::all_ids(global)? {
        // A container that is deleted while we look is none.
        if let Ok(value) = Existing::load(global, &id).and_then(|existing| describe(&existing)) {
            containers.push(value);
        }
    }
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if arguments.has("quiet") {
        for container in &containers {
            println!("{}", text(container, "id"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    match arguments.value("format").unwrap_or("table") {
        "json" => {
            println!("{}", Value::Array(containers));
            Ok(ExitCode::SUCCESS)
        }
        "table" => {
            let row = |id: &str, pid: &str, status: &str, bundle: &str, created: &str| {
                println!("{id:<12}   {pid:<8}   {status:<8}   {bundle}   {created}");
            };
            row("ID", "PID", "STATUS", "BUNDLE", "CREATED");
            for container in &containers {
                row(
                    &text(container, "id"),
                    &container["pid"].to_string(),
                    &text(container, "status"),
                    &text(container, "bundle"),
                    &text(container, "created"),
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(Failure::new(format!("invalid format option: {other}"))),
    }
}

pub(super) fn ps(global: &Global, arguments: &Arguments) -> Outcome {
    if arguments.positional.len() > 1 {
        return Err(Failure::new("ps: options for ps(1) are not supported by this version of Palan"));
    }
    let existing = Existing::load(global, arguments.container_id()?)?;
    let pids = existing.cgroup()?.processes()?;
    match arguments.value("format").unwrap_or("table") {
        "json" => {
            println!("{}", json!(pids));
            Ok(ExitCode::SUCCESS)
        }
        "table" => {
            println!("{:<8} CMD", "PID");
            for pid in pids {
                // One that has ended meanwhile shows no command.
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                println!("{pid:<8} {}", command.trim_end());
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(Failure::new(format!("invalid format option: {other}"))),
    }
}

pub(super) fn pause(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    match existing.status()? {
        Status::Running | Status::Created => existing.cgroup()?.freeze()?,
        status => return Err(Failure::new(format!("container not running: {}", status.as_str()))),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn resume(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    if existing.status()? != Status::Paused {
        return Err(Failure::new("container not paused"));
    }
    existing.cgroup()?.thaw()?;
    Ok(ExitCode::SUCCESS)
}
