//! The places where an image may be, one after the other until one serves.

use palan_oci::{Digest, Reference};

use crate::client::Client;
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, made_insecure};
use crate::error::{ApiError, Class as ErrorClass, RegistryError, RequestError};
use crate::login::is_connection_failure;
use crate::repository::{Access, Repository};

impl Client {
    /// What a tag leads to, if there are places that may serve content but not say that.
    pub(crate) async fn resolve_apart(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Option<Digest>, RegistryError> {
        let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else { return Ok(None) };
        let endpoints = self.endpoints.for_images(&self.transport, reference.domain()).await?;
        if !endpoints.iter().any(|endpoint| endpoint.capabilities.pull && !endpoint.capabilities.resolve) {
            return Ok(None);
        }
        let trusted = endpoints.into_iter().filter(|endpoint| endpoint.capabilities.resolve).collect();
        let mut places = self.places_at(trusted, reference, credentials);
        while let Some(repository) = places.next() {
            let found = match repository.digest_of(tag).await {
                Ok(Some(digest)) => return Ok(Some(places.worked(digest))),
                Ok(None) => repository.manifest(tag).await.map(|fetched| Digest::of(&fetched.body)),
                Err(error) => Err(error),
            };
            match found {
                Ok(digest) => return Ok(Some(places.worked(digest))),
                Err(error) => places.failed(error)?,
            }
        }
        Err(places.exhausted())
    }

    pub(crate) async fn places<'a>(
        &'a self,
        reference: &'a Reference,
        credentials: &'a Credentials,
    ) -> Result<Places<'a>, RegistryError> {
        let mut endpoints = self.endpoints.for_images(&self.transport, reference.domain()).await?;
        endpoints.retain(|endpoint| endpoint.capabilities.pull);
        Ok(self.places_at(endpoints, reference, credentials))
    }

    fn places_at<'a>(
        &'a self,
        endpoints: Vec<Endpoint>,
        reference: &'a Reference,
        credentials: &'a Credentials,
    ) -> Places<'a> {
        let endpoints = endpoints.into_iter();
        Places { client: self, reference, credentials, endpoints, current: None, last: None }
    }
}

/// The endpoints for a reference, one after the other until one serves.
pub(crate) struct Places<'a> {
    client: &'a Client,
    reference: &'a Reference,
    credentials: &'a Credentials,
    endpoints: std::vec::IntoIter<Endpoint>,
    current: Option<Endpoint>,
    last: Option<RegistryError>,
}

impl Places<'_> {
    /// The same for a user who does not mind what the registry's certificate is.
    pub(crate) fn made_insecure(self) -> Self {
        Self { endpoints: made_insecure(self.endpoints.collect()).into_iter(), ..self }
    }

    pub(crate) fn next(&mut self) -> Option<Repository> {
        let endpoint = self.endpoints.next()?;
        if endpoint.plain_fallback && !self.last.as_ref().is_some_and(is_connection_failure) {
            return None;
        }
        let (transport, authenticator) = (self.client.transport.clone(), self.client.authenticator.clone());
        let path = self.reference.path();
        let repository =
            Repository::new(transport, authenticator, &endpoint, path, Access::Pull, self.credentials);
        self.current = Some(endpoint);
        Some(repository)
    }

    pub(crate) fn worked<T>(&self, outcome: T) -> T {
        if let Some(endpoint) = &self.current {
            self.client.endpoints.worked(endpoint);
        }
        outcome
    }

    /// Takes note of a failure; an error if it is not worth asking elsewhere.
    pub(crate) fn failed(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let mirror = self.current.as_ref().filter(|endpoint| endpoint.mirror);
        if let Some(mirror) = mirror.filter(|_| error.is_of_the_endpoint()) {
            let reason = palan_stdx::error_chain::Chain(&error);
            tracing::warn!(mirror = %mirror.origin.url, %reason, "a mirror failed");
        } else if !is_connection_failure(&error) {
            return Err(in_dockers_words(error, self.reference));
        }
        self.last = Some(error);
        Ok(())
    }

    pub(crate) fn exhausted(self) -> RegistryError {
        match self.last {
            Some(error) => in_dockers_words(error, self.reference),
            None => RegistryError::GivenUp { what: self.reference.familiar() },
        }
    }
}

/// Gives a registry's refusal the text and class that Docker's clients know.
fn in_dockers_words(error: RegistryError, reference: &Reference) -> RegistryError {
    let (source, is_token): (&ApiError, bool) = match &error {
        RegistryError::Request { source: RequestError::Api(source), .. } => (source, false),
        RegistryError::Request { source: RequestError::TokenRefused(source), .. } => (source, true),
        _ if error.class() == ErrorClass::Unauthorized => return RegistryError::PullRefused(Box::new(error)),
        _ => return error,
    };
    let source = source.clone();
    match (source.code.as_str(), source.status) {
        // Wrong credentials: the text must not say that the repository may not exist.
        ("UNAUTHORIZED", _) | (_, 401) if is_token => RegistryError::PullRefused(Box::new(error)),
        ("DENIED" | "UNAUTHORIZED", _) | (_, 401 | 403) => {
            RegistryError::Denied { name: reference.familiar_name(), source }
        }
        ("NAME_UNKNOWN", _) => RegistryError::NameUnknown { name: reference.familiar_name(), source },
        ("MANIFEST_UNKNOWN" | "NOT_FOUND", _) | ("", 404) => {
            RegistryError::ManifestUnknown { reference: reference.familiar(), source }
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_in_dockers_words() {
        let reference = Reference::parse("app:1").unwrap();
        let text = |status, body: &str, is_token: bool| {
            let api = ApiError::new(status, body.as_bytes(), None);
            let source = if is_token { RequestError::TokenRefused(api) } else { RequestError::Api(api) };
            let url = reqwest::Url::parse("https://r/v2/").unwrap();
            let error =
                in_dockers_words(RegistryError::request(&reqwest::Method::HEAD, &url, source), &reference);
            palan_stdx::error_chain::to_string(&error)
        };
        let code = |code: &str, message: &str| {
            format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#)
        };
        assert_eq!(
            text(404, &code("MANIFEST_UNKNOWN", "manifest unknown"), false),
            "manifest for app:1 not found: manifest unknown: manifest unknown"
        );
        assert_eq!(
            text(403, "", false),
            "pull access denied for app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        );
        assert_eq!(
            text(401, "", false),
            "pull access denied for app, repository does not exist or may require 'docker login': unauthorized: authentication required"
        );
        assert_eq!(
            text(401, r#"{"details":"incorrect username or password"}"#, true),
            r#"Head "https://r/v2/": unauthorized: incorrect username or password"#
        );
        assert_eq!(
            text(404, &code("NAME_UNKNOWN", "repository name not known to registry"), false),
            "repository app not found: name unknown: repository name not known to registry"
        );
    }
}
