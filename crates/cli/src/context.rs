//! Which daemon a command talks to: `-H`, `-c`, the environment, the context in use, or the default.

/// Contexts in archives.
pub(crate) mod archive;
/// Contexts on the disk.
pub(crate) mod store;

use std::path::PathBuf;

use palan_docker_api::client::{Client, Tls, TlsFiles};
use palan_docker_api::host::{DEFAULT_TCP_PORT, DEFAULT_TLS_PORT, Host};
use palan_docker_api::version::ApiVersion;
use palan_stdx::error_chain;

use crate::environment::{DOCKER_CONTEXT, DOCKER_HOST, Environment, PALAN_HOST};
use crate::error::{CliError, Kind, Result};
use store::{Contexts, DEFAULT};

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

/// What was said and stored before.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) contexts: &'a Contexts,
    /// The context that the user has chosen for all commands, or nothing.
    pub(crate) current: &'a str,
}

impl Known<'_> {
    /// The host that the environment names, with the name of the variable.
    pub(crate) fn host(&self) -> Option<(&'static str, &str)> {
        [PALAN_HOST, DOCKER_HOST].into_iter().find_map(|name| Some((name, self.environment.set(name)?)))
    }
}

/// The name of the context that is in use.
pub(crate) fn in_use(asked: &Asked<'_>, known: &Known<'_>) -> String {
    let name = match asked.context {
        Some(context) => context,
        None if !asked.hosts.is_empty() || known.host().is_some() => DEFAULT,
        None => known.environment.set(DOCKER_CONTEXT).unwrap_or(known.current),
    };
    if name.is_empty() { DEFAULT.to_owned() } else { name.to_owned() }
}

/// Chooses the daemon.
pub(crate) fn choose(asked: &Asked<'_>, known: &Known<'_>) -> Result<Target> {
    match asked.hosts.as_slice() {
        [] => {}
        [_] if asked.context.is_some() => {
            return Err(CliError::new("conflicting options: cannot specify both --host and --context"));
        }
        [host] => return named(host, asked.tls.clone()),
        [_, _, ..] => return Err(CliError::new("Specify only one -H")),
    }
    match (in_use(asked, known), known.host()) {
        (name, _) if name != DEFAULT => stored(&name, known.contexts),
        (_, Some((_, host))) if asked.context.is_none() => named(host, asked.tls.clone()),
        _ => Ok(default()),
    }
}

fn default() -> Target {
    Target {
        host: Host::Unix(PathBuf::from(DEFAULT_SOCKET)),
        context: DEFAULT.to_owned(),
        by_default: true,
        tls: None,
    }
}

fn named(text: &str, tls: Option<TlsFiles>) -> Result<Target> {
    let full = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
    let port = if tls.is_some() { DEFAULT_TLS_PORT } else { DEFAULT_TCP_PORT };
    let host = Host::parse_with_port(&full, port);
    let host = host.map_err(|error| CliError::of(Kind::General, error.to_string()))?;
    Ok(Target { host, context: DEFAULT.to_owned(), by_default: false, tls })
}

fn stored(name: &str, contexts: &Contexts) -> Result<Target> {
    let unresolved = |error: CliError| {
        let message = format!("unable to resolve docker endpoint: {}", error.message);
        CliError { message, ..error }
    };
    let endpoint = contexts.get(name).map_err(unresolved)?.endpoint();
    match endpoint.filter(|endpoint| !endpoint.host.is_empty()) {
        Some(endpoint) => {
            let tls = contexts.tls_paths(name, endpoint.skip_tls_verify)?;
            Ok(Target { context: name.to_owned(), ..named(&endpoint.host, tls)? })
        }
        None => Err(CliError::new(format!("context {name:?} names no docker endpoint"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(hosts: &[&str], context: Option<&str>, known: &Known<'_>, expected: &str) {
        let asked = Asked { hosts: hosts.to_vec(), context, tls: None };
        let shown = match choose(&asked, known) {
            Ok(target) => format!("{} {} {}", target.host, target.context, target.by_default),
            Err(error) => error.message,
        };
        assert_eq!(shown, expected);
    }

    fn check(hosts: &[&str], context: Option<&str>, variables: &[(&str, &str)], expected: &str) {
        let environment = Environment::of(variables);
        let contexts = Contexts::of(std::path::Path::new("/nonexistent"));
        let known = Known { environment: &environment, contexts: &contexts, current: "" };
        check_with(hosts, context, &known, expected);
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
    fn contexts_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(directory.path());
        for (name, host) in [("far", "tcp://10.0.0.1:2375"), ("near", "unix:///n")] {
            let mut context = store::Context::new(name);
            context.set_endpoint(&store::Endpoint { host: host.to_owned(), skip_tls_verify: false });
            contexts.save(&context, None).unwrap();
        }
        let none = Environment::of(&[]);
        let far = Environment::of(&[("DOCKER_CONTEXT", "far")]);
        let host = Environment::of(&[("DOCKER_CONTEXT", "far"), ("DOCKER_HOST", "unix:///d")]);
        let known = |environment, current| Known { environment, contexts: &contexts, current };
        check_with(&[], None, &known(&none, "near"), "unix:///n near false");
        check_with(&[], None, &known(&far, "near"), "tcp://10.0.0.1:2375 far false");
        check_with(&[], None, &known(&host, "near"), "unix:///d default false");
        check_with(&[], Some("near"), &known(&host, ""), "unix:///n near false");
        check_with(
            &[],
            Some("lost"),
            &known(&none, "near"),
            "unable to resolve docker endpoint: context \"lost\": context not found",
        );
    }
}
