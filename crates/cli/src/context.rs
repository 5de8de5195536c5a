//! Which daemon a command talks to: `-H`, `-c`, the environment, contexts of Docker's client, or the default.

use std::path::{Path, PathBuf};

use palan_docker_api::client::{Client, Tls, TlsFiles};
use palan_docker_api::host::{DEFAULT_TCP_PORT, DEFAULT_TLS_PORT, Host};
use palan_docker_api::version::ApiVersion;
use palan_stdx::{error_chain, fs};

use crate::environment::{DOCKER_CONTEXT, DOCKER_HOST, Environment, PALAN_HOST};
use crate::error::{CliError, Kind, Result};
use crate::output::json::Ordered;

/// Where the daemon listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/palan/palan.sock";

/// The daemon that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: Host,
    /// The name of the context, for `version` and `info`.
    pub(crate) context: String,
    /// Nobody named it, so it may be started.
    pub(crate) by_default: bool,
    /// The certificates for TLS, if it is wanted.
    pub(crate) tls: Option<TlsFiles>,
}

impl Target {
    /// A client of it.
    pub(crate) fn client(&self, version: Option<ApiVersion>) -> Result<Client> {
        let client = match version {
            Some(version) => Client::with_version(self.host.clone(), version),
            None => Client::new(self.host.clone()),
        };
        match &self.tls {
            Some(files) => {
                let tls = Tls::load(files).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
                Ok(client.with_tls(tls))
            }
            None => Ok(client),
        }
    }
}

/// What the command line says about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) hosts: Vec<&'a str>,
    pub(crate) context: Option<&'a str>,
    pub(crate) tls: Option<TlsFiles>,
}

/// Chooses the daemon. Docker's stored *current* context is left to Docker: it names Docker's daemon, not ours.
pub(crate) fn choose(asked: &Asked<'_>, environment: &Environment) -> Result<Target> {
    match (asked.hosts.as_slice(), asked.context) {
        ([], None) => {}
        ([_, _, ..], _) => return Err(CliError::new("Specify only one -H")),
        (_, Some(_)) if !asked.hosts.is_empty() => {
            return Err(CliError::new("conflicting options: cannot specify both --host and --context"));
        }
        ([host], _) => return named(host, asked.tls.clone()),
        (_, Some(context)) => return stored(context, environment),
    }
    if let Some(host) = environment.set(PALAN_HOST).or_else(|| environment.set(DOCKER_HOST)) {
        return named(host, asked.tls.clone());
    }
    match environment.set(DOCKER_CONTEXT) {
        Some(context) => stored(context, environment),
        None => Ok(default()),
    }
}

fn default() -> Target {
    Target {
        host: Host::Unix(PathBuf::from(DEFAULT_SOCKET)),
        context: "default".to_owned(),
        by_default: true,
        tls: None,
    }
}

fn named(text: &str, tls: Option<TlsFiles>) -> Result<Target> {
    let full = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
    let port = if tls.is_some() { DEFAULT_TLS_PORT } else { DEFAULT_TCP_PORT };
    let host = Host::parse_with_port(&full, port);
    let host = host.map_err(|error| CliError::of(Kind::General, error.to_string()))?;
    Ok(Target { host, context: "default".to_owned(), by_default: false, tls })
}

/// A context of Docker's client: `contexts/meta/<digest>/meta.json` beside the configuration.
fn stored(name: &str, environment: &Environment) -> Result<Target> {
    if name == "default" {
        return Ok(default());
    }
    let missing =
        || CliError::new(format!("unable to resolve docker endpoint: context {name:?}: context not found"));
    let contexts = environment.config_directory().join("contexts");
    let entries = fs::if_exists(fs::read_dir(&contexts.join("meta"))).ok().flatten().unwrap_or_default();
    let (directory, meta) = entries
        .iter()
        .filter_map(|entry| Some((entry.file_name(), read_meta(&entry.path().join("meta.json"))?)))
        .find(|(_, meta)| meta.get("Name").and_then(Ordered::as_str) == Some(name))
        .ok_or_else(missing)?;
    let endpoint = meta.get("Endpoints").and_then(|endpoints| endpoints.get("docker"));
    match endpoint.and_then(|endpoint| endpoint.get("Host")).and_then(Ordered::as_str) {
        Some(host) => {
            let tls = stored_tls(&contexts.join("tls").join(directory).join("docker"));
            Ok(Target { context: name.to_owned(), ..named(host, tls)? })
        }
        None => Err(CliError::new(format!("context {name:?} names no docker endpoint"))),
    }
}

/// The certificates that Docker's client keeps with a context; none means no TLS.
fn stored_tls(directory: &Path) -> Option<TlsFiles> {
    let there = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
    let files = TlsFiles { authorities: there("ca.pem"), identity: there("cert.pem").zip(there("key.pem")) };
    (files != TlsFiles::default()).then_some(files)
}

fn read_meta(path: &Path) -> Option<Ordered> {
    Ordered::parse(&fs::read_to_string_if_exists(path).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &[&str], context: Option<&str>, variables: &[(&str, &str)], expected: &str) {
        let asked = Asked { hosts: hosts.to_vec(), context, tls: None };
        let shown = match choose(&asked, &Environment::of(variables)) {
            Ok(target) => format!("{} {} {}", target.host, target.context, target.by_default),
            Err(error) => error.message,
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_most_explicit_name_wins() {
        let both = [("PALAN_HOST", "unix:///p"), ("DOCKER_HOST", "unix:///d")];
        check(&[], None, &[], "unix:///run/palan/palan.sock default true");
        check(&[], None, &both, "unix:///p default false");
        check(&[], None, &both[1..], "unix:///d default false");
        check(&["unix:///h"], None, &both, "unix:///h default false");
        check(&["127.0.0.1:2375"], None, &[], "tcp://127.0.0.1:2375 default false");
        check(&[], Some("default"), &both, "unix:///run/palan/palan.sock default true");
        check(&["a", "b"], None, &[], "Specify only one -H");
        check(&["a"], Some("x"), &[], "conflicting options: cannot specify both --host and --context");
    }

    #[test]
    fn dockers_contexts_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().join("contexts/meta/00");
        fs::create_dir_all(&meta, 0o700).unwrap();
        let json = r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://10.0.0.1:2375"}}}"#;
        fs::write(&meta.join("meta.json"), json).unwrap();
        let variables = [("DOCKER_CONFIG", directory.path().to_str().unwrap()), ("DOCKER_CONTEXT", "far")];
        check(&[], None, &variables, "tcp://10.0.0.1:2375 far false");
        check(
            &[],
            Some("near"),
            &variables,
            "unable to resolve docker endpoint: context \"near\": context not found",
        );
    }
}
