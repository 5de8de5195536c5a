//! A build from request to image: which images it stands on, the plan, solving it, and what comes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;
use palan_builder::backend::{Backend, Material, Snapshot, StepError};
use palan_builder::cache::Cache;
use palan_builder::graph::{Op, Plan};
use palan_builder::lower::{BaseImage, Build, ImageRequest, Lowered, lower};
use palan_builder::solver::{SolveError, Solver};
use palan_dockerfile::Source;
use palan_oci::image_config::ImageConfig;
use palan_oci::{Descriptor, Digest, Platform};
use palan_store::Lease;

use super::assemble::{Common, assemble};
use super::attest::{self, Materials, UsedImage};
use super::bases::known_as;
use super::caches::CacheTarget;
use super::caches::export::Exporting;
use super::caches::import::{Caching, ImportedCaches};
use super::epoch;
use super::layers::BuildLayers;
use super::mounts::CacheMounts;
use super::observe::Observing;
use super::progress::{Event, ProgressSink, Warning};
use super::remotes::{self, Remotes};
use super::request::{BuildClient, BuildOutcome, BuildRequest, CacheSource, DockerfileSource};
use super::shell::Kept;
use super::sources::{BuildSources, Contexts, read_file};
use super::step::BuildRunner;
use super::{BuildError, Cancel};
use crate::db::Change;
use crate::engine::Engine;
use crate::error::Context as _;
use crate::image::event;
use crate::{Error, Result, identifier};

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
            let has_leftovers = AtomicBool::new(false);
            let work =
                Work { engine: &engine, request: &request, client, progress, cancel, runtime, has_leftovers };
            // Whoever asked may have gone.
            let _ = sender.send(work.build());
            if work.has_leftovers.into_inner()
                && let Err(error) = engine.store.collect()
            {
                tracing::warn!(%error, "what a build has brought and not kept stays for now");
            }
            engine.limit_cache();
        });
        started.context(|| "cannot start a thread".into()).map_err(BuildError::from)?;
        let outcome = outcome.await.map_err(|_| Error::system("the build broke off"))?;
        let outcome = outcome?;
        for name in &outcome.names {
            let id = outcome.image().image.to_string();
            self.db.commit(Change::new().event(event("tag", &id, &name.familiar()))).await?;
        }
        Ok(outcome)
    }
}

pub(super) struct Work<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) request: &'a BuildRequest,
    pub(super) client: Arc<dyn BuildClient>,
    pub(super) progress: Arc<dyn ProgressSink>,
    pub(super) cancel: Cancel,
    pub(super) runtime: tokio::runtime::Handle,
    /// The store has something that nobody keeps.
    has_leftovers: AtomicBool,
}

/// What builds for several platforms have in common.
pub(super) struct Parts<'a> {
    dockerfile: &'a Given,
    file: &'a palan_dockerfile::Dockerfile,
    contexts: &'a Contexts<'a>,
    remotes: &'a Remotes<'a>,
    pub(super) lease: &'a Lease,
    failed: Kept,
    /// One image at a time: a pull moves the name, and it has to lead where it did.
    pub(super) pulling: Mutex<()>,
    epoch: Option<Timestamp>,
    /// Mistakes in the Dockerfile were told.
    is_checked: AtomicBool,
}

/// What a build for one platform has come to.
pub(super) struct Solved {
    pub(super) platform: Platform,
    /// What the image says; its layers are still those of the base.
    pub(super) config: ImageConfig,
    pub(super) snapshot: Snapshot,
    /// For statements about it.
    pub(super) materials: Materials,
    /// Its packages, if they are wanted.
    pub(super) packages: Option<serde_json::Value>,
}

impl Work<'_> {
    fn build(&self) -> Result<BuildOutcome, BuildError> {
        let builds = &self.engine.builds;
        let started = Timestamp::now();
        let epoch = self.request.epoch.as_ref().or_else(|| self.request.args.get(epoch::NAME));
        let epoch = epoch::parse(epoch.map_or("", String::as_str))?;
        let directory = WorkDirectory(builds.directory.join(identifier::new_id()));
        palan_stdx::fs::create_dir(&directory.0, 0o700)
            .context(|| "cannot prepare the directories of the build".into())?;
        let lease = self.engine.store.lease();
        let remotes = Remotes::new(
            self.engine,
            &lease,
            Arc::clone(&self.client),
            self.runtime.clone(),
            directory.0.clone(),
        );
        let contexts = Contexts::new(
            directory.0.clone(),
            Arc::clone(&self.client),
            self.cancel.clone(),
            &remotes,
            remotes::contexts(self.request),
            Arc::clone(&self.progress),
        );
        let dockerfile = self.dockerfile(&contexts)?;
        let parsed = palan_dockerfile::parse(&dockerfile.content);
        let file = parsed.map_err(|error| dockerfile.error(&error))?;
        let parts = Parts {
            dockerfile: &dockerfile,
            file: &file,
            contexts: &contexts,
            lease: &lease,
            remotes: &remotes,
            failed: Kept::default(),
            pulling: Mutex::default(),
            epoch,
            is_checked: AtomicBool::new(!self.request.check),
        };
        let about = Common { dockerfile: (&dockerfile.name, &dockerfile.content), started, epoch };
        self.solve_each(&parts, |solved| {
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            Ok(assemble(self.engine, self.request, solved, &about, &lease)?)
        })
    }

    /// Builds for one platform, has `then` done with the result, and exports the cache. `cancel` ends it when another one has failed.
    pub(super) fn solve<T>(
        &self,
        parts: &Parts<'_>,
        platform: &Platform,
        shows_platform: bool,
        cancel: &Cancel,
        then: impl FnOnce(Solved) -> Result<T, BuildError>,
    ) -> Result<(T, Option<Descriptor>), BuildError> {
        let builds = &self.engine.builds;
        let Parts { dockerfile, lease, contexts, remotes, .. } = *parts;
        let mut sources = BuildSources::new(&self.engine.store, lease, contexts, remotes);
        let (mut plan, images) = self.plan(parts, platform, shows_platform, &mut sources)?;
        let imports = ImportedCaches::load(self.caching(lease), &self.request.cache_from);
        let only = self.stacks_of_caches();
        let layers = BuildLayers { store: &self.engine.store, lease, contexts, only };
        let runner = BuildRunner {
            engine: self.engine,
            layers: &layers,
            client: &self.client,
            caches: &builds.mounts,
            settings: &self.request.steps,
            runtime: self.runtime.clone(),
            failed: &parts.failed,
        };
        let backend = Backend { sources: &sources, layers: &layers, runner: &runner, imports: &imports };
        let salt = if shows_platform { platform.to_string() } else { String::new() };
        let observer = Observing::new(&plan, &*self.progress, &salt);
        self.allowed(&plan).map_err(|error| solve_error(error, &observer, &plan, dockerfile))?;
        let solved = builds.solver.solve(backend, &plan, &observer, cancel);
        if solved.is_err()
            && let Some(failed) = parts.failed.take()
        {
            cancel.cancel();
            if let Err(error) = runner.shell(failed, &self.cancel) {
                self.warn(format!("no shell: {}", palan_stdx::error_chain::to_string(&error)));
            }
        }
        self.engine.store.sync_soon();
        self.has_leftovers.fetch_or(imports.leftovers.load(Ordering::Relaxed), Ordering::Relaxed);
        let solved = solved.map_err(|error| solve_error(error, &observer, &plan, dockerfile))?;
        let mut snapshot = self.snapshot(solved.files.clone(), backend)?;
        if self.request.image.as_ref().is_some_and(|image| image.rewrite_times) {
            snapshot = self.rewritten(&layers, snapshot, &plan.config.rootfs.diff_ids, parts.epoch)?;
        }
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let exports = &self.request.cache_to;
        let keyed = match exports.is_empty() {
            true => Vec::new(),
            false => builds.solver.keyed(backend, &plan, &solved, cancel),
        };
        let exporting = Exporting::new(self.caching(lease), &imports, keyed, &snapshot);
        if exports.iter().any(|export| export.target == CacheTarget::Image) {
            plan.config.build_cache = exporting.inline();
        }
        let (materials, packages) = self.about(&plan, images, &snapshot, &layers, &sources, parts.epoch)?;
        let config = plan.config;
        let snapshot = snapshot.clone();
        let done = then(Solved { platform: platform.clone(), config, snapshot, materials, packages })?;
        let exported = exporting.run(exports);
        self.has_leftovers.fetch_or(imports.leftovers.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok((done, exported?))
    }

    /// What statements about the image need.
    fn about(
        &self,
        plan: &Plan,
        images: Vec<UsedImage>,
        snapshot: &Snapshot,
        layers: &BuildLayers<'_>,
        sources: &BuildSources<'_>,
        epoch: Option<Timestamp>,
    ) -> Result<(Materials, Option<serde_json::Value>), BuildError> {
        let wanted = &self.request.attestations;
        let mut materials = Materials::default();
        if let Some(provenance) = &wanted.provenance {
            let collected = Materials::of(plan, images, sources, &self.cancel);
            materials =
                collected.map_err(|error| Error::system("cannot tell what was used").with_source(error))?;
            if provenance.needs_materials && !materials.locals.is_empty() {
                let locals: Vec<&str> = materials.locals.iter().map(String::as_str).collect();
                let text = "provenance materials are incomplete: files of the client's have no digest: ";
                return Err(Error::invalid(format!("{text}{}", locals.join(", "))).into());
            }
        }
        let mut packages = None;
        if wanted.packages {
            let view = layers.view(snapshot);
            let view =
                view.map_err(|error| Error::system("cannot list the image's packages").with_source(error))?;
            packages = Some(attest::packages(&view, epoch.unwrap_or_else(Timestamp::now), &self.cancel)?);
        }
        Ok((materials, packages))
    }

    fn rewritten(
        &self,
        layers: &BuildLayers<'_>,
        snapshot: Snapshot,
        base: &[Digest],
        epoch: Option<Timestamp>,
    ) -> Result<Snapshot, BuildError> {
        let Some(epoch) = epoch else {
            self.warn("rewrite-timestamp is specified, but no source-date-epoch was found".to_owned());
            return Ok(snapshot);
        };
        let cache = self.engine.builds.solver.cache();
        let rewritten = layers.rewritten(&snapshot, base, epoch, cache, &self.cancel);
        rewritten.map_err(|error| match error {
            StepError::Cancelled => cancelled(),
            other => Error::system("cannot rewrite the times of the image's files").with_source(other).into(),
        })
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

    fn dockerfile(&self, contexts: &Contexts<'_>) -> Result<Given, BuildError> {
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
        parts: &Parts<'_>,
        platform: &Platform,
        shows_platform: bool,
        sources: &mut BuildSources<'_>,
    ) -> Result<(Plan, Vec<UsedImage>), BuildError> {
        let request = self.request;
        let Parts { dockerfile, file, .. } = *parts;
        let host = Platform::host();
        let mut images: BTreeMap<ImageRequest, BaseImage> = BTreeMap::new();
        let mut used = Vec::new();
        if !parts.is_checked.swap(true, Ordering::Relaxed) {
            self.check(file, platform, &host);
        }
        loop {
            let build = Build {
                file,
                target: request.target.as_deref().filter(|target| !target.is_empty()),
                build_args: &request.args,
                build_platform: &host,
                target_platform: platform,
                contexts: &request.contexts,
                images: &images,
                no_cache: request.no_cache,
                no_cache_filter: &request.no_cache_filter,
                network: &request.steps.network,
                extra_hosts: &request.steps.extra_hosts,
                shows_platform,
            };
            match lower(&build).map_err(|error| dockerfile.error(&error))? {
                Lowered::Plan(plan) => return Ok((*plan, used)),
                Lowered::Needs(wanted) => {
                    for wanted in wanted {
                        let image = self.image(&wanted, parts)?;
                        used.push((
                            wanted.name.clone(),
                            wanted.platform.clone(),
                            known_as(&image, &wanted.name),
                        ));
                        sources.images.insert(image.manifest, (*image.config).clone());
                        let base = BaseImage { manifest: image.manifest, config: (*image.config).clone() };
                        images.insert(wanted, base);
                    }
                }
            }
        }
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

    /// Tells what is no reason to fail.
    fn warn(&self, short: String) {
        self.progress.event(Event::Warning(Warning {
            rule: String::new(),
            short,
            detail: String::new(),
            url: String::new(),
            lines: None,
        }));
    }

    /// What all that is done with caches elsewhere needs.
    fn caching<'a>(&'a self, lease: &'a Lease) -> Caching<'a> {
        Caching {
            engine: self.engine,
            client: &self.client,
            progress: &*self.progress,
            lease,
            runtime: &self.runtime,
            cancel: &self.cancel,
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

pub(super) fn cancelled() -> BuildError {
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
