//! What the daemon is asked for: the flags in the words of BuildKit's Dockerfile frontend.
//!
//! The frontend's attributes are what `docker buildx build` sends, so a daemon can't tell the two apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use palan_context::remote::{self, Remote};

use super::super::platforms;
use super::cache::{self, Cache, Direction};
use super::contexts::{self, Place};
use super::export::{self, Export};
use super::fields;
use super::secrets::{self, Secret};
use super::source::{Context, Source};
use super::ssh::{self, Agent};
use crate::app::App;
use crate::environment::{DOCKER_DEFAULT_PLATFORM, SOURCE_DATE_EPOCH};
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::run_flags::{parse_bytes, parse_ulimit, split_extra_host};

/// The names of the two contexts that every build has.
pub(super) const CONTEXT: &str = "context";
pub(super) const DOCKERFILE: &str = "dockerfile";

/// A build, as it is asked for.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) attributes: BTreeMap<String, String>,
    /// The directories that the daemon may ask for, by their names.
    pub(super) directories: BTreeMap<String, PathBuf>,
    pub(super) exports: Vec<Export>,
    pub(super) cache_from: Vec<Cache>,
    pub(super) cache_to: Vec<Cache>,
    pub(super) entitlements: Vec<String>,
    pub(super) secrets: Vec<Secret>,
    pub(super) agents: Vec<Agent>,
}

impl Request {
    /// Reads the flags.
    pub(super) fn new(app: &App, flags: &Parsed, source: &Source) -> Result<Self> {
        let mut request = Self {
            exports: export::of_flags(flags, app.streams.output_is_terminal())?,
            cache_from: cache::find(app, caches(flags, "cache-from", Direction::From)?),
            cache_to: caches(flags, "cache-to", Direction::To)?,
            // What else may be allowed is what bake asks for; a build never does.
            entitlements: flags
                .list("allow")
                .into_iter()
                .filter(|name| !name.contains('='))
                .map(str::to_owned)
                .collect(),
            ..Self::default()
        };
        request.secrets(app, flags, source)?;
        request.arguments(app, flags)?;
        request.contexts(flags, source)?;
        request.steps(flags)?;
        request.attestations(flags)?;
        request.caching(flags)?;
        request.set_some("target", flags.string("target"));
        if flags.bool("pull") {
            request.set("image-resolve-mode", "pull");
        }
        request.set_some("platform", &wanted_platforms(app, flags)?.join(","));
        Ok(request)
    }

    /// The `--build-arg`s.
    pub(super) fn build_arguments(&self) -> BTreeMap<String, String> {
        let arguments = self.attributes.iter();
        arguments
            .filter_map(|(key, value)| Some((key.strip_prefix("build-arg:")?.to_owned(), value.clone())))
            .collect()
    }

    /// The names of the `--build-context`s.
    pub(super) fn context_names(&self) -> BTreeSet<String> {
        self.attributes.keys().filter_map(|key| key.strip_prefix("context:")).map(str::to_owned).collect()
    }

    fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.attributes.insert(key.into(), value.into());
    }

    fn set_some(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.set(key, value);
        }
    }

    fn secrets(&mut self, app: &App, flags: &Parsed, source: &Source) -> Result<()> {
        for text in flags.list("secret") {
            let secret = secrets::parse(text).map_err(CliError::new)?.find(&app.environment)?;
            self.secrets.retain(|other| other.id != secret.id);
            self.secrets.push(secret);
        }
        // A repository over ssh is of no use without.
        let implied = match (&source.context, flags.list("ssh").is_empty()) {
            (Context::Remote(address), true) if is_over_ssh(address) => Some("default"),
            _ => None,
        };
        for text in flags.list("ssh").into_iter().chain(implied) {
            let agent = ssh::parse(text).map_err(CliError::new)?.find(&app.environment)?;
            self.agents.retain(|other| other.id != agent.id);
            self.agents.push(agent);
        }
        Ok(())
    }

    fn arguments(&mut self, app: &App, flags: &Parsed) -> Result<()> {
        for (name, value) in app.config().proxies(&app.target()?.host.to_string()) {
            self.set(format!("build-arg:{name}"), value);
        }
        if let Some(value) = app.environment.set(SOURCE_DATE_EPOCH) {
            self.set(format!("build-arg:{SOURCE_DATE_EPOCH}"), value);
        }
        for text in flags.list("build-arg") {
            match text.split_once('=') {
                Some((name, value)) if !name.is_empty() => self.set(format!("build-arg:{name}"), value),
                // A name alone is a variable of ours; one that isn't set says nothing.
                None if !text.is_empty() => {
                    if let Some(value) = app.environment.get(text) {
                        self.set(format!("build-arg:{text}"), value);
                    }
                }
                _ => return Err(CliError::new(format!("invalid build-arg {text:?}: it has no name"))),
            }
        }
        for text in flags.list("label") {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() {
                return Err(CliError::new(format!("invalid label {text:?}: it has no name")));
            }
            self.set(format!("label:{name}"), value);
        }
        Ok(())
    }

    fn contexts(&mut self, flags: &Parsed, source: &Source) -> Result<()> {
        self.set("filename", source.filename.clone());
        match &source.context {
            Context::Directory(path) => {
                self.directories.insert(CONTEXT.to_owned(), path.clone());
            }
            Context::Remote(address) => {
                self.set(CONTEXT, address.clone());
                if source.directory.is_some() {
                    self.set("dockerfilekey", DOCKERFILE);
                }
            }
        }
        if let Some(directory) = &source.directory {
            self.directories.insert(DOCKERFILE.to_owned(), directory.clone());
        }
        for text in flags.list("build-context") {
            let named = contexts::parse(text).map_err(CliError::new)?;
            let value = match named.place {
                Place::Elsewhere(text) => text,
                Place::Directory(path) => {
                    let is_taken = matches!(named.name.as_str(), CONTEXT | DOCKERFILE);
                    let key = format!("{}{}", if is_taken { "_" } else { "" }, named.name);
                    self.directories.insert(key.clone(), path);
                    format!("local:{key}")
                }
            };
            self.set(format!("context:{}", named.name), value);
        }
        Ok(())
    }

    /// What steps are executed with.
    fn steps(&mut self, flags: &Parsed) -> Result<()> {
        match flags.string("network") {
            "" | "default" => {}
            mode => {
                self.set("force-network-mode", mode);
                // Whoever says so on the command line has allowed it.
                if mode == "host" && !self.entitlements.iter().any(|name| name == "network.host") {
                    self.entitlements.push("network.host".to_owned());
                }
            }
        }
        let hosts = flags.list("add-host").into_iter().flat_map(|list| list.split(','));
        let hosts: Vec<String> =
            hosts.filter_map(split_extra_host).map(|(host, address)| format!("{host}={address}")).collect();
        self.set_some("add-hosts", &hosts.join(","));
        if let Some(text) = flags.given("shm-size") {
            self.set("shm-size", parse_bytes(text).map_err(CliError::new)?.to_string());
        }
        let limits: Result<Vec<_>, String> = flags.list("ulimit").into_iter().map(parse_ulimit).collect();
        let limits = limits.map_err(CliError::new)?;
        let limits: Vec<String> =
            limits.iter().map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard)).collect();
        self.set_some("ulimit", &limits.join(","));
        self.set_some("cgroup-parent", flags.string("cgroup-parent"));
        Ok(())
    }

    fn attestations(&mut self, flags: &Parsed) -> Result<()> {
        let mut asked: Vec<String> = flags.list("attest").into_iter().map(str::to_owned).collect();
        for kind in ["provenance", "sbom"] {
            if let Some(value) = flags.given(kind) {
                asked.push(shorthand(kind, value));
            }
        }
        for text in asked {
            if let Some((kind, attributes)) = attest(&text).map_err(CliError::new)? {
                self.set(format!("attest:{kind}"), attributes);
            }
        }
        Ok(())
    }

    fn caching(&mut self, flags: &Parsed) -> Result<()> {
        let filters: Vec<&str> =
            flags.list("no-cache-filter").into_iter().flat_map(|list| list.split(',')).collect();
        match (flags.bool("no-cache"), filters.is_empty()) {
            (true, false) => {
                Err(CliError::new("--no-cache and --no-cache-filter cannot currently be used together"))
            }
            (true, true) => {
                self.set("no-cache", "");
                Ok(())
            }
            (false, _) => {
                self.set_some("no-cache", &filters.join(","));
                Ok(())
            }
        }
    }
}

/// Whether it is the address of a repository that is fetched over ssh.
fn is_over_ssh(address: &str) -> bool {
    let Ok(Some(Remote::Git(git))) = remote::context(address) else { return false };
    git.remote.split_once("://").is_none_or(|(scheme, _)| scheme == "ssh")
}

/// `--platform`, else the environment's default.
fn wanted_platforms(app: &App, flags: &Parsed) -> Result<Vec<String>> {
    let given = platforms(flags)?;
    match app.environment.set(DOCKER_DEFAULT_PLATFORM) {
        Some(default) if given.is_empty() => Ok(vec![super::super::full_platform(default)?]),
        _ => Ok(given),
    }
}

fn caches(flags: &Parsed, flag: &str, direction: Direction) -> Result<Vec<Cache>> {
    flags.list(flag).into_iter().map(|text| cache::parse(text, direction).map_err(CliError::new)).collect()
}

/// `--provenance` and `--sbom` as an `--attest`.
fn shorthand(kind: &str, value: &str) -> String {
    match crate::flags::parse_bool(value) {
        Ok(true) => format!("type={kind}"),
        Ok(false) => format!("type={kind},disabled=true"),
        Err(_) => format!("type={kind},{value}"),
    }
}

/// Reads an `--attest`: its type, and what else it says; nothing if it is switched off.
pub(super) fn attest(text: &str) -> Result<Option<(String, String)>, String> {
    let Some(mut pairs) = fields::pairs(text)? else {
        return Err(format!("invalid field '{text}' must be a key=value pair"));
    };
    let kind = fields::take(&mut pairs, "type").unwrap_or_default();
    if !matches!(kind.as_str(), "provenance" | "sbom") {
        return Err(format!("attestation type {kind:?} not recognized: one of provenance, sbom"));
    }
    if let Some(disabled) = fields::take(&mut pairs, "disabled")
        && crate::flags::parse_bool(&disabled)?
    {
        return Ok(None);
    }
    let rest: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(Some((kind, rest.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_over_ssh() {
        assert!(is_over_ssh("git@h:a#b") && is_over_ssh("ssh://git@h/a"));
        assert!(
            !is_over_ssh("https://h/a.git") && !is_over_ssh("git://h/a") && !is_over_ssh("https://h/a.tar")
        );
    }

    #[test]
    fn attestations() {
        let of = |text: &str| attest(text).map(|found| found.map(|(kind, rest)| format!("{kind}:{rest}")));
        assert_eq!(of("type=sbom,generator=x"), Ok(Some("sbom:generator=x".to_owned())));
        assert_eq!(of("type=provenance,disabled=true"), Ok(None));
        of("type=x").unwrap_err();
        of("x").unwrap_err();
        assert_eq!(shorthand("provenance", "mode=max"), "type=provenance,mode=max");
        assert_eq!(shorthand("sbom", "false"), "type=sbom,disabled=true");
    }
}
