//! Follows a `json-file` log from a position that outlives the daemon: which file, by its inode, and how far.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use palan_stdx::fs;
use serde::{Deserialize, Serialize};

use crate::container::log_files::{files, files_after};

/// Bytes read at once.
const PIECE: usize = 256 * 1024;
/// The longest line that is a line; anything longer is no log of ours.
const LONGEST_LINE: usize = 1024 * 1024;

/// One line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) time: Timestamp,
    pub(super) is_stderr: bool,
    /// Without line feed.
    pub(super) text: String,
    /// More of the same line follows.
    pub(super) is_partial: bool,
}

/// Where the next unread line begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The file's identity; its bare inode where an earlier version has written it.
    pub(super) inode: u64,
    pub(super) offset: u64,
}

/// A position in a log that is open. Once open, its file is read to its end even if its name goes.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    file: File,
    position: Position,
    /// A newer file was seen: nothing is written to this one any more, and its next end is its last.
    is_final: bool,
}

#[derive(Deserialize)]
struct Line {
    log: String,
    stream: String,
    time: Timestamp,
}

impl Tail {
    /// Opens a log, which is made if it is missing, at a position, or at the beginning of what there is.
    pub(super) fn open(path: &Path, position: Option<Position>) -> io::Result<Self> {
        fs::append(path, 0o640)?;
        let files = files(path)?;
        let known = position.and_then(|position| {
            let index =
                files.iter().position(|file| [file.identity, file.inode].contains(&position.inode))?;
            Some((index, position.offset))
        });
        let (index, offset) = known.unwrap_or((0, 0));
        let file = files.into_iter().nth(index).ok_or(io::ErrorKind::NotFound)?;
        let (inode, file) = (file.identity, file.into_lines()?);
        Ok(Self { path: path.to_owned(), file, position: Position { inode, offset }, is_final: false })
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The next lines; none if there are no more at the moment.
    pub(super) fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = self.file.read_at(&mut buffer, self.position.offset)?;
            let end = memchr::memrchr(b'\n', &buffer[..count]).map(|end| end + 1);
            if let Some(end) = end {
                self.position.offset += end as u64;
                // What is no log line is left out: a full disk may tear one.
                let lines = buffer[..end].split(|byte| *byte == b'\n').filter_map(record).collect::<Vec<_>>();
                if lines.is_empty() {
                    continue;
                }
                return Ok(lines);
            }
            if count == buffer.len() && count < LONGEST_LINE {
                buffer.resize(LONGEST_LINE, 0);
                continue;
            }
            if count == LONGEST_LINE {
                self.position.offset += count as u64;
                continue;
            }
            if !self.advance()? {
                return Ok(Vec::new());
            }
        }
    }

    /// At the end of a file: goes on to the next one; false when this is the newest.
    fn advance(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.position.offset {
            // A single file starts over when it is full.
            self.position.offset = 0;
            return Ok(true);
        }
        let newer = files_after(&self.path, self.position.inode)?;
        let Some(file) = newer.into_iter().next() else { return Ok(false) };
        if std::mem::replace(&mut self.is_final, true) {
            self.position = Position { inode: file.identity, offset: 0 };
            self.file = file.into_lines()?;
            self.is_final = false;
        }
        // Else what was written between the look at the end and the rotation comes first.
        Ok(true)
    }
}

fn record(line: &[u8]) -> Option<Record> {
    let Line { mut log, stream, time } = serde_json::from_slice(line).ok()?;
    let is_partial = !log.ends_with('\n');
    if !is_partial {
        log.pop();
    }
    Some(Record { time, is_stderr: stream == "stderr", text: log, is_partial })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(text: &str) -> String {
        format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.5Z\"}}\n")
    }

    fn texts(tail: &mut Tail) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let records = tail.read().expect("reads");
            if records.is_empty() {
                return all;
            }
            all.extend(records.into_iter().map(|record| record.text));
        }
    }

    #[test]
    fn positions_survive_rotations() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        let mut tail = Tail::open(&path, None).expect("opens");
        let append = |text: &str| {
            let mut file = fs::append(&path, 0o640).expect("opens");
            file.write_all(text.as_bytes()).expect("writes");
        };
        let rotate = || {
            let name = |number: u32| directory.path().join(format!("log.{number}"));
            let _ = std::fs::rename(name(1), name(2));
            std::fs::rename(&path, name(1)).expect("renames");
        };
        append(&line("one"));
        append("{\"log\":\"tw");
        assert_eq!(texts(&mut tail), ["one"]);
        append("o\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05Z\"}\n");
        append(&line("three"));
        rotate();
        append(&line("four"));
        rotate();
        append(&line("five"));
        let position = tail.position();
        assert_eq!(texts(&mut tail), ["two", "three", "four", "five"]);
        // As after a restart of the daemon.
        let mut again = Tail::open(&path, Some(position)).expect("opens");
        assert_eq!(texts(&mut again), ["two", "three", "four", "five"]);
        let mut end = Tail::open(&path, Some(again.position())).expect("opens");
        assert!(texts(&mut end).is_empty());
        // Its name goes with the container, its content is read all the same.
        append(&line("six"));
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(texts(&mut end), ["six"]);
        let mut lost = Tail::open(&path, Some(Position { inode: 1, offset: 5 })).expect("opens");
        assert_eq!(texts(&mut lost), ["one", "two", "three", "four"]);
    }

    #[test]
    fn the_last_lines_before_a_rotation_are_read() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        std::fs::write(&path, line("one")).expect("writes");
        let mut tail = Tail::open(&path, None).expect("opens");
        assert_eq!(texts(&mut tail), ["one"]);
        // Between the look at the end and the one at the names.
        std::fs::write(&path, line("one") + &line("late")).expect("writes");
        std::fs::rename(&path, directory.path().join("log.1")).expect("renames");
        std::fs::write(&path, line("new")).expect("writes");
        assert!(tail.advance().expect("reads"));
        assert_eq!(texts(&mut tail), ["late", "new"]);
    }
}
