//! Runs real containers made from a static busybox. Needs root; says so and passes otherwise.
//!
//! The harness is `support`: no thread may exist when a container is made. Called with `runtime` as its first
//! argument this program is `palan runtime`, for the tests of the command line; with `stand-in-systemd` it plays systemd,
//! and with `notify-ready` a service that is ready.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, clippy::exit, reason = "this is a test harness")]

mod cases;
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "runtime" => return palan_runtime::cli::main(arguments),
        Some(first) if first == "notify-ready" => {
            let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
            socket.send_to(b"STATUS=up\nREADY=1\n", arguments.next().unwrap()).unwrap();
            return ExitCode::SUCCESS;
        }
        Some(first) if first == "stand-in-systemd" => {
            return support::systemd::serve(arguments.next().unwrap().as_ref());
        }
        _ => {}
    }
    support::run(cases::ALL)
}
