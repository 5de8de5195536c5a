//! Requests about images.

use super::{Body, Client, ClientError, Query, Request, path_escape, platform_json};
use crate::auth;
use crate::filters::Filters;
use crate::stream::{JsonMessages, ProgressMessage};
use crate::types::{
    AuthConfig, Descriptor, HistoryItem, ImageDeleteItem, ImageInspect, ImageSummary, ManifestListPush,
    ManifestListPushed, Platform, SearchResult,
};
use std::io::Read;

/// Progress lines as they arrive.
pub type Progress = JsonMessages<ProgressMessage, Body>;

/// What `POST /images/create` pulls.
#[derive(Debug, Clone, Default)]
pub struct PullOptions<'a> {
    /// The name without its tag.
    pub image: &'a str,
    /// The tag or digest; empty pulls every tag.
    pub tag: &'a str,
    /// `os/arch[/variant]`.
    pub platform: Option<&'a str>,
    /// Credentials of the registry.
    pub auth: Option<&'a AuthConfig>,
}

/// A manifest or list in a registry.
#[derive(Debug, Clone, Default)]
pub struct RegistryManifest {
    /// Media type, digest, size.
    pub descriptor: Descriptor,
    /// The platforms that it is for.
    pub platforms: Vec<Platform>,
    /// The document, byte for byte.
    pub raw: Vec<u8>,
}

/// What `POST /images/{name}/push` pushes.
#[derive(Debug, Clone, Default)]
pub struct PushOptions<'a> {
    /// The name without its tag.
    pub image: &'a str,
    /// The tag; empty pushes every tag.
    pub tag: &'a str,
    /// The platform, as JSON of the OCI specification.
    pub platform: Option<&'a str>,
    /// Credentials of the registry.
    pub auth: Option<&'a AuthConfig>,
}

/// What `POST /images/create` imports.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions<'a> {
    /// `-` for the request's body, else a URL that the daemon fetches.
    pub source: &'a str,
    /// The name of the new image, may be empty.
    pub repository: &'a str,
    /// Its tag, may be empty.
    pub tag: &'a str,
    /// The comment of its history.
    pub message: Option<&'a str>,
    /// Dockerfile instructions to apply.
    pub changes: &'a [String],
    /// `os/arch[/variant]`.
    pub platform: Option<&'a str>,
}

fn of_platform(platform: Option<&str>) -> Query {
    Query::new().with_some("platform", platform.map(platform_json).as_deref())
}

fn path(name: &str, rest: &str) -> String {
    format!("/images/{}{rest}", path_escape(name))
}

impl Client {
    /// `POST /images/create`.
    pub fn pull_image(&self, options: &PullOptions<'_>) -> Result<Progress, ClientError> {
        let query = Query::new()
            .with("fromImage", options.image)
            .with_some("tag", Some(options.tag))
            .with_some("platform", options.platform);
        let mut request = Request::new("POST", "/images/create", &query);
        if let Some(auth) = options.auth {
            request = request.header(auth::HEADER, auth::encode(auth));
        }
        Ok(JsonMessages::new(self.send(request)?.into_body()))
    }

    /// `POST /images/{name}/push`.
    pub fn push_image(&self, options: &PushOptions<'_>) -> Result<Progress, ClientError> {
        let query = Query::new().with_some("platform", options.platform).with_some("tag", Some(options.tag));
        // Docker's daemons want the header also where there are no credentials.
        let auth = auth::encode(options.auth.unwrap_or(&AuthConfig::default()));
        let request = Request::new("POST", path(options.image, "/push"), &query).header(auth::HEADER, auth);
        Ok(JsonMessages::new(self.send(request)?.into_body()))
    }

    /// `POST /images/create?fromSrc=…`; `body` is sent when the source is `-`.
    pub fn import_image(
        &self,
        options: &ImportOptions<'_>,
        body: &mut dyn Read,
    ) -> Result<Progress, ClientError> {
        let mut query = Query::new()
            .with("fromSrc", options.source)
            .with_some("repo", Some(options.repository))
            .with_some("tag", Some(options.tag))
            .with_some("message", options.message)
            .with_some("platform", options.platform);
        for change in options.changes {
            query = query.with("changes", change);
        }
        let mut request = Request::new("POST", "/images/create", &query);
        if options.source == "-" {
            request = request.stream(body, "application/x-tar");
        }
        Ok(JsonMessages::new(self.send(request)?.into_body()))
    }

    /// `POST /images/load`; the platforms are `os/arch[/variant]`.
    pub fn load_images(
        &self,
        tar: &mut dyn Read,
        quiet: bool,
        platforms: &[String],
    ) -> Result<Progress, ClientError> {
        let mut query = Query::new().with("quiet", if quiet { "1" } else { "0" });
        for platform in platforms {
            query = query.with("platform", &platform_json(platform));
        }
        let request = Request::new("POST", "/images/load", &query).stream(tar, "application/x-tar");
        Ok(JsonMessages::new(self.send(request)?.into_body()))
    }

    /// `GET /images/search`.
    pub fn search_images(
        &self,
        term: &str,
        limit: i64,
        filters: &Filters,
        auth: Option<&AuthConfig>,
    ) -> Result<Vec<SearchResult>, ClientError> {
        let mut query = Query::new().with("term", term);
        if limit != 0 {
            query = query.with("limit", &limit.to_string());
        }
        let query = query.with_some("filters", filters.to_json().as_deref());
        let mut request = Request::new("GET", "/images/search", &query);
        if let Some(auth) = auth {
            request = request.header(auth::HEADER, auth::encode(auth));
        }
        self.fetch(request)
    }

    /// `GET /distribution/{name}/manifest`.
    pub fn registry_manifest(
        &self,
        name: &str,
        insecure: bool,
        auth: Option<&AuthConfig>,
    ) -> Result<RegistryManifest, ClientError> {
        let query = Query::new().with_flag("insecure", insecure);
        let path = format!("/distribution/{}/manifest", path_escape(name));
        let mut request = Request::new("GET", path, &query);
        if let Some(auth) = auth {
            request = request.header(auth::HEADER, auth::encode(auth));
        }
        let answer: crate::types::RegistryManifest = self.fetch(request)?;
        let raw = crate::json::base64(&answer.raw).unwrap_or_default();
        Ok(RegistryManifest { descriptor: answer.descriptor, platforms: answer.platforms, raw })
    }

    /// `POST /distribution/{name}/manifest`.
    pub fn push_manifest_list(
        &self,
        name: &str,
        list: &ManifestListPush,
        insecure: bool,
        auth: Option<&AuthConfig>,
    ) -> Result<ManifestListPushed, ClientError> {
        let query = Query::new().with_flag("insecure", insecure);
        let path = format!("/distribution/{}/manifest", path_escape(name));
        let mut request = Request::new("POST", path, &query).json(list);
        if let Some(auth) = auth {
            request = request.header(auth::HEADER, auth::encode(auth));
        }
        self.fetch(request)
    }

    /// `GET /images/json`.
    pub fn list_images(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>, ClientError> {
        self.list(all, false, filters)
    }

    /// The same with the manifests of each.
    pub fn list_manifests(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>, ClientError> {
        self.list(all, true, filters)
    }

    fn list(&self, all: bool, manifests: bool, filters: &Filters) -> Result<Vec<ImageSummary>, ClientError> {
        let query = Query::new()
            .with_flag("all", all)
            .with_flag("manifests", manifests)
            .with_some("filters", filters.to_json().as_deref());
        self.fetch(Request::new("GET", "/images/json", &query))
    }

    /// `GET /images/{name}/json`.
    pub fn inspect_image(&self, name: &str) -> Result<ImageInspect, ClientError> {
        self.fetch(Request::new("GET", path(name, "/json"), &Query::new()))
    }

    /// The same as the daemon sent it; the platform is `os/arch[/variant]`.
    pub fn inspect_image_raw(&self, name: &str, platform: Option<&str>) -> Result<Vec<u8>, ClientError> {
        self.fetch_bytes(Request::new("GET", path(name, "/json"), &of_platform(platform)))
    }

    /// `GET /images/{name}/history`; the platform is `os/arch[/variant]`.
    pub fn image_history(&self, name: &str, platform: Option<&str>) -> Result<Vec<HistoryItem>, ClientError> {
        self.fetch(Request::new("GET", path(name, "/history"), &of_platform(platform)))
    }

    /// `POST /images/{name}/tag`.
    pub fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<(), ClientError> {
        let query = Query::new().with("repo", repository).with_some("tag", Some(tag));
        self.execute(Request::new("POST", path(name, "/tag"), &query))
    }

    /// `DELETE /images/{name}`; the platforms are `os/arch[/variant]`.
    pub fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
        platforms: &[String],
    ) -> Result<Vec<ImageDeleteItem>, ClientError> {
        let mut query = Query::new().with_flag("force", force).with_flag("noprune", no_prune);
        for platform in platforms {
            query = query.with("platforms", &platform_json(platform));
        }
        self.fetch(Request::new("DELETE", path(name, ""), &query))
    }
}
