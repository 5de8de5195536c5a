//! Reading a container's log: the past in big pieces from a blocking thread, then what is written until the container ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::container::LogOptions;
use crate::container::index::Handle;
use crate::container::lifecycle::has_exited_since;
use crate::container::log_reader::{LogReader, Piece, header};
use crate::container::log_watch::Watch;
use crate::container::logging;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::stream::Items;
use crate::{Error, Result};

/// Pieces that wait for a slow client; more would only cost memory.
const BACKLOG: usize = 4;
/// Pieces read in one visit of the blocking thread.
const PIECES_AT_ONCE: usize = 4;

/// How old a container is that had its chance to say something.
const FIRST_WORDS: Duration = Duration::from_millis(250);

/// Log lines as chunks that are ready to be sent.
#[derive(Debug)]
pub struct LogStream {
    /// The container has a terminal: the chunks are raw, otherwise framed with eight-byte headers.
    pub tty: bool,
    /// The chunks.
    pub chunks: Items<LogChunk>,
}

/// Some lines.
#[derive(Debug)]
pub struct LogChunk {
    /// Ready to be sent.
    pub bytes: Bytes,
    /// The time of the last line up to here, also of one that was filtered out; what comes next is later.
    pub last: Option<Timestamp>,
}

impl Engine {
    /// Reads the log.
    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<LogStream> {
        let handle = self.index.find(name)?;
        if !options.follow {
            first_words(&handle).await;
        }
        open(self, &handle, options).await
    }
}

/// Waits a moment for a container that has just been started and has not said anything yet. Where a start takes its time, as Docker's does,
/// `run -d` and then `logs` shows what a program says at once, and scripts rely on it.
async fn first_words(handle: &Handle) {
    loop {
        let details = handle.details();
        let ran = details.state.started_at.map(|started| Timestamp::now().duration_since(started));
        let is_young = ran.is_some_and(|ran| ran.unsigned_abs() < FIRST_WORDS);
        let is_silent = || std::fs::metadata(&details.log_path).map_or(true, |log| log.len() == 0);
        let has_log = !details.log_path.is_empty();
        if !is_young || !has_log || !details.state.status.has_process() || !is_silent() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens the log of a container.
pub(crate) async fn open(engine: &Engine, handle: &Arc<Handle>, options: LogOptions) -> Result<LogStream> {
    if !options.stdout && !options.stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let details = handle.details();
    if details.log_path.is_empty() || !logging::is_readable(&details.host.log) {
        return Err(Error::new(
            crate::Class::NotImplemented,
            "configured logging driver does not support reading",
        ));
    }
    let exits = handle.life.borrow().exits;
    let tty = details.config.tty || options.raw;
    let path = details.log_path.clone();
    let follow = options.follow && details.state.status.has_process();
    let watch = if follow {
        Path::new(&path).parent().map(|path| engine.watcher.watch(path)).transpose()?
    } else {
        None
    };
    let (sender, chunks) = Items::channel(BACKLOG);
    let until = options.until;
    let reader = blocking(move || {
        LogReader::open(Path::new(&path), &options, tty).context(|| "cannot read the log".into())
    });
    let reader = Some(reader.await?);
    let follower = Follower { handle: handle.clone(), reader, watch, until, exits };
    tokio::spawn(follower.run(sender));
    Ok(LogStream { tty, chunks })
}

/// A frame of output.
pub(crate) fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
    [&header(stream, bytes.len()), bytes].concat()
}

struct Follower {
    handle: Arc<Handle>,
    /// Away while a blocking thread has it.
    reader: Option<LogReader>,
    watch: Option<Watch>,
    until: Option<Timestamp>,
    /// Ends of runs before this began: the log is followed to the end of a run, as in Docker, also if another comes.
    exits: u64,
}

impl Follower {
    async fn run(mut self, sender: mpsc::Sender<Result<LogChunk>>) {
        let Some(watch) = self.watch.take() else {
            self.read_to_end(&sender).await;
            return;
        };
        let mut life = self.handle.life.subscribe();
        loop {
            // In this order: what is written after the look at the status or the file is not missed.
            let changed = watch.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let has_ended = {
                let life = life.borrow_and_update();
                has_exited_since(&life, self.exits) || !life.status.has_process()
            };
            if !self.read_to_end(&sender).await || has_ended {
                return;
            }
            tokio::select! {
                () = changed => {}
                outcome = life.changed() => if outcome.is_err() { return },
                () = sender.closed() => return,
                () = sleep_until(self.until) => return,
            }
        }
    }

    /// Reads all there is; false when nothing more is wanted.
    async fn read_to_end(&mut self, sender: &mpsc::Sender<Result<LogChunk>>) -> bool {
        loop {
            let Some(mut reader) = self.reader.take() else { return false };
            let visit = blocking(move || {
                let mut pieces = Vec::with_capacity(PIECES_AT_ONCE);
                let mut at_end = false;
                while !at_end && pieces.len() < PIECES_AT_ONCE {
                    match reader.next_piece().context(|| "cannot read the log".into())? {
                        Piece::Lines(lines) if lines.is_empty() => {}
                        Piece::Lines(bytes) => pieces.push(LogChunk { bytes, last: reader.last_time() }),
                        Piece::End => at_end = true,
                    }
                }
                Ok((reader, pieces, at_end))
            });
            let (reader, pieces, at_end) = match visit.await {
                Ok(visit) => visit,
                Err(error) => {
                    // The client may have gone.
                    let _ = sender.send(Err(error)).await;
                    return false;
                }
            };
            for piece in pieces {
                if sender.send(Ok(piece)).await.is_err() {
                    return false;
                }
            }
            let is_finished = reader.is_finished();
            self.reader = Some(reader);
            if at_end {
                return !is_finished;
            }
        }
    }
}

async fn sleep_until(time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let left = time.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}
