//! The progress of pulls and loads: on a terminal one line for each layer with a bar, redrawn in place; elsewhere the
//! plain sequence of states.

use std::fmt::Write as _;

use palan_docker_api::stream::{ProgressDetail, ProgressMessage};
use palan_stdx::size;

use crate::error::{CliError, Result};

/// Turns messages into text for the terminal or file that shows them.
#[derive(Debug)]
pub(crate) struct Display {
    /// The columns of the terminal, `None` where it is none.
    terminal: Option<usize>,
    /// The layers that have a line of their own, from the top.
    lines: Vec<String>,
}

impl Display {
    pub(crate) fn new(terminal: Option<usize>) -> Self {
        Self { terminal, lines: Vec::new() }
    }

    /// The text for one message; a message that reports an error becomes that.
    pub(crate) fn render(&mut self, message: &ProgressMessage, now: i64) -> Result<String> {
        if let Some(error) = error_text(message) {
            return Err(CliError::new(error));
        }
        let mut text = String::new();
        if message.aux.is_some() {
            return Ok(text);
        }
        let mut below = 0;
        if message.progress_detail.is_none() || message.id.is_empty() {
            // What is no progress scrolls the lines away, so they can't be updated any more.
            self.lines.clear();
        } else {
            let line = self.lines.iter().position(|known| *known == message.id).unwrap_or_else(|| {
                if self.terminal.is_some() {
                    text.push('\n');
                }
                self.lines.push(message.id.clone());
                self.lines.len() - 1
            });
            below = self.lines.len() - line;
            if self.terminal.is_some() {
                let _ = write!(text, "\x1b[{below}A");
            }
        }
        self.line(message, now, &mut text);
        if self.terminal.is_some() && below > 0 {
            let _ = write!(text, "\x1b[{below}B");
        }
        Ok(text)
    }

    fn line(&self, message: &ProgressMessage, now: i64, text: &mut String) {
        let (stream, status) = (&message.stream, &message.status);
        let progress = message.progress_detail.as_ref();
        let in_place = self.terminal.is_some() && stream.is_empty() && progress.is_some();
        if in_place {
            let width = self.terminal.unwrap_or(usize::MAX);
            let mut line = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
            let shown = progress.map(|progress| bar(progress, width, now)).unwrap_or_default();
            let _ = write!(line, "{status} {shown}");
            // A line that wraps could not be redrawn.
            let end = line.char_indices().nth(width).map_or(line.len(), |(end, _)| end);
            let _ = write!(text, "\x1b[2K\r{}\r", &line[..end]);
            return;
        }
        if progress.is_some_and(|progress| progress.current > 0 || progress.total > 0) {
            return;
        }
        if !message.id.is_empty() {
            let _ = write!(text, "{}: ", message.id);
        }
        match (progress, self.terminal) {
            (Some(progress), Some(width)) => {
                let _ = write!(text, "{status} {}", bar(progress, width, now));
            }
            _ if !stream.is_empty() => text.push_str(stream),
            _ => {
                let _ = writeln!(text, "{status}");
            }
        }
    }
}

fn error_text(message: &ProgressMessage) -> Option<&str> {
    let detail = message.error_detail.as_ref().map(|detail| detail.message.as_str());
    detail.or(Some(message.error.as_str())).filter(|text| !text.is_empty())
}

/// `[=====>    ]  12.3MB/45.6MB`, as wide as the terminal allows.
fn bar(progress: &ProgressDetail, width: usize, now: i64) -> String {
    let (current, total) = (progress.current, progress.total);
    if current <= 0 && total <= 0 {
        return String::new();
    }
    let units = &progress.units;
    let amount = |value: i64| size::format_decimal(u64::try_from(value).unwrap_or(0));
    if total <= 0 {
        return if units.is_empty() {
            format!("{:>8}", amount(current))
        } else {
            format!("{current} {units}")
        };
    }
    let mut text = String::new();
    let percentage = usize::try_from(current.saturating_mul(100) / total / 2).unwrap_or(0).min(50);
    if width > 110 {
        let _ = write!(text, "[{}>{}] ", "=".repeat(percentage), " ".repeat(50 - percentage));
    }
    if !progress.hide_counts {
        let known = current <= total;
        let _ = match (units.is_empty(), known) {
            (true, true) => write!(text, "{:>8}/{}", amount(current), amount(total)),
            (true, false) => write!(text, "{:>8}", amount(current)),
            (false, true) => write!(text, "{current}/{total} {units}"),
            (false, false) => write!(text, "{current} {units}"),
        };
    }
    if width > 50 && current > 0 && progress.start > 0 && percentage < 50 {
        let left = (total - current).saturating_mul((now - progress.start).max(0)) / current;
        let left = std::time::Duration::from_secs(u64::try_from(left).unwrap_or(0));
        let _ = write!(text, " {}", palan_stdx::duration::format(left));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> ProgressMessage {
        serde_json::from_str(json).unwrap()
    }

    fn run(terminal: Option<usize>) -> String {
        let mut display = Display::new(terminal);
        [
            r#"{"status":"Pulling from library/debian","id":"bookworm"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"aaa"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"bbb"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":50,"total":100},"id":"aaa"}"#,
            r#"{"status":"Pull complete","progressDetail":{},"id":"aaa"}"#,
            r#"{"status":"Digest: sha256:00"}"#,
        ]
        .iter()
        .map(|json| display.render(&message(json), 0).unwrap())
        .collect()
    }

    #[test]
    fn plain_lines_where_there_is_no_terminal() {
        assert_eq!(
            run(None),
            "bookworm: Pulling from library/debian\naaa: Pulling fs layer\nbbb: Pulling fs layer\n\
             aaa: Pull complete\nDigest: sha256:00\n"
        );
    }

    #[test]
    fn lines_are_redrawn_on_a_terminal() {
        assert_eq!(
            run(Some(80)),
            "bookworm: Pulling from library/debian\n\
             \n\x1b[1A\x1b[2K\raaa: Pulling fs layer \r\x1b[1B\
             \n\x1b[1A\x1b[2K\rbbb: Pulling fs layer \r\x1b[1B\
             \x1b[2A\x1b[2K\raaa: Downloading      50B/100B\r\x1b[2B\
             \x1b[2A\x1b[2K\raaa: Pull complete \r\x1b[2B\
             Digest: sha256:00\n"
        );
    }

    #[test]
    fn a_line_is_never_wider_than_the_terminal() {
        let json = r#"{"status":"Downloading","progressDetail":{"current":50,"total":100},"id":"aaa"}"#;
        let mut display = Display::new(Some(20));
        assert_eq!(
            display.render(&message(json), 0).unwrap(),
            "\n\x1b[1A\x1b[2K\raaa: Downloading    \r\x1b[1B"
        );
    }

    #[test]
    fn bars_and_remaining_time() {
        let progress = ProgressDetail { current: 25, total: 100, start: 100, ..ProgressDetail::default() };
        assert_eq!(
            bar(&progress, 120, 110),
            "[============>                                      ]      25B/100B 30s"
        );
    }

    #[test]
    fn an_error_ends_it() {
        let json = r#"{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}"#;
        let error = Display::new(None).render(&message(json), 0).unwrap_err();
        assert_eq!(error.message, "manifest unknown");
    }
}
