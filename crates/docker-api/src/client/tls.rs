//! TLS to a daemon: the certificates, and a connection whose plain side is a socket.
//!
//! Sessions need a descriptor that can be polled, cloned and half closed, which TLS has not. So a thread carries bytes between the
//! encrypted connection and one end of a socket pair; all else sees the other end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palan_tls::AnyCertificate;
use rustix::event::{PollFd, PollFlags, poll};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// How long a daemon may take for its part of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes carried at once.
const PIECE: usize = 64 * 1024;

/// The files of a client, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that the daemon's certificate must come from; without it any certificate will do.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its key, for a daemon that asks.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What is needed to speak TLS.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ClientConfig>);

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot use the TLS {what} {}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// The library refuses.
    #[error("the TLS certificates can't be used")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// Reads the files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = match &files.authorities {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("authorities", path)? {
                    roots.add(certificate)?;
                }
                builder.with_root_certificates(roots)
            }
            // `--tls` without `--tlsverify`.
            None => builder.dangerous().with_custom_certificate_verifier(AnyCertificate::new(provider)),
        };
        let config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let failed = |source| TlsError::File { what: "key", path: key.clone(), source };
                let chain = certificates("certificate", certificate)?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).map_err(failed)?)?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands, and gives the plain side.
    pub(super) fn connect(&self, host: &str, mut socket: TcpStream) -> io::Result<UnixStream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        socket.set_read_timeout(None)?;
        let (ours, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        std::thread::spawn(move || {
            // Whoever reads sees the end of the stream, and that is all there is to tell.
            let _ =
                Relay { tls, socket, plain: theirs, input: Vec::new(), plain_ended: false, tls_ended: false }
                    .run();
        });
        Ok(ours)
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    palan_tls::certificates(path).map_err(|source| TlsError::File { what, path: path.to_owned(), source })
}

/// Carries bytes both ways; each side's end is told to the other.
struct Relay {
    tls: ClientConnection,
    socket: TcpStream,
    plain: UnixStream,
    /// Decrypted and not taken yet.
    input: Vec<u8>,
    plain_ended: bool,
    /// The daemon has said all that it will; some of it may still be in `input`.
    tls_ended: bool,
}

impl Relay {
    fn run(mut self) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let mut encrypted = PollFlags::empty();
            encrypted.set(PollFlags::IN, self.input.is_empty() && !self.tls_ended);
            encrypted.set(PollFlags::OUT, self.tls.wants_write());
            let mut plain = PollFlags::empty();
            plain.set(PollFlags::IN, !self.plain_ended && !self.tls.wants_write());
            plain.set(PollFlags::OUT, !self.input.is_empty());
            let mut ready = [PollFd::new(&self.socket, encrypted), PollFd::new(&self.plain, plain)];
            // A socket whose other side has gone is ready all the time, also for what nobody asks for.
            let is_waited_for = !self.tls_ended && !encrypted.is_empty();
            let waited_for = if is_waited_for { &mut ready[..] } else { &mut ready[1..] };
            match poll(waited_for, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let (encrypted, plain) = (ready[0].revents(), ready[1].revents());
            if self.input.is_empty() && encrypted.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            {
                self.take_encrypted(&mut piece)?;
            }
            if self.tls.wants_write() && encrypted.contains(PollFlags::OUT) {
                would_block(self.tls.write_tls(&mut self.socket))?;
            }
            if plain.contains(PollFlags::IN) || (plain.contains(PollFlags::HUP) && !self.plain_ended) {
                self.take_plain(&mut piece)?;
            }
            if plain.contains(PollFlags::ERR) || (self.plain_ended && plain.contains(PollFlags::HUP)) {
                // Nobody reads any more.
                while self.tls.wants_write() && would_block(self.tls.write_tls(&mut self.socket))?.is_some() {
                }
                return self.socket.shutdown(Shutdown::Both);
            }
            if !self.input.is_empty() {
                self.give_plain()?;
            }
            if self.tls_ended && self.input.is_empty() {
                return self.plain.shutdown(Shutdown::Both);
            }
        }
    }

    fn take_encrypted(&mut self, piece: &mut [u8]) -> io::Result<()> {
        let Some(count) = would_block(self.tls.read_tls(&mut self.socket))? else { return Ok(()) };
        self.tls.process_new_packets().map_err(io::Error::other)?;
        loop {
            match self.tls.reader().read(piece) {
                Ok(0) => {
                    self.tls_ended = true;
                    break;
                }
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The connection was cut; what came before is given all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.tls_ended = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.tls_ended |= count == 0;
        Ok(())
    }

    fn take_plain(&mut self, piece: &mut [u8]) -> io::Result<()> {
        match would_block(self.plain.read(piece))? {
            None => {}
            Some(0) => {
                self.plain_ended = true;
                self.tls.send_close_notify();
            }
            Some(count) => self.tls.writer().write_all(&piece[..count])?,
        }
        Ok(())
    }

    fn give_plain(&mut self) -> io::Result<()> {
        if let Some(count) = would_block(self.plain.write(&self.input))? {
            self.input.drain(..count);
        }
        Ok(())
    }
}

fn would_block(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
