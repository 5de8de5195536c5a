//! Credentials for repositories: what the client's session has for a host, as BuildKit's clients name it.
//!
//! | remote | credentials |
//! |---|---|
//! | `http`, `https` | the first secret of `GIT_AUTH_HEADER.HOST`, `GIT_AUTH_TOKEN.HOST`, `GIT_AUTH_HEADER`, `GIT_AUTH_TOKEN`; else user and password of the address |
//! | `ssh` | the client's agent `default` |
//!
//! They are sent to the repository that they are for (to all of github.com for one there), and to nobody whom that leads us to: with
//! credentials no redirect is followed, since git would send them there, too.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_builder::backend::StepError;
use palan_builder::graph::Owner;
use palan_context::remote::without_user;
use palan_linux::path::RootDir;
use tokio::runtime::Handle;

use super::super::request::{Access as Asked, BuildClient};
use super::super::ssh::Agents;

/// The agent that is used, as BuildKit has it.
const AGENT: &str = "default";

/// The socket's name in its directory.
const SOCKET: &str = "agent";

/// How a repository is reached.
pub(super) struct Access {
    /// Its address, without what is secret.
    pub(super) remote: String,
    /// Configuration for git.
    pub(super) settings: Vec<(String, String)>,
    agent: Option<(RootDir, Agents)>,
}

/// Whether it is reached over ssh.
pub(super) fn is_ssh(remote: &str) -> bool {
    remote.split_once("://").is_none_or(|(scheme, _)| scheme == "ssh")
}

impl Access {
    /// Asks the client. `directory` does not exist yet; a socket may be made there.
    pub(super) fn ask(
        remote: &str,
        client: &Arc<dyn BuildClient>,
        directory: &Path,
        runtime: &Handle,
    ) -> Result<Self, StepError> {
        let (address, user) = without_user(remote);
        let mut access = Self { remote: address, settings: Vec::new(), agent: None };
        if is_ssh(remote) {
            access.agent = Some(forward(client, directory, runtime)?);
            return Ok(access);
        }
        if !access.remote.starts_with("http") {
            return Ok(access);
        }
        let header = of_secrets(&access.remote, client)?.map(|header| (scope(&access.remote), header));
        let header = header.or_else(|| {
            let (name, password) = user?;
            let both = STANDARD.encode(format!("{name}:{password}"));
            Some((origin(&access.remote), format!("basic {both}")))
        });
        if let Some((scope, value)) = header {
            access.settings.push((format!("http.{scope}.extraHeader"), format!("Authorization: {value}")));
            access.settings.push(("http.followRedirects".to_owned(), "false".to_owned()));
        }
        Ok(access)
    }

    /// A short path to the agent's socket, of which there may be no more than 108 bytes; good for as long as this lives.
    pub(super) fn socket(&self) -> Option<String> {
        let (directory, _) = self.agent.as_ref()?;
        let (process, descriptor) = (std::process::id(), directory.as_directory().as_fd().as_raw_fd());
        Some(format!("/proc/{process}/fd/{descriptor}/{SOCKET}"))
    }
}

fn forward(
    client: &Arc<dyn BuildClient>,
    directory: &Path,
    runtime: &Handle,
) -> Result<(RootDir, Agents), StepError> {
    if client.ssh(AGENT, Asked::Check).map_err(StepError::other)?.is_none() {
        return Err(StepError::other(format!(
            "no SSH key {AGENT:?} forwarded from the client: a repository over ssh needs an agent (--ssh {AGENT})"
        )));
    }
    palan_stdx::fs::create_dir(directory, 0o700).map_err(StepError::other)?;
    let owner = Owner { mode: 0o600, uid: 0, gid: 0 };
    let agents = Agents::listen(directory, &[(SOCKET.to_owned(), AGENT.to_owned(), owner)], client, runtime)?;
    Ok((RootDir::open(directory).map_err(StepError::other)?, agents))
}

/// The value of `Authorization` that the client's secrets come to.
fn of_secrets(remote: &str, client: &Arc<dyn BuildClient>) -> Result<Option<String>, StepError> {
    let host = host(remote);
    for (name, is_token) in [
        (format!("GIT_AUTH_HEADER.{host}"), false),
        (format!("GIT_AUTH_TOKEN.{host}"), true),
        ("GIT_AUTH_HEADER".to_owned(), false),
        ("GIT_AUTH_TOKEN".to_owned(), true),
    ] {
        let Some(value) = client.secret(&name).map_err(StepError::other)? else { continue };
        let value = String::from_utf8(value).ok();
        // Files end with a newline.
        let value = value.as_deref().map(str::trim_end).filter(|value| !value.contains(char::is_control));
        let value = value.ok_or_else(|| {
            StepError::other(format!("the secret {name:?} can't be a header: it is not one line of text"))
        })?;
        return Ok(Some(match is_token {
            true => format!("basic {}", STANDARD.encode(format!("x-access-token:{value}"))),
            false => value.to_owned(),
        }));
    }
    Ok(None)
}

/// Host and port of an address.
fn host(remote: &str) -> &str {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// Scheme, host and port.
fn origin(remote: &str) -> String {
    let (scheme, _) = remote.split_once("://").unwrap_or(("https", ""));
    format!("{scheme}://{}/", host(remote))
}

/// Where secrets are sent: to the repository. On GitHub, as its own tools do, to all repositories, since submodules are there, too.
fn scope(remote: &str) -> String {
    match remote.starts_with("https://") && matches!(host(remote), "github.com" | "www.github.com") {
        true => origin(remote),
        false => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_credentials_go() {
        assert_eq!(scope("https://github.com/a/b.git"), "https://github.com/");
        assert_eq!(scope("https://github.com.example.com/a/b.git"), "https://github.com.example.com/a/b.git");
        assert_eq!(scope("http://github.com/a.git"), "http://github.com/a.git");
        assert_eq!(scope("https://h:8443/a.git"), "https://h:8443/a.git");
        assert_eq!(
            (host("https://h:8443/a.git"), origin("http://h:1/a/b")),
            ("h:8443", "http://h:1/".to_owned())
        );
        assert!(
            is_ssh("ssh://h/a") && is_ssh("git@h:a") && !is_ssh("git://h/a") && !is_ssh("https://h/a.git")
        );
    }
}
