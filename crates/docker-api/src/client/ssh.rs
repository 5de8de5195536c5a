//! A daemon on another host, reached by the `ssh` program, so that keys, agents and `~/.ssh/config` work as the user is
//! used to: there `palan system dial-stdio`, or Docker's own where that is what there is, connects its standard streams to
//! the daemon's socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// What the shell of the other host runs.
const REMOTE: &str = "if command -v palan >/dev/null 2>&1; then exec palan system dial-stdio; else exec docker system dial-stdio; fi";

/// Where `ssh` is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshHost {
    /// Who to be there; the configuration of `ssh` decides otherwise.
    pub user: Option<String>,
    /// A name, an address or an alias of `~/.ssh/config`.
    pub host: String,
    /// The port, if it is named.
    pub port: Option<u16>,
}

impl SshHost {
    /// Parses what stands behind `ssh://`. A host that `ssh` would take for an option is none.
    pub(crate) fn parse(rest: &str) -> Option<Self> {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, rest),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(address) => {
                let (host, port) = address.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().ok()).map_or(Some(None), |port| port.map(Some))?;
        let is_word = |text: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_graphic() && !"/?#'\"\\$`;&|<>(){}*!".contains(c))
        };
        (is_word(host) && user.is_none_or(is_word)).then(|| Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        })
    }

    /// Starts `ssh`. What it says of its own goes to this process's standard error; it ends when the connection is closed.
    #[expect(
        clippy::disallowed_methods,
        reason = "the user's own program, with the user's environment and terminal"
    )]
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("ssh");
        command.args(["-o", "ConnectTimeout=30", "-T"]);
        if let Some(user) = &self.user {
            command.args(["-l", user]);
        }
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        let input = OwnedFd::from(theirs.try_clone()?);
        command
            .args(["--", &self.host, REMOTE])
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(OwnedFd::from(theirs)));
        let mut child = command.spawn()?;
        // Somebody has to wait for it.
        std::thread::spawn(move || child.wait());
        Ok(ours)
    }
}

impl std::fmt::Display for SshHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        for text in ["h", "me@h.example", "me@h:22", "h:22", "[::1]:22", "me@[::1]"] {
            assert_eq!(SshHost::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(SshHost::parse("h/").unwrap().to_string(), "h");
    }

    #[test]
    fn nothing_becomes_an_option_or_a_command() {
        for text in [
            "",
            "-oProxyCommand=x",
            "-l@h",
            "me@",
            "h:",
            "h:x",
            "h:70000",
            "h/path",
            "a b",
            "h;id",
            "$(id)@h",
        ] {
            assert_eq!(SshHost::parse(text), None, "{text}");
        }
    }
}
