//! `palan logs`.

use std::io;

use palan_docker_api::client::LogsOptions;
use palan_docker_api::stream;

use super::super::{Arity, Command, common};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container logs, palan logs",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] CONTAINER", "Fetch the logs of a container", Arity::Exactly(1), run)
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::bool("details", None, "Show extra details provided to logs"),
    Flag::bool("follow", Some('f'), "Follow log output"),
    Flag::string("since", None, "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"),
    Flag::string("tail", Some('n'), "Number of lines to show from the end of the logs").default("all"),
    Flag::bool("timestamps", Some('t'), "Show timestamps"),
    Flag::string("until", None, "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    let container = client.inspect_container(&flags.args[0], false)?;
    let now = std::time::SystemTime::now();
    let moment = |name: &str| match flags.string(name) {
        "" => Ok(None),
        text => match common::moment(text, now, &common::zone()) {
            Ok(moment) => Ok(Some(moment)),
            Err(error) => Err(CliError::new(format!("invalid value for \"{name}\": {}", error.message))),
        },
    };
    let options = LogsOptions {
        follow: flags.bool("follow"),
        stdout: true,
        stderr: true,
        since: moment("since")?,
        until: moment("until")?,
        timestamps: flags.bool("timestamps"),
        details: flags.bool("details"),
        tail: Some(flags.string("tail").to_owned()),
    };
    let mut body = client.container_logs(&container.id, &options)?;
    let (mut out, mut err) = (app.streams.output(), app.streams.errors());
    let copied = if container.config.tty {
        io::copy(&mut body, &mut out).map(drop)
    } else {
        stream::copy(body, &mut out, &mut err)
    };
    copied.map_err(|error| CliError::of_output(&error))
}
