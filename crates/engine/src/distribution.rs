//! Requests that go to registries and are no pull: push.

use std::sync::Arc;

use palan_oci::{Platform, Reference};
use palan_registry::PushRequest;
use tokio::sync::mpsc;

use crate::db::Change;
use crate::engine::Engine;
use crate::image::{
    Auth, BACKLOG, Progress, Teller, credentials, event, give_memory_back, reference_error, registry_error,
};
use crate::stream::Items;
use crate::{Error, Result};

/// What to push.
#[derive(Debug, Clone, Default)]
pub struct PushSpec {
    /// The repository as typed; a tag in it counts where `tag` is empty.
    pub name: String,
    /// The tag; every tag of the repository where it is empty.
    pub tag: String,
    /// The platform that the image must be for.
    pub platform: Option<Platform>,
    /// Credentials.
    pub auth: Option<Auth>,
}

impl Engine {
    /// Pushes an image or all tags of a repository. Errors that come before the first progress are returned; later ones are
    /// the stream's last item.
    pub async fn push(&self, spec: PushSpec) -> Result<Items<Progress>> {
        let mut reference = Reference::parse(&spec.name).map_err(reference_error)?;
        if !spec.tag.is_empty() {
            reference = reference.with_tag(&spec.tag).map_err(reference_error)?;
        }
        if reference.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let request = PushRequest { reference, platform: spec.platform, credentials: credentials(spec.auth) };
        let (sender, items) = Items::channel(BACKLOG);
        tokio::spawn(push(self.shared(), request, sender));
        items.begun().await
    }
}

async fn push(engine: Arc<Engine>, request: PushRequest, sender: mpsc::Sender<Result<Progress>>) {
    let teller = Teller::new(&sender);
    let tell = |event| teller.tell(event);
    let work = async {
        if request.reference.tag().is_none() {
            engine.registry.push_all_tags(&request, &engine.store, tell).await.map(drop)
        } else {
            engine.registry.push(&request, &engine.store, tell).await.map(drop)
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome.map_err(registry_error),
        // Nobody waits for it any more: what has come is there for the next push.
        () = sender.closed() => return,
    };
    give_memory_back().await;
    teller.finish().await;
    let recorded = match outcome {
        Ok(()) => {
            let name = request.reference.familiar();
            let change = Change::new().event(event("push", &name, &request.reference.familiar_name()));
            engine.db.commit(change).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The client may have gone.
        let _ = sender.send(Err(error)).await;
    }
}
