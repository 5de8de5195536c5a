//! A copy's bytes, counted, and shown on a terminal while they flow.

use std::io::{Read, Write as _};
use std::time::{Duration, Instant};

use palan_stdx::size;

use crate::output::streams::Sink;

/// How often the line is drawn anew.
const INTERVAL: Duration = Duration::from_millis(75);

/// A source that counts.
#[derive(Debug)]
pub(super) struct Counted<R> {
    source: R,
    bytes: u64,
    line: Option<Line>,
}

/// The line on the terminal.
#[derive(Debug)]
struct Line {
    terminal: Sink,
    header: &'static str,
    drawn: Option<Instant>,
}

impl<R> Counted<R> {
    /// With `shown` the count is drawn there, behind its header.
    pub(super) fn new(source: R, shown: Option<(Sink, &'static str)>) -> Self {
        Self {
            source,
            bytes: 0,
            line: shown.map(|(terminal, header)| Line { terminal, header, drawn: None }),
        }
    }

    /// Takes the line away. How many bytes there were.
    pub(super) fn finish(self) -> u64 {
        if let Some(Line { mut terminal, drawn: Some(_), .. }) = self.line {
            // Where a terminal can't be written to, nobody looks.
            let _ = terminal.write_all(b"\r\x1b[2K");
        }
        self.bytes
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes += count as u64;
        if let Some(line) = &mut self.line
            && line.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL)
        {
            line.drawn = Some(Instant::now());
            let text = format!("\r\x1b[2K{}{}", line.header, size::format_decimal_short(self.bytes));
            let _ = line.terminal.write_all(text.as_bytes());
        }
        Ok(count)
    }
}
