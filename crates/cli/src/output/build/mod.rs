//! A build's progress.
//!
//! The daemon tells of a build in BuildKit's vocabulary ([`model`]): *vertices* (steps), *statuses* of parts of them, *logs*,
//! *warnings*. An [`Update`] is folded into a [`Trace`], the state of the whole build, and one of the views shows it:
//!
//! ```text
//! Update ──▶ Trace ──┬─▶ plain    one step after the other, a line for whatever happens
//!                    ├─▶ table    a table redrawn in place, on a terminal
//!                    ├─▶ rawjson  the updates themselves, a line each
//!                    └─▶ quiet    nothing
//! ```
//! Views turn state into text and know no clock and no terminal; [`Progress`] is handed both. All of it goes to standard error.

/// What a build tells, and what is known of it.
pub(crate) mod model;
/// One step after the other.
mod plain;
/// The updates as JSON.
mod rawjson;
/// The last lines of a step's output, as a terminal would show them.
mod screen;
/// A table redrawn in place.
mod table;

use std::time::SystemTime;

pub(crate) use model::{Trace, Update};

use plain::Plain;
use table::{Size, Table};

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A table on a terminal, else plain.
    Auto,
    Plain,
    Tty,
    RawJson,
    Quiet,
    None,
}

impl Mode {
    /// The values of the flag, for its help and its error.
    pub(crate) const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("none", Self::None),
        ("plain", Self::Plain),
        ("quiet", Self::Quiet),
        ("rawjson", Self::RawJson),
        ("tty", Self::Tty),
    ];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode)
    }
}

/// What a view needs to know about where its text goes.
#[derive(Debug, Clone)]
pub(crate) struct Surface {
    /// Colours are wanted.
    pub(crate) colour: bool,
    /// What stands at the right of the table's head.
    pub(crate) label: String,
    /// Lines of output shown below a step that runs.
    pub(crate) log_lines: usize,
}

/// Shows a build to the end.
#[derive(Debug)]
pub(crate) struct Progress {
    trace: Trace,
    view: View,
}

#[derive(Debug)]
enum View {
    Plain(Plain),
    Table(Table),
    RawJson,
    Silent,
}

impl Progress {
    /// A view of a build that begins now.
    pub(crate) fn new(mode: Mode, is_terminal: bool, surface: Surface, now: SystemTime) -> Self {
        let view = match mode {
            Mode::Tty => View::Table(Table::new(surface, now)),
            Mode::Auto if is_terminal => View::Table(Table::new(surface, now)),
            Mode::Auto | Mode::Plain => View::Plain(Plain::default()),
            Mode::RawJson => View::RawJson,
            Mode::Quiet | Mode::None => View::Silent,
        };
        Self { trace: Trace::default(), view }
    }

    /// What the build has come to.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Whether it has to be drawn as time passes.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.view, View::Table(_))
    }

    /// Whether people read it.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.view, View::Plain(_) | View::Table(_))
    }

    /// Takes an update; the text that shows it at once.
    pub(crate) fn update(&mut self, update: &Update, now: SystemTime) -> String {
        let touched = self.trace.apply(update, now);
        match &mut self.view {
            View::Plain(plain) => plain.show(&mut self.trace, &touched, now),
            View::RawJson => rawjson::line(update),
            View::Table(_) | View::Silent => {
                self.trace.forget_news();
                String::new()
            }
        }
    }

    /// The build was given up: what still runs, as far as we were told, has ended.
    pub(crate) fn cancel(&mut self, now: SystemTime) -> String {
        let touched = self.trace.cancel(now);
        match &mut self.view {
            View::Plain(plain) => plain.show(&mut self.trace, &touched, now),
            View::RawJson | View::Table(_) | View::Silent => String::new(),
        }
    }

    /// The text that draws the table as it is now.
    pub(crate) fn draw(&mut self, now: SystemTime, rows: u16, columns: u16) -> String {
        match &mut self.view {
            View::Table(table) => table.draw(&self.trace, now, Size::new(rows, columns)),
            _ => String::new(),
        }
    }

    /// The text that ends it: the last drawing, and the output of the steps that failed.
    pub(crate) fn finish(&mut self, now: SystemTime, rows: u16, columns: u16) -> String {
        let mut text = match &mut self.view {
            View::Plain(plain) => plain.finish(&mut self.trace, now),
            View::Table(table) => table.finish(&self.trace, now, Size::new(rows, columns)),
            View::RawJson | View::Silent => return String::new(),
        };
        text.push_str(&self.trace.failures());
        text
    }
}

#[cfg(test)]
mod tests;
