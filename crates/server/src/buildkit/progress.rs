//! Builds that go on, and what they tell. A build's news are kept while it goes on and a moment longer, so that `Status` may come
//! late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use palan_buildkit::grpc::{Call, Code, Status};
use palan_buildkit::message::control::{
    BuildHistoryRecord, StatusRequest, StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use palan_buildkit::message::pb::{Position, Range, SourceInfo};
use palan_buildkit::message::status::Timestamp as WireTime;
use palan_engine::build::{Digest, Event, ProgressSink};
use tokio::sync::{mpsc, watch};

use super::BuildKit;
use crate::convert::signed;

/// How long a call waits for the build that it names.
const PATIENCE: Duration = Duration::from_secs(15);

/// What of a build's news is kept, in bytes. A reader that is slower misses output.
const MAX_KEPT: usize = 16 << 20;

/// News in one message, and their bytes, unless it is a single one that has more.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Ended builds that are remembered, and those of which the news are, too.
const MAX_ENDED: usize = 64;
const MAX_ENDED_NEWS: usize = 4;

/// Builds by their references.
#[derive(Debug)]
pub(super) struct Builds {
    known: Mutex<Known>,
    /// Told when a build begins or ends.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    running: BTreeMap<String, Arc<Build>>,
    /// The oldest first.
    ended: VecDeque<Arc<Build>>,
}

/// A build.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) reference: String,
    news: Mutex<News>,
    /// Told when there are news.
    told: watch::Sender<()>,
    record: Mutex<BuildHistoryRecord>,
    /// Where the gateway's `Return` goes.
    pub(super) returned: Mutex<Option<mpsc::Sender<super::gateway::Returned>>>,
    /// The session of whoever builds.
    pub(super) session: String,
    /// The session that says which sources may be used; mostly empty.
    pub(super) policy_session: String,
    pub(super) entitlements: Vec<String>,
}

#[derive(Debug, Default)]
struct News {
    /// How many were dropped before the first of these.
    dropped: usize,
    kept: VecDeque<StatusResponse>,
    bytes: usize,
    ended: bool,
    /// Steps by what became of them.
    steps: BTreeMap<String, Step>,
    warnings: i32,
    /// The Dockerfile, for warnings about it.
    source: Option<SourceInfo>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Step {
    completed: bool,
    cached: bool,
}

/// A build that goes on. Dropped, it has ended.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) build: Arc<Build>,
    state: Arc<BuildKit>,
}

impl std::fmt::Debug for BuildKit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BuildKit").finish_non_exhaustive()
    }
}

impl Default for Builds {
    fn default() -> Self {
        Self { known: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Builds {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build that goes on or has ended, which may begin yet.
    pub(super) async fn get(&self, reference: &str) -> Result<Arc<Build>, Status> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                {
                    let known = self.lock();
                    let ended = || known.ended.iter().rev().find(|build| build.reference == reference);
                    if let Some(build) = known.running.get(reference).or_else(ended) {
                        return Arc::clone(build);
                    }
                }
                // The sender is ours.
                let _ = changed.changed().await;
            }
        };
        let missing = || Status::new(Code::NotFound, format!("no such job {reference}"));
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| missing())
    }

    /// All records, the oldest first, and whether the build has ended.
    pub(super) fn records(&self) -> Vec<(bool, BuildHistoryRecord)> {
        let known = self.lock();
        let ended = known.ended.iter().map(|build| (true, build.record()));
        ended.chain(known.running.values().map(|build| (false, build.record()))).collect()
    }

    /// Told when a build begins or ends.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes or removes the record of an ended build. Whether there is one.
    pub(super) fn forget(&self, reference: &str) -> bool {
        let mut known = self.lock();
        let before = known.ended.len();
        known.ended.retain(|build| build.reference != reference);
        let is_gone = known.ended.len() < before;
        drop(known);
        self.changed.send_replace(());
        is_gone
    }
}

impl Build {
    fn lock(&self) -> std::sync::MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> BuildHistoryRecord {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let news = self.lock();
        let count = |wanted: fn(&Step) -> bool| {
            i32::try_from(news.steps.values().filter(|step| wanted(step)).count()).unwrap_or(i32::MAX)
        };
        record.num_total_steps = count(|_| true);
        record.num_completed_steps = count(|step| step.completed);
        record.num_cached_steps = count(|step| step.cached);
        record.num_warnings = news.warnings;
        record
    }

    /// Keeps a piece of news.
    pub(super) fn tell(&self, response: StatusResponse) {
        let mut news = self.lock();
        for vertex in &response.vertexes {
            let step = Step { completed: vertex.completed.is_some(), cached: vertex.cached };
            news.steps.insert(vertex.digest.clone(), step);
        }
        news.warnings = news.warnings.saturating_add(i32::try_from(response.warnings.len()).unwrap_or(0));
        news.bytes += size(&response);
        news.kept.push_back(response);
        while news.bytes > MAX_KEPT && news.kept.len() > 1 {
            let oldest = news.kept.pop_front().map_or(0, |oldest| size(&oldest));
            news.bytes -= oldest;
            news.dropped += 1;
        }
        drop(news);
        self.told.send_replace(());
    }

    /// Says what warnings are about.
    pub(super) fn set_source(&self, source: SourceInfo) {
        self.lock().source = Some(source);
    }

    pub(super) fn source(&self) -> Option<SourceInfo> {
        self.lock().source.clone()
    }

    /// What has come since, together; none: nothing more will.
    async fn next(&self, position: &mut usize) -> Option<StatusResponse> {
        let mut told = self.told.subscribe();
        loop {
            {
                let news = self.lock();
                let from = position.saturating_sub(news.dropped).min(news.kept.len());
                if from < news.kept.len() {
                    let mut together = StatusResponse::default();
                    let (mut count, mut bytes) = (0, 0);
                    for one in news.kept.iter().skip(from).take(MAX_BATCH) {
                        bytes += size(one);
                        if count > 0 && bytes > MAX_BATCH_BYTES {
                            break;
                        }
                        count += 1;
                        together.vertexes.extend(one.vertexes.iter().cloned());
                        together.statuses.extend(one.statuses.iter().cloned());
                        together.logs.extend(one.logs.iter().cloned());
                        together.warnings.extend(one.warnings.iter().cloned());
                    }
                    *position = news.dropped + from + count;
                    return Some(together);
                }
                if news.ended {
                    return None;
                }
            }
            // The sender is ours.
            let _ = told.changed().await;
        }
    }
}

/// About what a piece of news takes.
fn size(response: &StatusResponse) -> usize {
    let logs = response.logs.iter().map(|log| log.msg.len());
    let warnings = response.warnings.iter().map(|warning| {
        let info = warning.info.as_ref().map_or(0, |info| info.data.len() + info.filename.len());
        let detail: usize = warning.detail.iter().map(|line| line.len() + 8).sum();
        warning.short.len() + warning.url.len() + warning.ranges.len() * 32 + detail + info
    });
    let vertexes = response.vertexes.iter().map(|vertex| {
        let inputs: usize = vertex.inputs.iter().map(|input| input.len() + 8).sum();
        vertex.name.len() + vertex.error.len() + inputs
    });
    256 + logs.chain(warnings).chain(vertexes).sum::<usize>()
}

impl Running {
    /// Begins a build.
    pub(super) fn begin(
        state: &Arc<BuildKit>,
        record: BuildHistoryRecord,
        [session, policy_session]: [String; 2],
        entitlements: Vec<String>,
        returned: Option<mpsc::Sender<super::gateway::Returned>>,
    ) -> Result<Self, Status> {
        let build = Arc::new(Build {
            reference: record.reference.clone(),
            news: Mutex::default(),
            told: watch::Sender::new(()),
            record: Mutex::new(record),
            returned: Mutex::new(returned),
            session,
            policy_session,
            entitlements,
        });
        let mut known = state.builds.lock();
        if known.running.contains_key(&build.reference) {
            let text = format!("there is a build with the reference {} already", build.reference);
            return Err(Status::new(Code::AlreadyExists, text));
        }
        known.ended.retain(|ended| ended.reference != build.reference);
        known.running.insert(build.reference.clone(), Arc::clone(&build));
        drop(known);
        state.builds.changed.send_replace(());
        Ok(Self { build, state: Arc::clone(state) })
    }

    /// Says how it ended.
    pub(super) fn end(&self, outcome: &Result<BTreeMap<String, String>, Status>) {
        let mut record = self.build.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.completed_at = Some(time(Timestamp::now()));
        match outcome {
            Ok(response) => record.exporter_response.clone_from(response),
            Err(error) => record.error = Some(error.to_wire()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        {
            let mut record = self.build.record.lock().unwrap_or_else(PoisonError::into_inner);
            if record.completed_at.is_none() {
                // Nobody waited for it any more.
                record.completed_at = Some(time(Timestamp::now()));
                record.error = Some(Status::new(Code::Cancelled, "the build was cancelled").to_wire());
            }
        }
        self.build.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.build.lock().ended = true;
        self.build.told.send_replace(());
        let mut known = self.state.builds.lock();
        if let Some(build) = known.running.remove(&self.build.reference) {
            known.ended.push_back(build);
        }
        let surplus = known.ended.len().saturating_sub(MAX_ENDED);
        known.ended.drain(..surplus);
        let without_news = known.ended.len().saturating_sub(MAX_ENDED_NEWS);
        for build in known.ended.iter().take(without_news) {
            let mut news = build.lock();
            news.kept = VecDeque::new();
            news.bytes = 0;
        }
        drop(known);
        self.state.forget_results(&self.build.reference);
        self.state.builds.changed.send_replace(());
    }
}

/// A time on the wire.
pub(super) fn time(time: Timestamp) -> WireTime {
    WireTime { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// Puts the engine's news into the protocol's words.
#[derive(Debug)]
pub(super) struct Sink(pub(super) Arc<Build>);

impl ProgressSink for Sink {
    fn event(&self, event: Event) {
        let mut response = StatusResponse::default();
        match event {
            // Each is told as a vertex, too.
            Event::Steps(_) => return,
            Event::Vertex(vertex) => response.vertexes.push(Vertex {
                digest: vertex.digest.to_string(),
                inputs: vertex.inputs.iter().map(ToString::to_string).collect(),
                name: vertex.name,
                cached: vertex.cached,
                started: vertex.started.map(time),
                completed: vertex.completed.map(time),
                error: vertex.error,
                progress_group: None,
            }),
            Event::Status(status) => response.statuses.push(VertexStatus {
                id: status.id,
                vertex: status.vertex.to_string(),
                name: status.name,
                current: signed(status.current),
                total: signed(status.total),
                timestamp: Some(time(Timestamp::now())),
                started: status.started.map(time),
                completed: status.completed.map(time),
            }),
            Event::Log(log) => response.logs.push(VertexLog {
                vertex: log.vertex.to_string(),
                timestamp: Some(time(log.time)),
                stream: log.stream.number(),
                msg: log.bytes.into(),
            }),
            Event::Warning(warning) => {
                let line = |line: usize| {
                    Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 })
                };
                let short = match warning.lines {
                    // As BuildKit has them: the rule's name comes first.
                    Some((first, _)) => format!("{}: {} (line {first})", warning.rule, warning.short),
                    None => warning.short,
                };
                response.warnings.push(VertexWarning {
                    vertex: vertex_of(&self.0).to_string(),
                    level: 1,
                    short: Bytes::from(short),
                    detail: (!warning.detail.is_empty())
                        .then(|| Bytes::from(warning.detail))
                        .into_iter()
                        .collect(),
                    url: warning.url,
                    info: warning.lines.and_then(|_| self.0.source()),
                    ranges: warning
                        .lines
                        .map(|(first, last)| Range { start: line(first), end: line(last) })
                        .into_iter()
                        .collect(),
                });
            }
        }
        self.0.tell(response);
    }
}

/// The vertex that warnings without a step belong to.
pub(super) fn vertex_of(build: &Build) -> Digest {
    Digest::of(format!("{} [internal] load build definition", build.reference))
}

/// A vertex of the front door's own, from its start to its end.
pub(super) struct Internal {
    build: Arc<Build>,
    vertex: Vertex,
}

impl Internal {
    /// Begins one.
    pub(super) fn begin(build: &Arc<Build>, name: &str, digest: Option<Digest>) -> Self {
        let digest = digest.unwrap_or_else(|| Digest::of(format!("{} {name}", build.reference)));
        let vertex = Vertex {
            digest: digest.to_string(),
            name: name.to_owned(),
            started: Some(time(Timestamp::now())),
            ..Vertex::default()
        };
        build.tell(StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() });
        Self { build: Arc::clone(build), vertex }
    }

    /// Tells of a part of it, which is done or has come so far.
    pub(super) fn part(&self, id: &str, current: u64, done: bool) {
        part(&self.build, &self.vertex, id, current, done);
    }

    /// The same for others to call.
    pub(super) fn teller(&self, id: &str) -> Arc<dyn Fn(u64) + Send + Sync> {
        let (build, vertex, id) = (Arc::clone(&self.build), self.vertex.clone(), id.to_owned());
        Arc::new(move |current| part(&build, &vertex, &id, current, false))
    }

    /// Ends it.
    pub(super) fn end<T>(mut self, outcome: Result<T, Status>) -> Result<T, Status> {
        self.vertex.completed = Some(time(Timestamp::now()));
        if let Err(error) = &outcome {
            self.vertex.error = error.to_string();
        }
        let vertexes = vec![self.vertex];
        self.build.tell(StatusResponse { vertexes, ..StatusResponse::default() });
        outcome
    }
}

fn part(build: &Build, vertex: &Vertex, id: &str, current: u64, done: bool) {
    let now = time(Timestamp::now());
    let status = VertexStatus {
        id: id.to_owned(),
        vertex: vertex.digest.clone(),
        name: id.to_owned(),
        current: signed(current),
        total: 0,
        timestamp: Some(now.clone()),
        started: vertex.started.clone(),
        completed: done.then_some(now),
    };
    build.tell(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
}

impl BuildKit {
    /// `Control.Status`.
    pub(super) async fn status(&self, mut call: Call) -> Result<(), Status> {
        let request: StatusRequest = call.question().await?;
        let build = self.builds.get(&request.reference).await?;
        let mut position = 0;
        while let Some(response) = build.next(&mut position).await {
            call.outgoing.send(&response).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        Build {
            reference: "b".to_owned(),
            news: Mutex::default(),
            told: watch::Sender::new(()),
            record: Mutex::default(),
            returned: Mutex::default(),
            session: String::new(),
            policy_session: String::new(),
            entitlements: Vec::new(),
        }
    }

    fn warning(bytes: usize) -> StatusResponse {
        let warning = VertexWarning { short: Bytes::from(vec![b'x'; bytes]), ..VertexWarning::default() };
        StatusResponse { warnings: vec![warning], ..StatusResponse::default() }
    }

    #[tokio::test]
    async fn a_message_has_only_so_many_bytes() {
        let build = build();
        for _ in 0..9 {
            build.tell(warning(1 << 20));
        }
        build.lock().ended = true;
        let (mut position, mut counts) = (0, Vec::new());
        while let Some(together) = build.next(&mut position).await {
            counts.push(together.warnings.len());
        }
        assert_eq!(counts, [3, 3, 3]);
    }

    #[test]
    fn warnings_take_room_like_output() {
        let build = build();
        for _ in 0..100 {
            build.tell(warning(1 << 20));
        }
        let news = build.lock();
        assert!(news.bytes <= MAX_KEPT && news.kept.len() < 17, "{} of {}", news.bytes, news.kept.len());
        assert_eq!(news.warnings, 100);
    }
}
