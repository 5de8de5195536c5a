//! The plain view: one step after the other, a line for whatever happens, each with the number of its step.
//!
//! Several steps run at once, and a reader wants one at a time: a step keeps the view until it is done, or says nothing for a
//! while and another has something to say; then `#5 ...` tells that there is more to come.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::model::{Status, Step, Trace, seconds};

/// A step that has said nothing for so long gives the view away.
const SILENCE: Duration = Duration::from_secs(5);
/// No other waits longer than this for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A part that isn't done is told of this often at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// What was shown so far.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Steps by their place, in the order in which they were shown first: a step's number is its place here, from 1.
    numbers: Vec<usize>,
    /// The step that has the view.
    current: Option<usize>,
    last_shown: Option<SystemTime>,
    /// Steps that have something to say, and since when.
    waiting: Vec<(usize, SystemTime)>,
    /// When the unfinished parts of a step were last told of.
    statuses: Vec<(usize, SystemTime)>,
    /// Steps whose end was told.
    ended: BTreeSet<usize>,
    any: bool,
}

impl Plain {
    /// What there is to say after an update of these steps.
    pub(super) fn show(&mut self, trace: &mut Trace, touched: &BTreeSet<usize>, now: SystemTime) -> String {
        let mut text = String::new();
        for place in touched {
            if !self.waiting.iter().any(|(other, _)| other == place) {
                self.waiting.push((*place, now));
            }
        }
        // Steps that are done go first, the current one before all others.
        let mut done: Vec<usize> = self.places().filter(|place| is_done(&trace.steps()[*place])).collect();
        done.sort_by_key(|place| (Some(*place) != self.current, *place));
        for place in done {
            self.step(trace, place, now, &mut text);
        }
        if let Some(place) = self.next(trace, now) {
            self.step(trace, place, now, &mut text);
        }
        text
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self, trace: &mut Trace, now: SystemTime) -> String {
        let mut text = String::new();
        let left: Vec<usize> = self.places().collect();
        for place in left {
            if !trace.steps()[place].news.is_empty() {
                self.step(trace, place, now, &mut text);
            }
        }
        text
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|(place, _)| *place)
    }

    /// The running step whose turn it is.
    fn next(&self, trace: &Trace, now: SystemTime) -> Option<usize> {
        let steps = trace.steps();
        let since = |time: SystemTime| now.duration_since(time).unwrap_or_default();
        let has_news = |place: usize| {
            let step = &steps[place];
            step.is_running() && (!step.news.is_empty() || !self.numbers.contains(&place))
        };
        let longest = self
            .waiting
            .iter()
            .filter(|(place, _)| Some(*place) != self.current && has_news(*place))
            .min_by_key(|(_, time)| *time);
        let Some(current) = self.current else { return longest.map(|(place, _)| *place) };
        let is_silent = self.last_shown.is_none_or(|time| since(time) >= SILENCE) && !has_news(current);
        match longest {
            Some((place, time)) if is_silent || since(*time) >= PATIENCE => Some(*place),
            _ => has_news(current).then_some(current),
        }
    }

    fn step(&mut self, trace: &mut Trace, place: usize, now: SystemTime, text: &mut String) {
        self.waiting.retain(|(other, _)| *other != place);
        let step = trace.step_mut(place);
        let is_new = !self.numbers.contains(&place);
        if step.vertex.started.is_none() && !is_done(step)
            || self.ended.contains(&place) && step.news.is_empty()
        {
            return;
        }
        if is_new {
            self.numbers.push(place);
        }
        let number = 1 + self.numbers.iter().position(|other| *other == place).unwrap_or_default();
        let before = text.len();
        if self.current != Some(place) {
            if let Some(old) = self.current {
                let old = 1 + self.numbers.iter().position(|other| *other == old).unwrap_or_default();
                let _ = writeln!(text, "#{old} ...");
            }
            if std::mem::replace(&mut self.any, true) {
                text.push('\n');
            }
            let _ = writeln!(text, "#{number} {}", step.vertex.name);
            self.current = Some(place);
        }
        let is_status_due = match self.statuses.iter().find(|(other, _)| *other == place) {
            Some((_, time)) => now.duration_since(*time).unwrap_or_default() >= STATUS_INTERVAL,
            None => true,
        };
        let mut kept = BTreeSet::new();
        for status in std::mem::take(&mut step.news.statuses) {
            let status_of = &step.statuses[status];
            if status_of.completed.is_some() || is_status_due || is_done(step) {
                let _ = writeln!(text, "#{number} {}", status_line(status_of));
                self.statuses.retain(|(other, _)| *other != place);
                self.statuses.push((place, now));
            } else {
                kept.insert(status);
            }
        }
        for warning in std::mem::take(&mut step.news.warnings) {
            let _ = writeln!(text, "#{number} WARN: {warning}");
        }
        for line in std::mem::take(&mut step.news.lines) {
            let _ = writeln!(text, "#{number} {line}");
        }
        if is_done(step) {
            self.current = None;
            self.ended.insert(place);
            let _ = writeln!(text, "#{number} {}", ending(step, now));
        } else {
            step.news.statuses = kept;
        }
        if text.len() > before {
            self.last_shown = Some(now);
        }
    }
}

fn is_done(step: &Step) -> bool {
    step.vertex.completed.is_some()
}

fn ending(step: &Step, now: SystemTime) -> String {
    if step.vertex.is_cancelled() {
        return "CANCELED".to_owned();
    }
    if !step.vertex.error.is_empty() {
        return format!("ERROR: {}", step.vertex.error);
    }
    if step.vertex.cached {
        return "CACHED".to_owned();
    }
    format!("DONE {:.1}s", step.elapsed(now).as_secs_f64())
}

/// `transferring context: 12.34kB / 1.23MB 0.4s done`.
fn status_line(status: &Status) -> String {
    let mut line = status.id.clone();
    if let Some(amount) = amount(status) {
        let _ = write!(line, " {amount}");
    }
    if let (Some(started), Some(end)) = (status.started, status.completed.or(status.timestamp)) {
        let elapsed = seconds(started, end);
        if elapsed > 0.01 {
            let _ = write!(line, " {elapsed:.1}s");
        }
    }
    if status.completed.is_some() {
        line.push_str(" done");
    }
    line
}

/// `12.34kB / 1.23MB`, or how much there is where nobody knows how much there will be.
pub(super) fn amount(status: &Status) -> Option<String> {
    match (status.current, status.total) {
        (0, 0) => None,
        (current, 0) => Some(bytes(current)),
        (current, total) => Some(format!("{} / {}", bytes(current), bytes(total))),
    }
}

/// `1.23MB`, always with two digits behind the point, so that it doesn't jump.
fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}
