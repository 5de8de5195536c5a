//! From a frontend's attributes to what the engine is asked for.
//!
//! The attributes are those of BuildKit's `dockerfile.v0`. One that is not known, or known and not supported, is an error that names
//! it: a build that silently lacks something is worse than none.

use std::collections::BTreeMap;

use palan_buildkit::grpc::{Code, Status};
use palan_buildkit::message::control::CacheOptionsEntry;
use palan_buildkit::message::pb::Definition;
use palan_engine::build::{BuildRequest, CacheSource, DockerfileSource, StepSettings, of_context};
use palan_engine::spec::{Resources, Ulimit};
use serde::Deserialize;

use super::gateway::unsupported;

/// The only frontend.
const FRONTEND: &str = "dockerfile.v0";

/// What frontends of Docker's own images are, which the frontend here is, too.
const IMAGE_FRONTEND: &str = "gateway.v0";

/// Capabilities of a frontend that a client may require.
const FRONTEND_CAPS: &[&str] = &["moby.buildkit.frontend.contexts"];

/// What a build needs to know, and where it is.
#[derive(Debug)]
pub(super) struct Wanted {
    /// For the engine; the Dockerfile and the image's names are not there yet.
    pub(super) request: BuildRequest,
    /// Its path.
    pub(super) filename: String,
    /// Where the Dockerfile is: a directory of the session's, or in the context.
    pub(super) dockerfile: Option<String>,
    pub(super) context: MainContext,
    /// Directories of the session's by the names of contexts.
    pub(super) directories: BTreeMap<String, ContextDirectory>,
}

/// Where the main context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MainContext {
    /// A directory of the session's.
    Directory(ContextDirectory),
    /// A stream of the session's.
    Upload(String),
    /// Somewhere else.
    Url(String),
}

impl std::fmt::Display for MainContext {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(directory) => write!(formatter, "local://{}", directory.name),
            Self::Upload(path) => write!(formatter, "http://buildkit-session{path}"),
            Self::Url(url) => formatter.write_str(url),
        }
    }
}

/// A directory that a client has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ContextDirectory {
    /// What the client calls it.
    pub(super) name: String,
    /// Another session than the build's.
    pub(super) session: Option<String>,
    /// Another key than the session's.
    pub(super) shared_key: Option<String>,
}

fn invalid(text: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, text)
}

/// Refuses what is no Dockerfile.
pub(super) fn frontend(
    name: &str,
    attrs: &BTreeMap<String, String>,
    definition: Option<&Definition>,
) -> Result<(), Status> {
    if definition.is_some_and(|definition| !definition.def.is_empty()) {
        return Err(unsupported("a build from steps in BuildKit's form (LLB)"));
    }
    let source = attrs.get("source").map_or("", String::as_str);
    match name {
        FRONTEND => Ok(()),
        IMAGE_FRONTEND if is_dockerfile_frontend(source) => Ok(()),
        IMAGE_FRONTEND => Err(unsupported(&format!("the frontend {source:?}"))),
        "" => Err(invalid("the build names neither a frontend nor steps")),
        other => Err(unsupported(&format!("the frontend {other:?}"))),
    }
}

/// Whether an image is Docker's own frontend for Dockerfiles, of whatever version.
fn is_dockerfile_frontend(image: &str) -> bool {
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    image
        .strip_prefix("docker/dockerfile")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']) || rest.starts_with("-upstream"))
}

/// A cache as JSON has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CacheJson {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Reads attributes.
pub(super) fn parse(
    attrs: &BTreeMap<String, String>,
    caches: &[CacheOptionsEntry],
    entitlements: &[String],
) -> Result<Wanted, Status> {
    let mut wanted = Wanted {
        request: BuildRequest { steps: steps(attrs, entitlements)?, ..BuildRequest::default() },
        filename: "Dockerfile".to_owned(),
        dockerfile: None,
        context: MainContext::Directory(ContextDirectory {
            name: attrs.get("contextkey").cloned().unwrap_or_else(|| "context".to_owned()),
            ..ContextDirectory::default()
        }),
        directories: BTreeMap::new(),
    };
    let mut sources: Vec<CacheOptionsEntry> = caches.to_vec();
    for (name, value) in attrs {
        attribute(&mut wanted, &mut sources, name, value)?;
    }
    let is_here = matches!(wanted.context, MainContext::Directory(_));
    if is_here && wanted.dockerfile.is_none() {
        wanted.dockerfile = Some("dockerfile".to_owned());
    }
    if let MainContext::Directory(context) = &mut wanted.context {
        context.complete(attrs, "context");
    }
    for (name, directory) in &mut wanted.directories {
        directory.complete(attrs, name);
    }
    wanted.request.attestations = super::attest::parse(attrs)?;
    wanted.request.dockerfile = DockerfileSource::InContext(wanted.filename.clone());
    // Clients name them in the request and among the attributes.
    let mut caches: Vec<CacheOptionsEntry> = Vec::with_capacity(sources.len());
    for source in sources {
        if !caches.contains(&source) {
            caches.push(source);
        }
    }
    let caches = caches.into_iter();
    wanted.request.cache_from =
        caches.map(|cache| CacheSource { kind: cache.kind, attributes: cache.attrs }).collect();
    Ok(wanted)
}

impl ContextDirectory {
    fn complete(&mut self, attrs: &BTreeMap<String, String>, name: &str) {
        self.session = attrs.get(&format!("local-sessionid:{}", self.name)).cloned();
        self.shared_key = attrs.get(&format!("sharedkey:localdir:{name}")).cloned();
    }
}

fn attribute(
    wanted: &mut Wanted,
    caches: &mut Vec<CacheOptionsEntry>,
    name: &str,
    value: &str,
) -> Result<(), Status> {
    let request = &mut wanted.request;
    if let Some((kind, rest)) = name.split_once(':') {
        match kind {
            "build-arg" => build_arg(request, rest, value)?,
            "label" => drop(request.labels.insert(rest.to_owned(), value.to_owned())),
            "context" => named_context(wanted, rest, value)?,
            // Read where they are needed.
            "local-sessionid" | "sharedkey" => {}
            // What a client knows of its own repository, for attestations.
            "vcs" => {}
            // Read together, when all is known.
            "attest" => {}
            _ => return Err(unknown(name)),
        }
        return Ok(());
    }
    match name {
        "filename" if value.is_empty() => {}
        "filename" => wanted.filename = value.to_owned(),
        "target" => request.target = Some(value.to_owned()).filter(|target| !target.is_empty()),
        "platform" => {
            let platforms = value.split(',').map(str::trim).filter(|platform| !platform.is_empty());
            request.platforms = platforms.map(str::to_owned).collect();
        }
        "multi-platform" => request.several |= flag(name, value)?,
        "no-cache" if value.is_empty() => request.no_cache = true,
        "no-cache" => request.no_cache_filter = value.split(',').map(str::to_owned).collect(),
        "image-resolve-mode" => match value {
            "pull" => request.pull = true,
            "" | "default" | "local" => {}
            other => return Err(invalid(format!("invalid image-resolve-mode: {other}"))),
        },
        "context" => wanted.context = remote(value),
        "contextkey" => {}
        "dockerfilekey" => wanted.dockerfile = Some(value.to_owned()),
        "contextsubdir" if value.is_empty() => {}
        "cache-from" => {
            let names = value.split(',').filter(|name| !name.is_empty());
            caches.extend(names.map(|name| CacheOptionsEntry {
                kind: "registry".to_owned(),
                attrs: BTreeMap::from([("ref".to_owned(), name.to_owned())]),
            }));
        }
        "cache-imports" => {
            let list: Vec<CacheJson> = serde_json::from_str(value).map_err(|error| {
                invalid(format!("failed to unmarshal cache-imports ({value:?}): {error}"))
            })?;
            caches.extend(
                list.into_iter().map(|cache| CacheOptionsEntry { kind: cache.kind, attrs: cache.attrs }),
            );
        }
        "frontend.caps" => {
            for cap in value.split(',') {
                let cap = cap.strip_suffix("+forward").unwrap_or(cap);
                if !FRONTEND_CAPS.contains(&cap) {
                    return Err(unsupported(&format!("the frontend capability {cap}")));
                }
            }
        }
        "requestid" => {
            return Err(Status::new(Code::Unimplemented, format!("unsupported request {value}")));
        }
        // Which frontend it is was looked at; that a file named it is of no consequence.
        "source" | "cmdline" => {}
        // Read by `steps`.
        "add-hosts" | "shm-size" | "ulimit" | "cgroup-parent" | "force-network-mode" | "memory"
        | "memswap" | "cpushares" | "cpuperiod" | "cpuquota" | "cpusetcpus" | "cpusetmems" => {}
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn unknown(name: &str) -> Status {
    unsupported(&format!("the frontend attribute {name:?}"))
}

fn build_arg(request: &mut BuildRequest, name: &str, value: &str) -> Result<(), Status> {
    // Of those that are for BuildKit itself, the ones that change what is built.
    match name {
        "BUILDKIT_MULTI_PLATFORM" => request.several |= flag(name, value)?,
        "BUILDKIT_SYNTAX" if !value.is_empty() && !is_dockerfile_frontend(value) => {
            return Err(unsupported(&format!("the frontend {value:?} (BUILDKIT_SYNTAX)")));
        }
        _ => {}
    }
    request.args.insert(name.to_owned(), value.to_owned());
    Ok(())
}

pub(super) fn flag(name: &str, value: &str) -> Result<bool, Status> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(format!("invalid boolean value {value:?} for {name}"))),
    }
}

fn is_off(value: &str) -> bool {
    matches!(value, "" | "0" | "false")
}

/// Whether the image shall say in its configuration what it was made of, for others to have a cache: as many scripts ask out of habit.
pub(super) fn asks_for_inline_cache(attrs: &BTreeMap<String, String>) -> bool {
    attrs.get("build-arg:BUILDKIT_INLINE_CACHE").is_some_and(|value| !is_off(value))
}

fn named_context(wanted: &mut Wanted, name: &str, value: &str) -> Result<(), Status> {
    if name.contains("::") {
        return Err(unsupported(&format!("the build context {name:?} of a single platform")));
    }
    if let Some(directory) = value.strip_prefix("local:") {
        let directory = ContextDirectory { name: directory.to_owned(), ..ContextDirectory::default() };
        wanted.directories.insert(name.to_owned(), directory);
        wanted.request.contexts.insert(name.to_owned());
    } else if let Some(image) = value.strip_prefix("docker-image://") {
        wanted.request.image_contexts.insert(name.to_owned(), image.to_owned());
    } else {
        let found = of_context(value).map_err(|error| invalid(error.report()))?;
        let remote = found.ok_or_else(|| {
            let kind = value.split(':').next().unwrap_or_default();
            unsupported(&format!("the build context {name:?} of the kind {kind:?}"))
        })?;
        wanted.request.remote_contexts.insert(name.to_owned(), remote);
        wanted.request.contexts.insert(name.to_owned());
    }
    Ok(())
}

fn remote(value: &str) -> MainContext {
    match value.strip_prefix("http://buildkit-session/") {
        Some(upload) => MainContext::Upload(format!("/{upload}")),
        None => MainContext::Url(value.to_owned()),
    }
}

fn steps(attrs: &BTreeMap<String, String>, entitlements: &[String]) -> Result<StepSettings, Status> {
    let text = |name: &str| attrs.get(name).cloned().unwrap_or_default();
    let number = |name: &str| match text(name).as_str() {
        "" => Ok(0),
        text => {
            text.parse::<i64>().map_err(|_| invalid(format!("failed to parse {name}: {text:?} is no number")))
        }
    };
    let mut settings = StepSettings {
        network: String::new(),
        extra_hosts: hosts(&text("add-hosts"))?,
        shm_size: number("shm-size")?,
        resources: Resources {
            memory: number("memory")?,
            memory_swap: number("memswap")?,
            cpu_shares: number("cpushares")?,
            cpu_period: number("cpuperiod")?,
            cpu_quota: number("cpuquota")?,
            cpuset_cpus: text("cpusetcpus"),
            cpuset_mems: text("cpusetmems"),
            cgroup_parent: text("cgroup-parent"),
            ulimits: ulimits(&text("ulimit"))?,
            ..Resources::default()
        },
        allow_insecure: false,
        allow_host_network: false,
    };
    for entitlement in entitlements {
        match entitlement.as_str() {
            "network.host" => settings.allow_host_network = true,
            "security.insecure" => settings.allow_insecure = true,
            other => return Err(unsupported(&format!("the entitlement {other}"))),
        }
    }
    match text("force-network-mode").as_str() {
        "" | "sandbox" | "default" => {}
        "host" if !settings.allow_host_network => {
            return Err(Status::new(Code::PermissionDenied, "network.host is not allowed"));
        }
        network @ ("host" | "none") => network.clone_into(&mut settings.network),
        other => return Err(unsupported(&format!("the network mode {other}"))),
    }
    Ok(settings)
}

/// `name=address,…`, where an IPv6 address may have brackets.
fn hosts(text: &str) -> Result<Vec<String>, Status> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let entry = |entry: &str| {
        let (name, address) = entry
            .split_once('=')
            .filter(|(name, address)| !name.is_empty() && !address.is_empty())
            .ok_or_else(|| invalid(format!("failed to parse additional hosts: invalid value {entry:?}")))?;
        Ok(format!("{name}:{}", address.trim_start_matches('[').trim_end_matches(']')))
    };
    entries.map(entry).collect()
}

/// `name=soft[:hard],…`
fn ulimits(text: &str) -> Result<Vec<Ulimit>, Status> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let entry = |entry: &str| {
        let wrong = || invalid(format!("failed to parse ulimit: invalid value {entry:?}"));
        let (name, limits) = entry.split_once('=').ok_or_else(wrong)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
        Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
    };
    entries.map(entry).collect()
}

#[cfg(test)]
mod tests;
