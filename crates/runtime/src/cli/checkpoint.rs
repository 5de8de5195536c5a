//! `checkpoint` and `restore`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use palan_linux::process as os;
use palan_linux::signal::Signal;
use rustix::fs::OFlags;

use super::arguments::{Arguments, Flag, flag, option};
use super::create::{Bundle, check_console, send_console, unit};
use super::state::{self, Existing, Home, State, Status};
use super::{Failure, Global, Outcome, foreground};
use crate::cgroup::{Location, Place};
use crate::checkpoint::{self, CgroupMode, Criu, External, RestoreRequest, SaveRequest, Saving, Settings};
use crate::container::Container;

pub(super) const CHECKPOINT_FLAGS: &[Flag] = &[
    option("image-path"),
    option("work-path"),
    option("parent-path"),
    flag("leave-running"),
    flag("tcp-established"),
    flag("tcp-skip-in-flight"),
    flag("link-remap"),
    flag("ext-unix-sk"),
    flag("shell-job"),
    flag("lazy-pages"),
    option("status-fd"),
    option("page-server"),
    flag("file-locks"),
    flag("pre-dump"),
    option("manage-cgroups-mode"),
    option("empty-ns"),
    flag("auto-dedup"),
];

pub(super) const RESTORE_FLAGS: &[Flag] = &[
    option("console-socket"),
    option("image-path"),
    option("work-path"),
    flag("tcp-established"),
    flag("ext-unix-sk"),
    flag("shell-job"),
    flag("file-locks"),
    option("manage-cgroups-mode"),
    option("bundle").short('b'),
    flag("detach").short('d'),
    option("pid-file"),
    flag("no-subreaper"),
    flag("no-pivot"),
    option("empty-ns"),
    flag("auto-dedup"),
    flag("lazy-pages"),
    option("lsm-profile"),
    option("lsm-mount-context"),
];

/// Where images are without `--image-path`, relative to the working directory.
const DEFAULT_IMAGES: &str = "checkpoint";

/// Options of CRIU that an administrator gives for all containers: the file that runc documents.
const CONFIGURATION: &str = "/etc/criu/runc.conf";

/// Names another such file for one container; an empty name none.
const CONFIGURATION_ANNOTATION: &str = "org.criu.config";

pub(super) fn checkpoint(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    let status = existing.status()?;
    if matches!(status, Status::Created | Status::Stopped) {
        return Err(Failure::new(format!("container cannot be checkpointed in {} state", status.as_str())));
    }
    let saving = match (arguments.has("pre-dump"), arguments.has("leave-running")) {
        (true, _) => Saving::PreDump,
        (false, true) => Saving::LeaveRunning,
        (false, false) => Saving::Stop,
    };
    let annotation = existing.state.annotations.get(CONFIGURATION_ANNOTATION);
    let settings = settings(arguments, annotation)?;
    let parent_images = parent_images(arguments, &settings.images)?;
    let status_fd = arguments.number("status-fd")?.map(writable).transpose()?;
    let page_server = arguments.value("page-server").map(page_server).transpose()?;
    let cgroup = existing.cgroup()?;
    let criu = Criu::find(&global.criu).map_err(crate::Error::from)?;
    checkpoint::save(
        &criu,
        SaveRequest {
            pid: existing.state.init_process_pid,
            rootfs: &existing.state.rootfs,
            cgroup: &cgroup,
            external: &existing.state.external,
            saving,
            settings: &settings,
            parent_images,
            tcp_skip_in_flight: arguments.has("tcp-skip-in-flight"),
            link_remap: arguments.has("link-remap"),
            page_server,
            status: status_fd,
        },
    )?;
    if saving == Saving::Stop {
        // Its processes have ended; what it was is in the images.
        let removed = cgroup.kill().and_then(|()| cgroup.remove());
        if let Err(failure) = removed.map_err(Failure::from).and_then(|()| existing.home.remove()) {
            global.log.warning(&format!("the container was saved but not deleted: {}", failure.message));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restore(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    if arguments.has("no-pivot") {
        return Err(Failure::new(
            "--no-pivot: CRIU makes the root of a restored container, and always pivots",
        ));
    }
    let bundle = Bundle::load(arguments)?;
    let detached = arguments.has("detach");
    check_console(arguments, bundle.terminal, detached)?;
    let settings = settings(arguments, bundle.spec.annotations.get(CONFIGURATION_ANNOTATION))?;
    let criu = Criu::find(&global.criu).map_err(crate::Error::from)?;
    let home = Home::claim(global, arguments.container_id()?)?;
    // From here on signals are for the container.
    let signals = if detached { None } else { Some(foreground::Signals::block()?) };
    let container = match make(global, arguments, &bundle, &home, &criu, &settings) {
        Ok(container) => container,
        Err(failure) => {
            home.remove()?;
            return Err(failure);
        }
    };
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
    let status = foreground::attend(&signals, &container.pidfd, container.console_master.as_ref(), None)?;
    container.cgroup.kill()?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    super::manage::remove(&existing.home, &existing.state, existing.cgroup().ok().as_ref())?;
    Ok(foreground::exit_code(status))
}

/// Restores, and passes on what callers wait for.
fn make(
    global: &Global,
    arguments: &Arguments,
    bundle: &Bundle,
    home: &Home,
    criu: &Criu,
    settings: &Settings,
) -> Result<Container, Failure> {
    let id = arguments.container_id()?;
    let cgroups_path = bundle.spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    let unit = unit(global, &bundle.spec, id)?;
    let mut save = |pid: i32, place: &Place| {
        let rootfs = bundle.rootfs_path.clone();
        let mut state = State::new(id, pid, place, &bundle.path, rootfs, &bundle.spec);
        // Its pipes are now those that we were given; it can't be asked yet, for it stands still.
        state.external = External::new(&bundle.spec, std::process::id().cast_signed());
        home.save(&state).map_err(|failure| std::io::Error::other(failure.message))
    };
    let request = RestoreRequest {
        streams: None,
        id,
        spec: &bundle.spec,
        bundle: &bundle.path,
        rootfs: &bundle.rootfs_path,
        cgroup: unit.as_ref().map_or_else(|| Location::of(cgroups_path, id, global.rootless), Location::Unit),
        settings,
        lsm_profile: arguments.value("lsm-profile"),
        lsm_mount_context: arguments.value("lsm-mount-context"),
    };
    let container = checkpoint::restore(criu, &request, &mut save)?;
    for warning in &container.warnings {
        global.log.warning(warning);
    }
    let told = match (arguments.value("console-socket"), &container.console_master) {
        (Some(socket), Some(master)) => send_console(socket, master.as_fd()),
        _ => Ok(()),
    };
    match told.and_then(|()| state::write_pid_file(arguments.value("pid-file"), container.pid)) {
        Ok(()) => Ok(container),
        Err(failure) => {
            // It may end by itself just now; the failure is the error to tell.
            let _ = os::send_signal(&container.pidfd, Signal::KILL);
            let _ = container.cgroup.kill();
            let _ = os::wait(&container.pidfd);
            let _ = container.cgroup.remove();
            Err(failure)
        }
    }
}

/// What both commands are told, with directories that exist.
fn settings(arguments: &Arguments, annotation: Option<&String>) -> Result<Settings, Failure> {
    for kind in arguments.values("empty-ns") {
        // Its content is never saved; no other kind can be left empty.
        if kind != "network" {
            return Err(Failure::new(format!("namespace {kind:?} is not supported")));
        }
    }
    let make = |path: &Path| {
        palan_stdx::fs::create_dir_all(path, 0o700)
            .map_err(|error| Failure::new(palan_stdx::error_chain::to_string(&error)))
    };
    let given = |name| arguments.value(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let images = given("image-path").unwrap_or_else(|| PathBuf::from(DEFAULT_IMAGES));
    make(&images)?;
    let work = given("work-path");
    work.as_deref().map_or(Ok(()), make)?;
    Ok(Settings {
        images,
        work,
        configuration: match annotation.map(String::as_str) {
            None => Some(CONFIGURATION.to_owned()),
            Some("") => None,
            Some(path) => Some(path.to_owned()),
        },
        cgroup_mode: cgroup_mode(arguments.value("manage-cgroups-mode").unwrap_or(""))?,
        shell_job: arguments.has("shell-job"),
        tcp_established: arguments.has("tcp-established"),
        external_unix_sockets: arguments.has("ext-unix-sk"),
        file_locks: arguments.has("file-locks"),
        auto_dedup: arguments.has("auto-dedup"),
        lazy_pages: arguments.has("lazy-pages"),
    })
}

/// The descriptor with this number, which somebody waits at the other end of.
fn writable(number: u32) -> Result<OwnedFd, Failure> {
    let invalid = |why: &str| Failure::new(format!("invalid --status-fd argument {number}: {why}"));
    let fd = os::inherited_descriptor(number).map_err(|error| invalid(&error.to_string()))?;
    let mode = rustix::fs::fcntl_getfl(&fd).map_err(|error| invalid(&error.to_string()))?;
    if mode.intersects(OFlags::WRONLY | OFlags::RDWR) { Ok(fd) } else { Err(invalid("not writable")) }
}

/// The directory of earlier images, which CRIU finds relative to that of the images.
fn parent_images<'a>(arguments: &'a Arguments, images: &Path) -> Result<Option<&'a str>, Failure> {
    let Some(parent) = arguments.value("parent-path").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    if parent.starts_with('/') {
        return Err(Failure::new("--parent-path must be relative"));
    }
    match palan_stdx::fs::metadata(&images.join(parent)) {
        Ok(found) if found.is_dir() => Ok(Some(parent)),
        Ok(_) => Err(Failure::new(format!("invalid --parent-path: {parent} is not a directory"))),
        Err(error) => Err(Failure::new(format!(
            "invalid --parent-path: {}",
            palan_stdx::error_chain::to_string(&error)
        ))),
    }
}

fn cgroup_mode(name: &str) -> Result<CgroupMode, Failure> {
    match name {
        "" => Ok(CgroupMode::Default),
        "soft" => Ok(CgroupMode::Soft),
        "full" => Ok(CgroupMode::Full),
        "strict" => Ok(CgroupMode::Strict),
        "ignore" => Ok(CgroupMode::Ignore),
        _ => Err(Failure::new(format!(
            "invalid manage-cgroups-mode value {name:?}; it is soft, full, strict or ignore"
        ))),
    }
}

/// `address:port`, with an IPv6 address in brackets.
fn page_server(text: &str) -> Result<(String, u16), Failure> {
    let (address, port) = text
        .rsplit_once(':')
        .map(|(address, port)| {
            let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
            (bare.unwrap_or(address), port)
        })
        .filter(|(address, port)| !address.is_empty() && !port.is_empty())
        .ok_or_else(|| Failure::new("use --page-server ADDRESS:PORT to specify page server"))?;
    let port = port.parse().map_err(|_| Failure::new(format!("--page-server: invalid port {port:?}")))?;
    Ok((address.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers() {
        for (text, address, port) in [("0.0.0.0:27277", "0.0.0.0", 27_277), ("[::1]:1", "::1", 1)] {
            assert_eq!(page_server(text).unwrap(), (address.to_owned(), port));
        }
        for bad in ["", ":1", "a", "a:", "a:b", "a:65536", "a:-1"] {
            assert!(page_server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cgroup_modes() {
        assert_eq!(cgroup_mode("").unwrap(), CgroupMode::Default);
        assert_eq!(cgroup_mode("ignore").unwrap(), CgroupMode::Ignore);
        assert!(cgroup_mode("Soft").is_err());
    }
}
