//! Answers a registry's challenges: `Basic`, and `Bearer` tokens from the token service that the challenge names.
//!
//! 1. A request goes out with the authorization known for its (registry, scope, credentials), or without one.
//! 2. On 401 the challenge is answered once: with the user and password themselves, or with a token bought by them
//!    (GET), by an identity token (POST, OAuth 2), or by nothing (anonymous).
//! 3. A second 401 is the registry's last word.
//!
//! The scope is always the one that we need, never the one that the challenge asks for: a registry could otherwise have
//! our credentials turned into a token for somebody else's repository.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::HeaderValue;
use reqwest::{Method, Url};

use crate::challenge::Challenge;
use crate::credentials::{Credentials, Fingerprint};
use crate::error::RequestError;
use crate::payload::Payload;
use crate::transport::{Origin, Outgoing, Transport, api_error, read_document};

/// The most that a token service may answer.
const LONGEST_TOKEN: u64 = 1024 * 1024;
/// The life of a token whose service does not say (or says less): RFC 6749 leaves it open, Docker takes a minute.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const MARGIN: Duration = Duration::from_secs(10);
/// The number of remembered authorizations at which those that ended are forgotten.
const MANY: usize = 1024;

/// Whose authorization for what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AuthKey {
    pub(crate) origin: String,
    /// `repository:<path>:pull`, several with spaces between them, or nothing for the registry as a whole.
    pub(crate) scope: String,
    pub(crate) credentials: Fingerprint,
}

/// The authorizations of the process.
#[derive(Debug, Default)]
pub(crate) struct Authenticator {
    known: Mutex<HashMap<AuthKey, Arc<Slot>>>,
}

/// One authorization. The asynchronous lock is held while a token is fetched, so that many requests that are refused
/// at once ask for one token; `ends` is apart, to look for old slots without waiting.
#[derive(Debug, Default)]
struct Slot {
    current: tokio::sync::Mutex<Option<Authorization>>,
}

#[derive(Debug, Clone)]
struct Authorization {
    header: HeaderValue,
    ends: Option<Instant>,
}

impl Authorization {
    fn is_alive(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }
}

/// A token as its service gave it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    pub(crate) life: Duration,
    pub(crate) refresh_token: Option<String>,
}

impl Authenticator {
    /// The authorization to begin with.
    pub(crate) async fn known(&self, key: &AuthKey, credentials: &Credentials) -> Option<HeaderValue> {
        if let Credentials::RegistryToken(token) = credentials {
            return HeaderValue::from_str(&format!("Bearer {token}")).ok();
        }
        let slot = self.slots().get(key).cloned()?;
        let current = slot.current.lock().await;
        current.as_ref().filter(|known| known.is_alive()).map(|known| known.header.clone())
    }

    /// Answers a challenge. `refused` is the authorization that the challenge was the answer to.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        origin: &Origin,
        key: &AuthKey,
        credentials: &Credentials,
        challenges: &[Challenge],
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RequestError> {
        let slot = self.slot(key);
        let mut current = slot.current.lock().await;
        if let Some(known) = &*current
            && known.is_alive()
            && Some(&known.header) != refused
        {
            return Ok(known.header.clone());
        }
        *current = None;
        let authorization = match choose(challenges, credentials)? {
            Answer::Basic(header) => Authorization { header, ends: None },
            Answer::Bearer(challenge) => {
                let token = fetch_token(transport, origin, challenge, &key.scope, credentials, false).await?;
                let life = token.life.saturating_sub(MARGIN);
                Authorization { header: token.header, ends: Instant::now().checked_add(life) }
            }
        };
        *current = Some(authorization.clone());
        Ok(authorization.header)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<AuthKey, Arc<Slot>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, key: &AuthKey) -> Arc<Slot> {
        let mut slots = self.slots();
        if slots.len() >= MANY {
            // A slot whose lock is taken is in use.
            slots.retain(|_, slot| match slot.current.try_lock() {
                Ok(current) => current.as_ref().is_some_and(Authorization::is_alive),
                Err(_) => true,
            });
            if slots.len() >= MANY {
                slots.clear();
            }
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

/// How a challenge can be answered.
pub(crate) enum Answer<'a> {
    Basic(HeaderValue),
    Bearer(&'a Challenge),
}

/// Picks the best challenge that these credentials can answer.
pub(crate) fn choose<'a>(
    challenges: &'a [Challenge],
    credentials: &Credentials,
) -> Result<Answer<'a>, RequestError> {
    if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        return Ok(Answer::Bearer(bearer));
    }
    if challenges.iter().any(|challenge| challenge.scheme == "basic") {
        let basic = credentials.basic().ok_or(RequestError::NoBasicCredentials)?;
        return Ok(Answer::Basic(header(&basic)?));
    }
    let schemes = challenges.iter().map(|challenge| challenge.scheme.clone()).collect();
    Err(RequestError::UnknownChallenge { schemes })
}

fn header(text: &str) -> Result<HeaderValue, RequestError> {
    HeaderValue::from_str(text).map_err(|_| RequestError::Malformed {
        reason: "a token with characters that no header may have".to_owned(),
    })
}

/// Buys a token at the service that `challenge` names. With `offline` an identity token is asked for too.
pub(crate) async fn fetch_token(
    transport: &Transport,
    origin: &Origin,
    challenge: &Challenge,
    scope: &str,
    credentials: &Credentials,
    offline: bool,
) -> Result<Token, RequestError> {
    let malformed = |reason: &str| RequestError::Malformed { reason: reason.to_owned() };
    let realm =
        challenge.parameter("realm").ok_or_else(|| malformed("a bearer challenge without a realm"))?;
    let mut url = Url::parse(realm).map_err(|_| malformed("a bearer challenge whose realm is no URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(malformed("a bearer challenge whose realm has credentials"));
    }
    let service = challenge.parameter("service").unwrap_or("");
    let outgoing = match credentials {
        Credentials::IdentityToken { token, .. } => {
            let mut form = Url::parse("form:/").map_err(|_| malformed("no form"))?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token)
                .append_pair("service", service)
                .append_pair("client_id", "palan")
                .append_pair("scope", scope);
            let mut outgoing = Outgoing::new(Method::POST, url.clone());
            outgoing.payload = Payload::Form(form.query().unwrap_or("").to_owned());
            outgoing
        }
        _ => {
            add_query(&mut url, service, scope, credentials.username(), offline);
            let mut outgoing = Outgoing::new(Method::GET, url.clone());
            outgoing.authorization = credentials.basic_header()?;
            outgoing
        }
    };
    let patience = transport.config().timing.stall;
    let mut response =
        transport.send(origin, &outgoing).await.map_err(|error| RequestError::token(&url, error))?;
    // A service without OAuth 2 knows identity tokens as passwords.
    if let (Credentials::IdentityToken { username, token }, 404 | 405 | 501) =
        (credentials, response.status().as_u16())
    {
        let username = username.clone().unwrap_or_else(|| "<token>".to_owned());
        let password = Credentials::Password { username, password: token.clone() };
        add_query(&mut url, service, scope, password.username(), offline);
        let mut outgoing = Outgoing::new(Method::GET, url.clone());
        outgoing.authorization = password.basic_header()?;
        response =
            transport.send(origin, &outgoing).await.map_err(|error| RequestError::token(&url, error))?;
    }
    if !response.status().is_success() {
        return Err(RequestError::TokenRefused(api_error(response, patience).await));
    }
    let body = read_document(response, LONGEST_TOKEN, patience)
        .await
        .map_err(|error| RequestError::token(&url, error))?;
    parse_token(&body).map_err(|error| RequestError::token(&url, error))
}

fn add_query(url: &mut Url, service: &str, scope: &str, account: Option<&str>, offline: bool) {
    let mut query = url.query_pairs_mut();
    if let Some(account) = account {
        query.append_pair("account", account);
    }
    if offline {
        query.append_pair("client_id", "palan").append_pair("offline_token", "true");
    }
    for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
        query.append_pair("scope", scope);
    }
    if !service.is_empty() {
        query.append_pair("service", service);
    }
}

fn parse_token(body: &[u8]) -> Result<Token, RequestError> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
        refresh_token: Option<String>,
    }
    let malformed = |reason: &str| RequestError::Malformed { reason: reason.to_owned() };
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| malformed("unable to decode token response"))?;
    let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let token =
        token.ok_or_else(|| malformed("authorization server did not include a token in the response"))?;
    Ok(Token {
        header: header(&format!("Bearer {token}"))?,
        life: Duration::from_secs(answer.expires_in.unwrap_or(0).min(86_400)).max(SHORTEST_LIFE),
        refresh_token: answer.refresh_token.filter(|token| !token.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::parse;

    #[test]
    fn bearer_is_preferred_and_basic_needs_a_password() {
        let both = parse(r#"Basic realm="x", Bearer realm="https://t/""#);
        assert!(matches!(choose(&both, &Credentials::Anonymous), Ok(Answer::Bearer(_))));
        let basic = parse(r#"Basic realm="x""#);
        assert!(matches!(choose(&basic, &Credentials::Anonymous), Err(RequestError::NoBasicCredentials)));
        assert!(matches!(
            choose(&parse("Negotiate"), &Credentials::Anonymous),
            Err(RequestError::UnknownChallenge { .. })
        ));
    }

    #[test]
    fn token_answers_are_read_with_care() {
        let token = parse_token(br#"{"access_token":"abc","expires_in":1,"refresh_token":""}"#).unwrap();
        assert_eq!(token.header, "Bearer abc");
        assert_eq!(token.life, SHORTEST_LIFE);
        assert_eq!(token.refresh_token, None);
        assert!(parse_token(br#"{"token":""}"#).is_err());
        assert!(parse_token(br#"{"token":"a\nb"}"#).is_err());
        assert!(parse_token(b"<html>").is_err());
        assert!(parse_token(br#"{"token":"a","expires_in":18446744073709551615}"#).is_ok());
    }

    #[test]
    fn queries_are_encoded() {
        let mut url = Url::parse("https://auth.example.com/token?a=b").unwrap();
        add_query(&mut url, "r&d", "repository:a/b:pull", Some("me"), false);
        assert_eq!(
            url.as_str(),
            "https://auth.example.com/token?a=b&account=me&scope=repository%3Aa%2Fb%3Apull&service=r%26d"
        );
    }
}
