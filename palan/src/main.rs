//! The `palan` program: looks at its arguments and becomes the command line, the daemon, a supervisor or the runtime.
//!
//! Under the names `palan-runtime` and `runc` it is the runtime alone: for what can be given a program but no first word
//! for it (`runtimes` of Docker, `BinaryName` of containerd, `--runtime` of Podman).

#![forbid(unsafe_code)]

mod daemon;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let mut rest: Vec<OsString> = arguments.collect();
    let name = Path::new(&program).file_name().unwrap_or_default();
    if name == "palan-runtime" || name == "runc" {
        return palan_runtime::cli::main(rest.into_iter());
    }
    match rest.first().and_then(|first| first.to_str()) {
        Some("supervisor") => palan_supervisor::main(rest.split_off(1)),
        Some("runtime") => palan_runtime::cli::main(rest.split_off(1).into_iter()),
        Some("daemon") => daemon::main(rest.split_off(1)),
        _ => palan_cli::main(std::iter::once(program).chain(rest)),
    }
}
