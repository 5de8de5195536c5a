//! Checks credentials against a registry, for `docker login`.

use palan_oci::reference::DEFAULT_DOMAIN;

use crate::auth::{Answer, choose, fetch_token};
use crate::client::Client;
use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, RequestError};
use crate::repository::{Access, Repository};

/// Credentials were accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginOutcome {
    /// What to keep instead of the password, if the registry's token service gives such tokens.
    pub identity_token: Option<String>,
}

impl Client {
    /// Checks `credentials` at `server`: a host, `host:port`, or the URL that Docker names the Hub by.
    ///
    /// # Errors
    /// `Get "https://…/v2/": unauthorized: …` when they are refused.
    pub async fn login(
        &self,
        server: &str,
        credentials: &Credentials,
    ) -> Result<LoginOutcome, RegistryError> {
        let endpoints = self.endpoints.of_registry(&self.transport, &domain_of(server)).await?;
        let mut last = None;
        for endpoint in endpoints {
            if endpoint.plain_fallback && !last.as_ref().is_some_and(is_connection_failure) {
                break;
            }
            match self.login_at(&endpoint, credentials).await {
                Ok(outcome) => {
                    self.endpoints.worked(&endpoint);
                    return Ok(outcome);
                }
                Err(error) if is_connection_failure(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::GivenUp { what: server.to_owned() }))
    }

    async fn login_at(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<LoginOutcome, RegistryError> {
        let registry = Repository::new(
            self.transport.clone(),
            self.authenticator.clone(),
            endpoint,
            "",
            Access::Pull,
            credentials,
        );
        if matches!(credentials, Credentials::RegistryToken(_)) {
            registry.ping().await?;
            return Ok(LoginOutcome::default());
        }
        let challenges = registry.challenge().await?;
        if challenges.is_empty() {
            registry.ping().await?;
            return Ok(LoginOutcome::default());
        }
        let url = endpoint.origin.url.join("v2/").unwrap_or_else(|_| endpoint.origin.url.clone());
        let failed = |error: RequestError| RegistryError::request(&reqwest::Method::GET, &url, error);
        match choose(&challenges, credentials).map_err(failed)? {
            Answer::Basic(header) => {
                registry.ping_with(header).await?;
                Ok(LoginOutcome::default())
            }
            Answer::Bearer(challenge) => {
                let token = fetch_token(&self.transport, &endpoint.origin, challenge, "", credentials, true)
                    .await
                    .map_err(failed)?;
                registry.ping_with(token.header).await?;
                Ok(LoginOutcome { identity_token: token.refresh_token })
            }
        }
    }
}

pub(crate) fn is_connection_failure(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Request { source, .. } if source.is_connection_failure())
}

/// The registry that a login names: clients give the Hub as `https://index.docker.io/v1/`, others as hosts or URLs.
fn domain_of(server: &str) -> String {
    let host = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or("");
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::domain_of;

    #[test]
    fn the_hub_has_many_names() {
        for hub in ["", "docker.io", "https://index.docker.io/v1/", "index.docker.io"] {
            assert_eq!(domain_of(hub), "docker.io", "{hub}");
        }
        assert_eq!(domain_of("https://r.example.com:5000/v2/"), "r.example.com:5000");
    }
}
