//! `ps`: the processes of a container, as ps(1) of the host shows them.

use std::ffi::{CString, OsString};
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use palan_linux::process::{self as os, ExitStatus, Program, Spawn};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::arguments::{Arguments, Flag, option};
use super::state::Existing;
use super::{Failure, Global, Outcome};

pub(super) const FLAGS: &[Flag] = &[option("format").short('f')];

pub(super) fn ps(global: &Global, arguments: &Arguments) -> Outcome {
    let existing = Existing::load(global, arguments.container_id()?)?;
    let pids = match existing.cgroup() {
        Ok(cgroup) => cgroup.processes()?,
        // The cgroup has gone with the last process.
        Err(_) if existing.pidfd.is_none() => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let text = match arguments.value("format").unwrap_or("table") {
        "table" => lines_of(&run(&arguments.positional[1..])?, &pids)?,
        // Go's empty list.
        "json" if pids.is_empty() => "null\n".to_owned(),
        "json" => format!("{}\n", serde_json::json!(pids)),
        _ => return Err(Failure::new("invalid format option")),
    };
    super::print(&text)
}

/// The head line, and the lines whose PID is one of these.
fn lines_of(output: &str, pids: &[i32]) -> Result<String, Failure> {
    let (head, rest) = output.split_once('\n').unwrap_or((output, ""));
    let column = head
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Failure::new("couldn't find PID field in ps output"))?;
    let mut text = format!("{head}\n");
    for line in rest.lines().filter(|line| !line.is_empty()) {
        let field = line.split_whitespace().nth(column).unwrap_or_default();
        let pid: i32 = field.parse().map_err(|_| Failure::new(format!("unable to parse pid: {field:?}")))?;
        if pids.contains(&pid) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// What ps(1) says to these options.
fn run(options: &[OsString]) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot run ps: {error}"));
    let program = c_string(find("ps")?.into_os_string())?;
    let mut words = vec![c"ps".to_owned()];
    for option in options {
        words.push(c_string(option.clone())?);
    }
    if options.is_empty() {
        words.push(c"-ef".to_owned());
    }
    let environment = std::env::vars_os().map(|(mut entry, value)| {
        entry.push("=");
        entry.push(value);
        c_string(entry)
    });
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.into()))?;
    let child = os::spawn(&Spawn {
        program: Program::Path(&program),
        arguments: words,
        environment: environment.collect::<Result<_, _>>()?,
        descriptors: vec![null.as_fd(), write.as_fd(), write.as_fd()],
        directory: c".",
        new_session: false,
        cgroup_procs: None,
        umask: 0o022,
        bound: false,
    })
    .map_err(failed)?;
    drop(write);
    let mut output = Vec::new();
    std::fs::File::from(read).read_to_end(&mut output).map_err(failed)?;
    let status = os::wait(&child.pidfd).map_err(failed)?;
    let output = String::from_utf8_lossy(&output).into_owned();
    match status {
        ExitStatus::Exited(0) => Ok(output),
        other => Err(Failure::new(format!("exit status {}: {output}", other.code()))),
    }
}

fn c_string(text: OsString) -> Result<CString, Failure> {
    CString::new(text.into_vec()).map_err(|_| Failure::new("an argument of ps contains a NUL byte"))
}

/// The first directory of PATH that has the program.
fn find(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let executable = |path: &PathBuf| {
        path.as_os_str().as_bytes().starts_with(b"/")
            && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(executable)
        .ok_or_else(|| Failure::new(format!("exec: {name:?}: executable file not found in $PATH")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_the_column_of_pids() {
        let output = "USER  PID PPID CMD\nroot    1    0 init 7\nroot   27    7 a  b\n\nx 7 27 -\n";
        assert_eq!(
            lines_of(output, &[7, 27]).unwrap(),
            "USER  PID PPID CMD\nroot   27    7 a  b\nx 7 27 -\n"
        );
        assert_eq!(lines_of("PID", &[1]).unwrap(), "PID\n");
        for bad in ["", "CMD\ninit\n", "X PID\nonly\n", "PID\nx\n"] {
            assert!(lines_of(bad, &[1]).is_err(), "{bad}");
        }
    }
}
