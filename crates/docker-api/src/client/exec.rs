//! Requests about exec sessions.

use super::container::size_query;
use super::{Client, ClientError, Query, Request, Upgraded, path_escape};
use crate::types::{ExecCreateRequest, ExecInspect, ExecStartRequest, IdResponse};

impl Client {
    /// `POST /containers/{id}/exec`: the id of the session.
    pub fn create_exec(&self, container: &str, request: &ExecCreateRequest) -> Result<String, ClientError> {
        let path = format!("/containers/{}/exec", path_escape(container));
        let answer: IdResponse = self.fetch(Request::new("POST", path, &Query::new()).json(request))?;
        Ok(answer.id)
    }

    /// `POST /exec/{id}/start`, detached.
    pub fn start_exec_detached(&self, id: &str, tty: bool) -> Result<(), ClientError> {
        let body = ExecStartRequest { detach: true, tty, console_size: None };
        self.execute(Request::new("POST", exec_path(id, "/start"), &Query::new()).json(&body))
    }

    /// `POST /exec/{id}/start`, attached.
    pub fn start_exec(
        &self,
        id: &str,
        tty: bool,
        console_size: Option<[u32; 2]>,
    ) -> Result<Upgraded, ClientError> {
        let body = ExecStartRequest { detach: false, tty, console_size };
        self.upgrade(Request::new("POST", exec_path(id, "/start"), &Query::new()).json(&body))
    }

    /// `GET /exec/{id}/json`.
    pub fn inspect_exec(&self, id: &str) -> Result<ExecInspect, ClientError> {
        self.fetch(Request::new("GET", exec_path(id, "/json"), &Query::new()))
    }

    /// `POST /exec/{id}/resize`.
    pub fn resize_exec(&self, id: &str, height: u16, width: u16) -> Result<(), ClientError> {
        self.execute(Request::new("POST", exec_path(id, "/resize"), &size_query(height, width)))
    }
}

fn exec_path(id: &str, rest: &str) -> String {
    format!("/exec/{}{rest}", path_escape(id))
}
