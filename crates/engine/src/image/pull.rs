//! Pulling from registries, and the credentials for them.

use std::sync::{Arc, Mutex, PoisonError};

use palan_oci::Reference;
use palan_registry::{Credentials, ProgressEvent, PullRequest, PushOutcome};
use tokio::sync::mpsc;

use super::{BACKLOG, Progress, PushedTag, event, give_memory_back, reference_error};
use crate::db::Change;
use crate::engine::Engine;
use crate::stream::Items;
use crate::{Class, Error, Result};

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// Token from an earlier login.
    pub identity_token: String,
    /// Bearer token to present to the registry as it is.
    pub registry_token: String,
    /// Registry the credentials are for.
    pub server_address: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullSpec {
    /// Image as typed, with tag or digest where given.
    pub reference: String,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Every tag of the repository.
    pub all_tags: bool,
}

/// Registries.
impl Engine {
    /// Pulls an image. Errors that come before the first progress are returned; later ones are the stream's last item.
    pub async fn pull(&self, spec: PullSpec) -> Result<Items<Progress>> {
        let reference = Reference::parse(&spec.reference).map_err(reference_error)?;
        if spec.all_tags && (reference.tag().is_some() || reference.digest().is_some()) {
            return Err(Error::invalid("tag can't be used with --all-tags/-a"));
        }
        let platform = spec.platform.as_deref().filter(|text| !text.is_empty());
        let platform = platform.map(crate::container::parse_platform).transpose()?;
        let request = PullRequest { reference, platform, credentials: credentials(spec.auth) };
        let (sender, items) = Items::channel(BACKLOG);
        tokio::spawn(pull(self.shared(), request, spec.all_tags, sender));
        items.begun().await
    }

    /// Checks credentials against their registry. Returns Docker's status line and an identity token where one is given.
    pub async fn login(&self, auth: Auth) -> Result<(String, String)> {
        let server = auth.server_address.clone();
        let outcome = self.registry.login(&server, &credentials(Some(auth))).await.map_err(registry_error)?;
        Ok(("Login Succeeded".into(), outcome.identity_token.unwrap_or_default()))
    }
}

async fn pull(
    engine: Arc<Engine>,
    request: PullRequest,
    all_tags: bool,
    sender: mpsc::Sender<Result<Progress>>,
) {
    let teller = Teller::new(&sender);
    let tell = |event| teller.tell(event);
    let work = async {
        if all_tags {
            engine.registry.pull_all_tags(&request, &engine.store, tell).await.map(drop)
        } else {
            engine.registry.pull(&request, &engine.store, tell).await.map(drop)
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome.map_err(registry_error),
        // Nobody waits for it any more: what has come is kept for the next pull.
        () = sender.closed() => return,
    };
    give_memory_back().await;
    teller.finish().await;
    let recorded = match outcome {
        Ok(()) => {
            let reference = if all_tags { request.reference } else { request.reference.or_latest() };
            let change =
                Change::new().event(event("pull", &reference.familiar(), &reference.familiar_name()));
            engine.db.commit(change).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The client may have gone.
        let _ = sender.send(Err(error)).await;
    }
}

/// Passes the news of a transfer on to a client that may be slow: it may miss a step of a bar, but no line.
pub(crate) struct Teller<'a> {
    sender: &'a mpsc::Sender<Result<Progress>>,
    late: Mutex<Vec<Result<Progress>>>,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(sender: &'a mpsc::Sender<Result<Progress>>) -> Self {
        Self { sender, late: Mutex::default() }
    }

    pub(crate) fn tell(&self, event: ProgressEvent) {
        let is_line = matches!(event, ProgressEvent::Message(_) | ProgressEvent::Pushed(_));
        if let Err(mpsc::error::TrySendError::Full(item)) = self.sender.try_send(Ok(progress(event)))
            && is_line
        {
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        }
    }

    /// Sends what the client was too slow for. It may have gone; the outcome stands.
    pub(crate) async fn finish(self) {
        for line in self.late.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = self.sender.send(line).await;
        }
    }
}

fn progress(event: ProgressEvent) -> Progress {
    match event {
        ProgressEvent::Started { reference, repository } => {
            Progress { id: reference, status: format!("Pulling from {repository}"), ..Progress::default() }
        }
        ProgressEvent::Layer { id, status } => {
            let (current, total) = status.progress().unzip();
            Progress { id, status: status.to_string(), current, total, ..Progress::default() }
        }
        ProgressEvent::Upload { id, status } => {
            let (current, total) = status.progress().unzip();
            Progress { id, status: status.to_string(), current, total, ..Progress::default() }
        }
        ProgressEvent::Pushed(pushed) => {
            let PushOutcome { tag, digest, size } = pushed;
            let pushed = PushedTag { tag, digest: digest.to_string(), size };
            Progress { pushed: Some(pushed), ..Progress::default() }
        }
        ProgressEvent::Message(status) => Progress { status, ..Progress::default() },
    }
}

pub(crate) fn credentials(auth: Option<Auth>) -> Credentials {
    let Some(auth) = auth else { return Credentials::Anonymous };
    if !auth.registry_token.is_empty() {
        return Credentials::RegistryToken(auth.registry_token);
    }
    if !auth.identity_token.is_empty() {
        let username = Some(auth.username).filter(|name| !name.is_empty());
        return Credentials::IdentityToken { username, token: auth.identity_token };
    }
    if auth.username.is_empty() && auth.password.is_empty() {
        return Credentials::Anonymous;
    }
    Credentials::Password { username: auth.username, password: auth.password }
}

pub(crate) fn registry_error(error: palan_registry::RegistryError) -> Error {
    let class = match error.class() {
        palan_registry::Class::NotFound => Class::NotFound,
        palan_registry::Class::Unauthorized => Class::Unauthorized,
        palan_registry::Class::Invalid => Class::InvalidParameter,
        palan_registry::Class::Unavailable => Class::Unavailable,
        palan_registry::Class::System => Class::System,
    };
    Error::new(class, palan_stdx::error_chain::to_string(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_by_precedence() {
        let auth = |username: &str, password: &str, identity: &str| Auth {
            username: username.into(),
            password: password.into(),
            identity_token: identity.into(),
            ..Auth::default()
        };
        assert!(matches!(credentials(Some(auth("u", "p", ""))), Credentials::Password { .. }));
        assert!(matches!(credentials(Some(auth("u", "p", "t"))), Credentials::IdentityToken { .. }));
        assert!(matches!(credentials(Some(auth("", "", ""))), Credentials::Anonymous));
        assert!(matches!(credentials(None), Credentials::Anonymous));
    }
}
