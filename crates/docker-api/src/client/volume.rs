//! Requests about volumes.

use std::io::Read;

use super::{Body, Client, ClientError, Query, Request, path_escape};
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

    /// Palan's own: a new volume with the content of another.
    pub fn clone_volume(&self, source: &str, name: &str, labels: &[&str]) -> Result<Volume, ClientError> {
        let path = format!("/palan/volumes/{}/clone", path_escape(source));
        self.fetch(Request::new("POST", path, &copy_query(name, labels)))
    }

    /// Palan's own: a new volume with the content of a tar.
    pub fn import_volume(
        &self,
        name: &str,
        labels: &[&str],
        tar: &mut dyn Read,
    ) -> Result<Volume, ClientError> {
        let request = Request::new("POST", "/palan/volumes/import", &copy_query(name, labels));
        self.fetch(request.stream(tar, "application/x-tar"))
    }

    /// Palan's own: a volume's content as a tar.
    pub fn export_volume(&self, name: &str) -> Result<Body, ClientError> {
        let path = format!("/palan/volumes/{}/export", path_escape(name));
        Ok(self.send(Request::new("GET", path, &Query::new()))?.into_body())
    }

    /// Palan's own: another name for a volume.
    pub fn rename_volume(&self, name: &str, new_name: &str) -> Result<(), ClientError> {
        let path = format!("/palan/volumes/{}/rename", path_escape(name));
        self.execute(Request::new("POST", path, &Query::new().with("name", new_name)))
    }
}

fn copy_query(name: &str, labels: &[&str]) -> Query {
    labels.iter().fold(Query::new().with("name", name), |query, label| query.with("label", label))
}
