//! Requests about volumes.

use super::{Client, ClientError, Query, Request, path_escape};
use crate::filters::Filters;
use crate::types::{Volume, VolumeCreateRequest, VolumeList};

impl Client {
    /// `GET /volumes`.
    pub fn list_volumes(&self, filters: &Filters) -> Result<VolumeList, ClientError> {
        let query = Query::new().with_some("filters", filters.to_json().as_deref());
        self.fetch(Request::new("GET", "/volumes", &query))
    }

    /// `POST /volumes/create`.
    pub fn create_volume(&self, request: &VolumeCreateRequest) -> Result<Volume, ClientError> {
        self.fetch(Request::new("POST", "/volumes/create", &Query::new()).json(request))
    }

    /// `GET /volumes/{name}`.
    pub fn inspect_volume(&self, name: &str) -> Result<Volume, ClientError> {
        self.fetch(Request::new("GET", format!("/volumes/{}", path_escape(name)), &Query::new()))
    }

    /// `DELETE /volumes/{name}`.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<(), ClientError> {
        let query = Query::new().with_flag("force", force);
        self.execute(Request::new("DELETE", format!("/volumes/{}", path_escape(name)), &query))
    }
}
