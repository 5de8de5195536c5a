//! `palan stop` and `palan restart`.

use super::super::{Arity, Command, common};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static STOP: Command = Command {
    aliases: "palan container stop, palan stop",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Stop one or more running containers",
        Arity::AtLeast(1),
        stop,
    )
};

pub(crate) static RESTART: Command = Command {
    aliases: "palan container restart, palan restart",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Restart one or more containers",
        Arity::AtLeast(1),
        restart,
    )
};

static FLAGS: &[Flag] = &[
    Flag::string("signal", Some('s'), "Signal to send to the container"),
    // The name until Docker 28, which scripts use.
    Flag::int("time", None, "Seconds to wait before killing the container").hidden(),
    Flag::int("timeout", Some('t'), "Seconds to wait before killing the container"),
];

fn timeout(flags: &Parsed) -> Result<Option<i64>> {
    match (flags.changed("timeout"), flags.changed("time")) {
        (true, true) => Err(CliError::new("conflicting options: cannot specify both --timeout and --time")),
        (true, false) => Ok(Some(flags.int("timeout"))),
        (false, true) => Ok(Some(flags.int("time"))),
        (false, false) => Ok(None),
    }
}

fn stop(app: &App, flags: &Parsed) -> Result<()> {
    let (signal, timeout) = (flags.given("signal"), timeout(flags)?);
    common::each(app, &flags.args, |client, name| client.stop_container(name, signal, timeout))
}

fn restart(app: &App, flags: &Parsed) -> Result<()> {
    let (signal, timeout) = (flags.given("signal"), timeout(flags)?);
    common::each(app, &flags.args, |client, name| client.restart_container(name, signal, timeout))
}
