//! Pseudo terminals: opening a pair in a given devpts instance, sizes, modes, the controlling terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Termios, Winsize};

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// A master and the descriptor of its other end.
#[derive(Debug)]
pub struct Pty {
    /// The side that a terminal emulator reads and writes.
    pub master: OwnedFd,
    /// The side that programs use as their terminal.
    pub peer: OwnedFd,
}

/// Opens a pair in the devpts instance whose root directory is `devpts`.
///
/// The peer comes from the master itself (`TIOCGPTPEER`), never from a path: nobody can slip another file in
/// (CVE-2025-52565).
pub fn open_in(devpts: impl AsFd) -> io::Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    finish(rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())?)
}

/// Opens a pair in the caller's own devpts instance (`/dev/ptmx`).
pub fn open() -> io::Result<Pty> {
    finish(rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?)
}

fn finish(master: OwnedFd) -> io::Result<Pty> {
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Pty { master, peer })
}

/// Makes the terminal `peer` the controlling one of the calling session leader.
pub fn set_controlling(peer: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(peer)?)
}

/// The size of the terminal.
pub fn window_size(fd: impl AsFd) -> io::Result<WindowSize> {
    let size = rustix::termios::tcgetwinsize(fd)?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of the terminal.
pub fn set_window_size(fd: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(fd, size)?)
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// Puts the terminal into raw mode and returns the modes it had, for [`restore`].
pub fn make_raw(fd: impl AsFd) -> io::Result<Termios> {
    let before = rustix::termios::tcgetattr(&fd)?;
    let mut raw = before.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(&fd, OptionalActions::Now, &raw)?;
    Ok(before)
}

/// Puts modes back that [`make_raw`] returned.
pub fn restore(fd: impl AsFd, modes: &Termios) -> io::Result<()> {
    Ok(rustix::termios::tcsetattr(fd, OptionalActions::Now, modes)?)
}

/// Switches off the translation of `\n` to `\r\n` on output: for a terminal whose reader is raw itself.
pub fn disable_newline_translation(fd: impl AsFd) -> io::Result<()> {
    let mut modes = rustix::termios::tcgetattr(&fd)?;
    modes.output_modes.remove(OutputModes::ONLCR);
    Ok(rustix::termios::tcsetattr(&fd, OptionalActions::Now, &modes)?)
}

/// Switches echo off or on.
pub fn set_echo(fd: impl AsFd, on: bool) -> io::Result<()> {
    let mut modes = rustix::termios::tcgetattr(&fd)?;
    modes.local_modes.set(LocalModes::ECHO, on);
    Ok(rustix::termios::tcsetattr(&fd, OptionalActions::Now, &modes)?)
}
