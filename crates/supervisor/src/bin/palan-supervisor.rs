//! The supervisor as a program of its own, which `cargo xtask dist` embeds in `palan`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // It is executed with the arguments that `palan` itself would need: `supervisor` comes first.
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "supervisor") {
        arguments.next();
    }
    palan_supervisor::main(arguments)
}
