//! `POST /build`: the classic builder's protocol, a tar of the context in, lines of JSON out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use palan_docker_api::stream::{ProgressError, ProgressMessage};
use palan_docker_api::types::{self as wire, BuildCachePruned, BuiltImage};
use palan_docker_api::{auth, json};
use palan_engine::build::classic::{ClassicLine, RemoteContext, unpack_context};
use palan_engine::build::{
    Access, BuildClient, BuildRequest, CachePruneSpec, CacheSource, Cancel, ContextRequest, DockerfileSource,
    ImageOutput, LentFiles, Reference, Remote, RootDir, StepSettings, of_context,
};
use palan_engine::image::Auth;
use palan_engine::spec::{Resources, Ulimit};
use palan_engine::stream::BodyReader;
use palan_engine::{Engine, Error};
use serde::de::DeserializeOwned;

use crate::convert;
use crate::error::{ApiError, ApiResult, ok_json};
use crate::extract::Params;
use crate::streaming::{json_line, pipe_body, respond};

type Engines = State<Arc<Engine>>;

pub(crate) async fn build(
    State(engine): Engines,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let mut request = request(&params)?;
    let quiet = params.flag("q");
    let archive = match params.text("remote") {
        "" => Some(pipe_body(body)),
        "client-session" => return Err(ApiError::unsupported("a build with a session through POST /build")),
        remote => match of_context(remote)? {
            Some(Remote::Http { url, .. }) => match engine.remote_context(&url).await? {
                RemoteContext::Archive(archive) => Some(archive),
                RemoteContext::Dockerfile(content) => {
                    request.dockerfile =
                        DockerfileSource::Given { name: "Dockerfile".to_owned(), content, ignore: None };
                    None
                }
            },
            Some(repository) => {
                request.remote_contexts.insert(String::new(), repository);
                None
            }
            None => return Err(ApiError::invalid(format!("the context {remote:?} is no URL"))),
        },
    };
    let registries = headers.get(auth::CONFIG_HEADER).and_then(|value| value.to_str().ok());
    let client = Client {
        archive: Mutex::new(archive),
        registries: registries.map(auth::decode_config).unwrap_or_default(),
    };
    let lines = engine.build_classic(request, Arc::new(client), quiet).await?;
    Ok(respond("application/json", lines, |line| Some(encode(line))))
}

/// `POST /build/prune`.
pub(crate) async fn prune(State(engine): Engines, params: Params) -> ApiResult {
    let number = |name: &str| -> ApiResult<Option<u64>> {
        match params.number(name)? {
            None | Some(0) => Ok(None),
            Some(number) => u64::try_from(number)
                .map(Some)
                .map_err(|_| ApiError::invalid(format!("{name} is a number of bytes, not {number}"))),
        }
    };
    if number("min-free-space")?.is_some() {
        return Err(ApiError::unsupported("min-free-space of a prune of the build cache"));
    }
    let (reserved, most, keep) =
        (number("reserved-space")?, number("max-used-space")?, number("keep-storage")?);
    let spec = CachePruneSpec {
        all: params.flag("all"),
        keep_bytes: most.or(reserved).or(keep),
        filters: params.filters()?,
    };
    let pruned = engine.prune_build_cache(spec).await?;
    ok_json(&BuildCachePruned { caches_deleted: pruned.removed, space_reclaimed: pruned.reclaimed })
}

/// As in Docker it is only of use to builds that a session names; those end when their client's connection does.
pub(crate) async fn cancel(params: Params) -> ApiResult {
    if params.text("id").is_empty() {
        return Err(ApiError::invalid("build ID not provided"));
    }
    Ok(StatusCode::OK.into_response())
}

/// What of the request the client has to bring itself.
struct Client {
    /// Taken when the context is wanted.
    archive: Mutex<Option<BodyReader>>,
    registries: BTreeMap<String, wire::AuthConfig>,
}

impl BuildClient for Client {
    fn context(
        &self,
        wanted: &ContextRequest<'_>,
        into: &RootDir,
        _cancel: &Cancel,
    ) -> Result<Option<Box<dyn LentFiles>>, Error> {
        if !wanted.name.is_empty() {
            return Err(Error::invalid(format!("there is no build context {:?}", wanted.name)));
        }
        let archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner).take();
        // With a Dockerfile alone the context is empty.
        archive.map_or(Ok(()), |mut archive| unpack_context(&mut archive, into))?;
        Ok(None)
    }

    fn secret(&self, _id: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn ssh(&self, _id: &str, _access: Access) -> Result<Option<std::os::unix::net::UnixStream>, Error> {
        Ok(None)
    }

    fn credentials(&self, image: &Reference) -> Result<Option<Auth>, Error> {
        let domain = image.domain();
        let is_it = |name: &str| {
            let name = name.trim_start_matches("https://").trim_start_matches("http://");
            let host = name.split('/').next().unwrap_or(name);
            host == domain || (domain == "docker.io" && host == "index.docker.io")
        };
        let found = self.registries.iter().find(|(name, _)| is_it(name));
        Ok(found.map(|(_, auth)| convert::auth(auth.clone())))
    }
}

fn request(params: &Params) -> ApiResult<BuildRequest> {
    match params.text("version") {
        "" | "1" => {}
        "2" => return Err(ApiError::unsupported("version=2 of POST /build (BuildKit)")),
        version => return Err(ApiError::invalid(format!("invalid version {version}"))),
    }
    if params.flag("squash") {
        return Err(ApiError::invalid("squash is only supported with experimental mode"));
    }
    if !matches!(params.text("outputs"), "" | "null" | "[]") {
        return Err(ApiError::unsupported("outputs without BuildKit"));
    }
    if !matches!(params.text("securityopt"), "" | "null" | "[]") {
        return Err(ApiError::invalid(
            "The daemon on this platform does not support setting security options on build",
        ));
    }
    if !matches!(params.text("isolation"), "" | "default") {
        return Err(ApiError::invalid(format!("isolation {} is not supported", params.text("isolation"))));
    }
    let names: ApiResult<Vec<Reference>> = params
        .all("t")
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| Reference::parse(name).map_err(|error| ApiError::invalid(error.to_string())))
        .collect();
    let args: BTreeMap<String, Option<String>> = decode(params, "buildargs")?;
    let caches: Vec<String> = decode(params, "cachefrom")?;
    let cache = |name: String| CacheSource {
        kind: CacheSource::IMAGE.to_owned(),
        attributes: BTreeMap::from([("ref".to_owned(), name)]),
    };
    let dockerfile = params.some("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned());
    let platform = params.some("platform").map(|text| text.to_lowercase());
    Ok(BuildRequest {
        dockerfile: DockerfileSource::InContext(dockerfile),
        // One without a value is one that nobody gave.
        args: args.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        target: params.some("target"),
        platforms: platform.into_iter().collect(),
        labels: decode(params, "labels")?,
        no_cache: params.flag("nocache"),
        pull: params.flag("pull"),
        cache_from: caches.into_iter().map(cache).collect(),
        steps: steps(params)?,
        image: Some(ImageOutput { names: names?, ..ImageOutput::default() }),
        ..BuildRequest::default()
    })
}

fn steps(params: &Params) -> ApiResult<StepSettings> {
    let number = |name: &str| params.number(name).map(|number| number.unwrap_or(0));
    let network = params.text("networkmode");
    let ulimits: Vec<wire::Ulimit> = decode(params, "ulimits")?;
    let ulimits =
        ulimits.into_iter().map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard });
    let hosts = params.all("extrahosts").into_iter();
    Ok(StepSettings {
        network: network.to_owned(),
        extra_hosts: hosts
            .flat_map(|hosts| hosts.split(',').map(str::to_owned).collect::<Vec<_>>())
            .filter(|host| !host.is_empty())
            .collect(),
        shm_size: number("shmsize")?,
        resources: Resources {
            memory: number("memory")?,
            memory_swap: number("memswap")?,
            cpu_shares: number("cpushares")?,
            cpu_quota: number("cpuquota")?,
            cpu_period: number("cpuperiod")?,
            cpuset_cpus: params.text("cpusetcpus").to_owned(),
            cpuset_mems: params.text("cpusetmems").to_owned(),
            cgroup_parent: params.text("cgroupparent").to_owned(),
            ulimits: ulimits.collect(),
            ..Resources::default()
        },
        allow_insecure: false,
        allow_host_network: network == "host",
    })
}

/// A parameter that is JSON; absent, empty and null are the default.
fn decode<T: DeserializeOwned + Default>(params: &Params, name: &str) -> ApiResult<T> {
    match params.text(name) {
        "" | "null" => Ok(T::default()),
        text => json::from_slice(text.as_bytes())
            .map_err(|error| ApiError::invalid(format!("error reading build {name}: {error}"))),
    }
}

fn encode(line: Result<ClassicLine, Error>) -> Bytes {
    let message = match line {
        Ok(ClassicLine::Text(stream)) => ProgressMessage { stream, ..ProgressMessage::default() },
        Ok(ClassicLine::Progress(progress)) => convert::image::progress(progress),
        Ok(ClassicLine::Image(id)) => {
            let aux = serde_json::to_value(BuiltImage { id }).ok();
            ProgressMessage { aux, ..ProgressMessage::default() }
        }
        Ok(ClassicLine::Failed { code, message }) => ProgressMessage {
            error_detail: Some(ProgressError { code: code.unwrap_or(0), message: message.clone() }),
            error: message,
            ..ProgressMessage::default()
        },
        Err(error) => ProgressMessage::error(error.report()),
    };
    json_line(&message, "\r\n")
}
