//! Requests about networks.

use super::{Client, ClientError, Query, Request, path_escape};
use crate::filters::Filters;
use crate::types::{
    EndpointSettings, Network, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse,
    NetworkDisconnectRequest,
};

impl Client {
    /// `POST /networks/create`.
    pub fn create_network(
        &self,
        request: &NetworkCreateRequest,
    ) -> Result<NetworkCreateResponse, ClientError> {
        self.fetch(Request::new("POST", "/networks/create", &Query::new()).json(request))
    }

    /// `DELETE /networks/{id}`.
    pub fn remove_network(&self, id: &str) -> Result<(), ClientError> {
        self.execute(Request::new("DELETE", format!("/networks/{}", path_escape(id)), &Query::new()))
    }

    /// `POST /networks/{id}/connect`.
    pub fn connect_network(
        &self,
        id: &str,
        container: &str,
        endpoint_config: Option<EndpointSettings>,
    ) -> Result<(), ClientError> {
        let body = NetworkConnectRequest { container: container.to_owned(), endpoint_config };
        let path = format!("/networks/{}/connect", path_escape(id));
        self.execute(Request::new("POST", path, &Query::new()).json(&body))
    }

    /// `POST /networks/{id}/disconnect`.
    pub fn disconnect_network(&self, id: &str, container: &str, force: bool) -> Result<(), ClientError> {
        let body = NetworkDisconnectRequest { container: container.to_owned(), force };
        let path = format!("/networks/{}/disconnect", path_escape(id));
        self.execute(Request::new("POST", path, &Query::new()).json(&body))
    }

    /// `GET /networks`.
    pub fn list_networks(&self, filters: &Filters) -> Result<Vec<Network>, ClientError> {
        let query = Query::new().with_some("filters", filters.to_json().as_deref());
        self.fetch(Request::new("GET", "/networks", &query))
    }

    /// `GET /networks/{id}`.
    pub fn inspect_network(&self, id: &str) -> Result<Network, ClientError> {
        self.fetch(Request::new("GET", format!("/networks/{}", path_escape(id)), &Query::new()))
    }
}
