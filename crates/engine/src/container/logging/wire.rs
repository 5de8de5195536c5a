//! Connections to whoever receives logs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palan_registry::lookup_host;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a receiver may take nothing of what is sent to it, or say nothing when it has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Where a receiver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(String, u16),
    Tls(String, u16),
    Udp(String, u16),
    Unix(PathBuf),
    Unixgram(PathBuf),
}

impl Address {
    /// Parses `scheme://host[:port]` or `scheme:///path`; `None` for what is none.
    pub(super) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let path = |rest: &str| Some(PathBuf::from(rest)).filter(|path| path.is_absolute());
        match scheme {
            "unix" => return path(rest).map(Self::Unix),
            "unixgram" => return path(rest).map(Self::Unixgram),
            _ => {}
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':').unwrap_or(port))
            }
            None => rest.rsplit_once(':').unwrap_or((rest, "")),
        };
        let port = if port.is_empty() { default_port } else { port.parse().ok()? };
        if host.is_empty() || host.contains(['/', ' ']) {
            return None;
        }
        let host = host.to_owned();
        match scheme {
            "tcp" => Some(Self::Tcp(host, port)),
            "tcp+tls" | "tls" => Some(Self::Tls(host, port)),
            "udp" => Some(Self::Udp(host, port)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
            Self::Tls(host, port) => write!(f, "tcp+tls://{host}:{port}"),
            Self::Udp(host, port) => write!(f, "udp://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Wire {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Udp(UdpSocket),
    Unix(UnixStream),
    Unixgram(UnixDatagram),
}

impl Wire {
    /// Connects; `tls` is needed for an address that says so.
    pub(super) async fn connect(address: &Address, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        within(CONNECT_TIMEOUT, Self::connect_now(address, tls)).await
    }

    async fn connect_now(address: &Address, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        match address {
            Address::Tcp(host, port) => tcp(host, *port).await.map(Self::Tcp),
            Address::Tls(host, port) => {
                let config = tls.ok_or(io::ErrorKind::InvalidInput)?;
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let stream =
                    TlsConnector::from(Arc::clone(config)).connect(name, tcp(host, *port).await?).await?;
                Ok(Self::Tls(Box::new(stream)))
            }
            Address::Udp(host, port) => {
                let target = first(host, *port).await?;
                let own: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                let socket = UdpSocket::bind(SocketAddr::new(own, 0)).await?;
                socket.connect(target).await?;
                Ok(Self::Udp(socket))
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
            Address::Unixgram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Self::Unixgram(socket))
            }
        }
    }

    /// Sends messages: on a stream one after the other, else a datagram for each. An error if nothing is taken for a while.
    pub(super) async fn send(&mut self, messages: &[Vec<u8>]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => {
                for message in messages {
                    within(PATIENCE, socket.send(message)).await?;
                }
                Ok(())
            }
            Self::Unixgram(socket) => {
                for message in messages {
                    within(PATIENCE, socket.send(message)).await?;
                }
                Ok(())
            }
            Self::Tcp(stream) => {
                // A write to a connection that the other side has closed succeeds once, and is lost.
                check_open(stream.try_read(&mut [0]))?;
                write_all(stream, &messages.concat(), PATIENCE).await
            }
            Self::Unix(stream) => {
                check_open(stream.try_read(&mut [0]))?;
                write_all(stream, &messages.concat(), PATIENCE).await
            }
            Self::Tls(stream) => {
                write_all(stream, &messages.concat(), PATIENCE).await?;
                within(PATIENCE, stream.flush()).await
            }
        }
    }

    /// Sends one message on a stream whose receiver answers.
    pub(super) async fn send_unchecked(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => write_all(stream, message, PATIENCE).await,
            Self::Unix(stream) => write_all(stream, message, PATIENCE).await,
            other => other.send(&[message.to_vec()]).await,
        }
    }

    /// Reads some of an answer.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Unix(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
            Self::Udp(_) | Self::Unixgram(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Writes all, however long that takes, as long as some of it is taken within each `limit`.
async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    limit: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = within(limit, stream.write(bytes)).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
    }
    Ok(())
}

pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn check_open(read: io::Result<usize>) -> io::Result<()> {
    match read {
        Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
        // What it says is nothing that is asked for.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

async fn first(host: &str, port: u16) -> io::Result<SocketAddr> {
    let found = match host {
        "localhost" => vec![IpAddr::from([127, 0, 0, 1])],
        name => match name.parse() {
            Ok(address) => vec![address],
            Err(_) => lookup_host(name).await.map_err(io::Error::other)?,
        },
    };
    let address = found.first().ok_or_else(|| io::Error::other(format!("lookup {host}: no such host")))?;
    Ok(SocketAddr::new(*address, port))
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(first(host, port).await?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (mut own, mut other) = tokio::io::duplex(16);
        let limit = Duration::from_millis(20);
        let error = write_all(&mut own, &[0; 17], limit).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        other.read_exact(&mut [0; 16]).await.expect("reads");
        write_all(&mut own, &[0; 16], limit).await.expect("there is room");
    }

    #[test]
    fn addresses() {
        let check = |text: &str, expected: Option<&str>| {
            let found = Address::parse(text, 514).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("udp://1.2.3.4", Some("udp://1.2.3.4:514"));
        check("tcp://host:601", Some("tcp://host:601"));
        check("tcp+tls://host:6514", Some("tcp+tls://host:6514"));
        check("unix:///dev/log", Some("unix:///dev/log"));
        check("tcp://[::1]:5", Some("tcp://::1:5"));
        for wrong in ["host", "ftp://host", "tcp://", "tcp://host:port", "unix://relative", "tcp://a/b"] {
            check(wrong, None);
        }
    }
}
