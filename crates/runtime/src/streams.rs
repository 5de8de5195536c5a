//! The standard streams and further descriptors of a new process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use palan_linux::process;
use palan_linux::tty::WindowSize;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::Uid;

use crate::container::Stdio;
use crate::error::{Context, Error};

/// What [`Stdio`] asks for, opened by the caller: nothing of the container is involved.
#[derive(Debug)]
pub(crate) struct Streams {
    standard: Standard,
    extra: Vec<OwnedFd>,
}

#[derive(Debug)]
enum Standard {
    Inherit,
    Descriptors([OwnedFd; 3]),
    Terminal { size: Option<WindowSize>, translate_newlines: bool },
}

/// A terminal to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TerminalPlan {
    pub(crate) size: Option<WindowSize>,
    pub(crate) translate_newlines: bool,
}

impl TerminalPlan {
    /// With the size of the specification where the caller has none.
    pub(crate) fn or_size(self, size: Option<WindowSize>) -> Self {
        Self { size: self.size.or(size), ..self }
    }
}

impl Streams {
    pub(crate) fn open(stdio: &Stdio<'_>, extra: &[BorrowedFd<'_>]) -> Result<Self, Error> {
        let copy = |fd: BorrowedFd<'_>| above_standard(fd).context(|| "duplicate a descriptor".to_owned());
        let standard = match stdio {
            Stdio::Inherit => Standard::Inherit,
            Stdio::Terminal { size, translate_newlines } => {
                Standard::Terminal { size: *size, translate_newlines: *translate_newlines }
            }
            Stdio::Descriptors { stdin, stdout, stderr } => {
                Standard::Descriptors([copy(*stdin)?, copy(*stdout)?, copy(*stderr)?])
            }
            Stdio::Null => {
                let null =
                    rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                        .context(|| "open /dev/null".to_owned())?;
                let null = null.as_fd();
                Standard::Descriptors([copy(null)?, copy(null)?, copy(null)?])
            }
        };
        let extra = extra.iter().map(|fd| copy(*fd)).collect::<Result<_, _>>()?;
        Ok(Self { standard, extra })
    }

    /// The terminal, if one is wanted. What it leaves open is the specification's to say.
    pub(crate) fn terminal(&self) -> Option<TerminalPlan> {
        match self.standard {
            Standard::Terminal { size, translate_newlines } => {
                Some(TerminalPlan { size, translate_newlines })
            }
            _ => None,
        }
    }

    /// The lowest number that no descriptor of the program will have.
    pub(crate) fn first_free(&self) -> i32 {
        3 + i32::try_from(self.extra.len()).unwrap_or(i32::MAX - 3)
    }

    /// Makes pipes the user's own, so that a program that is not root can open `/dev/stdout` (moby#31243).
    pub(crate) fn give_pipes_to(&self, uid: u32) {
        let Standard::Descriptors(descriptors) = &self.standard else { return };
        for fd in descriptors {
            let is_pipe = rustix::fs::fstat(fd).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != uid
            });
            if is_pipe {
                // In a user namespace the owner may have no number there; then only the descriptor itself can be used.
                let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
            }
        }
    }

    /// Puts everything in its place, in the new process. `terminal` is the peer of a new terminal. Descriptors that stand where others go are closed: nothing but what lies at
    /// [`Streams::first_free`] and above may be used afterwards.
    pub(crate) fn place(self, terminal: Option<OwnedFd>) -> std::io::Result<()> {
        let first_free = self.first_free();
        let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, first_free);
        let extra = self.extra.iter().map(high).collect::<Result<Vec<_>, _>>()?;
        match &self.standard {
            Standard::Inherit => {}
            Standard::Descriptors(descriptors) => {
                for (number, fd) in (0..).zip(descriptors) {
                    process::place_descriptor(fd, number)?;
                }
            }
            Standard::Terminal { .. } => {
                if let Some(peer) = &terminal {
                    for number in 0..3 {
                        process::place_descriptor(peer, number)?;
                    }
                }
            }
        }
        for (number, fd) in (3..).zip(&extra) {
            process::place_descriptor(fd, number)?;
        }
        // The numbers of these may belong to the program by now: they must not be closed by a destructor.
        std::mem::forget((self, terminal));
        drop(extra);
        Ok(())
    }
}

/// A copy of `fd` above the standard streams, so that filling those never overwrites a source.
fn above_standard(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
