//! Credentials for registries.

use std::sync::Arc;

use crate::grpc::{Call, Code, Status};
use crate::message::session::{CredentialsRequest, CredentialsResponse};

/// Who knows credentials.
pub trait Credentials: Send + Sync {
    /// Name and password for a registry, or an empty name and an identity token; none if there are none. May block.
    fn credentials(&self, host: &str) -> Result<Option<(String, String)>, String>;
}

pub(super) async fn credentials(known: Option<&Arc<dyn Credentials>>, call: Call) -> Result<(), Status> {
    let Some(known) = known.map(Arc::clone) else { return Err(Status::unimplemented(&call.method)) };
    call.unary(|request: CredentialsRequest| async move {
        let asked = tokio::task::spawn_blocking(move || known.credentials(&request.host)).await;
        let found = asked.unwrap_or_else(|error| Err(error.to_string()));
        let found = found.map_err(|error| Status::new(Code::Unknown, error))?;
        let (username, secret) = found.unwrap_or_default();
        Ok(CredentialsResponse { username, secret })
    })
    .await
}
