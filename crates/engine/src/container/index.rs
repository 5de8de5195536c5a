//! All containers in memory: found by id, name or prefix, listed without touching the disk.
//!
//! A [`Handle`] is the shared face of one container: what is known about it, how its life goes, and the queue of its
//! driver. Only the driver changes what is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::container::driver::Action;
use crate::container::view::Views;
use crate::container::{Details, Status};
use crate::{Class, Error, Result, names};

/// What waits look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Where it is.
    pub(crate) status: Status,
    /// Ends of runs since the daemon started.
    pub(crate) exits: u64,
    /// Code of the last end.
    pub(crate) exit_code: i32,
    /// It is gone.
    pub(crate) removed: bool,
    /// Why a removal that was promised failed.
    pub(crate) removal_error: Option<String>,
}

/// One container as everyone but its driver sees it.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Its id.
    pub(crate) id: String,
    details: RwLock<Arc<Details>>,
    /// How its life goes.
    pub(crate) life: watch::Sender<Life>,
    actions: mpsc::Sender<Box<Action>>,
    next_key: AtomicU64,
    promised: watch::Sender<usize>,
    /// Its files, while it does not run and somebody copies.
    pub(crate) views: Views,
}

/// How long a start waits for clients that were told that they are attached. Their connections need a turn of the
/// reactor to arrive; a client that never reads its answer must not hold the container up. That is given up before this is.
const PROMISE_PATIENCE: Duration = Duration::from_secs(2);

/// A client was told that it is attached and its connection is on the way: a start waits for it, since what the
/// container says first would be lost on that client. Kept or broken when dropped.
#[derive(Debug)]
pub(crate) struct Promise(Arc<Handle>);

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.promised.send_modify(|count| *count -= 1);
    }
}

impl Handle {
    /// A handle and the receiving end of its queue.
    pub(crate) fn new(details: impl Into<Arc<Details>>) -> (Arc<Self>, mpsc::Receiver<Box<Action>>) {
        const QUEUE: usize = 16;
        let details = details.into();
        let (actions, inbox) = mpsc::channel(QUEUE);
        let life =
            Life { status: details.state.status, exit_code: details.state.exit_code, ..Life::default() };
        let handle = Self {
            id: details.id.clone(),
            details: RwLock::new(details),
            life: watch::Sender::new(life),
            actions,
            next_key: AtomicU64::new(1),
            promised: watch::Sender::new(0),
            views: Views::default(),
        };
        (Arc::new(handle), inbox)
    }

    /// Announces a client; see [`Promise`].
    pub(crate) fn promise(self: &Arc<Self>) -> Promise {
        self.promised.send_modify(|count| *count += 1);
        Promise(Arc::clone(self))
    }

    /// Waits until the connections of all announced clients are with the driver.
    pub(crate) async fn promises_settled(&self) {
        let mut promised = self.promised.subscribe();
        // The sender lives as long as this handle, so the wait ends by the condition or by the clock.
        let _ = tokio::time::timeout(PROMISE_PATIENCE, promised.wait_for(|count| *count == 0)).await;
    }

    /// What is known now.
    pub(crate) fn details(&self) -> Arc<Details> {
        self.details.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what is known; for the driver.
    pub(crate) fn publish(&self, details: Arc<Details>) {
        *self.details.write().unwrap_or_else(PoisonError::into_inner) = details;
    }

    /// A number that names something at this container once.
    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Queues an action without waiting for its outcome. Waits while the queue is full.
    pub(crate) async fn send(&self, action: Action) -> Result<()> {
        self.actions.send(Box::new(action)).await.map_err(|_| self.gone())
    }

    /// Queues an action from code that can't wait; dropped when the queue is full.
    pub(crate) fn try_send(&self, action: Action) {
        if self.actions.try_send(Box::new(action)).is_err() {
            tracing::debug!(container = self.id, "an action came too late or too fast");
        }
    }

    /// Queues an action and waits for its outcome.
    pub(crate) async fn ask<T>(&self, action: impl FnOnce(Reply<T>) -> Action) -> Result<T> {
        let (reply, outcome) = oneshot::channel();
        self.send(action(reply)).await?;
        outcome.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> Error {
        Error::not_found(format!("No such container: {}", self.id))
    }
}

/// Where an action's outcome goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

#[derive(Debug, Default)]
struct Maps {
    by_id: BTreeMap<String, Arc<Handle>>,
    /// Names of containers and of those about to be made, with their ids.
    by_name: HashMap<String, String>,
}

/// All containers.
#[derive(Debug, Default)]
pub(crate) struct Index {
    maps: RwLock<Maps>,
}

impl Index {
    /// Takes a name for the container `id`, or makes one up. The name is free again when it is [released](Self::release).
    pub(crate) fn reserve_name(&self, wanted: Option<&str>, id: &str) -> Result<String> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        let name = match wanted {
            Some(name) => {
                if let Some(owner) = maps.by_name.get(name) {
                    return Err(Error::conflict(format!(
                        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to \
                         remove (or rename) that container to be able to reuse that name."
                    )));
                }
                name.to_owned()
            }
            None => names::generate(|name| maps.by_name.contains_key(name)),
        };
        maps.by_name.insert(name.clone(), id.to_owned());
        Ok(name)
    }

    /// Gives a name back, if it is this container's.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.by_name.get(name).is_some_and(|owner| owner == id) {
            maps.by_name.remove(name);
        }
    }

    /// Adds a container, whose name is reserved.
    pub(crate) fn insert(&self, handle: Arc<Handle>) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.insert(handle.id.clone(), handle);
    }

    /// Takes a container and its name out.
    pub(crate) fn remove(&self, id: &str) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.remove(id);
        maps.by_name.retain(|_, owner| owner != id);
    }

    /// All containers in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// Finds by full id, then by name (with or without slash), then by the beginning of an id.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Handle>> {
        let not_found = || Error::not_found(format!("No such container: {reference}"));
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = maps.by_id.get(reference) {
            return Ok(handle.clone());
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(handle) = maps.by_name.get(name).and_then(|id| maps.by_id.get(id)) {
            return Ok(handle.clone());
        }
        if reference.is_empty() {
            return Err(not_found());
        }
        let mut fitting =
            maps.by_id.range(reference.to_owned()..).take_while(|(id, _)| id.starts_with(reference));
        match (fitting.next(), fitting.next()) {
            (Some((_, only)), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Error::new(
                Class::InvalidParameter,
                format!("multiple IDs found with provided prefix: {reference}"),
            )),
            _ => Err(not_found()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(ids: &[(&str, &str)]) -> Index {
        let index = Index::default();
        for (id, name) in ids {
            index.reserve_name(Some(name), id).expect("free");
            let details = Details { id: (*id).into(), name: (*name).into(), ..Details::default() };
            index.insert(Handle::new(details).0);
        }
        index
    }

    #[test]
    fn finding() {
        let index = index(&[("abc1", "web"), ("abd2", "abc"), ("ffff", "db")]);
        let found =
            |text: &str| index.find(text).map(|handle| handle.id.clone()).map_err(|error| error.to_string());
        assert_eq!(found("web").as_deref(), Ok("abc1"));
        assert_eq!(found("/web").as_deref(), Ok("abc1"));
        assert_eq!(found("abc").as_deref(), Ok("abd2"), "a name wins over a prefix");
        assert_eq!(found("abd").as_deref(), Ok("abd2"));
        assert_eq!(found("ab").unwrap_err(), "multiple IDs found with provided prefix: ab");
        assert_eq!(found("x").unwrap_err(), "No such container: x");
        assert_eq!(found("").unwrap_err(), "No such container: ");
    }

    #[test]
    fn names_are_reserved() {
        let index = index(&[("abc1", "web")]);
        assert_eq!(
            index.reserve_name(Some("web"), "x").expect_err("taken").to_string(),
            "Conflict. The container name \"/web\" is already in use by container \"abc1\". You have to remove (or rename) \
             that container to be able to reuse that name."
        );
        index.remove("abc1");
        index.reserve_name(Some("web"), "x").expect("free again");
        index.release("web", "other");
        index.reserve_name(Some("web"), "y").expect_err("still taken");
        index.release("web", "x");
        index.reserve_name(Some("web"), "y").expect("free");
    }
}
