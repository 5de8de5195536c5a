//! One file from a URL that a user names (`import`).
//!
//! The daemon fetches it with its own rights and from its own place in the network, so the rules for places that a registry
//! names hold ([`crate::guard`]): no link-local or metadata address, neither in the URL nor behind its name nor at the end
//! of a redirect, and no way from HTTPS to plain HTTP. Nothing is tried twice: whoever reads the file sees it once.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response, Url};

use crate::client::Client;
use crate::error::{RegistryError, RequestError};
use crate::guard::authority;
use crate::transport::{Origin, Outgoing, api_error, classify};

/// A file that is arriving.
#[derive(Debug)]
pub struct Download {
    response: Response,
    url: Url,
    patience: Duration,
}

impl Client {
    /// Begins to fetch what `url` names; without a scheme it is `http://`.
    ///
    /// # Errors
    /// It is no URL, leads where it must not, or the answer is no success.
    pub async fn download(&self, url: &str) -> Result<Download, RegistryError> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parsed = Url::parse(&full)
            .map_err(|error| RegistryError::Url { url: url.to_owned(), reason: error.to_string() })?;
        // No host has this name, so that every place is a foreign one (RFC 6761).
        let nowhere = Url::parse("http://nobody.invalid/").expect("a constant URL");
        let origin = Origin::new(nowhere, false);
        let failed = |error| RegistryError::request(&Method::GET, &parsed, error);
        let outgoing = Outgoing::new(Method::GET, parsed.clone());
        let response = self.transport.send(&origin, &outgoing).await.map_err(failed)?;
        let patience = self.transport.config().timing.stall;
        if !response.status().is_success() {
            return Err(failed(api_error(response, patience).await.into()));
        }
        Ok(Download { response, url: parsed, patience })
    }
}

impl Download {
    /// How many bytes there will be, if the server says so.
    pub fn size(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// When the server says that the file was changed last, as in RFC 9110, section 5.6.7.
    pub fn modified(&self) -> Option<&str> {
        self.response.headers().get(reqwest::header::LAST_MODIFIED)?.to_str().ok()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let failed = |error| RegistryError::request(&Method::GET, &self.url, error);
        match tokio::time::timeout(self.patience, self.response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(failed(classify(&error, &self.url))),
            Err(_) => {
                Err(failed(RequestError::Stalled { authority: authority(&self.url), waited: self.patience }))
            }
        }
    }
}
