//! What systemd gives a service, passed on to the container: `NOTIFY_SOCKET` (sd_notify(3)) and `LISTEN_FDS`
//! (sd_listen_fds(3)).
//!
//! systemd's socket is not in the container, and its word would not be taken from there. So the container has a socket of its
//! own, in a directory of its state that is bound read-only at `/run/notify`. Whoever starts the container listens there:
//!
//! ```text
//! create  makes the directory        container ── READY=1 ──▶ /run/notify/notify.sock
//! start   binds the socket                                          │ start, run
//! run     does both                  systemd  ◀── READY=1, MAINPID=… ──┘
//! ```
//!
//! `run` in the foreground is what systemd goes on watching, and so names itself; `start` and `run --detach` name the
//! container's process, and stay until it is ready or has ended. Other messages of the container stay here, as with runc.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use palan_linux::{process as os, socket};
use palan_oci::runtime_spec::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::Failure;
use super::state::Home;

/// Where the container finds the directory.
const PLACE: &str = "/run/notify";
const SOCKET: &str = "notify.sock";

/// How long systemd may take to read what it was told (`sd_notify_barrier(3)`); one before v246 never says.
const BARRIER_SECONDS: i64 = 30;

/// The proxy of one container.
#[derive(Debug)]
pub(super) struct Notify {
    /// The socket of whoever has started this process.
    host: SocketAddr,
    directory: PathBuf,
}

impl Notify {
    /// `None`: nobody waits for word.
    pub(super) fn from_environment(home: &Home) -> Result<Option<Self>, Failure> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let host =
            address(&name).map_err(|error| Failure::new(format!("NOTIFY_SOCKET {name:?}: {error}")))?;
        Ok(Some(Self { host, directory: home.path.join("notify") }))
    }

    /// Makes the directory and has the container see it.
    pub(super) fn prepare(&self, spec: &mut Spec) -> Result<(), Failure> {
        rustix::fs::mkdir(&self.directory, Mode::from_raw_mode(0o755))
            .map_err(|errno| failed(&format!("make {}", self.directory.display()), errno))?;
        spec.mounts.push(Mount {
            destination: PLACE.to_owned(),
            source: self.directory.to_string_lossy().into_owned(),
            options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
            ..Mount::default()
        });
        if let Some(process) = &mut spec.process {
            process.env.push(format!("NOTIFY_SOCKET={PLACE}/{SOCKET}"));
        }
        Ok(())
    }

    /// Makes the socket, for every user of the container.
    pub(super) fn listen(&self) -> Result<Listener, Failure> {
        let bind = || -> io::Result<UnixDatagram> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(CWD, &self.directory, flags, Mode::empty())?;
            // The path of a socket has no more than 107 bytes.
            let short = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
            let socket = UnixDatagram::bind(short)?;
            rustix::fs::chmodat(&directory, SOCKET, Mode::from_raw_mode(0o777), AtFlags::empty())?;
            Ok(socket)
        };
        let socket = bind().map_err(|error| failed("make the socket of NOTIFY_SOCKET", error))?;
        Ok(Listener { socket, host: self.host.clone() })
    }
}

/// The container's socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixDatagram,
    host: SocketAddr,
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Takes one message. If it says that the container is ready, that is passed on with the PID to watch. Whether it did.
    pub(super) fn pass_on(&self, main_pid: i32) -> Result<Option<Told>, Failure> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).map_err(|error| failed("hear the container", error))?;
        let Some(ready) = ready(&message[..length]) else { return Ok(None) };
        let tell = || -> io::Result<UnixDatagram> {
            let host = UnixDatagram::unbound()?;
            host.connect_addr(&self.host)?;
            host.send(&[ready, b"\n"].concat())?;
            host.send(format!("MAINPID={main_pid}\n").as_bytes())?;
            Ok(host)
        };
        tell().map(|host| Some(Told(host))).map_err(|error| failed("tell NOTIFY_SOCKET", error))
    }

    /// Waits until the container is ready and whoever waits for it knows, or until it has ended.
    pub(super) fn attend(&self, pid: i32, pidfd: &OwnedFd) -> Result<(), Failure> {
        loop {
            let mut both = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
            match poll(&mut both, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("wait for the container", errno)),
                Ok(_) if !both[0].revents().is_empty() => {
                    if let Some(told) = self.pass_on(pid)? {
                        return told.wait().map_err(|error| failed("wait for NOTIFY_SOCKET", error));
                    }
                }
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// The other side has been told.
#[derive(Debug)]
pub(super) struct Told(UnixDatagram);

impl Told {
    /// Waits until it has read that: for a caller that ends next, and of whom it could then know nothing.
    fn wait(&self) -> io::Result<()> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        socket::send_with_descriptors(&self.0, b"BARRIER=1", &[write.as_fd()])?;
        drop(write);
        let mut closed = [PollFd::new(&read, PollFlags::IN)];
        poll(&mut closed, Some(&Timespec { tv_sec: BARRIER_SECONDS, tv_nsec: 0 }))?;
        Ok(())
    }
}

/// The line of a message that says so.
fn ready(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

/// A path, or with `@` first an abstract name.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(name)),
    }
}

fn failed(what: &str, error: impl Into<io::Error>) -> Failure {
    Failure::new(format!("cannot {what}: {}", error.into()))
}

/// The sockets that systemd has opened for this very process: the container's from now on, which is told in its environment.
pub(super) fn listen_fds(spec: &mut Spec) -> Result<Vec<OwnedFd>, Failure> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let count = number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id()));
    let Some(count) = count.filter(|count| *count > 0) else { return Ok(Vec::new()) };
    if let Some(process) = &mut spec.process {
        process.env.push(format!("LISTEN_FDS={count}"));
        // Its PID in the container.
        process.env.push("LISTEN_PID=1".to_owned());
    }
    inherited(3, count)
        .map_err(|(number, error)| Failure::new(format!("LISTEN_FDS: descriptor {number}: {error}")))
}

/// `count` descriptors that this process was started with, from `first` on; or the one that is not there.
pub(super) fn inherited(first: u32, count: u32) -> Result<Vec<OwnedFd>, (u32, io::Error)> {
    let end = first.saturating_add(count);
    (first..end).map(|number| os::inherited_descriptor(number).map_err(|error| (number, error))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_ready() {
        for (message, line) in [
            ("READY=1", Some("READY=1")),
            ("READY=1\nSTATUS=up", Some("READY=1")),
            ("STATUS=up\nREADY=1\n", Some("READY=1")),
            ("STATUS=READY=1", None),
            ("", None),
        ] {
            assert_eq!(ready(message.as_bytes()), line.map(str::as_bytes), "{message:?}");
        }
    }

    #[test]
    fn names_of_sockets() {
        assert_eq!(address(OsStr::new("@x")).unwrap().as_abstract_name(), Some(&b"x"[..]));
        assert_eq!(address(OsStr::new("/run/x")).unwrap().as_pathname(), Some(Path::new("/run/x")));
        assert!(address(OsStr::new(&format!("/{}", "x".repeat(200)))).is_err());
    }
}
