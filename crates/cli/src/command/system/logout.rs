//! `palan logout`.

use super::super::{Arity, Command};
use super::login::warn_of_environment;
use crate::app::App;
use crate::config_file::hostname;
use crate::credentials;
use crate::error::Result;
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command {
    long: "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
    ..Command::new("[SERVER]", "Log out from a registry", Arity::AtMost(1), run)
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    warn_of_environment(app);
    let (shown, registries) = match flags.args.first().map(String::as_str) {
        None | Some("") => {
            let hub = credentials::server_address(None);
            (hub.clone(), vec![hub])
        }
        Some(server) => {
            let host = hostname(server).to_owned();
            // Earlier versions kept logins under any of these.
            let (http, https) = (format!("http://{host}"), format!("https://{host}"));
            (host.clone(), vec![server.to_owned(), host, http, https])
        }
    };
    app.streams.line(&format!("Removing login credentials for {shown}"))?;
    let mut config = app.config().clone();
    let results = registries.iter().map(|registry| (registry, credentials::erase(&mut config, registry)));
    let failures: Vec<String> = results
        .filter_map(|(registry, result)| result.err().map(|why| format!("{registry}: {why}")))
        .collect();
    if failures.len() == registries.len() {
        app.streams.say("WARNING: could not erase credentials:");
        failures.iter().for_each(|failure| app.streams.say(failure));
    }
    Ok(())
}
