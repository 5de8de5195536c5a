//! Every environment variable that the command line reads, declared once; nothing else looks at the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A variable and what it means.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    /// One sentence for the documentation.
    pub(crate) help: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $name:literal: $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(crate) const $constant: &str = $name;
        )*
        /// All of them, for the documentation.
        pub(crate) const VARIABLES: &[Variable] = &[$(Variable { name: $name, help: $help }),*];
    };
}

variables! {
    PALAN_HOST = "PALAN_HOST": "The daemon to talk to, before `DOCKER_HOST`.";
    DOCKER_HOST = "DOCKER_HOST": "The daemon to talk to.";
    DOCKER_CONTEXT = "DOCKER_CONTEXT": "The context whose daemon to talk to, when no host is named.";
    DOCKER_API_VERSION = "DOCKER_API_VERSION": "The API version to speak, instead of the newest that both sides know.";
    DOCKER_CONFIG = "DOCKER_CONFIG": "The directory of `config.json`, instead of `~/.docker`.";
    DOCKER_AUTH_CONFIG = "DOCKER_AUTH_CONFIG": "Credentials as JSON, before those of `config.json`.";
    DOCKER_DEFAULT_PLATFORM = "DOCKER_DEFAULT_PLATFORM": "The default of `--platform`.";
    DOCKER_TLS = "DOCKER_TLS": "Use TLS, as `--tls`.";
    DOCKER_TLS_VERIFY = "DOCKER_TLS_VERIFY": "Use TLS and verify the daemon, as `--tlsverify`.";
    DOCKER_CERT_PATH = "DOCKER_CERT_PATH": "The directory of `ca.pem`, `cert.pem` and `key.pem`, instead of that of `config.json`.";
    BUILDKIT_PROGRESS = "BUILDKIT_PROGRESS": "How builds show their progress, where `--progress` doesn't say.";
    SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH": "The time, in seconds since 1970, that a built image and its files have: a build argument.";
    SSH_AUTH_SOCK = "SSH_AUTH_SOCK": "The agent of `build --ssh default`.";
    TMPDIR = "TMPDIR": "Where a build keeps what comes by standard input, instead of `/tmp`.";
    HOME = "HOME": "The home directory, with `.docker`.";
    NO_COLOR = "NO_COLOR": "No colours and styles in the output.";
    CI = "CI": "Set by build services: no daemon is started on demand.";
    PALAN_NO_AUTOSTART = "PALAN_NO_AUTOSTART": "No daemon is started on demand.";
}

/// The environment of one call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process; what isn't UTF-8 can't be sent to a daemon and is left out.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// An environment for tests.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// A variable, also one of the user's for `-e NAME`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A variable of ours; an empty one counts as not set, as in Docker.
    pub(crate) fn set(&self, name: &str) -> Option<&str> {
        debug_assert!(VARIABLES.iter().any(|variable| variable.name == name && !variable.help.is_empty()));
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The home directory: `HOME`, else what the user database says.
    pub(crate) fn home(&self) -> PathBuf {
        if let Some(home) = self.set(HOME) {
            return PathBuf::from(home);
        }
        let user = rustix::process::getuid().as_raw().to_string();
        let database =
            palan_stdx::fs::read_to_string(std::path::Path::new("/etc/passwd")).unwrap_or_default();
        let home = database
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&user.as_str()))
            .and_then(|fields| fields.get(5).map(PathBuf::from));
        home.unwrap_or_else(|| PathBuf::from("/"))
    }

    /// The directory of Docker's client configuration.
    pub(crate) fn config_directory(&self) -> PathBuf {
        self.set(DOCKER_CONFIG).map_or_else(|| self.home().join(".docker"), PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_found() {
        let directory = |variables: &[(&str, &str)]| Environment::of(variables).config_directory();
        assert_eq!(directory(&[("HOME", "/home/me")]), PathBuf::from("/home/me/.docker"));
        assert_eq!(directory(&[("HOME", "/home/me"), ("DOCKER_CONFIG", "/c")]), PathBuf::from("/c"));
        assert!(directory(&[]).ends_with(".docker"));
        assert_eq!(Environment::of(&[("CI", "")]).set(CI), None);
    }
}
