//! `palan context …`: daemons that the user has given names to.

/// A description with what `--docker` takes.
macro_rules! with_endpoint_help {
    ($short:literal) => {
        concat!(
            $short,
            "\n\nDocker endpoint config:\n\n\
            NAME                DESCRIPTION\n\
            from                Copy named context's Docker endpoint configuration\n\
            host                Docker endpoint on which to connect\n\
            ca                  Trust certs signed only by this CA\n\
            cert                Path to TLS certificate file\n\
            key                 Path to TLS key file\n\
            skip-tls-verify     Skip TLS certificate validation"
        )
    };
}

mod create;
mod export;
mod import;
mod inspect;
mod ls;
mod rm;
mod show;
mod update;
mod using;

use std::path::Path;

use palan_docker_api::host::Host;
use palan_stdx::{error_chain, fs};

use super::{Entry, Group};
use crate::context::store::{Endpoint, TLS_FILES, TlsMaterial};
use crate::error::{CliError, Result};
use crate::flags::{self, Flag, Parsed};

/// The commands on contexts.
pub(crate) const GROUP: Group = Group {
    name: "context",
    short: "Manage contexts",
    entries: &[
        Entry(&["create"], &create::COMMAND),
        Entry(&["export"], &export::COMMAND),
        Entry(&["import"], &import::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
        Entry(&["show"], &show::COMMAND),
        Entry(&["update"], &update::COMMAND),
        Entry(&["use"], &using::COMMAND),
    ],
    missing: &[],
};

const DOCKER_FLAG: Flag =
    Flag::list("docker", None, "set the docker endpoint").named("stringToString").check(check_pairs);

fn check_pairs(text: &str) -> std::result::Result<(), String> {
    match text.split(',').find(|pair| !pair.contains('=')) {
        Some(pair) => Err(format!("{pair} must be formatted as key=value")),
        None => Ok(()),
    }
}

/// What `--docker` says; later values win.
#[derive(Debug, Default)]
struct Asked<'a> {
    from: Option<&'a str>,
    host: Option<&'a str>,
    files: [Option<&'a str>; 3],
    skip_tls_verify: bool,
}

impl<'a> Asked<'a> {
    /// `None` if the flag was not given.
    fn read(flags: &'a Parsed) -> Result<Option<Self>> {
        if !flags.changed("docker") {
            return Ok(None);
        }
        let mut asked = Self::default();
        let pairs = flags.list("docker").into_iter().flat_map(|text| text.split(','));
        for (key, value) in pairs.filter_map(|pair| pair.split_once('=')) {
            match key {
                "from" => asked.from = Some(value),
                "host" => asked.host = Some(value),
                "ca" => asked.files[0] = Some(value),
                "cert" => asked.files[1] = Some(value),
                "key" => asked.files[2] = Some(value),
                "skip-tls-verify" => {
                    asked.skip_tls_verify = flags::parse_bool(value).map_err(CliError::new)?;
                }
                _ => {
                    let message =
                        format!("unable to create docker endpoint config: unrecognized config key: {key}");
                    return Err(CliError::new(message));
                }
            }
        }
        Ok(Some(asked))
    }

    /// The endpoint that is described, and its files.
    fn endpoint(&self) -> Result<(Endpoint, TlsMaterial)> {
        let unable = |why: &str| CliError::new(format!("unable to create docker endpoint config: {why}"));
        let host = self.host.unwrap_or_default();
        if !host.is_empty() {
            host.parse::<Host>().map_err(|error| unable(&error.to_string()))?;
        }
        let mut files = TlsMaterial::new();
        for (name, path) in TLS_FILES.into_iter().zip(self.files) {
            let Some(path) = path else { continue };
            let content =
                fs::read(Path::new(path)).map_err(|error| unable(&error_chain::to_string(&error)))?;
            files.push((name, content));
        }
        Ok((Endpoint { host: host.to_owned(), skip_tls_verify: self.skip_tls_verify }, files))
    }
}
