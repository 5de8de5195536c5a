//! Requests about the daemon itself.

use super::{Body, Client, ClientError, Query, Request};
use crate::filters::Filters;
use crate::stream::JsonMessages;
use crate::types::{
    AuthConfig, AuthResponse, DiskUsage, EventMessage, SystemInfo, UsageBefore52, VersionResponse,
};
use crate::version::ApiVersion;
use crate::{json, versions};

impl Client {
    /// `HEAD /_ping`: whether the daemon answers; learns its version. Needed only to test for a daemon.
    pub fn ping(&self) -> Result<ApiVersion, ClientError> {
        let mut request = Request::new("HEAD", "/_ping", &Query::new());
        request.versioned = false;
        let response = self.send(request)?;
        let theirs = response.header("Api-Version").and_then(|v| v.parse::<ApiVersion>().ok());
        let mut version = super::locked(&self.inner.version);
        if !version.fixed {
            // A daemon without the header is older than the header.
            version.current = theirs.unwrap_or(ApiVersion::MIN).min(ApiVersion::MAX);
            version.confirmed = true;
        }
        Ok(version.current)
    }

    /// `GET /version`.
    pub fn server_version(&self) -> Result<VersionResponse, ClientError> {
        self.fetch(Request::new("GET", "/version", &Query::new()))
    }

    /// `GET /info`.
    pub fn info(&self) -> Result<SystemInfo, ClientError> {
        self.fetch(Request::new("GET", "/info", &Query::new()))
    }

    /// `GET /system/df`; with the objects themselves if they are asked for.
    pub fn disk_usage(&self, verbose: bool) -> Result<DiskUsage, ClientError> {
        let query = Query::new().with_flag("verbose", verbose);
        let request = Request::new("GET", "/system/df", &query);
        let name = request.name();
        let answer = self.fetch_bytes(request)?;
        let decoded = if versions::lists_disk_usage(self.version()) {
            json::from_slice::<UsageBefore52>(&answer).map(DiskUsage::from)
        } else {
            json::from_slice(&answer)
        };
        decoded.map_err(|source| ClientError::Decode { request: name, source })
    }

    /// `GET /events`; `since` and `until` are Unix seconds ([`crate::timestamp`]).
    pub fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: &Filters,
    ) -> Result<JsonMessages<EventMessage, Body>, ClientError> {
        let query = Query::new()
            .with_some("since", since)
            .with_some("until", until)
            .with_some("filters", filters.to_json().as_deref());
        Ok(JsonMessages::new(self.send(Request::new("GET", "/events", &query))?.into_body()))
    }

    /// `POST /auth`: asks the registry whether it takes these credentials.
    pub fn check_auth(&self, auth: &AuthConfig) -> Result<AuthResponse, ClientError> {
        self.fetch(Request::new("POST", "/auth", &Query::new()).json(auth))
    }
}
