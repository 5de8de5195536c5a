//! Requests about containers.

use super::{Body, Client, ClientError, Query, Request, Upgraded, path_escape};
use crate::filters::Filters;
use crate::json;
use crate::stream::JsonMessages;
use crate::types::{
    CheckpointCreateRequest, CheckpointSummary, ContainerInspect, ContainerSummary, CreateContainerRequest,
    CreateContainerResponse, StatsResponse, TopResponse, UpdateContainerRequest, UpdateContainerResponse,
    WaitResponse,
};
use std::io::Read;

/// What `GET /containers/json` lists.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that don't run.
    pub all: bool,
    /// Only the newest so many.
    pub limit: Option<u64>,
    /// With sizes.
    pub size: bool,
    /// Which.
    pub filters: Filters,
}

/// What `DELETE /containers/{id}` does.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// Remove the link, not the container.
    pub link: bool,
}

/// What an attached session carries.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Input goes in.
    pub stdin: bool,
    /// Standard output comes out.
    pub stdout: bool,
    /// Standard error comes out.
    pub stderr: bool,
    /// Live bytes.
    pub stream: bool,
    /// What was written before, first.
    pub logs: bool,
    /// The keys that detach, when not the default.
    pub detach_keys: Option<String>,
}

/// Which lines `GET /containers/{id}/logs` gives.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Go on as new ones come.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Unix seconds ([`crate::timestamp`]).
    pub since: Option<String>,
    /// Unix seconds.
    pub until: Option<String>,
    /// With the time before each line.
    pub timestamps: bool,
    /// With the log driver's attributes.
    pub details: bool,
    /// The last so many lines, or `all`.
    pub tail: Option<String>,
}

/// What `POST /containers/{id}/wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it doesn't run.
    NotRunning,
    /// That it ends after running.
    NextExit,
    /// That it is gone.
    Removed,
}

impl WaitCondition {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NextExit => "next-exit",
            Self::Removed => "removed",
        }
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", path_escape(id))
}

impl Client {
    /// `GET /containers/json`.
    pub fn list_containers(&self, options: &ListOptions) -> Result<Vec<ContainerSummary>, ClientError> {
        let query = Query::new()
            .with_flag("all", options.all)
            .with_flag("size", options.size)
            .with_some("limit", options.limit.map(|n| n.to_string()).as_deref())
            .with_some("filters", options.filters.to_json().as_deref());
        self.fetch(Request::new("GET", "/containers/json", &query))
    }

    /// `POST /containers/create`.
    pub fn create_container(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: &CreateContainerRequest,
    ) -> Result<CreateContainerResponse, ClientError> {
        let query = Query::new().with_some("name", name).with_some("platform", platform);
        self.fetch(Request::new("POST", "/containers/create", &query).json(request))
    }

    /// `GET /containers/{id}/json`.
    pub fn inspect_container(&self, id: &str, size: bool) -> Result<ContainerInspect, ClientError> {
        self.fetch(Request::new("GET", path(id, "/json"), &Query::new().with_flag("size", size)))
    }

    /// The same as the daemon sent it.
    pub fn inspect_container_raw(&self, id: &str, size: bool) -> Result<Vec<u8>, ClientError> {
        self.fetch_bytes(Request::new("GET", path(id, "/json"), &Query::new().with_flag("size", size)))
    }

    /// `POST /containers/{id}/start`.
    pub fn start_container(&self, id: &str, detach_keys: Option<&str>) -> Result<(), ClientError> {
        let query = Query::new().with_some("detachKeys", detach_keys);
        self.execute(Request::new("POST", path(id, "/start"), &query))
    }

    /// `POST /containers/{id}/start` from a checkpoint.
    pub fn start_container_from(
        &self,
        id: &str,
        checkpoint: &str,
        directory: &str,
    ) -> Result<(), ClientError> {
        let query = Query::new()
            .with_some("checkpoint", Some(checkpoint))
            .with_some("checkpoint-dir", Some(directory));
        self.execute(Request::new("POST", path(id, "/start"), &query))
    }

    /// `POST /containers/{id}/checkpoints`.
    pub fn create_checkpoint(&self, id: &str, request: &CheckpointCreateRequest) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/checkpoints"), &Query::new()).json(request))
    }

    /// `GET /containers/{id}/checkpoints`.
    pub fn list_checkpoints(&self, id: &str, directory: &str) -> Result<Vec<CheckpointSummary>, ClientError> {
        let query = Query::new().with_some("dir", Some(directory));
        self.fetch(Request::new("GET", path(id, "/checkpoints"), &query))
    }

    /// `DELETE /containers/{id}/checkpoints/{checkpoint}`.
    pub fn remove_checkpoint(&self, id: &str, checkpoint: &str, directory: &str) -> Result<(), ClientError> {
        let query = Query::new().with_some("dir", Some(directory));
        let mut last = "/checkpoints/".to_owned();
        super::escape(checkpoint, b"", &mut last);
        self.execute(Request::new("DELETE", path(id, &last), &query))
    }

    /// `POST /containers/{id}/update`.
    pub fn update_container(
        &self,
        id: &str,
        request: &UpdateContainerRequest,
    ) -> Result<UpdateContainerResponse, ClientError> {
        self.fetch(Request::new("POST", path(id, "/update"), &Query::new()).json(request))
    }

    /// `POST /containers/{id}/stop`.
    pub fn stop_container(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/stop"), &stop_query(signal, timeout)))
    }

    /// `POST /containers/{id}/restart`.
    pub fn restart_container(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/restart"), &stop_query(signal, timeout)))
    }

    /// `POST /containers/{id}/kill`.
    pub fn kill_container(&self, id: &str, signal: Option<&str>) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/kill"), &Query::new().with_some("signal", signal)))
    }

    /// `POST /containers/{id}/pause`.
    pub fn pause_container(&self, id: &str) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/pause"), &Query::new()))
    }

    /// `POST /containers/{id}/unpause`.
    pub fn unpause_container(&self, id: &str) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/unpause"), &Query::new()))
    }

    /// `POST /containers/{id}/rename`.
    pub fn rename_container(&self, id: &str, name: &str) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/rename"), &Query::new().with("name", name)))
    }

    /// `DELETE /containers/{id}`.
    pub fn remove_container(&self, id: &str, options: RemoveOptions) -> Result<(), ClientError> {
        let query = Query::new()
            .with_flag("force", options.force)
            .with_flag("v", options.volumes)
            .with_flag("link", options.link);
        self.execute(Request::new("DELETE", path(id, ""), &query))
    }

    /// `POST /containers/{id}/resize`.
    pub fn resize_container(&self, id: &str, height: u16, width: u16) -> Result<(), ClientError> {
        self.execute(Request::new("POST", path(id, "/resize"), &size_query(height, width)))
    }

    /// `POST /containers/{id}/attach`. The session starts at once; the container may be started after it.
    pub fn attach_container(&self, id: &str, options: &AttachOptions) -> Result<Upgraded, ClientError> {
        let query = Query::new()
            .with_flag("stream", options.stream)
            .with_flag("stdin", options.stdin)
            .with_flag("stdout", options.stdout)
            .with_flag("stderr", options.stderr)
            .with_flag("logs", options.logs)
            .with_some("detachKeys", options.detach_keys.as_deref());
        self.upgrade(Request::new("POST", path(id, "/attach"), &query))
    }

    /// `POST /containers/{id}/wait`: returns when the daemon has registered the wait; [`PendingWait::finish`] blocks.
    pub fn wait_container(&self, id: &str, condition: WaitCondition) -> Result<PendingWait, ClientError> {
        let request =
            Request::new("POST", path(id, "/wait"), &Query::new().with("condition", condition.as_str()));
        let name = request.name();
        Ok(PendingWait { request: name, body: self.send(request)?.into_body() })
    }

    /// `GET /containers/{id}/logs`. Without a terminal the body is multiplexed ([`crate::stream::copy`]).
    pub fn container_logs(&self, id: &str, options: &LogsOptions) -> Result<Body, ClientError> {
        let query = Query::new()
            .with_flag("follow", options.follow)
            .with_flag("stdout", options.stdout)
            .with_flag("stderr", options.stderr)
            .with_some("since", options.since.as_deref())
            .with_some("until", options.until.as_deref())
            .with_flag("timestamps", options.timestamps)
            .with_flag("details", options.details)
            .with_some("tail", options.tail.as_deref());
        Ok(self.send(Request::new("GET", path(id, "/logs"), &query))?.into_body())
    }

    /// `GET /containers/{id}/stats` as a stream; `one_shot` gives a single sample without waiting for a second.
    pub fn container_stats(
        &self,
        id: &str,
        stream: bool,
        one_shot: bool,
    ) -> Result<JsonMessages<StatsResponse, Body>, ClientError> {
        let stream = if stream { "1" } else { "0" };
        let query = Query::new().with("stream", stream).with_flag("one-shot", one_shot);
        Ok(JsonMessages::new(self.send(Request::new("GET", path(id, "/stats"), &query))?.into_body()))
    }

    /// `GET /containers/{id}/top`.
    pub fn container_top(&self, id: &str, ps_args: Option<&str>) -> Result<TopResponse, ClientError> {
        self.fetch(Request::new("GET", path(id, "/top"), &Query::new().with_some("ps_args", ps_args)))
    }
}

fn stop_query(signal: Option<&str>, timeout: Option<i64>) -> Query {
    Query::new().with_some("signal", signal).with_some("t", timeout.map(|t| t.to_string()).as_deref())
}

pub(super) fn size_query(height: u16, width: u16) -> Query {
    Query::new().with("h", &height.to_string()).with("w", &width.to_string())
}

/// A wait that the daemon has registered.
#[derive(Debug)]
pub struct PendingWait {
    request: String,
    body: Body,
}

impl PendingWait {
    /// Blocks until the condition is met.
    pub fn finish(mut self) -> Result<WaitResponse, ClientError> {
        let mut bytes = Vec::new();
        let read = self.body.read_to_end(&mut bytes);
        // The exit code counts even if the connection broke right behind it (a daemon that died meanwhile).
        match (json::from_slice(&bytes), read) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(source)) => Err(ClientError::Receive { request: self.request, source }),
            (Err(_), Ok(_)) if bytes.is_empty() => {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                Err(ClientError::Receive { request: self.request, source })
            }
            (Err(source), Ok(_)) => Err(ClientError::Decode { request: self.request, source }),
        }
    }
}
