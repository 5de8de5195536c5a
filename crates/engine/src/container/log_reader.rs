//! Reads a json-file log with its rotated files, in big pieces, into chunks that are ready to be sent. Blocking.
//!
//! A reader starts at the beginning or so many lines before the end, goes on through the rotated files to the current
//! one, and can be asked again when more was written. It recognises a rotation by the file's inode: what is now `log.1`
//! is read to its end before the new `log` begins.
//!
//! **Invariant:** a file is left only when its end was read after a newer one had been seen. Who writes appends its last lines
//! to a file and only then gives it another name, so an end that was read before is none.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use palan_stdx::fs::{self, PathError};
use serde::Deserialize;

use crate::container::LogOptions;
use crate::container::log_files::{LogFile, files, files_after, identity};

/// Bytes read at once.
const PIECE: usize = 256 * 1024;
/// The longest line that is a line; anything longer is no log of ours.
const LONGEST_LINE: usize = 1024 * 1024;

/// A position in a log.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    format: Format,
    /// Files still to be read, oldest first; the last one is the current one.
    files: VecDeque<Positioned>,
    /// Bytes read that don't make a line yet.
    rest: Vec<u8>,
    /// `until` has been reached.
    finished: bool,
    /// The time of the last line that was read.
    last: Option<Timestamp>,
}

#[derive(Debug)]
struct Positioned {
    file: LogFile,
    offset: u64,
}

/// What a read gave.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Lines; empty when all were filtered out.
    Lines(Bytes),
    /// Nothing more now.
    End,
}

impl LogReader {
    /// Opens the log. A log that does not exist yet is empty.
    pub(crate) fn open(path: &Path, options: &LogOptions, tty: bool) -> Result<Self, PathError> {
        let mut reader = Self {
            path: path.into(),
            format: Format::new(options, tty),
            files: VecDeque::new(),
            rest: Vec::new(),
            finished: false,
            last: None,
        };
        reader.open_files()?;
        if let Some(lines) = options.tail {
            reader.skip_to_tail(lines).map_err(|source| PathError::new("read", path, source))?;
        }
        Ok(reader)
    }

    /// The time of the last line that was read; no two lines of a container have the same.
    pub(crate) fn last_time(&self) -> Option<Timestamp> {
        self.last
    }

    /// Whether `until` was reached, after which nothing comes.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    fn open_files(&mut self) -> Result<(), PathError> {
        self.files = files(&self.path)?.into_iter().map(Positioned::at_start).collect();
        Ok(())
    }

    fn skip_to_tail(&mut self, mut lines: u64) -> io::Result<()> {
        for index in (0..self.files.len()).rev() {
            let entry = &mut self.files[index];
            let (offset, found) = tail_offset(entry.file.lines()?, lines)?;
            entry.offset = offset;
            lines -= found;
            if lines == 0 {
                self.files.drain(..index);
                break;
            }
        }
        Ok(())
    }

    /// The next piece.
    pub(crate) fn next_piece(&mut self) -> Result<Piece, PathError> {
        if self.finished {
            return Ok(Piece::End);
        }
        let failed = |path: &Path, source| PathError::new("read", path, source);
        loop {
            if self.files.is_empty() && !self.take_current_file()? {
                return Ok(Piece::End);
            }
            let Some(entry) = self.files.front_mut() else { return Ok(Piece::End) };
            let start = self.rest.len();
            self.rest.resize(start + PIECE, 0);
            let lines = entry.file.lines();
            let count = lines.and_then(|file| file.read_at(&mut self.rest[start..], entry.offset));
            let count = count.map_err(|source| failed(&self.path, source))?;
            self.rest.truncate(start + count);
            entry.offset += count as u64;
            if count == 0 {
                if !self.advance()? {
                    return Ok(Piece::End);
                }
                continue;
            }
            let lines = self.take_lines();
            return Ok(Piece::Lines(lines));
        }
    }

    /// At the end of a file: goes on to the next one; false when this is the current one.
    fn advance(&mut self) -> Result<bool, PathError> {
        if self.files.len() > 1 {
            self.files.pop_front();
            self.rest.clear();
            return Ok(true);
        }
        let Some(entry) = self.files.front_mut() else { return Ok(false) };
        let failed = |source| PathError::new("read", &self.path, source);
        // With a single file a rotation truncates it.
        let length = entry.file.lines().and_then(File::metadata).map_err(failed)?.len();
        if length < entry.offset {
            entry.offset = 0;
            self.rest.clear();
            return Ok(true);
        }
        let known = entry.file.identity;
        match fs::if_exists(fs::open(&self.path))? {
            Some(file) if identity(&file).map_err(failed)? != known => {}
            _ => return Ok(false),
        }
        // It was rotated, perhaps more than once: what came after it is read next, but first its end, once more.
        let newer = files_after(&self.path, known)?;
        self.files.extend(newer.into_iter().map(Positioned::at_start));
        Ok(self.files.len() > 1)
    }

    fn take_current_file(&mut self) -> Result<bool, PathError> {
        self.open_files()?;
        Ok(!self.files.is_empty())
    }

    /// Turns the whole lines read so far into output.
    fn take_lines(&mut self) -> Bytes {
        let mut out = Vec::with_capacity(self.rest.len());
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &self.rest) {
            let line = &self.rest[start..end];
            start = end + 1;
            if !self.format.append(line, &mut out) {
                self.finished = true;
                break;
            }
        }
        if start > 0 {
            let last = self.rest[..start - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.last = time_of(&self.rest[last..start - 1]).or(self.last);
        }
        self.rest.drain(..start);
        if self.rest.len() > LONGEST_LINE {
            self.rest.clear();
        }
        Bytes::from(out)
    }
}

fn time_of(line: &[u8]) -> Option<Timestamp> {
    let time = match split(line) {
        Some((_, _, time)) => String::from_utf8_lossy(time),
        None => serde_json::from_slice::<Line<'_>>(line).ok()?.time,
    };
    time.parse().ok()
}

impl Positioned {
    fn at_start(file: LogFile) -> Self {
        Self { file, offset: 0 }
    }
}

/// Where the last `lines` lines of a file begin, and how many there are (fewer in a short file). Reads from the end.
fn tail_offset(file: &File, lines: u64) -> io::Result<(u64, u64)> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = file;
    let length = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((length, 0));
    }
    let mut buffer = Vec::new();
    let (mut end, mut found) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        file.take(end - start).read_to_end(&mut buffer)?;
        for position in memchr::memrchr_iter(b'\n', &buffer) {
            let position = start + position as u64;
            // The newline at the very end closes the last line and begins none.
            if position + 1 == length {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok((position + 1, found));
            }
        }
        end = start;
    }
    Ok((0, if length > 0 { found + 1 } else { 0 }))
}

/// One line as Docker writes it.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    /// Labels and variables that the user chose.
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// What becomes of a line.
#[derive(Debug)]
struct Format {
    stdout: bool,
    stderr: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    timestamps: bool,
    details: bool,
    raw: bool,
    /// Whether stdout and stderr stand in the middle of a line, which gets no second timestamp.
    inside: [bool; 2],
}

impl Format {
    fn new(options: &LogOptions, tty: bool) -> Self {
        Self {
            stdout: options.stdout,
            stderr: options.stderr,
            since: options.since,
            until: options.until,
            timestamps: options.timestamps,
            details: options.details,
            raw: tty,
            inside: [false; 2],
        }
    }

    /// Appends a line; false when it lies after `until`. What is no log line is left out: a full disk may tear one.
    fn append(&mut self, json: &[u8], out: &mut Vec<u8>) -> bool {
        let mut text = Vec::new();
        let mut attributes = BTreeMap::new();
        let (log, is_stderr, time): (&[u8], bool, Cow<'_, str>) = match split(json) {
            Some((log, stream, time)) => match unescape(log, &mut text) {
                Some(log) => (log, stream == b"stderr", String::from_utf8_lossy(time)),
                None => return true,
            },
            None => match serde_json::from_slice::<Line<'_>>(json) {
                Ok(line) => {
                    attributes = line.attrs;
                    text.extend_from_slice(line.log.as_bytes());
                    (&text, line.stream == "stderr", line.time)
                }
                Err(_) => return true,
            },
        };
        if (is_stderr && !self.stderr) || (!is_stderr && !self.stdout) {
            return true;
        }
        if self.since.is_some() || self.until.is_some() {
            let Ok(time) = time.parse::<Timestamp>() else { return true };
            if self.until.is_some_and(|until| time > until) {
                return false;
            }
            if self.since.is_some_and(|since| time < since) {
                return true;
            }
        }
        let mut prefix = String::new();
        let inside = &mut self.inside[usize::from(is_stderr)];
        if !*inside {
            if self.timestamps {
                prefix = fixed_time(&time) + " ";
            }
            if self.details {
                let words: Vec<String> = attributes
                    .iter()
                    .map(|(key, value)| format!("{}={}", escaped(key), escaped(value)))
                    .collect();
                prefix.push_str(&words.join(","));
                prefix.push(' ');
            }
        }
        *inside = !log.ends_with(b"\n");
        if !self.raw {
            out.extend_from_slice(&header(if is_stderr { 2 } else { 1 }, prefix.len() + log.len()));
        }
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(log);
        true
    }
}

/// As in a query (Go's `url.QueryEscape`), so that commas and blanks stand for themselves.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The header of a frame.
pub(crate) fn header(stream: u8, length: usize) -> [u8; 8] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}

/// The escaped text, the stream and the time of a line in the order in which Docker and our supervisor write them.
fn split(json: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let body = json.strip_prefix(b"{\"log\":\"")?;
    let mut position = 0;
    let end = loop {
        position += memchr::memchr2(b'"', b'\\', &body[position..])?;
        if body[position] == b'"' {
            break position;
        }
        position += 2;
        if position > body.len() {
            return None;
        }
    };
    let (log, tail) = body.split_at(end);
    let tail = tail.strip_prefix(b"\",\"stream\":\"")?;
    let end = memchr::memchr(b'"', tail)?;
    let (stream, tail) = tail.split_at(end);
    let time = tail.strip_prefix(b"\",\"time\":\"")?.strip_suffix(b"\"}")?;
    (!time.contains(&b'"') && !time.contains(&b'\\')).then_some((log, stream, time))
}

/// Resolves the escapes of a JSON string into `out`; text without any is given back as it is.
fn unescape<'a>(text: &'a [u8], out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let Some(first) = memchr::memchr(b'\\', text) else { return Some(text) };
    // The usual line has one escape: the newline at its end.
    out.reserve(text.len());
    let (mut start, mut position) = (0, first);
    loop {
        out.extend_from_slice(&text[start..position]);
        let escape = *text.get(position + 1)?;
        start = position + 2;
        match escape {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'"' | b'\\' | b'/' => out.push(escape),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'u' => {
                let (character, length) = unicode_escape(&text[position..])?;
                start = position + length;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
        match memchr::memchr(b'\\', &text[start..]) {
            Some(next) => position = start + next,
            None => break,
        }
    }
    out.extend_from_slice(&text[start..]);
    Some(out)
}

/// `\u003c`, or a pair of surrogates; a lone one becomes the replacement character.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = std::str::from_utf8(text.get(at + 2..at + 6)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let first = unit(0)?;
    if (0xd800..0xdc00).contains(&first) && text.get(6..8) == Some(b"\\u") {
        let second = unit(6)?;
        if (0xdc00..0xe000).contains(&second) {
            let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Some((char::from_u32(code)?, 12));
        }
    }
    Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6))
}

/// A time with exactly nine digits behind the second, so that columns align.
fn fixed_time(time: &str) -> String {
    let Some(bare) = time.strip_suffix('Z') else { return time.to_owned() };
    let (seconds, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::log_files::rotated_path;

    fn line(text: &str, stream: &str, second: u32) -> String {
        let log = serde_json::to_string(text).expect("a string");
        format!("{{\"log\":{log},\"stream\":\"{stream}\",\"time\":\"2026-01-02T03:04:{second:02}.5Z\"}}\n")
    }

    fn read(reader: &mut LogReader) -> String {
        let mut out = Vec::new();
        while let Piece::Lines(lines) = reader.next_piece().expect("readable") {
            out.extend_from_slice(&lines);
        }
        String::from_utf8(out).expect("text")
    }

    fn both() -> LogOptions {
        LogOptions { stdout: true, stderr: true, ..LogOptions::default() }
    }

    struct Log {
        _root: tempfile::TempDir,
        path: PathBuf,
    }

    fn log(files: &[(&str, String)]) -> Log {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("x-json.log");
        for (suffix, content) in files {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            fs::write(Path::new(&name), content).expect("written");
        }
        Log { _root: root, path }
    }

    #[test]
    fn rotated_files_come_in_order() {
        let log = log(&[
            (".2", line("a\n", "stdout", 1)),
            (".1", line("b\n", "stdout", 2)),
            ("", line("c \"<ü>\u{1F600}\\\n", "stderr", 3)),
        ]);
        let mut reader = LogReader::open(&log.path, &both(), true).expect("open");
        assert_eq!(reader.last_time(), None);
        assert_eq!(read(&mut reader), "a\nb\nc \"<ü>\u{1F600}\\\n");
        assert_eq!(reader.last_time(), "2026-01-02T03:04:03.5Z".parse().ok());
    }

    #[test]
    fn tails() {
        let many: String = (0..9000).map(|number| line(&format!("{number}\n"), "stdout", 1)).collect();
        let log = log(&[(".1", line("old\n", "stdout", 0)), ("", many)]);
        let tail = |lines| {
            let options = LogOptions { tail: Some(lines), ..both() };
            read(&mut LogReader::open(&log.path, &options, true).expect("open"))
        };
        assert_eq!(tail(0), "");
        assert_eq!(tail(2), "8998\n8999\n");
        assert_eq!(tail(9000).lines().next(), Some("0"));
        assert_eq!(tail(9001).lines().next(), Some("old"));
        assert_eq!(tail(1_000_000).lines().count(), 9001);
    }

    #[test]
    fn a_follower_crosses_rotations_and_truncations() {
        let log = log(&[("", line("1\n", "stdout", 1))]);
        let options = LogOptions { tail: Some(0), ..both() };
        let mut reader = LogReader::open(&log.path, &options, true).expect("open");
        assert_eq!(read(&mut reader), "");
        let append = |path: &Path, text: String| {
            use std::io::Write as _;
            fs::append(path, 0o600).expect("open").write_all(text.as_bytes()).expect("written");
        };
        append(&log.path, line("2\n", "stdout", 2));
        fs::rename(&log.path, &rotated_path(&log.path, 1)).expect("rotated");
        fs::rename(&rotated_path(&log.path, 1), &rotated_path(&log.path, 2)).expect("rotated");
        append(&rotated_path(&log.path, 1), line("3\n", "stdout", 3));
        append(&log.path, line("4\n", "stdout", 4));
        assert_eq!(read(&mut reader), "2\n3\n4\n");
        fs::write(&log.path, line("5", "stdout", 5)).expect("truncated");
        assert_eq!(read(&mut reader), "5");
    }

    #[test]
    fn the_last_lines_before_a_rotation_are_read() {
        let log = log(&[("", line("1\n", "stdout", 1))]);
        let mut reader = LogReader::open(&log.path, &both(), true).expect("open");
        assert_eq!(read(&mut reader), "1\n");
        // Between the look at the end and the one at the names.
        let mut file = fs::append(&log.path, 0o600).expect("open");
        std::io::Write::write_all(&mut file, line("2\n", "stdout", 2).as_bytes()).expect("written");
        fs::rename(&log.path, &rotated_path(&log.path, 1)).expect("rotated");
        fs::write(&log.path, line("3\n", "stdout", 3)).expect("written");
        assert!(reader.advance().expect("readable"));
        assert_eq!(read(&mut reader), "2\n3\n");
    }

    #[test]
    fn a_look_during_a_rotation_misses_none() {
        let log = log(&[("", String::new()), (".2", String::new()), (".3", String::new())]);
        let inodes = |files: Vec<LogFile>| files.into_iter().map(|file| file.identity).collect::<Vec<_>>();
        let of =
            |number| identity(fs::open(&rotated_path(&log.path, number)).expect("there")).expect("there");
        let current = identity(fs::open(&log.path).expect("there")).expect("there");
        assert_eq!(inodes(files(&log.path).expect("readable")), [of(3), of(2), current]);
        assert_eq!(inodes(files_after(&log.path, of(3)).expect("readable")), [of(2), current]);
        assert_eq!(inodes(files_after(&log.path, 1).expect("readable")), [of(3), of(2), current]);
        // One file under two names: it was moved while it was looked for.
        std::fs::hard_link(&log.path, rotated_path(&log.path, 1)).expect("links");
        assert_eq!(inodes(files(&log.path).expect("readable")), [of(3), of(2), current]);
    }

    #[test]
    fn filters_and_frames() {
        let torn = "{\"log\":\"lost".to_owned();
        let text =
            [line("a\n", "stdout", 1), line("b", "stderr", 2), line("c\n", "stderr", 3), torn].concat();
        let log = log(&[("", text)]);
        let open = |options: &LogOptions, tty| LogReader::open(&log.path, options, tty).expect("open");
        let stderr = LogOptions { stderr: true, timestamps: true, ..LogOptions::default() };
        assert_eq!(
            read(&mut open(&stderr, true)),
            "2026-01-02T03:04:02.500000000Z bc\n",
            "the second part of a line gets no timestamp"
        );
        assert_eq!(
            read(&mut open(&LogOptions { stdout: true, ..LogOptions::default() }, false)),
            "\x01\0\0\0\0\0\0\x02a\n"
        );
        let since = LogOptions { since: "2026-01-02T03:04:03Z".parse().ok(), ..both() };
        assert_eq!(read(&mut open(&since, true)), "c\n");
        let until = LogOptions { until: "2026-01-02T03:04:02Z".parse().ok(), ..both() };
        let mut reader = open(&until, true);
        assert_eq!(read(&mut reader), "a\n");
        assert!(reader.is_finished());
    }

    #[test]
    fn foreign_order_of_keys_is_read_too() {
        let log = log(&[(
            "",
            "{\"stream\":\"stdout\",\"log\":\"x\\n\",\"attrs\":{\"a\":\"b\"},\"time\":\"2026-01-02T03:04:05Z\"}\n".into(),
        )]);
        assert_eq!(read(&mut LogReader::open(&log.path, &both(), true).expect("open")), "x\n");
    }
}
