//! Searches an index (`GET /v1/search`), the one thing of the first registry protocol that is still in use.

use reqwest::{Method, Url};

use crate::client::Client;
use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, RequestError};
use crate::login::is_connection_failure;
use crate::transport::{Outgoing, api_error, read_document};

/// The most that an index may answer.
const LONGEST_ANSWER: u64 = 4 * 1024 * 1024;
/// The most results that are taken.
const MOST_RESULTS: usize = 1_000;

/// One repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// Its name as the index writes it.
    pub name: String,
    /// What its owner says about it.
    pub description: String,
    /// How many users like it.
    pub star_count: i64,
    /// Whether it is one of Docker's own.
    pub is_official: bool,
}

impl Client {
    /// Asks the index of `domain` for repositories; the most popular come first, as the index sorts them.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn search(
        &self,
        domain: &str,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        let mut last = None;
        for endpoint in self.endpoints.of_index(&self.transport, domain).await? {
            if endpoint.plain_fallback && !last.as_ref().is_some_and(is_connection_failure) {
                break;
            }
            match self.search_at(&endpoint, term, limit, credentials).await {
                Err(error) if is_connection_failure(&error) => last = Some(error),
                outcome => return outcome,
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::GivenUp { what: format!("the index of {domain}") }))
    }

    async fn search_at(
        &self,
        endpoint: &Endpoint,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Option<Vec<SearchResult>>,
        }
        let url = address(&endpoint.origin.url, term, limit);
        let failed = |error| RegistryError::request(&Method::GET, &url, error);
        let mut outgoing = Outgoing::new(Method::GET, url.clone());
        outgoing.authorization = credentials.basic_header().map_err(failed)?;
        let patience = self.transport.config().timing.stall;
        let response = self.transport.send(&endpoint.origin, &outgoing).await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(failed(RequestError::Api(api_error(response, patience).await)));
        }
        let body = read_document(response, LONGEST_ANSWER, patience).await.map_err(failed)?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            failed(RequestError::Malformed { reason: format!("a search's results: {error}") })
        })?;
        let results = answer.results.unwrap_or_default().into_iter().take(MOST_RESULTS);
        Ok(results.map(SearchResult::presentable).collect())
    }
}

impl SearchResult {
    /// Without what could move a terminal's cursor.
    fn presentable(self) -> Self {
        let clean = |text: String| -> String {
            text.chars().filter(|letter| *letter == '\n' || !letter.is_control()).take(4_096).collect()
        };
        Self { name: clean(self.name), description: clean(self.description), ..self }
    }
}

fn address(base: &Url, term: &str, limit: u32) -> Url {
    let mut url = base.clone();
    url.set_path("/v1/search");
    url.query_pairs_mut().append_pair("q", term).append_pair("n", &limit.to_string());
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_encoded() {
        let base = Url::parse("https://index.docker.io/").unwrap();
        assert_eq!(
            address(&base, "a&n=9 b", 25).as_str(),
            "https://index.docker.io/v1/search?q=a%26n%3D9+b&n=25"
        );
    }

    #[test]
    fn descriptions_are_made_fit_for_terminals() {
        let result = SearchResult { description: "\u{1b}[2Jred".into(), ..SearchResult::default() };
        assert_eq!(result.presentable().description, "[2Jred");
    }
}
