//! `palan supervisor init -- PROGRAM ARGUMENT…`: process 1 of a container that asked for `--init` under a runtime other than
//! Palan's own. It is a copy of this program, bound into the container; what it does is the own runtime's init.
//!
//! Everything around it belongs to the container: the program is looked up in the container's `PATH`, and a failure is told
//! on the container's standard error.

use std::ffi::{CString, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use palan_linux::process;

/// Where a program without a slash is looked for if there is no `PATH`, as execvp(3) does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The exit codes of shells for a program that is missing, or that can't be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs the program as a child and takes care of all processes that it leaves; `arguments` are those after `init`.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let program: Vec<OsString> = arguments.skip_while(|word| word == "--").collect();
    let Some(name) = program.first().cloned() else { return complain("no program is given", NOT_EXECUTABLE) };
    let has_terminal = palan_linux::tty::is_terminal(rustix::stdio::stdin());
    let split = process::single_threaded(None)
        .map_err(palan_runtime::Error::from)
        .and_then(|proof| palan_runtime::reaper::split(&proof, has_terminal));
    if let Err(error) = split {
        return complain(&error.report(), NOT_EXECUTABLE);
    }
    // This is the child; process 1 never returns. The start of a Rust program has made SIGPIPE ignored.
    palan_linux::signal::reset_dispositions();
    if let Err(error) = palan_linux::signal::set_mask(&palan_linux::signal::SignalSet::empty()) {
        return complain(&error.to_string(), NOT_EXECUTABLE);
    }
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let (words, environment) = (c_strings(program.into_iter()), c_strings(environment));
    let mut denied = false;
    for path in candidates(&name) {
        let Ok(path) = CString::new(path.into_os_string().into_vec()) else { continue };
        let error = process::execute(&path, &words, &environment);
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {}
            // Another directory may have one that may be executed.
            std::io::ErrorKind::PermissionDenied => denied = true,
            _ => return complain(&format!("exec: {name:?}: {error}"), NOT_EXECUTABLE),
        }
    }
    if denied {
        return complain(&format!("exec: {name:?}: permission denied"), NOT_EXECUTABLE);
    }
    complain(&format!("exec: {name:?}: executable file not found in $PATH"), NOT_FOUND)
}

fn candidates(name: &OsString) -> Vec<PathBuf> {
    let bare = !name.as_encoded_bytes().contains(&b'/');
    if !bare {
        return vec![PathBuf::from(name)];
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path).map(|directory| directory.join(name)).collect()
}

fn c_strings(texts: impl Iterator<Item = OsString>) -> Vec<CString> {
    // What came through exec has no NUL.
    texts.filter_map(|text| CString::new(text.into_vec()).ok()).collect()
}

fn complain(text: &str, code: u8) -> ExitCode {
    // There is nowhere else to complain.
    let _ = writeln!(std::io::stderr(), "palan-init: {text}");
    ExitCode::from(code)
}
