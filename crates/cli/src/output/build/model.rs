//! What a build tells, in BuildKit's vocabulary, and what is known of it so far.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::screen::Screen;

/// Lines of a step's output that are kept for the case that it fails.
const KEPT_LINES: usize = 200;
/// The longest line that is shown; the rest is left out, for a line without an end must not fill the memory.
const MAX_LINE: usize = 64 * 1024;
/// How an error ends that is none: somebody else's failure, or the user, ended the step.
const CANCELLED: &str = "context canceled";

/// News of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) vertexes: Vec<Vertex>,
    pub(crate) statuses: Vec<Status>,
    pub(crate) logs: Vec<Log>,
    pub(crate) warnings: Vec<Warning>,
}

/// A step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Vertex {
    pub(crate) digest: String,
    pub(crate) name: String,
    /// Digests of the steps that it needs.
    pub(crate) inputs: Vec<String>,
    pub(crate) started: Option<SystemTime>,
    pub(crate) completed: Option<SystemTime>,
    pub(crate) cached: bool,
    pub(crate) error: String,
}

/// How far a part of a step is: a layer that is pulled, files that are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) id: String,
    /// The step's digest.
    pub(crate) vertex: String,
    pub(crate) name: String,
    pub(crate) current: i64,
    pub(crate) total: i64,
    pub(crate) timestamp: Option<SystemTime>,
    pub(crate) started: Option<SystemTime>,
    pub(crate) completed: Option<SystemTime>,
}

/// A piece of a step's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) vertex: String,
    /// 1 for standard output, 2 for standard error.
    pub(crate) stream: i64,
    pub(crate) data: Vec<u8>,
    pub(crate) timestamp: SystemTime,
}

/// What a frontend advises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) vertex: String,
    pub(crate) level: i64,
    pub(crate) short: String,
    pub(crate) detail: Vec<String>,
    pub(crate) url: String,
    /// The file that it is about.
    pub(crate) file: Option<SourceFile>,
    /// Where it begins and ends.
    pub(crate) ranges: Vec<(Place, Place)>,
}

/// A file that a frontend has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    pub(crate) language: String,
}

/// A place in it: a line, from 1, and a character, from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) character: usize,
}

impl Vertex {
    /// It was ended, and has not failed itself.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.error.ends_with(CANCELLED)
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.error.is_empty() && !self.is_cancelled()
    }
}

/// A step with all that was told of it.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) vertex: Vertex,
    /// When it was worked on; a step may be taken up again.
    runs: Vec<(SystemTime, Option<SystemTime>)>,
    pub(crate) statuses: Vec<Status>,
    /// What is shown of its output while it runs.
    pub(crate) screen: Screen,
    /// The last lines, and the beginning of one.
    kept: VecDeque<String>,
    partial: Vec<u8>,
    partial_since: Option<SystemTime>,
    pub(crate) news: News,
}

/// What was told of a step and was not shown yet, for the plain view.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Statuses by their place.
    pub(crate) statuses: BTreeSet<usize>,
    pub(crate) lines: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        self.statuses.is_empty() && self.lines.is_empty() && self.warnings.is_empty()
    }
}

impl Step {
    pub(crate) fn is_running(&self) -> bool {
        self.vertex.started.is_some() && self.vertex.completed.is_none()
    }

    /// When it was first worked on.
    pub(crate) fn since(&self) -> Option<SystemTime> {
        self.runs.iter().map(|(start, _)| *start).min()
    }

    /// How long it was worked on, up to `now` if it still is. Times that overlap count once.
    pub(crate) fn elapsed(&self, now: SystemTime) -> Duration {
        let mut runs: Vec<_> = self.runs.iter().map(|(start, end)| (*start, end.unwrap_or(now))).collect();
        runs.sort();
        let mut total = Duration::ZERO;
        let mut covered: Option<SystemTime> = None;
        for (start, end) in runs {
            let from = covered.map_or(start, |until| until.max(start));
            total += end.duration_since(from).unwrap_or_default();
            covered = Some(covered.map_or(end, |until| until.max(end)));
        }
        total
    }

    fn take(&mut self, vertex: &Vertex) {
        if let Some(start) = vertex.started {
            match self.runs.iter_mut().find(|(known, _)| *known == start) {
                Some((_, end)) => *end = vertex.completed,
                None => self.runs.push((start, vertex.completed)),
            }
        }
        let Vertex { started, completed, .. } = self.vertex;
        self.vertex = vertex.clone();
        if vertex.started.is_none() {
            // A message without times says nothing about them.
            self.vertex.started = started;
            self.vertex.completed = vertex.completed.or(completed);
        }
        if self.vertex.completed.is_some() {
            self.end_line();
        }
    }

    fn status(&mut self, status: &Status) {
        let place = match self.statuses.iter().position(|known| known.id == status.id) {
            Some(place) => {
                self.statuses[place] = status.clone();
                place
            }
            None => {
                self.statuses.push(status.clone());
                self.statuses.len() - 1
            }
        };
        self.news.statuses.insert(place);
    }

    fn log(&mut self, log: &Log) {
        self.screen.feed(&log.data);
        let mut pieces = log.data.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if !piece.is_empty() || pieces.peek().is_some() {
                self.partial_since.get_or_insert(log.timestamp);
            }
            let room = MAX_LINE.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if pieces.peek().is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let Some(time) = self.partial_since.take() else { return };
        let bytes = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(&bytes)).into_owned();
        let start = self.runs.last().map_or(time, |(start, _)| *start);
        let line = format!("{} {text}", short_seconds(seconds(start, time)));
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line.clone());
        self.news.lines.push(line);
    }
}

/// Seconds between two times; none if they are the other way round.
pub(crate) fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

/// Seconds with about four digits.
fn short_seconds(seconds: f64) -> String {
    let digits = match seconds {
        ..10.0 => 3,
        ..100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

/// A build as far as it was told.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// In the order in which they were first told of.
    steps: Vec<Step>,
    by_digest: HashMap<String, usize>,
    warnings: Vec<Warning>,
    /// Our clock when the daemon first named a time, and that time: it may be on another machine.
    clocks: Option<(SystemTime, SystemTime)>,
}

impl Trace {
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn step_mut(&mut self, place: usize) -> &mut Step {
        &mut self.steps[place]
    }

    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// How many steps are done.
    pub(crate) fn completed(&self) -> usize {
        self.steps.iter().filter(|step| step.vertex.completed.is_some()).count()
    }

    /// What the daemon's clock says now.
    pub(crate) fn there(&self, now: SystemTime) -> SystemTime {
        match self.clocks {
            Some((here, there)) => there + now.duration_since(here).unwrap_or_default(),
            None => now,
        }
    }

    /// Takes an update; the places of the steps that it is about.
    pub(crate) fn apply(&mut self, update: &Update, now: SystemTime) -> BTreeSet<usize> {
        let mut touched = BTreeSet::new();
        for vertex in &update.vertexes {
            if let (None, Some(started)) = (self.clocks, vertex.started) {
                self.clocks = Some((now, started));
            }
            let place = *self.by_digest.entry(vertex.digest.clone()).or_insert_with(|| {
                self.steps.push(Step::default());
                self.steps.len() - 1
            });
            self.steps[place].take(vertex);
            touched.insert(place);
        }
        let place = |digest: &str| self.by_digest.get(digest).copied();
        for status in &update.statuses {
            if let Some(place) = place(&status.vertex) {
                self.steps[place].status(status);
                touched.insert(place);
            }
        }
        for log in &update.logs {
            if let Some(place) = place(&log.vertex) {
                self.steps[place].log(log);
                touched.insert(place);
            }
        }
        for warning in &update.warnings {
            if let Some(place) = place(&warning.vertex) {
                self.steps[place].news.warnings.push(warning.short.clone());
                touched.insert(place);
            }
            if !self.warnings.contains(warning) {
                self.warnings.push(warning.clone());
            }
        }
        touched
    }

    /// Whoever wanted the build has gone, and so has the daemon's word about what still runs: the places of these steps, which end here.
    pub(crate) fn cancel(&mut self, now: SystemTime) -> BTreeSet<usize> {
        let there = self.there(now);
        let running: BTreeSet<usize> =
            (0..self.steps.len()).filter(|place| self.steps[*place].is_running()).collect();
        for place in &running {
            let step = &mut self.steps[*place];
            let vertex =
                Vertex { completed: Some(there), error: CANCELLED.to_owned(), ..step.vertex.clone() };
            step.take(&vertex);
        }
        running
    }

    /// Nobody shows what is new line by line.
    pub(crate) fn forget_news(&mut self) {
        for step in &mut self.steps {
            step.news = News::default();
        }
    }

    /// The last output of the steps that failed.
    pub(crate) fn failures(&self) -> String {
        let mut text = String::new();
        for step in self.steps.iter().filter(|step| step.vertex.has_failed()) {
            let _ = writeln!(text, "------\n > {}:", step.vertex.name);
            for line in &step.kept {
                let _ = writeln!(text, "{line}");
            }
            text.push_str("------\n");
        }
        text
    }
}
