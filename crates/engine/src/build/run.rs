//! A build from request to image: which images it stands on, the plan, solving it, and what comes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;
use palan_builder::backend::{Backend, Material, Snapshot, StepError};
use palan_builder::cache::Cache;
use palan_builder::graph::{Op, Plan};
use palan_builder::lower::{BaseImage, Build, ImageRequest, Lowered, lower};
use palan_builder::solver::{SolveError, Solver};
use palan_dockerfile::Source;
use palan_oci::{Digest, Platform, Reference};
use palan_registry::{ProgressEvent, PullRequest};
use palan_store::{Image, Lease};

use super::assemble::assemble;
use super::layers::BuildLayers;
use super::mounts::CacheMounts;
use super::observe::Observing;
use super::progress::{Event, ProgressSink, Status, Vertex, Warning};
use super::request::{BuildClient, BuildOutcome, BuildRequest, CacheSource, DockerfileSource};
use super::sources::{BuildSources, Contexts, read_file};
use super::step::BuildRunner;
use super::{BuildError, Cancel};
use crate::container::parse_platform;
use crate::db::Change;
use crate::engine::Engine;
use crate::error::Context as _;
use crate::image::{credentials, event, registry_error, store_error};
use crate::{Class, Error, Result, identifier};

/// How many vertices of one build are worked on at the same time.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16)
}

/// What the engine has for all builds.
#[derive(Debug)]
pub(crate) struct Builds {
    pub(super) solver: Solver,
    pub(super) mounts: Arc<CacheMounts>,
    /// When the cache was looked at last for its size.
    pub(super) limited: Mutex<Option<Instant>>,
    /// Contexts that are kept between builds.
    pub(super) kept: super::kept::Kept,
    directory: PathBuf,
}

impl Builds {
    /// Opens the cache, and removes what an earlier daemon left of builds in progress.
    pub(crate) fn open(data_root: &Path) -> Result<Self> {
        let directory = data_root.join("build");
        let failed = || "cannot prepare the directories of builds".to_owned();
        let work = directory.join("work");
        palan_linux::path::remove_tree(&work).context(failed)?;
        for path in [&directory, &work, &directory.join("mounts")] {
            palan_stdx::fs::create_dir_all(path, 0o700).context(failed)?;
        }
        let cache = Cache::open(directory.join("cache")).context(failed)?;
        let mounts = Arc::new(CacheMounts::new(directory.join("mounts")));
        mounts.empty_trash().context(failed)?;
        let solver = Solver::new(cache, threads());
        let kept = super::kept::Kept::default();
        Ok(Self { solver, mounts, limited: Mutex::default(), kept, directory: work })
    }
}

/// A directory of one build, which goes with it. Nobody waits for that: a large context takes its time.
struct WorkDirectory(PathBuf);

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = palan_linux::path::remove_tree(&path) {
                tracing::warn!(%error, "what a build needed stays until the next start");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("build-removal".to_owned()).spawn(remove) {
            tracing::warn!(%error, "what a build needed stays until the next start");
        }
    }
}

impl Engine {
    /// Builds. The work is done on threads of its own; when `cancel` is told, it ends soon.
    pub async fn build(
        &self,
        request: BuildRequest,
        client: Arc<dyn BuildClient>,
        progress: Arc<dyn ProgressSink>,
        cancel: Cancel,
    ) -> Result<BuildOutcome, BuildError> {
        let engine = self.shared();
        let runtime = tokio::runtime::Handle::current();
        let (sender, outcome) = tokio::sync::oneshot::channel();
        let started = std::thread::Builder::new().name("build".to_owned()).spawn(move || {
            let work = Work { engine: &engine, request: &request, client, progress, cancel, runtime };
            // Whoever asked may have gone.
            let _ = sender.send(work.build());
            engine.limit_cache();
        });
        started.context(|| "cannot start a thread".into()).map_err(BuildError::from)?;
        let outcome = outcome.await.map_err(|_| Error::system("the build broke off"))?;
        let outcome = outcome?;
        for name in &outcome.names {
            let id = outcome.image.to_string();
            self.db.commit(Change::new().event(event("tag", &id, &name.familiar()))).await?;
        }
        Ok(outcome)
    }
}

struct Work<'a> {
    engine: &'a Arc<Engine>,
    request: &'a BuildRequest,
    client: Arc<dyn BuildClient>,
    progress: Arc<dyn ProgressSink>,
    cancel: Cancel,
    runtime: tokio::runtime::Handle,
}

impl Work<'_> {
    fn build(&self) -> Result<BuildOutcome, BuildError> {
        let builds = &self.engine.builds;
        let directory = WorkDirectory(builds.directory.join(identifier::new_id()));
        palan_stdx::fs::create_dir(&directory.0, 0o700)
            .context(|| "cannot prepare the directories of the build".into())?;
        let lease = self.engine.store.lease();
        let contexts = Contexts::new(directory.0.clone(), Arc::clone(&self.client), self.cancel.clone());
        let dockerfile = self.dockerfile(&contexts)?;
        let parsed = palan_dockerfile::parse(&dockerfile.content);
        let file = parsed.map_err(|error| dockerfile.error(&error))?;
        let mut sources =
            BuildSources::new(self.engine, &lease, &contexts, self.runtime.clone(), directory.0.clone());
        self.refuse_caches();
        let plan = self.plan(&dockerfile, &file, &mut sources, &lease)?;
        let only = self.stacks_of_caches();
        let layers = BuildLayers { store: &self.engine.store, lease: &lease, contexts: &contexts, only };
        let runner = BuildRunner {
            engine: self.engine,
            layers: &layers,
            client: &self.client,
            caches: &builds.mounts,
            settings: &self.request.steps,
            runtime: self.runtime.clone(),
        };
        let backend = Backend { sources: &sources, layers: &layers, runner: &runner };
        let observer = Observing::new(&plan, &*self.progress);
        self.allowed(&plan).map_err(|error| solve_error(error, &observer, &plan, &dockerfile))?;
        let solved = builds.solver.solve(backend, &plan, &observer, &self.cancel);
        self.engine.store.sync_soon();
        let files = solved.map_err(|error| solve_error(error, &observer, &plan, &dockerfile))?;
        let snapshot = self.snapshot(files, backend)?;
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        Ok(assemble(self.engine, self.request, plan.config, &snapshot, &lease)?)
    }

    /// What the build may do, for every command of the plan, cached or not.
    fn allowed(&self, plan: &Plan) -> Result<(), SolveError> {
        for (id, vertex) in plan.vertices.iter().enumerate() {
            if let Op::Run(run) = &vertex.op {
                let failed =
                    |error: Error| SolveError { vertex: Some(id), source: StepError::other(error.report()) };
                super::step::allowed(run, &self.request.steps).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A stage that is a context and nothing else is an image with these files.
    fn snapshot(&self, files: Material, backend: Backend<'_>) -> Result<Snapshot, BuildError> {
        match files {
            Material::Snapshot(snapshot) => Ok(snapshot),
            context @ Material::Context(_) => {
                let inputs = [Material::Snapshot(Snapshot::default()), context];
                let copy = palan_builder::solver::everything();
                let copied = backend.layers.copy(&Snapshot::default(), &inputs, &copy, &self.cancel);
                Ok(copied.map_err(|error| Error::system("cannot copy the context").with_source(error))?)
            }
        }
    }

    fn dockerfile(&self, contexts: &Contexts) -> Result<Given, BuildError> {
        match &self.request.dockerfile {
            DockerfileSource::Given { name, content, ignore } => {
                if let Some(ignore) = ignore {
                    contexts.set_ignore(ignore)?;
                }
                Ok(Given { name: name.clone(), content: content.clone() })
            }
            DockerfileSource::InContext(path) => {
                let root = contexts.open("")?;
                let limit = palan_dockerfile::MAX_FILE as u64;
                let path = path.trim_start_matches('/');
                let content = read_file(&root, path, limit)?;
                // As in Docker, on a file system where a capital letter was lost.
                let content = match content {
                    None if path == "Dockerfile" => read_file(&root, "dockerfile", limit)?,
                    other => other,
                };
                let content = content
                    .ok_or_else(|| Error::invalid(format!("Cannot locate specified Dockerfile: {path}")))?;
                for candidate in palan_context::candidates(path) {
                    if let Some(ignore) = read_file(&root, &candidate, limit)? {
                        contexts.set_ignore(&ignore)?;
                        break;
                    }
                }
                Ok(Given { name: path.to_owned(), content })
            }
        }
    }

    fn plan(
        &self,
        dockerfile: &Given,
        file: &palan_dockerfile::Dockerfile,
        sources: &mut BuildSources<'_>,
        lease: &Lease,
    ) -> Result<Plan, BuildError> {
        let request = self.request;
        let host = Platform::host();
        let platform = request.platform.as_deref().filter(|text| !text.is_empty());
        let platform = platform.map(parse_platform).transpose()?.unwrap_or_else(|| host.clone());
        let mut images: BTreeMap<ImageRequest, BaseImage> = BTreeMap::new();
        if request.check {
            self.check(file, &platform, &host);
        }
        loop {
            let build = Build {
                file,
                target: request.target.as_deref().filter(|target| !target.is_empty()),
                build_args: &request.args,
                build_platform: &host,
                target_platform: &platform,
                contexts: &request.contexts,
                images: &images,
                no_cache: request.no_cache,
                no_cache_filter: &request.no_cache_filter,
                network: &request.steps.network,
                extra_hosts: &request.steps.extra_hosts,
            };
            match lower(&build).map_err(|error| dockerfile.error(&error))? {
                Lowered::Plan(plan) => return Ok(*plan),
                Lowered::Needs(wanted) => {
                    for wanted in wanted {
                        let image = self.image(&wanted, lease)?;
                        sources.images.insert(image.manifest, (*image.config).clone());
                        let base = BaseImage { manifest: image.manifest, config: (*image.config).clone() };
                        images.insert(wanted, base);
                    }
                }
            }
        }
    }

    /// An image of a name, for a platform: from here, or else from its registry.
    fn image(&self, wanted: &ImageRequest, lease: &Lease) -> Result<Image, BuildError> {
        let name = self.request.image_contexts.get(&wanted.name).unwrap_or(&wanted.name);
        let platform: Platform = parse_platform(&wanted.platform)?;
        if let Ok(reference) = Reference::parse(name) {
            self.client.allow(&format!("docker-image://{reference}"))?;
        }
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        if !self.request.pull
            && let Some(image) = self.known(name, &platform, lease)?
        {
            return Ok(image);
        }
        let reference = Reference::parse(name).map_err(crate::image::reference_error)?;
        self.pull(&reference, &platform)?;
        let found = self.known(name, &platform, lease)?;
        found.ok_or_else(|| {
            let text = format!("image {name} does not provide the platform {platform}");
            Error::not_found(text).into()
        })
    }

    fn known(&self, name: &str, platform: &Platform, lease: &Lease) -> Result<Option<Image>, BuildError> {
        let store = &self.engine.store;
        let image = match store.resolve(name) {
            Ok(image) => image,
            Err(error) => {
                let error = store_error(error);
                return if error.class() == Class::NotFound { Ok(None) } else { Err(error.into()) };
            }
        };
        lease.protect(image.id.digest());
        lease.protect(image.manifest);
        // Who removes the image meanwhile takes nothing that the result is recorded with.
        for layer in &image.config.rootfs.diff_ids {
            match store.describe(layer, lease) {
                Err(palan_store::Error::NoSuchBlob { .. }) => return Ok(None),
                other => other.map_err(store_error)?,
            };
        }
        let actual = image.config.platform();
        // An image that was made by hand may say nothing of what it is for.
        let is_right = platform.matches(&actual) || actual.os.is_empty();
        Ok(is_right.then_some(image))
    }

    fn pull(&self, reference: &Reference, platform: &Platform) -> Result<(), BuildError> {
        let auth = self.client.credentials(reference)?;
        let digest = Digest::of(format!("pull {reference} {platform}"));
        let mut vertex = Vertex {
            digest,
            name: format!("[internal] load metadata for {reference}"),
            inputs: Vec::new(),
            started: Some(Timestamp::now()),
            completed: None,
            cached: false,
            error: String::new(),
            result: None,
        };
        self.progress.event(Event::Vertex(vertex.clone()));
        let request = PullRequest {
            reference: reference.clone(),
            platform: Some(platform.clone()),
            credentials: credentials(auth),
        };
        let tell = |news: ProgressEvent| {
            if let ProgressEvent::Layer { id, status } = news {
                let (current, total) = status.progress().unwrap_or((0, 0));
                self.progress.event(Event::Status(Status {
                    vertex: digest,
                    id,
                    name: status.to_string(),
                    current,
                    total,
                    started: vertex.started,
                    completed: None,
                }));
            }
        };
        let stop = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&stop);
        let _watch = self.cancel.watch(move || told.notify_one());
        let pulled = self.runtime.block_on(async {
            tokio::select! {
                outcome = self.engine.registry.pull(&request, &self.engine.store, tell) => {
                    outcome.map(drop).map_err(|error| BuildError::from(registry_error(error)))
                }
                () = stop.notified() => Err(cancelled()),
            }
        });
        vertex.completed = Some(Timestamp::now());
        if let Err(error) = &pulled {
            vertex.error = error.to_string();
        }
        self.progress.event(Event::Vertex(vertex));
        pulled
    }

    /// The layers of the images that alone may be used as cache, if any are named. One that is not here has none.
    fn stacks_of_caches(&self) -> Option<Vec<Vec<Digest>>> {
        let images = self.request.cache_from.iter().filter(|cache| cache.kind == CacheSource::IMAGE);
        let names: Vec<&String> = images.filter_map(|cache| cache.attributes.get("ref")).collect();
        let layers = |name: &String| {
            self.engine
                .store
                .resolve(name)
                .map(|image| image.config.rootfs.diff_ids.clone())
                .unwrap_or_default()
        };
        (!names.is_empty()).then(|| names.into_iter().map(layers).collect())
    }

    /// Tells what of other caches is not used: that is no mistake, but nobody should wonder.
    fn refuse_caches(&self) {
        for cache in self.request.cache_from.iter().filter(|cache| cache.kind != CacheSource::IMAGE) {
            let name = cache.attributes.get("ref").map_or(cache.kind.as_str(), String::as_str);
            self.progress.event(Event::Warning(Warning {
                rule: String::new(),
                short: format!("cache-from {name} is not used: this builder has a cache of its own only"),
                detail: String::new(),
                url: String::new(),
                lines: None,
            }));
        }
    }

    fn check(&self, file: &palan_dockerfile::Dockerfile, platform: &Platform, host: &Platform) {
        let target = self.request.target.as_deref().filter(|target| !target.is_empty());
        let request = palan_dockerfile::scope::Request {
            build_args: &self.request.args,
            build_platform: host,
            target_platform: platform,
            target,
        };
        let options = palan_dockerfile::lint::Options {
            request,
            target,
            contexts: &self.request.contexts,
            config: None,
            base_image: &|_| None,
            is_ignored: None,
        };
        for warning in palan_dockerfile::lint::check(file, &options).warnings {
            let lines = (warning.span.start.line, warning.span.end.line);
            self.progress.event(Event::Warning(Warning {
                rule: warning.rule.name().to_owned(),
                short: warning.message,
                detail: warning.rule.description().to_owned(),
                url: warning.rule.url().unwrap_or_default(),
                lines: Some(lines),
            }));
        }
    }
}

/// The Dockerfile's bytes.
pub(super) struct Given {
    name: String,
    content: Vec<u8>,
}

impl Given {
    fn error(&self, error: &palan_dockerfile::DockerfileError) -> BuildError {
        let source = Source::new(self.name.clone(), &self.content);
        // What the parser refuses says so itself.
        let said = error.to_string();
        let message = if said.starts_with("dockerfile parse error") {
            said
        } else {
            format!("dockerfile parse error on line {}: {said}", error.span().start.line)
        };
        BuildError {
            error: Error::invalid(message),
            exit: None,
            vertex: None,
            excerpt: error.render(&source).into(),
            lines: Some(Box::new((error.span().start.line, error.span().end.line))),
        }
    }
}

fn cancelled() -> BuildError {
    Error::system("the build was cancelled").into()
}

fn solve_error(error: SolveError, observer: &Observing<'_>, plan: &Plan, dockerfile: &Given) -> BuildError {
    let SolveError { vertex, source } = error;
    let excerpt = vertex.map(|id| {
        let source = Source::new(dockerfile.name.clone(), &dockerfile.content);
        source.excerpt(plan.vertices[id].span)
    });
    let lines = vertex.map(|id| {
        let span = plan.vertices[id].span;
        Box::new((span.start.line, span.end.line))
    });
    let exit = match &source {
        StepError::ExitCode { command, code } => Some(Box::new((command.clone(), *code))),
        _ => None,
    };
    let text = match &source {
        StepError::Cancelled => "the build was cancelled".to_owned(),
        other => palan_stdx::error_chain::to_string(other),
    };
    BuildError {
        error: Error::system(text),
        exit,
        vertex: vertex.map(|id| observer.digest(id)),
        excerpt: excerpt.unwrap_or_default().into(),
        lines,
    }
}
