//! The sockets that the API is served on.
//!
//! A unix socket is made under a private name, given its mode and group, and then renamed into place, so that at no
//! moment somebody else can connect and a stale file of a killed daemon is replaced at once. A socket on which
//! somebody still listens is an error.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palan_docker_api::host::{DEFAULT_TCP_PORT, DEFAULT_TLS_PORT, Host, ParseHostError};
use tokio_rustls::rustls::ServerConfig;

use crate::handover::is_unix;
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

impl Listener {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(unix) => Self::Unix(unix.try_clone()?),
            Self::Tcp(tcp, tls) => Self::Tcp(tcp.try_clone()?, tls.clone()),
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(unix) => unix.as_fd(),
            Self::Tcp(tcp, _) => tcp.as_fd(),
        }
    }
}

/// What stands before the number of a socket that the service manager opened.
const INHERITED: &str = "fd://";

/// A listening socket of a daemon that is being replaced, and what it listens on.
#[derive(Debug)]
pub struct Offer {
    /// In the form of `-H`; `fd://` and a number for what the service manager opened.
    pub host: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets to serve. Files that were made here are removed when it is dropped.
#[derive(Debug, Default)]
pub struct Listeners {
    listeners: Vec<(String, Listener)>,
    files: Vec<PathBuf>,
    /// Sockets of an earlier daemon, which are taken before a new one is made.
    offers: Vec<Offer>,
    /// Files of such sockets, which are the earlier daemon's until it has gone.
    offered_files: Vec<PathBuf>,
}

impl Listeners {
    /// No socket yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No socket yet, but those of an earlier daemon for whoever asks for the same.
    pub fn with_offers(offers: Vec<Offer>) -> Self {
        Self { listeners: Vec::new(), files: Vec::new(), offers, offered_files: Vec::new() }
    }

    /// A TCP socket for the metrics, which give nobody any rights and may be read by whoever reaches it.
    pub fn add_metrics(&mut self, address: SocketAddr) -> Result<(), ListenError> {
        let failed = |source| ListenError::Io { address: address.to_string(), source };
        let host = format!("tcp://{address}");
        let listener = match self.offered(&host) {
            Some(socket) => TcpListener::from(socket),
            None => TcpListener::bind(address).map_err(failed)?,
        };
        self.listeners.push((host, Listener::Tcp(listener, None)));
        Ok(())
    }

    fn offered(&mut self, host: &str) -> Option<OwnedFd> {
        let index = self.offers.iter().position(|offer| offer.host == host)?;
        Some(self.offers.swap_remove(index).socket)
    }

    /// The sockets that the service manager opened for an earlier daemon.
    pub fn take_inherited_offers(&mut self) -> Vec<OwnedFd> {
        let is_inherited = |offer: &mut Offer| offer.host.starts_with(INHERITED);
        let mut found: Vec<Offer> = self.offers.extract_if(.., is_inherited).collect();
        found.sort_by_key(|offer| offer.host[INHERITED.len()..].parse::<usize>().unwrap_or(usize::MAX));
        found.into_iter().map(|offer| offer.socket).collect()
    }

    /// The earlier daemon has gone: what it listened on is this one's, and what this one does not want is given up.
    pub fn own_offers(&mut self) {
        self.files.append(&mut self.offered_files);
        for offer in self.offers.drain(..) {
            if let Ok(Host::Unix(path)) = Host::parse_with_port(&offer.host, DEFAULT_TCP_PORT) {
                // Somebody else may have removed it.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The sockets and what they listen on, to be offered to another daemon.
    pub fn sockets(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.listeners.iter().map(|(host, listener)| (host.as_str(), listener.as_fd()))
    }

    /// What is accepted from.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<Listener>> {
        self.listeners.iter().map(|(_, listener)| listener.try_clone()).collect()
    }

    /// Whether a connection that another daemon has accepted could have been made to one of these sockets, with as little protection. It
    /// may be a unix socket's in any case: whoever has one was let in by the file's owner.
    pub(crate) fn would_accept(&self, connection: &OwnedFd) -> bool {
        if is_unix(connection) {
            return true;
        }
        let local =
            rustix::net::getsockname(connection).ok().and_then(|local| SocketAddr::try_from(local).ok());
        let Some(local) = local else { return false };
        self.listeners.iter().any(|(_, listener)| match listener {
            Listener::Tcp(tcp, None) => tcp.local_addr().is_ok_and(|address| {
                let same = address.ip().to_canonical() == local.ip().to_canonical();
                address.port() == local.port() && (same || address.ip().is_unspecified())
            }),
            Listener::Tcp(_, Some(_)) | Listener::Unix(_) => false,
        })
    }

    /// Ends listening and removes the files.
    pub(crate) fn close(&mut self) {
        self.listeners.clear();
        for file in self.files.drain(..) {
            // A missing file was removed by somebody else, and nothing more can be done for another error.
            let _ = fs::remove_file(file);
        }
    }

    /// Another daemon listens on the same sockets: their files stay.
    pub fn leave_files(&mut self) {
        self.files.clear();
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
        let host = Host::Unix(path.to_owned()).to_string();
        let listener = match self.offered(&host) {
            Some(socket) => {
                let failed = |source| ListenError::Io { address: host.clone(), source };
                chown(path, None, gid).map_err(failed)?;
                self.offered_files.push(path.to_owned());
                UnixListener::from(socket)
            }
            None => {
                let listener = bind_unix(path, gid)?;
                self.files.push(path.to_owned());
                listener
            }
        };
        self.listeners.push((host, Listener::Unix(listener)));
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
                warn_about_plain_text(&host.to_string());
                None
            }
        };
        let address = host.to_string();
        let listener = match self.offered(&address) {
            Some(socket) => TcpListener::from(socket),
            None => TcpListener::bind(SocketAddr::new(ip, *port))
                .map_err(|source| ListenError::Io { address: address.clone(), source })?,
        };
        self.listeners.push((address, Listener::Tcp(listener, tls)));
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
                let address = tcp.local_addr().map_err(|_| ListenError::Inherited(index))?;
                let tls = match protection {
                    Protection::Tls(config) => Some(Arc::clone(config)),
                    Protection::Unsaid | Protection::None => {
                        warn_about_plain_text(&format!("tcp://{address}"));
                        None
                    }
                };
                Listener::Tcp(tcp, tls)
            };
            self.listeners.push((format!("{INHERITED}{index}"), listener));
        }
        Ok(())
    }

    /// The addresses of the TCP sockets, for a port that the kernel chose.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.listeners.iter().filter_map(|(_, listener)| match listener {
            Listener::Tcp(tcp, _) => tcp.local_addr().ok(),
            Listener::Unix(_) => None,
        });
        tcp.collect()
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.close();
    }
}

fn warn_about_plain_text(address: &str) {
    tracing::warn!(
        address,
        "the API is served without encryption and without asking who is there: whoever can connect, and every page in a browser on \
         this host, has the rights of root"
    );
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
        first.leave_files();
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
    fn offered_sockets_are_taken_and_others_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let [kept, left] = ["kept", "left"].map(|name| directory.path().join(name));
        let mut old = Listeners::new();
        old.add_unix(&kept, None).unwrap();
        old.add_unix(&left, None).unwrap();
        let offers = || {
            let offer = |(host, socket): (&str, BorrowedFd<'_>)| Offer {
                host: host.to_owned(),
                socket: socket.try_clone_to_owned().unwrap(),
            };
            old.sockets().map(offer).collect()
        };
        // One that does not get to the end changes nothing.
        let mut failed = Listeners::with_offers(offers());
        failed.add_unix(&kept, None).unwrap();
        drop(failed);
        assert!(kept.exists() && left.exists());
        let mut new = Listeners::with_offers(offers());
        new.add_unix(&kept, None).unwrap();
        new.own_offers();
        old.leave_files();
        drop(old);
        assert!(kept.exists() && !left.exists());
        UnixStream::connect(&kept).unwrap();
        drop(new);
        assert!(!kept.exists());
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
