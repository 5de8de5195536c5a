//! The `palan` program: looks at its arguments and becomes the command line, the daemon, a supervisor or the runtime.

#![forbid(unsafe_code)]

mod daemon;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let mut rest: Vec<OsString> = arguments.collect();
    match rest.first().and_then(|first| first.to_str()) {
        Some("supervisor") => palan_supervisor::main(rest.split_off(1)),
        Some("runtime") => palan_runtime::cli::main(rest.split_off(1).into_iter()),
        Some("daemon") => daemon::main(rest.split_off(1)),
        _ => palan_cli::main(std::iter::once(program).chain(rest)),
    }
}
