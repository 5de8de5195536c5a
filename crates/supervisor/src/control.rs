//! The connection to the daemon that counts now.

use std::rc::Rc;

use palan_linux::event::{Epoll, Interest};

use crate::protocol::Message;
use crate::protocol::frame::{Frame, FrameError, Frames};
use crate::wait::Generation;
use crate::watch::Token;

/// One connection of a daemon, watched by the loop.
#[derive(Debug)]
pub(crate) struct Control {
    frames: Frames,
    epoll: Rc<Epoll>,
    writing: bool,
    /// Its number, from the connection that the supervisor was spawned with on.
    pub(crate) generation: Generation,
    /// Whether the daemon has said `Hello`, and so wants to hear of journal entries.
    pub(crate) greeted: bool,
}

impl Control {
    /// Starts watching a connection.
    pub(crate) fn new(epoll: &Rc<Epoll>, frames: Frames, generation: Generation) -> rustix::io::Result<Self> {
        epoll.add(&frames, Token::Control.encode(), Interest::READ)?;
        Ok(Self { frames, epoll: Rc::clone(epoll), writing: false, generation, greeted: false })
    }

    /// The next request, if one is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        self.frames.next()
    }

    /// Queues a message; it is sent at the end of the loop's turn.
    pub(crate) fn queue(&mut self, message: &Message) -> Result<(), FrameError> {
        let Ok(body) = serde_json::to_vec(message) else { return Ok(()) };
        self.frames.queue(&body, Vec::new())
    }

    /// Queues a part of what the daemon has asked for and so will read, however much it is.
    pub(crate) fn queue_replay(&mut self, message: &Message) -> Result<(), FrameError> {
        let Ok(body) = serde_json::to_vec(message) else { return Ok(()) };
        self.frames.queue_regardless(&body, Vec::new())
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), FrameError> {
        self.frames.flush()?;
        let writing = self.frames.wants_write();
        if writing != self.writing {
            let interest = Interest { read: true, write: writing };
            self.epoll.modify(&self.frames, Token::Control.encode(), interest).map_err(FrameError::Io)?;
            self.writing = writing;
        }
        Ok(())
    }

    /// Whether everything has been sent.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.frames.wants_write()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The daemon's end may be in a process that it is about to execute, so the open file may outlive this.
        let _ = self.epoll.remove(&self.frames);
    }
}
