//! `--init`: process 1 of the container is this code, which starts the program as its child, passes signals on,
//! reaps what is orphaned, and ends with the program's exit code.
//!
//! It runs after everything was given up (same user, capabilities and filter as the program), executes no file of
//! the container, and keeps no descriptor but the three standard ones.

use palan_linux::process::{self as os, Child, ForkOptions, Forked, SingleThreaded};
use palan_linux::signal::{self, Signal, SignalSet};

use crate::error::{Context, Error};

/// Splits the process: returns in the child, which is to execute the program; the parent never returns.
pub fn split(proof: &SingleThreaded, has_terminal: bool) -> Result<(), Error> {
    // Nothing may get lost between the fork and the first wait.
    signal::set_mask(&SignalSet::all()).context(|| "block signals".to_owned())?;
    match os::fork_again(proof, &ForkOptions::default())? {
        Forked::Child => {
            // A process group of its own, in the foreground: Ctrl-C reaches the program once, not through us again.
            rustix::process::setpgid(None, None).context(|| "make a process group".to_owned())?;
            if has_terminal {
                rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid())
                    .context(|| "become the foreground process group".to_owned())?;
            }
            Ok(())
        }
        Forked::Parent(child) => supervise(&child),
    }
}

fn supervise(child: &Child) -> ! {
    let pid = child.pid;
    // A failure leaves them open: harmless, since this code never executes anything.
    let _ = os::close_all_from(3);
    let _ = rustix::thread::set_name(c"palan-init");
    let signals = SignalSet::all();
    loop {
        match signal::wait_for(&signals) {
            Ok(Signal::CHLD) => {
                while let Ok(Some((ended, status))) = os::reap_any(false) {
                    if ended == pid {
                        os::exit_now(status.code());
                    }
                }
            }
            // The terminal's own; the program gets its own copies.
            Ok(Signal::TTIN | Signal::TTOU | Signal::TSTP) => {}
            Ok(signal) => {
                // It may just have ended: then SIGCHLD is next.
                let _ = os::kill(pid.as_raw_nonzero().get(), signal);
            }
            Err(_) => {}
        }
    }
}
