//! `palan runtime`: runc's command line.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs `palan runtime` with the arguments after these two words.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let _ = args;
    todo!()
}
