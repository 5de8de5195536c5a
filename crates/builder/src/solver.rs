//! What of a plan is known, and executing the rest.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use palan_context::Ignore;
use palan_oci::{Digest, digest::Hasher};

use crate::backend::{Backend, Bringing, Command, Material, Snapshot, StepError, Stream};
use crate::cache::{Cache, Record};
use crate::cancel::Cancel;
use crate::content::{self, Depth, Owners};
use crate::flight::Flights;
use crate::graph::{Input, KEY_VERSION, Op, Plan, Source, Vertex, VertexId};

/// How a vertex came to its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was in the cache, or all that is on it was.
    Cached,
    /// Another build at the same time did it.
    Shared,
    /// It was executed.
    Executed,
}

/// What happens in a build. Called from several threads.
pub trait Observer: Sync {
    /// A vertex is being worked on.
    fn started(&self, _id: VertexId, _vertex: &Vertex) {}
    /// A vertex's result is brought from elsewhere.
    fn bringing(&self, _id: VertexId, _vertex: &Vertex, _layer: Bringing<'_>) {}
    /// A command writes.
    fn output(&self, _id: VertexId, _stream: Stream, _bytes: &[u8]) {}
    /// A vertex has its result.
    fn finished(&self, _id: VertexId, _vertex: &Vertex, _origin: Origin, _result: Option<&Snapshot>) {}
    /// A vertex has failed.
    fn failed(&self, _id: VertexId, _vertex: &Vertex, _error: &StepError) {}
}

/// Nobody looks.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Observer for Nobody {}

/// What came of a plan.
#[derive(Debug)]
pub struct Solved {
    /// The files of the target.
    pub files: Material,
    static_keys: Vec<Option<Digest>>,
    results: Vec<Option<Snapshot>>,
    memory: Memory,
}

/// A result with the keys that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// Whose.
    pub vertex: VertexId,
    /// The static key, and the content key where that can be told.
    pub keys: Vec<Digest>,
    /// The result.
    pub snapshot: Snapshot,
}

/// What was found out about the outside, which does not change during a build.
#[derive(Debug, Default)]
struct Memory {
    pins: Mutex<BTreeMap<VertexId, Digest>>,
    /// Digests of what vertices take from contexts, by vertex and input.
    contexts: Mutex<BTreeMap<(VertexId, usize), Digest>>,
}

/// A step that failed, and which one.
#[derive(Debug, thiserror::Error)]
#[error("failed to solve: {source}")]
pub struct SolveError {
    /// The vertex; none if there was none at fault.
    pub vertex: Option<VertexId>,
    /// Why.
    pub source: StepError,
}

/// Solves plans. One for all builds of a daemon; each build brings a backend of its own.
pub struct Solver {
    cache: Cache,
    flights: Flights,
    threads: usize,
    /// Digests of files, by what tells these files from others and what of them was asked for.
    digests: Mutex<HashMap<Digest, Digest>>,
}

/// So many digests are remembered.
const MAX_DIGESTS: usize = 1024;

impl fmt::Debug for Solver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Solver").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Solver {
    /// `threads` is how many vertices of one build are worked on at the same time.
    pub fn new(cache: Cache, threads: usize) -> Self {
        Self { cache, flights: Flights::default(), threads: threads.max(1), digests: Mutex::default() }
    }

    /// What is known.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The files of a plan's target.
    pub fn solve(
        &self,
        backend: Backend<'_>,
        plan: &Plan,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Solved, SolveError> {
        let memory = Memory::default();
        let target = match &plan.target {
            Input::Scratch => return Ok(Solved::without_steps(Material::Snapshot(Snapshot::default()))),
            Input::Context(name) => return Ok(Solved::without_steps(Material::Context(name.clone()))),
            Input::Vertex(target) => *target,
        };
        let (cancel, _watch) = cancel.child();
        let work = Work { solver: self, backend, plan, observer, cancel: &cancel, memory: &memory };
        let keys = work.static_keys(target).inspect_err(|error| {
            if let Some(id) = error.vertex {
                observer.failed(id, &plan.vertices[id], &error.source);
            }
        })?;
        let state = Mutex::new(work.known(target, &keys));
        let changed = Condvar::new();
        thread::scope(|scope| {
            let jobs = lock(&state).open.len();
            // This thread is one of them: without any other, it takes longer, and no more.
            for _ in 1..self.threads.min(jobs) {
                let worker = thread::Builder::new().name("build-step".to_owned());
                if worker.spawn_scoped(scope, || work.worker(&state, &changed, &keys)).is_err() {
                    break;
                }
            }
            work.worker(&state, &changed, &keys);
        });
        let mut state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (state.failure.take(), state.results[target].clone()) {
            (None, Some(snapshot)) => Ok(Solved {
                files: Material::Snapshot(snapshot),
                static_keys: keys,
                results: state.results,
                memory,
            }),
            (Some(failure), _) => Err(failure),
            // A worker panicked: its message is in the log.
            (None, None) => {
                Err(SolveError { vertex: Some(target), source: StepError::other("a build step broke off") })
            }
        }
    }
}

impl Solved {
    fn without_steps(files: Material) -> Self {
        Self { files, static_keys: Vec::new(), results: Vec::new(), memory: Memory::default() }
    }
}

/// One build.
struct Work<'a> {
    solver: &'a Solver,
    backend: Backend<'a>,
    plan: &'a Plan,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    memory: &'a Memory,
}

/// How far it is.
struct State {
    results: Vec<Option<Snapshot>>,
    /// Vertices that have to be worked on, and nobody does yet.
    open: BTreeSet<VertexId>,
    /// How many are being worked on.
    busy: usize,
    failure: Option<SolveError>,
}

impl Work<'_> {
    fn needed(&self, target: VertexId) -> BTreeSet<VertexId> {
        let mut needed = BTreeSet::from([target]);
        // Everything a vertex depends on stands in front of it.
        for id in (0..=target).rev() {
            if needed.contains(&id) {
                needed.extend(self.vertex_inputs(id));
            }
        }
        needed
    }

    fn vertex_inputs(&self, id: VertexId) -> impl Iterator<Item = VertexId> {
        self.plan.vertices[id].inputs.iter().filter_map(|input| match input {
            Input::Vertex(id) => Some(*id),
            _ => None,
        })
    }

    /// The keys that are known before anything is executed.
    fn static_keys(&self, target: VertexId) -> Result<Vec<Option<Digest>>, SolveError> {
        let needed = self.needed(target);
        let mut keys: Vec<Option<Digest>> = vec![None; self.plan.vertices.len()];
        for id in needed {
            let vertex = &self.plan.vertices[id];
            let at = |source| SolveError { vertex: Some(id), source };
            let mut hasher = Hasher::new();
            hasher.update(b"static");
            hasher.update(vertex.op.digest().as_bytes());
            if let Some(pinned) = self.pinned(id).map_err(at)? {
                hasher.update(pinned.as_bytes());
            }
            for (number, input) in vertex.inputs.iter().enumerate() {
                match input {
                    Input::Scratch => hasher.update(b"scratch"),
                    Input::Vertex(input) => {
                        hasher.update(b"vertex");
                        hasher.update(keys[*input].unwrap_or(Digest::of("")).as_bytes());
                    }
                    Input::Context(name) => {
                        hasher.update(b"content");
                        let content =
                            self.content(id, number, &Material::Context(name.clone())).map_err(at)?;
                        hasher.update(content.as_bytes());
                    }
                }
            }
            keys[id] = Some(hasher.finish());
        }
        Ok(keys)
    }

    /// What remote files are: asked once for a build.
    fn pinned(&self, id: VertexId) -> Result<Option<Digest>, StepError> {
        let Op::Remote(remote) = &self.plan.vertices[id].op else { return Ok(None) };
        if let Some(known) = lock(&self.memory.pins).get(&id) {
            return Ok(Some(*known));
        }
        let pinned = self.backend.sources.pin(remote, self.cancel)?;
        lock(&self.memory.pins).insert(id, pinned);
        Ok(Some(pinned))
    }

    /// The digest of the files that a vertex takes from an input.
    fn content(&self, id: VertexId, number: usize, material: &Material) -> Result<Digest, StepError> {
        if let Material::Context(_) = material
            && let Some(known) = lock(&self.memory.contexts).get(&(id, number))
        {
            return Ok(*known);
        }
        let digest = self.digest(&self.plan.vertices[id], number, material)?;
        if let Material::Context(_) = material {
            lock(&self.memory.contexts).insert((id, number), digest);
        }
        Ok(digest)
    }

    fn digest(&self, vertex: &Vertex, number: usize, material: &Material) -> Result<Digest, StepError> {
        let patterns = vertex.op.reads(number);
        let exclude = match &vertex.op {
            Op::Copy(copy) if number > 0 => copy.exclude.join("\n"),
            _ => String::new(),
        };
        if patterns.is_empty() && number > 0 {
            return Ok(Digest::of(KEY_VERSION));
        }
        // A stage whose base is a context starts with all of it.
        let patterns = if number == 0 { vec!["."] } else { patterns };
        let depth = match &vertex.op {
            Op::Copy(copy) if copy.parents => Depth::Any,
            // Mounts are of paths.
            Op::Run(_) => Depth::Literal,
            _ => Depth::One,
        };
        let identity = match material {
            Material::Context(name) => self.backend.sources.identity(name)?,
            Material::Snapshot(_) => None,
        };
        let asked = identity.map(|identity| question(&identity, &patterns, depth, &exclude));
        if let Some(known) = asked.and_then(|asked| lock(&self.solver.digests).get(&asked).copied()) {
            return Ok(known);
        }
        let exclude = Ignore::parse(exclude.as_bytes()).map_err(StepError::other)?;
        let (root, owners, known) = match material {
            Material::Context(name) => {
                let sources = self.backend.sources;
                (sources.context(name)?, Owners::Root, sources.known_content(name)?)
            }
            Material::Snapshot(snapshot) => (self.backend.layers.open(snapshot)?, Owners::Kept, None),
        };
        let digest = content::digest(&root, &patterns, depth, &exclude, owners, known.as_deref());
        let digest = digest.map_err(StepError::other)?;
        if let Some(asked) = asked {
            let mut digests = lock(&self.solver.digests);
            if digests.len() >= MAX_DIGESTS {
                digests.clear();
            }
            digests.insert(asked, digest);
        }
        Ok(digest)
    }

    /// Looks downwards from the target for results in the cache; below one nobody looks further.
    fn known(&self, target: VertexId, keys: &[Option<Digest>]) -> State {
        let mut results = vec![None; self.plan.vertices.len()];
        let mut open = BTreeSet::new();
        let mut wanted = BTreeSet::from([target]);
        while let Some(id) = wanted.pop_last() {
            let vertex = &self.plan.vertices[id];
            match keys[id].filter(|_| !vertex.ignore_cache).and_then(|key| self.cached(id, key)) {
                Some(snapshot) => {
                    results[id] = Some(snapshot);
                }
                None => {
                    open.insert(id);
                    wanted.extend(self.vertex_inputs(id));
                }
            }
        }
        for id in self.needed(target).difference(&open) {
            // What is below a result is not needed, but it was used, and can be told.
            let record = match &results[*id] {
                Some(_) => None,
                None => keys[*id].and_then(|key| self.recorded(key)),
            };
            let known = results[*id].as_ref().or(record.as_ref());
            self.observer.finished(*id, &self.plan.vertices[*id], Origin::Cached, known);
        }
        State { results, open, busy: 0, failure: None }
    }

    /// A result of the cache, or else of one that is elsewhere.
    fn cached(&self, id: VertexId, key: Digest) -> Option<Snapshot> {
        let Backend { layers, imports, .. } = self.backend;
        let here = self.solver.cache.get(key).map(|record| record.snapshot);
        if let Some(snapshot) = here.filter(|snapshot| layers.has(snapshot)) {
            return Some(snapshot);
        }
        let vertex = &self.plan.vertices[id];
        let told = |layer: Bringing<'_>| self.observer.bringing(id, vertex, layer);
        let brought = imports.bring(&key, &told, self.cancel).filter(|snapshot| layers.has(snapshot))?;
        self.keep(key, vertex, &brought);
        Some(brought)
    }

    /// What a key leads to, here or elsewhere; its layers may be gone.
    fn recorded(&self, key: Digest) -> Option<Snapshot> {
        let here = self.solver.cache.get(key).map(|record| record.snapshot);
        here.or_else(|| self.backend.imports.known(&key))
    }

    fn worker(&self, state: &Mutex<State>, changed: &Condvar, keys: &[Option<Digest>]) {
        let mut guard = lock(state);
        loop {
            if guard.failure.is_some() || (guard.open.is_empty() && guard.busy == 0) {
                changed.notify_all();
                return;
            }
            let is_ready =
                |id: &&VertexId| self.vertex_inputs(**id).all(|input| guard.results[input].is_some());
            let Some(id) = guard.open.iter().find(is_ready).copied() else {
                guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            guard.open.remove(&id);
            guard.busy += 1;
            let materials = self.materials(id, &guard.results);
            drop(guard);
            let seat = Seat { state, changed, work: self, id };
            let result = self.vertex(id, &materials, keys[id]);
            if let Err(error) = &result {
                self.observer.failed(id, &self.plan.vertices[id], error);
            }
            guard = seat.leave(result);
        }
    }

    fn materials(&self, id: VertexId, results: &[Option<Snapshot>]) -> Vec<Material> {
        let material = |input: &Input| match input {
            Input::Scratch => Material::Snapshot(Snapshot::default()),
            Input::Context(name) => Material::Context(name.clone()),
            Input::Vertex(id) => Material::Snapshot(results[*id].clone().unwrap_or_default()),
        };
        self.plan.vertices[id].inputs.iter().map(material).collect()
    }

    fn vertex(
        &self,
        id: VertexId,
        materials: &[Material],
        static_key: Option<Digest>,
    ) -> Result<Snapshot, StepError> {
        if self.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let vertex = &self.plan.vertices[id];
        self.observer.started(id, vertex);
        let key = self.content_key(id, vertex, materials)?;
        let was_cached = Cell::new(false);
        let landed = self.solver.flights.join(key, self.cancel, || {
            // Here and not before: who has just landed has put the result there.
            if let Some(snapshot) =
                Some(key).filter(|_| !vertex.ignore_cache).and_then(|key| self.cached(id, key))
            {
                was_cached.set(true);
                return Ok(snapshot);
            }
            let snapshot = self.execute(id, vertex, materials)?;
            self.keep(key, vertex, &snapshot);
            Ok(snapshot)
        });
        let snapshot = landed.result?;
        // From here on they are this build's, too.
        if landed.is_shared && !self.backend.layers.hold(&snapshot) {
            return Err(StepError::other("the result of another build went before it could be used"));
        }
        let origin = match (landed.is_shared, was_cached.get()) {
            (true, _) => Origin::Shared,
            (false, true) => Origin::Cached,
            (false, false) => Origin::Executed,
        };
        if let Some(key) = static_key {
            self.keep(key, vertex, &snapshot);
        }
        self.observer.finished(id, vertex, origin, Some(&snapshot));
        Ok(snapshot)
    }

    /// Without the record the vertex is built again next time: not worth a failure.
    fn keep(&self, key: Digest, vertex: &Vertex, snapshot: &Snapshot) {
        let _ = self.solver.cache.put(key, &Record::new(snapshot.clone(), vertex.name.clone()));
    }

    /// The key that is known when the inputs are.
    fn content_key(
        &self,
        id: VertexId,
        vertex: &Vertex,
        materials: &[Material],
    ) -> Result<Digest, StepError> {
        let mut hasher = Hasher::new();
        hasher.update(b"content");
        hasher.update(vertex.op.digest().as_bytes());
        if let Some(pinned) = self.pinned(id)? {
            hasher.update(pinned.as_bytes());
        }
        for (number, material) in materials.iter().enumerate() {
            match material {
                // What a step is on, it is on as a whole: the layers say what that is.
                Material::Snapshot(snapshot) if number == 0 => {
                    hasher.update(b"layers");
                    hasher.update(&(snapshot.layers.len() as u64).to_be_bytes());
                    snapshot.layers.iter().for_each(|layer| hasher.update(layer.as_bytes()));
                }
                material => {
                    hasher.update(b"files");
                    hasher.update(self.content(id, number, material)?.as_bytes());
                }
            }
        }
        Ok(hasher.finish())
    }

    /// The content key, if it can be told without anything that is not here.
    fn known_content_key(&self, id: VertexId, materials: &[Material]) -> Option<Digest> {
        let mut looked_at = materials.iter().skip(1);
        let is_here = looked_at.all(|material| match material {
            Material::Context(_) => true,
            Material::Snapshot(snapshot) => self.backend.layers.hold(snapshot),
        });
        is_here.then(|| self.content_key(id, &self.plan.vertices[id], materials).ok()).flatten()
    }

    fn execute(&self, id: VertexId, vertex: &Vertex, materials: &[Material]) -> Result<Snapshot, StepError> {
        let Backend { sources, layers, runner, .. } = self.backend;
        let base = match materials.first() {
            None => Snapshot::default(),
            Some(Material::Snapshot(snapshot)) => snapshot.clone(),
            Some(context @ Material::Context(_)) => {
                let inputs = [Material::Snapshot(Snapshot::default()), context.clone()];
                layers.copy(&Snapshot::default(), &inputs, &everything(), self.cancel)?
            }
        };
        match &vertex.op {
            Op::Image { digest, name } => sources.image(name, *digest, self.cancel),
            Op::Remote(remote) => {
                let pinned = self.pinned(id)?.unwrap_or(Digest::of(""));
                sources.remote(remote, pinned, self.cancel, &|stream, bytes| {
                    self.observer.output(id, stream, bytes);
                })
            }
            Op::MakeDirectory { path, user } => layers.make_directory(&base, path, user),
            Op::Copy(copy) => layers.copy(&base, materials, copy, self.cancel),
            Op::Run(run) => {
                let command = Command {
                    run,
                    hidden_env: &vertex.hidden_env,
                    base: &base,
                    inputs: materials,
                    cancel: self.cancel,
                };
                runner.run(&command, &|stream, bytes| self.observer.output(id, stream, bytes))
            }
        }
    }
}

impl Solver {
    /// The results of a build that was solved, with their keys: for caches elsewhere. Images and downloads are none, since whoever builds has
    /// them from where they are. What lies below a result of the cache is told as far as it is known.
    pub fn keyed(&self, backend: Backend<'_>, plan: &Plan, solved: &Solved, cancel: &Cancel) -> Vec<Keyed> {
        let Input::Vertex(target) = plan.target else { return Vec::new() };
        let work = Work { solver: self, backend, plan, observer: &Nobody, cancel, memory: &solved.memory };
        let needed = work.needed(target);
        let mut results: Vec<Option<Snapshot>> = vec![None; plan.vertices.len()];
        let mut keyed = Vec::new();
        for id in needed {
            let Some(static_key) = solved.static_keys.get(id).copied().flatten() else { continue };
            let vertex = &plan.vertices[id];
            let known = solved.results.get(id).cloned().flatten();
            results[id] = known.or_else(|| match &vertex.op {
                Op::Image { digest, name } => backend.sources.image(name, *digest, cancel).ok(),
                _ => work.recorded(static_key),
            });
            let is_source = matches!(vertex.op, Op::Image { .. } | Op::Remote(_));
            let Some(snapshot) = results[id].clone().filter(|_| !is_source) else { continue };
            let are_known = work.vertex_inputs(id).all(|input| results[input].is_some());
            let content_key =
                are_known.then(|| work.known_content_key(id, &work.materials(id, &results))).flatten();
            keyed.push(Keyed {
                vertex: id,
                keys: [static_key].into_iter().chain(content_key).collect(),
                snapshot,
            });
        }
        keyed
    }
}

/// Which files of a context a digest is of.
fn question(identity: &Digest, patterns: &[&str], depth: Depth, exclude: &str) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(identity.as_bytes());
    hasher.update(&[u8::from(depth == Depth::Any)]);
    for text in patterns.iter().chain([&exclude]) {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finish()
}

/// A copy of a whole context: what a stage starts with that is replaced by one.
pub fn everything() -> crate::graph::Copy {
    crate::graph::Copy {
        sources: vec![Source { input: 1, path: ".".to_owned(), unpack: false }],
        inline: Vec::new(),
        destination: "/".to_owned(),
        owner: None,
        mode: None,
        parents: false,
        exclude: Vec::new(),
        link: false,
    }
}

/// The place of a worker at a vertex. Leaving it, even by a panic, lets the others go on.
struct Seat<'a> {
    state: &'a Mutex<State>,
    changed: &'a Condvar,
    work: &'a Work<'a>,
    id: VertexId,
}

impl<'a> Seat<'a> {
    fn leave(self, result: Result<Snapshot, StepError>) -> MutexGuard<'a, State> {
        let (state, changed, work, id) = (self.state, self.changed, self.work, self.id);
        std::mem::forget(self);
        let mut guard = lock(state);
        guard.busy -= 1;
        match result {
            Ok(snapshot) => guard.results[id] = Some(snapshot),
            // What stopped because another step failed is not the cause.
            Err(source) if guard.failure.is_none() => {
                guard.failure = Some(SolveError { vertex: Some(id), source });
                drop(guard);
                work.cancel.cancel();
                guard = lock(state);
            }
            Err(_) => {}
        }
        changed.notify_all();
        guard
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut guard = lock(self.state);
        guard.busy -= 1;
        guard.failure.get_or_insert(SolveError {
            vertex: Some(self.id),
            source: StepError::other("a build step broke off"),
        });
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
