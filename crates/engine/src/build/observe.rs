//! The solver's news in BuildKit's words.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use palan_builder::backend::{Bringing, Snapshot, StepError, Stream};
use palan_builder::graph::{Input, Plan, Vertex as Node, VertexId};
use palan_builder::solver::{Observer, Origin};
use palan_oci::digest::Hasher;
use palan_oci::{ChainId, Digest};

use super::progress::{Event, Log, Output, ProgressSink, Status, Step, Vertex};

/// Tells a sink about a plan's vertices.
pub(super) struct Observing<'a> {
    progress: &'a dyn ProgressSink,
    vertices: Vec<Mutex<Vertex>>,
}

impl<'a> Observing<'a> {
    /// Tells the whole plan first. `salt` keeps plans of one build apart: they may have the same vertices.
    pub(super) fn new(plan: &Plan, progress: &'a dyn ProgressSink, salt: &str) -> Self {
        let mut digests: Vec<Digest> = Vec::with_capacity(plan.vertices.len());
        let mut vertices = Vec::with_capacity(plan.vertices.len());
        for (id, node) in plan.vertices.iter().enumerate() {
            let inputs: Vec<Digest> =
                node.inputs.iter().filter_map(|input| of_input(input, &digests)).collect();
            let digest = identity(id, node, &inputs, salt);
            digests.push(digest);
            let vertex = Vertex {
                digest,
                name: node.name.clone(),
                inputs,
                started: None,
                completed: None,
                cached: false,
                error: String::new(),
                result: None,
            };
            progress.event(Event::Vertex(vertex.clone()));
            vertices.push(Mutex::new(vertex));
        }
        let steps = plan
            .steps
            .iter()
            .map(|(text, vertex)| Step { text: text.clone(), vertex: vertex.map(|vertex| digests[vertex]) });
        progress.event(Event::Steps(steps.collect()));
        Self { progress, vertices }
    }

    pub(super) fn digest(&self, id: VertexId) -> Digest {
        self.vertices[id].lock().unwrap_or_else(PoisonError::into_inner).digest
    }

    fn change(&self, id: VertexId, change: impl FnOnce(&mut Vertex)) {
        let mut vertex = self.vertices[id].lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut vertex);
        self.progress.event(Event::Vertex(vertex.clone()));
    }
}

fn of_input(input: &Input, digests: &[Digest]) -> Option<Digest> {
    match input {
        Input::Vertex(id) => digests.get(*id).copied(),
        Input::Scratch | Input::Context(_) => None,
    }
}

fn identity(id: VertexId, node: &Node, inputs: &[Digest], salt: &str) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(salt.as_bytes());
    hasher.update(&(id as u64).to_be_bytes());
    hasher.update(node.name.as_bytes());
    hasher.update(node.op.digest().as_bytes());
    inputs.iter().for_each(|input| hasher.update(input.as_bytes()));
    hasher.finish()
}

/// What these layers are together.
pub(super) fn chain(snapshot: &Snapshot) -> Option<Digest> {
    let chain = snapshot.layers.iter().fold(None, |chain, layer| Some(ChainId::extend(chain, layer)));
    chain.map(|chain| chain.digest())
}

impl Observer for Observing<'_> {
    fn started(&self, id: VertexId, _vertex: &Node) {
        self.change(id, |vertex| vertex.started = Some(Timestamp::now()));
    }

    fn bringing(&self, id: VertexId, _vertex: &Node, layer: Bringing<'_>) {
        let now = Timestamp::now();
        let is_started = self.vertices[id].lock().unwrap_or_else(PoisonError::into_inner).started.is_some();
        if !is_started {
            self.change(id, |vertex| vertex.started = Some(now));
        }
        self.progress.event(Event::Status(Status {
            vertex: self.digest(id),
            id: layer.layer.to_owned(),
            name: layer.status.to_owned(),
            current: layer.current,
            total: layer.total,
            started: Some(now),
            completed: layer.done.then_some(now),
        }));
    }

    fn output(&self, id: VertexId, stream: Stream, bytes: &[u8]) {
        let stream = match stream {
            Stream::Stdout => Output::Stdout,
            Stream::Stderr => Output::Stderr,
        };
        let (vertex, time) = (self.digest(id), Timestamp::now());
        self.progress.event(Event::Log(Log { vertex, stream, time, bytes: bytes.to_vec() }));
    }

    fn finished(&self, id: VertexId, _vertex: &Node, origin: Origin, result: Option<&Snapshot>) {
        let now = Timestamp::now();
        self.change(id, |vertex| {
            vertex.started.get_or_insert(now);
            vertex.completed = Some(now);
            vertex.cached = origin == Origin::Cached;
            vertex.result = result.and_then(chain);
        });
    }

    fn failed(&self, id: VertexId, _vertex: &Node, error: &StepError) {
        let now = Timestamp::now();
        self.change(id, |vertex| {
            vertex.started.get_or_insert(now);
            vertex.completed = Some(now);
            vertex.error = palan_stdx::error_chain::to_string(error);
        });
    }
}
