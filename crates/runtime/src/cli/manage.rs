//! `state`, `kill`, `delete`, `pause`, `resume`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use palan_linux::process as os;
use palan_linux::signal::Signal;
use rustix::io::Errno;
use serde::Serialize;

use super::arguments::{Arguments, Flag, flag};
use super::state::{self, Existing, Home, State, Status, wait_until_ended};
use super::{Failure, Global, Outcome};
use crate::cgroup::Cgroup;

pub(super) const DELETE_FLAGS: &[Flag] = &[flag("force").short('f')];
pub(super) const KILL_FLAGS: &[Flag] = &[flag("all").short('a')];

/// How long a killed process may take to end.
const KILL_PATIENCE_MS: i64 = 10_000;

/// What callers see of a container: OCI's state and a little more, as runc shows it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerState {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) status: &'static str,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    /// The name of the user that the state belongs to; only `list` looks it up.
    pub(super) owner: String,
}

pub(super) fn describe(existing: &Existing) -> Result<ContainerState, Failure> {
    let state = &existing.state;
    let status = existing.status()?;
    Ok(ContainerState {
        oci_version: state.oci_version.clone(),
        id: state.id.clone(),
        pid: if status == Status::Stopped { 0 } else { state.init_process_pid },
        status: status.as_str(),
        bundle: state.bundle.clone(),
        rootfs: state.rootfs.clone(),
        created: state.created.clone(),
        annotations: state.annotations.clone(),
        owner: String::new(),
    })
}

pub(super) fn state(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    let json = serde_json::to_string_pretty(&describe(&existing)?)
        .map_err(|error| Failure::new(error.to_string()))?;
    // Without a line end, as runc.
    super::print(&json)
}

const NOT_RUNNING: &str = "container not running";

pub(super) fn kill(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(2)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    let name = arguments.positional.get(1).map_or(Some("TERM"), |word| word.to_str()).unwrap_or_default();
    if name == "0" {
        // It only asks whether there is somebody to signal.
        let running = existing.pidfd.is_some() || arguments.has("all");
        return if running { Ok(ExitCode::SUCCESS) } else { Err(Failure::new(NOT_RUNNING)) };
    }
    let signal: Signal = name.parse().map_err(|_| Failure::new(format!("unknown signal {name:?}")))?;
    let told = if arguments.has("all") {
        signal_all(&existing, signal)?;
        true
    } else if signal == Signal::KILL && !existing.has_own_pid_namespace() {
        // The kernel ends nobody else with the first process: that is on us.
        signal_all(&existing, signal)?
    } else {
        signal_first(&existing, signal)?
    };
    if told { Ok(ExitCode::SUCCESS) } else { Err(Failure::new(NOT_RUNNING)) }
}

/// Whether there was a process to signal.
fn signal_all(existing: &Existing, signal: Signal) -> Result<bool, Failure> {
    let cgroup = match existing.cgroup() {
        Ok(cgroup) => cgroup,
        Err(_) if existing.pidfd.is_none() => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let pids = cgroup.processes()?;
    if pids.is_empty() {
        // Without cgroups there is the first process at least.
        return signal_first(existing, signal);
    }
    if signal == Signal::KILL {
        cgroup.kill()?;
    } else {
        for pid in pids {
            // One that has ended meanwhile needs no signal.
            let _ = os::kill(pid, signal);
        }
    }
    Ok(true)
}

/// Whether the first process is there to be signalled.
fn signal_first(existing: &Existing, signal: Signal) -> Result<bool, Failure> {
    let Some(pidfd) = &existing.pidfd else { return Ok(false) };
    match os::send_signal(pidfd, signal) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(false),
        Err(error) => {
            return Err(Failure::new(format!("cannot signal the container's process: {error}")));
        }
    }
    if signal == Signal::KILL
        && let Ok(cgroup) = existing.cgroup()
        && cgroup.is_frozen().unwrap_or(false)
    {
        // The freezer of v1 holds even those that are to die. It may have gone with the process.
        let _ = cgroup.thaw();
    }
    Ok(true)
}

pub(super) fn delete(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let id = arguments.container_id()?;
    let force = arguments.has("force");
    let existing = match Existing::load(global, id) {
        Ok(existing) => existing,
        Err(failure) => {
            // What a creation that was killed has left has no state, and goes.
            let nothing_left = state::remove_remains(global, id)?;
            return if force && nothing_left { Ok(ExitCode::SUCCESS) } else { Err(failure) };
        }
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
            return Err(Failure::new("container init still running"));
        }
    }
    // Without its cgroup there is nothing left to remove there.
    remove(&existing.home, &existing.state, existing.cgroup().ok().as_ref())?;
    Ok(ExitCode::SUCCESS)
}

/// Removes what is left of a container whose process has ended, then runs its `poststop` hooks.
pub(super) fn remove(home: &Home, state: &State, cgroup: Option<&Cgroup>) -> Result<(), Failure> {
    if let Some(cgroup) = cgroup {
        cgroup.kill()?;
        cgroup.remove()?;
    }
    if let Some(group) = &state.resource_group {
        group.remove().map_err(|error| Failure::new(format!("cannot remove the resource group: {error}")))?;
    }
    if state.mounts_on_host {
        // With the root goes all that is mounted in it. Somebody may have taken it off before.
        if let Ok(path) = std::ffi::CString::new(state.rootfs.as_os_str().as_encoded_bytes()) {
            let _ = palan_linux::mount::detach(&path);
        }
    }
    home.remove()?;
    Ok(crate::hooks::poststop(state.hooks.as_ref(), &state.for_hooks(), None)?)
}

pub(super) fn pause(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    match existing.status()? {
        Status::Running | Status::Created => existing.cgroup()?.freeze()?,
        _ => return Err(Failure::new(NOT_RUNNING)),
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
