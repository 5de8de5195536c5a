//! The sockets that the API is served on.
//!
//! A unix socket is made under a private name, given its mode and group, and then renamed into place, so that at no
//! moment somebody else can connect and a stale file of a killed daemon is replaced at once. A socket on which
//! somebody still listens is an error.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palan_docker_api::host::{DEFAULT_TCP_PORT, DEFAULT_TLS_PORT, Host, ParseHostError};
use tokio_rustls::rustls::ServerConfig;

use crate::tls::TlsError;

/// The group that may use the API, if it exists.
const DEFAULT_GROUP: &str = "palan";

/// The longest path of a unix socket (`sun_path` with its end).
const MAX_SOCKET_PATH: usize = 107;

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address that only a client can use.
    #[error("cannot listen on {0}: use unix:///path/to.sock or tcp://address:port")]
    Elsewhere(Host),
    /// The address is none.
    #[error(transparent)]
    Host(#[from] ParseHostError),
    /// The API gives root, so it is not offered to the network without TLS unless somebody says so.
    #[error(
        "cannot listen on {0}: without TLS everybody who can reach this address has the rights of root on this host; use \
         --tlsverify, or --tls=false if that is what you want"
    )]
    NotLoopback(Host),
    /// No address of this host.
    #[error("cannot listen on {0}: write an IP address of this host, or localhost")]
    NoAddress(Host),
    /// Certificate, key or authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Another daemon.
    #[error("cannot listen on {0}: another daemon is listening there")]
    InUse(PathBuf),
    /// Something that must not be replaced.
    #[error("cannot listen on {0}: a file that is no socket is in the way")]
    NotASocket(PathBuf),
    /// Longer than the kernel takes.
    #[error("cannot listen on {0}: the path is longer than {max} bytes", max = MAX_SOCKET_PATH)]
    TooLong(PathBuf),
    /// The group was named by the user and does not exist.
    #[error("cannot give the socket to group {0}: there is no such group in /etc/group")]
    UnknownGroup(String),
    /// A call failed.
    #[error("cannot listen on {address}")]
    Io {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// An inherited descriptor that is no listening socket.
    #[error("the inherited socket {0} is neither a unix nor a TCP socket")]
    Inherited(usize),
}

/// One listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Option<Arc<ServerConfig>>),
}

/// How TCP connections are protected.
#[derive(Debug, Clone, Default)]
pub enum Protection {
    /// Nobody said anything: not at all, so only loopback addresses are served.
    #[default]
    Unsaid,
    /// Somebody asked for no protection.
    None,
    /// TLS.
    Tls(Arc<ServerConfig>),
}

/// The sockets to serve. Files that were made here are removed when it is dropped.
#[derive(Debug, Default)]
pub struct Listeners {
    pub(crate) listeners: Vec<Listener>,
    files: Vec<PathBuf>,
}

impl Listeners {
    /// No socket yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A TCP socket for the metrics, which give nobody any rights and may be read by whoever reaches it.
    pub fn for_metrics(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address);
        let listener = listener.map_err(|source| ListenError::Io { address: address.to_string(), source })?;
        Ok(Self { listeners: vec![Listener::Tcp(listener, None)], files: Vec::new() })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Listens on `unix://…` or `tcp://…`. `group` is the one the user asked for; without it, `palan` is taken if it exists.
    pub fn add_host(
        &mut self,
        host: &str,
        group: Option<&str>,
        protection: &Protection,
    ) -> Result<(), ListenError> {
        let port = match protection {
            Protection::Tls(_) => DEFAULT_TLS_PORT,
            Protection::Unsaid | Protection::None => DEFAULT_TCP_PORT,
        };
        match Host::parse_with_port(host, port)? {
            Host::Unix(path) => self.add_unix(&path, group),
            host @ Host::Tcp { .. } => self.add_tcp(host, protection),
            host @ Host::Ssh(_) => Err(ListenError::Elsewhere(host)),
        }
    }

    /// Listens on a unix socket.
    pub fn add_unix(&mut self, path: &Path, group: Option<&str>) -> Result<(), ListenError> {
        let gid = match group {
            Some(name) => Some(group_id(name).ok_or_else(|| ListenError::UnknownGroup(name.to_owned()))?),
            None => group_id(DEFAULT_GROUP),
        };
        self.listeners.push(Listener::Unix(bind_unix(path, gid)?));
        self.files.push(path.to_owned());
        Ok(())
    }

    fn add_tcp(&mut self, host: Host, protection: &Protection) -> Result<(), ListenError> {
        let Host::Tcp { host: name, port } = &host else { return Ok(()) };
        let ip = match name.as_str() {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            name => name.parse::<std::net::IpAddr>().ok(),
        };
        let Some(ip) = ip else { return Err(ListenError::NoAddress(host)) };
        let tls = match protection {
            Protection::Tls(config) => Some(Arc::clone(config)),
            Protection::Unsaid if !ip.is_loopback() => return Err(ListenError::NotLoopback(host)),
            Protection::Unsaid | Protection::None => {
                tracing::warn!(
                    address = %host,
                    "the API is served without encryption and without asking who is there: whoever can connect, and every page \
                     in a browser on this host, has the rights of root"
                );
                None
            }
        };
        let listener = TcpListener::bind(SocketAddr::new(ip, *port));
        let listener = listener.map_err(|source| ListenError::Io { address: host.to_string(), source })?;
        self.listeners.push(Listener::Tcp(listener, tls));
        Ok(())
    }

    /// Takes sockets that the service manager opened (`LISTEN_FDS`), in their order.
    pub fn add_inherited(
        &mut self,
        sockets: Vec<OwnedFd>,
        protection: &Protection,
    ) -> Result<(), ListenError> {
        for (index, socket) in sockets.into_iter().enumerate() {
            let unix = UnixListener::from(socket);
            let listener = if unix.local_addr().is_ok() {
                Listener::Unix(unix)
            } else {
                let tcp = TcpListener::from(OwnedFd::from(unix));
                tcp.local_addr().map_err(|_| ListenError::Inherited(index))?;
                Listener::Tcp(
                    tcp,
                    match protection {
                        Protection::Tls(config) => Some(Arc::clone(config)),
                        Protection::Unsaid | Protection::None => None,
                    },
                )
            };
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// The addresses of the TCP sockets, for a port that the kernel chose.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.listeners.iter().filter_map(|listener| match listener {
            Listener::Tcp(tcp, _) => tcp.local_addr().ok(),
            Listener::Unix(_) => None,
        });
        tcp.collect()
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for file in &self.files {
            // A missing file was removed by somebody else, and nothing more can be done for another error.
            let _ = fs::remove_file(file);
        }
    }
}

fn bind_unix(path: &Path, gid: Option<u32>) -> Result<UnixListener, ListenError> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(ListenError::TooLong(path.to_owned()));
    }
    let failed = |source| ListenError::Io { address: format!("unix://{}", path.display()), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(ListenError::InUse(path.to_owned())),
        // A socket that nobody answers on was left by a killed daemon.
        Ok(_) | Err(_) => {}
    }
    let mut private = path.as_os_str().to_owned();
    private.push(format!(".{}", std::process::id()));
    let private = PathBuf::from(private);
    // Left over from a killed daemon that had the same process id.
    let _ = fs::remove_file(private.join("s"));
    let _ = fs::remove_dir(&private);
    DirBuilder::new().mode(0o700).create(&private).map_err(failed)?;
    let listener = bind_in(&private, path, gid).map_err(failed);
    // It is empty after success; after a failure the error at hand says more.
    let _ = fs::remove_file(private.join("s"));
    let _ = fs::remove_dir(&private);
    listener
}

/// Binds in the private directory and renames into place.
fn bind_in(private: &Path, path: &Path, gid: Option<u32>) -> io::Result<UnixListener> {
    let directory = File::open(private)?;
    // By way of the descriptor, since the longer name may not fit into a socket address.
    let short = format!("/proc/self/fd/{}/s", directory.as_raw_fd());
    let listener = UnixListener::bind(&short)?;
    if gid.is_some() {
        chown(&short, None, gid)?;
    }
    fs::set_permissions(&short, Permissions::from_mode(0o660))?;
    fs::rename(&short, path)?;
    Ok(listener)
}

/// The number of a group, read from the file itself: the C library would load NSS modules.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    find_group(&fs::read_to_string("/etc/group").ok()?, name)
}

fn find_group(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_groups() {
        let file = "root:x:0:\npalan-x:x:7:\npalan:x:998:a,b\nbroken\n";
        assert_eq!(find_group(file, "palan"), Some(998));
        assert_eq!(find_group(file, "nobody"), None);
        assert_eq!(find_group(file, "broken"), None);
    }

    #[test]
    fn replaces_stale_sockets_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let mut first = Listeners::new();
        first.add_unix(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listeners::new().add_unix(&path, None), Err(ListenError::InUse(_))));
        // A killed daemon leaves its file.
        first.files.clear();
        drop(first);
        assert!(path.exists());
        let mut second = Listeners::new();
        second.add_unix(&path, Some("0")).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn refuses_what_is_no_good() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "data").unwrap();
        let mut listeners = Listeners::new();
        assert!(matches!(listeners.add_unix(&file, None), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&file).unwrap(), b"data");
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(listeners.add_unix(&long, None), Err(ListenError::TooLong(_))));
        let group = listeners.add_unix(&directory.path().join("s"), Some("no-such-group"));
        assert!(matches!(group, Err(ListenError::UnknownGroup(_))));
        let unsaid = Protection::Unsaid;
        let refused = listeners.add_host("tcp://0.0.0.0:0", None, &unsaid);
        assert!(matches!(refused, Err(ListenError::NotLoopback(_))));
        let refused = listeners.add_host("tcp://example.com:1", None, &unsaid);
        assert!(matches!(refused, Err(ListenError::NoAddress(_))));
        listeners.add_host("tcp://127.0.0.1:0", None, &unsaid).unwrap();
        listeners.add_host("tcp://0.0.0.0:0", None, &Protection::None).unwrap();
        assert_eq!(listeners.tcp_addresses().len(), 2);
    }
}
