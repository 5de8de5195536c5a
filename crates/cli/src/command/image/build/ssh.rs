//! `--ssh`: agents that steps may ask for signatures. Keys never leave their agent.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use palan_stdx::fs;

use crate::environment::{Environment, SSH_AUTH_SOCK};
use crate::error::{CliError, Result};
use crate::run_flags::key_values::go_open_error;

/// An agent as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    id: String,
    path: Option<String>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
}

/// Reads `default`, `ID` or `ID=SOCKET`.
pub(crate) fn parse(text: &str) -> Result<Asked, String> {
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id, Some(path)),
        None => (text, None),
    };
    if id.is_empty() {
        return Err("an id is required, for one agent \"default\"".to_owned());
    }
    if path.is_some_and(|path| path.contains(',')) {
        return Err("an id has one agent; add several keys to one agent with ssh-add".to_owned());
    }
    Ok(Asked { id: id.to_owned(), path: path.filter(|path| !path.is_empty()).map(str::to_owned) })
}

impl Asked {
    /// Finds the agent's socket, by default that of the environment.
    pub(crate) fn find(self, environment: &Environment) -> Result<Agent> {
        let Self { id, path } = self;
        let path = match path.as_deref().or_else(|| environment.set(SSH_AUTH_SOCK)) {
            Some(path) => path.to_owned(),
            None => {
                return Err(CliError::new("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"));
            }
        };
        let metadata = fs::metadata(path.as_ref()).map_err(|error| {
            CliError::new(format!("ssh agent {id:?}: {}", go_open_error(&path, error.kind(), &error)))
        })?;
        if !metadata.file_type().is_socket() {
            return Err(CliError::new(format!("ssh agent {id:?}: {path} is no agent's socket"))
                .hint("Keys are not read from files: add the key to an agent (ssh-add), and name the agent's socket."));
        }
        Ok(Agent { id, socket: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let path = socket.display().to_string();
        let environment = Environment::of(&[("SSH_AUTH_SOCK", &path)]);
        let find = |text: &str, environment: &Environment| {
            parse(text).map_err(CliError::new)?.find(environment).map(|agent| (agent.id, agent.socket))
        };
        assert_eq!(find("default", &environment), Ok(("default".to_owned(), socket.clone())));
        assert_eq!(find(&format!("x={path}"), &Environment::default()), Ok(("x".to_owned(), socket)));
        assert_eq!(
            find("default", &Environment::default()).unwrap_err().message,
            "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"
        );
        assert!(find("x=/etc/passwd", &environment).unwrap_err().message.contains("no agent's socket"));
        for wrong in ["", "=x", "x=a,b", "x=/nonexist"] {
            find(wrong, &environment).unwrap_err();
        }
    }
}
