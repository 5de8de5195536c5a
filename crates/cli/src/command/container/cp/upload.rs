//! A local file or directory as a tar that is made while it is read.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use palan_linux::path::RootDir;
use palan_stdx::error_chain;
use palan_tar::pack::Picked;

use super::paths::Source;
use crate::error::{CliError, Result};

const PIECE: usize = 256 * 1024;
/// Pieces that are made ahead.
const AHEAD: usize = 4;

/// The reading end.
#[derive(Debug)]
pub(super) struct Upload {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
}

impl Upload {
    /// Starts the packing, with `name` as the name of the first entry.
    pub(super) fn start(source: &Source, name: String) -> Result<Self> {
        let failed = |error: &palan_linux::path::PathError| CliError::new(error_chain::to_string(error));
        let root = RootDir::open(&source.directory).map_err(|error| failed(&error))?;
        let picked = Picked::find(&root, Path::new(&source.entry), source.entry == ".");
        let picked = picked.map_err(|error| failed(&error))?;
        let (sender, pieces) = sync_channel(AHEAD);
        // It ends when the other end is dropped.
        std::thread::spawn(move || {
            let mut sink = Pieces { sender, piece: Vec::with_capacity(PIECE) };
            let packed = picked.write(name.as_bytes(), &mut sink);
            let outcome = match packed {
                Ok(()) => sink.flush(),
                Err(error) => Err(io::Error::other(error_chain::to_string(&error))),
            };
            if let Err(error) = outcome {
                // Whoever reads may have gone, and that may be the error.
                let _ = sink.sender.send(Err(error));
            }
        });
        Ok(Self { pieces, piece: Vec::new(), taken: 0 })
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.taken) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.piece[self.taken..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.taken += length;
        Ok(length)
    }
}

/// The writing end.
struct Pieces {
    sender: SyncSender<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
