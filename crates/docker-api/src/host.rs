//! Where a daemon listens: `unix:///path`, `tcp://address:port`, or on another host behind `ssh://user@host:port`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::client::SshHost;

/// The address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A unix socket.
    Unix(PathBuf),
    /// Plain TCP: host (name or IP, brackets removed) and port.
    Tcp {
        /// A name or an IP address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The default socket of a host that `ssh` reaches. Nobody listens there.
    Ssh(SshHost),
}

/// The port of plain TCP when none is written.
pub const DEFAULT_TCP_PORT: u16 = 2375;

/// The port of TCP with TLS when none is written.
pub const DEFAULT_TLS_PORT: u16 = 2376;

/// Why a text is no usable address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostError {
    /// No such scheme, or none at all.
    #[error(
        "unable to parse docker host `{0}`: use unix:///path/to.sock, tcp://address:port or ssh://user@host"
    )]
    Malformed(String),
    /// A scheme that Docker knows and we do not speak.
    #[error("cannot use host {0}: the {1} protocol is not supported, use unix://, tcp:// or ssh://")]
    UnsupportedScheme(String, String),
}

impl FromStr for Host {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, ParseHostError> {
        Self::parse_with_port(text, DEFAULT_TCP_PORT)
    }
}

impl Host {
    /// Parses an address; `port` is the one of TCP where none is written.
    pub fn parse_with_port(text: &str, port: u16) -> Result<Self, ParseHostError> {
        let malformed = || ParseHostError::Malformed(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        match scheme {
            "unix" if !rest.is_empty() => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" => parse_tcp(rest, port).ok_or_else(malformed),
            "ssh" => SshHost::parse(rest).map(Self::Ssh).ok_or_else(malformed),
            "npipe" | "fd" | "https" => {
                Err(ParseHostError::UnsupportedScheme(text.to_owned(), scheme.to_owned()))
            }
            _ => Err(malformed()),
        }
    }
}

fn parse_tcp(rest: &str, default: u16) -> Option<Host> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('/') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => authority.rsplit_once(':').unwrap_or((authority, "")),
    };
    let port = if port.is_empty() { default } else { port.parse().ok()? };
    let host = if host.is_empty() { "localhost" } else { host };
    Some(Host::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ssh(host) => write!(f, "ssh://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(text.parse::<Host>().unwrap().to_string(), expected);
    }

    #[test]
    fn parses() {
        check("unix:///run/x.sock", "unix:///run/x.sock");
        check("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375");
        check("tcp://127.0.0.1", "tcp://127.0.0.1:2375");
        check("tcp://:80/", "tcp://localhost:80");
        check("tcp://[::1]:80", "tcp://[::1]:80");
        check("tcp://[::1]", "tcp://[::1]:2375");
        check("ssh://me@h:22", "ssh://me@h:22");
    }

    #[test]
    fn refuses() {
        for text in ["", "/run/x.sock", "unix://", "tcp://a:b", "tcp://a:1/x", "tcp://[::1", "gopher://x"] {
            assert!(matches!(text.parse::<Host>(), Err(ParseHostError::Malformed(_))), "{text}");
        }
        assert!(matches!("ssh://-x".parse::<Host>(), Err(ParseHostError::Malformed(_))));
        assert!(matches!("npipe://h".parse::<Host>(), Err(ParseHostError::UnsupportedScheme(..))));
    }
}
