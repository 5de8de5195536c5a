//! `palan system dial-stdio`: the daemon's socket on the standard streams, for `ssh://` hosts.

use std::io::Write as _;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

/// Hidden in Docker's help as well.
pub(crate) static COMMAND: Command =
    Command::new("", "Proxy the stdio stream to the daemon connection", Arity::None, run);

fn run(app: &App, _: &Parsed) -> Result<()> {
    let socket = app.client()?.dial()?;
    let failed = |error: std::io::Error| CliError::io("copy to and from the daemon", &error);
    let (mut from_daemon, mut to_daemon) = (socket.try_clone().map_err(failed)?, socket);
    let mut input = app.streams.take_input();
    std::thread::spawn(move || {
        // The daemon is to see the end of the input, and to answer what it has got; how it ends is told by its answer.
        let _ = std::io::copy(&mut input, &mut to_daemon);
        let _ = to_daemon.shutdown(std::net::Shutdown::Write);
    });
    let mut output = app.streams.output();
    std::io::copy(&mut from_daemon, &mut output).and_then(|_| output.flush()).map_err(failed)
}
