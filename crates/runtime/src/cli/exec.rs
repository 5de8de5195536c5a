//! `exec`: a further process in a running container.

use std::os::fd::AsFd;
use std::process::ExitCode;

use palan_oci::runtime_spec::{Capabilities, MAX_SIZE, Process};

use super::arguments::{Arguments, Flag, flag, option};
use super::create::{preserved, send_console, send_pidfd, terminal};
use super::state::{self, Existing, Status};
use super::{Failure, Global, Outcome, foreground, protect};
use crate::cgroup::Cgroup;
use crate::container::Stdio;
use crate::exec::ExecRequest;

pub(super) const FLAGS: &[Flag] = &[
    option("console-socket"),
    option("cwd"),
    option("env").short('e'),
    flag("tty").short('t'),
    option("user").short('u'),
    option("additional-gids").short('g'),
    option("process").short('p'),
    flag("detach").short('d'),
    option("pid-file"),
    option("process-label"),
    option("apparmor"),
    flag("no-new-privs"),
    option("cap").short('c'),
    option("preserve-fds"),
    flag("ignore-paused"),
    option("cgroup"),
    option("pidfd-socket"),
    flag("no-subreaper"),
];

/// runc's code for an exec that did not happen.
const NOT_EXECUTED: u8 = 255;

pub(super) fn exec(global: &Global, arguments: &Arguments) -> Outcome {
    protect::ensure()?;
    attempt(global, arguments).map_err(|failure| Failure { code: NOT_EXECUTED, ..failure })
}

fn attempt(global: &Global, arguments: &Arguments) -> Outcome {
    let existing = Existing::load(global, arguments.container_id()?)?;
    let Some(pidfd) = &existing.pidfd else {
        return Err(Failure::new("cannot exec in a stopped container"));
    };
    if existing.status()? == Status::Paused && !arguments.has("ignore-paused") {
        return Err(Failure::new("cannot exec in a paused container (use --ignore-paused to override)"));
    }
    let process = process(&existing, arguments)?;
    let detached = arguments.has("detach");
    let console_socket = arguments.value("console-socket");
    if process.terminal && detached && console_socket.is_none() {
        return Err(Failure::new("cannot allocate tty if runc will detach without setting console socket"));
    }
    let seccomp = crate::plan::process::seccomp(None, existing.state.seccomp.as_ref())?;
    let preserved = preserved(arguments, 3)?;
    let extra: Vec<_> = preserved.iter().map(AsFd::as_fd).collect();
    let signals = if detached { None } else { Some(foreground::Signals::block()?) };
    let mut cgroup = match Cgroup::open(&existing.state.cgroup) {
        // It may have moved elsewhere by itself; a further process goes where the first one is.
        Err(error) if error.is_missing() => {
            Cgroup::of_process(existing.state.init_process_pid).map_err(|_| error)?
        }
        opened => opened?,
    };
    let below = sub_cgroups(arguments.values("cgroup"))?;
    if !below.is_empty() {
        cgroup = cgroup.below(&below)?;
    }
    let execed = crate::exec::exec(&ExecRequest {
        pid: existing.state.init_process_pid,
        pidfd: pidfd.as_fd(),
        cgroup: &cgroup,
        process: &process,
        personality: existing.state.personality.as_ref(),
        memory_policy: existing.state.memory_policy.as_ref(),
        user: None,
        groups: &[],
        seccomp: seccomp.as_ref(),
        state: &existing.state.for_hooks().at(Status::Running.as_str(), existing.state.init_process_pid),
        stdio: if process.terminal { terminal(console_socket) } else { Stdio::Inherit },
        extra_descriptors: &extra,
        parent_death_signal: false,
    })?;
    for warning in &execed.warnings {
        global.log.warning(warning);
    }
    if let (Some(socket), Some(master)) = (console_socket, &execed.console_master) {
        send_console(socket, master.as_fd())?;
    }
    send_pidfd(arguments, execed.pidfd.as_fd())?;
    state::write_pid_file(arguments.value("pid-file"), execed.pid)?;
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
    let console = execed.console_master.as_ref().filter(|_| console_socket.is_none());
    foreground::attend(&signals, &execed.pidfd, console, None).map(foreground::exit_code)
}

/// Where below the container's cgroup: one path, or paths by controller (`memory:sub`, `cpu,cpuacct:sub`).
fn sub_cgroups<'a>(
    values: impl Iterator<Item = &'a str>,
) -> Result<Vec<(Option<&'a str>, &'a str)>, Failure> {
    let invalid =
        |value: &str, why: &str| Failure::new(format!("invalid --cgroup argument: {value} ({why})"));
    let mut result: Vec<(Option<&str>, &str)> = Vec::new();
    for value in values {
        let Some((controllers, path)) = value.split_once(':') else {
            result.push((None, value));
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(invalid(value, "empty <controller> prefix"));
            }
            if result.iter().any(|(known, _)| *known == Some(controller)) {
                return Err(invalid(value, &format!("controller {controller} specified multiple times")));
            }
            result.push((Some(controller), path));
        }
    }
    match result.iter().find(|(controller, _)| controller.is_none()) {
        Some((_, path)) if result.len() > 1 => Err(invalid(path, "missing <controller>: prefix")),
        _ => Ok(result),
    }
}

/// The process to run: from a file, or the container's own with what the options change.
fn process(existing: &Existing, arguments: &Arguments) -> Result<Process, Failure> {
    if let Some(path) = arguments.value("process") {
        arguments.at_most(1)?;
        let json = state::read_limited(path.as_ref(), MAX_SIZE)?;
        return palan_oci::runtime_spec::parse(&json).map_err(|error| {
            let error = palan_stdx::error_chain::to_string(&error);
            Failure::new(format!("{path} is no valid process: {error}"))
        });
    }
    let mut process = existing.state.process.clone();
    process.args = arguments.positional[1..]
        .iter()
        .map(|word| {
            let word =
                word.to_str().ok_or_else(|| Failure::new(format!("argument {word:?} is not UTF-8")))?;
            Ok(word.to_owned())
        })
        .collect::<Result<_, Failure>>()?;
    if process.args.is_empty() {
        return Err(Failure::new("process args cannot be empty"));
    }
    process.terminal = arguments.has("tty");
    process.console_size = None;
    if let Some(cwd) = arguments.value("cwd") {
        cwd.clone_into(&mut process.cwd);
    }
    if let Some(label) = arguments.value("process-label") {
        label.clone_into(&mut process.selinux_label);
    }
    if let Some(profile) = arguments.value("apparmor") {
        profile.clone_into(&mut process.apparmor_profile);
    }
    process.no_new_privileges |= arguments.has("no-new-privs");
    process.env.extend(arguments.values("env").map(str::to_owned));
    let capabilities = process.capabilities.get_or_insert_with(Capabilities::default);
    let has_ambient = !capabilities.ambient.is_empty();
    for name in arguments.values("cap") {
        for set in [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted] {
            set.push(name.to_owned());
        }
        if has_ambient {
            // In a container that gives its capabilities to every program, this one is no exception.
            capabilities.inheritable.push(name.to_owned());
            capabilities.ambient.push(name.to_owned());
        }
    }
    if let Some(user) = arguments.value("user") {
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (user, None),
        };
        process.user.uid = number(uid, "user")?;
        if let Some(gid) = gid {
            process.user.gid = number(gid, "user")?;
        }
    }
    for gid in arguments.values("additional-gids") {
        process.user.additional_gids.push(number(gid, "additional-gids")?);
    }
    Ok(process)
}

/// A user or group: digits and nothing else (CVE-2026-30892: `-u 1` must never become 0).
fn number(text: &str, option: &str) -> Result<u32, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse::<u32>().ok().filter(|id| digits && *id <= i32::MAX.unsigned_abs());
    id.ok_or_else(|| Failure::new(format!("--{option}: {text:?} is no number from 0 to 2147483647")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_by_controller() {
        let parse = |values: &[&'static str]| sub_cgroups(values.iter().copied());
        assert_eq!(parse(&["/sub"]).unwrap(), [(None, "/sub")]);
        assert_eq!(
            parse(&["memory:m", "cpu,cpuacct:c:d"]).unwrap(),
            [(Some("memory"), "m"), (Some("cpu"), "c:d"), (Some("cpuacct"), "c:d")]
        );
        for bad in [&["a", "b"][..], &["a", "cpu:b"], &[":a"], &["cpu,:a"], &["cpu:a", "cpu:b"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn users_are_exactly_what_is_written() {
        for (text, id) in [("0", 0), ("1", 1), ("01", 1), ("2147483647", i32::MAX.unsigned_abs())] {
            assert_eq!(number(text, "user").unwrap(), id);
        }
        for text in ["", "-1", "+1", " 1", "1 ", "0x1", "1e3", "2147483648", "4294967296", "root"] {
            assert!(number(text, "user").is_err(), "{text}");
        }
    }
}
