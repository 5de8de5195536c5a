//! `Control.Solve`: one build, from what a client says to what it gets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jiff::Timestamp;
use palan_buildkit::errdefs::{self, Source};
use palan_buildkit::grpc::{Call, Code, Status};
use palan_buildkit::message::control::{
    BuildHistoryRecord, CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, SolveResponse,
};
use palan_buildkit::message::gateway;
use palan_buildkit::message::pb::{Position, Range, SourceInfo};
use palan_engine::Class;
use palan_engine::build::classic::RemoteContext;
use palan_engine::build::{
    Attestations, BuildError, BuildOutcome, BuildRequest, CacheExport, CacheTarget, Cancel, DockerfileSource,
    ImageOutput, Remote, RootDir, of_context, redacted,
};
use tokio::sync::mpsc;

use super::BuildKit;
use super::caches;
use super::client::{self, SessionClient};
use super::exports::{self, Exports};
use super::gateway::unsupported;
use super::progress::{Build, Internal, Running, Sink, time, vertex_of};
use super::request::{self, MainContext, Wanted};
use super::sessions::Session;

/// The largest Dockerfile and ignore file that are read; the engine has its own limits, with better errors.
const MAX_FILE: u64 = 16 << 20;

/// What is to be built.
pub(super) struct What<'a> {
    attrs: &'a BTreeMap<String, String>,
    /// Caches that it may use.
    imports: &'a [CacheOptionsEntry],
    /// Where its results go besides.
    exports: &'a [CacheExport],
}

/// Tells a build to stop when nobody waits for it any more.
struct StopOnDrop(Cancel);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A directory of a build's, which goes with it. What a killed daemon leaves, the engine removes when it starts.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = palan_engine::build::remove_tree(&self.0) {
            tracing::warn!(%error, "what a build needed stays until the next start");
        }
    }
}

/// What the engine says went wrong, as a code.
pub(super) fn code(class: Class) -> Code {
    match class {
        Class::NotFound => Code::NotFound,
        Class::InvalidParameter => Code::InvalidArgument,
        Class::Conflict => Code::AlreadyExists,
        Class::Forbidden => Code::PermissionDenied,
        Class::Unauthorized => Code::Unauthenticated,
        Class::Unavailable => Code::Unavailable,
        Class::NotImplemented => Code::Unimplemented,
        Class::NotModified | Class::System => Code::Unknown,
    }
}

impl BuildKit {
    /// `Control.Solve`.
    pub(super) async fn solve(self: Arc<Self>, mut call: Call) -> Result<(), Status> {
        let request: SolveRequest = call.question().await?;
        let exporter_response = self.run(request).await?;
        call.outgoing.send(&SolveResponse { exporter_response }).await
    }

    async fn run(self: &Arc<Self>, request: SolveRequest) -> Result<BTreeMap<String, String>, Status> {
        if request.reference.is_empty() || request.reference.len() > 256 {
            return Err(Status::new(Code::InvalidArgument, "the build needs a reference"));
        }
        let is_driven = request.frontend.is_empty();
        if !is_driven {
            request::frontend(&request.frontend, &request.frontend_attrs, request.definition.as_ref())?;
        }
        let Caches { imports, exports: cache_exports } = accepted(&request)?;
        let exporters = exporters(&request);
        let exports = exports::parse(&exporters)?;
        let (sender, returned) = mpsc::channel(1);
        let record = BuildHistoryRecord {
            reference: request.reference.clone(),
            frontend: request.frontend.clone(),
            frontend_attrs: shown(&request.frontend_attrs),
            exporters,
            created_at: Some(time(Timestamp::now())),
            ..BuildHistoryRecord::default()
        };
        let running = Running::begin(
            self,
            record,
            [request.session.clone(), request.source_policy_session.clone()],
            request.entitlements.clone(),
            is_driven.then_some(sender),
        )?;
        let build = Arc::clone(&running.build);
        let outcome = match is_driven {
            true => self.driven(returned, &exports, &build, &cache_exports).await,
            false => {
                let what =
                    What { attrs: &request.frontend_attrs, imports: &imports, exports: &cache_exports };
                self.build_and_export(&what, &exports, &build).await
            }
        };
        running.end(&outcome);
        outcome
    }

    /// A build whose client says what it wants when it returns.
    async fn driven(
        self: &Arc<Self>,
        mut returned: mpsc::Receiver<super::gateway::Returned>,
        exports: &Exports,
        build: &Arc<Build>,
        cache_exports: &[CacheExport],
    ) -> Result<BTreeMap<String, String>, Status> {
        let gone = || Status::new(Code::Cancelled, "the client left its build without a result");
        let Some(request) = returned.recv().await.ok_or_else(gone)?? else { return Ok(BTreeMap::new()) };
        let what =
            What { attrs: &request.frontend_opt, imports: &request.cache_imports, exports: cache_exports };
        self.build_and_export(&what, exports, build).await
    }

    /// Makes a result before its client returns it: for those who want to know whether it can be.
    pub(super) async fn evaluate(
        self: &Arc<Self>,
        build: &Arc<Build>,
        request: gateway::SolveRequest,
    ) -> Result<(), Status> {
        let what = What { attrs: &request.frontend_opt, imports: &request.cache_imports, exports: &[] };
        let session = self.session_of(build).await?;
        self.build(&what, &Exports::default(), build, session.as_ref()).await.map(drop)
    }

    async fn session_of(&self, build: &Build) -> Result<Option<Arc<Session>>, Status> {
        if build.session.is_empty() {
            return Ok(None);
        }
        self.sessions.get(&build.session).await.map(Some)
    }

    async fn build_and_export(
        self: &Arc<Self>,
        what: &What<'_>,
        exports: &Exports,
        build: &Arc<Build>,
    ) -> Result<BTreeMap<String, String>, Status> {
        let session = self.session_of(build).await?;
        let work = async {
            let outcome = self.build(what, exports, build, session.as_ref()).await?;
            let mut response = self.export(exports, build, session.as_ref(), &outcome).await?;
            // A client with a directory of it makes its index name it.
            if let Some(cache) = outcome.cache.and_then(|cache| serde_json::to_string(&cache).ok()) {
                response.insert("cache.manifest".to_owned(), cache);
            }
            Ok(response)
        };
        let Some(session) = &session else { return work.await };
        tokio::select! {
            done = work => done,
            () = session.ended() => Err(Status::new(Code::Cancelled, "the client's session has ended")),
        }
    }

    async fn build(
        self: &Arc<Self>,
        what: &What<'_>,
        exports: &Exports,
        build: &Arc<Build>,
        session: Option<&Arc<Session>>,
    ) -> Result<BuildOutcome, Status> {
        let mut wanted = request::parse(what.attrs, what.imports, &build.entitlements)?;
        wanted.request.cache_to = what.exports.to_vec();
        let has_inline = what.exports.iter().any(|export| export.target == CacheTarget::Image);
        if request::asks_for_inline_cache(what.attrs) && !has_inline {
            wanted.request.cache_to.push(caches::inline());
        }
        wanted.request.image = exports.image.clone().map(|names| ImageOutput {
            names,
            rewrite_times: exports.rewrite_times,
            annotations: exports.annotations.clone(),
        });
        wanted.request.epoch.clone_from(&exports.epoch);
        wanted.request.attestations.as_artifacts = exports.as_artifacts;
        let Attestations { provenance, packages, .. } = &wanted.request.attestations;
        if exports.has_files() && (provenance.is_some() || *packages) {
            return Err(unsupported("an attestation in an output of files (local, tar)"));
        }
        if let Some(provenance) = &mut wanted.request.attestations.provenance {
            provenance.invocation.clone_from(&build.reference);
        }
        wanted.request.check = true;
        let cancel = Cancel::new();
        let _stop = StopOnDrop(cancel.clone());
        let mut client = SessionClient {
            state: Arc::clone(self),
            build: Arc::clone(build),
            session: session.cloned(),
            context: None,
            archive: Mutex::default(),
            directories: std::mem::take(&mut wanted.directories),
            exclude: Vec::new(),
            policy: match build.policy_session.as_str() {
                "" => None,
                id => Some(self.sessions.get(id).await?),
            },
            runtime: tokio::runtime::Handle::current(),
            cancel: cancel.clone(),
        };
        // What is fetched for the build alone is asked about by who fetches it.
        if !matches!(wanted.context, MainContext::Url(_)) {
            client.ask_policy(&wanted.context.to_string()).await?;
        }
        match &wanted.context {
            MainContext::Directory(directory) => client.context = Some(directory.clone()),
            MainContext::Upload(path) => {
                let session = session.ok_or_else(|| {
                    Status::new(Code::FailedPrecondition, "the build has no session to upload its context")
                })?;
                client.archive = Mutex::new(Some(client::upload(session, path, &cancel).await?));
            }
            MainContext::Url(url) => self.remote(url, &mut wanted.request, &mut client).await?,
        }
        if let Some(directory) = wanted.dockerfile.clone() {
            wanted.request.dockerfile = self.dockerfile(&wanted, &directory, &mut client).await?;
        }
        let source = match &wanted.request.dockerfile {
            DockerfileSource::Given { name, content, .. } => Some(SourceInfo {
                filename: name.clone(),
                data: Bytes::copy_from_slice(content),
                definition: None,
                language: "Dockerfile".to_owned(),
            }),
            DockerfileSource::InContext(_) => None,
        };
        if let Some(source) = &source {
            build.set_source(source.clone());
        }
        let sink = Arc::new(Sink(Arc::clone(build)));
        let built = self.engine.build(wanted.request, Arc::new(client), sink, cancel).await;
        built.map_err(|error| failure(&error, source))
    }

    /// A context that is somewhere else.
    async fn remote(
        &self,
        url: &str,
        request: &mut BuildRequest,
        client: &mut SessionClient,
    ) -> Result<(), Status> {
        let error = |error: palan_engine::Error| client::status(&error);
        let address = match of_context(url).map_err(error)? {
            Some(Remote::Http { url, .. }) => url,
            Some(repository) => {
                request.remote_contexts.insert(String::new(), repository);
                return Ok(());
            }
            None => {
                return Err(Status::new(Code::InvalidArgument, format!("the context {url:?} is no URL")));
            }
        };
        client.ask_policy(&address).await?;
        match self.engine.remote_context(&address).await.map_err(error)? {
            RemoteContext::Archive(archive) => client.archive = Mutex::new(Some(archive)),
            RemoteContext::Dockerfile(content) => {
                request.dockerfile =
                    DockerfileSource::Given { name: "Dockerfile".to_owned(), content, ignore: None };
            }
        }
        Ok(())
    }

    /// Fetches the Dockerfile and its ignore file from a directory of the client's.
    async fn dockerfile(
        &self,
        wanted: &Wanted,
        directory: &str,
        client: &mut SessionClient,
    ) -> Result<DockerfileSource, Status> {
        let filename = wanted.filename.trim_start_matches('/');
        let mut names = vec![filename.to_owned(), format!("{filename}.dockerignore")];
        // As in Docker, on a file system where a capital letter was lost.
        if filename == "Dockerfile" {
            names.push("dockerfile".to_owned());
        }
        let scratch = self.scratch()?;
        let title = format!("[internal] load build definition from {filename}");
        let internal = Internal::begin(&client.build, &title, Some(vertex_of(&client.build)));
        let fetched = async {
            let from = request::ContextDirectory {
                name: directory.to_owned(),
                session: match &client.context {
                    Some(context) => context.session.clone(),
                    None => None,
                },
                shared_key: None,
            };
            let root = open(&scratch.0, "dockerfile")?;
            let copy = root.try_clone().map_err(|error| Status::new(Code::Internal, error.to_string()))?;
            client.fetch(&from, &names, &[], copy, (&internal, "transferring dockerfile:")).await?;
            let content = match read(&root, filename)? {
                None if filename == "Dockerfile" => read(&root, "dockerfile")?,
                other => other,
            };
            let content = content.ok_or_else(|| {
                let text = format!("failed to read dockerfile: open {filename}: no such file or directory");
                Status::new(Code::Unknown, text)
            })?;
            Ok::<_, Status>((content, read(&root, &names[1])?))
        };
        let fetched = fetched.await;
        let (content, mut ignore) = internal.end(fetched)?;
        if ignore.is_none()
            && let Some(context) = client.context.clone()
        {
            let internal = Internal::begin(&client.build, "[internal] load .dockerignore", None);
            let fetched = async {
                let root = open(&scratch.0, "ignore")?;
                let copy =
                    root.try_clone().map_err(|error| Status::new(Code::Internal, error.to_string()))?;
                let names = [".dockerignore".to_owned()];
                client.fetch(&context, &names, &[], copy, (&internal, "transferring context:")).await?;
                read(&root, &names[0])
            };
            let fetched = fetched.await;
            ignore = internal.end(fetched)?;
        }
        if let Some(ignore) = &ignore {
            client.exclude = client::exclude(ignore);
        }
        Ok(DockerfileSource::Given { name: filename.to_owned(), content, ignore })
    }

    fn scratch(&self) -> Result<Scratch, Status> {
        let failed = |error: std::io::Error| Status::new(Code::Internal, error.to_string());
        let id = palan_buildkit::session::new_id().map_err(failed)?;
        let path = self.engine.config().data_root.join("build/work").join(format!("front-{id}"));
        palan_stdx::fs::create_dir_all(&path, 0o700).map_err(|error| failed(error.into()))?;
        Ok(Scratch(path))
    }
}

/// A new directory in a scratch directory.
fn open(scratch: &std::path::Path, name: &str) -> Result<RootDir, Status> {
    let path = scratch.join(name);
    let failed = |error: std::io::Error| Status::new(Code::Internal, error.to_string());
    palan_stdx::fs::create_dir(&path, 0o700).map_err(|error| failed(error.into()))?;
    RootDir::open(&path).map_err(|error| failed(error.into()))
}

/// A file that a client sent, if it did.
fn read(root: &RootDir, path: &str) -> Result<Option<Vec<u8>>, Status> {
    match root.read(path, MAX_FILE) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let text = format!("failed to read {path}: {}", std::io::Error::from(error));
            Err(Status::new(Code::InvalidArgument, text))
        }
    }
}

/// Caches of a build.
#[derive(Debug)]
struct Caches {
    /// Those that it may use.
    imports: Vec<CacheOptionsEntry>,
    /// Those that its results go to.
    exports: Vec<CacheExport>,
}

/// Refuses what of a build can't be done.
fn accepted(request: &SolveRequest) -> Result<Caches, Status> {
    let refused = [
        (request.source_policy.is_some(), "a source policy that comes with the request"),
        (!request.frontend_inputs.is_empty(), "an input of steps in BuildKit's form (frontend inputs)"),
        (request.enable_session_exporter, "an exporter in the session"),
        (request.proxy_network, "a network through a proxy"),
        (
            request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()),
            "a build from steps in BuildKit's form (LLB)",
        ),
    ];
    if let Some((_, what)) = refused.iter().find(|(is_wanted, _)| *is_wanted) {
        return Err(unsupported(what));
    }
    let cache: CacheOptions = request.cache.clone().unwrap_or_default();
    let mut exports = cache.exports;
    if !cache.export_ref_deprecated.is_empty() {
        let mut attrs = cache.export_attrs_deprecated;
        attrs.insert("ref".to_owned(), cache.export_ref_deprecated);
        exports.push(CacheOptionsEntry { kind: "registry".to_owned(), attrs });
    }
    let exports = caches::exports(&exports)?;
    let deprecated = cache.import_refs_deprecated.into_iter().map(|name| CacheOptionsEntry {
        kind: "registry".to_owned(),
        attrs: BTreeMap::from([("ref".to_owned(), name)]),
    });
    Ok(Caches { imports: cache.imports.into_iter().chain(deprecated).collect(), exports })
}

/// Attributes for whoever asks about builds: without the passwords in addresses of contexts.
fn shown(attrs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_context = |name: &str| name == "context" || name.starts_with("context:");
    let shown = |(name, value): (&String, &String)| {
        let value = if is_context(name) { redacted(value) } else { value.clone() };
        (name.clone(), value)
    };
    attrs.iter().map(shown).collect()
}

/// The exporters, of which old clients name one.
fn exporters(request: &SolveRequest) -> Vec<Exporter> {
    if request.exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        return vec![Exporter {
            kind: request.exporter_deprecated.clone(),
            attrs: request.exporter_attrs_deprecated.clone(),
        }];
    }
    request.exporters.clone()
}

/// An error, with the place in the Dockerfile and the step at fault.
fn failure(error: &BuildError, source: Option<SourceInfo>) -> Status {
    // Without a class, as with BuildKit: clients show any other before the text.
    let mut status = Status::new(Code::Unknown, error.to_string());
    if let Some(vertex) = error.vertex {
        errdefs::add_vertex(&mut status, &vertex.to_string());
    }
    if let (Some(info), Some((first, last))) = (source, error.lines.as_deref().copied()) {
        let position =
            |line: usize| Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
        let range = Range { start: position(first), end: position(last) };
        errdefs::add_source(&mut status, &Source { info, ranges: vec![range] });
    }
    status
}
