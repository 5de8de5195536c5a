//! The table on a terminal: a head, a line for each step that has begun, lines for parts of steps and for the last output of
//! those that run, times at the right edge.
//!
//! It is drawn again ten times a second over what was drawn before, in one write and without erasing first, so nothing
//! flickers. No line is wider than the terminal. Where the table is higher than the terminal, steps that are done go first: what
//! is above the first line of the screen could not be drawn again. The last drawing has all of them.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::Surface;
use super::model::{Status, Step, Trace, seconds};
use super::plain::amount;
use crate::output::table::{char_width, width};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const ERASE_BELOW: &str = "\x1b[J";

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    rows: usize,
    columns: usize,
}

impl Size {
    /// A terminal that doesn't know its size is taken for an ordinary one.
    pub(super) fn new(rows: u16, columns: u16) -> Self {
        let known = |value: u16, ordinary: usize| if value == 0 { ordinary } else { usize::from(value) };
        Self { rows: known(rows, 24), columns: known(columns, 80).max(MIN_COLUMNS) }
    }
}

/// Narrower than this nothing can be told.
const MIN_COLUMNS: usize = 20;
/// What a line of a table has in front of a step's name, and of what belongs to it.
const MARK: &str = " => ";
const PART_MARK: &str = " => => ";
const OUTPUT_MARK: &str = " => => # ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Done,
    Failed,
    Cancelled,
    Output,
}

impl Style {
    /// The sequence that begins it.
    fn sequence(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Done => "\x1b[34m",
            Self::Failed => "\x1b[31m",
            Self::Cancelled => "\x1b[33m",
            Self::Output => "\x1b[2m",
        }
    }
}

/// A line as wide as the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    style: Style,
}

/// The table, and what of it is on the screen.
#[derive(Debug)]
pub(super) struct Table {
    surface: Surface,
    began: SystemTime,
    /// Widths of the lines on the screen, from the top.
    drawn: Vec<usize>,
}

impl Table {
    pub(super) fn new(surface: Surface, now: SystemTime) -> Self {
        Self { surface, began: now, drawn: Vec::new() }
    }

    /// What draws it as it is now.
    pub(super) fn draw(&mut self, trace: &Trace, now: SystemTime, size: Size) -> String {
        let mut lines = self.lines(trace, now, size);
        let room = size.rows.saturating_sub(2).max(2);
        fit(&mut lines, room);
        let mut shown = vec![self.head(trace, "", now, size)];
        shown.extend(lines.into_iter().map(|(line, _)| line));
        let text = self.over(&shown, size);
        format!("{HIDE_CURSOR}{text}{SHOW_CURSOR}")
    }

    /// What draws all of it for the last time.
    pub(super) fn finish(&mut self, trace: &Trace, now: SystemTime, size: Size) -> String {
        let (done, all) = (trace.completed(), trace.steps().len());
        let end = if done > 0 && done == all { " FINISHED" } else { "" };
        let mut shown = vec![self.head(trace, end, now, size)];
        shown.extend(self.lines(trace, now, size).into_iter().map(|(line, _)| line));
        let text = self.over(&shown, size);
        self.drawn.clear();
        format!("{text}{ERASE_BELOW}")
    }

    /// What writes lines over those that are there.
    fn over(&mut self, lines: &[Line], size: Size) -> String {
        let mut text = String::new();
        // Where the terminal became narrower, it has broken what was drawn into more lines.
        let above: usize = self.drawn.iter().map(|width| width.div_ceil(size.columns).max(1)).sum();
        if above > 0 {
            let _ = write!(text, "\x1b[{above}A");
        }
        text.push('\r');
        for line in lines {
            let (begin, end) = match line.style.sequence() {
                "" => ("", ""),
                _ if !self.surface.colour => ("", ""),
                sequence => (sequence, "\x1b[0m"),
            };
            let _ = writeln!(text, "{begin}{}{end}", line.text);
        }
        if lines.len() < above {
            text.push_str(ERASE_BELOW);
        }
        self.drawn = lines.iter().map(|line| width(&line.text)).collect();
        text
    }

    fn head(&self, trace: &Trace, end: &str, now: SystemTime, size: Size) -> Line {
        let (done, all) = (trace.completed(), trace.steps().len());
        let elapsed = seconds(self.began, now);
        let text = format!("[+] Building {elapsed:.1}s ({done}/{all}){end}");
        let style = if end.is_empty() { Style::Plain } else { Style::Done };
        Line { text: between(&text, &self.surface.label, size.columns), style }
    }

    /// The lines below the head, each with whether its step is done.
    fn lines(&self, trace: &Trace, now: SystemTime, size: Size) -> Vec<(Line, bool)> {
        let there = trace.there(now);
        let mut steps: Vec<&Step> =
            trace.steps().iter().filter(|step| step.vertex.started.is_some() || is_done(step)).collect();
        steps.sort_by_key(|step| step.since());
        let mut lines = Vec::new();
        for step in steps {
            self.step(step, there, size, &mut lines);
        }
        lines
    }

    fn step(&self, step: &Step, now: SystemTime, size: Size, lines: &mut Vec<(Line, bool)>) {
        let vertex = &step.vertex;
        let (word, style) = match () {
            () if vertex.is_cancelled() => ("CANCELED ", Style::Cancelled),
            () if vertex.has_failed() => ("ERROR ", Style::Failed),
            () if vertex.cached => ("CACHED ", Style::Done),
            () if is_done(step) => ("", Style::Done),
            () => ("", Style::Plain),
        };
        let is_done = is_done(step);
        let time = format!("{:.1}s", step.elapsed(now).as_secs_f64());
        let name = format!("{MARK}{word}{}", on_one_line(&vertex.name));
        lines.push((Line { text: between(&name, &time, size.columns), style }, is_done));
        for status in &step.statuses {
            let text = between(&part(status), &part_time(status, now), size.columns);
            let style = if status.completed.is_some() { Style::Done } else { Style::Plain };
            lines.push((Line { text, style }, is_done));
        }
        if step.is_running() {
            for output in step.screen.last(self.surface.log_lines) {
                let text = between(&format!("{OUTPUT_MARK}{output}"), "", size.columns);
                lines.push((Line { text, style: Style::Output }, is_done));
            }
        }
    }
}

fn is_done(step: &Step) -> bool {
    step.vertex.completed.is_some()
}

fn part(status: &Status) -> String {
    let name = on_one_line(&status.id);
    match amount(status) {
        Some(amount) => format!("{PART_MARK}{name} {amount}"),
        None => format!("{PART_MARK}{name}"),
    }
}

fn part_time(status: &Status, now: SystemTime) -> String {
    match status.started {
        Some(started) => format!("{:.1}s", seconds(started, status.completed.unwrap_or(now))),
        None => String::new(),
    }
}

/// Leaves out steps that are done, from the top, then whatever is above the last lines.
fn fit(lines: &mut Vec<(Line, bool)>, room: usize) {
    let mut excess = lines.len().saturating_sub(room);
    lines.retain(|(_, is_done)| {
        let goes = excess > 0 && *is_done;
        excess -= usize::from(goes);
        !goes
    });
    lines.drain(..lines.len().saturating_sub(room));
}

/// A name may have line breaks in it, and must not have anything else that moves the cursor.
fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text at the left and one at the right of a line of this width; the left one is cut if both have no room.
fn between(left: &str, right: &str, columns: usize) -> String {
    let gap = usize::from(!right.is_empty());
    let room = columns.saturating_sub(width(right) + gap);
    let left = cut(left, room);
    let blank = columns.saturating_sub(width(&left) + width(right));
    format!("{left}{}{right}", " ".repeat(blank))
}

/// At most so many columns of a text; dots say that some are missing.
fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += char_width(c);
        if used > columns.saturating_sub(2) {
            break;
        }
        shown.push(c);
    }
    shown.push_str("..");
    shown
}
