//! The container's log file: lines encoded and written in batches, rotated, and honest about what a full disk swallowed.
//!
//! Output is encoded as it comes and written once for each turn of the event loop. When a write fails the container is
//! not held up: the line that was cut is taken back, lines are counted instead of kept, and every [`RETRY`] the file is
//! tried again. The first thing that can be written is a line that says how many are missing.

mod line;
mod split;
pub(crate) mod timestamp;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_stdx::fs::{PathContext, PathError};

use self::line::Encoder;
use self::split::{Part, Splitter};
use crate::protocol::LogConfig;

/// Which of a process's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Its standard output, or its terminal.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// Lines that never reached the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// How many.
    pub(crate) lines: u64,
    /// The first error that was met.
    pub(crate) reason: String,
}

/// How long a file that could not be written to is left alone.
const RETRY: Duration = Duration::from_millis(250);

/// A batch of this size is written before the end of the loop's turn.
const MAX_BATCH: usize = 256 * 1024;

/// A `json-file` log. The driver `none` has none.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    /// Rotated files may be compressed.
    compressed: bool,
    encoder: Encoder,
    /// `None` after a rotation that could not make the new file.
    file: Option<File>,
    /// The file's length.
    size: u64,
    /// The length from which on the file is rotated; raised when a rotation fails.
    rotate_at: u64,
    batch: Vec<u8>,
    splitters: [Splitter; 2],
    /// The last line's time: lines of one batch get times that rise, so that readers can tell them apart by it.
    last_time: u64,
    missing: Option<Missing>,
}

/// The state after a failed write.
#[derive(Debug)]
struct Missing {
    lost: Lost,
    retry_at: Instant,
}

impl Log {
    /// Opens the log that `config` asks for, if it asks for one.
    pub(crate) fn open(config: LogConfig) -> Result<Option<Self>, PathError> {
        let LogConfig::JsonFile { path, max_size, max_files, attributes, compressed } = config else {
            return Ok(None);
        };
        let (file, size) = open_file(&path)?;
        let max_size = max_size.unwrap_or(u64::MAX).max(1);
        Ok(Some(Self {
            path,
            max_size,
            max_files,
            compressed,
            encoder: Encoder::new(attributes.as_deref()),
            file: Some(file),
            size,
            rotate_at: max_size,
            batch: Vec::new(),
            splitters: [Splitter::default(), Splitter::default()],
            last_time: 0,
            missing: None,
        }))
    }

    /// Takes output. What can't be written is counted; see [`Self::flush`].
    pub(crate) fn push(&mut self, stream: Stream, data: &[u8]) {
        let mut splitter = std::mem::take(&mut self.splitters[stream.index()]);
        let now = timestamp::now();
        let mut last_time = self.last_time;
        let next_time = || {
            last_time = time_after(last_time, now);
            last_time
        };
        splitter.push(data, next_time, |part| self.write_part(stream, &part));
        self.last_time = last_time;
        self.splitters[stream.index()] = splitter;
    }

    /// The stream has ended: an unfinished line is written as it is.
    pub(crate) fn end(&mut self, stream: Stream) {
        let mut splitter = std::mem::take(&mut self.splitters[stream.index()]);
        splitter.finish(|part| self.write_part(stream, &part));
    }

    /// Writes what has gathered. Returns what had been lost once the note about it is in the file.
    pub(crate) fn flush(&mut self) -> Option<Lost> {
        let noted = self.note_what_is_missing();
        self.write_batch();
        noted
    }

    /// Gives back the memory of the batch: nothing has been written for a while.
    pub(crate) fn release_memory(&mut self) {
        self.batch = Vec::new();
    }

    /// When [`Self::flush`] should be called although there is no new output.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.missing.as_ref().map(|missing| missing.retry_at)
    }

    /// Writes the rest, trying even a file that was to be left alone. Returns what is lost for good.
    pub(crate) fn close(&mut self) -> Option<Lost> {
        self.end(Stream::Stdout);
        self.end(Stream::Stderr);
        if let Some(missing) = &mut self.missing {
            missing.retry_at = Instant::now();
        }
        self.flush().or_else(|| self.missing.take().map(|missing| missing.lost))
    }

    fn write_part(&mut self, stream: Stream, part: &Part<'_>) {
        if self.size + self.batch.len() as u64 >= self.rotate_at {
            self.write_batch();
            // The batch may have been lost and the limit not reached.
            if self.size >= self.rotate_at {
                self.rotate();
            }
        }
        self.encoder.write(&mut self.batch, part.text, part.complete, stream, part.time);
        if self.batch.len() >= MAX_BATCH {
            self.write_batch();
        }
    }

    /// Tries to write the note, if it is due. On success lines are kept again.
    fn note_what_is_missing(&mut self) -> Option<Lost> {
        let missing = self.missing.as_mut()?;
        if Instant::now() < missing.retry_at {
            return None;
        }
        missing.retry_at = Instant::now() + RETRY;
        let Lost { lines, reason } = &missing.lost;
        let note = format!("palan: {lines} lines of output were lost here: {reason}");
        self.last_time = time_after(self.last_time, timestamp::now());
        let mut encoded = Vec::new();
        self.encoder.write(&mut encoded, note.as_bytes(), true, Stream::Stderr, self.last_time);
        self.append(&encoded).ok()?;
        self.missing.take().map(|missing| missing.lost)
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let (written, error) = match &self.missing {
            Some(_) => (0, None),
            None => match self.append(&batch) {
                Ok(()) => (batch.len(), None),
                Err((written, error)) => (written, Some(error)),
            },
        };
        let lines = memchr::memchr_iter(b'\n', &batch[written..]).count() as u64;
        if let Some(missing) = &mut self.missing {
            missing.lost.lines += lines;
        } else if let Some(error) = error {
            let lost = Lost { lines, reason: error.to_string() };
            self.missing = Some(Missing { lost, retry_at: Instant::now() + RETRY });
        }
        self.batch = batch;
        self.batch.clear();
    }

    /// Appends whole lines; on failure says how many bytes of them, up to the end of a line, are in the file.
    fn append(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let (file, size) = open_file(&self.path).map_err(|error| (0, error.source))?;
                self.size = size;
                self.file.insert(file)
            }
        };
        let mut written = 0;
        while written < lines.len() {
            let error = match file.write(&lines[written..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(length) => {
                    written += length;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let whole = memchr::memrchr(b'\n', &lines[..written]).map_or(0, |position| position + 1);
            self.size += whole as u64;
            // Shortening needs no space; where it fails all the same, readers skip the line that is cut.
            if written > whole {
                let _ = file.set_len(self.size);
            }
            return Err((whole, error));
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    /// Makes room: `log` becomes `log.1`, and so on. Where that fails the file grows on, until the next limit; while somebody has the
    /// directory's lock, to give a compressed file its name, until the next line.
    fn rotate(&mut self) {
        let Some(_lock) = self.lock() else { return };
        self.rotate_at = self.size.saturating_add(self.max_size);
        if self.max_files <= 1 {
            if self.file.as_ref().is_some_and(|file| file.set_len(0).is_ok()) {
                self.size = 0;
                self.rotate_at = self.max_size;
            }
            return;
        }
        for number in (1..self.max_files - 1).rev() {
            self.move_on(number);
        }
        if palan_stdx::fs::rename(&self.path, &self.numbered(1)).is_ok() {
            if self.compressed {
                let _ = palan_stdx::fs::remove_file(&self.compressed(1));
            }
            self.file = None;
            self.size = 0;
            self.rotate_at = self.max_size;
            if let Ok((file, size)) = open_file(&self.path) {
                self.file = Some(file);
                self.size = size;
            }
        }
    }

    /// Gives a file the next number, and ends what had that in either form. A number that does not exist yet is no error.
    fn move_on(&self, number: u32) {
        let moved = palan_stdx::fs::rename(&self.numbered(number), &self.numbered(number + 1)).is_ok();
        if !self.compressed {
            return;
        }
        let (compressed, next) = (self.compressed(number), self.compressed(number + 1));
        if moved {
            // Where both are there, the compressed one may not be whole.
            let _ = palan_stdx::fs::remove_file(&compressed);
            let _ = palan_stdx::fs::remove_file(&next);
        } else if palan_stdx::fs::rename(&compressed, &next).is_ok() {
            let _ = palan_stdx::fs::remove_file(&self.numbered(number + 1));
        }
    }

    /// Keeps the numbers of files as they are for all others; `None` while another does.
    fn lock(&self) -> Option<Option<File>> {
        if !self.compressed {
            return Some(None);
        }
        // Without a directory there is nothing to agree about.
        let Some(directory) = self.path.parent().and_then(|path| File::open(path).ok()) else {
            return Some(None);
        };
        match rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => None,
            Ok(()) | Err(_) => Some(Some(directory)),
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }

    fn compressed(&self, number: u32) -> PathBuf {
        let mut name = self.numbered(number).into_os_string();
        name.push(".gz");
        name.into()
    }
}

/// The time of a line: `now`, or a little later than that of the line before. If that is far ahead the host's clock has been
/// set back, and `now` is right.
fn time_after(last: u64, now: u64) -> u64 {
    const FAR: u64 = 1_000_000_000;
    if last < now || last - now > FAR { now } else { last + 1 }
}

/// Opens for appending and returns the length. A last line that a crash of the host has cut is ended first.
fn open_file(path: &Path) -> Result<(File, u64), PathError> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .path_context("open the log file", path)?;
    let mut size = file.metadata().path_context("stat", path)?.len();
    let mut last = [b'\n'];
    if size > 0
        && file.read_exact_at(&mut last, size - 1).is_ok()
        && last != [b'\n']
        && file.write_all(b"\n").is_ok()
    {
        size += 1;
    }
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        directory: tempfile::TempDir,
        log: Log,
    }

    fn log(max_size: Option<u64>, max_files: u32) -> Files {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c-json.log");
        let config = LogConfig::JsonFile { path, max_size, max_files, attributes: None, compressed: true };
        Files { directory, log: Log::open(config).unwrap().unwrap() }
    }

    impl Files {
        fn read(&self, suffix: &str) -> Vec<String> {
            let path = self.directory.path().join(format!("c-json.log{suffix}"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines()
                .map(|line| {
                    let value: serde_json::Value = serde_json::from_str(line).unwrap();
                    value["log"].as_str().unwrap().to_owned()
                })
                .collect()
        }
    }

    #[test]
    fn lines_of_both_streams_are_in_the_file_after_a_flush() {
        let mut files = log(None, 1);
        files.log.push(Stream::Stdout, b"one\ntw");
        files.log.push(Stream::Stderr, b"error\n");
        files.log.push(Stream::Stdout, b"o\nrest");
        assert_eq!(files.read(""), [""; 0]);
        assert_eq!(files.log.flush(), None);
        assert_eq!(files.read(""), ["one\n", "error\n", "two\n"]);
        assert_eq!(files.log.close(), None);
        assert_eq!(files.read(""), ["one\n", "error\n", "two\n", "rest"]);
    }

    #[test]
    fn times_rise_within_a_batch() {
        let mut files = log(None, 1);
        files.log.push(Stream::Stdout, &b"x\n".repeat(1000));
        files.log.flush();
        let text = std::fs::read_to_string(files.directory.path().join("c-json.log")).unwrap();
        let times: Vec<_> = text.lines().map(|line| line.split("\"time\":").nth(1).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = times.iter().collect();
        assert_eq!((times.len(), distinct.len()), (1000, 1000));
    }

    #[test]
    fn times_follow_a_clock_that_is_set_back() {
        let second = 1_000_000_000;
        assert_eq!(time_after(5 * second, 6 * second), 6 * second);
        assert_eq!(time_after(6 * second, 6 * second), 6 * second + 1);
        assert_eq!(time_after(6 * second, 5 * second), 6 * second + 1);
        assert_eq!(time_after(7200 * second, 5 * second), 5 * second);
    }

    #[test]
    fn files_are_rotated_and_the_oldest_goes() {
        let line =
            "{\"log\":\"l0\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.123456789Z\"}\n".len();
        let mut files = log(Some(line as u64 * 2 - 20), 3);
        for number in 0..9 {
            files.log.push(Stream::Stdout, format!("l{number}\n").as_bytes());
        }
        files.log.flush();
        assert_eq!(files.read(""), ["l8\n"]);
        assert_eq!(files.read(".1"), ["l6\n", "l7\n"]);
        assert_eq!(files.read(".2"), ["l4\n", "l5\n"]);
        assert_eq!(files.read(".3"), [""; 0]);
    }

    #[test]
    fn compressed_files_move_on_and_nothing_moves_under_a_lock() {
        let mut files = log(Some(1), 4);
        let path = |suffix: &str| files.directory.path().join(format!("c-json.log{suffix}"));
        for (name, text) in [(".1", "one"), (".1.gz", "half"), (".2.gz", "two"), (".3", "three")] {
            std::fs::write(path(name), text).unwrap();
        }
        files.log.push(Stream::Stdout, b"a\n");
        files.log.flush();
        let read = |suffix: &str| std::fs::read_to_string(path(suffix)).ok();
        let lock = File::open(files.directory.path()).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        files.log.push(Stream::Stdout, b"b\n");
        files.log.flush();
        assert_eq!(read(".1").as_deref(), Some("one"));
        drop(lock);
        files.log.push(Stream::Stdout, b"c\n");
        files.log.flush();
        assert_eq!(files.read(".1"), ["a\n", "b\n"]);
        assert_eq!((read(".2").as_deref(), read(".3.gz").as_deref()), (Some("one"), Some("two")));
        assert_eq!([".1.gz", ".2.gz", ".3"].map(read), [None, None, None]);
    }

    #[test]
    fn a_single_file_starts_over() {
        let mut files = log(Some(100), 1);
        for number in 0..5 {
            files.log.push(Stream::Stdout, format!("l{number}\n").as_bytes());
        }
        files.log.flush();
        assert_eq!(files.read(""), ["l4\n"]);
        assert_eq!(files.read(".1"), [""; 0]);
    }

    #[test]
    fn a_reopened_log_goes_on_after_a_line_that_was_cut() {
        let mut files = log(None, 1);
        files.log.push(Stream::Stdout, b"one\n");
        files.log.close();
        let path = files.directory.path().join("c-json.log");
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"log\":\"cut");
        std::fs::write(&path, text).unwrap();
        let config = LogConfig::JsonFile {
            path: path.clone(),
            max_size: None,
            max_files: 1,
            attributes: None,
            compressed: false,
        };
        let mut again = Log::open(config).unwrap().unwrap();
        again.push(Stream::Stdout, b"two\n");
        again.close();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("{\"log\":\"one\\n\"") && lines[2].starts_with("{\"log\":\"two\\n\""));
    }

    #[test]
    fn what_a_full_disk_swallows_is_counted_and_noted() {
        let mut files = log(None, 1);
        let good = files.log.file.replace(OpenOptions::new().append(true).open("/dev/full").unwrap());
        files.log.push(Stream::Stdout, b"a\nb\n");
        assert_eq!(files.log.flush(), None);
        assert!(files.log.deadline().is_some());
        files.log.push(Stream::Stdout, b"c\n");
        assert_eq!(files.log.flush(), None);
        files.log.file = good;
        files.log.missing.as_mut().unwrap().retry_at = Instant::now();
        files.log.push(Stream::Stdout, b"d\n");
        let lost = files.log.flush().unwrap();
        assert_eq!(lost.lines, 3);
        assert!(lost.reason.contains("No space left on device"), "{}", lost.reason);
        let note = "palan: 3 lines of output were lost here: No space left on device (os error 28)\n";
        assert_eq!(files.read(""), [note, "d\n"]);
        assert_eq!(files.log.close(), None);
    }

    #[test]
    fn a_disk_that_stays_full_is_told_at_the_end() {
        let mut files = log(None, 1);
        files.log.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
        files.log.push(Stream::Stdout, b"a\nb");
        assert_eq!(files.log.close().map(|lost| lost.lines), Some(2));
    }
}
